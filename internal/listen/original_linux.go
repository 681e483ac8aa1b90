// SPDX-License-Identifier: Apache-2.0

package listen

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// originalDst6 is IP6T_SO_ORIGINAL_DST of the kernel's ip6_tables.h; unix has the one of IPv4, which is the same number.
const originalDst6 = 80

// OriginalDestination says where a connection of TCP was going before a rule of netfilter redirected it to the listener that
// accepted it. The error is that of a connection that wasn't redirected, or of one that isn't TCP.
func OriginalDestination(conn net.Conn) (netip.AddrPort, error) {
	for {
		inner, ok := conn.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		conn = inner.NetConn()
	}
	local, isTCP := conn.LocalAddr().(*net.TCPAddr)
	s, ok := conn.(syscall.Conn)
	if !ok || !isTCP {
		return netip.AddrPort{}, fmt.Errorf("original destination of a connection of network %q: %w", conn.LocalAddr().Network(), errors.ErrUnsupported)
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return netip.AddrPort{}, err
	}
	var out netip.AddrPort
	cerr := raw.Control(func(fd uintptr) {
		if local.IP.To4() != nil {
			out, err = original4(int(fd))
		} else {
			out, err = original6(int(fd))
		}
	})
	if err := errors.Join(cerr, err); err != nil {
		return netip.AddrPort{}, fmt.Errorf("original destination: %w", err)
	}
	return out, nil
}

// original4 asks for a sockaddr_in by way of the option whose value has the room for one.
func original4(fd int) (netip.AddrPort, error) {
	v, err := unix.GetsockoptIPv6Mreq(fd, unix.SOL_IP, unix.SO_ORIGINAL_DST)
	if err != nil {
		return netip.AddrPort{}, err
	}
	b := v.Multiaddr // family, port, address
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:8])), binary.BigEndian.Uint16(b[2:4])), nil
}

// original6 asks for a sockaddr_in6 in the same way.
func original6(fd int) (netip.AddrPort, error) {
	v, err := unix.GetsockoptIPv6MTUInfo(fd, unix.SOL_IPV6, originalDst6)
	if err != nil {
		return netip.AddrPort{}, err
	}
	port := v.Addr.Port // in the network's order, whatever this machine's is
	var b [2]byte
	binary.NativeEndian.PutUint16(b[:], port)
	return netip.AddrPortFrom(netip.AddrFrom16(v.Addr.Addr).Unmap(), binary.BigEndian.Uint16(b[:])), nil
}
