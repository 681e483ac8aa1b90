// SPDX-License-Identifier: Apache-2.0

package mux

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/weftmesh/weft/connect/proxy/stream"
)

// Stream is a net.Conn that a Session carries, with what else a socket can do. One goroutine at a time may read, and one write. Writes that
// come together go together, and give no error for what they find out later.
type Stream struct {
	s     *Session
	id    uint32
	born  time.Time   // on the accepting side
	heard bool        // something has come; guarded by Session.mu
	spoke atomic.Bool // something was written
	shut  atomic.Bool // it is closed

	mu      sync.Mutex // guards what follows
	changed sync.Cond
	unread  pieces
	into    []byte // of a Read that waits for something
	got     int    // bytes in it
	used    int64  // bytes that were read, and not granted again
	window  int64
	room    int64     // of it, for what may still come
	granted time.Time // when the window was granted last
	have    int64     // of the other side's, for what may be sent
	reading deadline
	writing deadline
	eof     bool  // the other side writes no more
	gone    bool  // nor reads
	dead    error // it was cut
	closed  bool  // here
	ended   bool  // we write no more
	abrupt  bool  // Close is a reset
	unset   bool  // of a stream of which nothing was looked at
	resume  func()
}

var (
	errCut     error = syscall.ECONNRESET
	errLost          = fmt.Errorf("%w: the connection that carried it ended", syscall.ECONNRESET) // and why
	errRefused       = fmt.Errorf("%w: the other sidecar has closed the connection before", stream.ErrNotSent)
)

func newStream(s *Session, id uint32) *Stream {
	st := &Stream{s: s, id: id, window: firstWindow, room: firstWindow, have: firstWindow, granted: time.Now()}
	st.changed.L = &st.mu
	st.reading.expired, st.writing.expired = st.expire, st.expire
	return st
}

// Session is what carries it.
func (st *Stream) Session() *Session { return st.s }

// deliver takes what has come. wake says that the owner is to be woken, once all that has come was taken.
func (st *Stream) deliver(p []byte) (wake bool, err error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.room -= int64(len(p))
	switch {
	case st.room < 0:
		return false, violates("more data than the window")
	case st.eof:
		return false, violates("data after the end")
	case st.closed || st.dead != nil:
		return false, nil
	}
	wake = st.unread.n == 0 && st.got == 0
	if st.into != nil && st.unread.n == 0 {
		n := copy(st.into[st.got:], p)
		st.got += n
		p = p[n:]
	}
	kept := st.unread.kept
	st.unread.add(p)
	st.s.hold(st.unread.kept - kept)
	if len(p) > 0 && st.s.holdsTooMuch() {
		st.dead = errHeld
		st.dropLocked()
		st.s.w.control(kindReset, st.id, resetCut)
		wake = true
	}
	return wake, nil
}

// dropLocked lets go of what wasn't read.
func (st *Stream) dropLocked() {
	st.s.hold(-st.unread.kept)
	st.unread.drop()
}

// wake tells the owner that something has changed.
func (st *Stream) wake() {
	st.mu.Lock()
	resume := st.wakeLocked()
	st.mu.Unlock()
	if resume != nil {
		resume()
	}
}

func (st *Stream) wakeLocked() (resume func()) {
	st.changed.Broadcast()
	resume, st.resume = st.resume, nil
	return resume
}

// expire is called when a deadline has come.
func (st *Stream) expire(d *deadline) {
	st.mu.Lock()
	var resume func()
	if !st.closed && d.fires() {
		resume = st.wakeLocked()
	}
	st.mu.Unlock()
	if resume != nil {
		resume()
	}
}

const mostHave = 1 << 30

func (st *Stream) grant(n uint32) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	if n == 0 || st.have+int64(n) > mostHave {
		return violates("a window that is none")
	}
	st.have += int64(n)
	st.changed.Broadcast()
	return nil
}

// peerEnds notes that nothing more comes, and, with both, that nothing more is taken.
func (st *Stream) peerEnds(both bool) error {
	st.mu.Lock()
	if st.gone || st.eof && !both {
		st.mu.Unlock()
		return violates("an end after the end")
	}
	st.eof, st.gone = true, both
	resume := st.wakeLocked()
	st.mu.Unlock()
	if resume != nil {
		resume()
	}
	return nil
}

