// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"net/netip"
	"regexp"
	"testing"

	"github.com/weftmesh/weft/connect/proxy/config"
	"github.com/weftmesh/weft/connect/proxy/stream"
)

func TestAllowed(t *testing.T) {
	const web = "spiffe://td/ns/default/dc/dc1/svc/web"
	exact := func(s string) config.StringMatch { return config.StringMatch{Kind: config.MatchExact, Text: s} }
	any := config.Rule{Kind: config.Any}
	is := func(uri string) config.Rule { return config.Rule{Kind: config.Authenticated, String: exact(uri)} }
	not := func(r config.Rule) config.Rule { return config.Rule{Kind: config.Not, Rules: []config.Rule{r}} }
	and := func(r ...config.Rule) config.Rule { return config.Rule{Kind: config.And, Rules: r} }
	or := func(r ...config.Rule) config.Rule { return config.Rule{Kind: config.Or, Rules: r} }
	path := func(s string) config.Rule { return config.Rule{Kind: config.PathIs, String: exact(s)} }
	field := func(h config.HeaderMatch) config.Rule { return config.Rule{Kind: config.HeaderIs, Header: &h} }
	allow := func(perm, who config.Rule) *config.Policies {
		return &config.Policies{Allow: true, Deciders: []config.Policy{{Name: "00 first", Permission: any, Principal: is("x")}, {Name: "01 rule of web", Permission: any, Principal: is(web)}}, Policies: []config.Policy{{Name: "a", Permission: perm, Principal: who}}}
	}
	deny := func(perm, who config.Rule) *config.Policies {
		return &config.Policies{Policies: []config.Policy{{Name: "d", Permission: perm, Principal: who}}}
	}
	peer := &config.Peer{URI: web, SNI: "api", Remote: netip.MustParseAddrPort("10.1.2.3:1"), Local: netip.MustParseAddrPort("10.0.0.1:443")}
	req := &stream.RequestHead{Method: "GET", Path: "/a?x=/b", Authority: "h"}
	req.Fields.Add("X-Role", "user")
	req.Fields.Add("x-role", "admin")
	req.Fields.Add("X-Number", "7")

	for _, tt := range []struct {
		name     string
		policies []*config.Policies
		conn     bool // for the connection, not a request
		want     bool
	}{
		{"none", nil, true, true},
		{"an empty list of who may", []*config.Policies{{Allow: true}}, true, false},
		{"an empty list of who may not", []*config.Policies{{}}, true, true},
		{"the caller", []*config.Policies{allow(any, is(web))}, true, true},
		{"another", []*config.Policies{allow(any, is(web+"2"))}, true, false},
		{"all but the caller", []*config.Policies{allow(any, not(is(web)))}, true, false},
		{"denied", []*config.Policies{allow(any, any), deny(any, is(web))}, true, false},
		{"another is denied", []*config.Policies{deny(any, is("x")), allow(any, any)}, true, true},
		{"the zero rule", []*config.Policies{allow(config.Rule{}, any)}, true, false},
		{"and of nothing", []*config.Policies{allow(and(), any)}, true, false},
		{"or of nothing", []*config.Policies{allow(or(), any)}, true, false},
		{"path without query", []*config.Policies{allow(path("/a"), any)}, false, true},
		{"other path", []*config.Policies{allow(path("/b"), any)}, false, false},
		{"a path, for a connection", []*config.Policies{allow(path("/a"), any)}, true, false},
		{"not a path, for a connection", []*config.Policies{allow(not(path("/a")), any)}, true, false},
		{"a denied path, for a connection", []*config.Policies{deny(path("/a"), any)}, true, false},
		{"a denied path of another, for a connection", []*config.Policies{deny(path("/a"), is("x"))}, true, true},
		{"method", []*config.Policies{allow(field(config.HeaderMatch{Name: ":method", Value: exact("GET")}), any)}, false, true},
		{"fields one by one", []*config.Policies{allow(field(config.HeaderMatch{Name: "X-ROLE", Value: exact("admin")}), any)}, false, true},
		{"fields aren't joined", []*config.Policies{allow(field(config.HeaderMatch{Name: "X-ROLE", Value: exact("user,admin")}), any)}, false, false},
		{"one field is enough, inverted", []*config.Policies{allow(field(config.HeaderMatch{Name: "X-ROLE", Value: exact("admin"), Invert: true}), any)}, false, false},
		{"a missing field", []*config.Policies{allow(field(config.HeaderMatch{Name: "no", Value: exact("1")}), any)}, false, false},
		{"a missing field, inverted", []*config.Policies{allow(field(config.HeaderMatch{Name: "no", Value: exact("1"), Invert: true}), any)}, false, false},
		{"absence", []*config.Policies{allow(field(config.HeaderMatch{Name: "no", Present: true, Invert: true}), any)}, false, true},
		{"a missing field as the empty one", []*config.Policies{allow(field(config.HeaderMatch{Name: "no", Value: exact(""), AbsentAs: true}), any)}, false, true},
		{"range", []*config.Policies{allow(field(config.HeaderMatch{Name: "x-number", Range: &config.Range{From: 7, To: 8}}), any)}, false, true},
		{"beyond the range", []*config.Policies{allow(field(config.HeaderMatch{Name: "x-number", Range: &config.Range{From: 1, To: 7}}), any)}, false, false},
		{"regex", []*config.Policies{allow(any, config.Rule{Kind: config.Authenticated, String: config.StringMatch{Kind: config.MatchRegex, Regex: regexp.MustCompile(`^(?:spiffe://td/.*/svc/web)$`)}})}, true, true},
		{"address", []*config.Policies{allow(any, config.Rule{Kind: config.RemoteIP, Prefix: netip.MustParsePrefix("10.1.0.0/16")})}, true, true},
		{"port and SNI", []*config.Policies{allow(and(config.Rule{Kind: config.DestinationPort, Port: 443}, config.Rule{Kind: config.ServerName, String: exact("api")}), any)}, true, true},
		{"or", []*config.Policies{allow(any, or(is("x"), is(web)))}, true, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := req
			if tt.conn {
				r = nil
			}
			if got, why := allowed(tt.policies, call{peer: peer, req: r}); got != tt.want {
				t.Errorf("%v (%s)", got, why)
			}
		})
	}
	for uri, want := range map[string]string{web: "rule of web", "spiffe://other": "default policy"} {
		if ok, why := allowed([]*config.Policies{allow(path("/b"), any)}, call{peer: &config.Peer{URI: uri}, req: req}); ok || why != want {
			t.Errorf("%s is refused by %q, want %q", uri, why, want)
		}
	}
	if ok, why := allowed([]*config.Policies{deny(any, any)}, call{peer: peer, req: req}); ok || why != "d" {
		t.Errorf("refused by %q", why)
	}
	if ok, _ := allowed([]*config.Policies{allow(any, config.Rule{Kind: config.Authenticated, String: config.StringMatch{Kind: config.MatchAny}})}, call{}); ok {
		t.Error("a caller without a certificate counts as authenticated")
	}
}

