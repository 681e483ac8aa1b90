// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/weftmesh/weft/connect/proxy/calm"
	"github.com/weftmesh/weft/connect/proxy/stream"
)

// ServerConfig says how to serve a connection. The zero value is the default.
type ServerConfig struct {
	// Prefix is what was already read from the connection, from its first byte on: none, a part of the client's preface,
	// or more. The server keeps it only until it is read.
	Prefix []byte
	Limits stream.Limits
	Floods Floods
	// PrefaceTimeout is for the client's preface and SETTINGS. Default 10 s.
	PrefaceTimeout time.Duration
	// IdleTimeout drains a connection without a request for that long, at most twice that. Default: never.
	IdleTimeout time.Duration
	// WriteTimeout ends a connection whose peer takes no bytes for that long, or half as long again. Default 30 s.
	WriteTimeout time.Duration
	// PingEvery sends PING on a connection from which nothing came for that long, and PingTimeout (default 10 s) ends it
	// when nothing comes after that either. Default: no PING.
	PingEvery, PingTimeout time.Duration
	// RestAfter, where it is positive, is how long nothing moves on a connection without a stream, or half as long again, until Run gives
	// it back with a *Rest. With PingEvery it isn't.
	RestAfter time.Duration
	// Do runs a request's handler in another goroutine than the caller's; it doesn't wait for it. Default: a new goroutine.
	Do func(func())
	// Yield gives the processor to all others that are ready, or have got something from the network, and returns then. It is called after
	// each turn of a connection on which much comes at once. Default: runtime.Gosched, which doesn't look at the network.
	Yield func()
	// Refusals is what a client waits in that breaks the protocol or asks for too much, before it is told and the connection ends; nil: it doesn't wait.
	Refusals *calm.Queue
}

const (
	defaultPreface  = 10 * time.Second
	defaultWrite    = 30 * time.Second
	defaultPingWait = 10 * time.Second
	drainWait       = time.Second // for the answer to the PING that follows the first GOAWAY
)

func orDefault(d, def time.Duration) time.Duration {
	if d <= 0 {
		return def
	}
	return d
}

// Server is the server's side of one connection.
type Server struct {
	conn
	handler stream.Handler
	do      func(func())
	preface time.Duration
	idle    time.Duration
	resting
	untaking
	// Guarded by conn.mu.
	maxID      uint32 // the highest stream that the client opened
	lastID     uint32 // with drained: the highest that is served
	handlers   int
	served     uint64
	greeted    bool // SETTINGS are out
	drainFirst bool // Drain was called before that
	draining   bool // the first GOAWAY is out
	drained    bool // the last one
	drainer    *time.Timer
	idler      *time.Timer
	idleAt     time.Time // when the idler looks
	idleSeen   uint64    // served, at its last look
}

// Serve serves the connection until it ends: NewServer and Run in one, for who needs no Drain.
func Serve(ctx context.Context, nc net.Conn, cfg ServerConfig, handler stream.Handler) error {
	s, err := NewServer(nc, cfg, handler)
	if err != nil {
		return err
	}
	return s.Run(ctx)
}

// NewServer makes a server of nc, which it owns from then on. It starts nothing and neither reads nor writes.
func NewServer(nc net.Conn, cfg ServerConfig, handler stream.Handler) (*Server, error) {
	if nc == nil || handler == nil {
		return nil, errors.New("h2: a server needs a connection and a handler")
	}
	s := &Server{handler: handler, do: cfg.Do}
	s.conn.role, s.conn.server = s, true
	s.setup(nc, cfg.Prefix, cfg.Limits.WithDefaults(), cfg.Floods.withDefaults(), orDefault(cfg.WriteTimeout, defaultWrite))
	if cfg.Yield != nil {
		s.yield = cfg.Yield
	}
	s.refusals = cfg.Refusals
	s.preface, s.idle = orDefault(cfg.PrefaceTimeout, defaultPreface), cfg.IdleTimeout
	if cfg.RestAfter > 0 && cfg.PingEvery <= 0 {
		s.restAfter, s.br.late = cfg.RestAfter, s.late
	}
	s.pingEvery, s.pingWait = cfg.PingEvery, orDefault(cfg.PingTimeout, defaultPingWait)
	return s, nil
}

