// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package listen

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
)

// OriginalDestination can tell where a connection was going on Linux only; here its error wraps errors.ErrUnsupported.
func OriginalDestination(net.Conn) (netip.AddrPort, error) {
	return netip.AddrPort{}, fmt.Errorf("original destination: %w", errors.ErrUnsupported)
}
