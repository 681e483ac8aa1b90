// SPDX-License-Identifier: Apache-2.0

package plane

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"

	"github.com/weftmesh/weft/internal/guard"
)

// oldest is the oldest TLS that is spoken.
func oldest() uint16 {
	if guard.Off("C89") {
		return tls.VersionTLS10
	}
	return tls.VersionTLS13
}

// ServerTLS is the configuration for the next connection that comes in (listen.Spec.TLS).
func (p *Plane) ServerTLS() *tls.Config {
	m := p.current()
	c := &tls.Config{
		MinVersion: oldest(), NextProtos: p.protocols(), SessionTicketsDisabled: true, Time: p.c.Now,
		ClientAuth: tls.RequestClientCert,
		VerifyConnection: func(cs tls.ConnectionState) error {
			return p.verifyIncoming(m, cs)
		},
	}
	if m.cert != nil {
		c.Certificates = []tls.Certificate{*m.cert}
	}
	return c
}

// protocols are those of the port. Where identities are of another source, nobody joins.
func (p *Plane) protocols() []string {
	if p.mode != Joined {
		return []string{Raft, Reads, GRPC, HTTP}
	}
	return []string{Raft, Reads, GRPC, HTTP, Join}
}

func (p *Plane) verifyIncoming(m *material, cs tls.ConnectionState) error {
	if cs.NegotiatedProtocol == "" {
		return fmt.Errorf("%w: it doesn't say by ALPN what it wants to speak", ErrRefused)
	}
	if !p.Verified() || cs.NegotiatedProtocol == Join && len(cs.PeerCertificates) == 0 {
		return nil
	}
	peer, err := m.verify(p, cs.PeerCertificates)
	if err != nil {
		return err
	}
	if cs.NegotiatedProtocol != Raft && cs.NegotiatedProtocol != Reads || p.mode == Files && !p.c.Files.VerifyServerHostname {
		return nil
	}
	if !peer.Server || peer.Datacenter != p.c.Datacenter {
		return fmt.Errorf("%w: %s isn't a server of %s, and only those may speak %s", ErrRefused, peer.Subject, p.c.Datacenter, cs.NegotiatedProtocol)
	}
	return nil
}

// Dial connects to a server of a datacenter ("" is this node's) and speaks a protocol of the port. The connection's
// handshake is done; what the server makes of this node's certificate shows with the first read.
func (p *Plane) Dial(ctx context.Context, address, datacenter, protocol string) (net.Conn, error) {
	if datacenter == "" {
		datacenter = p.c.Datacenter
	}
	raw, err := p.c.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	m := p.current()
	c := &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{protocol}, SessionTicketsDisabled: true, Time: p.c.Now,
		ServerName:         serverName(datacenter, p.c.Domain),
		InsecureSkipVerify: true, // VerifyConnection does it, by the rules of where identities come from
		VerifyConnection:   func(cs tls.ConnectionState) error { return p.verifyOutgoing(m, cs, datacenter, protocol) },
	}
	if m.cert != nil {
		c.Certificates = []tls.Certificate{*m.cert}
	}
	return clientSide(ctx, raw, address, c)
}

// clientSide does the handshake of who dialled raw, which it closes where that fails.
func clientSide(ctx context.Context, raw net.Conn, address string, c *tls.Config) (net.Conn, error) {
	conn := tls.Client(raw, c)
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close() //nolint:errcheck // the handshake's error is what counts
		return nil, fmt.Errorf("connect to the server at %s: %w", address, err)
	}
	return conn, nil
}

func (p *Plane) verifyOutgoing(m *material, cs tls.ConnectionState, datacenter, protocol string) error {
	if cs.NegotiatedProtocol != protocol {
		return fmt.Errorf("%w: it doesn't speak %s: is it a weft server?", ErrRefused, protocol)
	}
	f := p.c.Files
	if p.mode == Open || p.mode == Files && !f.VerifyOutgoing && !f.VerifyServerHostname {
		return nil
	}
	peer, err := m.verify(p, cs.PeerCertificates)
	if err != nil {
		return err
	}
	if p.mode == Files && !f.VerifyServerHostname {
		return nil
	}
	if !peer.Server || peer.Datacenter != datacenter {
		return fmt.Errorf("%w: %s isn't a server of %s", ErrRefused, peer.Subject, datacenter)
	}
	return nil
}
