// SPDX-License-Identifier: Apache-2.0

package chain

import (
	"cmp"
	"slices"
	"strings"

	"github.com/weftmesh/weft/catalog"
)

// order is the routes' order of being asked: by rising priority, then as they are listed.
func order(routes []catalog.ServiceRoute) []int {
	out := make([]int, len(routes))
	for i := range out {
		out[i] = i
	}
	slices.SortStableFunc(out, func(a, b int) int { return cmp.Compare(routes[a].Priority, routes[b].Priority) })
	return out
}

// alternatives are a route as often as it has matches.
func alternatives(r *catalog.ServiceRoute, next string, mirrors []string, source string) []*Route {
	if r.Name != "" {
		source += " (" + r.Name + ")"
	}
	if len(r.MatchAny) == 0 {
		return []*Route{{Definition: r, NextNode: next, Mirrors: mirrors, Source: source}}
	}
	var out []*Route
	for i := range r.MatchAny {
		one := *r
		one.Match, one.MatchAny = &r.MatchAny[i], nil
		out = append(out, &Route{Definition: &one, NextNode: next, Mirrors: mirrors, Source: source})
	}
	return out
}

// lead compiles where a route leads, "" if the proxy answers by itself, and whom else it tells.
func (c *compiler) lead(r *catalog.ServiceRoute) (next string, mirrors []string, err error) {
	if r.Redirect != nil || r.Response != nil {
		return "", nil, nil
	}
	to, subset := c.root, ""
	if d := r.Destination; d != nil {
		to, subset = c.redirected(c.root, d.Service, d.Namespace, d.Partition), d.ServiceSubset
		for _, m := range d.Mirror {
			node, err := c.resolver(c.redirected(to, m.Service, "", ""), m.ServiceSubset)
			if err != nil {
				return "", nil, err
			}
			mirrors = append(mirrors, node)
		}
	}
	next, err = c.service(to, subset)
	return next, mirrors, err
}

// whole says whether a splitter asks for what only requests have.
func whole(e *catalog.ServiceSplitter) bool {
	return len(e.Sticky) > 0 || slices.ContainsFunc(e.Splits, func(s catalog.ServiceSplit) bool {
		return s.RequestHeaders != nil || s.ResponseHeaders != nil
	})
}

// fits refuses what a route asks for and its service's protocol can't have.
func (c *compiler) fits(e *catalog.ServiceRouter, at int) error {
	for _, m := range e.Routes[at].Matches() {
		if m.HTTP != nil && m.HTTP.GRPC != nil && c.chain.Protocol == catalog.ProtocolHTTP {
			return invalidf("service-router %q: Routes[%d].Match.HTTP.GRPC needs a service of protocol grpc or http2, and %q has %q",
				e.Name, at, c.root.Name, c.chain.Protocol)
		}
	}
	return nil
}

// Caller is whose call it is.
type Caller struct {
	Service  catalog.Key
	Identity string // its SPIFFE ID
	Meta     map[string]string
}

// About says whether the route is for a caller's calls at all; what they look like is asked after that.
func (r *Route) About(c Caller) bool {
	if r.Definition == nil || r.Definition.Match == nil || r.Definition.Match.Source == nil {
		return true
	}
	s := r.Definition.Match.Source
	is := func(name string) bool { return strings.EqualFold(name, c.Service.Name) }
	if len(s.Services) > 0 && !slices.ContainsFunc(s.Services, is) || slices.ContainsFunc(s.NotServices, is) {
		return false
	}
	if len(s.Sets) > 0 && !slices.ContainsFunc(s.Sets, func(name string) bool {
		set := r.Callers[name]
		return set != nil && set.Has(c.Service.Name, c.Identity)
	}) {
		return false
	}
	for k, v := range s.Meta {
		if have, ok := c.Meta[k]; !ok || have != v {
			return false
		}
	}
	return len(s.Identities) == 0 || slices.ContainsFunc(s.Identities, func(id string) bool {
		if begin, ok := strings.CutSuffix(id, catalog.Wildcard); ok {
			return strings.HasPrefix(c.Identity, begin)
		}
		return id == c.Identity
	})
}
