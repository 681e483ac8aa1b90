// SPDX-License-Identifier: Apache-2.0

// Package records lets several TLS records go through one system call. crypto/tls writes each record of at most 16 KiB by a call of
// its own and gives one with each Read; a tunnel that carries much at once then spends half of its time on calls. A Conn beneath
// crypto/tls gathers what is written between Gather and Flush, and takes more from the socket than it was asked for while this package's Read
// reads. As long as nobody asks for either, it passes on what it is given and holds no buffer.
package records

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/weftmesh/weft/internal/nowait"
)

const (
	// Record is as much as TLS puts into one record, in bytes.
	Record = 16 << 10
	// around is what a record has besides, in TLS 1.3: its head, type and tag.
	around = 5 + 1 + 16
	// segment is what the kernel sends as one on a connection of 1,448 bytes a packet (45 of them are within its 64 KiB less heads), and on the
	// loopback, where a packet has 65,483. What is a little longer is sent as two, each with the whole way through the kernel, a wake of the
	// reader, and a read by which it gets a piece of a record.
	segment = 45 * 1448
	// Batch is how much is best carried by one call, in bytes: of four records that are a segment.
	Batch = segment - 4*around
	// size is a buffer's: four full records.
	size = 4 * (Record + around)
)

// mostGathering is how many connections hold something back at once. What those that nobody reads hold stays: others write as they would without this.
const mostGathering = 512

var gathering atomic.Int64

var buffers = sync.Pool{New: func() any { return new([size]byte) }}

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

	most    int  // that is taken from the socket, if more than was asked for; else 0
	only    bool // give what is here, and don't wait
	in      *[size]byte
	from, n int // what of in hasn't been asked for yet

	mu   sync.Mutex // guards what follows: who reads answers a change of keys
	hold bool
	out  *[size]byte
	held int
}

// Under makes a Conn of a socket, for crypto/tls to use.
func Under(conn net.Conn) *Conn { return &Conn{Wrapped: Wrapped{conn}, socket: nowait.Of(conn)} }

// Of finds the Conn beneath a TLS connection; nil if there is none.
func Of(conn net.Conn) *Conn {
	secure := false
	for {
		switch c := conn.(type) {
		case *Conn:
			if !secure {
				return nil
			}
			return c
		case interface{ NetConn() net.Conn }:
			if _, ok := conn.(*tls.Conn); ok {
				secure = true
			}
			conn = c.NetConn()
		default:
			return nil
		}
	}
}

// Read reads into p what has come, at least something, several TLS records by one call where conn is TLS, under, which Of gave for it, isn't nil,
// and p has room for more than one. It takes hardly more from the socket than p has room for: what comes behind stays there, to be seen, or see Holds.
func Read(conn net.Conn, under *Conn, p []byte) (n int, err error) {
	if under == nil || len(p) <= Record {
		return conn.Read(p)
	}
	under.most = min(len(p)+(len(p)+Record-1)/Record*around, size)
	n, err = conn.Read(p)
	under.only = true
	for n > 0 && n < len(p) && err == nil {
		var more int
		more, err = conn.Read(p[n:])
		n += more
	}
	under.only, under.most = false, 0
	if errors.Is(err, nothing{}) {
		err = nil
	}
	return n, err
}

// Holds says whether something was taken from the socket that nobody has read: behind what was asked for there may be a little more where a record
// had come in pieces. Only the goroutine that reads may ask.
func (c *Conn) Holds() bool { return c.in != nil }

// Read gives what has come; see the function Read.
func (c *Conn) Read(p []byte) (int, error) {
	if c.in == nil {
		switch {
		case c.only:
			return 0, nothing{}
		case len(p) >= c.most:
			return c.read(p)
		}
		if err := c.fill(); c.in == nil {
			return 0, err
		}
	}
	n := copy(p, c.in[c.from:c.n])
	if c.from += n; c.from == c.n {
		c.letGo()
	}
	return n, nil
}

// fill waits for something, which is in c.in then, unless there is nothing. An error besides comes again with the next read.
func (c *Conn) fill() (err error) {
	if c.from = 0; c.socket != nil {
		c.n, err = c.socket.ReadInto((*lender)(c))
	} else {
		c.n, err = c.Conn.Read((*lender)(c).Lend())
	}
	if c.n > 0 {
		return nil
	}
	c.letGo()
	return err
}

func (c *Conn) letGo() {
	if c.in != nil {
		buffers.Put(c.in)
		c.in = nil
	}
}

// lender gives a Conn's socket the buffer to read into: none is held while nothing has come.
type lender Conn

// Lend gives the buffer.
func (l *lender) Lend() []byte {
	l.in = buffers.Get().(*[size]byte)
	return l.in[:l.most]
}

// Back takes the buffer back in which nothing is.
func (l *lender) Back() { (*Conn)(l).letGo() }

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

// Gather holds back what is written from now on, until Flush, or until it is four full records.
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
	gathering.Add(-1)
	return err
}

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
	if c.held+len(p) > size {
		if err := c.flushLocked(); err != nil {
			return 0, err
		}
	}
	if !c.hold || len(p) > size {
		return c.write(p)
	}
	if c.out == nil {
		if gathering.Add(1) > mostGathering {
			gathering.Add(-1)
			return c.write(p)
		}
		c.out = buffers.Get().(*[size]byte)
	}
	c.held += copy(c.out[c.held:], p)
	return len(p), nil
}
