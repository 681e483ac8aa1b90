// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weftmesh/weft/internal/memnet"
)

// bubble runs a forwarder in front of a server over an in-memory network.
func bubble(t *testing.T, server http.Handler, f func(t *testing.T, agent http.Handler, dials *int)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		network := memnet.New()
		l, err := network.Listen("server")
		if err != nil {
			t.Fatal(err)
		}
		s := &http.Server{Handler: server, Protocols: new(http.Protocols)}
		s.Protocols.SetUnencryptedHTTP2(true)
		served := make(chan error, 1)
		go func() { served <- s.Serve(l) }()
		dials := 0
		agent, err := New(Config{Node: "n1", Log: slog.New(slog.DiscardHandler), Dial: func(ctx context.Context) (net.Conn, error) {
			dials++
			return network.DialContext(ctx, "server")
		}})
		if err != nil {
			t.Fatal(err)
		}
		f(t, agent, &dials)
		agent.Close()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
}

func get(agent http.Handler, target string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodGet, target, nil)
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	agent.ServeHTTP(w, r)
	return w
}

// echo answers with what arrived.
var echo = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Consul-Index", "7")
	_, _ = io.WriteString(w, strings.Join([]string{r.Proto, r.Method, r.URL.EscapedPath(), r.URL.RawQuery, r.Header.Get(Token), r.Header.Get(Hop), r.Host}, " "))
})

func TestRequestAsTheServerSeesIt(t *testing.T) {
	bubble(t, echo, func(t *testing.T, agent http.Handler, _ *int) {
		for _, c := range []struct {
			target string
			header []string
			want   string
		}{
			{"/v1/catalog/nodes", nil, "HTTP/2.0 GET /v1/catalog/nodes   n1 example.com"},
			{"/v1/kv/a%2Fb", nil, "HTTP/2.0 GET /v1/kv/a%2Fb   n1 example.com"},
			{"/v1/catalog/nodes?near=_agent&dc=dc1", nil, "HTTP/2.0 GET /v1/catalog/nodes dc=dc1&near=n1  n1 example.com"},
			{"/v1/catalog/nodes?near=other", nil, "HTTP/2.0 GET /v1/catalog/nodes near=other  n1 example.com"},
			{"/v1/catalog/nodes?token=secret&pretty", nil, "HTTP/2.0 GET /v1/catalog/nodes pretty= secret n1 example.com"},
			{"/v1/catalog/nodes?token=new", []string{Token, "old"}, "HTTP/2.0 GET /v1/catalog/nodes  new n1 example.com"},
			{"/v1/catalog/nodes", []string{Token, "own"}, "HTTP/2.0 GET /v1/catalog/nodes  own n1 example.com"},
		} {
			w := get(agent, c.target, c.header...)
			if w.Code != http.StatusOK || w.Body.String() != c.want || w.Header().Get("X-Consul-Index") != "7" {
				t.Errorf("%s: %d %q\nwant %q", c.target, w.Code, w.Body, c.want)
			}
		}
	})
}

// A request that was forwarded to an agent is not forwarded on.
func TestLoop(t *testing.T) {
	bubble(t, echo, func(t *testing.T, agent http.Handler, dials *int) {
		if w := get(agent, "/v1/catalog/nodes", Hop, "n2"); w.Code != http.StatusLoopDetected || *dials != 0 {
			t.Errorf("%d %s, %d connections", w.Code, w.Body, *dials)
		}
	})
}

// Requests that wait have a connection of their own; the others share theirs.
func TestConnections(t *testing.T) {
	bubble(t, echo, func(t *testing.T, agent http.Handler, dials *int) {
		for range 3 {
			get(agent, "/v1/catalog/nodes")
		}
		if *dials != 1 {
			t.Errorf("%d connections for three requests", *dials)
		}
		get(agent, "/v1/catalog/nodes?index=7")
		get(agent, "/v1/snapshot")
		if *dials != 2 {
			t.Errorf("%d connections, want one more for requests that wait", *dials)
		}
	})
}

