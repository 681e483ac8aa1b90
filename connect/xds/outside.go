// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	httprbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	netrbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/rbac/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/connect/chain"
	"github.com/weftmesh/weft/connect/identity"
	"github.com/weftmesh/weft/connect/intention"
)

// Outside is a service that isn't of the mesh (service-defaults Destination). There is no sidecar at its end, so the caller's decides.
type Outside struct {
	Key   catalog.Key
	At    *catalog.Outside
	HTTP  bool // requests are told apart by their host
	rules intention.Rules
	audit bool
}

// outsideOf reads who may call what is outside; nil where the service isn't.
func outsideOf(t *catalog.Txn, key catalog.Key, d *catalog.ServiceDefaults) (*Outside, error) {
	if d == nil || d.Destination == nil {
		return nil, nil
	}
	protocol, _, err := chain.Declared(t, key)
	o := &Outside{Key: key, At: d.Destination, HTTP: protocol == catalog.ProtocolHTTP}
	var errs error
	o.rules, errs = intention.Match(t, key)
	own, oerr := catalog.EntryAs[*catalog.ServiceIntentions](t, catalog.KindServiceIntentions, key)
	o.audit = own != nil && own.Mode == catalog.ModeAudit
	return o, errors.Join(err, errs, oerr)
}

// OutsideAs is a service as what is outside the mesh; nil where it isn't.
func OutsideAs(t *catalog.Txn, key catalog.Key) (*Outside, error) {
	d, err := catalog.EntryAs[*catalog.ServiceDefaults](t, catalog.KindServiceDefaults, key)
	if err != nil {
		return nil, err
	}
	return outsideOf(t, key, d)
}

// OutsideOf lists what of a namespace is outside the mesh, by name.
func OutsideOf(t *catalog.Txn, scope catalog.Scope) (all []*Outside, err error) {
	entries, err := t.Entries(catalog.KindServiceDefaults, scope)
	for _, e := range entries {
		d, ok := e.(*catalog.ServiceDefaults)
		if !ok || d.Name == catalog.Wildcard {
			continue
		}
		o, oerr := outsideOf(t, d.Key(), d)
		err = errors.Join(err, oerr)
		if o != nil {
			all = append(all, o)
		}
	}
	return all, err
}

// Allows says whether a service may call it, and what says so. A rule that looks at requests allows nothing, as a connection's proxy can't.
func (o *Outside) Allows(src catalog.Key, defaultAllow bool) (bool, string) {
	d := o.rules.Decide(identity.Service{Partition: src.Partition, Namespace: src.Namespace, Service: src.Name}, defaultAllow)
	by := "default policy"
	if d.Rule != nil {
		by = d.Rule.Where()
	}
	return d.Allowed || o.audit, by
}

func (r *renderer) allows(o *Outside) (bool, string) {
	if r.in.DenyAll {
		return false, "default policy"
	}
	if r.in.Proxy.Proxy.LocalIdentity != nil && !r.in.Abilities.Weft { // it can't tell which user calls
		return false, "LocalIdentity"
	}
	return o.Allows(r.g.Service, r.in.DefaultAllow)
}

// verdict is a filter's rules that let everybody by, or nobody; and in weft's own proxy what said so.
func (r *renderer) verdict(allowed bool, by string) (rules, shadow *rbacv3.RBAC) {
	all := &rbacv3.Policy{Permissions: []*rbacv3.Permission{anything()}, Principals: []*rbacv3.Principal{anybody()}}
	rules = &rbacv3.RBAC{Action: rbacv3.RBAC_ALLOW}
	if allowed {
		rules.Policies = map[string]*rbacv3.Policy{"00 " + by: all}
	} else if r.in.Abilities.Weft {
		shadow = &rbacv3.RBAC{Action: rbacv3.RBAC_DENY, Policies: map[string]*rbacv3.Policy{"00 " + by: all}}
	}
	return rules, shadow
}

