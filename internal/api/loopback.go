// SPDX-License-Identifier: Apache-2.0

package api

import (
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"

	"github.com/weftmesh/weft/internal/guard"
)

// tricked says whether a request looks like one that a browser was led to make: it came over loopback, and its Host is a name that
// somebody elsewhere may own (DNS rebinding), or its Origin, or what the browser says of where it comes from, is another site's (CSRF).
func (m *Mux) tricked(r *http.Request) bool {
	if guard.Off("C119") {
		return false
	}
	if local(r) && !m.own(r.Host) {
		return true
	}
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" && site != "same-origin" && site != "none" {
		return true // the browser itself says so
	}
	origin := r.Header.Get("Origin")
	if origin == "" {
		return false
	}
	u, err := url.Parse(origin)
	return err != nil || !strings.EqualFold(u.Host, r.Host)
}

// local says whether a request came over loopback, which is where browsers of this machine are led; from elsewhere the agent is called by
// whatever name it has there. What isn't known to have come from elsewhere counts as local.
func local(r *http.Request) bool {
	switch a := r.Context().Value(http.LocalAddrContextKey).(type) {
	case *net.TCPAddr:
		return a.IP.IsLoopback()
	case *net.UnixAddr:
		return false // no browser speaks to a Unix socket
	}
	return true
}

// own says whether a Host is an address, or a name that leads here and that nobody elsewhere can own: one without a dot, or below one of
// MuxConfig.Hosts.
func (m *Mux) own(host string) bool {
	if _, err := netip.ParseAddrPort(host); err == nil { // as nearly all have it
		return true
	}
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.ToLower(strings.TrimSuffix(strings.Trim(host, "[]"), "."))
	if !strings.ContainsAny(host, ".:") || strings.HasSuffix(host, ".localhost") {
		return true
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return true
	}
	if m.c.Hosts == nil {
		return false
	}
	for _, known := range m.c.Hosts() {
		if known = strings.ToLower(strings.Trim(known, ".")); known != "" && (host == known || strings.HasSuffix(host, "."+known)) {
			return true
		}
	}
	return false
}