// Run serves until the client goes away, the connection breaks, a drain is done or ctx ends, closes the connection and
// returns when every handler has returned. It is nil for a client that closed and for a drain that is done; ctx's cause; a
// *ConnError for a breach of the protocol; ErrTimeout; else what the connection said. When ctx ends, open exchanges fail:
// Drain first, and end ctx later, to let them finish. Run is called once, and once more after each *Rest that it gives: then the connection
// is open.
func (s *Server) Run(ctx context.Context) error {
	begin := s.hello
	if s.rested() {
		begin = s.goOn
	}
	err := s.run(ctx, begin)
	s.stopTimers()
	if err == errRests {
		return s.letGo()
	}
	return err
}

func (s *Server) stopTimers() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range []*time.Timer{s.drainer, s.idler, s.rester, s.letting} {
		if t != nil {
			t.Stop()
		}
	}
	s.rester, s.letting = nil, nil
}

func (s *Server) hello() error {
	s.w.settings(
		http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: uint32(s.lim.Streams)},
		http2.Setting{ID: http2.SettingInitialWindowSize, Val: uint32(s.streamWindow)},
		http2.Setting{ID: http2.SettingMaxHeaderListSize, Val: uint32(s.lim.HeadBytes)},
		http2.Setting{ID: http2.SettingEnableConnectProtocol, Val: 1},
	)
	if more := s.recvWin - defaultWindow; more > 0 {
		s.w.windowUpdate(0, more)
	}
	s.w.kick()
	s.mu.Lock()
	s.greeted = true
	drain := s.drainFirst
	s.mu.Unlock()
	if drain {
		s.Drain()
	}
	s.readBy(time.Now().Add(s.preface))
	var got [len(preface)]byte
	n, err := io.ReadFull(&s.br, got[:])
	if string(got[:n]) != preface[:n] {
		return broken(stream.CodeProtocol, "the connection doesn't begin with the preface of HTTP/2")
	}
	if err != nil {
		return err
	}
	s.idleAt = time.Now().Add(s.idle)
	s.startTimers()
	return nil
}

// startTimers begins to look for the time when the connection has been idle for long, or is to rest.
func (s *Server) startTimers() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.idle > 0 {
		s.idler = time.AfterFunc(time.Until(s.idleAt), s.watchIdle)
	}
	if s.restAfter > 0 {
		s.rester = time.AfterFunc(s.restAfter, s.lookForRest)
	}
}

func (s *Server) watchIdle() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopErr != nil || s.asleep {
		return
	}
	if s.served == s.idleSeen && s.handlers == 0 {
		go s.Drain()
		return
	}
	s.idleSeen, s.idleAt = s.served, time.Now().Add(s.idle)
	s.idler.Reset(s.idle)
}

// Drain lets the connection end in order: the client is told to open no more streams (GOAWAY with the highest possible
// id, then, when it has seen that or a second later, with the last one that is served), and Run returns nil when the
// open ones are done. It doesn't wait and may be called more than once. A connection that rests drains as soon as Run is called.
func (s *Server) Drain() {
	s.mu.Lock()
	if s.draining || s.stopErr != nil || !s.greeted || s.asleep {
		s.drainFirst = true
		s.mu.Unlock()
		return
	}
	s.draining = true
	s.drainer = time.AfterFunc(drainWait, s.lastCall)
	s.mu.Unlock()
	s.w.goAway(maxStreamID, stream.CodeNone, "")
	s.w.simple(http2.FramePing, 0, 0, drainPing[:])
	s.w.kick()
}

var drainPing = [8]byte{'w', 'e', 'f', 't', '-', 'b', 'y', 'e'}

func (s *Server) pong(data [8]byte) {
	s.mu.Lock()
	ours := s.draining && data == drainPing
	s.mu.Unlock()
	if ours {
		s.lastCall()
	}
}

// lastCall fixes the last stream.
func (s *Server) lastCall() {
	s.mu.Lock()
	if s.drained || s.stopErr != nil {
		s.mu.Unlock()
		return
	}
	s.drained, s.lastID = true, s.maxID
	last := s.lastID
	s.mu.Unlock()
	s.w.goAway(last, stream.CodeNone, "")
	s.w.kick()
	s.mu.Lock()
	s.doneLocked()
	s.mu.Unlock()
}

func (s *Server) lastLocked() uint32 {
	if s.drained {
		return s.lastID
	}
	return s.maxID
}

// doneLocked ends a drained connection that has nothing left to do.
func (s *Server) doneLocked() {
	if s.drained && s.handlers == 0 && len(s.streams) == 0 {
		s.stopLocked(errDone)
	}
}

