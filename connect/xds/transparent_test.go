// SPDX-License-Identifier: Apache-2.0

package xds_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	netrbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/rbac/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/connect/xds"
	"github.com/weftmesh/weft/connect/xds/xdstest"
)

const outbound = "outbound_listener:127.0.0.1:15001"

// transparently is web's proxy, whose mode proxy-defaults say, after changes of its registration.
func transparently(t *testing.T, w *xdstest.World, upstreams []catalog.Upstream) *catalog.Service {
	t.Helper()
	return register(t, w, xdstest.Sidecar{Service: "web", Port: 8080, PublicPort: 21000, Upstreams: upstreams})
}

// leads says where a captured connection goes: the route configuration, cluster, or "denied"; "" for nowhere.
func leads(t *testing.T, l *listenerv3.Listener, to string) string {
	t.Helper()
	addr, best := netip.MustParseAddr(to), -1
	chain := l.GetDefaultFilterChain()
	for _, c := range l.GetFilterChains() {
		for _, r := range c.GetFilterChainMatch().GetPrefixRanges() {
			p := netip.PrefixFrom(netip.MustParseAddr(r.GetAddressPrefix()), int(r.GetPrefixLen().GetValue()))
			if p.Contains(addr) && p.Bits() > best {
				chain, best = c, p.Bits()
			}
		}
	}
	for _, f := range chain.GetFilters() {
		m, err := f.GetTypedConfig().UnmarshalNew()
		if err != nil {
			t.Fatal(err)
		}
		switch m := m.(type) {
		case *netrbacv3.RBAC:
			return "denied"
		case *tcpv3.TcpProxy:
			return m.GetCluster()
		case *hcmv3.HttpConnectionManager:
			return "routes " + m.GetRds().GetRouteConfigName()
		}
	}
	return ""
}

func virtualOf(t *testing.T, w *xdstest.World, service string) string {
	t.Helper()
	v, err := w.Store.Read().VirtualIP(catalog.Scope{}.Name(service))
	if err != nil || v == nil {
		t.Fatalf("%s has no virtual address: %v", service, err)
	}
	return v.Address()
}

func allow(dst string, sources ...string) *catalog.ServiceIntentions {
	e := &catalog.ServiceIntentions{EntryHead: head(dst)}
	for _, s := range sources {
		e.Sources = append(e.Sources, catalog.SourceIntention{Name: s, Action: catalog.ActionAllow})
	}
	return e
}

