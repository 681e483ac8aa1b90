// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/weftmesh/weft/agent/config"
)

// guarded is the API behind what http_config, discovery_max_stale and translate_wan_addrs say at the moment.
func guarded(now func() *config.Config, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		all := now()
		c := &all.HTTPConfig
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
		if c.UseCache != nil && !*c.UseCache || all.DiscoveryMaxStale > 0 {
			r = withDefaults(r, c.UseCache == nil || *c.UseCache, all.DiscoveryMaxStale)
		}
		if all.TranslateWANAddrs && translates(r) {
			translated(h, all.Datacenter, w, r)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// hosts are the domains by whose names the API may be called over loopback, at the moment.
func (a *Agent) hosts() []string {
	c := a.guard.Load()
	return append([]string{c.Domain, c.AltDomain}, c.HTTPConfig.AllowHosts...)
}

// withDefaults is a request with what the configuration says of how fresh its answer has to be, where it says nothing itself: without a
// cache nothing is cached.
func withDefaults(r *http.Request, cache bool, stale time.Duration) *http.Request {
	q := r.URL.Query()
	if !cache {
		q.Del("cached")
	}
	if stale > 0 && (strings.HasPrefix(r.URL.Path, "/v1/catalog") || strings.HasPrefix(r.URL.Path, "/v1/health")) && !writes(r.Method) &&
		!slices.ContainsFunc([]string{"stale", "consistent", "leader", "cached", "max_stale"}, q.Has) {
		q.Set("stale", "")
		q.Set("max_stale", stale.String())
	}
	out := new(*r)
	u := *r.URL
	u.RawQuery = q.Encode()
	out.URL = &u
	return out
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
