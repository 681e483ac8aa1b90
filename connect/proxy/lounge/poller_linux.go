// SPDX-License-Identifier: Apache-2.0

package lounge

import (
	"errors"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const able = true

// poller is an epoll instance of our own. It is itself waited for by Go's, so that it takes no thread.
type poller struct {
	fd     int
	file   *os.File
	raw    syscall.RawConn
	events [128]unix.EpollEvent
	tokens [128]uint64
}

func newPoller() (*poller, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // by which os knows that it can be waited for
		_ = unix.Close(fd) // nothing is in it
		return nil, os.NewSyscallError("fcntl", err)
	}
	p := &poller{fd: fd, file: os.NewFile(uintptr(fd), "epoll")}
	if p.raw, err = p.file.SyscallConn(); err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

func (p *poller) close() { _ = p.file.Close() } // what was in it is in the caller's hands

// wakeAt has wait return at a time at the latest; zero: never because of the time.
func (p *poller) wakeAt(t time.Time) { _ = p.file.SetReadDeadline(t) } // it fails only where the poller is closed

// wait gives the tokens of connections on which something has come, or none when its time is there. They are told of once.
func (p *poller) wait() ([]uint64, error) {
	n, fault := 0, error(nil)
	err := p.raw.Read(func(uintptr) bool {
		n, fault = unix.EpollWait(p.fd, p.events[:], 0)
		if errors.Is(fault, unix.EINTR) {
			n, fault = 0, nil
			return true
		}
		return fault != nil || n > 0
	})
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil, nil
	}
	if err = errors.Join(err, os.NewSyscallError("epoll_wait", fault)); err != nil {
		return nil, err
	}
	for i, e := range p.events[:n] {
		p.tokens[i] = uint64(uint32(e.Fd)) | uint64(uint32(e.Pad))<<32
	}
	return p.tokens[:n], nil
}

// add has a connection watched until something comes, once.
func (p *poller) add(conn net.Conn, token uint64) bool {
	return p.control(conn, func(fd int) error {
		return unix.EpollCtl(p.fd, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{
			Events: unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLONESHOT, Fd: int32(uint32(token)), Pad: int32(uint32(token >> 32)),
		})
	})
}

// remove undoes add; of what is closed, or wasn't added, there is nothing to undo.
func (p *poller) remove(conn net.Conn) {
	p.control(conn, func(fd int) error { return unix.EpollCtl(p.fd, unix.EPOLL_CTL_DEL, fd, nil) })
}

func (p *poller) control(conn net.Conn, do func(fd int) error) bool {
	s := socketOf(conn)
	if s == nil {
		return false
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return false
	}
	var fault error
	err = raw.Control(func(fd uintptr) { fault = do(int(fd)) })
	return err == nil && fault == nil
}
