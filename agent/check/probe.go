// SPDX-License-Identifier: Apache-2.0

package check

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/weftmesh/weft/agent/local"
	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/internal/guard"
)

const (
	defaultTimeout = 10 * time.Second
	scriptTimeout  = 30 * time.Second
	maxBody        = 16 << 20 // of an answer that is read to its end
)

// probe asks a service how it is.
type probe interface {
	ask(ctx context.Context) (status, output string)
}

// newProbe makes the probe of a check; own is what its TLS begins with, nil for nothing.
func newProbe(d *local.CheckDefinition, own *tls.Config) probe {
	b := base{d: d, timeout: d.Timeout, own: own}
	if b.timeout == 0 {
		b.timeout = defaultTimeout
	}
	switch d.Type() {
	case local.TypeHTTP:
		return newHTTPProbe(b)
	case local.TypeGRPC:
		return &grpcProbe{base: b}
	case local.TypeUDP:
		return &udpProbe{base: b}
	case local.TypeH2PING:
		return &h2Probe{base: b}
	case local.TypeScript:
		if d.Timeout == 0 {
			b.timeout = scriptTimeout
		}
		return &scriptProbe{base: b}
	}
	return &tcpProbe{base: b}
}

type base struct {
	d       *local.CheckDefinition
	timeout time.Duration
	own     *tls.Config
}

func (b *base) tls() *tls.Config {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if b.own != nil {
		c = b.own.Clone()
	}
	c.ServerName = b.d.TLSServerName
	c.InsecureSkipVerify = b.d.TLSSkipVerify //nolint:gosec // the definition asks for it by name
	return c
}

type httpProbe struct {
	base
	client *http.Client
}

func newHTTPProbe(b base) *httpProbe {
	p := &httpProbe{base: b}
	p.client = &http.Client{Timeout: b.timeout, Transport: &http.Transport{
		Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true, TLSClientConfig: b.tls(), TLSHandshakeTimeout: b.timeout,
	}}
	p.client.CheckRedirect = func(to *http.Request, via []*http.Request) error {
		if (to.URL.Hostname() != via[0].URL.Hostname() || len(via) > 3) && !guard.Off("C117") { // who answers mustn't choose whom this host asks
			return http.ErrUseLastResponse
		}
		return nil
	}
	if b.d.DisableRedirects {
		p.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	}
	return p
}

func (p *httpProbe) ask(ctx context.Context) (status, output string) {
	method := p.d.Method
	if method == "" {
		method = http.MethodGet
	}
	req, err := http.NewRequestWithContext(ctx, method, p.d.HTTP, strings.NewReader(p.d.Body))
	if err != nil {
		return catalog.HealthCritical, err.Error()
	}
	req.Header.Set("User-Agent", "Consul Health Check")
	req.Header.Set("Accept", "text/plain, text/*, */*")
	for name, values := range p.d.Header {
		req.Header[http.CanonicalHeaderKey(name)] = values
	}
	if host := req.Header.Get("Host"); host != "" {
		req.Host = host
	}
	resp, err := p.client.Do(req)
	if err != nil {
		return catalog.HealthCritical, err.Error()
	}
	defer resp.Body.Close()
	body := tail{limit: p.d.OutputMaxSize}
	if _, err := io.Copy(&body, io.LimitReader(resp.Body, maxBody)); err != nil {
		return catalog.HealthCritical, err.Error()
	}
	output = fmt.Sprintf("HTTP %s %s: %s Output: %s", method, p.d.HTTP, resp.Status, body.text())
	switch {
	case resp.StatusCode >= 200 && resp.StatusCode <= 299:
		return catalog.HealthPassing, output
	case resp.StatusCode == http.StatusTooManyRequests:
		return catalog.HealthWarning, output
	}
	return catalog.HealthCritical, output
}

type tcpProbe struct{ base }

func (p *tcpProbe) ask(ctx context.Context) (status, output string) {
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	var dialer interface {
		DialContext(ctx context.Context, network, address string) (net.Conn, error)
	} = &net.Dialer{}
	what := "TCP connect "
	if p.d.TCPUseTLS {
		dialer, what = &tls.Dialer{Config: p.tls()}, "TCP+TLS connect "
	}
	conn, err := dialer.DialContext(ctx, "tcp", p.d.TCP)
	if err != nil {
		return catalog.HealthCritical, err.Error()
	}
	_ = conn.Close() // the answer is known
	return catalog.HealthPassing, what + p.d.TCP + ": Success"
}

// grpcProbe connects anew for each question: a kept connection would back off while the service is down, and so see it late
// when it is back.
type grpcProbe struct{ base }

func (p *grpcProbe) ask(ctx context.Context) (status, output string) {
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	target, service, _ := strings.Cut(p.d.GRPC, "/")
	creds := insecure.NewCredentials()
	if p.d.GRPCUseTLS {
		creds = credentials.NewTLS(p.tls())
	}
	conn, err := grpc.NewClient("passthrough:///"+target, grpc.WithTransportCredentials(creds))
	if err != nil {
		return catalog.HealthCritical, err.Error()
	}
	defer conn.Close()
	resp, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{Service: service})
	if err != nil {
		return catalog.HealthCritical, err.Error()
	}
	if resp.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		return catalog.HealthCritical, fmt.Sprintf("gRPC %s serving status: %s", p.d.GRPC, resp.GetStatus())
	}
	return catalog.HealthPassing, "gRPC check " + p.d.GRPC + ": success"
}
