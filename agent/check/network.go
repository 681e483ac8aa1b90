// SPDX-License-Identifier: Apache-2.0

package check

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"os"

	"golang.org/x/net/http2"

	"github.com/weftmesh/weft/catalog"
)

// udpProbe sends an empty packet: a port on which nobody listens answers by ICMP, silence is taken for good.
type udpProbe struct{ base }

func (p *udpProbe) ask(ctx context.Context) (status, output string) {
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "udp", p.d.UDP)
	if err != nil {
		return catalog.HealthCritical, err.Error()
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return catalog.HealthCritical, err.Error()
	}
	if _, err := conn.Write(nil); err != nil {
		return catalog.HealthCritical, err.Error()
	}
	if _, err := conn.Read(make([]byte, 1)); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, net.ErrClosed) {
		return catalog.HealthCritical, err.Error()
	}
	return catalog.HealthPassing, "UDP connect " + p.d.UDP + ": Success"
}

// h2Probe pings over HTTP/2.
type h2Probe struct{ base }

func (p *h2Probe) ask(ctx context.Context) (status, output string) {
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	var dialer interface {
		DialContext(ctx context.Context, network, address string) (net.Conn, error)
	} = &net.Dialer{}
	if p.d.H2PingUseTLS == nil || *p.d.H2PingUseTLS {
		conf := p.tls()
		conf.NextProtos = []string{http2.NextProtoTLS}
		dialer = &tls.Dialer{Config: conf}
	}
	conn, err := dialer.DialContext(ctx, "tcp", p.d.H2PING)
	if err != nil {
		return catalog.HealthCritical, err.Error()
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	client, err := (&http2.Transport{AllowHTTP: true}).NewClientConn(conn)
	if err != nil {
		return catalog.HealthCritical, err.Error()
	}
	defer client.Close()
	if err := client.Ping(ctx); err != nil {
		return catalog.HealthCritical, "HTTP2 ping failed: " + err.Error()
	}
	return catalog.HealthPassing, "HTTP2 ping was successful"
}
