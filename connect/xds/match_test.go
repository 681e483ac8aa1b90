// SPDX-License-Identifier: Apache-2.0

package xds_test

import (
	"net/http"
	"testing"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/connect/intention"
	"github.com/weftmesh/weft/connect/xds/xdstest"
)

type httpMatch = catalog.ServiceRouteHTTPMatch

func headerIs(h catalog.ServiceRouteHTTPMatchHeader) *httpMatch {
	return &httpMatch{Header: []catalog.ServiceRouteHTTPMatchHeader{h}}
}

func queryIs(q catalog.ServiceRouteHTTPMatchQueryParam) *httpMatch {
	return &httpMatch{QueryParam: []catalog.ServiceRouteHTTPMatchQueryParam{q}}
}

// Each form of match takes what it should and nothing else.
func TestEveryFormOfMatch(t *testing.T) {
	type request = intention.Request
	header := func(name string, values ...string) request { return request{Header: http.Header{name: values}} }
	path := func(p string) request { return request{Path: p} }
	for name, c := range map[string]struct {
		match   *httpMatch
		yes, no []request
	}{
		"path exact":       {&httpMatch{PathExact: "/a"}, []request{path("/a"), path("/a?x=1")}, []request{path("/A"), path("/a/")}},
		"path prefix":      {&httpMatch{PathPrefix: "/a"}, []request{path("/a"), path("/ab/c")}, []request{path("/A"), path("/b/a")}},
		"path regex":       {&httpMatch{PathRegex: "/[ab]+"}, []request{path("/ab")}, []request{path("/abc"), path("/x/ab")}},
		"case insensitive": {&httpMatch{PathExact: "/a", CaseInsensitive: true}, []request{path("/A")}, []request{path("/b")}},
		"case insensitive regex": {
			&httpMatch{PathRegex: "/a+", CaseInsensitive: true}, []request{path("/aA")}, []request{path("/ab")},
		},
		"header exact":  {headerIs(catalog.ServiceRouteHTTPMatchHeader{Name: "user", Exact: "tester"}), []request{header("User", "tester")}, []request{header("User", "tester2"), {}}},
		"header prefix": {headerIs(catalog.ServiceRouteHTTPMatchHeader{Name: "user", Prefix: "te"}), []request{header("User", "tester")}, []request{header("User", "at")}},
		"header suffix": {headerIs(catalog.ServiceRouteHTTPMatchHeader{Name: "user", Suffix: "er"}), []request{header("User", "tester")}, []request{header("User", "era")}},
		"header contains": {
			headerIs(catalog.ServiceRouteHTTPMatchHeader{Name: "user", Contains: "ST", IgnoreCase: true}), []request{header("User", "tester")}, []request{header("User", "t-s")},
		},
		"header regex":    {headerIs(catalog.ServiceRouteHTTPMatchHeader{Name: "user", Regex: "t.*r"}), []request{header("User", "tester")}, []request{header("User", "testers")}},
		"header present":  {headerIs(catalog.ServiceRouteHTTPMatchHeader{Name: "user", Present: true}), []request{header("User", "")}, []request{{}}},
		"header inverted": {headerIs(catalog.ServiceRouteHTTPMatchHeader{Name: "user", Exact: "a", Invert: true}), []request{header("User", "b")}, []request{header("User", "a"), {}}},
		"header absent":   {headerIs(catalog.ServiceRouteHTTPMatchHeader{Name: "user", Present: true, Invert: true}), []request{{}}, []request{header("User", "a")}},
		"header range": {
			headerIs(catalog.ServiceRouteHTTPMatchHeader{Name: "n", Range: &catalog.Range{From: 1, To: 10}}),
			[]request{header("N", "1"), header("N", "9")}, []request{header("N", "10"), header("N", "x"), header("N", "0"), {}},
		},
		"query exact":   {queryIs(catalog.ServiceRouteHTTPMatchQueryParam{Name: "q", Exact: "1"}), []request{path("/?q=1")}, []request{path("/?q=2"), path("/")}},
		"query regex":   {queryIs(catalog.ServiceRouteHTTPMatchQueryParam{Name: "q", Regex: "1+"}), []request{path("/?q=11")}, []request{path("/?q=12")}},
		"query prefix":  {queryIs(catalog.ServiceRouteHTTPMatchQueryParam{Name: "q", Prefix: "1"}), []request{path("/?q=12")}, []request{path("/?q=21")}},
		"query present": {queryIs(catalog.ServiceRouteHTTPMatchQueryParam{Name: "q", Present: true}), []request{path("/?q=")}, []request{path("/?r=1")}},
		"method":        {&httpMatch{Methods: []string{"get", "PUT"}}, []request{{Method: "GET"}, {Method: "PUT"}}, []request{{Method: "POST"}}},
		"scheme":        {&httpMatch{Scheme: "HTTPS"}, []request{{Scheme: "https"}}, []request{{Scheme: "http"}}},
		"authority":     {&httpMatch{Authority: &catalog.StringMatch{Suffix: ".shop"}}, []request{{Authority: "a.shop"}}, []request{{Authority: "a.shop:1"}}},
		"port":          {&httpMatch{Port: 8080}, []request{{Authority: "a:8080"}, {Authority: "[::1]:8080"}}, []request{{Authority: "a"}, {Authority: "a:80"}}},
		"port 80":       {&httpMatch{Port: 80}, []request{{Authority: "a:80"}, {Authority: "a"}, {Authority: "[::1]"}}, []request{{Authority: "a:8080"}, {Authority: "[::1]:8080"}}},
		"grpc method": {
			&httpMatch{GRPC: &catalog.GRPCMatch{Service: "s.V1", Method: "Get"}},
			[]request{{Path: "/s.V1/Get", Header: http.Header{"Content-Type": {"application/grpc"}}}}, []request{path("/s.V1/Get")},
		},
		"grpc service": {
			&httpMatch{GRPC: &catalog.GRPCMatch{Service: "s.V1"}},
			[]request{{Path: "/s.V1/Get", Header: http.Header{"Content-Type": {"application/grpc+proto"}}}},
			[]request{{Path: "/s.V12/Get", Header: http.Header{"Content-Type": {"application/grpc"}}}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := world(t)
			protocol := "http"
			if c.match.GRPC != nil {
				protocol = "grpc"
			}
			write(t, w, &catalog.ProxyDefaults{Config: catalog.Opaque{"protocol": protocol}}, &catalog.ServiceRouter{
				EntryHead: head("api"), Routes: []catalog.ServiceRoute{{
					Match: &catalog.ServiceRouteMatch{HTTP: c.match}, Destination: &catalog.ServiceRouteDestination{Service: "other"},
				}},
			})
			_, p := render(t, w, register(t, w, web("api")))
			for want, list := range map[string][]request{"other": c.yes, "api": c.no} {
				for _, req := range list {
					if req.Path == "" {
						req.Path = "/"
					}
					a, err := p.Outbound("api", req)
					if err != nil || a.Clusters[want+".default.dc1.internal"+domain] == 0 {
						t.Errorf("%+v: %v, %v; want %s", req, a.Clusters, err, want)
					}
				}
			}
		})
	}
}

