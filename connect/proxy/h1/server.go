// SPDX-License-Identifier: Apache-2.0

package h1

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"time"

	"github.com/weftmesh/weft/connect/proxy/calm"
	"github.com/weftmesh/weft/connect/proxy/stream"
)

// ConnState is what a served connection does.
type ConnState uint8

// The states of a served connection.
const (
	StateIdle   ConnState = iota // waits for the first byte of a request: may be closed, or woken with Wake
	StateActive                  // reads a request or serves it
	StateTunnel                  // carries raw bytes after an upgrade
)

// ServerConfig says how Serve serves. The zero value serves with the defaults beside each field.
type ServerConfig struct {
	Limits stream.Limits
	Scheme string // of each request: "http" (default) or "https"
	// IdleTimeout is how long a connection may wait for the next request: 5 minutes. Negative: for ever.
	IdleTimeout time.Duration
	// HeadTimeout is how long a head may take once its first bytes are there: 10 seconds. Negative: for ever.
	HeadTimeout time.Duration
	// MaxRequestsPerConn closes the connection after so many requests; 0: never.
	MaxRequestsPerConn int
	// Draining, where it is set and gives true, makes the next response the connection's last. It is asked at each
	// response head.
	Draining func() bool
	// Closing, where it is set and gives true, ends a connection that waits for a request. It is asked before each such
	// wait, and when Wake was called. Until then an idle connection stays: its client may be about to send, and what
	// crosses a close is lost. By default it is Draining.
	Closing func() bool
	// OnState is called with each change of state, on Serve's goroutine or the one that writes an upgrade's head.
	OnState func(ConnState)
	// BadRequest makes the answer to what the codec refuses (a *ProtocolError). The head's length is set by the codec.
	// By default it is plain text that says what was wrong.
	BadRequest func(err error) (*stream.ResponseHead, []byte)
	// Heads bounds heads that have begun, with other connections; nil: it doesn't. The connection has to have a method Refuse, which says that nothing
	// was done for what came since the last answer.
	Heads *Heads
	// Refusals is what a client waits in that the codec refuses; nil: it is refused at once.
	Refusals *calm.Queue
	// Prefix is what was already read off the connection. It is copied.
	Prefix []byte
	// RestAfter, where it is positive, is how long a connection waits for a request until Serve gives it back with a *Rest.
	RestAfter time.Duration
	// Rest is what Serve gave last time, where it goes on with a connection that has rested.
	Rest *Rest
}

// Rest is given by Serve for a connection that waits for its next request: it is open, all that it held is given back, and nothing of it
// has been read that wasn't served. Serve may be called again at any time, the sooner after something has come, and at Until at the latest.
type Rest struct {
	Until  time.Time // when it has been idle for as long as it may; zero for never
	served int
}

func (*Rest) Error() string { return "the connection rests" }

// How much of a request's body that nobody wanted is read away to keep the connection: less where its length is known, since then the
// answer can say that the connection ends; where it can't, the client would send its next request in vain. How long a
// piece of it is waited for, and for how long all is read. And how long, and for how much, a connection that is closed with input unread goes on
// reading so that its last response isn't lost to a reset (RFC 9112 §9.6).
const (
	discardBytes   = 256 << 10
	discardUnknown = 4 << 20
	discardTime    = time.Second
	discardMost    = 5 * time.Second
	lingerTime     = 500 * time.Millisecond
	lingerBytes    = 4 << 20
	refusalCost    = 2 * time.Millisecond // that a client which the codec refuses has had of a processor, with its connection
)

func (c ServerConfig) withDefaults() ServerConfig {
	c.Limits = c.Limits.WithDefaults()
	if c.Scheme == "" {
		c.Scheme = "http"
	}
	if c.IdleTimeout == 0 {
		c.IdleTimeout = 5 * time.Minute
	}
	if c.HeadTimeout == 0 {
		c.HeadTimeout = 10 * time.Second
	}
	if c.Closing == nil {
		c.Closing = c.Draining
	}
	if c.BadRequest == nil {
		c.BadRequest = plainRefusal
	}
	return c
}

