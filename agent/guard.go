// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"net"
	"net/http"
	"net/netip"
	"strings"

	"github.com/weftmesh/weft/agent/config"
)

// guarded is the API behind what http_config says at the moment.
func guarded(now func() *config.HTTPConfig, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := now()
		for k, v := range c.ResponseHeaders {
			w.Header().Set(k, v)
		}
		for _, path := range c.BlockEndpoints {
			if strings.HasPrefix(r.URL.Path, path) {
				http.Error(w, "Endpoint is blocked by agent configuration", http.StatusForbidden)
				return
			}
		}
		if writes(r.Method) && !mayWrite(c.AllowWriteHTTPFrom, r.RemoteAddr) {
			http.Error(w, "Access is restricted", http.StatusForbidden)
			return
		}
		h.ServeHTTP(w, r)
	})
}

func writes(method string) bool {
	return method != http.MethodGet && method != http.MethodHead && method != http.MethodOptions
}

// mayWrite says whether an address is in one of the networks; who comes by a Unix socket is of this host.
func mayWrite(from []netip.Prefix, remote string) bool {
	if len(from) == 0 {
		return true
	}
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		return true
	}
	ip, err := netip.ParseAddr(host)
	for _, p := range from {
		if err == nil && p.Contains(ip.Unmap().WithZone("")) {
			return true
		}
	}
	return false
}
