// SPDX-License-Identifier: Apache-2.0

package chain

import (
	"errors"
	"testing"

	"github.com/weftmesh/weft/catalog"
)

const clusterID = "11111111-2222-3333-4444-555555555555"

// view is a read of a store that holds a cluster ID and the entries.
func view(t *testing.T, entries ...catalog.Entry) *catalog.Txn {
	t.Helper()
	s, err := catalog.New(catalog.Config{Datacenter: "dc1"})
	if err != nil {
		t.Fatal(err)
	}
	data, err := catalog.Encode(&catalog.SetCluster{ID: clusterID})
	if err != nil {
		t.Fatal(err)
	}
	if r := s.Apply([]catalog.LogEntry{{Index: 1, Data: data}}); r[0].Err != nil {
		t.Fatal(r[0].Err)
	}
	for _, e := range entries {
		e.Head().Scope = e.Head().Default("dc1")
		e.Normalize()
		if err := e.Validate(); err != nil {
			t.Fatal(err)
		}
	}
	return s.Read().With(entries...)
}

func head(name string) catalog.EntryHead { return catalog.EntryHead{Name: name} }

func httpService(name string) catalog.Entry {
	return &catalog.ServiceDefaults{EntryHead: head(name), Protocol: catalog.ProtocolHTTP}
}

func api() catalog.Key { return catalog.Scope{}.Name("api") }

func TestDefaultChain(t *testing.T) {
	c, err := Compile(view(t), api(), Overrides{})
	if err != nil {
		t.Fatal(err)
	}
	target := c.Targets["api.default.default.dc1"]
	if !c.Default || c.Protocol != "tcp" || c.StartNode != "resolver:api.default.default.dc1" || target == nil {
		t.Fatalf("got %+v", c)
	}
	if want := "api.default.dc1.internal." + clusterID + ".consul"; target.SNI != want || target.Name != want {
		t.Errorf("SNI %q, Name %q, want %q", target.SNI, target.Name, want)
	}
}

func TestRouteSplitSubsetFailover(t *testing.T) {
	c, err := Compile(view(t, httpService("api"), httpService("other"),
		&catalog.ServiceResolver{
			EntryHead: head("api"), DefaultSubset: "v1",
			Subsets:  map[string]catalog.ServiceResolverSubset{"v1": {Filter: `Service.Meta.version == "1"`}, "v2": {}},
			Failover: map[string]catalog.ServiceResolverFailover{"*": {Service: "other"}},
		},
		&catalog.ServiceSplitter{EntryHead: head("api"), Splits: []catalog.ServiceSplit{{Weight: 90, ServiceSubset: "v1"}, {Weight: 10, ServiceSubset: "v2"}}},
		&catalog.ServiceRouter{EntryHead: head("api"), Routes: []catalog.ServiceRoute{{
			Match:       &catalog.ServiceRouteMatch{HTTP: &catalog.ServiceRouteHTTPMatch{PathPrefix: "/o"}},
			Destination: &catalog.ServiceRouteDestination{Service: "other"},
		}}}),
		api(), Overrides{})
	if err != nil {
		t.Fatal(err)
	}
	routes := c.Nodes[c.StartNode].Routes
	if len(routes) != 2 || routes[0].NextNode != "resolver:other.default.default.dc1" || routes[1].NextNode != "splitter:api.default.default" {
		t.Fatalf("routes %+v", routes)
	}
	splits := c.Nodes[routes[1].NextNode].Splits
	if len(splits) != 2 || splits[0].Weight != 90 || splits[1].NextNode != "resolver:v2.api.default.default.dc1" {
		t.Fatalf("splits %+v", splits)
	}
	if f := c.Nodes[splits[0].NextNode].Resolver.Failover; f == nil || len(f.Targets) != 1 || f.Targets[0] != "other.default.default.dc1" {
		t.Errorf("failover %+v", f)
	}
}