func (s *Server) expect(id uint32) (headKind, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.streams[id]; e != nil {
		if e.recvEnd {
			return ignored, nil
		}
		return trailer, nil
	}
	switch {
	case id%2 == 0:
		return ignored, broken(stream.CodeProtocol, "a client opens a stream with an even id")
	case id > s.maxID && !s.drained:
		return request, nil
	case id > s.maxID:
		return ignored, nil
	}
	switch s.endedHowLocked(id) {
	case endedNot:
		return ignored, broken(stream.CodeProtocol, "a stream is opened below one that was opened before")
	case endedByUs:
		return ignored, nil
	}
	return ignored, broken(stream.CodeStreamClosed, "HEADERS on a stream that has ended")
}

func (s *Server) head(id uint32, kind headKind, end bool) error {
	s.mu.Lock()
	e := s.streams[id]
	s.mu.Unlock()
	switch {
	case kind == trailer && e != nil:
		return s.onTrailers(e, end)
	case kind != request && e != nil:
		return badStream(id, stream.CodeStreamClosed, "HEADERS after the end of the stream")
	case kind != request:
		s.mu.Lock()
		if id > s.maxID {
			s.maxID = id
			s.noteEndedLocked(id, endedByUs)
		}
		s.mu.Unlock()
		return s.spend(1)
	}
	return s.open(id, end)
}

// servers keeps exchanges that ended in order, with the room of their lists.
var servers = sync.Pool{New: func() any {
	e := &serverExch{}
	e.srv = e
	return e
}}

// open begins a request.
func (s *Server) open(id uint32, end bool) error {
	e := servers.Get().(*serverExch)
	bad := ""
	if !s.in.tooLarge {
		bad = s.in.request(&e.req, end)
	}
	s.mu.Lock()
	s.maxID = id
	switch {
	case s.drained: // while the head came: the client was told that this stream isn't served
		s.noteEndedLocked(id, endedByUs)
		s.mu.Unlock()
		e.recycle()
		return s.spend(1)
	case s.in.tooLarge:
		s.noteEndedLocked(id, endedByUs)
		s.mu.Unlock()
		servers.Put(e)
		return s.tooLarge(id, end)
	case bad != "" || len(s.streams) >= s.lim.Streams || s.handlers >= 2*s.lim.Streams:
		code := stream.CodeProtocol
		if bad == "" {
			code, bad = stream.CodeRefused, "too many streams"
		}
		s.noteEndedLocked(id, endedByUs)
		s.mu.Unlock()
		e.recycle()
		return badStream(id, code, bad)
	}
	e.init(&s.conn)
	e.id, e.open, e.recvEnd = id, true, end
	e.isHead = e.req.Method == "HEAD"
	e.opened = time.Now()
	e.sendWin, e.recvWin = s.peerInit, s.windowLocked()
	if s.in.hasLength {
		e.remain = s.in.length
	}
	if e.remain > 0 && end {
		s.noteEndedLocked(id, endedByUs)
		s.mu.Unlock()
		e.recycle()
		return badStream(id, stream.CodeProtocol, "content-length without a body")
	}
	s.streams[id] = &e.exch
	s.conn.open.Add(1)
	s.handlers++
	s.served++
	s.control.earn(controlPerHead)
	s.mu.Unlock()
	if e.req.Upgrade == "websocket" {
		addKey(&e.req)
	}
	s.wg.Add(1)
	s.fresh = append(s.fresh, e)
	return nil
}

// windowLocked is how much a peer may send on a new stream: until it has seen our SETTINGS it goes by the default.
func (c *conn) windowLocked() int {
	if c.acked {
		return c.streamWindow
	}
	return max(c.streamWindow, defaultWindow)
}

// addKey gives a websocket's request the field that HTTP/1.1 wants and HTTP/2 doesn't carry.
func addKey(h *stream.RequestHead) {
	var key [16]byte
	_, _ = rand.Read(key[:])
	h.Fields.Set("sec-websocket-key", base64.StdEncoding.EncodeToString(key[:]))
}

// tooLarge answers 431 for a head over its limits, with no handler.
func (s *Server) tooLarge(id uint32, end bool) error {
	s.mu.Lock()
	err := s.wasteLocked()
	s.mu.Unlock()
	if err != nil {
		return err
	}
	s.w.mu.Lock()
	s.w.block.Reset()
	_ = s.w.enc.WriteField(hpack.HeaderField{Name: ":status", Value: "431"})
	_ = s.w.enc.WriteField(hpack.HeaderField{Name: "content-length", Value: "0"})
	s.w.headers(id, true)
	s.w.mu.Unlock()
	s.answered = true
	if end {
		return nil
	}
	return s.reply(http2.FrameRSTStream, 0, id, make([]byte, 4))
}

