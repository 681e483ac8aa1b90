// SPDX-License-Identifier: Apache-2.0

package intake_test

import (
	"net/netip"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/anypb"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/connect/proxy/config"
	"github.com/weftmesh/weft/connect/proxy/intake"
	"github.com/weftmesh/weft/connect/xds"
	"github.com/weftmesh/weft/connect/xds/xdstest"
)

// sidecarOfWeb registers a sidecar of web, and gives what is rendered for it, by type and name.
func sidecarOfWeb(t *testing.T, w *xdstest.World) map[string]map[string]*anypb.Any {
	t.Helper()
	proxy, err := w.Register(xdstest.Sidecar{Service: "web", Port: 8080, PublicPort: 21000})
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := w.Leaf("web")
	if err != nil {
		t.Fatal(err)
	}
	out, err := w.Render(proxy, leaf)
	if err != nil {
		t.Fatal(err)
	}
	resources := map[string]map[string]*anypb.Any{}
	for url, all := range out.Resources {
		resources[url] = map[string]*anypb.Any{}
		for _, r := range all {
			resources[url][r.Name] = r.Any
		}
	}
	return resources
}

// What is rendered for a transparent proxy is compiled: a listener without a socket for each service, by its address.
func TestCompileCaptured(t *testing.T) {
	w, err := xdstest.NewWorld(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	w.DefaultAllow, w.Abilities = true, xds.Abilities{Weft: true}
	if err := w.Write(&catalog.ProxyDefaults{Mode: catalog.ModeTransparent}, &catalog.ServiceDefaults{EntryHead: catalog.EntryHead{Name: "api"}, Protocol: "http"}); err != nil {
		t.Fatal(err)
	}
	for i, name := range []string{"api", "db"} { // db has not said what it speaks
		if _, err := w.Register(xdstest.Sidecar{Service: name, Node: "n2", Address: "10.0.0.2", Port: 1, PublicPort: 21001 + i}); err != nil {
			t.Fatal(err)
		}
	}
	s, err := intake.Compile(sidecarOfWeb(t, w), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	l := s.Listeners["outbound_listener:127.0.0.1:15001"]
	if l == nil || l.Captured == nil || l.Network != "tcp" || l.TCP != nil || l.HTTP != nil {
		t.Fatalf("%+v", l)
	}
	at := func(service string) *config.Listener {
		v, err := w.Store.Read().VirtualIP(catalog.Scope{}.Name(service))
		if err != nil {
			t.Fatal(err)
		}
		inner := l.Captured.For(netip.MustParseAddr(v.Address()))
		if inner == nil || inner.Network != "" || s.Listeners[inner.Name] != inner {
			t.Fatalf("%s: %+v isn't a listener of the snapshot without a socket", service, inner)
		}
		return inner
	}
	if api := at("api"); api.HTTP == nil || s.Routes[api.HTTP.RouteName] == nil {
		t.Errorf("api: %+v", api)
	}
	if db := at("db"); !db.Detect || db.TCP == nil || s.Clusters[db.TCP.Cluster] == nil || s.Clusters[db.TCP.Cluster].Original {
		t.Errorf("db: %+v", db)
	}
	for _, to := range []string{"127.0.0.1", "::1", "249.0.0.1"} {
		if none := l.Captured.For(netip.MustParseAddr(to)); len(none.Authorize) != 1 || !none.Authorize[0].Allow || len(none.Authorize[0].Policies) != 0 {
			t.Errorf("%s: %+v", to, none)
		}
	}
	if other := l.Captured.For(netip.MustParseAddr("192.0.2.1")); other == nil || !s.Clusters[other.TCP.Cluster].Original {
		t.Errorf("otherwise: %+v", other)
	}
}