func TestErrors(t *testing.T) {
	redirect := func(from, to string) catalog.Entry {
		return &catalog.ServiceResolver{EntryHead: head(from), Redirect: &catalog.ServiceResolverRedirect{Service: to}}
	}
	split := func(from, to, subset string) catalog.Entry {
		return &catalog.ServiceSplitter{EntryHead: head(from), Splits: []catalog.ServiceSplit{{Weight: 100, Service: to, ServiceSubset: subset}}}
	}
	for name, test := range map[string]struct {
		entries []catalog.Entry
		want    string
	}{
		"protocols": {[]catalog.Entry{httpService("api"), split("api", "db", "")}, `discovery chain "api" uses inconsistent protocols; service "db" has "tcp" which is not "http"`},
		"tcp":       {[]catalog.Entry{&catalog.ServiceRouter{EntryHead: head("api")}}, `discovery chain "api" uses a protocol "tcp" that does not permit advanced routing or splitting behavior`},
		"subset":    {[]catalog.Entry{httpService("api"), split("api", "", "v9")}, `service "api" does not have a subset named "v9"`},
		"redirects": {[]catalog.Entry{redirect("api", "db"), redirect("db", "api")}, `detected circular resolver redirect: [api.default.default.dc1 -> db.default.default.dc1 -> api.default.default.dc1]`},
		"splits":    {[]catalog.Entry{httpService("api"), httpService("b"), split("api", "b", ""), split("b", "api", "")}, `detected circular reference: [splitter:api.default.default -> splitter:b.default.default -> splitter:api.default.default]`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Compile(view(t, test.entries...), api(), Overrides{})
			if !errors.Is(err, ErrInvalid) || err.Error() != test.want {
				t.Errorf("got %v, want %s", err, test.want)
			}
		})
	}
}

func TestReplicaThatHoldsNothing(t *testing.T) {
	s, err := catalog.New(catalog.Config{Datacenter: "dc1", Replica: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Compile(s.Read(), api(), Overrides{}); !errors.Is(err, catalog.ErrNotCovered) {
		t.Errorf("got %v, want ErrNotCovered", err)
	}
}

func TestWalkNamesWhatItPassed(t *testing.T) {
	c, err := Compile(view(t, httpService("api"), httpService("ops"),
		&catalog.ServiceResolver{EntryHead: head("api"), Subsets: map[string]catalog.ServiceResolverSubset{"v1": {}, "v2": {}}},
		&catalog.ServiceSplitter{EntryHead: head("api"), Splits: []catalog.ServiceSplit{{Weight: 90, ServiceSubset: "v1"}, {Weight: 10, ServiceSubset: "v2"}}},
		&catalog.ServiceRouter{EntryHead: head("api"), Routes: []catalog.ServiceRoute{
			{Name: "tester", Match: &catalog.ServiceRouteMatch{HTTP: &catalog.ServiceRouteHTTPMatch{Header: []catalog.ServiceRouteHTTPMatchHeader{{Name: "user", Exact: "tester"}}}}, Destination: &catalog.ServiceRouteDestination{ServiceSubset: "v2"}},
			{Match: &catalog.ServiceRouteMatch{HTTP: &catalog.ServiceRouteHTTPMatch{PathPrefix: "/ops/"}}, Destination: &catalog.ServiceRouteDestination{Service: "ops", PrefixRewrite: "/"}},
			{Match: &catalog.ServiceRouteMatch{HTTP: &catalog.ServiceRouteHTTPMatch{PathExact: "/gone"}}, Response: &catalog.HTTPResponse{Status: 410}},
		}}), api(), Overrides{})
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		req   Request
		route string
		ways  int
		path  string
		ends  string
	}{
		{Request{Path: "/", Header: map[string][]string{"User": {"tester"}}}, "service-router/api route 1 (tester)", 1, "/", ""},
		{Request{Path: "/ops/x?y"}, "service-router/api route 2", 1, "/x?y", ""},
		{Request{Path: "/gone"}, "service-router/api route 3", 0, "/gone", "status 410"},
		{Request{Path: "/"}, "service api", 2, "/", ""},
	} {
		w, err := c.Walk(Caller{Service: catalog.Scope{}.Name("web")}, test.req)
		if err != nil || w.Route != test.route || len(w.Ways) != test.ways || w.Path != test.path || w.Answer != test.ends {
			t.Errorf("%+v: %+v, %v", test.req, w, err)
		}
		for i, s := range w.Steps {
			if s.Matched != (i == len(w.Steps)-1) || s.Matched != (s.Why == "") {
				t.Errorf("%+v: step %+v", test.req, s)
			}
		}
	}
}
