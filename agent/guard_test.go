// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/weftmesh/weft/agent/config"
)

// http_config's headers, blocked paths and networks that may write.
func TestGuard(t *testing.T) {
	c := &config.Config{HTTPConfig: config.HTTPConfig{
		BlockEndpoints: []string{"/v1/agent/self"}, ResponseHeaders: map[string]string{"X-Own": "yes"},
		AllowWriteHTTPFrom: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")},
	}}
	h := guarded(func() *config.Config { return c }, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	for _, c := range []struct {
		method, path, from string
		code               int
	}{
		{"GET", "/v1/catalog/nodes", "192.0.2.1:1", 200},
		{"GET", "/v1/agent/self", "10.0.0.1:1", 403},
		{"PUT", "/v1/kv/a", "192.0.2.1:1", 403},
		{"PUT", "/v1/kv/a", "10.0.0.1:1", 200},
		{"DELETE", "/v1/kv/a", "[::ffff:10.0.0.1]:1", 200},
		{"DELETE", "/v1/kv/a", "[fd00::1]:1", 200},
		{"DELETE", "/v1/kv/a", "[2001:db8::1]:1", 403},
		{"PUT", "/v1/kv/a", "@", 200}, // a Unix socket
	} {
		r := httptest.NewRequest(c.method, c.path, nil)
		r.RemoteAddr = c.from
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != c.code || w.Header().Get("X-Own") != "yes" {
			t.Errorf("%s %s from %s: %d %v", c.method, c.path, c.from, w.Code, w.Header())
		}
	}
}

// By which names the agent may be called over loopback is what the configuration in force says.
func TestHosts(t *testing.T) {
	c := config.Default()
	if _, err := c.LoadText("a.hcl", "hcl", `alt_domain = "corp"  http_config { allow_hosts = ["api.example"] }`); err != nil {
		t.Fatal(err)
	}
	a := &Agent{}
	a.guard.Store(&c)
	if got := a.hosts(); !slices.Equal(got, []string{"consul", "corp", "api.example"}) && !slices.Equal(got, []string{"consul.", "corp", "api.example"}) {
		t.Error(got)
	}
}

// Who says nothing of how fresh an answer has to be, gets it as the configuration says; without a cache nothing is cached.
func TestFreshness(t *testing.T) {
	no, yes := false, true
	for _, c := range []struct {
		use         *bool
		stale       time.Duration
		asked, want string
	}{
		{nil, 0, "/v1/catalog/nodes?cached&a=b", "/v1/catalog/nodes?cached&a=b"},
		{&yes, 0, "/v1/catalog/nodes?cached", "/v1/catalog/nodes?cached"},
		{&no, 0, "/v1/catalog/nodes?cached&a=b", "/v1/catalog/nodes?a=b"},
		{nil, 3 * time.Second, "/v1/catalog/nodes?a=b", "/v1/catalog/nodes?a=b&max_stale=3s&stale="},
		{nil, 3 * time.Second, "/v1/health/service/web", "/v1/health/service/web?max_stale=3s&stale="},
		{nil, 3 * time.Second, "/v1/health/service/web?consistent", "/v1/health/service/web?consistent="},
		{nil, 3 * time.Second, "/v1/health/service/web?cached", "/v1/health/service/web?cached="},
		{&no, 3 * time.Second, "/v1/health/service/web?cached", "/v1/health/service/web?max_stale=3s&stale="},
		{nil, 3 * time.Second, "/v1/kv/a", "/v1/kv/a"},
	} {
		conf := &config.Config{HTTPConfig: config.HTTPConfig{UseCache: c.use}, DiscoveryMaxStale: c.stale}
		got := ""
		h := guarded(func() *config.Config { return conf }, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = r.URL.String() }))
		if h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", c.asked, nil)); got != c.want {
			t.Errorf("%s: %s, want %s", c.asked, got, c.want)
		}
	}
}
