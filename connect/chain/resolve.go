// SPDX-License-Identifier: Apache-2.0

package chain

import (
	"slices"
	"strings"

	"github.com/weftmesh/weft/catalog"
)

// spot is a place that a resolver can lead to.
type spot struct {
	key    catalog.Key
	subset string
}

func (s spot) id() string {
	where := s.key.Datacenter
	if s.key.Peer != "" {
		where = "external." + s.key.Peer
	}
	id := s.key.Name + "." + s.key.Namespace + "." + s.key.Partition + "." + where
	if s.subset != "" {
		id = s.subset + "." + id
	}
	return id
}

// resolver gives the key of the node that resolves a service or one of its subsets, with its failover.
func (c *compiler) resolver(k catalog.Key, subset string) (string, error) {
	s, e, err := c.settle(spot{k, subset})
	if err != nil {
		return "", err
	}
	id := s.id()
	key := TypeResolver + ":" + id
	if c.chain.Nodes[key] != nil {
		return key, nil
	}
	n := &Node{Type: TypeResolver, Name: id, Resolver: &Resolver{Default: e == nil, Target: id, RequestTimeout: DefaultRequestTimeout}}
	connect := DefaultConnectTimeout
	if e != nil {
		connect, n.LoadBalancer = orDuration(e.ConnectTimeout, connect), e.LoadBalancer
		n.Limits, n.PassiveHealthCheck, n.LocalityWeights = e.Limits, e.PassiveHealthCheck, e.LocalityWeights
		n.Connections = e.Connections
		n.ByLocality = e.PrioritizeByLocality != nil && e.PrioritizeByLocality.Mode == "failover"
		n.Resolver.RequestTimeout = orDuration(e.RequestTimeout, DefaultRequestTimeout)
	}
	n.Resolver.ConnectTimeout = orDuration(c.over.ConnectTimeout, connect).String()
	c.chain.Nodes[key] = n
	if e == nil {
		return key, nil
	}
	f, ok := e.Failover[s.subset]
	if !ok {
		f, ok = e.Failover[catalog.Wildcard]
	}
	if !ok {
		return key, nil
	}
	return key, c.failover(n, s, f)
}

// fallback is the service's own resolver's.
func (c *compiler) fallback() (*catalog.HTTPResponse, error) {
	e, err := catalog.EntryAs[*catalog.ServiceResolver](c.t, catalog.KindServiceResolver, c.here(c.root))
	if err != nil || e == nil || e.Fallback == nil {
		return nil, err
	}
	if c.chain.Protocol != catalog.ProtocolHTTP && c.chain.Protocol != catalog.ProtocolHTTP2 {
		return nil, invalidf("service-resolver %q: Fallback needs a service of protocol http or http2, and %q has %q", e.Name, c.root.Name, c.chain.Protocol)
	}
	return e.Fallback, nil
}

