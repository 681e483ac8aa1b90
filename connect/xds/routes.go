// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"maps"
	"slices"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	httprbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/connect/chain"
	proxyv1 "github.com/weftmesh/weft/proto/weft/proxy/v1"
)

// publicRoutes hands every request to the application that the intentions allow and the limits have room for.
func (r *renderer) publicRoutes() error {
	auth := &httprbacv3.RBAC{Rules: rbac(r.callers(), r.g.Rules, true, r.in.DefaultAllow)}
	if r.in.Abilities.olderThan(rulesIndividually) {
		auth.Rules = rulesAmongOthers(auth.Rules)
	}
	switch {
	case r.g.Audit:
		auth.Rules, auth.ShadowRules, auth.ShadowRulesStatPrefix = nil, auth.Rules, auditPrefix
	case r.in.Abilities.Weft:
		auth.ShadowRules = deciders(r.callers(), r.g.Rules)
	}
	rules, err := pack(&httprbacv3.RBACPerRoute{Rbac: auth})
	if err != nil {
		return err
	}
	host := &routev3.VirtualHost{Name: PublicRoutes, Domains: []string{"*"}}
	for _, l := range r.rateLimits() {
		route, err := r.publicRoute(l, rules)
		if err != nil {
			return err
		}
		host.Routes = append(host.Routes, route)
	}
	return r.add(RouteType, PublicRoutes, &routev3.RouteConfiguration{
		Name: PublicRoutes, ValidateClusters: wrapperspb.Bool(false), VirtualHosts: []*routev3.VirtualHost{host},
	})
}

// auditPrefix is that of the statistics of rules that are looked at and have no effect, by which both proxies know them.
const auditPrefix = "audit_"

func (r *renderer) publicRoute(l limited, rules *anypb.Any) (*routev3.Route, error) {
	meta, err := r.metadata(routeInfoKey, &proxyv1.RouteInfo{Source: l.source, Service: ref(r.g.Service, "")})
	if err != nil {
		return nil, err
	}
	filters := map[string]*anypb.Any{rbacFilter: rules}
	if limit := r.localLimit(l); limit != nil {
		if filters[limitFilter], err = pack(limit); err != nil {
			return nil, err
		}
	}
	timeout := millis(0, r.setting("local_request_timeout_ms", r.defaults().LocalRequestTimeoutMs))
	return &routev3.Route{
		Match: l.match, Metadata: meta, TypedPerFilterConfig: filters,
		Action: &routev3.Route_Route{Route: &routev3.RouteAction{
			ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: LocalCluster}, Timeout: durationpb.New(timeout),
		}},
	}, nil
}

func everything() *routev3.RouteMatch {
	return &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}}
}

// upstreamRoutes turns a chain into routes.
func (r *renderer) upstreamRoutes(u *Upstream, name string, clusters map[string]string) error {
	host := &routev3.VirtualHost{Name: titled(u.Key), Domains: []string{"*"}}
	c := u.Chain
	routes := []*chain.Route{{NextNode: c.StartNode, Source: "service " + titled(u.Key)}}
	if start := c.Nodes[c.StartNode]; start.Type == chain.TypeRouter {
		routes = start.Routes
	}
	caller := r.caller()
	for _, route := range routes {
		if !route.About(caller) {
			continue
		}
		out, err := r.route(u, route, clusters)
		if err != nil {
			return err
		}
		host.Routes = append(host.Routes, out)
	}
	return r.add(RouteType, name, &routev3.RouteConfiguration{
		Name: name, VirtualHosts: []*routev3.VirtualHost{host}, ValidateClusters: wrapperspb.Bool(false),
	})
}

func (r *renderer) route(u *Upstream, from *chain.Route, clusters map[string]string) (*routev3.Route, error) {
	out := &routev3.Route{Match: everything()}
	def := from.Definition
	if def != nil && def.Match != nil && def.Match.HTTP != nil {
		out.Match = routeMatch(def.Match.HTTP)
		if r.in.Abilities.olderThan(routesIndividually) {
			amongOthers(out.Match.Headers)
		}
	}
	info := &proxyv1.RouteInfo{Source: from.Source, Service: ref(u.Key, ""), FaultReset: resets(def)}
	var err error
	if out.Metadata, err = r.metadata(routeInfoKey, info); err != nil {
		return nil, err
	}
	if def != nil && (def.Redirect != nil || def.Response != nil) {
		answers(out, def)
		return out, nil
	}
	action := &routev3.RouteAction{RetryPolicy: safeRetries()}
	out.Action = &routev3.Route_Route{Route: action}
	if by, refused := r.refusedOutside(u, from.NextNode); refused {
		if out.TypedPerFilterConfig, err = r.verdictOfRequests(false, by); err != nil {
			return nil, err
		}
	}
	timeout, by := r.lead(u.Chain, from.NextNode, clusters, action)
	if u.Chain.Protocol == catalog.ProtocolGRPC {
		timeout = 0 // streams have no end of their own; a call's deadline is the caller's
	}
	if def != nil && def.Destination != nil {
		d := def.Destination
		if d.RequestTimeout > 0 {
			timeout = d.RequestTimeout
		}
		rewrites(action, d)
		times(action, d)
		retries(out, action, d)
		for i, node := range from.Mirrors {
			action.RequestMirrorPolicies = append(action.RequestMirrorPolicies, &routev3.RouteAction_RequestMirrorPolicy{
				Cluster: clusters[node], RuntimeFraction: &corev3.RuntimeFractionalPercent{DefaultValue: fraction(d.Mirror[i].Percent)},
			})
		}
		out.RequestHeadersToAdd, out.RequestHeadersToRemove = edits(d.RequestHeaders)
		out.ResponseHeadersToAdd, out.ResponseHeadersToRemove = edits(d.ResponseHeaders)
		if err := r.filters(out, from, d); err != nil {
			return nil, err
		}
	}
	if p := persistence(u.Chain, from.NextNode); p != nil {
		m, err := session(p)
		if err != nil {
			return nil, err
		}
		if err := configure(out, sessionFilter, m); err != nil {
			return nil, err
		}
	}
	action.Timeout = durationpb.New(timeout)
	action.HashPolicy = hashPolicies(by)
	return out, nil
}

