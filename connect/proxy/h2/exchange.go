// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/weftmesh/weft/connect/proxy/header"
	"github.com/weftmesh/weft/connect/proxy/stream"
)

// exch is what both sides of an exchange have: a stream with its windows, its received bytes and its ends.
type exch struct {
	c  *conn
	id uint32 // 0 until the client has written its head

	cut bool // guarded by writer.mu: RST_STREAM is out, and nothing may follow

	// Of the goroutine that writes.
	wroteHead bool
	noBody    bool  // the method or status forbids one: what is written is dropped
	left      int64 // bytes that the stated length still wants, -1 for unknown

	// Guarded by conn.mu.
	readable sync.Cond
	writable sync.Cond
	in       buffer
	recvWin  int   // what the peer may still send
	given    int   // bytes read and not yet given back to the peer's window
	sendWin  int   // what the peer takes
	remain   int64 // bytes of body that the peer's length still promises, -1 for unknown
	open     bool  // in conn.streams
	recvEnd  bool
	sendEnd  bool
	dead     bool // nobody will read: the reader frees what it still fills
	shared   bool // the reader may hold it without the lock: not for reuse
	queued   bool // in conn.starved
	told     bool // not in conn.woken
	hook     Hook
	turn     uint64
	err      error
	opened   time.Time
	trailers header.List
	trailed  bool
	ctx      context.Context
	cancel   context.CancelCauseFunc

	srv *serverExch
	cli *clientExch
}

func (e *exch) init(c *conn) {
	e.c = c
	e.readable.L, e.writable.L = &c.mu, &c.mu
	e.left, e.remain = -1, -1
	e.told = true
}

// clear makes e ready for the next stream; the room of its lists is kept.
func (e *exch) clear() {
	e.trailers.Reset()
	t := e.trailers
	srv, cli := e.srv, e.cli
	*e = exch{trailers: t, srv: srv, cli: cli}
}

var errReset = errors.New("the exchange was reset by this side")

// ReadBody implements stream.Body. Bytes that came before a reset are given first.
func (e *exch) ReadBody(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	c := e.c
	c.mu.Lock()
	for e.in.n == 0 || errors.Is(e.err, errReset) {
		switch {
		case e.err != nil && (!e.recvEnd || errors.Is(e.err, errReset)):
			err := e.err
			c.mu.Unlock()
			return 0, err
		case e.recvEnd:
			c.mu.Unlock()
			return 0, io.EOF
		}
		e.readable.Wait()
	}
	n := 0
	for n < len(p) && e.in.n > 0 {
		piece := e.in.peek()
		if len(piece) == 0 { // a read chunk that was kept while it was being filled
			e.in.advance(0)
			continue
		}
		c.mu.Unlock()
		m := copy(p[n:], piece)
		c.mu.Lock()
		if e.dead {
			break
		}
		e.in.advance(m)
		n += m
	}
	ofStream, ofConn := c.giveBackLocked(e, n)
	c.mu.Unlock()
	if ofStream+ofConn > 0 {
		c.sendWindows(e.id, ofStream, ofConn)
	}
	return n, nil
}

// Whole says whether the rest of the message is here with its end, and how many bytes of body it has.
func (e *exch) Whole() (n int, ok bool) {
	e.c.mu.Lock()
	defer e.c.mu.Unlock()
	return e.in.n, e.recvEnd && e.err == nil
}

// Await waits until the rest of the message is here with its end, or most bytes of it, or until the peer has ended the exchange, but no longer
// than d. It says what Whole says then.
func (e *exch) Await(d time.Duration, most int) (n int, ok bool) {
	c := e.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if waits := func() bool { return e.err == nil && !e.recvEnd && e.in.n < most }; waits() {
		over, left := false, false
		timer := time.AfterFunc(d, func() {
			c.mu.Lock()
			defer c.mu.Unlock()
			if over = true; !left { // else e may be another exchange's by now
				e.readable.Broadcast()
			}
		})
		defer timer.Stop()
		for !over && waits() {
			e.readable.Wait()
		}
		left = true
	}
	return e.in.n, e.recvEnd && e.err == nil
}

