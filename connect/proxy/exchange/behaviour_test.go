// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weftmesh/weft/connect/proxy/config"
	"github.com/weftmesh/weft/connect/proxy/reason"
)

func routeOf(s *config.Snapshot) *config.Route { return s.Routes["routes"].Hosts[0].Routes[0] }

// dead is an address on which nobody listens.
func dead(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func wantReason(t *testing.T, resp *http.Response, status int, code reason.Code) {
	t.Helper()
	if resp.StatusCode != status || resp.Header.Get(reason.Header) != string(code) {
		t.Errorf("%d %q, want %d %q", resp.StatusCode, resp.Header.Get(reason.Header), status, code)
	}
}

func TestDeadUpstreams(t *testing.T) {
	versions(t, func(t *testing.T, down int, up config.Codec) {
		c := client(t, down)
		r := newRig(t, codec(up), dead(t))
		resp, _ := get(t, c, r.url("/"))
		wantReason(t, resp, 503, reason.UpstreamConnectFailure)
		r = newRig(t, codec(up), dead(t), upstream(t, echo), dead(t))
		for i := range 12 {
			resp, err := c.Post(r.url("/"), "text/plain", strings.NewReader("body"))
			if err != nil || resp.StatusCode != 200 || body(t, resp) != "body" {
				t.Fatal("request", i, "didn't get to the live one:", resp, err)
			}
		}
		r = newRig(t, codec(up))
		resp, _ = get(t, c, r.url("/"))
		wantReason(t, resp, 503, reason.NoHealthyUpstream)
	})
}

func TestHangingUpstreams(t *testing.T) {
	versions(t, func(t *testing.T, down int, up config.Codec) {
		gone := make(chan struct{}, 1)
		addr := upstream(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			if r.URL.Path == "/half" {
				_, _ = flushing{w}.Write([]byte("begun"))
			}
			<-r.Context().Done()
			gone <- struct{}{}
		}))
		r := newRig(t, func(s *config.Snapshot) {
			codec(up)(s)
			routeOf(s).Forward.Timeout = 50 * time.Millisecond
		}, addr)
		c := client(t, down)
		resp, _ := get(t, c, r.url("/"))
		wantReason(t, resp, 504, reason.UpstreamTimeout)
		<-gone
		resp, err := c.Post(r.url("/half"), "text/plain", strings.NewReader("x"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(resp.Body); err == nil {
			t.Error("a response that was cut ended in order")
		}
		<-gone
		r.put(func(s *config.Snapshot) {
			l := *s.Listeners["l"]
			h := *l.HTTP
			h.StreamIdle = 50 * time.Millisecond
			l.HTTP = &h
			s.Listeners["l"] = &l
			s.Routes["routes"] = &config.RouteTable{Hosts: []*config.VirtualHost{{Domains: []string{"*"}, Routes: []*config.Route{
				{Match: config.Match{Prefix: "/"}, Forward: &config.Forward{Clusters: []config.WeightedCluster{{Cluster: "api", Weight: 1}}}},
			}}}}
		})
		resp, _ = get(t, c, r.url("/"))
		wantReason(t, resp, 504, reason.StreamIdleTimeout)
		<-gone
	})
}

func TestClientGoneEndsTheUpstream(t *testing.T) {
	versions(t, func(t *testing.T, down int, up config.Codec) {
		came, gone := make(chan struct{}), make(chan struct{})
		r := newRig(t, codec(up), upstream(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			close(came)
			<-r.Context().Done()
			close(gone)
		})))
		req, _ := http.NewRequestWithContext(t.Context(), "GET", r.url("/"), nil)
		c := client(t, down)
		c.Timeout = 200 * time.Millisecond
		go func() {
			if resp, err := c.Do(req); err == nil {
				_ = resp.Body.Close()
			}
		}()
		<-came
		<-gone
	})
}