func plainRefusal(err error) (*stream.ResponseHead, []byte) {
	h := &stream.ResponseHead{Status: 400}
	var pe *ProtocolError
	if errors.As(err, &pe) {
		h.Status = pe.Status
	}
	h.Fields.Add("Content-Type", "text/plain; charset=utf-8")
	return h, []byte(err.Error() + "\n")
}

var (
	// errDone ends a connection that has nothing wrong with it.
	errDone = errors.New("done")
	// errUnfinished is a handler that returned before its response was complete.
	errUnfinished = errors.New("the handler left its response unfinished: the connection was reset")
	errReset      = errors.New("the exchange was reset")
	errGone       = errors.New("the client closed the connection")
)

// Serve reads requests off conn and gives each to handler, one after the other, pipelined ones in their order. It blocks
// until the connection is over and has closed it then, or it rests. It gives nil where the connection ended regularly (closed or left
// idle by the client, drained, told to close), a *Rest, the *ProtocolError that it answered, or why the connection broke. The end
// of ctx resets the connection.
func Serve(ctx context.Context, conn net.Conn, config ServerConfig, handler stream.Handler) error {
	s := &serverConn{config: config.withDefaults(), conn: conn, base: ctx, state: StateActive}
	s.rd.init(conn)
	s.rd.headTimeout, s.rd.heads = max(s.config.HeadTimeout, 0), s.config.Heads
	s.rd.preload(s.config.Prefix)
	s.config.Prefix = nil
	if r := s.config.Rest; r != nil {
		s.served, s.until, s.state = r.served, r.Until, StateIdle
	}
	s.wr.init(conn)
	s.body.rd, s.body.limits = &s.rd, &s.config.Limits
	stop := context.AfterFunc(ctx, func() { abort(conn) })
	rests := false
	defer func() { s.over(stop, rests) }()
	err := s.serve(handler)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	rests = errors.As(err, new(*Rest))
	if errors.Is(err, errDone) {
		return nil
	}
	return err
}

// over gives back what the connection holds, and closes it if it doesn't rest, also where a handler panics.
func (s *serverConn) over(stop func() bool, rests bool) {
	stop()
	if !rests {
		_ = s.conn.Close()
	}
	s.stopWatch()
	s.lose(errGone)
	s.rd.r = s.rd.w
	s.rd.release()
	s.wr.release()
}

func (s *serverConn) serve(handler stream.Handler) error {
	for {
		if err := s.await(); err != nil {
			return err
		}
		if err := s.readRequest(); err != nil {
			return s.reject(err)
		}
		handler(s)
		if err := s.settle(); err != nil {
			return err
		}
	}
}

// await waits, without a buffer, for the first byte of the next request.
func (s *serverConn) await() error {
	if s.rd.buffered() == 0 {
		s.setState(StateIdle)
		now := time.Now()
		if s.until.IsZero() && s.config.IdleTimeout > 0 {
			s.until = now.Add(s.config.IdleTimeout)
		}
		deadline := s.until
		rests := s.config.RestAfter > 0 && (deadline.IsZero() || deadline.Sub(now) > s.config.RestAfter)
		if rests {
			deadline = now.Add(s.config.RestAfter)
		}
		_ = s.conn.SetReadDeadline(deadline)
		// Asked after the deadline is set, so that Wake can't fall between the two.
		if s.closesIdle() {
			return s.decline()
		}
		if err := s.rd.wait(); err != nil {
			switch {
			case rests && isTimeout(err) && !s.closesIdle():
				return &Rest{Until: s.until, served: s.served}
			case isTimeout(err):
				return s.decline()
			case errors.Is(err, io.EOF):
				return errDone
			}
			return err
		}
		s.until = time.Time{}
	}
	s.setState(StateActive)
	if s.rd.headTimeout == 0 {
		_ = s.conn.SetReadDeadline(time.Time{})
	}
	return nil
}

// decline ends a connection on which nothing was acted on that wasn't answered. Where it can say so, a request that crosses its end isn't lost.
func (s *serverConn) decline() error {
	if c, ok := s.conn.(interface{ Refuse() }); ok {
		c.Refuse()
	}
	return errDone
}

