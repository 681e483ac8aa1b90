// SPDX-License-Identifier: Apache-2.0

//go:build unix && (!linux || race)

package nowait

import "syscall"

// Elsewhere, and where the race detector has to see what happens before what, the calls are the usual ones.
const able = true

// Read reads from a file descriptor that doesn't block; 0 bytes without an error are the end. p has at least one byte.
func Read(fd uintptr, p []byte) (int, syscall.Errno) {
	return again(func() (int, error) { return syscall.Read(int(fd), p) })
}

// Write writes to a file descriptor that doesn't block. p has at least one byte.
func Write(fd uintptr, p []byte) (int, syscall.Errno) {
	return again(func() (int, error) { return syscall.Write(int(fd), p) })
}

// Peek looks at a socket's next byte and leaves it there; 0 bytes without an error are the end.
func Peek(fd uintptr, p *[1]byte) (int, syscall.Errno) {
	return again(func() (int, error) {
		n, _, err := syscall.Recvfrom(int(fd), p[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		return n, err
	})
}

func again(call func() (int, error)) (int, syscall.Errno) {
	for {
		n, err := call()
		errno, failed := err.(syscall.Errno)
		switch {
		case !failed:
			return n, 0
		case errno != syscall.EINTR:
			return 0, errno
		}
	}
}
