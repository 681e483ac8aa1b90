// SPDX-License-Identifier: Apache-2.0

package intake

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	xdscorev3 "github.com/cncf/xds/go/xds/core/v3"
	matcherv3 "github.com/cncf/xds/go/xds/type/matcher/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/weftmesh/weft/connect/proxy/config"
)

// The inputs of a matcher of filter chains, and how a tree of addresses is written.
const (
	inputPrefix = typePrefix + "extensions.matching.common_inputs.network.v3."
	trieURL     = "type.googleapis.com/xds.type.matcher.v3.IPMatcher"
	maxChoosing = 16 // how deep choices may be nested
)

// chooser compiles a matcher of filter chains. One that it doesn't know whole, it refuses: what it left out might protect.
type chooser struct {
	chains map[string]*config.Listener
}

func (c *chooser) matcher(m *matcherv3.Matcher, depth int) (*config.Choice, error) {
	if m == nil {
		return nil, nil
	}
	if depth > maxChoosing {
		return nil, fmt.Errorf("it is nested deeper than %d", maxChoosing)
	}
	var out *config.Choice
	var err error
	switch t := m.GetMatcherType().(type) {
	case *matcherv3.Matcher_MatcherTree_:
		out, err = c.tree(t.MatcherTree, depth)
	case *matcherv3.Matcher_MatcherList_:
		out, err = c.list(t.MatcherList, depth)
	default:
		return nil, fmt.Errorf("%T: not known to this proxy", t)
	}
	if err != nil {
		return nil, err
	}
	out.Otherwise, err = c.on(m.GetOnNoMatch(), depth)
	return out, err
}

func (c *chooser) on(m *matcherv3.Matcher_OnMatch, depth int) (*config.Choice, error) {
	switch {
	case m == nil:
		return nil, nil
	case m.GetKeepMatching():
		return nil, errors.New("keep_matching: not known to this proxy")
	case m.GetMatcher() != nil:
		return c.matcher(m.GetMatcher(), depth+1)
	}
	name := &wrapperspb.StringValue{}
	if err := unpack(m.GetAction().GetTypedConfig(), name); err != nil {
		return nil, fmt.Errorf("action: %w", err)
	}
	return &config.Choice{Listener: c.chains[name.GetValue()]}, nil // a chain that isn't there is nobody
}

func look(in *xdscorev3.TypedExtensionConfig) (config.Look, error) {
	url := in.GetTypedConfig().GetTypeUrl()
	if len(in.GetTypedConfig().GetValue()) > 0 {
		return 0, fmt.Errorf("input %s: its fields aren't known to this proxy", url)
	}
	switch strings.TrimPrefix(url, inputPrefix) {
	case "DestinationIPInput":
		return config.LookAddress, nil
	case "DestinationPortInput":
		return config.LookPort, nil
	case "ServerNameInput":
		return config.LookName, nil
	case "TransportProtocolInput":
		return config.LookTLS, nil
	}
	return 0, fmt.Errorf("input %s: not known to this proxy", url)
}

func (c *chooser) tree(t *matcherv3.Matcher_MatcherTree, depth int) (*config.Choice, error) {
	at, err := look(t.GetInput())
	if err != nil {
		return nil, err
	}
	out := &config.Choice{Look: at, Exact: map[string]*config.Choice{}}
	switch {
	case at == config.LookAddress:
		return out, c.addresses(out, t.GetCustomMatch(), depth)
	case t.GetExactMatchMap() == nil:
		return nil, errors.New("matcher_tree: beside addresses this proxy takes exact_match_map alone")
	}
	for key, on := range t.GetExactMatchMap().GetMap() {
		then, err := c.on(on, depth)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", key, err)
		}
		out.Exact[key] = then
	}
	return out, nil
}

// addresses reads a tree of networks, in which the longest counts: what one of them leads to must be an end, as a tree goes on with a shorter one
// where nothing is.
func (c *chooser) addresses(out *config.Choice, custom *xdscorev3.TypedExtensionConfig, depth int) error {
	if custom.GetTypedConfig().GetTypeUrl() != trieURL {
		return fmt.Errorf("addresses are taken as an %s alone", trieURL)
	}
	m, err := read[*matcherv3.IPMatcher](custom.GetTypedConfig())
	if err != nil {
		return err
	}
	seen := map[netip.Prefix]bool{}
	for i, r := range m.GetRangeMatchers() {
		then, err := c.on(r.GetOnMatch(), depth)
		if err == nil && !ends(then) {
			err = errors.New("it may lead nowhere, and to a wider network then: not known to this proxy")
		}
		if err == nil && r.GetExclusive() {
			err = errors.New("exclusive: not known to this proxy")
		}
		if err != nil {
			return fmt.Errorf("range_matchers[%d]: %w", i, err)
		}
		for _, n := range r.GetRanges() {
			a, err := netip.ParseAddr(n.GetAddressPrefix())
			if err != nil {
				return fmt.Errorf("range_matchers[%d]: %w", i, err)
			}
			p, err := a.Prefix(int(n.GetPrefixLen().GetValue()))
			if err != nil || seen[p] {
				return fmt.Errorf("range_matchers[%d]: %s/%d: %w", i, a, n.GetPrefixLen().GetValue(), errors.Join(err, errTaken))
			}
			seen[p] = true
			if p.IsSingleIP() {
				out.Exact[p.Addr().String()] = then
			} else {
				out.Networks = append(out.Networks, config.NetworkChoice{Prefix: p, Then: then})
			}
		}
	}
	slices.SortStableFunc(out.Networks, func(a, b config.NetworkChoice) int { return b.Prefix.Bits() - a.Prefix.Bits() })
	return nil
}

// ends says whether every way of a choice comes to an end.
func ends(c *config.Choice) bool {
	if c == nil {
		return false
	}
	if c.Look == config.LookNowhere {
		return true
	}
	for _, then := range c.Exact {
		if !ends(then) {
			return false
		}
	}
	for _, n := range c.Networks {
		if !ends(n.Then) {
			return false
		}
	}
	for _, d := range c.Domains {
		if !ends(d.Then) {
			return false
		}
	}
	return ends(c.Otherwise)
}

// list reads matches of names by what they end in.
func (c *chooser) list(m *matcherv3.Matcher_MatcherList, depth int) (*config.Choice, error) {
	out := &config.Choice{Look: config.LookName}
	for i, one := range m.GetMatchers() {
		p := one.GetPredicate().GetSinglePredicate()
		at, err := look(p.GetInput())
		suffix := p.GetValueMatch().GetSuffix()
		switch {
		case err != nil:
		case at != config.LookName || suffix == "" || p.GetValueMatch().GetIgnoreCase():
			err = errors.New("this proxy knows lists of server names by suffix alone")
		}
		var then *config.Choice
		if err == nil {
			then, err = c.on(one.GetOnMatch(), depth)
		}
		if err == nil && !ends(then) {
			err = errors.New("it may lead nowhere, and to the next then: not known to this proxy")
		}
		if err != nil {
			return nil, fmt.Errorf("matchers[%d]: %w", i, err)
		}
		out.Domains = append(out.Domains, config.DomainChoice{Suffix: suffix, Then: then})
	}
	return out, nil
}
