// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	xdscorev3 "github.com/cncf/xds/go/xds/core/v3"
	matcherv3 "github.com/cncf/xds/go/xds/type/matcher/v3"
	networkv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/matching/common_inputs/network/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// matcher is the ground as Envoy's tree of matches. Each branch ends: nothing depends on what is looked at after a match that led nowhere.
func (g *ground) matcher() (*matcherv3.Matcher, error) {
	ranges := &matcherv3.IPMatcher{}
	byChoice := map[string]*matcherv3.IPMatcher_IPRangeMatcher{} // of a chain
	for _, p := range g.prefixes {
		r := byChoice[p.then.chain]
		if r == nil || p.then.ports != nil || p.then.names != nil {
			then, err := g.on(p.then)
			if err != nil {
				return nil, err
			}
			r = &matcherv3.IPMatcher_IPRangeMatcher{OnMatch: then}
			ranges.RangeMatchers = append(ranges.RangeMatchers, r)
			if p.then.ports == nil && p.then.names == nil {
				byChoice[p.then.chain] = r
			}
		}
		r.Ranges = append(r.Ranges, &xdscorev3.CidrRange{AddressPrefix: p.to.Addr().String(), PrefixLen: wrapperspb.UInt32(uint32(p.to.Bits()))})
	}
	input, err := extension("envoy.matching.inputs.destination_ip", &networkv3.DestinationIPInput{})
	if err != nil {
		return nil, err
	}
	custom, err := extension("envoy.matching.custom_matchers.trie_matcher", ranges)
	if err != nil {
		return nil, err
	}
	rest, err := g.on(g.everywhere())
	return &matcherv3.Matcher{OnNoMatch: rest, MatcherType: &matcherv3.Matcher_MatcherTree_{MatcherTree: &matcherv3.Matcher_MatcherTree{
		Input: input, TreeType: &matcherv3.Matcher_MatcherTree_CustomMatch{CustomMatch: custom},
	}}}, err
}

func extension(name string, m proto.Message) (*xdscorev3.TypedExtensionConfig, error) {
	a, err := pack(m)
	return &xdscorev3.TypedExtensionConfig{Name: name, TypedConfig: a}, err
}

// on is a choice as what a match leads to.
func (g *ground) on(c *choice) (*matcherv3.Matcher_OnMatch, error) {
	switch {
	case c.ports != nil:
		then := map[string]*matcherv3.Matcher_OnMatch{}
		for _, port := range slices.Sorted(maps.Keys(c.ports)) {
			on, err := g.on(c.ports[port])
			if err != nil {
				return nil, err
			}
			then[strconv.Itoa(port)] = on
		}
		rest, err := g.on(c.others)
		if err != nil {
			return nil, err
		}
		return exactly("envoy.matching.inputs.destination_port", &networkv3.DestinationPortInput{}, then, rest)
	case c.names != nil:
		return g.onNames(c)
	}
	return chainNamed(c.chain)
}

func chainNamed(name string) (*matcherv3.Matcher_OnMatch, error) {
	a, err := extension(name, wrapperspb.String(name))
	return &matcherv3.Matcher_OnMatch{OnMatch: &matcherv3.Matcher_OnMatch_Action{Action: a}}, err
}

func exactly(name string, input proto.Message, then map[string]*matcherv3.Matcher_OnMatch, rest *matcherv3.Matcher_OnMatch) (*matcherv3.Matcher_OnMatch, error) {
	in, err := extension(name, input)
	return nested(&matcherv3.Matcher{OnNoMatch: rest, MatcherType: &matcherv3.Matcher_MatcherTree_{MatcherTree: &matcherv3.Matcher_MatcherTree{
		Input: in, TreeType: &matcherv3.Matcher_MatcherTree_ExactMatchMap{ExactMatchMap: &matcherv3.Matcher_MatcherTree_MatchMap{Map: then}},
	}}}), err
}

func nested(m *matcherv3.Matcher) *matcherv3.Matcher_OnMatch {
	return &matcherv3.Matcher_OnMatch{OnMatch: &matcherv3.Matcher_OnMatch_Matcher{Matcher: m}}
}

const (
	serverNameInput = "envoy.matching.inputs.server_name"
	transportInput  = "envoy.matching.inputs.transport_protocol"
	transportTLS    = "tls"
)

// onNames looks at what TLS asks for: the name itself, then the longest domain above it. What isn't TLS is requests, where some are told
// apart by host.
func (g *ground) onNames(c *choice) (*matcherv3.Matcher_OnMatch, error) {
	rest, err := chainNamed(g.otherwise)
	if err != nil {
		return nil, err
	}
	tls := rest
	exact := map[string]*matcherv3.Matcher_OnMatch{}
	var below []string
	for _, name := range slices.Sorted(maps.Keys(c.names.tls)) {
		if domain, ok := strings.CutPrefix(name, "*"); ok {
			below = append(below, domain)
		} else if exact[name], err = chainNamed(c.names.tls[name]); err != nil {
			return nil, err
		}
	}
	if len(below) > 0 {
		slices.SortStableFunc(below, func(a, b string) int { return len(b) - len(a) })
		if tls, err = g.onDomains(below, c.names.tls, rest); err != nil {
			return nil, err
		}
	}
	if len(exact) > 0 {
		if tls, err = exactly(serverNameInput, &networkv3.ServerNameInput{}, exact, tls); err != nil {
			return nil, err
		}
	}
	if !c.names.http {
		return tls, nil
	}
	requests, err := chainNamed(c.chain)
	if err != nil {
		return nil, err
	}
	return exactly(transportInput, &networkv3.TransportProtocolInput{}, map[string]*matcherv3.Matcher_OnMatch{transportTLS: tls}, requests)
}

func (g *ground) onDomains(below []string, chains map[string]string, rest *matcherv3.Matcher_OnMatch) (*matcherv3.Matcher_OnMatch, error) {
	list := &matcherv3.Matcher_MatcherList{}
	for _, domain := range below {
		in, err := extension(serverNameInput, &networkv3.ServerNameInput{})
		if err != nil {
			return nil, err
		}
		then, err := chainNamed(chains["*"+domain])
		if err != nil {
			return nil, err
		}
		list.Matchers = append(list.Matchers, &matcherv3.Matcher_MatcherList_FieldMatcher{OnMatch: then, Predicate: &matcherv3.Matcher_MatcherList_Predicate{
			MatchType: &matcherv3.Matcher_MatcherList_Predicate_SinglePredicate_{SinglePredicate: &matcherv3.Matcher_MatcherList_Predicate_SinglePredicate{
				Input: in, Matcher: &matcherv3.Matcher_MatcherList_Predicate_SinglePredicate_ValueMatch{
					ValueMatch: &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Suffix{Suffix: domain}},
				},
			}},
		}})
	}
	return nested(&matcherv3.Matcher{OnNoMatch: rest, MatcherType: &matcherv3.Matcher_MatcherList_{MatcherList: list}}), nil
}
