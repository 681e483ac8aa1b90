// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"net/netip"
	"testing"
	"time"

	"github.com/weftmesh/weft/connect/proxy/config"
)

func TestProxyHead(t *testing.T) {
	at := netip.MustParseAddrPort
	for _, c := range []struct {
		form     config.ProxyProtocol
		from, to netip.AddrPort
		want     string
	}{
		{config.ProxyProtocolV1, at("10.0.0.1:4000"), at("[::ffff:10.0.0.2]:80"), "PROXY TCP4 10.0.0.1 10.0.0.2 4000 80\r\n"},
		{config.ProxyProtocolV1, at("[2001:db8::1]:4000"), at("[2001:db8::2]:80"), "PROXY TCP6 2001:db8::1 2001:db8::2 4000 80\r\n"},
		{config.ProxyProtocolV1, netip.AddrPort{}, netip.AddrPort{}, "PROXY UNKNOWN\r\n"},
		{config.ProxyProtocolV1, at("10.0.0.1:4000"), at("[2001:db8::2]:80"), "PROXY UNKNOWN\r\n"},
		{config.ProxyProtocolV2, at("10.0.0.1:4000"), at("10.0.0.2:80"), "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\x0a\x00\x00\x01\x0a\x00\x00\x02\x0f\xa0\x00\x50"},
		{config.ProxyProtocolV2, netip.AddrPort{}, netip.AddrPort{}, "\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"},
	} {
		if got := string(proxyHead(c.form, c.from, c.to)); got != c.want {
			t.Errorf("from %s to %s: %q, want %q", c.from, c.to, got, c.want)
		}
	}
	if got := proxyHead(config.ProxyProtocolV2, at("[2001:db8::1]:4000"), at("[2001:db8::2]:80")); len(got) != 16+36 || got[13] != 0x21 || got[15] != 36 {
		t.Errorf("over IPv6: %d bytes, %x", len(got), got)
	}
}

func TestFreshConnections(t *testing.T) {
	now := time.Now()
	for _, c := range []struct {
		keep        config.Keep
		born, since time.Time
		want        bool
	}{
		{config.Keep{}, now.Add(-time.Hour), now.Add(-time.Hour), true},
		{config.Keep{Age: time.Minute}, now.Add(-time.Hour), time.Time{}, false},
		{config.Keep{Age: time.Minute}, now, now, true},
		{config.Keep{Idle: time.Minute}, now.Add(-time.Hour), now.Add(-time.Hour), false},
		{config.Keep{Idle: time.Minute}, now.Add(-time.Hour), time.Time{}, true}, // in use
	} {
		v := &clusterView{config: &config.Cluster{Keep: c.keep}}
		if got := v.fresh(c.born, c.since); got != c.want {
			t.Errorf("%+v of %s, idle since %s: %t", c.keep, c.born, c.since, got)
		}
	}
}