func TestRetriesByPolicy(t *testing.T) {
	versions(t, func(t *testing.T, down int, up config.Codec) {
		var n atomic.Int32
		r := newRig(t, func(s *config.Snapshot) {
			codec(up)(s)
			routeOf(s).Forward.Retry = &config.Retry{Attempts: 3, On5xx: true, OnReset: true, BackOff: time.Millisecond}
		}, upstream(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			b, _ := io.ReadAll(r.Body)
			switch n.Add(1) {
			case 1:
				w.WriteHeader(503)
			case 2:
				panic(http.ErrAbortHandler)
			default:
				_, _ = w.Write(b)
			}
		})))
		c := client(t, down)
		for _, sent := range []string{"", "short", strings.Repeat("x", 40_000)} {
			n.Store(0)
			resp, err := c.Post(r.url("/"), "text/plain", io.MultiReader(strings.NewReader(sent)))
			if err != nil || resp.StatusCode != 200 {
				t.Fatal(len(sent), resp, err)
			}
			if got := body(t, resp); got != sent || n.Load() != 3 {
				t.Errorf("%d of %d bytes after %d tries", len(got), len(sent), n.Load())
			}
		}
		n.Store(0)
		resp, err := c.Post(r.url("/"), "text/plain", strings.NewReader(strings.Repeat("x", 200_000)))
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != 503 || n.Load() != 1 {
			t.Errorf("status %d after %d tries with a body that can't be replayed", resp.StatusCode, n.Load())
		}
	})
}

func TestRequestLimit(t *testing.T) {
	release := make(chan struct{})
	came := make(chan struct{})
	r := newRig(t, func(s *config.Snapshot) { s.Clusters["api"].Limits.Requests = 1 }, upstream(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		came <- struct{}{}
		<-release
	})))
	c := client(t, 1)
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = get(t, c, r.url("/")) })
	<-came
	resp, _ := get(t, c, r.url("/"))
	wantReason(t, resp, 503, reason.UpstreamOverflow)
	close(release)
	wg.Wait()
}

func TestConnectionLimitWaits(t *testing.T) {
	for _, up := range []config.Codec{config.HTTP1, config.HTTP2} {
		r := newRig(t, func(s *config.Snapshot) {
			codec(up)(s)
			s.Clusters["api"].Limits.Connections = 1
			s.Clusters["api"].ConnectTimeout = 20 * time.Second // they wait for as long, all for one
		}, upstream(t, echo))
		c := client(t, 1)
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				if resp, _ := get(t, c, r.url("/")); resp.StatusCode != 200 {
					t.Error(resp.Status, resp.Header)
				}
			})
		}
		wg.Wait()
		if n := r.metrics.Outbound("api").opened[Connected].Load(); n != 1 {
			t.Errorf("%d connections", n)
		}
	}
}

func TestPolicyChangesHoldForOpenConnections(t *testing.T) {
	versions(t, func(t *testing.T, down int, up config.Codec) {
		r := newRig(t, codec(up), upstream(t, echo))
		c := client(t, down)
		if resp, _ := get(t, c, r.url("/")); resp.StatusCode != 200 {
			t.Fatal(resp.Status)
		}
		r.put(func(s *config.Snapshot) {
			l := *s.Listeners["l"]
			h := *l.HTTP
			h.Authorize = true
			l.HTTP = &h
			s.Listeners["l"] = &l
			s.Routes["routes"] = &config.RouteTable{Hosts: []*config.VirtualHost{{Domains: []string{"*"}, Authorize: []*config.Policies{{Policies: []config.Policy{{
				Name: "no-admin", Principal: config.Rule{Kind: config.Any},
				Permission: config.Rule{Kind: config.PathIs, String: config.StringMatch{Kind: config.MatchPrefix, Text: "/admin"}},
			}}}}, Routes: s.Routes["routes"].Hosts[0].Routes}}}
		})
		resp, _ := get(t, c, r.url("//x/../admin/%61"))
		wantReason(t, resp, 403, reason.RBACDenied)
		if resp, _ = get(t, c, r.url("/else")); resp.StatusCode != 200 {
			t.Error(resp.Status)
		}
		req, _ := http.NewRequestWithContext(t.Context(), "POST", r.url("/admin"), strings.NewReader("x"))
		req.Header.Set("content-type", "application/grpc")
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = body(t, resp)
		if resp.StatusCode != 200 || resp.Header.Get("grpc-status")+resp.Trailer.Get("grpc-status") != "7" {
			t.Error(resp.Status, resp.Header)
		}
	})
}

