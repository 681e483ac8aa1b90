// SPDX-License-Identifier: Apache-2.0

package listen

import (
	"errors"
	"fmt"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// Peer is the process at the other end of a Unix socket, as the kernel saw it
// when it connected. The pid may have been reused since; the ids hold.
type Peer struct {
	PID      int
	UID, GID uint32
}

// PeerOf returns the peer of a connection that a Door's Unix listener accepted.
// For any other connection the error wraps errors.ErrUnsupported.
func PeerOf(conn net.Conn) (Peer, error) {
	s, ok := conn.(syscall.Conn)
	if !ok || conn.RemoteAddr().Network() != "unix" {
		return Peer{}, fmt.Errorf("peer of a connection of network %q: %w", conn.RemoteAddr().Network(), errors.ErrUnsupported)
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return Peer{}, err
	}
	var cred *unix.Ucred
	cerr := raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err := errors.Join(cerr, err); err != nil {
		return Peer{}, fmt.Errorf("peer of a Unix socket: %w", err)
	}
	return Peer{PID: int(cred.Pid), UID: cred.Uid, GID: cred.Gid}, nil
}
