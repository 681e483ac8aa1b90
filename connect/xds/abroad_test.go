// SPDX-License-Identifier: Apache-2.0

package xds_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/connect/xds"
	"github.com/weftmesh/weft/connect/xds/xdstest"
)

// imported brings an api of dc2 into the catalog of dc1.
func imported(t *testing.T, w *xdstest.World, address string) {
	t.Helper()
	if err := w.Apply(catalog.Import{Service: catalog.Scope{}.Default("dc2").Name("api"), Instances: []catalog.InstanceRecord{{
		Node: &catalog.Node{Node: "far", Address: address},
		Service: &catalog.Service{
			Kind: catalog.KindConnectProxy, ID: "api-sidecar-proxy", Service: "api-sidecar-proxy", Port: 21009, Weights: catalog.Weights{Passing: 1, Warning: 1},
			Proxy: &catalog.Proxy{DestinationServiceName: "api"},
		},
	}}}); err != nil {
		t.Fatal(err)
	}
}

// Where nobody answers here, the instances of another datacenter take over; its proxies show identities that name it.
func TestFailoverToOtherDatacenter(t *testing.T) {
	w := world(t)
	write(t, w, &catalog.ServiceResolver{EntryHead: head("api"), Failover: map[string]catalog.ServiceResolverFailover{"*": {Datacenters: []string{"dc2"}}}})
	register(t, w, xdstest.Sidecar{Service: "api", Node: "n2", Address: "10.0.0.1", Port: 1, PublicPort: 21001})
	imported(t, w, "10.9.0.1")
	proxy := register(t, w, web("api"))
	out, p := render(t, w, proxy)
	name := "api.default.dc1.internal" + domain
	if got := fmt.Sprint(p.Addresses(name)); got != "[[10.0.0.1:21001*1] [10.9.0.1:21009*1]]" {
		t.Errorf("endpoints %v", got)
	}
	known := func(dc string) bool {
		return slices.ContainsFunc(out.Resources[xds.ClusterType], func(r xds.Resource) bool {
			return r.Name == name && strings.Contains(string(r.Any.Value), "/ns/default/dc/"+dc+"/svc/api")
		})
	}
	if !known("dc1") || !known("dc2") {
		t.Errorf("identities: dc1 %v, dc2 %v", known("dc1"), known("dc2"))
	}
	if len(out.Warnings) > 0 {
		t.Errorf("warnings %v", out.Warnings)
	}
	register(t, w, xdstest.Sidecar{Service: "api", Node: "n2", Address: "10.0.0.1", Port: 1, PublicPort: 21001, Status: "critical"})
	_, p = render(t, w, proxy)
	if got := fmt.Sprint(p.Addresses(name)); got != "[[10.9.0.1:21009*1]]" {
		t.Errorf("without one of here: %v", got)
	}
}

// An upstream that names a datacenter is called there, though there is one of that name here. Gateways, which aren't there yet, are
// warned of.
func TestUpstreamInOtherDatacenter(t *testing.T) {
	w := world(t)
	register(t, w, xdstest.Sidecar{Service: "api", Node: "n2", Address: "10.0.0.1", Port: 1, PublicPort: 21001})
	imported(t, w, "10.9.0.1")
	caller := web()
	caller.Upstreams = []catalog.Upstream{{DestinationName: "api", Datacenter: "dc2", LocalBindPort: 9000}}
	out, p := render(t, w, register(t, w, caller))
	if got := fmt.Sprint(p.Addresses("api.default.dc2.internal" + domain)); got != "[[10.9.0.1:21009*1]]" {
		t.Errorf("endpoints %v", got)
	}
	if len(out.Warnings) > 0 {
		t.Errorf("warnings %v", out.Warnings)
	}
	write(t, w, &catalog.ProxyDefaults{MeshGateway: catalog.MeshGatewayMode{Mode: "local"}})
	out, _ = render(t, w, register(t, w, caller))
	if len(out.Warnings) != 1 || !strings.Contains(out.Warnings[0], "mesh gateways") {
		t.Errorf("warnings %v", out.Warnings)
	}
	caller.Upstreams[0].MeshGateway.Mode = "none"
	if out, _ = render(t, w, register(t, w, caller)); len(out.Warnings) > 0 {
		t.Errorf("warnings %v", out.Warnings)
	}
}
