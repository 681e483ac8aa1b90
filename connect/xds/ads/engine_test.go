// SPDX-License-Identifier: Apache-2.0

package ads

import (
	"slices"
	"testing"

	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"

	"github.com/weftmesh/weft/connect/xds"
)

// Envoy acknowledges clusters only when each new or changed one has its endpoints: they are sent before that answer, and
// nothing else is.
func TestEndpointsDontWaitForTheAnswerToClusters(t *testing.T) {
	e := newEngine(true)
	ask := func(url string, names ...string) {
		e.takeDelta(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: url, ResourceNamesSubscribe: names})
	}
	answer := func(p *push) {
		e.takeDelta(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: p.url, ResponseNonce: p.nonce})
	}
	sent := func(url string, names ...string) *push {
		t.Helper()
		p := e.next()
		if p == nil {
			t.Fatalf("nothing is sent, want %s of %s", names, url)
		}
		var got []string
		for _, r := range p.set {
			got = append(got, r.Name)
		}
		if p.url != url || len(got) != len(names) || got[0] != names[0] {
			t.Fatalf("%s of %s is sent, want %s of %s", got, p.url, names, url)
		}
		return p
	}
	e.update(output("c a=1", "e a=1", "r x=1"))
	ask(xds.ClusterType, "*")
	ask(xds.EndpointType, "a")
	ask(xds.RouteType, "x")
	answer(sent(xds.ClusterType, "a"))
	answer(sent(xds.EndpointType, "a"))
	answer(sent(xds.RouteType, "x"))
	e.update(output("c a=2", "c b=1", "e a=1", "e b=1", "r x=2"))
	clusters := sent(xds.ClusterType, "a", "b")
	answer(sent(xds.EndpointType, "a"))
	ask(xds.EndpointType, "b")
	answer(sent(xds.EndpointType, "b"))
	if p := e.next(); p != nil {
		t.Fatalf("%s is sent before the clusters are acknowledged", p.url)
	}
	answer(clusters)
	answer(sent(xds.RouteType, "x"))

	// A cluster goes again while Envoy begins it, new or changed: it is told that its endpoints are nowhere, and gives the answer.
	e.update(output("c a=3", "c b=1", "c d=1", "e a=1", "e b=1", "e d=1", "r x=2"))
	clusters = sent(xds.ClusterType, "a", "d")
	e.update(output("c b=1", "e b=1", "r x=3"))
	ask(xds.EndpointType, "d")
	p := sent(xds.EndpointType, "a", "d")
	for _, r := range p.set {
		var l endpointv3.ClusterLoadAssignment
		if err := r.Any.UnmarshalTo(&l); err != nil || l.GetClusterName() != r.Name || len(l.GetEndpoints()) > 0 {
			t.Errorf("%s: %v, %v", r.Name, &l, err)
		}
	}
	answer(p)
	if p := e.next(); p != nil {
		t.Fatalf("%s is sent before the clusters are acknowledged", p.url)
	}
	answer(clusters)
	answer(sent(xds.RouteType, "x"))
	for _, url := range []string{xds.EndpointType, xds.ClusterType} {
		if p := e.next(); p == nil || p.url != url || !slices.Equal(p.removed, []string{"a", "d"}) {
			t.Fatalf("%+v, want a and d of %s to go", p, url)
		} else {
			answer(p)
		}
	}
}
