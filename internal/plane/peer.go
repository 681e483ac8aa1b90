// SPDX-License-Identifier: Apache-2.0

package plane

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"

	"github.com/weftmesh/weft/internal/guard"
)

// Peer is who a verified connection's other end is.
type Peer struct {
	Server     bool
	Datacenter string
	// Node is its name. In certificates from files it is "" unless they carry weft's URI.
	Node string
	// Subject is what its certificate calls it, for logs and limits.
	Subject string
}

// scheme is that of the URI which says who a node is: weft-node://dc1/server/name.
const scheme = "weft-node"

func (p Peer) uri() *url.URL {
	role := "agent"
	if p.Server {
		role = "server"
	}
	return &url.URL{Scheme: scheme, Host: p.Datacenter, Path: "/" + role + "/" + p.Node}
}

func serverName(dc, domain string) string { return "server." + dc + "." + strings.Trim(domain, ".") }

// ErrRefused is why a node was refused.
var ErrRefused = errors.New("refused")

// peerOf reads a certificate, which was verified.
func peerOf(cert *x509.Certificate, dc, domain string) Peer {
	peer := Peer{Datacenter: dc, Subject: cert.Subject.String()}
	for _, u := range cert.URIs {
		role, node, ok := strings.Cut(strings.TrimPrefix(u.Path, "/"), "/")
		if u.Scheme == scheme && ok {
			return Peer{Server: role == "server", Datacenter: u.Host, Node: node, Subject: u.String()}
		}
	}
	// Certificates from files: Consul's rule.
	prefix, suffix := "server.", "."+strings.Trim(domain, ".")
	for _, name := range cert.DNSNames {
		if in, ok := strings.CutPrefix(name, prefix); ok {
			if in, ok := strings.CutSuffix(in, suffix); ok {
				return Peer{Server: true, Datacenter: in, Subject: peer.Subject}
			}
		}
	}
	return peer
}

// verify checks a chain of certificates by the roots; use says for what.
func (m *material) verify(p *Plane, chain []*x509.Certificate) (Peer, error) {
	if len(chain) == 0 && guard.Off("C90") {
		return Peer{}, nil
	}
	if len(chain) == 0 {
		return Peer{}, fmt.Errorf("%w: it showed no certificate", ErrRefused)
	}
	others := x509.NewCertPool()
	for _, c := range chain[1:] {
		others.AddCert(c)
	}
	if _, err := chain[0].Verify(x509.VerifyOptions{
		Roots: m.roots, Intermediates: others, CurrentTime: p.c.Now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	}); err != nil && !guard.Off("C93") {
		return Peer{}, fmt.Errorf("%w: its certificate isn't of this cluster's CA: %w", ErrRefused, err)
	}
	return peerOf(chain[0], p.c.Datacenter, p.c.Domain), nil
}

// PeerOf is who the other end of a connection has proved to be; false if nobody had to prove anything.
func (p *Plane) PeerOf(cs tls.ConnectionState) (Peer, bool) {
	if !p.Verified() || len(cs.PeerCertificates) == 0 {
		return Peer{}, false
	}
	return peerOf(cs.PeerCertificates[0], p.c.Datacenter, p.c.Domain), true
}

// Identity names the other end for the door's limits, "" if it has proved nothing.
func (p *Plane) Identity(cs tls.ConnectionState) string {
	peer, ok := p.PeerOf(cs)
	if !ok {
		return ""
	}
	return peer.Subject
}

type peerKey struct{}

// ConnContext is for http.Server: PeerFrom finds who sent a request.
func (p *Plane) ConnContext(ctx context.Context, c net.Conn) context.Context {
	if inner, ok := c.(plainConn); ok {
		if peer, ok := p.PeerOf(inner.tls.ConnectionState()); ok {
			return WithPeer(ctx, peer)
		}
	}
	return ctx
}

// WithPeer says who sends the requests of a connection.
func WithPeer(ctx context.Context, peer Peer) context.Context {
	return context.WithValue(ctx, peerKey{}, peer)
}

// PeerFrom is who sent a request, if that was proved.
func PeerFrom(ctx context.Context) (Peer, bool) {
	peer, ok := ctx.Value(peerKey{}).(Peer)
	return peer, ok
}
