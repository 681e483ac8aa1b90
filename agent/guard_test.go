// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"

	"github.com/weftmesh/weft/agent/config"
)

// http_config's headers, blocked paths and networks that may write.
func TestGuard(t *testing.T) {
	c := &config.HTTPConfig{
		BlockEndpoints: []string{"/v1/agent/self"}, ResponseHeaders: map[string]string{"X-Own": "yes"},
		AllowWriteHTTPFrom: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")},
	}
	h := guarded(func() *config.HTTPConfig { return c }, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
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
