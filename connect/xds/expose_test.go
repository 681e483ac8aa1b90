// SPDX-License-Identifier: Apache-2.0

package xds_test

import (
	"strings"
	"testing"

	"github.com/weftmesh/weft/catalog"
)

func TestExposedPaths(t *testing.T) {
	w := world(t)
	path := func(path string, listener, local int, protocol string) catalog.ExposePath {
		return catalog.ExposePath{Path: path, ListenerPort: listener, LocalPathPort: local, Protocol: protocol}
	}
	write(t, w, &catalog.ServiceDefaults{EntryHead: head("web"), Expose: catalog.Expose{Paths: []catalog.ExposePath{
		path("/health", 21500, 8080, ""), path("/metrics", 21501, 8080, "http"), path("/grpc", 21502, 8080, "http2"), path("/lost", 21000, 8080, ""),
	}}})
	out, p := render(t, w, register(t, w, web()))
	for name, cluster := range map[string]string{"21500": "exposed_cluster_8080", "21501": "exposed_cluster_8080", "21502": "exposed_cluster_8080_http2"} {
		name = "exposed_path:0.0.0.0:" + name
		l, routes := p.Listeners[name], p.Routes[name]
		if l == nil || l.GetFilterChains()[0].GetTransportSocket() != nil || len(routes.GetVirtualHosts()[0].GetRoutes()) != 1 {
			t.Fatalf("%s: %v %v", name, l, routes)
		}
		if got := routes.GetVirtualHosts()[0].GetRoutes()[0].GetRoute().GetCluster(); got != cluster || p.Clusters[cluster] == nil {
			t.Errorf("%s leads to %s, want %s", name, got, cluster)
		}
	}
	if len(out.Warnings) != 1 || !strings.Contains(out.Warnings[0], "/lost") || !strings.Contains(out.Warnings[0], "public listener") {
		t.Errorf("warnings %q, want one about the port of the public listener", out.Warnings)
	}
	// What the registration says of paths holds alone.
	s := register(t, w, web())
	s.Proxy.Expose = catalog.Expose{Paths: []catalog.ExposePath{path("/own", 21600, 8081, "")}}
	out, p = render(t, w, s)
	if len(p.Listeners) != 2 || p.Listeners["exposed_path:0.0.0.0:21600"] == nil || len(out.Warnings) > 0 {
		t.Errorf("listeners %v, warnings %q", p.Listeners, out.Warnings)
	}
}
