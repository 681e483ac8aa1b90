// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"sync"
	"time"

	"golang.org/x/net/http2"

	"github.com/weftmesh/weft/connect/proxy/stream"
)

// ClientConfig says how to use a connection. The zero value is the default.
type ClientConfig struct {
	// Limits.Streams is the most that is open at once, if the server allows as many.
	Limits stream.Limits
	Floods Floods
	// SettingsTimeout is for the server's first SETTINGS. Default 10 s.
	SettingsTimeout time.Duration
	// OnSettled, if set, is called once by Run when the server's first SETTINGS have come: only then is it known that the server has taken the
	// connection, and that it speaks HTTP/2.
	OnSettled func()
	// WriteTimeout ends a connection whose peer takes no bytes for that long, or half as long again. Default 30 s.
	WriteTimeout time.Duration
	// PingEvery sends PING on a connection from which nothing came for that long, and PingTimeout (default 10 s) ends it
	// when nothing comes after that either. Default: no PING.
	PingEvery, PingTimeout time.Duration
}

// Streams that a client opens before it knows the server's limit.
const streamsUntilTold = 100

// Client is the client's side of one connection: exchanges are opened on it until it goes away. Its methods may be called
// by several goroutines.
type Client struct {
	conn
	settingsWait time.Duration
	onSettled    func()
	done         chan struct{}

	// Guarded by conn.mu.
	changed    sync.Cond // a slot is free, settings came, or the connection ends
	nextID     uint32
	peerMax    uint32
	told       bool  // the server has stated peerMax
	settled    bool  // the server's first SETTINGS came
	canConnect bool  // SETTINGS_ENABLE_CONNECT_PROTOCOL
	used       int   // exchanges opened and not ended
	going      error // why no exchange may be opened any more
	running    bool
}

// NewClient makes a client of nc, which it owns from then on. It starts nothing and writes nothing: the caller runs Run in
// a goroutine of its own. Exchanges may be opened before that.
func NewClient(nc net.Conn, cfg ClientConfig) (*Client, error) {
	if nc == nil {
		return nil, errors.New("h2: a client needs a connection")
	}
	c := &Client{nextID: 1, peerMax: streamsUntilTold, done: make(chan struct{})}
	c.changed.L = &c.mu
	c.conn.role = c
	c.setup(nc, nil, cfg.Limits.WithDefaults(), cfg.Floods.withDefaults(), orDefault(cfg.WriteTimeout, defaultWrite))
	c.settingsWait, c.onSettled = orDefault(cfg.SettingsTimeout, defaultPreface), cfg.OnSettled
	c.pingEvery, c.pingWait = cfg.PingEvery, orDefault(cfg.PingTimeout, defaultPingWait)
	c.w.preface()
	c.w.settings(
		http2.Setting{ID: http2.SettingEnablePush, Val: 0},
		http2.Setting{ID: http2.SettingInitialWindowSize, Val: uint32(c.streamWindow)},
		http2.Setting{ID: http2.SettingMaxHeaderListSize, Val: uint32(c.lim.HeadBytes)},
	)
	if more := c.recvWin - defaultWindow; more > 0 {
		c.w.windowUpdate(0, more)
	}
	return c, nil
}

// Run is the connection's reader. It returns when the connection has ended (the server closed it or went away and the
// open exchanges are done, Close, Drain, ctx, or a failure), with every goroutine of the connection ended and the
// connection closed: nil when the server closed or this side drained, else why. Run is called once.
func (c *Client) Run(ctx context.Context) error {
	c.mu.Lock()
	if c.lost || c.running {
		c.mu.Unlock()
		return ErrClosed
	}
	c.running = true
	c.mu.Unlock()
	defer close(c.done)
	err := c.run(ctx, func() error {
		c.readBy(time.Now().Add(c.settingsWait))
		c.w.kick()
		return nil
	})
	var told *ConnError
	if errors.Is(err, ErrClosed) && !(errors.As(err, &told) && told.Code != stream.CodeNone) {
		return nil
	}
	return err
}

// Close ends the connection at once: open exchanges fail. It doesn't wait for Run.
func (c *Client) Close() {
	c.mu.Lock()
	c.refuseLocked(ErrClosed)
	c.stopLocked(ErrClosed)
	orphan := !c.running && !c.lost
	c.mu.Unlock()
	if orphan {
		c.lose(ErrClosed)
		_ = c.nc.Close()
		close(c.done)
	}
}

// Drain lets no more exchanges begin; the connection ends when the open ones have. It doesn't wait.
func (c *Client) Drain() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refuseLocked(ErrClosed)
}

// Closed is closed when the connection has ended. See Usable for whether it takes more exchanges.
func (c *Client) Closed() <-chan struct{} { return c.done }

// Usable says whether exchanges can be opened, now or when others have ended: the server has said no GOAWAY, and neither
// Drain nor Close was called.
func (c *Client) Usable() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.going == nil && !c.lost
}

// Available is how many exchanges Open would give without waiting; 0 when the connection isn't usable.
func (c *Client) Available() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.going != nil || c.lost {
		return 0
	}
	return max(0, c.maxLocked()-c.used)
}

