// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"context"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weftmesh/weft/connect/proxy/config"
)

// rig is an engine with one outbound listener, on loopback.
type rig struct {
	t        testing.TB
	e        *Engine
	snapshot atomic.Pointer[config.Snapshot]
	metrics  *Metrics
	addr     string
	peer     atomic.Pointer[config.Peer]
	drain    atomic.Uint32
	listener net.Listener
}

// newRig serves until the test ends. change may alter the configuration first.
func newRig(t testing.TB, change func(*config.Snapshot), upstreams ...string) *rig {
	t.Helper()
	r := &rig{t: t, metrics: NewMetrics("web")}
	s := &config.Snapshot{Listeners: map[string]*config.Listener{}, Clusters: map[string]*config.Cluster{}, Routes: map[string]*config.RouteTable{}}
	c := &config.Cluster{Name: "api", Service: config.ServiceRef{Name: "api"}, ConnectTimeout: time.Second}
	for _, u := range upstreams {
		c.Endpoints = append(c.Endpoints, &config.Endpoint{Network: "tcp", Address: u, Healthy: true})
	}
	s.Clusters["api"] = c
	s.Routes["routes"] = &config.RouteTable{Name: "routes", Hosts: []*config.VirtualHost{{Domains: []string{"*"}, Routes: []*config.Route{
		{Match: config.Match{Prefix: "/"}, Forward: &config.Forward{Clusters: []config.WeightedCluster{{Cluster: "api", Weight: 1}}, Upgrade: true}},
	}}}}
	s.Listeners["l"] = &config.Listener{Name: "l", HTTP: &config.HTTP{RouteName: "routes", Normalize: true, MergeSlashes: true}}
	if change != nil {
		change(s)
	}
	r.snapshot.Store(s)
	var err error
	r.e, err = New(Config{Snapshot: r.snapshot.Load, Metrics: r.metrics, Service: "web"})
	if err != nil {
		t.Fatal(err)
	}
	if r.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	r.addr = r.listener.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = r.e.Run(ctx) })
	wg.Go(func() {
		for {
			conn, err := r.listener.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				_ = r.e.ServeHTTP(ctx, conn, r.snapshot.Load().Listeners["l"], r.peer.Load(), "", func() Drain { return Drain(r.drain.Load()) })
			})
		}
	})
	t.Cleanup(func() {
		_ = r.listener.Close()
		cancel()
		wg.Wait()
	})
	return r
}

// put puts a changed copy of the configuration in force.
func (r *rig) put(change func(*config.Snapshot)) {
	old := r.snapshot.Load()
	s := &config.Snapshot{Listeners: map[string]*config.Listener{}, Clusters: map[string]*config.Cluster{}, Routes: map[string]*config.RouteTable{}}
	for k, v := range old.Listeners {
		s.Listeners[k] = v
	}
	for k, v := range old.Clusters {
		s.Clusters[k] = v
	}
	for k, v := range old.Routes {
		s.Routes[k] = v
	}
	change(s)
	r.snapshot.Store(s)
	r.e.Follow(s)
}

// drains has all connections on their way out.
func (r *rig) drains(d Drain) {
	r.drain.Store(uint32(d))
	r.e.Drain()
}

func (r *rig) url(path string) string { return "http://" + r.addr + path }

// upstream is a net/http server that speaks HTTP/1.1 and HTTP/2 without TLS.
func upstream(t testing.TB, h http.Handler) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serveOn(t, l, h)
	return l.Addr().String()
}

func serveOn(t testing.TB, l net.Listener, h http.Handler) *http.Server {
	s := &http.Server{Handler: h, Protocols: new(http.Protocols)}
	s.Protocols.SetHTTP1(true)
	s.Protocols.SetUnencryptedHTTP2(true)
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.Serve(l) })
	t.Cleanup(func() {
		_ = s.Close()
		wg.Wait()
	})
	return s
}

// client speaks one version of HTTP.
func client(t testing.TB, version int) *http.Client {
	tr := &http.Transport{Protocols: new(http.Protocols), DisableCompression: true}
	if version == 2 {
		tr.Protocols.SetUnencryptedHTTP2(true)
	} else {
		tr.Protocols.SetHTTP1(true)
	}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 20 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// versions runs f for each pair of versions, downstream and upstream.
func versions(t *testing.T, f func(t *testing.T, down int, codec config.Codec)) {
	for _, down := range []int{1, 2} {
		for _, up := range []config.Codec{config.HTTP1, config.HTTP2} {
			t.Run(map[int]string{1: "h1", 2: "h2"}[down]+"-"+map[config.Codec]string{config.HTTP1: "h1", config.HTTP2: "h2"}[up], func(t *testing.T) {
				f(t, down, up)
			})
		}
	}
}

func codec(c config.Codec) func(*config.Snapshot) {
	return func(s *config.Snapshot) { s.Clusters["api"].Codec = c }
}
