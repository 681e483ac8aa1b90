// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"fmt"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/connect/chain"
)

// endpoints lists where a cluster's targets run: who passes its checks with its passing weight, who warns with its warning
// weight, who is critical not at all.
func (r *renderer) endpoints(cluster string, u *Upstream, node *chain.Node, targets []*chain.Target) error {
	res, err := r.in.Shared.endpoints(r.basis(cluster, u, node, targets), func() (Resource, error) { return r.endpointsOf(cluster, u, node, targets) })
	if err != nil {
		return err
	}
	r.put(EndpointType, res)
	return nil
}

func (r *renderer) endpointsOf(cluster string, u *Upstream, node *chain.Node, targets []*chain.Target) (Resource, error) {
	out := &endpointv3.ClusterLoadAssignment{ClusterName: cluster}
	next := uint32(0) // priorities must follow each other without a gap
	for _, t := range targets {
		instances, err := Selected(t, u.Instances[t.ID])
		if err != nil {
			return Resource{}, fmt.Errorf("subset %q of %s: %w", t.ServiceSubset, t.Service, err)
		}
		plain := r.plain(u, t)
		var groups []*endpointv3.LocalityLbEndpoints
		switch {
		case node.ByLocality:
			groups = r.byLocality(instances, next, plain)
		case len(node.LocalityWeights) > 0:
			groups = weighted(instances, node.LocalityWeights, next, plain)
		default:
			groups = []*endpointv3.LocalityLbEndpoints{{Priority: next, LbEndpoints: lbEndpoints(instances, plain)}}
		}
		for _, g := range groups {
			if len(g.LbEndpoints) > 0 || len(targets) == 1 && len(groups) == 1 {
				out.Endpoints = append(out.Endpoints, g)
				next = g.Priority + 1
			}
		}
	}
	return made(EndpointType, cluster, out)
}

func endpoint(i *catalog.Instance, plain bool) *endpointv3.LbEndpoint {
	weight := i.Service.Weights.Passing
	switch i.Status() {
	case catalog.HealthCritical:
		return nil
	case catalog.HealthWarning:
		weight = i.Service.Weights.Warning
	}
	if weight < 1 {
		return nil
	}
	host, port := i.Address()
	addr := socket(host, port)
	if i.Service.SocketPath != "" {
		addr = pipe(i.Service.SocketPath, 0)
	}
	out := &endpointv3.LbEndpoint{
		HealthStatus:        corev3.HealthStatus_HEALTHY,
		LoadBalancingWeight: wrapperspb.UInt32(uint32(weight)),
		HostIdentifier:      &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: addr}},
	}
	if plain {
		out.Metadata = plainEndpoint()
	}
	return out
}

func lbEndpoints(instances []*catalog.Instance, plain plainly) []*endpointv3.LbEndpoint {
	var out []*endpointv3.LbEndpoint
	for _, i := range instances {
		if e := endpoint(i, plain(i)); e != nil {
			out = append(out, e)
		}
	}
	return out
}

// byLocality ranks instances by how near they are: of the proxy's own zone, of its region, elsewhere. Without a locality of
// its own the proxy knows no near or far.
func (r *renderer) byLocality(instances []*catalog.Instance, first uint32, plain plainly) []*endpointv3.LocalityLbEndpoints {
	own := r.in.Proxy.Locality
	var ranks [3][]*catalog.Instance
	for _, i := range instances {
		at, rank := i.Service.Locality, 2
		switch {
		case own == nil || at == nil || at.Region != own.Region:
		case at.Zone == own.Zone:
			rank = 0
		default:
			rank = 1
		}
		ranks[rank] = append(ranks[rank], i)
	}
	var out []*endpointv3.LocalityLbEndpoints
	for _, rank := range ranks {
		if eps := lbEndpoints(rank, plain); len(eps) > 0 {
			out = append(out, &endpointv3.LocalityLbEndpoints{Priority: first, LbEndpoints: eps})
			first++
		}
	}
	return out
}

// weighted groups instances by locality, each group with its share; one that is named with its zone counts before its region.
func weighted(instances []*catalog.Instance, weights []catalog.LocalityWeight, priority uint32, plain plainly) []*endpointv3.LocalityLbEndpoints {
	of := func(i *catalog.Instance) int {
		at, best := i.Service.Locality, -1
		if at == nil {
			return -1
		}
		for n, w := range weights {
			region, zone, exact := strings.Cut(w.Locality, "/")
			if region == at.Region && (!exact || zone == at.Zone) && (best < 0 || exact) {
				best = n
			}
		}
		return best
	}
	var out []*endpointv3.LocalityLbEndpoints
	for n, w := range weights {
		var some []*catalog.Instance
		for _, i := range instances {
			if of(i) == n {
				some = append(some, i)
			}
		}
		eps := lbEndpoints(some, plain)
		if len(eps) == 0 || w.Weight == 0 {
			continue
		}
		region, zone, _ := strings.Cut(w.Locality, "/")
		out = append(out, &endpointv3.LocalityLbEndpoints{
			Priority: priority, Locality: &corev3.Locality{Region: region, Zone: zone}, LoadBalancingWeight: wrapperspb.UInt32(w.Weight), LbEndpoints: eps,
		})
	}
	return out
}