// lead makes an action lead to a node of the chain, and says which request timeout and hashing hold there.
func (r *renderer) lead(c *chain.Chain, node string, clusters map[string]string, action *routev3.RouteAction) (time.Duration, []catalog.HashPolicy) {
	n := c.Nodes[node]
	var by []catalog.HashPolicy
	if n.LoadBalancer != nil {
		by = n.LoadBalancer.HashPolicies
	}
	if n.Type == chain.TypeResolver {
		action.ClusterSpecifier = &routev3.RouteAction_Cluster{Cluster: clusters[node]}
		return n.Resolver.RequestTimeout, by
	}
	weighted := &routev3.WeightedCluster{}
	if len(n.Sticky) > 0 {
		weighted.RandomValueSpecifier = &routev3.WeightedCluster_UseHashPolicy{UseHashPolicy: wrapperspb.Bool(true)}
		by = n.Sticky
	}
	var timeout time.Duration
	for _, s := range n.Splits {
		weight := uint32(s.Weight*100 + 0.5)
		if weight == 0 {
			continue
		}
		w := &routev3.WeightedCluster_ClusterWeight{Name: clusters[s.NextNode], Weight: wrapperspb.UInt32(weight)}
		if s.Definition != nil {
			w.RequestHeadersToAdd, w.RequestHeadersToRemove = edits(s.Definition.RequestHeaders)
			w.ResponseHeadersToAdd, w.ResponseHeadersToRemove = edits(s.Definition.ResponseHeaders)
		}
		weighted.Clusters = append(weighted.Clusters, w)
		timeout = max(timeout, c.Nodes[s.NextNode].Resolver.RequestTimeout)
	}
	action.ClusterSpecifier = &routev3.RouteAction_WeightedClusters{WeightedClusters: weighted}
	return timeout, by
}

// edits are header changes: set replaces, add appends.
func edits(m *catalog.HTTPHeaderModifiers) (add []*corev3.HeaderValueOption, remove []string) {
	if m == nil {
		return nil, nil
	}
	option := func(k, v string, action corev3.HeaderValueOption_HeaderAppendAction) {
		add = append(add, &corev3.HeaderValueOption{Header: &corev3.HeaderValue{Key: k, Value: v}, AppendAction: action})
	}
	for _, k := range slices.Sorted(maps.Keys(m.Set)) {
		option(k, m.Set[k], corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD)
	}
	for _, k := range slices.Sorted(maps.Keys(m.Add)) {
		option(k, m.Add[k], corev3.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD)
	}
	return add, m.Remove
}

func hashPolicies(by []catalog.HashPolicy) []*routev3.RouteAction_HashPolicy {
	var out []*routev3.RouteAction_HashPolicy
	for _, p := range by {
		h := &routev3.RouteAction_HashPolicy{Terminal: p.Terminal}
		switch {
		case p.SourceIP:
			h.PolicySpecifier = &routev3.RouteAction_HashPolicy_ConnectionProperties_{
				ConnectionProperties: &routev3.RouteAction_HashPolicy_ConnectionProperties{SourceIp: true},
			}
		case p.Field == "header":
			h.PolicySpecifier = &routev3.RouteAction_HashPolicy_Header_{Header: &routev3.RouteAction_HashPolicy_Header{HeaderName: p.FieldValue}}
		case p.Field == "query_parameter":
			h.PolicySpecifier = &routev3.RouteAction_HashPolicy_QueryParameter_{
				QueryParameter: &routev3.RouteAction_HashPolicy_QueryParameter{Name: p.FieldValue},
			}
		case p.Field == "cookie":
			cookie := &routev3.RouteAction_HashPolicy_Cookie{Name: p.FieldValue}
			if c := p.CookieConfig; c != nil {
				cookie.Path = c.Path
				if c.Session {
					cookie.Ttl = durationpb.New(0)
				} else if c.TTL > 0 {
					cookie.Ttl = durationpb.New(c.TTL)
				}
			}
			h.PolicySpecifier = &routev3.RouteAction_HashPolicy_Cookie_{Cookie: cookie}
		default:
			continue
		}
		out = append(out, h)
	}
	return out
}