// Busy says whether exchanges are open.
func (c *Client) Busy() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.used > 0
}

// Open gives an exchange, and waits where the server's limit is reached. Its error is always a stream.ErrNotSent: the
// connection takes no more exchanges, or ctx ended. ctx is not used once Open has returned.
func (c *Client) Open(ctx context.Context) (stream.ClientExchange, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.going == nil && !c.lost && c.used >= c.maxLocked() {
		if err := context.Cause(ctx); err != nil {
			return nil, fmt.Errorf("%w: no free stream: %w", stream.ErrNotSent, err)
		}
		c.waitLocked(ctx)
	}
	if err := c.goneLocked(); err != nil {
		return nil, err
	}
	c.used++
	e := clients.Get().(*clientExch)
	e.init(&c.conn)
	e.slot = true
	return e, nil
}

func (c *Client) maxLocked() int { return int(min(c.peerMax, uint32(c.lim.Streams))) }

func (c *Client) waitLocked(ctx context.Context) {
	unhook := context.AfterFunc(ctx, func() {
		c.mu.Lock()
		c.changed.Broadcast()
		c.mu.Unlock()
	})
	c.changed.Wait()
	unhook()
}

// goneLocked is why no stream can begin, or nil.
func (c *Client) goneLocked() error {
	switch {
	case c.going != nil:
		return fmt.Errorf("%w: %w", stream.ErrNotSent, c.going)
	case c.lost:
		return fmt.Errorf("%w: %w", stream.ErrNotSent, ErrClosed)
	case c.nextID > maxStreamID:
		return fmt.Errorf("%w: the connection's stream ids are used up", stream.ErrNotSent)
	}
	return nil
}

// refuseLocked lets no exchange begin from now on.
func (c *Client) refuseLocked(why error) {
	if c.going == nil {
		c.going = why
	}
	c.changed.Broadcast()
	c.endLocked()
}

// endLocked ends a connection that takes nothing more and has nothing open.
func (c *Client) endLocked() {
	if c.going != nil && c.used == 0 {
		c.stopLocked(fmt.Errorf("%w: %w", ErrClosed, c.going))
	}
}

func (c *Client) freeSlotLocked(e *clientExch) {
	if !e.slot {
		return
	}
	e.slot = false
	c.used--
	c.changed.Broadcast()
	c.endLocked()
}

func (c *Client) idleLocked(id uint32) bool { return id >= c.nextID || id%2 == 0 }

func (c *Client) removedLocked(e *exch) { c.freeSlotLocked(e.cli) }

func (c *Client) settings() {
	c.mu.Lock()
	first := !c.settled
	c.settled = true
	if first && !c.told {
		c.peerMax = math.MaxInt32
	}
	c.changed.Broadcast()
	c.mu.Unlock()
	if first && c.onSettled != nil {
		c.onSettled()
	}
}

func (c *Client) pong([8]byte) {}

func (c *Client) setting(s http2.Setting) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch s.ID {
	case http2.SettingMaxConcurrentStreams:
		c.peerMax, c.told = s.Val, true
	case http2.SettingEnableConnectProtocol:
		if c.canConnect && s.Val == 0 {
			return broken(stream.CodeProtocol, "extended CONNECT is taken back")
		}
		c.canConnect = s.Val == 1
	}
	return nil
}

func (c *Client) goAway(f *http2.GoAwayFrame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	reason := "GOAWAY"
	if d := f.DebugData(); len(d) > 0 {
		reason = fmt.Sprintf("GOAWAY %.128q", d)
	}
	why := &ConnError{Code: stream.Code(f.ErrCode), Reason: reason, Remote: true}
	for id, e := range c.streams {
		if id > f.LastStreamID {
			e.shared = true
			c.failLocked(e, fmt.Errorf("%w: %w", stream.ErrNotSent, why))
		}
	}
	c.refuseLocked(why)
	return nil
}

func (c *Client) lostLocked(e *exch, started uint64, cause error) error {
	if e.cli.headAt >= started {
		return fmt.Errorf("%w: %w", stream.ErrNotSent, cause)
	}
	return fmt.Errorf("the server's connection is gone: %w", cause)
}

func (c *Client) expect(id uint32) (headKind, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.streams[id]
	switch {
	case e == nil && c.idleLocked(id):
		return ignored, broken(stream.CodeProtocol, "HEADERS on a stream that isn't open yet")
	case e == nil || e.recvEnd:
		return ignored, nil
	case e.cli.gotFinal:
		return trailer, nil
	}
	return response, nil
}

func (c *Client) head(id uint32, kind headKind, end bool) error {
	c.mu.Lock()
	e := c.streams[id]
	c.mu.Unlock()
	switch {
	case e == nil:
		return c.spend(1)
	case kind == trailer:
		return c.onTrailers(e, end)
	case kind == ignored:
		return badStream(id, stream.CodeStreamClosed, "HEADERS after the end of the stream")
	}
	return c.onResponse(e.cli, end)
}
