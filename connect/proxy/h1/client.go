// SPDX-License-Identifier: Apache-2.0

package h1

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"syscall"

	"github.com/weftmesh/weft/connect/proxy/header"
	"github.com/weftmesh/weft/connect/proxy/stream"
	"github.com/weftmesh/weft/internal/guard"
)

// ClientConfig says how a Client behaves. The zero value has the defaults beside each field.
type ClientConfig struct {
	Limits stream.Limits
	// Informational is how many 1xx heads one exchange may get before the response is refused: 16.
	Informational int
	// Reused says that the connection may have ended before it was used: the first exchange can be stale as any other.
	Reused bool
}

// Client is one connection to a server, for one exchange after the other. It starts no goroutine. Exchange and Alive are
// for the connection's owner; an exchange's methods follow package stream's rule of two goroutines.
//
// When a request may be sent again, on another connection:
//
//   - errors.Is(err, stream.ErrNotSent): always. Nothing of it was handed to the connection: it was found closed before
//     the first write, or the first write took no byte.
//   - errors.Is(err, ErrStale): only where the method is idempotent. The request was written to a connection that had
//     served before, and the connection ended before any byte of a response.
//   - else: only by a policy that accepts that the request is processed twice.
type Client struct {
	config ClientConfig
	conn   net.Conn
	peek   peeker                    // of the socket under the connection, where there is one
	asks   interface{ Quiet() bool } // a connection that knows by itself whether anything has come
	used   bool                      // an exchange went over it before
	busy   bool
	closed atomic.Bool

	rd      reader
	wr      writer
	framing framing
	body    body

	// of the exchange
	dead          error // why it can't be used at all
	first         int64 // wr.sent when it began
	method        string
	upgrade       string
	headed        bool // the final head was read
	persists      bool
	informational int
}

// NewClient takes over conn, on which nothing was exchanged yet. It reads and writes nothing.
func NewClient(conn net.Conn, config ClientConfig) *Client {
	config.Limits = config.Limits.WithDefaults()
	if config.Informational <= 0 {
		config.Informational = 16
	}
	c := &Client{config: config, conn: conn, used: config.Reused}
	c.rd.init(conn)
	c.wr.init(conn)
	c.body.rd, c.body.limits = &c.rd, &c.config.Limits
	c.asks, _ = conn.(interface{ Quiet() bool })
	inner := conn
	if t, ok := conn.(interface{ NetConn() net.Conn }); ok && t.NetConn() != nil {
		inner = t.NetConn()
	}
	if sc, ok := inner.(syscall.Conn); ok {
		if raw, err := sc.SyscallConn(); err == nil {
			c.peek.init(raw)
		}
	}
	return c
}

// Conn is the connection that the client was made with.
func (c *Client) Conn() net.Conn { return c.conn }

// Moved is how many bytes have gone over the connection, both ways. It is the owner's to ask while no exchange is on it.
func (c *Client) Moved() int64 { return c.wr.sent + c.rd.got }

// Alive says whether the connection, while no exchange is on it, can carry one: it is open, and the server has sent
// nothing since the last response, neither an end nor bytes that nobody asked for. It doesn't block. A connection that is
// no socket can't be asked and counts as alive.
func (c *Client) Alive() bool {
	if c.closed.Load() || c.busy || c.wr.err != nil || c.rd.eof || c.rd.buffered() > 0 || c.rd.under != nil && c.rd.under.Holds() {
		return false
	}
	if c.asks != nil {
		return c.asks.Quiet()
	}
	return c.peek.raw == nil || !c.used || c.peek.quiet()
}

// Close closes the connection, also under an exchange. It may be called by any goroutine.
func (c *Client) Close() error {
	if c.closed.CompareAndSwap(false, true) {
		return c.conn.Close()
	}
	return nil
}

// Exchange begins an exchange; the one before must have been closed. Where the connection is no longer alive, the
// exchange's first use gives an error that is stream.ErrNotSent.
func (c *Client) Exchange() stream.ClientExchange {
	if c.busy {
		return deadExchange{fmt.Errorf("%w: %w: an exchange is on it", stream.ErrNotSent, ErrSpent)}
	}
	if !c.Alive() {
		x := c.AliveExchange()
		c.dead = fmt.Errorf("%w: %w: the server closed it", stream.ErrNotSent, ErrSpent)
		return x
	}
	return c.AliveExchange()
}

// AliveExchange is Exchange where Alive has just said yes: to ask is a system call.
func (c *Client) AliveExchange() stream.ClientExchange {
	c.dead = nil
	c.busy = true
	c.first = c.wr.sent
	c.method, c.upgrade = "", ""
	c.headed, c.persists, c.informational = false, false, 0
	c.body.start(bodyNone, 0)
	c.wr.begin()
	return (*clientExchange)(c)
}

// clientExchange is a Client while it carries an exchange.
type clientExchange Client

// WriteHead is stream.ClientExchange's. An upgrade's or CONNECT's request has no body: bytes may only follow once ReadHead
// has given the head that grants it.
func (e *clientExchange) WriteHead(h *stream.RequestHead, end bool) error {
	switch {
	case e.dead != nil:
		return e.dead
	case e.wr.started:
		return errHeadTwice
	}
	if err := e.wr.requestHead(h, end); err != nil {
		return fmt.Errorf("%w: %w", stream.ErrNotSent, err)
	}
	e.wr.started = true
	e.method, e.upgrade = h.Method, h.Upgrade
	if end {
		return e.written(e.wr.finish(nil))
	}
	return nil
}