// lose notes that the stream was cut; what has come and wasn't read is dropped, or read before. One that the other side has closed before has its end.
func (st *Stream) lose(why error, drop bool) {
	st.mu.Lock()
	if st.dead == nil && (drop || !st.gone) {
		st.dead = why
	}
	if drop {
		st.dropLocked()
	}
	resume := st.wakeLocked()
	st.mu.Unlock()
	st.s.w.nudge()
	if resume != nil {
		resume()
	}
}

// Await waits until Read has something to give, or fails as it would.
func (st *Stream) Await() error {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.awaitLocked(nil)
}

// awaitLocked waits until there is something to read, or in into, which may be nil.
func (st *Stream) awaitLocked(into []byte) error {
	st.into, st.got = into, 0
	defer func() { st.into = nil }()
	for {
		switch {
		case st.got > 0:
			return nil
		case st.reading.over:
			return st.failed("read", os.ErrDeadlineExceeded)
		case st.closed:
			return st.failed("read", net.ErrClosed)
		case st.unread.n > 0:
			return nil
		case st.dead != nil:
			return st.failed("read", st.dead)
		case st.eof:
			return io.EOF
		}
		st.reading.arm()
		st.changed.Wait()
	}
}

func (st *Stream) failed(op string, err error) error {
	if errors.Is(err, errLost) {
		return err // an alert of the other side is to be found in it
	}
	return &net.OpError{Op: op, Net: "tcp", Source: st.LocalAddr(), Addr: st.RemoteAddr(), Err: err}
}

// Read is net.Conn's.
func (st *Stream) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	st.mu.Lock()
	if err := st.awaitLocked(p); err != nil {
		st.mu.Unlock()
		return 0, err
	}
	n := st.got
	if n == 0 {
		kept := st.unread.kept
		n = st.unread.take(p)
		st.s.hold(st.unread.kept - kept)
	}
	st.got = 0
	grant := st.consumeLocked(n)
	st.mu.Unlock()
	if grant > 0 {
		st.s.w.control(kindWindow, st.id, uint32(grant))
		st.s.w.kick()
	}
	return n, nil
}

// consumeLocked counts what was read, and says how much of the window is to be granted again. A window through which much goes, and fast,
// grows, and shrinks again when it is no longer so: how much all have grown is bounded. Where memory is tight, one that isn't read as fast shrinks too.
func (st *Stream) consumeLocked(n int) (grant int64) {
	st.used += int64(n)
	if st.used < st.window/2 || st.eof || st.closed || st.dead != nil {
		return 0
	}
	held, to, now := st.s.c.Held, st.window, time.Now()
	took := now.Sub(st.granted)
	st.granted = now
	switch tight := held.tight(); {
	case tight && st.unread.n > 0:
		to = max(to/2, leastWindow)
	case took > shrinkAfter:
		to = max(to/2, min(to, firstWindow))
	case !tight && st.unread.n == 0 && took <= growWithin:
		to = min(2*to, maxWindow)
	}
	if !held.grow(grown(to) - grown(st.window)) {
		to = st.window
	}
	grant = st.used + to - st.window
	st.used, st.window = 0, to
	st.room += grant
	return grant
}

// grown is by how much a window is more than each stream has.
func grown(window int64) int64 { return max(0, window-firstWindow) }

// Write is net.Conn's. It waits while the other side has as much unread as it takes, or the connection more to send than it should keep.
func (st *Stream) Write(p []byte) (n int, err error) {
	for len(p) > 0 {
		m, err := st.roomFor(len(p))
		if err != nil {
			return n, err
		}
		if err := st.s.w.data(st.id, p[:m], st.shut.Load); err != nil {
			return n, st.failed("write", err)
		}
		st.s.sent.Add(1)
		n += m
		p = p[m:]
	}
	if err := st.s.w.flush(); err != nil {
		return n, st.failed("write", err)
	}
	return n, nil
}

// roomFor takes of the other side's window.
func (st *Stream) roomFor(n int) (int, error) {
	st.spoke.Store(true)
	st.mu.Lock()
	defer st.mu.Unlock()
	for flushed := false; ; {
		switch {
		case st.writing.over:
			return 0, st.failed("write", os.ErrDeadlineExceeded)
		case st.closed || st.ended:
			return 0, st.failed("write", net.ErrClosed)
		case st.dead != nil:
			return 0, st.failed("write", st.dead)
		case st.gone:
			return 0, st.failed("write", syscall.EPIPE)
		case st.have > 0:
			m := min(n, maxData, int(st.have))
			st.have -= int64(m)
			return m, nil
		case !flushed: // what was sent so far is what makes room
			flushed = true
			st.mu.Unlock()
			_ = st.s.w.flush() // an error is the stream's too
			st.mu.Lock()
			continue
		}
		st.writing.arm()
		st.changed.Wait()
	}
}

