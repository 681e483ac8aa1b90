// SPDX-License-Identifier: Apache-2.0

// Package nowait reads from sockets and writes to them by system calls of which Go's scheduler isn't told. A socket of package net never
// blocks in such a call, it says EAGAIN; but Go has to suppose that each call may, and gives the thread's processor away when one has taken
// longer than some 20 µs. On a machine that is busy, a write that wakes its reader often does: then another thread is woken to go on, finds
// this one back, and sleeps again, and the thread that looks for such calls looks every 20 µs, all for nothing. In a proxy that was a tenth of
// the processor time. To wait for a socket stays package net's, with its deadlines and its Close. It starts no goroutine.
package nowait

import (
	"io"
	"net"
	"sync/atomic"
	"syscall"
)

// most is how much goes by one such call: what copies longer holds up a collection, which waits for it.
const most = 64 << 10

// Large is what a read has to give, in bytes, to count as one of bulk.
const Large = 16 << 10

var moved atomic.Uint64

// Moved is how many bytes this process has read so far by calls that gave Large or more each.
func Moved() uint64 { return moved.Load() }

// Socket reads from a socket and writes to it. One goroutine at a time may read, and one write; either may do so on the connection itself
// at other times.
type Socket struct {
	conn    net.Conn
	raw     syscall.RawConn
	in, out pending
}

// pending is what a read or a write is about. Its function is bound once, so that a call allocates nothing.
type pending struct {
	p   []byte
	of  Lender // of p, if any
	n   int
	err syscall.Errno
	try func(fd uintptr) bool
}

// Lender has room for what has come.
type Lender interface {
	// Lend gives room, of at least one byte.
	Lend() []byte
	// Back takes it back: nothing is there yet.
	Back()
}

// Of gives the socket of a *net.TCPConn or a *net.UnixConn, or of what says by a method Socket that it is nothing more than one of these. It gives
// nil for any other connection, or where this system has no such calls.
func Of(conn net.Conn) *Socket {
	var raw syscall.RawConn
	var err error
	switch c := conn.(type) {
	case *net.TCPConn:
		raw, err = c.SyscallConn()
	case *net.UnixConn:
		raw, err = c.SyscallConn()
	case interface{ Socket() net.Conn }:
		return Of(c.Socket())
	default:
		return nil
	}
	if err != nil || !able {
		return nil
	}
	s := &Socket{conn: conn, raw: raw}
	s.in.try, s.out.try = s.in.read, s.out.write
	return s
}

// Read is the connection's.
func (s *Socket) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return s.conn.Read(p)
	}
	s.in.p = p
	return s.read()
}

// ReadInto is Read into room that l lends for as long as it takes to look whether something is there. After an error or at the end l's room isn't given
// back.
func (s *Socket) ReadInto(l Lender) (int, error) {
	s.in.of = l
	return s.read()
}

func (s *Socket) read() (int, error) {
	err := s.raw.Read(s.in.try)
	s.in.p, s.in.of = nil, nil
	switch {
	case err != nil:
		return 0, err
	case s.in.err != 0:
		return 0, s.failed("read", s.in.err)
	case s.in.n == 0:
		return 0, io.EOF
	case s.in.n >= Large:
		moved.Add(uint64(s.in.n))
	}
	return s.in.n, nil
}

// Write is the connection's.
func (s *Socket) Write(p []byte) (int, error) {
	if len(p) == 0 || len(p) > most {
		return s.conn.Write(p)
	}
	s.out.p, s.out.n = p, 0
	err := s.raw.Write(s.out.try)
	s.out.p = nil
	if err == nil && s.out.err != 0 {
		err = s.failed("write", s.out.err)
	}
	return s.out.n, err
}

func (s *Socket) failed(op string, err syscall.Errno) error {
	return &net.OpError{Op: op, Net: s.conn.LocalAddr().Network(), Source: s.conn.LocalAddr(), Addr: s.conn.RemoteAddr(), Err: err}
}

func (r *pending) read(fd uintptr) bool {
	if r.of != nil {
		r.p = r.of.Lend()
	}
	r.n, r.err = Read(fd, r.p[:min(len(r.p), most)])
	if r.err != syscall.EAGAIN {
		return true
	}
	if r.of != nil {
		r.of.Back()
	}
	return false
}

func (w *pending) write(fd uintptr) bool {
	for w.n < len(w.p) {
		var n int
		n, w.err = Write(fd, w.p[w.n:])
		if w.err != 0 {
			return w.err != syscall.EAGAIN
		}
		w.n += n
	}
	return true
}