// verdictOfConnections goes before what hands a connection on. That must lead nowhere where it is no: an Envoy connects first.
func (r *renderer) verdictOfConnections(allowed bool, by string) (*listenerv3.Filter, error) {
	m := &netrbacv3.RBAC{StatPrefix: "outside"}
	m.Rules, m.ShadowRules = r.verdict(allowed, by)
	return filter("envoy.filters.network.rbac", m)
}

func (r *renderer) verdictOfRequests(allowed bool, by string) (map[string]*anypb.Any, error) {
	m := &httprbacv3.RBAC{}
	m.Rules, m.ShadowRules = r.verdict(allowed, by)
	a, err := pack(&httprbacv3.RBACPerRoute{Rbac: m})
	return map[string]*anypb.Any{rbacFilter: a}, err
}

// outside has an upstream's cluster lead out of the mesh: in the clear, to the addresses, names among which are looked up; or, where the
// caller may not, to nobody.
func (r *renderer) outside(c *clusterv3.Cluster, o *Outside) error {
	c.TransportSocket, c.EdsClusterConfig, c.OutlierDetection = nil, nil, nil
	c.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC}
	c.LoadAssignment = &endpointv3.ClusterLoadAssignment{ClusterName: c.Name}
	if allowed, _ := r.allows(o); !allowed {
		return nil
	}
	ports := o.At.AllPorts()
	if len(ports) != 1 {
		r.warn("upstream %s: it is outside the mesh, and as an upstream it needs exactly one port: service-defaults Destination.Port", o.Key)
		return nil
	}
	some := &endpointv3.LocalityLbEndpoints{}
	for _, a := range o.At.Addresses {
		if _, err := netip.ParseAddr(a); err != nil {
			if slices.Contains([]byte(a), '/') || a[0] == '*' {
				r.warn("upstream %s: %q of service-defaults Destination.Addresses is no place to connect to: a transparent proxy alone goes by it", o.Key, a)
				continue
			}
			c.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STRICT_DNS}
			c.DnsLookupFamily, c.RespectDnsTtl = clusterv3.Cluster_V4_PREFERRED, true
		}
		some.LbEndpoints = append(some.LbEndpoints, &endpointv3.LbEndpoint{
			HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: socket(a, ports[0])}},
		})
	}
	if len(some.LbEndpoints) > 0 {
		c.LoadAssignment.Endpoints = []*endpointv3.LocalityLbEndpoints{some}
	}
	return nil
}

// outsideOf is what is outside of an upstream's node, nil if it is of the mesh.
func (u *Upstream) outsideOf(node *chain.Node) *Outside {
	if node.Resolver == nil {
		return nil
	}
	return u.Outside[node.Resolver.Target]
}

// refusedOutside says whether a node of an upstream's chain leads only out of the mesh and nowhere that the caller may go, and what says so.
func (r *renderer) refusedOutside(u *Upstream, id string) (by string, refused bool) {
	n := u.Chain.Nodes[id]
	if n == nil {
		return "", false
	}
	if n.Type == chain.TypeSplitter {
		for _, s := range n.Splits {
			one, no := r.refusedOutside(u, s.NextNode)
			if !no {
				return "", false
			}
			by = one
		}
		return by, len(n.Splits) > 0
	}
	o := u.outsideOf(n)
	if o == nil {
		return "", false
	}
	allowed, by := r.allows(o)
	return by, !allowed
}

// warnOutside says what of an upstream outside the mesh has no effect.
func (r *renderer) warnOutside(u *Upstream, node *chain.Node, targets []*chain.Target) {
	for i, t := range targets {
		switch out := u.Outside[t.ID] != nil; {
		case i > 0 && (out || u.Outside[targets[0].ID] != nil):
			r.warn("upstream %s: failover to %s has no effect: what is outside the mesh neither has one nor is one", u.Key, t.ID)
		case out && node.PassiveHealthCheck != nil:
			r.warn("upstream %s: PassiveHealthCheck has no effect: it is outside the mesh", u.Key)
		}
	}
}

func outsideName(k catalog.Key) string { return fmt.Sprintf("outside~%s", k) }
