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

// tricked says whether a request looks like one that a browser was led to make: its Host is a name that isn't this
// machine's own (DNS rebinding), or its Origin, or what the browser says of where it comes from, is another site's (CSRF).
func tricked(r *http.Request) bool {
	if guard.Off("C119") {
		return false
	}
	if !own(r.Host) {
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

// own says whether a Host is an address, or this machine's name for itself.
func own(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.Trim(host, "[]")
	if host == "" || host == "unix" || strings.EqualFold(host, "localhost") {
		return true
	}
	_, err := netip.ParseAddr(host)
	return err == nil
}