// Hook is told of an exchange that the peer has ended, in a goroutine of its own.
type Hook interface{ Gone(turn uint64) }

// Hook has h told, with turn, when the peer resets the stream or goes away, once; not after the handler has returned.
func (e *serverExch) Hook(h Hook, turn uint64) {
	e.c.mu.Lock()
	defer e.c.mu.Unlock()
	e.hook, e.turn = h, turn
	if e.err != nil {
		e.goneLocked()
	}
}

func (e *exch) goneLocked() {
	if h, turn := e.hook, e.turn; h != nil {
		e.hook = nil
		e.c.spawn(func() { h.Gone(turn) })
	}
}

// Trailers implements stream.Body.
func (e *exch) Trailers() *header.List {
	e.c.mu.Lock()
	defer e.c.mu.Unlock()
	if !e.trailed {
		return nil
	}
	return &e.trailers
}

// Buffered implements stream.Body.
func (e *exch) Buffered() int {
	e.c.mu.Lock()
	defer e.c.mu.Unlock()
	return e.in.n
}

// WriteBody sends p in DATA frames, and waits while the peer's windows are full. Where the head stated a length, bytes
// past it are refused with an error.
func (e *exch) WriteBody(p []byte) error {
	if e.noBody {
		return nil
	}
	if e.left >= 0 {
		if int64(len(p)) > e.left {
			return fmt.Errorf("%w: %d bytes more than the stated length", stream.ErrMalformed, int64(len(p))-e.left)
		}
		e.left -= int64(len(p))
	}
	for len(p) > 0 {
		n, err := e.c.takeWindow(e, len(p))
		if err != nil {
			return err
		}
		if err := e.c.w.data(e, p[:n]); err != nil {
			return e.c.lostWindow(e, n, err)
		}
		p = p[n:]
	}
	return nil
}

// Flush sends what the connection has buffered.
func (e *exch) Flush() error {
	return e.c.w.flush()
}

// Finish ends this side's message, with trailers if there are any, and flushes.
func (e *exch) Finish(trailers *header.List) error {
	c := e.c
	c.mu.Lock()
	err, done := e.err, e.sendEnd
	c.mu.Unlock()
	if done {
		return c.w.flush()
	}
	if err != nil {
		return err
	}
	if e.left > 0 && !e.noBody {
		e.Reset(stream.CodeInternal)
		return fmt.Errorf("%w: %d bytes are missing", stream.ErrTruncated, e.left)
	}
	if trailers != nil && trailers.Len() > 0 && !e.noBody {
		err = c.w.trailers(e, trailers)
	} else {
		err = c.w.end(e)
	}
	if err != nil {
		return c.lostWindow(e, 0, err)
	}
	c.sent(e)
	return c.w.flush()
}

// Reset ends the exchange at once in both directions, and wakes whoever waits in another of its methods.
func (e *exch) Reset(code stream.Code) {
	c := e.c
	c.mu.Lock()
	done := e.err != nil || (e.recvEnd && e.sendEnd)
	c.failLocked(e, errReset)
	c.mu.Unlock()
	if done {
		return
	}
	c.w.reset(e, code)
	_ = c.w.flush()
}

// Context ends when the peer resets the stream or goes away, and at the end of the exchange.
func (e *exch) Context() context.Context {
	c := e.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if e.ctx == nil {
		e.ctx, e.cancel = context.WithCancelCause(c.ctx)
		if e.err != nil {
			e.cancel(e.err)
		}
	}
	return e.ctx
}

// takeWindow takes up to want bytes of both send windows, and waits for them if there are none.
func (c *conn) takeWindow(e *exch, want int) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for flushed := false; ; {
		if e.err != nil {
			return 0, e.err
		}
		if n := min(want, e.sendWin, c.sendWin, maxDataFrame); n > 0 {
			e.sendWin -= n
			c.sendWin -= n
			c.control.earn(float64(n) / bytesPerControl)
			return n, nil
		}
		if !flushed {
			flushed = true
			c.mu.Unlock()
			_ = c.w.flush()
			c.mu.Lock()
			continue
		}
		if c.sendWin <= 0 && !e.queued {
			e.queued = true
			c.starved = append(c.starved, e)
		}
		e.writable.Wait()
	}
}

