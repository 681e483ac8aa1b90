// SPDX-License-Identifier: Apache-2.0

package xds_test

import (
	"testing"
	"time"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/connect/intention"
	"github.com/weftmesh/weft/connect/xds"
)

func router(to ...catalog.ServiceRoute) *catalog.ServiceRouter {
	return &catalog.ServiceRouter{EntryHead: head("api"), Routes: to}
}

func TestMirrorsHaveClusters(t *testing.T) {
	w := world(t)
	half := 50.0
	write(t, w, &catalog.ProxyDefaults{Config: catalog.Opaque{"protocol": "http"}}, router(catalog.ServiceRoute{
		Destination: &catalog.ServiceRouteDestination{Mirror: []catalog.Mirror{{Service: "shadow", Percent: &half}}},
	}))
	_, p := render(t, w, register(t, w, web("api")))
	a, err := p.Outbound("api", intention.Request{Path: "/"})
	if err != nil {
		t.Fatal(err)
	}
	m := a.Route.GetRoute().GetRequestMirrorPolicies()
	if len(m) != 1 || m[0].GetCluster() != "shadow.default.dc1.internal"+domain || p.Clusters[m[0].GetCluster()] == nil || m[0].GetRuntimeFraction().GetDefaultValue().GetNumerator() != 500000 {
		t.Errorf("%v", m)
	}
}

// A fault goes by itself: the rendering says when, and what is rendered then has it no more.
func TestFaultsEnd(t *testing.T) {
	w := world(t)
	proxy := register(t, w, web("api"))
	leaf, err := w.Leaf("web")
	if err != nil {
		t.Fatal(err)
	}
	end := time.Now().Add(time.Hour)
	write(t, w, &catalog.ProxyDefaults{Config: catalog.Opaque{"protocol": "http"}}, router(catalog.ServiceRoute{
		Destination: &catalog.ServiceRouteDestination{Fault: &catalog.Fault{Until: &end, Abort: &catalog.FaultAbort{Reset: true}}},
	}))
	for _, c := range []struct {
		now           time.Time
		faults, warns int
	}{{end.Add(-time.Second), 1, 1}, {end, 0, 0}} {
		out, err := xds.Render(xds.Input{Txn: w.Store.Read(), Proxy: proxy, Leaf: leaf, Now: c.now})
		if err != nil {
			t.Fatal(err)
		}
		if len(out.Warnings) != c.warns || (c.faults == 1) != out.Deadline.Equal(end) {
			t.Errorf("at %s: deadline %s, warnings %v", c.now, out.Deadline, out.Warnings)
		}
	}
}

// A budget stands where a route asks for retries, and only there.
func TestRetriesHaveABudget(t *testing.T) {
	w := world(t)
	write(t, w, &catalog.ProxyDefaults{Config: catalog.Opaque{"protocol": "http"}}, router(catalog.ServiceRoute{
		Match:       &catalog.ServiceRouteMatch{HTTP: &httpMatch{PathPrefix: "/r"}},
		Destination: &catalog.ServiceRouteDestination{Service: "flaky", RetryOn: []string{"5xx"}},
	}))
	_, p := render(t, w, register(t, w, web("api")))
	for name, want := range map[string]bool{"flaky": true, "api": false} {
		limits := p.Clusters[name+".default.dc1.internal"+domain].GetCircuitBreakers().GetThresholds()[0]
		if got := limits.GetRetryBudget() != nil; got != want || got == (limits.GetMaxRetries() != nil) {
			t.Errorf("%s: %v", name, limits)
		}
	}
}
