// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"maps"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weftmesh/weft/connect/proxy/config"
	"github.com/weftmesh/weft/connect/proxy/reason"
	"github.com/weftmesh/weft/internal/run"
)

// bench is a proxy whose connections are handed to it, with upstreams on loopback.
type bench struct {
	t *testing.T
	p *Proxy
	s *config.Snapshot
	g *run.Group
}

// newBench serves one listener, "l", as change makes it.
func newBench(t *testing.T, change func(*config.Listener)) *bench {
	t.Helper()
	p, err := New(Config{ID: "p", Service: "web", Address: "127.0.0.1:1", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	p.restAfter = 20 * time.Millisecond
	l := &config.Listener{Name: "l"}
	change(l)
	b := &bench{t: t, p: p, s: &config.Snapshot{
		Listeners: map[string]*config.Listener{"l": l}, Clusters: map[string]*config.Cluster{}, Routes: map[string]*config.RouteTable{},
	}}
	g := run.New(context.Background())
	b.g = g
	g.Go("pools", p.engine.Run)
	g.Go("resting connections", p.lounge.Run)
	t.Cleanup(func() {
		p.closeAll()
		if err := g.Stop(); err != nil {
			t.Error(err)
		}
	})
	return b
}

// upstream adds a cluster whose one endpoint handles each connection.
func (b *bench) upstream(name string, handle func(net.Conn)) {
	b.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open = append(open, conn)
			mu.Unlock()
			wg.Go(func() {
				defer conn.Close()
				handle(conn)
			})
		}
	})
	b.t.Cleanup(func() {
		_ = l.Close()
		mu.Lock()
		for _, c := range open {
			_ = c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	b.s = &config.Snapshot{Listeners: b.s.Listeners, Clusters: maps.Clone(b.s.Clusters), Routes: b.s.Routes}
	b.s.Clusters[name] = &config.Cluster{
		Name: name, Service: config.ServiceRef{Name: name}, ConnectTimeout: time.Second,
		Endpoints: []*config.Endpoint{{Network: "tcp", Address: l.Addr().String(), Healthy: true}},
	}
	b.p.apply(b.s)
}

// dial is the client's end of a connection that the proxy serves until the test ends.
func (b *bench) dial() net.Conn {
	b.t.Helper()
	return b.dialTLS(nil)
}

// dialTLS is dial to a listener that speaks TLS.
func (b *bench) dialTLS(conf *tls.Config) net.Conn {
	b.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.t.Fatal(err)
	}
	defer l.Close()
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		b.t.Fatal(err)
	}
	conn, err := l.Accept()
	if err != nil {
		b.t.Fatal(err)
	}
	b.g.Go("connection", func(ctx context.Context) error {
		if conf == nil {
			b.p.serve(ctx, b.g, conn, "l", b.s.Listeners["l"])
			return nil
		}
		if tc := tls.Server(conn, conf); tc.HandshakeContext(ctx) == nil {
			b.p.serve(ctx, b.g, tc, "l", b.s.Listeners["l"])
		}
		return nil
	})
	b.t.Cleanup(func() { _ = client.Close() })
	if err := client.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		b.t.Fatal(err)
	}
	return client
}

// says answers with a text, then with what it is sent.
func says(text string) func(net.Conn) {
	return func(c net.Conn) {
		_, _ = io.WriteString(c, text) // the client may be gone
		_, _ = io.Copy(c, c)
	}
}

// named asks for a server with Go's TLS, and gives what is answered in plain text: no server here speaks TLS.
func (b *bench) named(name string) string {
	b.t.Helper()
	client := b.dial()
	_ = tls.Client(silent{client}, &tls.Config{ServerName: name, InsecureSkipVerify: true}).Handshake() // it has no other side
	if err := client.(*net.TCPConn).CloseWrite(); err != nil {
		return ""
	}
	var got [3]byte
	if _, err := io.ReadFull(client, got[:]); err != nil {
		return ""
	}
	return string(got[:])
}

// silent is a connection of which nothing can be read.
type silent struct{ net.Conn }

func (silent) Read([]byte) (int, error) { return 0, io.EOF }

func TestTunnelByServerName(t *testing.T) {
	tcp := func(cluster string) *config.TCP { return &config.TCP{Cluster: cluster} }
	b := newBench(t, func(l *config.Listener) {
		l.Named = []config.Named{
			{Names: []string{"one.example"}, TCP: tcp("one")}, {Names: []string{"*.example"}, TCP: tcp("any")},
			{Names: []string{"*.deep.example", "two.test"}, TCP: tcp("dep")},
		}
		l.TCP = tcp("els")
	})
	for _, name := range []string{"one", "any", "dep", "els"} {
		b.upstream(name, says(name))
	}
	for name, want := range map[string]string{
		"one.example": "one", "ONE.example": "one", "x.example": "any", "a.one.example": "any", "x.deep.example": "dep", "deep.example": "any",
		"two.test": "dep", "a.two.test": "els", "example": "els", "": "els",
	} {
		if got := b.named(name); got != want {
			t.Errorf("%q leads to %q, want %q", name, got, want)
		}
	}
	// What is no TLS goes where no name leads, with all that it said.
	client := b.dial()
	if _, err := io.WriteString(client, "hello"); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 8)
	if _, err := io.ReadFull(client, got); err != nil || string(got) != "elshello" {
		t.Errorf("in plain text: %q, %v", got, err)
	}
}

// Without a tunnel for the rest, a connection with another name, or with none, is closed.
func TestNoTunnelForTheName(t *testing.T) {
	b := newBench(t, func(l *config.Listener) {
		l.Named = []config.Named{{Names: []string{"one.example"}, TCP: &config.TCP{Cluster: "one"}}}
	})
	b.upstream("one", says("one"))
	for name, want := range map[string]string{"one.example": "one", "two.example": "", "": ""} {
		if got := b.named(name); got != want {
			t.Errorf("%q leads to %q, want %q", name, got, want)
		}
	}
}

// Two instances of one service on one host proxy are on one page of metrics, each by its name.
func TestMetricsOfSeveral(t *testing.T) {
	var all prometheus.Gatherers
	for _, id := range []string{"api-1", "api-2"} {
		r := prometheus.NewRegistry()
		p, err := New(Config{ID: id, Service: "api", Address: "127.0.0.1:1", Metrics: r, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		p.engine.Refused(config.Inbound, &config.Peer{}, reason.RBACDenied)
		all = append(all, r)
	}
	families, err := all.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "weft_proxy_connections_open" && len(f.Metric) != 4 {
			t.Errorf("%v, want both edges of each", f)
		}
	}
}
