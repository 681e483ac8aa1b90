// SPDX-License-Identifier: Apache-2.0

package h1

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weftmesh/weft/connect/proxy/header"
	"github.com/weftmesh/weft/connect/proxy/stream"
	"github.com/weftmesh/weft/internal/guard"
)

// exchangeFacts are what a response's form depends on; the handler may change the request's head.
type exchangeFacts struct {
	head, connect, http10, expects bool
}

// serverConn is a served connection and, as there is one at a time, its exchange.
type serverConn struct {
	config ServerConfig
	conn   net.Conn
	base   context.Context
	state  ConnState
	served int
	until  time.Time // the idle connection's end; zero: not known yet, or never

	rd      reader
	wr      writer
	framing framing
	request stream.RequestHead
	body    body
	facts   exchangeFacts
	length  int64 // of the request's body, negative where it isn't known
	upgrade string
	closing bool // the connection ends with this exchange

	aborted atomic.Bool // Reset was called
	broken  atomic.Bool // the request's body was cut or malformed

	mu       sync.Mutex
	expect   bool // the client waits for 100 (Continue)
	ctx      context.Context
	cancel   context.CancelCauseFunc
	lost     error // why the peer is known to be gone
	watched  bool  // the exchange's Context was asked for
	bodyDone bool  // nothing else reads
	timer    *time.Timer
	armed    bool // the timer may start a watch
	watching bool // a watch reads
	watchEnd *sync.Cond
}

func (s *serverConn) begin(h *stream.RequestHead) {
	s.facts = exchangeFacts{
		head: h.Method == "HEAD", connect: h.Method == "CONNECT", http10: s.framing.http10, expects: h.ExpectContinue,
	}
	s.upgrade, s.length = h.Upgrade, h.Length
	s.closing = !s.framing.persists()
	s.broken.Store(false)
	switch {
	case h.Length < 0:
		s.body.start(bodyChunked, 0)
	case h.Length == 0:
		s.body.start(bodyNone, 0)
	default:
		s.body.start(bodyLength, h.Length)
	}
	s.wr.begin()
	s.mu.Lock()
	s.expect, s.watched, s.bodyDone = h.ExpectContinue, false, s.body.done
	s.mu.Unlock()
}

// Request is stream.ServerExchange's.
func (s *serverConn) Request() *stream.RequestHead { return &s.request }

// ReadBody is stream.Body's. The first call sends the 100 (Continue) that the client waits for.
func (s *serverConn) ReadBody(p []byte) (int, error) {
	if s.facts.expects {
		if err := s.sendContinue(); err != nil {
			return 0, err
		}
	}
	n, err := s.body.read(p)
	if s.body.done || s.body.err != nil {
		s.bodyOver()
	}
	return n, err
}

func (s *serverConn) sendContinue() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.expect {
		return nil
	}
	s.expect = false
	if s.rd.buffered() > 0 {
		return nil // the client didn't wait (RFC 9110 §10.1.1)
	}
	s.wr.borrow()
	s.wr.buf = append(s.wr.buf, "HTTP/1.1 100 Continue\r\n\r\n"...)
	return s.wr.flush()
}

