// SPDX-License-Identifier: Apache-2.0

package xdstest

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	tracev3 "github.com/envoyproxy/go-control-plane/envoy/config/trace/v3"
	jwtv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/jwt_authn/v3"
	httprbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	netrbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/rbac/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"

	"github.com/weftmesh/weft/connect/identity"
	"github.com/weftmesh/weft/connect/intention"
	"github.com/weftmesh/weft/connect/xds"
)

// Proxy is a rendered configuration, taken apart.
type Proxy struct {
	Listeners map[string]*listenerv3.Listener
	Routes    map[string]*routev3.RouteConfiguration
	Clusters  map[string]*clusterv3.Cluster
	Endpoints map[string]*endpointv3.ClusterLoadAssignment
	Secrets   map[string]bool
	patterns  map[string]*regexp.Regexp // compiled before
}

// Load takes an output apart. It is an error if something refers to what isn't there, or if nothing refers to something.
func Load(out *xds.Output) (*Proxy, error) {
	p := &Proxy{
		Listeners: map[string]*listenerv3.Listener{}, Routes: map[string]*routev3.RouteConfiguration{},
		Clusters: map[string]*clusterv3.Cluster{}, Endpoints: map[string]*endpointv3.ClusterLoadAssignment{}, Secrets: map[string]bool{},
		patterns: map[string]*regexp.Regexp{},
	}
	for url, all := range out.Resources {
		for _, r := range all {
			m, err := r.Any.UnmarshalNew()
			if err != nil {
				return nil, err
			}
			if "type.googleapis.com/"+string(m.ProtoReflect().Descriptor().FullName()) != url {
				return nil, fmt.Errorf("%s among the %s", r.Name, url)
			}
			switch m := m.(type) {
			case *listenerv3.Listener:
				p.Listeners[r.Name] = m
			case *routev3.RouteConfiguration:
				p.Routes[r.Name] = m
			case *clusterv3.Cluster:
				p.Clusters[r.Name] = m
			case *endpointv3.ClusterLoadAssignment:
				p.Endpoints[r.Name] = m
			default:
				p.Secrets[r.Name] = true
			}
		}
	}
	return p, p.references()
}

// collector adds the cluster that a listener's spans go to.
func collector(h *hcmv3.HttpConnectionManager, clusters map[string]bool) error {
	to := h.GetTracing().GetProvider().GetTypedConfig()
	if to == nil {
		return nil
	}
	var c tracev3.OpenTelemetryConfig
	if err := to.UnmarshalTo(&c); err != nil {
		return err
	}
	clusters[c.GetHttpService().GetHttpUri().GetCluster()] = true
	return nil
}

// references checks that what is named exists and that what exists is named.
func (p *Proxy) references() error {
	clusters, routes := map[string]bool{}, map[string]bool{}
	for name, l := range p.Listeners {
		chains := l.GetFilterChains()
		if d := l.GetDefaultFilterChain(); d != nil {
			chains = append(slices.Clone(chains), d)
		}
		for _, chain := range chains {
			h, t, _, err := filters(chain)
			if err != nil {
				return fmt.Errorf("listener %s: %w", name, err)
			}
			for _, f := range h.GetHttpFilters() {
				if err := errors.Join(keyServers(f, clusters), deciders(f, clusters)); err != nil {
					return err
				}
			}
			if err := collector(h, clusters); err != nil {
				return err
			}
			if h != nil {
				routes[h.GetRds().GetRouteConfigName()] = true
			} else {
				for c := range tcpClusters(t) {
					clusters[c] = true
				}
			}
		}
	}
	for name, rc := range p.Routes {
		if !routes[name] {
			return fmt.Errorf("no listener refers to the routes %s", name)
		}
		delete(routes, name)
		for _, v := range rc.GetVirtualHosts() {
			for _, r := range v.GetRoutes() {
				for c := range routeClusters(r) {
					clusters[c] = true
				}
				for _, m := range r.GetRoute().GetRequestMirrorPolicies() {
					clusters[m.GetCluster()] = true
				}
			}
		}
	}
	for name := range routes {
		return fmt.Errorf("routes %s aren't there", name)
	}
	for name, c := range p.Clusters {
		if !clusters[name] {
			return fmt.Errorf("nothing refers to the cluster %s", name)
		}
		delete(clusters, name)
		if c.GetType() == clusterv3.Cluster_EDS && p.Endpoints[name] == nil {
			return fmt.Errorf("the cluster %s has no endpoints resource", name)
		}
	}
	for name := range clusters {
		return fmt.Errorf("the cluster %s isn't there", name)
	}
	for name := range p.Endpoints {
		if p.Clusters[name].GetType() != clusterv3.Cluster_EDS {
			return fmt.Errorf("nothing refers to the endpoints %s", name)
		}
	}
	return nil
}

// keyServers notes the clusters by which keys of tokens are fetched.
func keyServers(f *hcmv3.HttpFilter, clusters map[string]bool) error {
	if f.GetName() != "envoy.filters.http.jwt_authn" {
		return nil
	}
	m := &jwtv3.JwtAuthentication{}
	if err := f.GetTypedConfig().UnmarshalTo(m); err != nil {
		return err
	}
	for _, p := range m.GetProviders() {
		if c := p.GetRemoteJwks().GetHttpUri().GetCluster(); c != "" {
			clusters[c] = true
		}
	}
	return nil
}