// written marks a failed write as not sent where the connection has taken no byte of the exchange.
func (e *clientExchange) written(err error) error {
	if err == nil || e.wr.err == nil || e.wr.sent != e.first {
		return err
	}
	return fmt.Errorf("%w: %w", stream.ErrNotSent, err)
}

// WriteBody is stream.ClientExchange's.
func (e *clientExchange) WriteBody(p []byte) error {
	if e.dead != nil {
		return e.dead
	}
	return e.written(e.wr.body(p))
}

// Flush is stream.ClientExchange's.
func (e *clientExchange) Flush() error {
	if e.dead != nil {
		return e.dead
	}
	return e.written(e.wr.flush())
}

// Finish is stream.ClientExchange's.
func (e *clientExchange) Finish(trailers *header.List) error {
	if e.dead != nil {
		return e.dead
	}
	if e.wr.kind != bodyRaw || e.wr.ended {
		return e.written(e.wr.finish(trailers))
	}
	if err := e.wr.finish(nil); err != nil {
		return err
	}
	return closeWrite(e.conn)
}

var errInformational = malformed("more informational heads than the limit")

// ReadHead is stream.ClientExchange's. It waits without a buffer.
func (e *clientExchange) ReadHead(h *stream.ResponseHead) error {
	switch {
	case e.dead != nil:
		return e.dead
	case e.headed:
		return errHeadRead
	}
	if e.rd.buffered() == 0 {
		if err := e.rd.wait(); err != nil {
			return e.noResponse(err)
		}
	}
	s, err := e.rd.section(e.config.Limits.HeadBytes, false)
	if err != nil {
		return err
	}
	if s == "" {
		return malformed("an empty line where a response should begin")
	}
	h.Reset()
	if err := e.framing.parseResponse(s, e.method, e.upgrade, h, &e.config.Limits); err != nil {
		return err
	}
	if h.Status < 200 && h.Status != 101 {
		if e.informational++; e.informational > e.config.Informational {
			return errInformational
		}
		return nil
	}
	e.headed = true
	e.persists = e.framing.persists()
	e.startBody(h)
	return nil
}

var errHeadRead = &usageError{"reading a second final head"}

// noResponse explains a connection that ended while a response was awaited.
func (e *clientExchange) noResponse(err error) error {
	if e.closed.Load() {
		return fmt.Errorf("waiting for a response: %w", errReset)
	}
	ended := errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
	if !ended {
		return err
	}
	if errors.Is(err, io.EOF) {
		err = truncated("waiting for a response")
	}
	if e.used && e.informational == 0 {
		return fmt.Errorf("%w: %w", ErrStale, err)
	}
	return err
}

func (e *clientExchange) startBody(h *stream.ResponseHead) {
	switch {
	case h.Status == 101, e.method == "CONNECT" && h.Status < 300:
		e.body.start(bodyRaw, 0)
		e.wr.kind, e.wr.muted, e.wr.ended = bodyRaw, false, false
	case e.method == "HEAD", h.Status == 204, h.Status == 304:
		e.body.start(bodyNone, 0)
	case e.framing.chunked:
		e.body.start(bodyChunked, 0)
	case h.HasLength:
		e.body.start(bodyLength, h.Length)
	default:
		e.body.start(bodyUntilClose, 0)
	}
	if e.body.done {
		e.rd.release()
	}
}

// ReadBody is stream.Body's.
func (e *clientExchange) ReadBody(p []byte) (int, error) {
	if e.dead != nil {
		return 0, e.dead
	}
	if !e.headed {
		return 0, errNoHead
	}
	return e.body.read(p)
}

// Trailers is stream.Body's.
func (e *clientExchange) Trailers() *header.List { return e.body.ended() }

// Buffered is stream.Body's.
func (e *clientExchange) Buffered() int { return e.body.available() }

// Reset is stream.ClientExchange's: the connection is reset. It may be called by any goroutine.
func (e *clientExchange) Reset(stream.Code) {
	if e.closed.CompareAndSwap(false, true) {
		abort(e.conn)
	}
}

// Close is stream.ClientExchange's. Where the connection can't be used again, it is closed: the request wasn't written to
// its end, the response wasn't read to its end, either side asked for it, bytes came that belong to no response, or the
// connection was a tunnel.
func (e *clientExchange) Close() (reusable bool) {
	e.busy = false
	e.used = true
	if e.dead == nil && e.headed && e.persists && (e.wr.ended || guard.Off("C58")) && e.wr.err == nil && e.body.done &&
		(e.body.kind == bodyNone || e.body.kind == bodyLength || e.body.kind == bodyChunked) &&
		e.rd.buffered() == 0 && !e.closed.Load() {
		return true
	}
	_ = (*Client)(e).Close()
	e.rd.r = e.rd.w
	e.rd.release()
	e.wr.release()
	return false
}

// deadExchange is what a busy client gives.
type deadExchange struct{ err error }

func (d deadExchange) WriteHead(*stream.RequestHead, bool) error { return d.err }
func (d deadExchange) WriteBody([]byte) error                    { return d.err }
func (d deadExchange) Flush() error                              { return d.err }
func (d deadExchange) Finish(*header.List) error                 { return d.err }
func (d deadExchange) ReadHead(*stream.ResponseHead) error       { return d.err }
func (d deadExchange) ReadBody([]byte) (int, error)              { return 0, d.err }
func (d deadExchange) Trailers() *header.List                    { return nil }
func (d deadExchange) Buffered() int                             { return 0 }
func (d deadExchange) Reset(stream.Code)                         {}
func (d deadExchange) Close() bool                               { return false }