// A transparent proxy has the services that its service may call, by their addresses, and its upstreams; all else goes on, or not.
func TestTransparent(t *testing.T) {
	w := world(t)
	for i, name := range []string{"api", "db", "cache", "old"} {
		register(t, w, xdstest.Sidecar{Service: name, Node: "n2", Address: "10.0.0.2", Port: 9000 + i, PublicPort: 21001 + i})
	}
	write(t, w, &catalog.ServiceDefaults{EntryHead: head("api"), Protocol: "http"}, &catalog.ServiceDefaults{EntryHead: head("db"), Protocol: "tcp"},
		&catalog.ServiceDefaults{EntryHead: head("old"), Protocol: "tcp"}, allow("api", "web"), allow("db", "other"))
	proxy := transparently(t, w, []catalog.Upstream{{DestinationName: "old"}, {DestinationName: "api", LocalBindPort: 9191}})
	if _, p := render(t, w, proxy); p.Listeners[outbound] != nil {
		t.Fatal("a proxy whose mode isn't transparent captures")
	}
	write(t, w, &catalog.ProxyDefaults{EntryHead: head("global"), Mode: "transparent"})
	if err := w.Apply(catalog.AssignVirtualIPs{Service: catalog.Scope{}.Name("api"), Manual: []string{"10.96.0.7", "fd00::7"}}); err != nil {
		t.Fatal(err)
	}
	api, db, old := virtualOf(t, w, "api"), virtualOf(t, w, "db"), virtualOf(t, w, "old")
	check := func(want map[string]string) *xds.Output {
		t.Helper()
		out, p := render(t, w, proxy)
		l := p.Listeners[outbound]
		if l == nil || len(l.GetListenerFilters()) != 1 {
			t.Fatalf("no listener that captures: %v", l)
		}
		for to, where := range want {
			if got := leads(t, l, to); got != where {
				t.Errorf("to %s: %q, want %q", to, got, where)
			}
		}
		return out
	}
	oldCluster := "old.default.dc1.internal" + domain
	check(map[string]string{
		api: "routes api:outbound_listener", "10.96.0.7": "routes api:outbound_listener", "fd00::7": "routes api:outbound_listener",
		old: oldCluster, db: "denied", "240.1.2.3": "denied", "192.0.2.1": xds.OriginalDestination, "2001:db8::1": xds.OriginalDestination,
		"127.0.0.1": "denied", "127.9.0.1": "denied", "::1": "denied",
	})
	_, p := render(t, w, proxy)
	if c := p.Clusters[xds.OriginalDestination]; c.GetType() != clusterv3.Cluster_ORIGINAL_DST || c.GetTransportSocket() != nil {
		t.Errorf("%v", c)
	}
	if c := p.Clusters["nowhere"]; c.GetType() != clusterv3.Cluster_STATIC || len(c.GetLoadAssignment().GetEndpoints()) > 0 {
		t.Errorf("nowhere is somewhere: Envoy connects before its rules are asked: %v", c)
	}
	if p.Listeners["api:127.0.0.1:9191"] == nil {
		t.Error("an upstream with a port has lost its listener")
	}
	for name := range p.Listeners {
		if strings.HasPrefix(name, "old:") {
			t.Errorf("an upstream without a port listens at %s", name)
		}
	}
	write(t, w, allow("db", "*"), &catalog.Mesh{EntryHead: head("mesh"), TransparentProxy: &catalog.MeshTransparentProxy{MeshDestinationsOnly: true}})
	check(map[string]string{api: "routes api:outbound_listener", db: "db.default.dc1.internal" + domain, "192.0.2.1": "", "127.0.0.1": "denied"})
	cache := virtualOf(t, w, "cache")
	check(map[string]string{cache: "denied"})
	w.DefaultAllow = true
	check(map[string]string{cache: "cache.default.dc1.internal" + domain})
}

// Instances that want it are dialled by their own addresses, over mutual TLS.
func TestDialedDirectly(t *testing.T) {
	w := world(t)
	w.DefaultAllow = true
	write(t, w, &catalog.ProxyDefaults{EntryHead: head("global"), Mode: "transparent"})
	for i, name := range []string{"api", "db"} {
		register(t, w, xdstest.Sidecar{Service: name, Node: fmt.Sprintf("n%d", 2+i), Address: fmt.Sprintf("10.0.0.%d", 2+i), Port: 9000, PublicPort: 21001})
	}
	proxy := transparently(t, w, nil)
	listener := func() *listenerv3.Listener {
		t.Helper()
		_, p := render(t, w, proxy)
		return p.Listeners[outbound]
	}
	if got := leads(t, listener(), "10.0.0.2"); got != xds.OriginalDestination {
		t.Errorf("before it is asked for: %q", got)
	}
	write(t, w, &catalog.ServiceDefaults{EntryHead: head("api"), Protocol: "tcp", TransparentProxy: &catalog.TransparentProxy{DialedDirectly: true}})
	direct := "passthrough~api.default.dc1.internal" + domain
	if got := []string{leads(t, listener(), "10.0.0.2"), leads(t, listener(), "10.0.0.3")}; !slices.Equal(got, []string{direct, xds.OriginalDestination}) {
		t.Errorf("%q", got)
	}
	_, p := render(t, w, proxy)
	if c := p.Clusters[direct]; c.GetType() != clusterv3.Cluster_ORIGINAL_DST || c.GetTransportSocket() == nil {
		t.Errorf("%v", c)
	}
	register(t, w, xdstest.Sidecar{Service: "api", Node: "n2", Address: "10.0.0.2", Port: 9000, PublicPort: 21001, Status: catalog.HealthCritical})
	if got := leads(t, listener(), "10.0.0.2"); got != xds.OriginalDestination {
		t.Errorf("a critical instance: %q", got)
	}
}

