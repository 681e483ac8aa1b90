// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package listen

import (
	"errors"
	"fmt"
	"net"
)

// Peer is the process at the other end of a Unix socket.
type Peer struct {
	PID      int
	UID, GID uint32
}

// PeerOf can tell the peer on Linux only; here its error wraps errors.ErrUnsupported.
func PeerOf(net.Conn) (Peer, error) {
	return Peer{}, fmt.Errorf("peer of a Unix socket: %w", errors.ErrUnsupported)
}
