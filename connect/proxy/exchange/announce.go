// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"github.com/weftmesh/weft/connect/proxy/config"
)

// announce says on a new connection who calls, by the PROXY protocol. It closes what it can't write to.
func announce(conn net.Conn, form config.ProxyProtocol, peer *config.Peer) error {
	if form == config.NoProxyProtocol {
		return nil
	}
	if peer == nil {
		peer = &noPeer
	}
	head := proxyHead(form, peer.Remote, peer.Local)
	if _, err := conn.Write(head); err != nil {
		_ = conn.Close()
		return fmt.Errorf("saying who calls: %w", err)
	}
	return nil
}

// proxyHead is the PROXY protocol's head (HAProxy's proxy-protocol.txt, 2.1 and 2.2). Addresses that there aren't, or of two families,
// are those of a connection that nobody knows.
func proxyHead(form config.ProxyProtocol, from, to netip.AddrPort) []byte {
	src, dst := from.Addr().Unmap().WithZone(""), to.Addr().Unmap().WithZone("")
	known := src.IsValid() && dst.IsValid() && src.Is4() == dst.Is4()
	if form == config.ProxyProtocolV1 {
		if !known {
			return []byte("PROXY UNKNOWN\r\n")
		}
		family := "TCP6"
		if src.Is4() {
			family = "TCP4"
		}
		return fmt.Appendf(nil, "PROXY %s %s %s %d %d\r\n", family, src, dst, from.Port(), to.Port())
	}
	out := []byte("\r\n\r\n\x00\r\nQUIT\n")
	if !known {
		return append(out, 0x20, 0, 0, 0) // LOCAL
	}
	family := byte(0x21) // TCP over IPv6
	if src.Is4() {
		family = 0x11
	}
	addresses := append(src.AsSlice(), dst.AsSlice()...)
	out = append(out, 0x21, family)
	out = binary.BigEndian.AppendUint16(out, uint16(len(addresses)+4))
	out = append(out, addresses...)
	out = binary.BigEndian.AppendUint16(out, from.Port())
	return binary.BigEndian.AppendUint16(out, to.Port())
}
