// SPDX-License-Identifier: Apache-2.0

package chain

import (
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/weftmesh/weft/catalog"
)

// Abroad gives the services of other datacenters that may be called from this one, sorted: what resolvers redirect to or fall over
// to, and upstreams that name a datacenter. What can't be compiled leads nowhere.
func Abroad(t *catalog.Txn) ([]catalog.Key, error) {
	resolvers, err := t.Resolvers()
	if err != nil {
		return nil, err
	}
	callers, err := t.CallersAbroad()
	if err != nil {
		return nil, err
	}
	found := map[catalog.Key]bool{}
	note := func(key catalog.Key, subset string) error {
		c := &compiler{t: t, root: key, chain: &Chain{Nodes: map[string]*Node{}, Targets: map[string]*Target{}}}
		if c.protocol, _, err = Protocol(t, key); err != nil {
			return err
		}
		if _, err := c.resolver(key, subset); err != nil && !errors.Is(err, ErrInvalid) {
			return err
		}
		found = c.abroad(found)
		return nil
	}
	for _, r := range resolvers {
		if !leavesHome(r) {
			continue
		}
		subsets := append(slices.Collect(maps.Keys(r.Subsets)), "")
		for _, subset := range subsets {
			if err := note(r.Key(), subset); err != nil {
				return nil, err
			}
		}
	}
	for _, s := range callers {
		for _, u := range s.Proxy.Upstreams {
			if u.Datacenter == "" || u.DestinationPeer != "" {
				continue
			}
			c, err := Compile(t, u.Key(s.Scope), Overrides{})
			if err != nil && !errors.Is(err, ErrInvalid) {
				return nil, err
			}
			if err == nil {
				found = (&compiler{t: t, chain: c}).abroad(found)
			}
		}
	}
	return slices.SortedFunc(maps.Keys(found), func(a, b catalog.Key) int {
		return strings.Compare(a.Datacenter+"\x00"+a.Partition+"\x00"+a.Namespace+"\x00"+a.Name, b.Datacenter+"\x00"+b.Partition+"\x00"+b.Namespace+"\x00"+b.Name)
	}), nil
}

// abroad adds the chain's targets that are in other datacenters.
func (c *compiler) abroad(to map[catalog.Key]bool) map[catalog.Key]bool {
	for _, t := range c.chain.Targets {
		if t.Peer == "" && t.Datacenter != c.t.Datacenter() {
			to[t.Key().Fold()] = true
		}
	}
	return to
}

// leavesHome says whether a resolver names a datacenter.
func leavesHome(r *catalog.ServiceResolver) bool {
	if r.Redirect != nil && r.Redirect.Datacenter != "" {
		return true
	}
	for _, f := range r.Failover {
		if len(f.Datacenters) > 0 || slices.ContainsFunc(f.Targets, func(t catalog.ServiceResolverFailoverTarget) bool { return t.Datacenter != "" }) {
			return true
		}
	}
	return false
}
