// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

// browserMux answers the agent's routes with what they were asked for.
func browserMux(t *testing.T) *Mux {
	t.Helper()
	handlers := map[string]Handler{}
	for _, r := range Routes {
		if r.Side == Agent {
			handlers[r.Name()] = func(w http.ResponseWriter, r *Request) error { return WriteJSON(w, "<script>") }
		}
	}
	m, err := NewMux(MuxConfig{Side: Agent, Resolver: Open{}, Handlers: handlers, Loopback: true, Forward: http.NotFoundHandler(),
		Hosts: func() []string { return []string{"consul.", "", "Api.Example"} }})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestC119_BrowserAttacks: a page of another site gets nothing done and nothing shown on a loopback port: not by a name that leads
// here (DNS rebinding), not by its forms and scripts (CSRF), and no answer lets it read one.
func TestC119_BrowserAttacks(t *testing.T) {
	m := browserMux(t)
	ask := func(method, host string, headers ...string) *httptest.ResponseRecorder {
		r := httptest.NewRequest(method, "http://127.0.0.1:8500/v1/agent/self", strings.NewReader("a=b"))
		if method == http.MethodPut {
			r.URL.Path = "/v1/agent/reload"
		}
		r.Host = host
		for i := 0; i < len(headers); i += 2 {
			r.Header.Set(headers[i], headers[i+1])
		}
		w := httptest.NewRecorder()
		m.ServeHTTP(w, r)
		return w
	}
	for _, method := range []string{http.MethodGet, http.MethodPut, http.MethodOptions} {
		for name, w := range map[string]*httptest.ResponseRecorder{
			"rebound name":   ask(method, "evil.example:8500"),
			"name with ours": ask(method, "127.0.0.1.evil.example:8500"),
			"foreign origin": ask(method, "127.0.0.1:8500", "Origin", "http://evil.example"),
			"null origin":    ask(method, "127.0.0.1:8500", "Origin", "null"),
			"other port":     ask(method, "127.0.0.1:8500", "Origin", "http://127.0.0.1:9999"),
			"preflight":      ask(method, "127.0.0.1:8500", "Origin", "http://evil.example", "Access-Control-Request-Method", "PUT"),
			"said by itself": ask(method, "127.0.0.1:8500", "Sec-Fetch-Site", "cross-site"),
			"form":           ask(method, "127.0.0.1:8500", "Sec-Fetch-Site", "same-site", "Content-Type", "text/plain"),
		} {
			if w.Code != http.StatusForbidden || w.Header().Get("Access-Control-Allow-Origin") != "" {
				t.Errorf("%s, %s: %d %v", method, name, w.Code, w.Header())
			}
		}
		if method == http.MethodOptions {
			continue
		}
		for name, w := range map[string]*httptest.ResponseRecorder{
			"a program": ask(method, "127.0.0.1:8500"), "by name": ask(method, "localhost:8500"), "IPv6": ask(method, "[::1]:8500"),
			"its own page": ask(method, "127.0.0.1:8500", "Origin", "http://127.0.0.1:8500", "Sec-Fetch-Site", "same-origin"),
			"typed in":     ask(method, "127.0.0.1:8500", "Sec-Fetch-Site", "none"),
		} {
			if w.Code != http.StatusOK {
				t.Errorf("the control, %s, %s: %d %s", method, name, w.Code, w.Body)
			}
		}
	}
}

// TestNamesOfTheAgent: over loopback the agent is called by addresses and by names that nobody elsewhere can own; from other hosts, and by a
// Unix socket, by any name.
func TestNamesOfTheAgent(t *testing.T) {
	m := browserMux(t)
	loopback, lan := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 8500}, &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 8500}
	for _, c := range []struct {
		host string
		at   net.Addr
		want int
	}{
		{"127.0.0.1:8500", loopback, 200}, {"[::1]:8500", loopback, 200}, {"", loopback, 200},
		{"consul", loopback, 200}, {"server-1:8500", loopback, 200}, {"vm.node.consul:8500", loopback, 200}, {"Consul.Service.DC1.CONSUL.", loopback, 200},
		{"a.localhost", loopback, 200}, {"api.example:8500", loopback, 200}, {"x.api.example", loopback, 200},
		{"example:8500", loopback, 200}, {"evil.example:8500", loopback, 403}, {"evilapi.example", loopback, 403}, {"consul.evil.example", loopback, 403},
		{"notconsul.x", loopback, 403}, {"api.example.evil", loopback, 403},
		{"consul.example:8500", lan, 200}, {"any.thing.example", &net.UnixAddr{Name: "/run/a.sock"}, 200},
	} {
		r := httptest.NewRequest(http.MethodGet, "http://x/v1/agent/self", http.NoBody)
		r.Host = c.host
		w := httptest.NewRecorder()
		m.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, c.at)))
		if w.Code != c.want {
			t.Errorf("%q at %s: %d, want %d", c.host, c.at, w.Code, c.want)
		}
	}
	r := httptest.NewRequest(http.MethodPut, "http://consul.example/v1/agent/reload", http.NoBody)
	r.Header.Set("Origin", "http://evil.example")
	w := httptest.NewRecorder()
	m.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, lan)))
	if w.Code != http.StatusForbidden {
		t.Errorf("another site's page, over the network: %d", w.Code)
	}
}

// TestC120_AnswersAreNoPages: what is stored is answered as JSON that no browser takes for a page.
func TestC120_AnswersAreNoPages(t *testing.T) {
	m := browserMux(t)
	for _, path := range []string{"/v1/agent/self", "/v1/none", "/v1/agent/service/", "/<script>"} {
		w := httptest.NewRecorder()
		m.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "http://127.0.0.1:8500"+path, http.NoBody))
		kind := w.Header().Get("Content-Type")
		if w.Header().Get("X-Content-Type-Options") != "nosniff" || !strings.HasPrefix(kind, "application/json") && !strings.HasPrefix(kind, "text/plain") {
			t.Errorf("%s: %v", path, w.Header())
		}
		if kind == "application/json" && strings.Contains(w.Body.String(), "<script>") && w.Header().Get("X-Content-Type-Options") == "" {
			t.Errorf("%s: %s", path, w.Body)
		}
	}
}

// What a redirect says goes into logs and histories: none has the token in it that was in the URL.
func TestNoRedirectHasAToken(t *testing.T) {
	m := serverMux(t, MuxConfig{}, func(http.ResponseWriter, *Request) error { return nil })
	for target, want := range map[string]int{
		"//v1/catalog/nodes?token=canary": http.StatusBadRequest, "/v1/catalog/../catalog/nodes?a=b&token=canary": http.StatusBadRequest, "/v1//catalog/nodes?token=canary": http.StatusBadRequest,
		"/v1//catalog/nodes": http.StatusTemporaryRedirect, "/v1/catalog/nodes?token=canary": http.StatusOK, "/v1/kv/a//b?token=canary": http.StatusOK, // the controls
	} {
		w := httptest.NewRecorder()
		r := httptest.NewRequest("GET", "http://127.0.0.1:8500/", nil)
		var err error
		if r.URL, err = url.ParseRequestURI(target); err != nil {
			t.Fatal(err)
		}
		m.ServeHTTP(w, r)
		if shown := fmt.Sprint(w.Header(), w.Body); w.Code != want || strings.Contains(shown, "canary") {
			t.Errorf("%s: %d, want %d: %s", target, w.Code, want, shown)
		}
	}
}
