// SPDX-License-Identifier: Apache-2.0

package listen

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"

	"github.com/weftmesh/weft/internal/records"
)

// Conn is an accepted connection that is counted until it is closed. For TLS it
// is what (*tls.Conn).NetConn returns. Copies between two Conns go through the
// kernel (splice) where the two sockets allow it.
type Conn struct {
	records.Wrapped
	l       *Listener
	shaking *shaking // of the goroutine that does the handshake; nil before and after
	// unwatched: see Spec.Brief.
	unwatched atomic.Bool

	mu     sync.Mutex
	holder holder
	closed bool
}

var (
	_ io.ReaderFrom = (*Conn)(nil)
	_ io.WriterTo   = (*Conn)(nil)
)

// Socket returns the connection inside where reading and writing on this one are nothing more than on that: of a plain connection,
// not of one that TLS is spoken on.
func (c *Conn) Socket() net.Conn { return c.Conn }

// Close closes the connection and gives its place back. A second call returns
// net.ErrClosed.
func (c *Conn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	c.closed = true
	c.l.counts.leave(c.holder)
	c.l.open.Dec()
	return c.Conn.Close()
}

// CloseWrite ends writing where the connection can do that; otherwise it closes.
func (c *Conn) CloseWrite() error {
	if w, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return c.Close()
}

// ReadFrom copies r to the connection until r ends.
func (c *Conn) ReadFrom(r io.Reader) (int64, error) {
	if in, ok := r.(*Conn); ok {
		r = in.Conn
	}
	return io.Copy(c.Conn, r)
}

// WriteTo copies the connection to w until the far end has finished.
func (c *Conn) WriteTo(w io.Writer) (int64, error) {
	if out, ok := w.(*Conn); ok {
		w = out.Conn
	}
	return io.Copy(w, c.Conn)
}

// Authenticate counts a connection of a Listener, plain or TLS, for an identity
// that it has proved in some way of its own (a token, peer credentials) instead
// of its address. It returns ErrTooMany, wrapped, if the identity has its
// maximum: then close the connection. For connections that didn't come through
// a Door it does nothing.
func Authenticate(conn net.Conn, identity string) error {
	c := unwrap(conn)
	if c == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	next := holder{identity: true, name: identity}
	if c.closed || c.holder == next {
		return nil
	}
	if !c.l.counts.enter(next, c.l.limits.MaxPerIdentity) {
		c.l.refuse(reasonIdentity)
		return fmt.Errorf("%w: %s has %d on listener %q", ErrTooMany, identity, c.l.limits.MaxPerIdentity, c.l.spec.Name)
	}
	c.l.counts.leave(c.holder)
	c.holder = next
	return nil
}

// unwrap finds the Conn in what Accept returned; nil if there is none.
func unwrap(conn net.Conn) *Conn {
	if t, ok := conn.(*tls.Conn); ok {
		conn = t.NetConn()
	}
	c, _ := conn.(*Conn)
	return c
}
