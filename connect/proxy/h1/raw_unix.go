// SPDX-License-Identifier: Apache-2.0

//go:build unix

package h1

import (
	"io"
	"net"
	"syscall"

	"github.com/weftmesh/weft/internal/nowait"
)

// initRaw takes the raw form of a plain socket, by its concrete type: a wrapper's Read is passed by only where it says that it adds
// nothing.
func (r *reader) initRaw() {
	var err error
	switch c := socketOf(r.conn).(type) {
	case *net.TCPConn:
		r.raw, err = c.SyscallConn()
	case *net.UnixConn:
		r.raw, err = c.SyscallConn()
	default:
		return
	}
	if err != nil {
		r.raw = nil
		return
	}
	r.try = r.tryRead
}

// tryRead reads where bytes are there; where none are it gives the buffer back and asks to be called again.
func (r *reader) tryRead(fd uintptr) bool {
	r.borrow()
	if r.tryN, r.tryErr = nowait.Read(fd, r.buf); r.tryErr == syscall.EAGAIN {
		r.release()
		return false
	}
	return true
}

func (r *reader) waitRaw() error {
	if err := r.raw.Read(r.try); err != nil {
		return err
	}
	switch {
	case r.tryErr != 0:
		r.release()
		return &net.OpError{Op: "read", Net: r.conn.LocalAddr().Network(), Addr: r.conn.RemoteAddr(), Err: r.tryErr}
	case r.tryN <= 0:
		r.release()
		return io.EOF
	}
	r.w = r.tryN
	r.got += int64(r.tryN)
	return nil
}

// peeker asks a socket whether anything has arrived. Its function is bound once, so that asking allocates nothing.
type peeker struct {
	raw   syscall.RawConn
	look  func(fd uintptr)
	room  [1]byte
	still bool
}

func (p *peeker) init(raw syscall.RawConn) { p.raw, p.look = raw, p.peek }

func (p *peeker) peek(fd uintptr) {
	_, err := nowait.Peek(fd, &p.room)
	p.still = err == syscall.EAGAIN
}

// quiet says whether an idle connection has received nothing, not even its end.
func (p *peeker) quiet() bool {
	p.still = false
	return p.raw.Control(p.look) == nil && p.still
}