// filters are the parts of a filter chain that decide.
func filters(chain *listenerv3.FilterChain) (h *hcmv3.HttpConnectionManager, t *tcpv3.TcpProxy, auth *rbacv3.RBAC, err error) {
	for _, f := range chain.GetFilters() {
		m, err := f.GetTypedConfig().UnmarshalNew()
		if err != nil {
			return nil, nil, nil, err
		}
		switch m := m.(type) {
		case *hcmv3.HttpConnectionManager:
			h = m
		case *tcpv3.TcpProxy:
			t = m
		case *netrbacv3.RBAC:
			auth = m.GetRules()
		}
	}
	if h == nil && t == nil {
		return nil, nil, nil, fmt.Errorf("no filter of the chain ends it")
	}
	return h, t, auth, nil
}

func tcpClusters(t *tcpv3.TcpProxy) map[string]uint32 {
	if c := t.GetCluster(); c != "" {
		return map[string]uint32{c: 1}
	}
	out := map[string]uint32{}
	for _, c := range t.GetWeightedClusters().GetClusters() {
		out[c.GetName()] += c.GetWeight()
	}
	return out
}

func routeClusters(r *routev3.Route) map[string]uint32 {
	if c := r.GetRoute().GetCluster(); c != "" {
		return map[string]uint32{c: 1}
	}
	out := map[string]uint32{}
	for _, c := range r.GetRoute().GetWeightedClusters().GetClusters() {
		out[c.GetName()] += c.GetWeight().GetValue()
	}
	return out
}

// Answer is what becomes of a connection or request.
type Answer struct {
	Allowed bool
	// Policy is what allowed it, "" where there is no authorisation or nothing allowed it.
	Policy string
	// Asked says that another program is asked about it besides.
	Asked bool
	// Clusters it can go to, with their weights; empty if it isn't allowed or no route is for it.
	Clusters map[string]uint32
	// Route that it took.
	Route *routev3.Route
}

// Inbound says what becomes of a call to the public listener; the zero peer calls in plain text, which is an error where the
// listener takes none. For a TCP service the request is not looked at.
func (p *Proxy) Inbound(peer identity.Service, req intention.Request) (Answer, error) {
	if peer == (identity.Service{}) {
		return p.call("public_listener:", "", req)
	}
	return p.call("public_listener:", peer.String(), req)
}

// Outbound says what becomes of a call through the listener of an upstream.
func (p *Proxy) Outbound(upstream string, req intention.Request) (Answer, error) {
	return p.call(upstream+":", "", req)
}

func (p *Proxy) call(prefix, peer string, req intention.Request) (Answer, error) {
	for name, l := range p.Listeners {
		if !strings.HasPrefix(name, prefix) {
			continue
		}
		chains := l.GetFilterChains()
		chain := chains[0]
		if inbound := prefix == "public_listener:"; inbound && peer == "" {
			chain = chains[len(chains)-1]
			if chain.GetTransportSocket() != nil {
				return Answer{}, fmt.Errorf("listener %s takes no plain text", name)
			}
		}
		h, t, auth, err := filters(chain)
		if err != nil {
			return Answer{}, err
		}
		if h != nil {
			return p.request(h, peer, req)
		}
		a := Answer{Allowed: true}
		if auth != nil {
			if a.Policy, a.Allowed, err = decide(auth, subject{peer: peer, patterns: p.patterns}); err != nil || !a.Allowed {
				return a, err
			}
		}
		a.Clusters = tcpClusters(t)
		return a, nil
	}
	return Answer{}, fmt.Errorf("no listener %s…", prefix)
}

func (p *Proxy) request(h *hcmv3.HttpConnectionManager, peer string, req intention.Request) (Answer, error) {
	s := subject{peer: peer, req: req, http: true, patterns: p.patterns}
	guarded := false
	for _, f := range h.GetHttpFilters() {
		guarded = guarded || f.GetName() == "envoy.filters.http.rbac"
	}
	for _, r := range p.Routes[h.GetRds().GetRouteConfigName()].GetVirtualHosts()[0].GetRoutes() {
		ok, err := s.route(r.GetMatch())
		if err != nil {
			return Answer{}, err
		}
		if !ok {
			continue
		}
		a := Answer{Allowed: true, Route: r}
		if rules := r.GetTypedPerFilterConfig()["envoy.filters.http.rbac"]; guarded && rules != nil {
			per := &httprbacv3.RBACPerRoute{}
			if err := rules.UnmarshalTo(per); err != nil {
				return Answer{}, err
			}
			if a.Policy, a.Allowed, err = decide(per.GetRbac().GetRules(), s); err != nil || !a.Allowed {
				return a, err
			}
		}
		if a.Asked, err = s.asked(h); err != nil {
			return a, err
		}
		a.Clusters = routeClusters(r)
		return a, nil
	}
	return Answer{Allowed: true}, nil
}

// Addresses are a cluster's endpoints, as host:port, by priority.
func (p *Proxy) Addresses(cluster string) [][]string {
	var out [][]string
	for _, g := range p.Endpoints[cluster].GetEndpoints() {
		var list []string
		for _, e := range g.GetLbEndpoints() {
			a := e.GetEndpoint().GetAddress().GetSocketAddress()
			list = append(list, fmt.Sprintf("%s:%d*%d", a.GetAddress(), a.GetPortValue(), e.GetLoadBalancingWeight().GetValue()))
		}
		out = append(out, list)
	}
	return out
}
