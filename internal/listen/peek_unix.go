// SPDX-License-Identifier: Apache-2.0

//go:build unix

package listen

import (
	"errors"
	"net"
	"os"
	"syscall"
	"time"
)

// peek looks at the first byte of a connection without taking it, for at most wait; said is false where none came. It isn't ok
// where the connection can't be looked at, or has ended.
func peek(c net.Conn, wait time.Duration) (first byte, said, ok bool) {
	s, isSocket := c.(syscall.Conn)
	if !isSocket {
		return 0, false, false
	}
	raw, err := s.SyscallConn()
	if err != nil || c.SetReadDeadline(time.Now().Add(wait)) != nil {
		return 0, false, false
	}
	var b [1]byte
	n, fault := 0, error(nil)
	err = raw.Read(func(fd uintptr) bool {
		for {
			n, _, fault = syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK)
			if !errors.Is(fault, syscall.EINTR) {
				return !errors.Is(fault, syscall.EAGAIN)
			}
		}
	})
	if c.SetReadDeadline(time.Time{}) != nil {
		return 0, false, false
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return 0, false, true
	}
	return b[0], true, err == nil && fault == nil && n == 1
}
