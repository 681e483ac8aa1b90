// SPDX-License-Identifier: Apache-2.0

package xds_test

import (
	"slices"
	"strings"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	netrbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/rbac/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/connect/xds"
	"github.com/weftmesh/weft/connect/xds/xdstest"
)

func outside(name, protocol string, o catalog.Outside) *catalog.ServiceDefaults {
	return &catalog.ServiceDefaults{EntryHead: head(name), Protocol: protocol, Destination: &o}
}

// passes says whether a filter chain lets connections by, and to which cluster.
func passes(t *testing.T, filters []*listenerv3.Filter) (allowed bool, cluster string) {
	t.Helper()
	allowed = true
	for _, f := range filters {
		m, err := f.GetTypedConfig().UnmarshalNew()
		if err != nil {
			t.Fatal(err)
		}
		switch m := m.(type) {
		case *netrbacv3.RBAC:
			allowed = len(m.GetRules().GetPolicies()) > 0
		case *tcpv3.TcpProxy:
			cluster = m.GetCluster()
		}
	}
	return allowed, cluster
}

// What is outside has a chain that lets by or not, and that leads nowhere where it doesn't: Envoy connects before it asks.
func TestOutsideTransparently(t *testing.T) {
	w := world(t)
	write(t, w, &catalog.ProxyDefaults{EntryHead: head("global"), Mode: "transparent"},
		outside("net", "tcp", catalog.Outside{Addresses: []string{"10.9.0.0/16"}, Except: []string{"10.9.1.0/24"}, Ports: []int{443}}))
	proxy := transparently(t, w, nil)
	chain := func() (bool, string) {
		t.Helper()
		_, p := render(t, w, proxy)
		l := p.Listeners[outbound]
		if l.GetFilterChainMatcher() == nil || l.GetDefaultFilterChain() != nil {
			t.Fatalf("no matcher chooses: %v", l)
		}
		i := slices.IndexFunc(l.GetFilterChains(), func(c *listenerv3.FilterChain) bool { return c.GetName() == "outside~net" })
		if i < 0 {
			t.Fatal("net has no chain")
		}
		return passes(t, l.GetFilterChains()[i].GetFilters())
	}
	if ok, cluster := chain(); ok || cluster != "nowhere" {
		t.Errorf("without an intention: %t, to %s", ok, cluster)
	}
	write(t, w, allow("net", "web"))
	if ok, cluster := chain(); !ok || cluster != "outside~net" {
		t.Errorf("allowed: %t, to %s", ok, cluster)
	}
}

// Whose upstreams are kept to the users that it runs as, goes outside as these users alone: weft's own proxy asks who calls, and an Envoy,
// which can't, lets nobody.
func TestOutsideLocalIdentity(t *testing.T) {
	w := world(t)
	write(t, w, &catalog.ProxyDefaults{EntryHead: head("global"), Mode: "transparent"}, allow("net", "web"),
		outside("net", "tcp", catalog.Outside{Addresses: []string{"10.9.0.0/16"}}), outside("site", "http", catalog.Outside{Addresses: []string{"a.test"}, Port: 80}))
	proxy := transparently(t, w, nil)
	changed, own := *proxy, *proxy.Proxy
	own.LocalIdentity = &catalog.LocalIdentity{LocalProcesses: catalog.LocalProcesses{UIDs: []uint32{7}}}
	changed.Proxy = &own
	for _, weft := range []bool{false, true} {
		w.Abilities = xds.Abilities{Weft: weft}
		leaf, err := w.Leaf("web")
		if err != nil {
			t.Fatal(err)
		}
		out, err := w.Render(&changed, leaf)
		if err != nil {
			t.Fatal(err)
		}
		for _, res := range out.Resources[xds.ListenerType] {
			l := &listenerv3.Listener{}
			if err := res.Any.UnmarshalTo(l); err != nil {
				t.Fatal(err)
			}
			for _, c := range l.GetFilterChains() {
				asks := c.GetFilters()[0].GetName() == "weft.proxy.v1.LocalPeer"
				if strings.HasPrefix(c.GetName(), "outside") && asks != weft {
					t.Errorf("weft's own %t: chain %s asks who calls: %t", weft, c.GetName(), asks)
				}
				if ok, _ := passes(t, c.GetFilters()[map[bool]int{true: 1}[asks]:]); c.GetName() == "outside~net" && ok != weft {
					t.Errorf("weft's own %t: net is reached: %t", weft, ok)
				}
			}
		}
	}
}

