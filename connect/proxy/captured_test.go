// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/weftmesh/weft/connect/proxy/config"
)

// captures makes a bench whose listener captures, and has each connection go where the test says.
func captures(t *testing.T, c *config.Captured) (*bench, func(to string, err error)) {
	t.Helper()
	b := newBench(t, func(l *config.Listener) { l.Captured = c })
	var mu sync.Mutex // guards what follows
	var to netip.AddrPort
	var fault error
	b.p.c.Original = func(conn net.Conn) (netip.AddrPort, error) {
		mu.Lock()
		defer mu.Unlock()
		if !to.IsValid() {
			return netip.MustParseAddrPort(conn.LocalAddr().String()), fault
		}
		return to, fault
	}
	for _, l := range append([]*config.Listener{c.Otherwise}, c.Exact[netip.MustParseAddr("240.0.0.1")]) {
		if l != nil {
			b.s.Listeners[l.Name] = l
		}
	}
	b.p.apply(b.s)
	return b, func(where string, err error) {
		mu.Lock()
		defer mu.Unlock()
		to, fault = netip.AddrPort{}, err
		if where != "" {
			to = netip.MustParseAddrPort(where)
		}
	}
}

// first are the first bytes that a captured connection gives, "" if it is ended without any.
func (b *bench) first() string {
	b.t.Helper()
	got := make([]byte, 3)
	if _, err := io.ReadFull(b.dial(), got); err != nil {
		return ""
	}
	return string(got)
}

// Captured connections are those of the destination that they had: its tunnel, else on to it; the proxy's own port is none.
func TestCaptured(t *testing.T) {
	api := &config.Listener{Name: "l|api", TCP: &config.TCP{Cluster: "api"}}
	other := &config.Listener{Name: "l|other", TCP: &config.TCP{Cluster: "original"}}
	captured := &config.Captured{
		Exact:  map[netip.Addr]*config.Listener{netip.MustParseAddr("240.0.0.1"): api},
		Ranges: []config.CapturedRange{{Prefix: netip.MustParsePrefix("10.0.0.0/8"), Listener: api}}, Otherwise: other,
	}
	b, goes := captures(t, captured)
	b.upstream("api", says("api"))
	b.s.Clusters["original"] = &config.Cluster{Name: "original", Service: config.ServiceRef{Name: "original"}, Original: true, ConnectTimeout: time.Second}
	b.upstream("elsewhere", says("els"))
	elsewhere := b.s.Clusters["elsewhere"].Endpoints[0].Address
	for _, c := range []struct{ to, want string }{
		{"240.0.0.1:80", "api"}, {"240.0.0.1:9999", "api"}, {"[::ffff:240.0.0.1]:80", "api"}, {"10.1.2.3:80", "api"}, {elsewhere, "els"}, {"", ""},
	} {
		goes(c.to, nil)
		if got := b.first(); got != c.want {
			t.Errorf("to %q: %q, want %q", c.to, got, c.want)
		}
	}
	goes("240.0.0.1:80", errors.New("not redirected"))
	if got := b.first(); got != "" {
		t.Errorf("a connection that wasn't captured gets %q", got)
	}
	b, goes = captures(t, &config.Captured{Exact: captured.Exact})
	goes(elsewhere, nil)
	if got := b.first(); got != "" {
		t.Errorf("to nobody's address: %q", got)
	}
}

// What a client says first, by which its tunnel is chosen, goes on whole; who says nothing has asked for no name.
func TestCapturedByName(t *testing.T) {
	api, other := &config.Listener{Name: "l|api", TCP: &config.TCP{Cluster: "api"}}, &config.Listener{Name: "l|other", TCP: &config.TCP{Cluster: "other"}}
	b, goes := captures(t, &config.Captured{
		Exact: map[netip.Addr]*config.Listener{netip.MustParseAddr("240.0.0.1"): api}, Otherwise: other, // which captures takes up
		Peek: time.Second,
		Choose: &config.Choice{
			Look: config.LookName, Exact: map[string]*config.Choice{"a.test": {Listener: api}, "b.test": nil}, Otherwise: &config.Choice{Listener: other},
		},
	})
	goes("192.0.2.1:443", nil)
	got := make(chan []byte, 1)
	b.upstream("api", func(c net.Conn) {
		head := make([]byte, 5)
		_, _ = io.ReadFull(c, head)
		got <- head
	})
	b.upstream("other", says("oth"))
	handshake := func(name string) { // which nobody answers
		_ = tls.Client(b.dial(), &tls.Config{ServerName: name, InsecureSkipVerify: true}).Handshake()
	}
	handshake("a.test")
	if head := <-got; head[0] != 22 || head[1] != 3 {
		t.Errorf("the tunnel begins with %v, want a ClientHello", head)
	}
	if first := b.first(); first != "oth" {
		t.Errorf("who says nothing gets %q", first)
	}
	handshake("b.test") // is nobody's, and ends
}

// HTTP is routed on a captured connection, and goes by what is configured now.
func TestCapturedHTTP(t *testing.T) {
	table := func(cluster string) *config.RouteTable {
		return &config.RouteTable{Name: "r", Hosts: []*config.VirtualHost{{Name: "r", Domains: []string{"*"}, Routes: []*config.Route{{
			Match: config.Match{Prefix: "/"}, Forward: &config.Forward{Clusters: []config.WeightedCluster{{Cluster: cluster, Weight: 1}}},
		}}}}}
	}
	api := &config.Listener{Name: "l|api", HTTP: &config.HTTP{RouteName: "r", HeaderTimeout: 5 * time.Second}}
	b, goes := captures(t, &config.Captured{Exact: map[netip.Addr]*config.Listener{netip.MustParseAddr("240.0.0.1"): api}})
	goes("240.0.0.1:80", nil)
	answers := func(text string) func(net.Conn) {
		return func(c net.Conn) {
			for r := bufio.NewReader(c); ; {
				if _, err := http.ReadRequest(r); err != nil {
					return
				}
				fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(text), text)
			}
		}
	}
	b.upstream("a", answers("one"))
	b.upstream("b", answers("two"))
	conn := b.dial()
	for _, want := range []string{"one", "two"} {
		cluster := map[string]string{"one": "a", "two": "b"}[want]
		s := &config.Snapshot{Listeners: b.s.Listeners, Clusters: b.s.Clusters, Routes: map[string]*config.RouteTable{"r": table(cluster)}}
		b.p.apply(s)
		if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: api\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 0, 4096)
		for !bytes.HasSuffix(got, []byte(want)) {
			n, err := conn.Read(got[len(got):cap(got)])
			if got = got[:len(got)+n]; err != nil {
				t.Fatalf("%q: %v", got, err)
			}
		}
	}
}
