// SPDX-License-Identifier: Apache-2.0

package intake

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"

	"github.com/weftmesh/weft/connect/proxy/config"
)

const originalDstURL = typePrefix + "extensions.filters.listener.original_dst.v3.OriginalDst"

// captures says whether a listener gets connections that were going elsewhere.
func captures(m *listenerv3.Listener) bool {
	for _, f := range m.GetListenerFilters() {
		if f.GetTypedConfig().GetTypeUrl() == originalDstURL {
			return true
		}
	}
	return false
}

// compileCaptured compiles the filter chains of a listener that captures, each as a listener without a socket.
func compileCaptured(l *config.Listener, m *listenerv3.Listener) error {
	by := m.GetFilterChainMatcher()
	if by == nil && len(m.GetListenerFilters()) != 1 || l.Network != "tcp" {
		return errors.New("listener_filters: beside original_dst this proxy takes tls_inspector with filter_chain_matcher alone, and that on TCP")
	}
	c := &config.Captured{Exact: map[netip.Addr]*config.Listener{}, Peek: m.GetListenerFiltersTimeout().AsDuration()}
	names, seen := map[string]bool{}, map[netip.Prefix]bool{}
	inner := func(chain *listenerv3.FilterChain, name string) (*config.Listener, error) {
		if names[name] {
			return nil, fmt.Errorf("the name %q is taken", name)
		}
		names[name] = true
		sub := &config.Listener{Name: l.Name + "|" + name, Direction: l.Direction}
		if err := only(chain, "name filters filter_chain_match metadata"); err != nil {
			return nil, err
		}
		return sub, compileChain(sub, chain)
	}
	if by != nil {
		return chosen(l, m, c, inner)
	}
	for i, chain := range m.GetFilterChains() {
		sub, err := inner(chain, chain.GetName())
		if err == nil {
			err = only(chain.GetFilterChainMatch(), "prefix_ranges")
		}
		if err != nil {
			return fmt.Errorf("filter_chains[%d]: %w", i, err)
		}
		for _, r := range chain.GetFilterChainMatch().GetPrefixRanges() {
			addr, err := netip.ParseAddr(r.GetAddressPrefix())
			if err != nil {
				return fmt.Errorf("filter_chains[%d].filter_chain_match.prefix_ranges: %w", i, err)
			}
			p, err := addr.Prefix(int(r.GetPrefixLen().GetValue()))
			if err != nil || seen[p] {
				return fmt.Errorf("filter_chains[%d].filter_chain_match.prefix_ranges: %s/%d: %w", i, addr, r.GetPrefixLen().GetValue(), errors.Join(err, errTaken))
			}
			seen[p] = true
			if p.IsSingleIP() {
				c.Exact[addr] = sub
			} else {
				c.Ranges = append(c.Ranges, config.CapturedRange{Prefix: p, Listener: sub})
			}
		}
		if len(chain.GetFilterChainMatch().GetPrefixRanges()) == 0 {
			return fmt.Errorf("filter_chains[%d].filter_chain_match: want prefix_ranges; what is for all else is default_filter_chain", i)
		}
	}
	if d := m.GetDefaultFilterChain(); d != nil {
		var err error
		if c.Otherwise, err = inner(d, "default"); err == nil {
			err = only(d.GetFilterChainMatch(), "")
		}
		if err != nil {
			return fmt.Errorf("default_filter_chain: %w", err)
		}
	}
	slices.SortStableFunc(c.Ranges, func(a, b config.CapturedRange) int { return b.Prefix.Bits() - a.Prefix.Bits() })
	l.Captured = c
	return nil
}

// chosen compiles filter chains that a matcher chooses among by name.
func chosen(l *config.Listener, m *listenerv3.Listener, c *config.Captured, inner func(*listenerv3.FilterChain, string) (*config.Listener, error)) error {
	if m.GetDefaultFilterChain() != nil {
		return errors.New("default_filter_chain: beside filter_chain_matcher this proxy takes none: it is the matcher's on_no_match")
	}
	by := chooser{map[string]*config.Listener{}}
	for i, chain := range m.GetFilterChains() {
		sub, err := inner(chain, chain.GetName())
		if err == nil {
			err = only(chain.GetFilterChainMatch(), "")
		}
		if err != nil {
			return fmt.Errorf("filter_chains[%d]: %w", i, err)
		}
		by.chains[chain.GetName()] = sub
	}
	var err error
	if c.Choose, err = by.matcher(m.GetFilterChainMatcher(), 0); err != nil {
		return fmt.Errorf("filter_chain_matcher: %w", err)
	}
	l.Captured = c
	return nil
}

// errTaken is about what only one can have.
var errTaken = errors.New("it isn't a prefix, or another filter chain has it")

// inners are a listener's own and those behind it.
func (l *listener) inners() []*config.Listener {
	c := l.config.Captured
	if c == nil {
		return []*config.Listener{l.config}
	}
	all := []*config.Listener{l.config}
	seen := map[*config.Listener]bool{}
	add := func(sub *config.Listener) {
		if sub != nil && !seen[sub] {
			seen[sub] = true
			all = append(all, sub)
		}
	}
	for sub := range maps.Values(c.Exact) {
		add(sub)
	}
	for _, r := range c.Ranges {
		add(r.Listener)
	}
	add(c.Otherwise)
	c.Choose.Listeners(add)
	return all
}