func (c *compiler) failover(n *Node, own spot, f catalog.ServiceResolverFailover) error {
	var ids []string
	for _, to := range c.failoverSpots(own, f) {
		t, _, err := c.settle(to)
		if err != nil {
			return err
		}
		if id := t.id(); id != own.id() && !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	if len(ids) > 0 {
		n.Resolver.Failover = &Failover{Targets: ids}
	}
	return nil
}

func (c *compiler) failoverSpots(own spot, f catalog.ServiceResolverFailover) []spot {
	rewrite := func(service, subset, ns, partition, dc, peer string) spot {
		s := spot{c.redirected(own.key, service, ns, partition), own.subset}
		if s.key.Fold() != own.key.Fold() {
			s.subset = ""
		}
		if subset != "" {
			s.subset = subset
		}
		if dc != "" {
			s.key.Datacenter = dc
		}
		if peer != "" {
			s.key.Peer, s.subset = peer, ""
		}
		return s
	}
	var out []spot
	for _, t := range f.Targets {
		out = append(out, rewrite(t.Service, t.ServiceSubset, t.Namespace, t.Partition, t.Datacenter, t.Peer))
	}
	for _, dc := range f.Datacenters {
		out = append(out, rewrite(f.Service, f.ServiceSubset, f.Namespace, "", dc, ""))
	}
	if len(out) == 0 {
		out = append(out, rewrite(f.Service, f.ServiceSubset, f.Namespace, "", "", ""))
	}
	return out
}

// settle follows redirects and default subsets to where they end, makes that target, and gives its resolver entry.
func (c *compiler) settle(s spot) (spot, *catalog.ServiceResolver, error) {
	var passed []string
	for {
		if err := c.agreeHere(s.key); err != nil {
			return s, nil, err
		}
		where := c.here(s.key)
		where.Peer = ""
		e, err := catalog.EntryAs[*catalog.ServiceResolver](c.t, catalog.KindServiceResolver, where)
		if err != nil {
			return s, nil, err
		}
		if s.key.Peer != "" {
			e = nil // what a peer's name means is the peer's to say
		}
		external, err := c.external(where, e)
		if err != nil {
			return s, nil, err
		}
		if e != nil && e.Redirect != nil {
			if slices.Contains(passed, s.id()) {
				return s, nil, invalidf("detected circular resolver redirect: [%s]", strings.Join(append(passed, s.id()), " -> "))
			}
			passed = append(passed, s.id())
			if next := c.redirect(s, e.Redirect); next != s {
				s = next
				continue
			}
		}
		if e != nil && s.subset == "" {
			s.subset = e.DefaultSubset
		}
		return s, e, c.target(s, e, external)
	}
}

func (c *compiler) agreeHere(k catalog.Key) error {
	if k.Peer != "" {
		return nil // a peer's protocol comes with its export
	}
	return c.agree(c.here(k))
}

func (c *compiler) redirect(s spot, r *catalog.ServiceResolverRedirect) spot {
	to := spot{c.redirected(s.key, r.Service, r.Namespace, r.Partition), s.subset}
	if r.Datacenter != "" {
		to.key.Datacenter = r.Datacenter
	}
	if r.Peer != "" {
		to.key.Peer = r.Peer
	}
	if to.key.Fold() != s.key.Fold() {
		to.subset = ""
	}
	if r.ServiceSubset != "" {
		to.subset = r.ServiceSubset
	}
	return to
}

func (c *compiler) external(k catalog.Key, e *catalog.ServiceResolver) (string, error) {
	d, err := catalog.EntryAs[*catalog.ServiceDefaults](c.t, catalog.KindServiceDefaults, k)
	if err != nil || d == nil || d.ExternalSNI == "" {
		return "", err
	}
	const text = "service %q has an external SNI set; cannot define %s for external services"
	switch {
	case e == nil:
	case e.Redirect != nil:
		return "", invalidf(text, k.Name, "redirects")
	case len(e.Subsets) > 0:
		return "", invalidf(text, k.Name, "subsets")
	case len(e.Failover) > 0:
		return "", invalidf(text, k.Name, "failover")
	}
	return d.ExternalSNI, nil
}

func (c *compiler) target(s spot, e *catalog.ServiceResolver, externalSNI string) error {
	id := s.id()
	if c.chain.Targets[id] != nil {
		return nil
	}
	t := &Target{
		ID: id, Service: s.key.Name, ServiceSubset: s.subset, Namespace: s.key.Namespace, Partition: s.key.Partition,
		Datacenter: s.key.Datacenter, Peer: s.key.Peer, ConnectTimeout: DefaultConnectTimeout, External: externalSNI != "",
		SNI: c.sni(s.key, s.subset, externalSNI), Name: c.sni(s.key, s.subset, ""),
	}
	if s.key.Peer != "" {
		t.Datacenter = ""
	}
	if e != nil {
		t.ConnectTimeout = orDuration(e.ConnectTimeout, DefaultConnectTimeout)
	}
	t.ConnectTimeout = orDuration(c.over.ConnectTimeout, t.ConnectTimeout)
	if s.subset != "" {
		var ok bool
		if e != nil {
			t.Subset, ok = e.Subsets[s.subset]
		}
		if !ok {
			return invalidf("service %q does not have a subset named %q", s.key.Name, s.subset)
		}
	}
	if !t.External {
		t.MeshGateway = c.over.MeshGateway
	}
	c.chain.Targets[id] = t
	return nil
}