func (s *serverConn) bodyOver() {
	if s.body.err != nil {
		s.broken.Store(true)
		return
	}
	if s.body.kind == bodyRaw {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.bodyDone {
		s.bodyDone = true
		s.armLocked()
	}
}

// Trailers is stream.Body's.
func (s *serverConn) Trailers() *header.List { return s.body.ended() }

// Buffered is stream.Body's.
func (s *serverConn) Buffered() int { return s.body.available() }

// WriteInformational is stream.ServerExchange's. It is flushed at once, and left out for HTTP/1.0.
func (s *serverConn) WriteInformational(h *stream.ResponseHead) error {
	if h.Status < 100 || h.Status > 199 || h.Status == 101 {
		return errNotInformational
	}
	if s.facts.http10 {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.wr.started {
		return errHeadTwice
	}
	if h.Status == 100 {
		if s.facts.expects && !s.expect {
			return nil // it was sent
		}
		s.expect = false
	}
	if err := s.wr.responseHead(h, &s.facts, true, ""); err != nil {
		return err
	}
	s.wr.begin()
	return s.wr.flush()
}

var (
	errNotInformational = &usageError{"an informational head whose status isn't 1xx, or is 101"}
	errStatus           = &usageError{"a status that isn't of three digits, or is informational"}
	errNoUpgrade        = &usageError{"an upgrade that the client did not ask for"}
	errUpgradeBody      = &usageError{"an upgrade before the request's body was read"}
)

// WriteHead is stream.ServerExchange's. After an upgrade (101, a 200 that answers an extended CONNECT on the other side,
// 2xx to CONNECT) it has flushed, and from then on ReadBody and WriteBody carry raw bytes; no ReadBody may be under way
// when it is called for one.
func (s *serverConn) WriteHead(h *stream.ResponseHead, end bool) error {
	switch {
	case s.wr.err != nil:
		return s.wr.err
	case s.wr.started:
		return errHeadTwice
	case h.Status == 101 || s.upgrade != "" && h.Upgrade != "" && h.Status == 200:
		return s.writeUpgrade(h)
	case h.Status < 200 || h.Status > 999:
		return errStatus
	}
	s.decideClose(h)
	tunnel := s.facts.connect && h.Status < 300
	if tunnel {
		s.closing = false
	} else if s.facts.http10 && !end && h.Length <= 0 && !h.HasLength {
		s.closing = true // the body ends with the connection
	}
	option := ""
	switch {
	case s.closing:
		option = "close"
	case s.facts.http10:
		option = "keep-alive"
	}
	if err := s.wr.responseHead(h, &s.facts, end, option); err != nil {
		return err
	}
	s.wr.started = true
	if tunnel {
		return s.startTunnel()
	}
	if end {
		return s.wr.finish(nil)
	}
	return nil
}

// decideClose takes in all that makes this exchange the connection's last.
func (s *serverConn) decideClose(h *stream.ResponseHead) {
	unsent, unread := false, false
	if s.facts.expects {
		s.mu.Lock()
		unsent, s.expect = s.expect, false
		s.mu.Unlock()
	}
	if h.Status >= 400 && s.length > discardBytes { // a refusal, of more than is read away
		s.mu.Lock()
		unread = !s.bodyDone
		s.mu.Unlock()
	}
	// Bytes sent ahead of an upgrade that isn't granted may be the other protocol's: they are never read as requests.
	s.closing = s.closing || unsent || unread || s.upgrade != "" && !guard.Off("C53") || s.facts.connect || s.broken.Load() || s.draining() ||
		s.config.MaxRequestsPerConn > 0 && s.served >= s.config.MaxRequestsPerConn
}

func (s *serverConn) writeUpgrade(h *stream.ResponseHead) error {
	switch {
	case s.upgrade == "" || !header.EqualFold(h.Upgrade, s.upgrade):
		return errNoUpgrade
	case !s.body.done:
		return errUpgradeBody
	}
	switching := *h
	switching.Status = 101
	if err := s.wr.responseHead(&switching, &s.facts, true, ""); err != nil {
		return err
	}
	s.wr.started = true
	return s.startTunnel()
}

func (s *serverConn) startTunnel() error {
	s.stopWatch()
	s.mu.Lock()
	s.watched, s.bodyDone = false, false
	s.mu.Unlock()
	_ = s.conn.SetReadDeadline(time.Time{})
	s.body.start(bodyRaw, 0)
	s.wr.kind, s.wr.muted = bodyRaw, false
	s.setState(StateTunnel)
	return s.wr.flush()
}

// WriteBody is stream.ServerExchange's.
func (s *serverConn) WriteBody(p []byte) error { return s.wr.body(p) }

// Flush is stream.ServerExchange's.
func (s *serverConn) Flush() error { return s.wr.flush() }

// Finish is stream.ServerExchange's.
func (s *serverConn) Finish(trailers *header.List) error {
	if s.wr.kind != bodyRaw || s.wr.ended {
		return s.wr.finish(trailers)
	}
	if err := s.wr.finish(nil); err != nil {
		return err
	}
	return closeWrite(s.conn)
}

// Reset is stream.ServerExchange's: the connection is reset. It may be called by any goroutine.
func (s *serverConn) Reset(stream.Code) {
	if s.aborted.CompareAndSwap(false, true) {
		abort(s.conn)
		s.lose(errReset)
	}
}
