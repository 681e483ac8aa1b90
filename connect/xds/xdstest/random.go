// SPDX-License-Identifier: Apache-2.0

package xdstest

import (
	"fmt"
	"math/rand/v2"
	"net/http"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/connect/chain"
)

// Pick draws one.
func Pick[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }

func someHeaders() []string { return []string{"x-one", "X-Two"} }

// RandomRequest is a request that the rules of RandomRouter and RandomIntentions have something to say of.
func RandomRequest(r *rand.Rand) chain.Request {
	req := chain.Request{
		Method: Pick(r, "GET", "PUT", "DELETE"), Path: Pick(r, "/a", "/b", "/b/c", "/a/c?x=/b", "/", "/a/b?q=1&r=2", "/A", "/x.V1/Get", "/x.V1/Put?q=2"), Authority: Pick(r, "api", "api:80", "api:8080", "shop.example", "Shop.Example.", "[::1]:8080", "[::1]"),
		Scheme: "http", Header: http.Header{},
	}
	for _, name := range someHeaders() {
		for range r.IntN(3) {
			req.Header.Add(name, Pick(r, "a", "B", "ab", "7", "-3", ""))
		}
	}
	if r.IntN(3) == 0 {
		req.Header.Set("Content-Type", Pick(r, "application/grpc", "application/grpc+proto", "text/plain"))
	}
	return req
}

func randomMatch(r *rand.Rand, grpc bool) *catalog.ServiceRouteHTTPMatch {
	m := &catalog.ServiceRouteHTTPMatch{CaseInsensitive: r.IntN(4) == 0}
	switch r.IntN(5) {
	case 0:
		m.PathExact = Pick(r, "/a", "/b/c", "/A")
	case 1:
		m.PathPrefix = Pick(r, "/a", "/b", "/")
	case 2:
		m.PathRegex = Pick(r, "/a|/b", "/[ab]/.*", "/a(/c)?")
	case 3:
		if grpc {
			m.GRPC = &catalog.GRPCMatch{Service: Pick(r, "", "x.V1"), Method: Pick(r, "Get", "Put")}
			m.CaseInsensitive = false
		}
	}
	for range r.IntN(3) {
		h := catalog.ServiceRouteHTTPMatchHeader{Name: Pick(r, someHeaders()...), Invert: r.IntN(3) == 0}
		v := Pick(r, "a", "B", "ab")
		switch r.IntN(7) {
		case 0:
			h.Present = true
		case 1:
			h.Exact = v
		case 2:
			h.Prefix = v
		case 3:
			h.Suffix = v
		case 4:
			h.Contains = v
		case 5:
			h.Regex = Pick(r, "a+", "(?i)b", "a|b|", "[0-9]+", ".*")
		case 6:
			h.Range = &catalog.Range{From: int64(r.IntN(9)) - 5, To: 8}
		}
		h.IgnoreCase = r.IntN(2) == 0 && !h.Present && h.Regex == "" && h.Range == nil
		m.Header = append(m.Header, h)
	}
	if r.IntN(4) == 0 {
		q := catalog.ServiceRouteHTTPMatchQueryParam{Name: Pick(r, "x", "q", "r")}
		switch r.IntN(4) {
		case 0:
			q.Present = true
		case 1:
			q.Exact = Pick(r, "1", "/b")
		case 2:
			q.Prefix = "/"
		case 3:
			q.Regex = "[0-9]"
		}
		m.QueryParam = append(m.QueryParam, q)
	}
	if r.IntN(4) == 0 {
		m.Methods = Pick(r, []string{"GET"}, []string{"GET", "PUT"})
	}
	if r.IntN(6) == 0 {
		m.Port = Pick(r, 80, 8080, 443)
	}
	if r.IntN(6) == 0 {
		m.Authority = &catalog.StringMatch{Suffix: ".example"}
	}
	if r.IntN(8) == 0 {
		m.Scheme = Pick(r, "http", "https")
	}
	return m
}

// RandomRouter is a router of the service api. Each route says its source in the header x-route of the answer.
func RandomRouter(r *rand.Rand, grpc bool) *catalog.ServiceRouter {
	e := &catalog.ServiceRouter{EntryHead: catalog.EntryHead{Name: "api"}}
	for i := range 1 + r.IntN(5) {
		route := catalog.ServiceRoute{Priority: r.IntN(3), Destination: &catalog.ServiceRouteDestination{
			ResponseHeaders: &catalog.HTTPHeaderModifiers{Set: map[string]string{"x-route": fmt.Sprintf("%s/api route %d", catalog.KindServiceRouter, i+1)}},
		}}
		if r.IntN(4) == 0 {
			route.MatchAny = []catalog.ServiceRouteMatch{{HTTP: randomMatch(r, grpc)}, {HTTP: randomMatch(r, grpc)}}
		} else {
			route.Match = &catalog.ServiceRouteMatch{HTTP: randomMatch(r, grpc)}
			if r.IntN(4) == 0 {
				route.Match.Source = &catalog.RouteSource{Services: []string{Pick(r, "web", "other")}}
			}
		}
		e.Routes = append(e.Routes, route)
	}
	return e
}