// start has the request handled, unless the client has taken it back already: nothing is done for that. One that is to wait with others is
// begun later, unless let says that its time has come. It says whether the request was taken back and its memory is free; for the reader, which
// alone can know that it doesn't hold it.
func (s *Server) start(e *serverExch, let bool) (free bool) {
	s.mu.Lock()
	switch s.judgeLocked(e, let) {
	case gone:
		e.dead = true
		s.giveUnreadLocked(e.in.drop())
		s.handlers--
		s.doneLocked()
		free = e.told && !e.queued && !e.in.filling
		s.mu.Unlock()
		s.wg.Done()
		return free
	case waits:
		s.holdLocked(e)
		s.mu.Unlock()
		return false
	}
	s.mu.Unlock()
	if e.run == nil {
		e.run = e.serve
	}
	if s.do != nil {
		s.do(e.run)
		return false
	}
	go e.run()
	return false
}

func (e *serverExch) serve() {
	s := e.c.role.(*Server)
	defer s.wg.Done()
	s.handler(e)
	reuse := s.release(&e.exch, stream.CodeInternal)
	s.mu.Lock()
	s.takenLocked(e, true)
	s.handlers--
	s.doneLocked()
	others := len(s.held) > 0
	s.mu.Unlock()
	if reuse {
		e.recycle()
	}
	if others {
		s.letSome()
	}
}

func (s *Server) idleLocked(id uint32) bool       { return id > s.maxID || id%2 == 0 }
func (s *Server) removedLocked(*exch)             { s.doneLocked() }
func (s *Server) settings()                       {}
func (s *Server) goAway(*http2.GoAwayFrame) error { return nil }

func (s *Server) lostLocked(_ *exch, _ uint64, cause error) error {
	return fmt.Errorf("the client's connection is gone: %w", cause)
}

// serverExch implements stream.ServerExchange.
type serverExch struct {
	exch
	req     stream.RequestHead
	isHead  bool
	begun   bool   // guarded by conn.mu: a handler has it
	untaken bool   // guarded by conn.mu: counted in Server.untaken
	run     func() // has it served; made once
}

func (e *serverExch) recycle() {
	e.req.Reset()
	e.isHead, e.begun, e.untaken = false, false, false
	e.clear()
	servers.Put(e)
}

// Request implements stream.ServerExchange.
func (e *serverExch) Request() *stream.RequestHead { return &e.req }

// WriteInformational implements stream.ServerExchange.
func (e *serverExch) WriteInformational(h *stream.ResponseHead) error {
	if h.Status < 100 || h.Status > 199 || h.Status == 101 {
		return fmt.Errorf("%w: %d is no informational status of HTTP/2", stream.ErrMalformed, h.Status)
	}
	if err := e.c.w.response(&e.exch, h, false); err != nil {
		return e.c.lostWindow(&e.exch, 0, err)
	}
	return e.c.w.flush()
}

// WriteHead implements stream.ServerExchange. Status 101 is for a request with Upgrade set, and leaves as 200.
func (e *serverExch) WriteHead(h *stream.ResponseHead, end bool) error {
	switch {
	case h.Status < 200 && (h.Status != 101 || e.req.Upgrade == ""), h.Status > 999:
		return fmt.Errorf("%w: status %d can't end the head here", stream.ErrMalformed, h.Status)
	case e.wroteHead:
		return fmt.Errorf("%w: a second final head", stream.ErrMalformed)
	}
	e.wroteHead = true
	e.noBody = e.isHead || h.Status == 204 || h.Status == 304
	end = end || e.noBody
	if !e.noBody && h.Status != 101 && h.Length >= 0 && (h.HasLength || h.Length > 0) {
		e.left = h.Length
		if end && e.left > 0 {
			return fmt.Errorf("%w: a length of %d and no body", stream.ErrMalformed, e.left)
		}
	}
	if err := e.c.w.response(&e.exch, h, end); err != nil {
		return e.c.lostWindow(&e.exch, 0, err)
	}
	if end {
		e.c.sent(&e.exch)
	}
	return nil
}

var _ stream.ServerExchange = (*serverExch)(nil)