func (s *serverConn) closesIdle() bool { return s.config.Closing != nil && s.config.Closing() }

func (s *serverConn) draining() bool { return s.config.Draining != nil && s.config.Draining() }

func (s *serverConn) setState(state ConnState) {
	if s.state == state {
		return
	}
	s.state = state
	if s.config.OnState != nil {
		s.config.OnState(state)
	}
}

func (s *serverConn) readRequest() error {
	head, err := s.rd.section(s.config.Limits.HeadBytes, true)
	if err != nil {
		return err
	}
	h := &s.request
	h.Reset()
	if err := s.framing.parseRequest(head, h, &s.config.Limits); err != nil {
		return err
	}
	h.Scheme = s.config.Scheme
	s.served++
	s.begin(h)
	if h.Length != 0 || h.Upgrade != "" || s.facts.connect {
		_ = s.conn.SetReadDeadline(time.Time{})
	}
	if s.body.done {
		s.rd.release()
	}
	return nil
}

// reject answers what the codec itself refuses, and ends the connection.
func (s *serverConn) reject(err error) error {
	var pe *ProtocolError
	if errors.Is(err, errHeads) {
		return s.decline()
	}
	if !errors.As(err, &pe) {
		return err
	}
	s.rd.r = s.rd.w // a long head isn't kept while it waits
	s.rd.release()
	s.config.Refusals.Wait(s.base, refusalCost)
	head, body := s.config.BadRequest(err)
	head.Length, head.HasLength = int64(len(body)), true
	s.wr.begin()
	if werr := s.wr.responseHead(head, &exchangeFacts{}, false, "close"); werr != nil {
		return errors.Join(err, werr)
	}
	s.wr.started = true
	if werr := s.wr.body(body); werr != nil {
		return errors.Join(err, werr)
	}
	if s.wr.finish(nil) == nil {
		s.linger()
	}
	return err
}

// settle ends an exchange after its handler and says, with nil, that the connection can carry another.
func (s *serverConn) settle() error {
	s.stopWatch()
	switch {
	case s.aborted.Load():
		return errReset
	case s.wr.err != nil:
		return s.wr.err
	case !s.wr.ended:
		abort(s.conn)
		return errUnfinished
	case s.wr.kind == bodyRaw:
		return s.settleTunnel()
	case !s.body.done && !s.closing:
		s.closing = !s.discard()
	}
	if s.closing {
		if !s.body.done || s.rd.buffered() > 0 {
			s.linger()
		}
		return errDone
	}
	return nil
}

// discard reads the rest of the request's body away and says whether it came to the end. The client was told that the connection goes on, so
// that its next request may be behind it.
func (s *serverConn) discard() bool {
	if isTimeout(s.body.err) {
		s.body.err = nil // the handler didn't wait for it: it goes on where it was
	}
	_ = calm.Discard(unwanted{s, time.Now().Add(discardMost)}, discardBytes, discardUnknown) // whatever ended it, what counts is whether the body has
	return s.body.done
}

// unwanted reads a request's body, each piece of which has to come soon.
type unwanted struct {
	s     *serverConn
	until time.Time
}

func (u unwanted) Read(p []byte) (int, error) {
	now := time.Now()
	switch {
	case u.s.body.done:
		return 0, io.EOF
	case now.After(u.until):
		return 0, os.ErrDeadlineExceeded
	}
	_ = u.s.conn.SetReadDeadline(now.Add(discardTime))
	return u.s.body.read(p)
}

// settleTunnel ends a tunnel: regularly where both sides have ended it, else so that the peer notices.
func (s *serverConn) settleTunnel() error {
	if !s.body.done {
		abort(s.conn)
	}
	return errDone
}

// linger half-closes and reads on for a moment.
func (s *serverConn) linger() {
	if closeWrite(s.conn) != nil {
		return
	}
	_ = s.conn.SetReadDeadline(time.Now().Add(lingerTime))
	_ = calm.Discard(s.conn, 0, lingerBytes) // whatever ends it, the connection is closed next
}
