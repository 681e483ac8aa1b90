// SPDX-License-Identifier: Apache-2.0

package xds_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/connect/intention"
	"github.com/weftmesh/weft/connect/xds"
	"github.com/weftmesh/weft/connect/xds/xdstest"
)

// Two services of one name in two namespaces are two: a caller has a cluster and a listener for each, with the instances and the server name
// of each, and the intentions of one say nothing of the other, nor does one caller stand for that of the same name elsewhere.
func TestNamespaces(t *testing.T) {
	for _, protocol := range []string{"tcp", "http"} {
		w := world(t)
		if err := w.Apply(catalog.SetNamespace{Namespace: catalog.Namespace{Name: "red"}, Create: true}); err != nil {
			t.Fatal(err)
		}
		red := func(name string) catalog.EntryHead {
			return catalog.EntryHead{Scope: catalog.Scope{Namespace: "red"}, Name: name}
		}
		write(t, w, &catalog.ProxyDefaults{EntryHead: head("global"), Config: catalog.Opaque{"protocol": protocol}},
			&catalog.ServiceIntentions{EntryHead: red("api"), Sources: []catalog.SourceIntention{{Name: "web", Namespace: "default", Action: "allow"}}},
			&catalog.ServiceIntentions{EntryHead: head("api"), Sources: []catalog.SourceIntention{{Name: "web", Namespace: "red", Action: "allow"}}},
			&catalog.ServiceDefaults{EntryHead: head("web"), UpstreamConfig: &catalog.UpstreamDefaults{Overrides: []catalog.UpstreamConfig{
				{Name: "api", ConnectTimeoutMs: 1000}, {Name: "api", Namespace: "red", ConnectTimeoutMs: 2000},
			}}})
		caller := xdstest.Sidecar{Service: "web", Port: 8080, PublicPort: 21000, Upstreams: []catalog.Upstream{
			{DestinationName: "api", LocalBindPort: 9000}, {DestinationName: "api", DestinationNamespace: "red", LocalBindPort: 9001},
		}}
		proxies := map[string]*xdstest.Proxy{}
		for i, ns := range []string{"", "red"} {
			s := xdstest.Sidecar{Service: "api", Namespace: ns, Port: 8081, PublicPort: 21001 + i}
			_, proxies[ns] = render(t, w, register(t, w, s))
		}
		out, p := render(t, w, register(t, w, caller))
		td := string(w.TrustDomain())
		for listener, cluster := range map[string]string{"api": "api.default.dc1.internal." + td, "red/api": "api.red.dc1.internal." + td} {
			got, err := p.Outbound(listener, intention.Request{Method: "GET", Path: "/"})
			if err != nil || len(got.Clusters) != 1 || got.Clusters[cluster] == 0 {
				t.Errorf("%s: %s goes to %v, %v, want %s", protocol, listener, got.Clusters, err, cluster)
			}
			want := "127.0.0.1:21001*1"
			if strings.HasPrefix(listener, "red/") {
				want = "127.0.0.1:21002*1"
			}
			if all := p.Addresses(cluster); len(all) != 1 || !slices.Equal(all[0], []string{want}) {
				t.Errorf("%s: %s is at %v, want %s", protocol, cluster, all, want)
			}
		}
		timeouts := map[string]int64{}
		for _, r := range out.Resources[xds.ClusterType] {
			timeouts[r.Name] = p.Clusters[r.Name].GetConnectTimeout().AsDuration().Milliseconds()
		}
		if timeouts["api.default.dc1.internal."+td] != 1000 || timeouts["api.red.dc1.internal."+td] != 2000 {
			t.Errorf("%s: timeouts are %v", protocol, timeouts)
		}
		for of, allowed := range map[string]string{"": "red", "red": ""} {
			for _, from := range []string{"", "red", "blue"} {
				id := w.ID("web")
				id.Namespace = from
				got, err := proxies[of].Inbound(id, intention.Request{Method: "GET", Path: "/"})
				if err != nil || got.Allowed != (from == allowed) {
					t.Errorf("%s: web of %q at api of %q: %+v, %v", protocol, from, of, got, err)
				}
			}
		}
	}
}