// Where the mesh is reached over IPv6, connections over it are captured too.
func TestTransparentOverIPv6(t *testing.T) {
	w := world(t)
	proxy := transparently(t, w, nil)
	changed := *proxy
	own := *proxy.Proxy
	own.Mode, own.TransparentProxy = "transparent", &catalog.TransparentProxy{OutboundListenerPort: 15009}
	changed.Proxy, changed.Address = &own, "fd00::1"
	_, p := render(t, w, &changed)
	for _, name := range []string{"outbound_listener:127.0.0.1:15009", "outbound_listener:[::1]:15009"} {
		if l := p.Listeners[name]; l == nil || leads(t, l, "2001:db8::1") != xds.OriginalDestination {
			t.Errorf("%s: %v", name, l)
		}
	}
}

// A service that comes, goes, or is allowed changes the listener, and renders nothing of the others.
func TestTransparentMemo(t *testing.T) {
	w, in, render := memoInput(t)
	if err := w.Write(&catalog.ProxyDefaults{EntryHead: head("global"), Config: catalog.Opaque{"protocol": "http"}, Mode: "transparent"}); err != nil {
		t.Fatal(err)
	}
	in.DefaultAllow = true
	memo, now := &xds.Memo{}, time.Now()
	render(memo, now)
	same := func(what string, rendered int) {
		t.Helper()
		with := render(memo, now)
		if memo.Rendered() != rendered {
			t.Errorf("%s: %d upstreams rendered, want %d", what, memo.Rendered(), rendered)
		}
		if without := render(nil, now); with.Hash != without.Hash {
			t.Errorf("%s: what is kept changes what comes out", what)
		}
	}
	same("nothing", 0)
	for i, name := range []string{"aaa", "zzz"} {
		register(t, w, xdstest.Sidecar{Service: name, Node: "n3", Address: "10.0.0.3", Port: 1, PublicPort: 22000 + i})
		same("a service that came", 1)
	}
	write(t, w, &catalog.ServiceDefaults{EntryHead: head("aaa"), Protocol: "http", TransparentProxy: &catalog.TransparentProxy{DialedDirectly: true}})
	same("dialled directly", 1)
	register(t, w, xdstest.Sidecar{Service: "aaa", Node: "n4", Address: "10.0.0.4", Port: 1, PublicPort: 22000})
	same("an instance that came", 1)
	for _, node := range []string{"n3", "n4"} {
		if err := w.Apply(catalog.Deregister{Node: node}); err != nil {
			t.Fatal(err)
		}
	}
	same("all gone", 0)
	if err := w.Write(&catalog.ServiceIntentions{EntryHead: head("s3"), Sources: []catalog.SourceIntention{{Name: "web", Action: catalog.ActionDeny}}}); err != nil {
		t.Fatal(err)
	}
	same("an upstream that is denied", 0)
}

// Too many services are bounded, and it is said.
func TestTransparentBound(t *testing.T) {
	w := world(t)
	w.DefaultAllow = true
	write(t, w, &catalog.ProxyDefaults{EntryHead: head("global"), Mode: "transparent"})
	const most = 1024
	for i := range most + 10 {
		register(t, w, xdstest.Sidecar{Service: fmt.Sprintf("s%04d", i), Node: "n2", Address: "10.0.0.2", Port: 1, PublicPort: 21001})
	}
	out, p := render(t, w, transparently(t, w, []catalog.Upstream{{DestinationName: "s1033"}}))
	if n := len(p.Listeners[outbound].GetFilterChains()); n != most+2 { // with the upstream and what leads nowhere
		t.Errorf("%d filter chains", n)
	}
	if len(out.Warnings) != 1 || !strings.Contains(out.Warnings[0], "reaches 10 services more") { // web itself and nine
		t.Errorf("%q", out.Warnings)
	}
}
