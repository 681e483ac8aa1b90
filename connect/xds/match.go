// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"fmt"
	"regexp"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/connect/chain"
	"github.com/weftmesh/weft/connect/identity"
)

// caller is the service whose proxy this is, to the routes of others.
func (r *renderer) caller() chain.Caller {
	s := r.g.Service
	id := identity.Service{TrustDomain: r.td, Partition: s.Partition, Namespace: s.Namespace, Datacenter: s.Datacenter, Service: s.Name}
	return chain.Caller{Service: s, Identity: id.String(), Meta: r.in.Proxy.Meta}
}

// reached are the nodes of a chain that calls of this proxy's service can come to.
func (r *renderer) reached(c *chain.Chain) map[string]bool {
	out := map[string]bool{}
	var walk func(string)
	walk = func(id string) {
		n := c.Nodes[id]
		if n == nil || out[id] {
			return
		}
		out[id] = true
		for _, route := range n.Routes {
			if route.About(r.caller()) {
				walk(route.NextNode)
				for _, m := range route.Mirrors {
					walk(m)
				}
			}
		}
		for _, s := range n.Splits {
			walk(s.NextNode)
		}
	}
	walk(c.StartNode)
	return out
}

func routeMatch(h *catalog.ServiceRouteHTTPMatch) *routev3.RouteMatch {
	m := everything()
	switch {
	case h.PathExact != "":
		m.PathSpecifier = &routev3.RouteMatch_Path{Path: h.PathExact}
	case h.PathPrefix != "":
		m.PathSpecifier = &routev3.RouteMatch_Prefix{Prefix: h.PathPrefix}
	case h.PathRegex != "":
		expr := h.PathRegex
		if h.CaseInsensitive {
			expr = "(?i:" + expr + ")"
		}
		m.PathSpecifier = &routev3.RouteMatch_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: expr}}
	case h.GRPC != nil:
		grpcMatch(m, h.GRPC)
	}
	if h.CaseInsensitive {
		m.CaseSensitive = wrapperspb.Bool(false)
	}
	for _, hm := range h.Header {
		m.Headers = append(m.Headers, headerMatcher(headerForm{
			name: hm.Name, present: hm.Present, exact: hm.Exact, prefix: hm.Prefix, suffix: hm.Suffix, regex: hm.Regex, invert: hm.Invert,
			contains: hm.Contains, fold: hm.IgnoreCase, within: hm.Range,
		}))
	}
	if len(h.Methods) > 0 {
		m.Headers = append(m.Headers, methodsMatcher(h.Methods))
	}
	for _, q := range h.QueryParam {
		p := &routev3.QueryParameterMatcher{Name: q.Name}
		s := stringMatcher(catalog.StringMatch{
			Exact: q.Exact, Prefix: q.Prefix, Suffix: q.Suffix, Contains: q.Contains, Regex: q.Regex, IgnoreCase: q.IgnoreCase,
		})
		if s != nil {
			p.QueryParameterMatchSpecifier = &routev3.QueryParameterMatcher_StringMatch{StringMatch: s}
		} else {
			p.QueryParameterMatchSpecifier = &routev3.QueryParameterMatcher_PresentMatch{PresentMatch: true}
		}
		m.QueryParameters = append(m.QueryParameters, p)
	}
	whither(m, h)
	return m
}

// grpcMatch matches the path of a gRPC call (/package.Service/Method), and that it is one.
func grpcMatch(m *routev3.RouteMatch, g *catalog.GRPCMatch) {
	m.Grpc = &routev3.RouteMatch_GrpcRouteMatchOptions{}
	switch {
	case g.Service == "":
		m.PathSpecifier = &routev3.RouteMatch_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: "/[^/]+/" + regexp.QuoteMeta(g.Method)}}
	case g.Method == "":
		m.PathSpecifier = &routev3.RouteMatch_Prefix{Prefix: "/" + g.Service + "/"}
	default:
		m.PathSpecifier = &routev3.RouteMatch_Path{Path: "/" + g.Service + "/" + g.Method}
	}
}

// whither matches where the caller says the request goes.
func whither(m *routev3.RouteMatch, h *catalog.ServiceRouteHTTPMatch) {
	add := func(name string, s *matcherv3.StringMatcher) {
		m.Headers = append(m.Headers, &routev3.HeaderMatcher{Name: name, HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{StringMatch: s}})
	}
	if h.Authority != nil {
		add(":authority", stringMatcher(*h.Authority))
	}
	if h.Scheme != "" {
		add(":scheme", stringMatcher(catalog.StringMatch{Exact: h.Scheme}))
	}
	switch port := h.Port; {
	case port == 0:
	case port == 80 && h.Scheme != "https", port == 443 && h.Scheme == "https":
		add(":authority", regex(fmt.Sprintf(`([^:]*|\[[^\]]*\])(:%d)?`, port)))
	default:
		add(":authority", regex(fmt.Sprintf(`.*:%d`, port)))
	}
}

// stringMatcher is nil for a match without a form.
func stringMatcher(f catalog.StringMatch) *matcherv3.StringMatcher {
	s := &matcherv3.StringMatcher{IgnoreCase: f.IgnoreCase}
	switch {
	case f.Exact != "":
		s.MatchPattern = &matcherv3.StringMatcher_Exact{Exact: f.Exact}
	case f.Prefix != "":
		s.MatchPattern = &matcherv3.StringMatcher_Prefix{Prefix: f.Prefix}
	case f.Suffix != "":
		s.MatchPattern = &matcherv3.StringMatcher_Suffix{Suffix: f.Suffix}
	case f.Contains != "":
		s.MatchPattern = &matcherv3.StringMatcher_Contains{Contains: f.Contains}
	case f.Regex != "":
		return regex(f.Regex)
	default:
		return nil
	}
	return s
}

// headerForm is a header match of any kind of entry.
type headerForm struct {
	name                                   string
	present                                bool
	exact, prefix, suffix, contains, regex string
	invert, fold                           bool
	within                                 *catalog.Range
}

func headerMatcher(f headerForm) *routev3.HeaderMatcher {
	m := &routev3.HeaderMatcher{Name: f.name, InvertMatch: f.invert}
	s := stringMatcher(catalog.StringMatch{Exact: f.exact, Prefix: f.prefix, Suffix: f.suffix, Contains: f.contains, Regex: f.regex, IgnoreCase: f.fold})
	switch {
	case f.within != nil:
		m.HeaderMatchSpecifier = &routev3.HeaderMatcher_RangeMatch{RangeMatch: &typev3.Int64Range{Start: f.within.From, End: f.within.To}}
	case s != nil:
		m.HeaderMatchSpecifier = &routev3.HeaderMatcher_StringMatch{StringMatch: s}
	default:
		m.HeaderMatchSpecifier = &routev3.HeaderMatcher_PresentMatch{PresentMatch: true}
	}
	return m
}