func somePermission(r *rand.Rand) catalog.IntentionPermission {
	m := randomMatch(r, false)
	h := &catalog.IntentionHTTPPermission{PathExact: m.PathExact, PathPrefix: m.PathPrefix, PathRegex: m.PathRegex, Methods: m.Methods}
	for _, x := range m.Header {
		if x.Range == nil {
			h.Header = append(h.Header, catalog.IntentionHTTPHeader{
				Name: x.Name, Present: x.Present, Exact: x.Exact, Prefix: x.Prefix, Suffix: x.Suffix, Contains: x.Contains, Regex: x.Regex,
				Invert: x.Invert, IgnoreCase: x.IgnoreCase,
			})
		}
	}
	if r.IntN(4) == 0 {
		h.Hosts = Pick(r, []string{"api"}, []string{"*.example", "other"}, []string{"API", "example"}, []string{"*.p.example"})
	}
	if h.PathExact+h.PathPrefix+h.PathRegex == "" && len(h.Methods)+len(h.Header)+len(h.Hosts) == 0 {
		h.PathPrefix = "/"
	}
	p := catalog.IntentionPermission{Action: Pick(r, "allow", "deny"), HTTP: h}
	if r.IntN(4) == 0 {
		p.Not = Pick(r, &catalog.IntentionHTTPPermission{PathPrefix: "/b"}, &catalog.IntentionHTTPPermission{Methods: []string{"PUT"}},
			&catalog.IntentionHTTPPermission{Header: []catalog.IntentionHTTPHeader{{Name: "x-one", Exact: "a"}}})
	}
	return p
}

// RandomAuthorization has another program decide about some requests, or about all; nil: about none.
func RandomAuthorization(r *rand.Rand) *catalog.ExternalAuthorization {
	if r.IntN(3) == 0 {
		return nil
	}
	a := &catalog.ExternalAuthorization{Address: "127.0.0.1:9191", Protocol: Pick(r, "grpc", "http")}
	for range r.IntN(3) {
		a.Requests = append(a.Requests, *somePermission(r).HTTP)
	}
	for range r.IntN(3) {
		a.Except = append(a.Except, *somePermission(r).HTTP)
	}
	return a
}

// RandomSets are an identity-set "shops" and a match-set "some", and the entries with references to them in the place of some of what they say.
func RandomSets(r *rand.Rand, router *catalog.ServiceRouter, rules *catalog.ServiceIntentions) []catalog.Entry {
	some := &catalog.MatchSet{EntryHead: catalog.EntryHead{Name: "some"}}
	for range 1 + r.IntN(3) {
		some.Matches = append(some.Matches, *somePermission(r).HTTP)
	}
	for i := range rules.Sources {
		for j := range rules.Sources[i].Permissions {
			if p := &rules.Sources[i].Permissions[j]; r.IntN(3) == 0 {
				p.HTTP, p.MatchSets = nil, []string{"some"}
			}
		}
	}
	if r.IntN(2) == 0 {
		rules.Sources = append(rules.Sources, catalog.SourceIntention{Name: "shops", Type: catalog.KindIdentitySet, Permissions: []catalog.IntentionPermission{{Action: "allow", MatchSets: []string{"some"}}}})
	}
	for i := range router.Routes {
		route := &router.Routes[i]
		if r.IntN(3) == 0 {
			route.Match, route.MatchAny, route.MatchSets = nil, nil, []string{"some"}
		}
		if r.IntN(4) == 0 && len(route.MatchAny) == 0 {
			if route.Match == nil {
				route.Match = &catalog.ServiceRouteMatch{}
			}
			route.Match.Source = &catalog.RouteSource{Sets: []string{Pick(r, "shops", "callers")}}
		}
	}
	return []catalog.Entry{
		some, &catalog.IdentitySet{EntryHead: catalog.EntryHead{Name: "shops"}, Services: []string{"SHOP", "nobody", "apixv2"}},
		&catalog.IdentitySet{EntryHead: catalog.EntryHead{Name: "callers"}, Services: []string{"x"}, Identities: []string{"spiffe://*"}}, router, rules,
	}
}

// RandomIntentions are rules about who may call web.
func RandomIntentions(r *rand.Rand) *catalog.ServiceIntentions {
	e := &catalog.ServiceIntentions{EntryHead: catalog.EntryHead{Name: "web"}, Sources: []catalog.SourceIntention{{Name: "first", Action: "allow"}}}
	for _, name := range []string{"shop", "*", "api.v2"} {
		s := catalog.SourceIntention{Name: name}
		if r.IntN(2) == 0 {
			s.Action = Pick(r, "allow", "deny")
		} else {
			for range 1 + r.IntN(3) {
				s.Permissions = append(s.Permissions, somePermission(r))
			}
		}
		e.Sources = append(e.Sources, s)
	}
	return e
}
