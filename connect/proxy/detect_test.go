// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weftmesh/weft/connect/proxy/config"
	"github.com/weftmesh/weft/connect/proxy/opening"
)

// newUndeclared is a bench whose listener has no declared protocol and leads to the cluster api.
func newUndeclared(t *testing.T) *bench {
	return newBench(t, func(l *config.Listener) {
		l.Detect, l.TCP = true, &config.TCP{Cluster: "api"}
		l.HTTP = &config.HTTP{GenerateRequestID: true, Websocket: true, Inline: &config.RouteTable{Hosts: []*config.VirtualHost{{
			Domains: []string{"*"}, Routes: []*config.Route{{
				Match: config.Match{Prefix: "/"}, Forward: &config.Forward{Upgrade: true, Clusters: []config.WeightedCluster{{Cluster: "api", Weight: 1}}},
			}},
		}}}}
	})
}

func (b *bench) learnt() opening.Protocol { return b.p.learner(b.s.Listeners["l"]).learnt() }

// served answers each request with its path, and counts those that have been through the proxy's engine.
func served(requests *atomic.Int64) func(net.Conn) {
	return func(c net.Conn) {
		r := bufio.NewReader(c)
		for {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			_, _ = io.Copy(io.Discard, req.Body) // it ends with the connection
			if req.Header.Get("X-Request-Id") != "" {
				requests.Add(1)
			}
			fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(req.URL.Path), req.URL.Path)
		}
	}
}

func ask(t *testing.T, c net.Conn, path string) {
	t.Helper()
	if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: api\r\n\r\n", path); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil || string(body) != path {
		t.Errorf("answered %q, %v; want %q", body, err, path)
	}
}

// Clients that speak HTTP are served request by request, from the first one on.
func TestUndeclaredHTTP(t *testing.T) {
	b := newUndeclared(t)
	var requests atomic.Int64
	b.upstream("api", served(&requests))
	for i := range 3 {
		c := b.dial()
		ask(t, c, "/one")
		ask(t, c, "/two")
		if b.learnt() != opening.HTTP1 {
			t.Errorf("after %d connections it is taken for %v", i+1, b.learnt())
		}
	}
	if requests.Load() != 6 {
		t.Errorf("%d requests by the engine, want 6", requests.Load())
	}
}

// A client that opens a connection long before it uses it loses nothing by it.
func TestUndeclaredHTTPThatComesLate(t *testing.T) {
	b := newUndeclared(t)
	var requests atomic.Int64
	arrived := make(chan struct{}, 1)
	serve := served(&requests)
	b.upstream("api", func(c net.Conn) {
		select {
		case arrived <- struct{}{}:
		default:
		}
		serve(c)
	})
	c := b.dial()
	<-arrived // the service is connected to, for it might be the one that speaks first
	ask(t, c, "/late")
	if requests.Load() != 1 || b.learnt() != opening.HTTP1 {
		t.Errorf("%d requests by the engine, taken for %v", requests.Load(), b.learnt())
	}
}

// A server that speaks first isn't kept waiting for its client, and once that is known the client isn't waited for at all.
func TestUndeclaredServerFirst(t *testing.T) {
	b := newUndeclared(t)
	b.upstream("api", says("220 hello\r\n"))
	for range 3 {
		c := b.dial()
		got := make([]byte, len("220 hello\r\n"))
		if _, err := io.ReadFull(c, got); err != nil || string(got) != "220 hello\r\n" {
			t.Fatalf("%q, %v", got, err)
		}
		if b.learnt() != opening.ServerFirst || b.p.learner(b.s.Listeners["l"]).wait() != 0 {
			t.Errorf("it is taken for %v", b.learnt())
		}
		// Even a client that speaks HTTP then is only carried.
		if _, err := io.WriteString(c, "GET / HTTP/1.1\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		echo := make([]byte, len("GET / HTTP/1.1\r\n\r\n"))
		if _, err := io.ReadFull(c, echo); err != nil || string(echo) != "GET / HTTP/1.1\r\n\r\n" {
			t.Errorf("%q, %v", echo, err)
		}
	}
}

// What isn't HTTP passes byte for byte, whatever it begins with, also where clients spoke HTTP before.
func TestUndeclaredBytes(t *testing.T) {
	b := newUndeclared(t)
	b.upstream("api", says(""))
	for _, in := range []string{
		"hello", "GET / HTTP/1.1\n\n", "CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", "\x16\x03\x01\x00\x05hello", "\x00", "GET",
		"POST /attach HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n", strings.Repeat("x", 100_000),
	} {
		c := b.dial()
		var wg sync.WaitGroup
		wg.Go(func() {
			_, _ = io.WriteString(c, in)
			_ = c.(*net.TCPConn).CloseWrite()
		})
		got, err := io.ReadAll(c)
		wg.Wait()
		if err != nil || !bytes.Equal(got, []byte(in)) {
			t.Errorf("%.30q became %.30q (%d bytes), %v", in, got, len(got), err)
		}
	}
	if b.learnt() != opening.Opaque {
		t.Errorf("it is taken for %v", b.learnt())
	}
	// A client that says nothing and ends is carried too.
	c := b.dial()
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(c); err != nil || len(got) != 0 {
		t.Errorf("%q, %v", got, err)
	}
}

func TestLearning(t *testing.T) {
	l := &learner{}
	for i, c := range []struct{ saw, want opening.Protocol }{
		{opening.Unknown, opening.Unknown}, {opening.HTTP1, opening.HTTP1},
		{opening.Opaque, opening.HTTP1}, {opening.Opaque, opening.HTTP1}, {opening.HTTP1, opening.HTTP1},
		{opening.Opaque, opening.HTTP1}, {opening.Opaque, opening.HTTP1}, {opening.TLS, opening.TLS},
		{opening.ServerFirst, opening.ServerFirst},
	} {
		if l.saw(c.saw); l.learnt() != c.want {
			t.Errorf("%d: after %v it is taken for %v, want %v", i, c.saw, l.learnt(), c.want)
		}
	}
}

// What was learnt is shown, in metrics and on the admin page.
func TestDetectionIsShown(t *testing.T) {
	b := newUndeclared(t)
	var requests atomic.Int64
	b.upstream("api", served(&requests))
	ask(t, b.dial(), "/")
	r := prometheus.NewRegistry()
	if err := r.Register(newDetection(b.p, nil)); err != nil {
		t.Fatal(err)
	}
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	shown := fmt.Sprint(families)
	for _, want := range []string{`"weft_proxy_detected_protocol"`, `"weft_proxy_detected_connections_total"`, `value:"http"`, `value:"outbound"`} {
		if !strings.Contains(shown, want) {
			t.Errorf("%s isn't in %s", want, shown)
		}
	}
	if d := b.p.Describe(); d.Listeners[0].Protocol != "detected: http" {
		t.Errorf("%+v", d.Listeners[0])
	}
}
