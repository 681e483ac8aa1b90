// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package listen

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
)

// ErrNotLocal says that a connection's other end is no open socket of this host, or is one no more.
var ErrNotLocal = errors.New("the caller is no process of this host, or has closed its socket")

// LocalUID is for Linux alone.
func LocalUID(net.Conn, netip.AddrPort) (uint32, error) {
	return 0, fmt.Errorf("who calls can be found on Linux alone: %w", errors.ErrUnsupported)
}
