// SPDX-License-Identifier: Apache-2.0

package chain

import (
	"regexp"
	"slices"
	"strings"

	"github.com/weftmesh/weft/catalog"
)

// expand puts the matches of match-sets into a route's MatchAny, and gives the identity-sets that its sources name.
func (c *compiler) expand(e *catalog.ServiceRouter, at int) (*catalog.ServiceRoute, map[string]*catalog.IdentitySet, error) {
	r := &e.Routes[at]
	callers := map[string]*catalog.IdentitySet{}
	for _, m := range r.Matches() {
		if m.Source == nil {
			continue
		}
		for i, name := range m.Source.Sets {
			set, err := catalog.EntryAs[*catalog.IdentitySet](c.t, catalog.KindIdentitySet, c.here(c.root.Scope.Name(name)))
			if err != nil {
				return nil, nil, err
			}
			if set == nil {
				return nil, nil, invalidf("service-router %q: Routes[%d]: Source.Sets[%d]: there is no identity-set %q: write that first", e.Name, at, i, name)
			}
			callers[name] = set
		}
	}
	if len(r.MatchSets) == 0 {
		return r, callers, nil
	}
	out := *r
	out.Match, out.MatchAny, out.MatchSets = nil, nil, nil
	for i, name := range r.MatchSets {
		set, err := catalog.EntryAs[*catalog.MatchSet](c.t, catalog.KindMatchSet, c.here(c.root.Scope.Name(name)))
		if err != nil {
			return nil, nil, err
		}
		if set == nil {
			return nil, nil, invalidf("service-router %q: Routes[%d].MatchSets[%d]: there is no match-set %q: write that first", e.Name, at, i, name)
		}
		for j := range set.Matches {
			m := catalog.ServiceRouteMatch{HTTP: routeMatch(&set.Matches[j])}
			if r.Match != nil {
				m.Source = r.Match.Source
			}
			out.MatchAny = append(out.MatchAny, m)
		}
	}
	return &out, callers, nil
}

// routeMatch is a match of a set in the form of a route's.
func routeMatch(p *catalog.IntentionHTTPPermission) *catalog.ServiceRouteHTTPMatch {
	m := &catalog.ServiceRouteHTTPMatch{PathExact: p.PathExact, PathPrefix: p.PathPrefix, PathRegex: p.PathRegex, Methods: slices.Clone(p.Methods)}
	for _, h := range p.Header {
		m.Header = append(m.Header, catalog.ServiceRouteHTTPMatchHeader{
			Name: h.Name, Present: h.Present, Exact: h.Exact, Prefix: h.Prefix, Suffix: h.Suffix, Contains: h.Contains, Regex: h.Regex, Invert: h.Invert, IgnoreCase: h.IgnoreCase,
		})
	}
	if len(p.Hosts) > 0 {
		m.Authority = &catalog.StringMatch{Regex: AnyHost(p.Hosts)}
	}
	return m
}

// AnyHost is a pattern of authorities that name any of the hosts, with a port, a dot at the end, or neither.
func AnyHost(hosts []string) string {
	var all []string
	for _, h := range hosts {
		h = strings.TrimSuffix(h, ".")
		if below, ok := strings.CutPrefix(h, "*"); ok {
			all = append(all, ".+"+regexp.QuoteMeta(below))
		} else {
			all = append(all, regexp.QuoteMeta(h))
		}
	}
	return "(?i:" + strings.Join(all, "|") + `)\.?(?::[0-9]*)?`
}