// A rule about requests never lets a connection by, nor does its negation: a single refusal of a path isn't leave for all the rest.
func TestC33_RulesOfRequestsForConnections(t *testing.T) {
	any := config.Rule{Kind: config.Any}
	path := config.Rule{Kind: config.PathIs, String: config.StringMatch{Kind: config.MatchExact, Text: "/a"}}
	header := config.Rule{Kind: config.HeaderIs, Header: &config.HeaderMatch{Name: "x", Present: true}}
	not := func(r config.Rule) config.Rule { return config.Rule{Kind: config.Not, Rules: []config.Rule{r}} }
	for name, rule := range map[string]config.Rule{"path": path, "not a path": not(path), "header": header, "not a header": not(header), "claim": {Kind: config.ClaimIs, Path: []string{"a"}}} {
		for _, allow := range []bool{true, false} {
			list := []*config.Policies{{Allow: allow, Policies: []config.Policy{{Permission: rule, Principal: any}}}}
			if ok, _ := allowed(list, call{peer: &config.Peer{}}); ok {
				t.Errorf("%s, in a list that allows %t: a connection passes", name, allow)
			}
		}
	}
	if ok, _ := allowed([]*config.Policies{{Policies: []config.Policy{{Permission: not(any), Principal: any}}}}, call{peer: &config.Peer{}}); !ok {
		t.Error("the control: a refusal of nothing refuses a connection")
	}
}

