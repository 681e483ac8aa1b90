// SPDX-License-Identifier: Apache-2.0

// Package records lets several TLS records go through one system call. crypto/tls writes each record of at most 16 KiB by a call of
// its own and gives one with each Read; a tunnel that carries much at once then spends half of its time on calls. A Conn beneath
// crypto/tls gathers what is written between Gather and Flush, and takes more from the socket than was asked for while Eager. As
// long as nobody asks for either, it passes on what it is given and holds no buffer.
package records

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"

	"github.com/weftmesh/weft/internal/nowait"
)

// Size is how much is read or written by one call, in bytes: four full records.
const Size = 4 * full

// full is a whole record as TLS 1.3 sends it: 16 KiB, its head, type and tag.
const full = 16<<10 + 5 + 1 + 16

var buffers = sync.Pool{New: func() any { return new([Size]byte) }}

// nothing is the error of a read that isn't to wait: crypto/tls goes on after a net.Error that says it is temporary, as a deadline does.
type nothing struct{}

func (nothing) Error() string   { return "nothing has come" }
func (nothing) Timeout() bool   { return true }
func (nothing) Temporary() bool { return true }

// Wrapped is a connection that something is put around, with what its socket can do beyond net.Conn.
type Wrapped struct{ net.Conn }

// NetConn returns the connection inside, such as a *net.TCPConn.
func (w Wrapped) NetConn() net.Conn { return w.Conn }

// SyscallConn gives access to the socket; it fails for in-memory connections.
func (w Wrapped) SyscallConn() (syscall.RawConn, error) {
	if c, ok := w.Conn.(syscall.Conn); ok {
		return c.SyscallConn()
	}
	return nil, fmt.Errorf("a connection of network %q has no socket", w.RemoteAddr().Network())
}

// SetLinger with 0 makes Close a reset, where the connection can do that.
func (w Wrapped) SetLinger(sec int) error {
	if c, ok := w.Conn.(interface{ SetLinger(int) error }); ok {
		return c.SetLinger(sec)
	}
	return nil
}

// CloseWrite ends writing where the connection can do that; otherwise it closes.
func (w Wrapped) CloseWrite() error {
	if c, ok := w.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return w.Close()
}

// Conn is a connection beneath crypto/tls. One goroutine at a time may use what reads, and one what writes, as crypto/tls does.
type Conn struct {
	Wrapped
	socket *nowait.Socket // nil where the connection is none

	eager   bool
	only    bool // give what is here, and don't wait
	in      *[Size]byte
	from, n int // what of in hasn't been asked for yet

	mu   sync.Mutex // guards what follows: who reads answers a change of keys
	hold bool
	out  *[Size]byte
	held int
}

// Under makes a Conn of a socket, for crypto/tls to use.
func Under(conn net.Conn) *Conn { return &Conn{Wrapped: Wrapped{conn}, socket: nowait.Of(conn)} }

// Of finds the Conn beneath a connection; nil if there is none.
func Of(conn net.Conn) *Conn {
	for {
		switch c := conn.(type) {
		case *Conn:
			return c
		case interface{ NetConn() net.Conn }:
			conn = c.NetConn()
		default:
			return nil
		}
	}
}

// Eager has reads take more from the socket than was asked for, or not. Only the goroutine that reads may call it.
func (c *Conn) Eager(on bool) { c.eager = on }

// Only runs read, during which reads of c give what has come already, and fail instead of waiting for more. Read is a few reads of
// the TLS connection above c.
func (c *Conn) Only(read func() (int, error)) (int, error) {
	c.only = true
	n, err := read()
	c.only = false
	if errors.Is(err, nothing{}) {
		err = nil
	}
	return n, err
}

// Read reads what has come; see Eager and Only.
func (c *Conn) Read(p []byte) (int, error) {
	if c.in == nil {
		switch {
		case c.only:
			return 0, nothing{}
		case !c.eager || len(p) >= Size:
			return c.read(p)
		}
		in := buffers.Get().(*[Size]byte)
		n, err := c.read(in[:])
		if n == 0 {
			buffers.Put(in)
			return 0, err
		}
		c.in, c.from, c.n = in, 0, n // an error besides comes again with the next read
	}
	n := copy(p, c.in[c.from:c.n])
	if c.from += n; c.from == c.n {
		buffers.Put(c.in)
		c.in = nil
	}
	return n, nil
}

func (c *Conn) read(p []byte) (int, error) {
	if c.socket != nil {
		return c.socket.Read(p)
	}
	return c.Conn.Read(p)
}

func (c *Conn) write(p []byte) (int, error) {
	if c.socket != nil {
		return c.socket.Write(p)
	}
	return c.Conn.Write(p)
}

// Gather holds back what is written from now on, until Flush, or until it is Size.
func (c *Conn) Gather() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hold = true
}

// Flush writes what was held back, and holds nothing back any more.
func (c *Conn) Flush() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hold = false
	return c.flushLocked()
}

func (c *Conn) flushLocked() error {
	if c.out == nil {
		return nil
	}
	out := c.out
	c.out = nil
	_, err := c.write(out[:c.held])
	c.held = 0
	buffers.Put(out)
	return err
}

// Record is as much as TLS puts into one record.
const Record = 16 << 10

// Write writes p to conn, several TLS records by one call where conn is TLS and under, which Of gave for it, isn't nil.
func Write(conn net.Conn, under *Conn, p []byte) (int, error) {
	if under == nil || len(p) <= Record {
		return conn.Write(p)
	}
	under.Gather()
	n, err := conn.Write(p)
	if more := under.Flush(); err == nil {
		err = more
	}
	return n, err
}

// Write writes p, or holds it back; see Gather.
func (c *Conn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held+len(p) > Size {
		if err := c.flushLocked(); err != nil {
			return 0, err
		}
	}
	if !c.hold || len(p) > Size {
		return c.write(p)
	}
	if c.out == nil {
		c.out = buffers.Get().(*[Size]byte)
	}
	c.held += copy(c.out[c.held:], p)
	return len(p), nil
}
