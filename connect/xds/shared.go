// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"slices"
	"sync"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/connect/chain"
)

// Shared keeps what the proxies of a host have in common: the endpoints of a cluster are the same bytes for all that call it, so that
// they are made once when an instance comes or goes, and not once for each proxy. The zero Shared is empty; a nil one keeps
// nothing. Renderings of several proxies may use it at the same time.
type Shared struct {
	mu sync.Mutex // guards all below
	by map[sharedKey]*sharedEndpoints
}

// sharedMost bounds the clusters that are kept; all are forgotten then, which costs one more rendering of each.
const sharedMost = 4096

type sharedKey struct {
	cluster      string
	region, zone string // of the proxy, where the cluster is ordered by it
}

type sharedEndpoints struct {
	of  basis
	out Resource
}

// basis is all that the endpoints of a cluster depend on.
type basis struct {
	key        sharedKey
	byLocality bool
	weights    []catalog.LocalityWeight
	global     *catalog.ProxyDefaults
	targets    []sharedTarget
}

type sharedTarget struct {
	subset    catalog.ServiceResolverSubset
	defaults  *catalog.ServiceDefaults
	instances []*catalog.Instance // rows of a catalog, which are never changed: the same pointer is the same content
}

func (r *renderer) basis(cluster string, u *Upstream, node *chain.Node, targets []*chain.Target) basis {
	if r.in.Shared == nil {
		return basis{}
	}
	b := basis{key: sharedKey{cluster: cluster}, byLocality: node.ByLocality, weights: node.LocalityWeights, global: r.g.Global}
	if at := r.in.Proxy.Locality; node.ByLocality && at != nil {
		b.key.region, b.key.zone = at.Region, at.Zone
	}
	for _, t := range targets {
		b.targets = append(b.targets, sharedTarget{t.Subset, u.Defaults[t.ID], u.Instances[t.ID]})
	}
	return b
}

func (b *basis) equal(o *basis) bool {
	return b.byLocality == o.byLocality && b.global == o.global && slices.Equal(b.weights, o.weights) &&
		slices.EqualFunc(b.targets, o.targets, func(x, y sharedTarget) bool {
			return x.subset == y.subset && x.defaults == y.defaults && slices.Equal(x.instances, y.instances)
		})
}

// endpoints gives what is kept of a cluster, if it was made of the same, or makes it.
func (s *Shared) endpoints(of basis, render func() (Resource, error)) (Resource, error) {
	if s == nil {
		return render()
	}
	s.mu.Lock()
	kept := s.by[of.key]
	s.mu.Unlock()
	if kept != nil && kept.of.equal(&of) {
		return kept.out, nil
	}
	out, err := render() // two may do so at once, to the same end
	if err != nil {
		return out, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.by == nil || len(s.by) >= sharedMost {
		s.by = map[sharedKey]*sharedEndpoints{}
	}
	s.by[of.key] = &sharedEndpoints{of, out}
	return out, nil
}