// lostWindow gives n unused bytes back to the connection's window and says why the stream can't be written to.
func (c *conn) lostWindow(e *exch, n int, err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sendWin += n
	c.feedLocked()
	if e.err != nil {
		return e.err
	}
	return err
}

// feedLocked wakes the streams that wait for the connection's window.
func (c *conn) feedLocked() {
	if c.sendWin <= 0 {
		return
	}
	for i, e := range c.starved {
		e.queued = false
		e.writable.Signal()
		c.starved[i] = nil
	}
	c.starved = c.starved[:0]
}

// sent notes that this side's message has ended.
func (c *conn) sent(e *exch) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e.sendEnd = true
	c.settleLocked(e)
}

// settleLocked takes e out of the open streams when both sides have ended.
func (c *conn) settleLocked(e *exch) {
	if e.open && e.recvEnd && e.sendEnd {
		c.resets.earn(1)
		c.removeLocked(e, endedBoth)
	}
}

// failLocked ends e with err, unless it already ended, and wakes all who wait for it.
func (c *conn) failLocked(e *exch, err error) {
	if e.err == nil {
		e.err = err
	} else if errors.Is(err, errReset) {
		e.err = err
	}
	if e.open {
		how := endedByUs
		var re *stream.ResetError
		if errors.As(err, &re) {
			how = endedByPeer
		}
		c.removeLocked(e, how)
	}
	if e.cancel != nil {
		e.cancel(err)
	}
	if !errors.Is(err, errReset) {
		e.goneLocked()
	}
	e.readable.Broadcast()
	e.writable.Broadcast()
}

// giveBackLocked notes that n bytes were read, and says how much to give back to the stream's and the connection's window.
func (c *conn) giveBackLocked(e *exch, n int) (ofStream, ofConn int) {
	c.given += n
	if e != nil && e.open && !e.recvEnd {
		e.given += n
		if e.given >= c.streamWindow/4 {
			ofStream, e.given = e.given, 0
			e.recvWin += ofStream
		}
	}
	if c.given >= c.lim.ConnWindow/4 {
		ofConn, c.given = c.given, 0
		c.recvWin += ofConn
	}
	return ofStream, ofConn
}

// sendWindows tells the peer, at once.
func (c *conn) sendWindows(id uint32, ofStream, ofConn int) {
	if ofStream > 0 {
		c.w.windowUpdate(id, ofStream)
	}
	if ofConn > 0 {
		c.w.windowUpdate(0, ofConn)
	}
	_ = c.w.flush()
}

// release ends what is left of e when its owner is done with it; code is for a message of ours that wasn't ended. It says
// whether e may be used again.
func (c *conn) release(e *exch, code stream.Code) bool {
	c.mu.Lock()
	e.hook = nil
	clean := e.err == nil && e.recvEnd && e.sendEnd
	wrote := e.id != 0
	cut := e.err == nil && !clean
	if e.sendEnd && e.srv != nil {
		code = stream.CodeNone // RFC 9113 §8.1: a whole response to a request that wasn't read to its end
	}
	if cut {
		c.failLocked(e, errReset)
	}
	if e.cancel != nil {
		e.cancel(errReset)
	}
	e.dead = true
	unread := 0
	reuse := clean && !e.shared && !e.in.filling && !e.queued && e.told
	if !e.in.filling {
		unread = e.in.drop()
	}
	_, ofConn := c.giveBackLocked(nil, unread)
	c.mu.Unlock()
	if cut && wrote {
		c.w.reset(e, code)
	}
	if ofConn > 0 {
		c.w.windowUpdate(0, ofConn)
	}
	_ = c.w.flush()
	return reuse
}