func TestBadPaths(t *testing.T) {
	r := newRig(t, nil, upstream(t, echo))
	resp, _ := get(t, client(t, 1), r.url("/a%00b"))
	wantReason(t, resp, 400, reason.BadPath)
}

func TestIdentityChangeMakesNewConnections(t *testing.T) {
	r := newRig(t, nil, upstream(t, echo))
	c := client(t, 1)
	_, _ = get(t, c, r.url("/"))
	state := r.e.current().clusters["api"].state
	if n := state.connections.Load(); n != 1 {
		t.Fatal(n)
	}
	r.put(func(s *config.Snapshot) { s.Clusters = map[string]*config.Cluster{} })
	// The exchange may still be giving its connection back.
	for deadline := time.Now().Add(5 * time.Second); state.connections.Load() != 0; {
		if time.Now().After(deadline) {
			t.Fatalf("%d connections to a cluster that is gone", state.connections.Load())
		}
	}
	resp, _ := get(t, c, r.url("/"))
	wantReason(t, resp, 503, reason.NoCluster)
}

func TestRestartedUpstreamIsNoticedBeforeReuse(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	first := serveOn(t, l, echo)
	r := newRig(t, nil, l.Addr().String())
	c := client(t, 1)
	_, _ = get(t, c, r.url("/"))
	_ = first.Close()
	if l, err = net.Listen("tcp", l.Addr().String()); err != nil {
		t.Skip("the port was taken meanwhile")
	}
	serveOn(t, l, echo)
	resp, err := c.Post(r.url("/"), "text/plain", strings.NewReader("x"))
	if err != nil || resp.StatusCode != 200 {
		t.Fatal(resp, err)
	}
	_ = body(t, resp)
}

func TestWebsocketTunnel(t *testing.T) {
	for _, up := range []config.Codec{config.HTTP1} {
		r := newRig(t, codec(up), upstream(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			conn, rw, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			_, _ = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello ")
			_ = rw.Flush()
			b, _ := io.ReadAll(rw)
			_, _ = conn.Write(b)
		})))
		conn, err := net.Dial("tcp", r.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n")
		rd := bufio.NewReader(conn)
		resp, err := http.ReadResponse(rd, nil)
		if err != nil || resp.StatusCode != 101 || resp.Header.Get("Upgrade") != "websocket" {
			t.Fatal(resp, err)
		}
		_, _ = io.WriteString(conn, "world")
		_ = conn.(*net.TCPConn).CloseWrite()
		if b, err := io.ReadAll(rd); err != nil || string(b) != "hello world" {
			t.Fatal(string(b), err)
		}
	}
}