// CloseWrite ends writing.
func (st *Stream) CloseWrite() error {
	st.mu.Lock()
	if st.closed || st.ended || st.dead != nil {
		st.mu.Unlock()
		return nil
	}
	st.ended = true
	st.s.w.control(kindEnd, st.id, 0) // under mu: a close comes behind it
	st.mu.Unlock()
	st.s.w.kick()
	return nil
}

// SetLinger with 0 makes Close a reset.
func (st *Stream) SetLinger(sec int) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.abrupt = sec == 0
	return nil
}

// Refuse closes a stream of which nothing was looked at, or nothing behind what was answered, so that what was sent on it since may be sent again
// whatever it is. What was written still arrives.
func (st *Stream) Refuse() {
	st.mu.Lock()
	st.abrupt, st.unset = true, true
	st.mu.Unlock()
	if !st.spoke.Load() {
		st.s.nones.Add(1)
	}
	_ = st.Close() // it ends so or so
}

// Close is net.Conn's. What was written still arrives, unless it is a reset.
func (st *Stream) Close() error {
	st.mu.Lock()
	if st.closed {
		st.mu.Unlock()
		return nil
	}
	st.closed = true
	st.shut.Store(true)
	silent := st.dead != nil || st.gone // the other side has forgotten it
	k, why := kindClose, uint32(resetCut)
	if st.abrupt {
		k = kindReset
	}
	if st.unset {
		why = resetUnset
	}
	st.dropLocked()
	st.reading.stop()
	st.writing.stop()
	room := st.room
	st.s.c.Held.grow(-grown(st.window))
	resume := st.wakeLocked()
	st.mu.Unlock()
	if resume != nil {
		resume()
	}
	if !silent {
		st.s.w.control(k, st.id, why)
	}
	st.s.w.nudge()
	st.s.forget(st, room, !silent && k == kindReset)
	st.s.w.kick()
	return nil
}

// Quiet says whether the stream is as it was when it had been read to where it is now: nothing has come, and it can be written to.
func (st *Stream) Quiet() bool {
	if st.s.Leaving() {
		return false
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.unread.n == 0 && st.dead == nil && !st.eof && !st.closed && !st.ended
}

// Unread is how many bytes have come and weren't read.
func (st *Stream) Unread() int {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.unread.n
}

// Rest has resume called once, when something has come or ended, at until (unless that is zero), or by Wake; nobody may read meanwhile. False:
// that is so already, and resume isn't called. It must not block.
func (st *Stream) Rest(until time.Time, resume func()) bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.reading.set(until)
	if st.unread.n > 0 || st.dead != nil || st.eof || st.closed || st.reading.over {
		return false
	}
	st.reading.arm()
	st.resume = resume
	return true
}

// Wake ends a rest.
func (st *Stream) Wake() {
	st.mu.Lock()
	resume := st.resume
	st.resume = nil
	st.mu.Unlock()
	if resume != nil {
		resume()
	}
}

// LocalAddr is the carrying connection's.
func (st *Stream) LocalAddr() net.Addr { return st.s.nc.LocalAddr() }

// RemoteAddr is the carrying connection's.
func (st *Stream) RemoteAddr() net.Addr { return st.s.nc.RemoteAddr() }

// SetDeadline is net.Conn's.
func (st *Stream) SetDeadline(t time.Time) error {
	return errors.Join(st.SetReadDeadline(t), st.SetWriteDeadline(t))
}

// SetReadDeadline is net.Conn's.
func (st *Stream) SetReadDeadline(t time.Time) error { return st.setDeadline(&st.reading, t) }

// SetWriteDeadline is net.Conn's.
func (st *Stream) SetWriteDeadline(t time.Time) error { return st.setDeadline(&st.writing, t) }

func (st *Stream) setDeadline(d *deadline, t time.Time) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.closed {
		return net.ErrClosed
	}
	if d.set(t) {
		st.changed.Broadcast()
	}
	return nil
}