// What nobody reaches although it is written is said.
func TestOutsideWarnings(t *testing.T) {
	w := world(t)
	write(t, w, &catalog.ProxyDefaults{EntryHead: head("global"), Mode: "transparent"},
		outside("here", "tcp", catalog.Outside{Addresses: []string{"127.0.0.1"}}),
		outside("one", "tcp", catalog.Outside{Addresses: []string{"a.test"}, Port: 443}), outside("two", "tcp", catalog.Outside{Addresses: []string{"a.test"}, Port: 443}))
	out, _ := render(t, w, transparently(t, w, nil))
	for i, want := range []string{"service-defaults/here: Destination.Addresses: 127.0.0.1/32 is this host's", "service-defaults/two: Destination.Addresses: a.test at port 443 is in one already"} {
		if len(out.Warnings) != 2 || !strings.Contains(out.Warnings[i], want) {
			t.Errorf("%q", out.Warnings)
		}
	}
}

// As an upstream what is outside is its addresses, in the clear; for who may not, nobody's. What is kept follows intentions.
func TestOutsideAsUpstream(t *testing.T) {
	w := world(t)
	write(t, w, outside("db", "tcp", catalog.Outside{Addresses: []string{"192.0.2.1", "db.test", "*.db.test", "10.0.0.0/8"}, Port: 5432}), allow("db", "web"))
	proxy := register(t, w, xdstest.Sidecar{Service: "web", Port: 8080, PublicPort: 21000, Upstreams: []catalog.Upstream{{DestinationName: "db", LocalBindPort: 9191}}})
	name := "db.default.dc1.internal" + domain
	out, p := render(t, w, proxy)
	c := p.Clusters[name]
	var at []string
	for _, e := range c.GetLoadAssignment().GetEndpoints() {
		for _, one := range e.GetLbEndpoints() {
			at = append(at, one.GetEndpoint().GetAddress().GetSocketAddress().GetAddress())
		}
	}
	if c.GetType() != clusterv3.Cluster_STRICT_DNS || c.GetTransportSocket() != nil || !slices.Equal(at, []string{"192.0.2.1", "db.test"}) {
		t.Errorf("%v", c)
	}
	if len(out.Warnings) != 2 || !strings.Contains(out.Warnings[0], "is no place to connect to") {
		t.Errorf("%q", out.Warnings)
	}
	write(t, w, &catalog.ServiceIntentions{EntryHead: head("db"), Sources: []catalog.SourceIntention{{Name: "web", Action: catalog.ActionDeny}}})
	_, p = render(t, w, proxy)
	if c := p.Clusters[name]; len(c.GetLoadAssignment().GetEndpoints()) != 0 {
		t.Errorf("denied, and there are places to go to: %v", c)
	}
	if ok, _ := passes(t, p.Listeners["db:127.0.0.1:9191"].GetFilterChains()[0].GetFilters()); ok {
		t.Error("denied, and connections pass")
	}
}

// An upstream outside the mesh is rendered anew when its intentions change, and only then.
func TestOutsideMemo(t *testing.T) {
	w, in, renderOnce := memoInput(t)
	if err := w.Write(outside("s3", "http", catalog.Outside{Addresses: []string{"192.0.2.1"}, Port: 80})); err != nil {
		t.Fatal(err)
	}
	in.DefaultAllow = true
	memo, last := &xds.Memo{}, ""
	for i, change := range []func() error{
		func() error { return nil },
		func() error {
			return w.Write(&catalog.ServiceIntentions{EntryHead: head("s3"), Sources: []catalog.SourceIntention{{Name: "web", Action: catalog.ActionDeny}}})
		},
		func() error { return w.Write(allow("s3", "web")) },
		func() error { in.DenyAll = true; return nil }, // what is known is too old
	} {
		if err := change(); err != nil {
			t.Fatal(err)
		}
		if with, without := renderOnce(memo, in.Now), renderOnce(nil, in.Now); with.Hash != without.Hash {
			t.Errorf("change %d: what is kept changes what comes out", i)
		} else if with.Hash == last {
			t.Errorf("change %d changes nothing", i)
		} else {
			last = with.Hash
		}
	}
}
