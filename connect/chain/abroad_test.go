// SPDX-License-Identifier: Apache-2.0

package chain

import (
	"slices"
	"testing"

	"github.com/weftmesh/weft/catalog"
)

// Targets in another datacenter have its name in everything by which they are known; what is written about services is looked for here.
func TestOtherDatacenter(t *testing.T) {
	failover := map[string]catalog.ServiceResolverFailover{
		"*":  {Datacenters: []string{"dc2", "dc3"}},
		"v2": {Targets: []catalog.ServiceResolverFailoverTarget{{Service: "spare", Datacenter: "dc2"}, {ServiceSubset: "v1"}}},
	}
	subsets := map[string]catalog.ServiceResolverSubset{"v1": {Filter: `Service.Meta.v == "1"`}, "v2": {Filter: `Service.Meta.v == "2"`}}
	txn := view(t, httpService("api"), httpService("spare"), httpService("old"), httpService("db"),
		&catalog.ServiceResolver{EntryHead: head("api"), Failover: failover, Subsets: subsets},
		&catalog.ServiceResolver{EntryHead: head("old"), Redirect: &catalog.ServiceResolverRedirect{Service: "api", ServiceSubset: "v1", Datacenter: "dc2"}},
		&catalog.ServiceSplitter{EntryHead: head("db"), Splits: []catalog.ServiceSplit{{Weight: 50}, {Weight: 50, Service: "old"}}})
	compile := func(k catalog.Key) *Chain {
		t.Helper()
		c, err := Compile(txn, k, Overrides{})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	c := compile(api())
	if f := c.Nodes[c.StartNode].Resolver.Failover; f == nil || !slices.Equal(f.Targets, []string{"api.default.default.dc2", "api.default.default.dc3"}) {
		t.Errorf("failover %+v", f)
	}
	if got, want := c.Targets["api.default.default.dc2"].SNI, "api.default.dc2.internal."+clusterID+".consul"; got != want {
		t.Errorf("SNI %s, want %s", got, want)
	}
	c = compile(catalog.Scope{}.Name("old"))
	id := "v1.api.default.default.dc2"
	if n := c.Nodes[c.StartNode]; n.Resolver.Target != id || c.Targets[id].Subset.Filter == "" {
		t.Errorf("redirected to %+v", n.Resolver)
	}
	// An upstream that names a datacenter: the whole chain is there, by the entries of here.
	c = compile(catalog.Scope{Datacenter: "dc2"}.Name("db"))
	if c.Datacenter != "dc2" || c.Targets["db.default.default.dc2"] == nil || c.Targets[id] == nil || c.Targets["db.default.default.dc1"] != nil {
		t.Errorf("chain %s with targets %v", c.Datacenter, c.Targets)
	}
	var got []string
	keys, err := Abroad(txn)
	for _, k := range keys {
		got = append(got, k.Name+"."+k.Datacenter)
	}
	if want := []string{"api.dc2", "spare.dc2", "api.dc3"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("called abroad: %v, %v; want %v", got, err, want)
	}
}