func TestHTTP10AndRawRequests(t *testing.T) {
	r := newRig(t, func(s *config.Snapshot) {
		s.Routes["routes"].Hosts[0].Routes = append([]*config.Route{
			{Match: config.Match{Exact: "/moved"}, Redirect: &config.Redirect{Path: "/there", Status: 308}},
			{Match: config.Match{Exact: "/fixed"}, Direct: &config.Direct{Status: 299, Body: []byte("fixed")}},
		}, s.Routes["routes"].Hosts[0].Routes...)
	}, upstream(t, echo))
	for _, tt := range []struct{ send, want string }{
		{"GET / HTTP/1.0\r\n\r\n", "HTTP/1.1 200 "},
		{"GET /moved HTTP/1.1\r\nHost: h:1\r\nConnection: close\r\n\r\n", "ocation: http://h:1/there\r\n"},
		{"GET /fixed HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", "\r\n\r\nfixed"},
		{"GET / HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: other\r\n\r\n", "x-weft-reason: upgrade_refused"},
		{"GET / HTTP/1.1\r\nHost: h\r\nHost: i\r\n\r\n", "x-weft-reason: bad_request"},
		{"POST / HTTP/1.1\r\nHost: h\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "x-weft-reason: bad_request"},
		{"POST / HTTP/1.1\r\nHost: h\r\nConnection: close\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nhi", "hi"},
	} {
		conn, err := net.Dial("tcp", r.addr)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(conn, tt.send)
		_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
		b, err := io.ReadAll(conn)
		if !strings.Contains(string(b), tt.want) || err != nil {
			t.Errorf("%q gave %q, %v", tt.send, b, err)
		}
		_ = conn.Close()
	}
}

func TestHeadersAreRewritten(t *testing.T) {
	seen := make(chan *http.Request, 1)
	r := newRig(t, func(s *config.Snapshot) {
		h := s.Listeners["l"].HTTP
		h.GenerateRequestID, h.Trace = true, true
		s.Routes["routes"].Hosts[0].Routes[0] = &config.Route{
			Match: config.Match{Prefix: "/api/"},
			Forward: &config.Forward{
				Clusters: []config.WeightedCluster{{Cluster: "api", Weight: 1}}, PrefixTo: "/v2/", HostTo: "inner",
				Hash: []config.HashBy{{Cookie: "sticky", CookieMake: true}},
			},
			Request:  &config.Mutations{Remove: []string{"X-Secret"}, Set: []config.HeaderValue{{Name: "X-Set", Value: "new"}}, Add: []config.HeaderValue{{Name: "X-Add", Value: "1"}}},
			Response: &config.Mutations{Remove: []string{"X-Gone"}},
		}
	}, upstream(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Gone", "1")
		seen <- r
	})))
	req, _ := http.NewRequestWithContext(t.Context(), "GET", r.url("/api/x?y=z"), nil)
	for _, n := range []string{"X-Secret", "X-Set", "X-Forwarded-Client-Cert"} {
		req.Header.Set(n, "old")
	}
	resp, err := client(t, 1).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = body(t, resp)
	got := <-seen
	want := map[string]string{"X-Secret": "", "X-Set": "new", "X-Add": "1", "X-Forwarded-Client-Cert": "", "X-Forwarded-Proto": "http", "X-Envoy-Original-Path": "/api/x?y=z"}
	for n, v := range want {
		if got.Header.Get(n) != v {
			t.Errorf("%s is %q, want %q", n, got.Header.Get(n), v)
		}
	}
	if got.RequestURI != "/v2/x?y=z" || got.Host != "inner" || len(got.Header.Get("X-Request-Id")) != 36 || len(got.Header.Get("Traceparent")) != 55 {
		t.Error(got.RequestURI, got.Host, got.Header)
	}
	if resp.Header.Get("X-Gone") != "" || !strings.HasPrefix(resp.Header.Get("Set-Cookie"), "sticky=") {
		t.Error(resp.Header)
	}
}

func TestDrainEndsConnections(t *testing.T) {
	for _, version := range []int{1, 2} {
		r := newRig(t, nil, upstream(t, echo))
		c := client(t, version)
		_, _ = get(t, c, r.url("/"))
		r.drains(Closing)
		deadline := time.After(5 * time.Second)
		for left := 1; left > 0; {
			r.e.downMu.Lock()
			left = len(r.e.downs)
			r.e.downMu.Unlock()
			select {
			case <-deadline:
				t.Fatal(version, "a drained connection is still open")
			default:
			}
		}
	}
}

func TestEarlyAnswerToAnEndlessBody(t *testing.T) {
	versions(t, func(t *testing.T, down int, up config.Codec) {
		r := newRig(t, codec(up), upstream(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(413)
			_, _ = fmt.Fprint(w, "too much")
		})))
		in, out := io.Pipe()
		defer out.Close()
		go func() {
			for {
				if _, err := out.Write(make([]byte, 1000)); err != nil {
					return
				}
			}
		}()
		resp, err := client(t, down).Post(r.url("/"), "text/plain", in)
		if err != nil {
			if down == 1 {
				t.Skip("net/http's client may see the closed connection first:", err)
			}
			t.Fatal(err)
		}
		if b := body(t, resp); resp.StatusCode != 413 || b != "too much" {
			t.Error(resp.Status, b)
		}
	})
}