// Routes are asked by priority, can have several matches, and be for some callers only.
func TestOrderAlternativesAndSources(t *testing.T) {
	w := world(t)
	at := func(prefix string) *catalog.ServiceRouteMatch {
		return &catalog.ServiceRouteMatch{HTTP: &httpMatch{PathPrefix: prefix}}
	}
	to := func(s string) *catalog.ServiceRouteDestination { return &catalog.ServiceRouteDestination{Service: s} }
	from := func(s catalog.RouteSource) *catalog.ServiceRouteMatch { return &catalog.ServiceRouteMatch{Source: &s} }
	write(t, w, &catalog.ProxyDefaults{Config: catalog.Opaque{"protocol": "http"}}, &catalog.ServiceRouter{
		EntryHead: head("api"), Routes: []catalog.ServiceRoute{
			{Priority: 10, Match: at("/"), Destination: to("last")},
			{Match: from(catalog.RouteSource{Services: []string{"batch"}}), Destination: to("forbatch")},
			{Match: from(catalog.RouteSource{Meta: map[string]string{"tier": "gold"}}), Destination: to("gold")},
			{Match: from(catalog.RouteSource{Identities: []string{"spiffe://" + string(w.TrustDomain()) + "/ns/default/dc/dc1/svc/ops*"}}), Destination: to("forops")},
			{Name: "either", MatchAny: []catalog.ServiceRouteMatch{*at("/a"), *at("/b")}, Destination: to("either")},
			{Priority: -1, Match: at("/a/first"), Destination: to("first")},
		},
	})
	for _, c := range []struct {
		caller xdstest.Sidecar
		want   map[string]string
	}{
		{xdstest.Sidecar{Service: "web"}, map[string]string{"/a": "either", "/b/x": "either", "/a/first": "first", "/c": "last"}},
		{xdstest.Sidecar{Service: "batch", Node: "n2"}, map[string]string{"/a": "forbatch", "/a/first": "first"}},
		{xdstest.Sidecar{Service: "rich", Node: "n3", Meta: map[string]string{"tier": "gold"}}, map[string]string{"/c": "gold"}},
		{xdstest.Sidecar{Service: "ops-night", Node: "n4"}, map[string]string{"/c": "forops"}},
	} {
		c.caller.Port, c.caller.PublicPort, c.caller.Upstreams = 1, 21000, []catalog.Upstream{{DestinationName: "api", LocalBindPort: 9000}}
		_, p := render(t, w, register(t, w, c.caller))
		for path, want := range c.want {
			a, err := p.Outbound("api", intention.Request{Path: path})
			if err != nil || a.Clusters[want+".default.dc1.internal"+domain] == 0 {
				t.Errorf("%s of %s: %v, %v; want %s", path, c.caller.Service, a.Clusters, err, want)
			}
		}
	}
}