// A client that hangs up ends the wait at the server.
func TestCancelReachesTheServer(t *testing.T) {
	arrived, ended := make(chan struct{}, 1), make(chan struct{}, 1)
	blocking := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		arrived <- struct{}{}
		<-r.Context().Done()
		ended <- struct{}{}
	})
	bubble(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { blocking(w, r) }), func(t *testing.T, agent http.Handler, _ *int) {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			agent.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/v1/catalog/nodes?index=7", nil).WithContext(ctx))
		}()
		<-arrived
		cancel()
		<-ended
		<-done
	})
}

// A server that doesn't answer is waited for as long as is allowed, one that waits for a change for as long as that takes.
func TestTimeout(t *testing.T) {
	silent := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	bubble(t, silent, func(t *testing.T, agent http.Handler, _ *int) {
		f, _ := agent.(*Forwarder)
		f.c.Timeout = 7 * time.Second
		began := time.Now()
		w := get(agent, "/v1/catalog/nodes")
		if took := time.Since(began); w.Code != http.StatusGatewayTimeout || took != 7*time.Second || !strings.Contains(w.Body.String(), "rpc_client_timeout") {
			t.Errorf("%d %s after %s", w.Code, w.Body, took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		began = time.Now()
		agent.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/v1/catalog/nodes?index=7", nil).WithContext(ctx))
		if took := time.Since(began); took != time.Minute {
			t.Errorf("a blocking query ended after %s", took)
		}
	})
}

// A server that can't be reached is said so; a body is passed on whole.
func TestNoServerAndBodies(t *testing.T) {
	agent, err := New(Config{Node: "n1", Log: slog.New(slog.DiscardHandler), Dial: func(context.Context) (net.Conn, error) {
		return nil, errors.New("nobody there")
	}})
	if err != nil {
		t.Fatal(err)
	}
	if w := get(agent, "/v1/catalog/nodes"); w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), "no server can be reached: nobody there") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	length := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(w, r.Body)
		if err != nil || n != 1<<20 {
			t.Errorf("%d bytes arrived: %v", n, err)
		}
	})
	bubble(t, length, func(t *testing.T, agent http.Handler, _ *int) {
		w := httptest.NewRecorder()
		agent.ServeHTTP(w, httptest.NewRequest(http.MethodPut, "/v1/kv/big", strings.NewReader(strings.Repeat("x", 1<<20))))
		if w.Code != http.StatusOK || w.Body.Len() != 1<<20 {
			t.Errorf("%d, %d bytes back", w.Code, w.Body.Len())
		}
	})
}

// A server in the same process is asked without a connection: what is relative to the agent is resolved all the same, and the
// caller's own request is left as it was.
func TestLocal(t *testing.T) {
	var got *http.Request
	f, err := New(Config{
		Local: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			got = r.Clone(r.Context())
			http.Error(w, "as the server says", http.StatusTeapot)
		}),
		Dial:         func(context.Context) (net.Conn, error) { t.Error("dialled"); return nil, net.ErrClosed },
		DefaultToken: func() string { return "default" }, Node: "n1", Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	ask := func(target string, header http.Header) int {
		r := httptest.NewRequest(http.MethodGet, target, http.NoBody)
		for k, v := range header {
			r.Header[k] = v
		}
		before := r.URL.String()
		w := httptest.NewRecorder()
		f.ServeHTTP(w, r)
		if r.URL.String() != before || r.Header.Get(Hop) != header.Get(Hop) || r.Header.Get(Token) != "" {
			t.Errorf("%s: the caller's request was changed to %s, %v", target, r.URL, r.Header)
		}
		return w.Code
	}
	if code := ask("/v1/catalog/nodes?near=_agent", nil); code != http.StatusTeapot {
		t.Errorf("answered %d", code)
	}
	if got.Header.Get(Hop) != "n1" || got.Header.Get(Token) != "default" || got.URL.RawQuery != "near=n1" {
		t.Errorf("the server was asked %s with %v", got.URL, got.Header)
	}
	if ask("/v1/catalog/nodes?token=own", nil); got.Header.Get(Token) != "own" || got.URL.Query().Has("token") {
		t.Errorf("the server was asked %s with %v", got.URL, got.Header)
	}
	if code := ask("/v1/catalog/nodes", http.Header{Hop: {"n2"}}); code != http.StatusLoopDetected {
		t.Errorf("forwarded twice: %d", code)
	}
}