// A rule about the host holds however its name is written, and one about a change of protocol although the codec takes that field off.
func TestC23_C26_NamesInRules(t *testing.T) {
	exact := func(name, v string) *config.HeaderMatch {
		return &config.HeaderMatch{Name: name, Value: config.StringMatch{Kind: config.MatchExact, Text: v}}
	}
	req := &stream.RequestHead{Method: "GET", Path: "/", Authority: "secret.com", Upgrade: "websocket"}
	for _, c := range []struct {
		m    *config.HeaderMatch
		want bool
	}{
		{exact("host", "secret.com"), true}, {exact("Host", "secret.com"), true}, {exact("HOST", "secret.com"), true}, {exact("HOST", "open.com"), false},
		{exact("Upgrade", "websocket"), true}, {exact("upgrade", "h2c"), false}, {&config.HeaderMatch{Name: "UPGRADE", Present: true}, true},
		{&config.HeaderMatch{Name: "upgrade", Present: true, Invert: true}, false},
	} {
		if matchHeader(c.m, req) != c.want {
			t.Errorf("%+v: %v", c.m, !c.want)
		}
	}
	req.Upgrade = ""
	for m, want := range map[*config.HeaderMatch]bool{
		exact("upgrade", "websocket"): false, {Name: "upgrade", Present: true}: false, {Name: "upgrade", Present: true, Invert: true}: true,
	} {
		if matchHeader(m, req) != want {
			t.Errorf("without an upgrade, %+v: %v", m, !want)
		}
	}
}

func TestVirtualHostsAndMatches(t *testing.T) {
	host := func(name string, domains ...string) *config.VirtualHost {
		return &config.VirtualHost{Name: name, Domains: domains}
	}
	r := compileRoutes(&config.RouteTable{Hosts: []*config.VirtualHost{
		host("any", "*"), host("short", "*.b"), host("long", "*.a.b"), host("exact", "X.a.b"), host("port", "p:80"), host("prefix", "svc.*"),
	}})
	for authority, want := range map[string]string{
		"x.a.b": "exact", "x.a.b:8080": "exact", "y.a.b": "long", "y.a.b:1": "long", "y.b": "short", "p:80": "port", "p": "any", "svc.c": "prefix", "": "any",
		"[::1]:80": "any",
	} {
		if got := r.host(authority); got.Name != want {
			t.Errorf("%q goes to %s, want %s", authority, got.Name, want)
		}
	}
	for _, tt := range []struct {
		m    config.Match
		path string
		want bool
	}{
		{config.Match{Exact: "/a"}, "/a?b", true},
		{config.Match{Exact: "/a"}, "/a/", false},
		{config.Match{Exact: "/A", CaseFold: true}, "/a", true},
		{config.Match{Prefix: "/a"}, "/ab", true},
		{config.Match{Separated: "/a"}, "/ab", false},
		{config.Match{Separated: "/a"}, "/a/b", true},
		{config.Match{Regex: regexp.MustCompile(`^(?:/a+)$`)}, "/aaa?x", true},
		{config.Match{Regex: regexp.MustCompile(`^(?:/a+)$`)}, "/aab", false},
		{config.Match{Query: []config.QueryMatch{{Name: "x", Present: true}}}, "/?a&x=1", true},
		{config.Match{Query: []config.QueryMatch{{Name: "x", Value: config.StringMatch{Kind: config.MatchExact, Text: "1%202"}}}}, "/?x=1%202", true},
		{config.Match{Query: []config.QueryMatch{{Name: "x", Present: true}}}, "/", false},
		{config.Match{GRPC: true}, "/", false},
	} {
		if got := matchRoute(&tt.m, &stream.RequestHead{Method: "GET", Path: tt.path}); got != tt.want {
			t.Errorf("%+v of %s: %v", tt.m, tt.path, got)
		}
	}
}
