// SPDX-License-Identifier: Apache-2.0

package memnet

import (
	"io"
	"net"
	"sync"
	"syscall"
	"time"
)

// Conn is one end of a stream connection. Beyond net.Conn it has CloseWrite and
// SetLinger, as *net.TCPConn has.
type Conn struct {
	local, remote Addr
	in, out       *stream // out of the one end is in of the other
	linger0       bool    // guarded by out.mu
}

// Pipe returns the two ends of a connection: the first is called a, the second b.
func Pipe(a, b Addr) (near, far *Conn) {
	ab, ba := newStream(), newStream()
	return &Conn{local: a, remote: b, in: ba, out: ab}, &Conn{local: b, remote: a, in: ab, out: ba}
}

// Read reads what the far end wrote; io.EOF after its CloseWrite or Close and
// all that it had written, syscall.ECONNRESET after a reset,
// os.ErrDeadlineExceeded past the deadline, net.ErrClosed after Close here.
func (c *Conn) Read(p []byte) (int, error) {
	n, err := c.in.read(p)
	return n, c.wrap("read", err)
}

// Write blocks while the far end has 64 KiB unread. It returns how much it took
// and, where that isn't everything, why: syscall.EPIPE once the far end has
// closed, else as Read. Concurrent writes don't interleave.
func (c *Conn) Write(p []byte) (int, error) {
	n, err := c.out.write(p)
	return n, c.wrap("write", err)
}

// Close ends both directions. The far end still reads what was written, unless
// SetLinger(0) asked for a reset.
func (c *Conn) Close() error {
	c.out.mu.Lock()
	linger0 := c.linger0
	c.out.mu.Unlock()
	if linger0 {
		c.reset()
		return nil
	}
	c.out.closeWriter(nil)
	c.in.closeReader()
	return nil
}

// CloseWrite tells the far end that nothing more will be written; reading goes on.
func (c *Conn) CloseWrite() error {
	c.out.finish()
	return nil
}

// SetLinger with 0 seconds makes Close a reset: the far end loses what it hasn't
// read and gets syscall.ECONNRESET. Other values restore the default.
func (c *Conn) SetLinger(sec int) error {
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	c.linger0 = sec == 0
	return nil
}

func (c *Conn) reset() {
	c.out.closeWriter(syscall.ECONNRESET)
	c.in.closeReader()
}

// LocalAddr returns this end's name.
func (c *Conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr returns the far end's name.
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline sets both deadlines. A zero time means none.
func (c *Conn) SetDeadline(t time.Time) error {
	c.in.setDeadline(&c.in.readBy, t)
	c.out.setDeadline(&c.out.writeBy, t)
	return nil
}

// SetReadDeadline sets when a Read, blocked or later, fails with os.ErrDeadlineExceeded.
func (c *Conn) SetReadDeadline(t time.Time) error {
	c.in.setDeadline(&c.in.readBy, t)
	return nil
}

// SetWriteDeadline sets when a Write, blocked or later, fails with os.ErrDeadlineExceeded.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.out.setDeadline(&c.out.writeBy, t)
	return nil
}

// wrap makes errors look like those of the net package; io.EOF stays bare.
func (c *Conn) wrap(op string, err error) error {
	if err == nil || err == io.EOF { //nolint:errorlint // io.EOF is never wrapped here
		return err
	}
	return &net.OpError{Op: op, Net: network, Source: c.local, Addr: c.remote, Err: err}
}

var _ net.Conn = (*Conn)(nil)

// guard is a lock with a condition and deadlines that wake its waiters.
type guard struct {
	mu   sync.Mutex
	cond sync.Cond // on mu; any change of state broadcasts
}

// deadline is guarded by its guard's mu.
type deadline struct {
	timer  *time.Timer
	passed bool
}

func (g *guard) setDeadline(d *deadline, t time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	d.stop()
	switch wait := time.Until(t); {
	case t.IsZero():
	case wait <= 0:
		d.passed = true
	default:
		var timer *time.Timer
		timer = time.AfterFunc(wait, func() {
			g.mu.Lock()
			defer g.mu.Unlock()
			if d.timer == timer { // not replaced meanwhile
				d.passed = true
				g.cond.Broadcast()
			}
		})
		d.timer = timer
	}
	g.cond.Broadcast()
}

func (d *deadline) stop() {
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	d.passed = false
}
