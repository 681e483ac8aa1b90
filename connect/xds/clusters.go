// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"cmp"
	"fmt"
	"sort"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"github.com/hashicorp/go-bexpr"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/connect/chain"
	"github.com/weftmesh/weft/connect/identity"
	proxyv1 "github.com/weftmesh/weft/proto/weft/proxy/v1"
)

// Keys of the typed metadata that weft's own proxy reads.
const (
	clusterInfoKey = "weft.proxy.v1.cluster"
	routeInfoKey   = "weft.proxy.v1.route"
	httpOptionsKey = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
)

// LocalCluster is the cluster of the application beside the proxy.
const LocalCluster = "local_app"

// The time that an upstream has to take a connection.
const connectTimeout = 5 * time.Second

// metadata is a typed message about a resource. An Envoy doesn't know our types, and refuses to show any of its configuration
// (config_dump) if it has one: it gets the same as a plain structure, which people can read there.
func (r *renderer) metadata(key string, m proto.Message) (*corev3.Metadata, error) {
	if r.in.Abilities.Weft {
		a, err := pack(m)
		if err != nil {
			return nil, err
		}
		return &corev3.Metadata{TypedFilterMetadata: map[string]*anypb.Any{key: a}}, nil
	}
	text, err := protojson.Marshal(m)
	if err != nil {
		return nil, err
	}
	plain := &structpb.Struct{}
	if err := protojson.Unmarshal(text, plain); err != nil {
		return nil, err
	}
	return &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{key: plain}}, nil
}

func (r *renderer) httpOptions(protocol string, undeclared bool, conf *catalog.UpstreamConfig) (map[string]*anypb.Any, error) {
	if undeclared && r.in.Abilities.Weft { // what came in is what goes out
		same := &httpv3.HttpProtocolOptions{UpstreamProtocolOptions: &httpv3.HttpProtocolOptions_UseDownstreamProtocolConfig{
			UseDownstreamProtocolConfig: &httpv3.HttpProtocolOptions_UseDownstreamHttpConfig{},
		}}
		keep(same, conf)
		a, err := pack(same)
		return map[string]*anypb.Any{httpOptionsKey: a}, err
	}
	if !catalog.HTTPLike(protocol) {
		return nil, nil
	}
	explicit := &httpv3.HttpProtocolOptions_ExplicitHttpConfig{}
	if protocol == catalog.ProtocolHTTP {
		explicit.ProtocolConfig = &httpv3.HttpProtocolOptions_ExplicitHttpConfig_HttpProtocolOptions{HttpProtocolOptions: &corev3.Http1ProtocolOptions{}}
	} else {
		explicit.ProtocolConfig = &httpv3.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{Http2ProtocolOptions: &corev3.Http2ProtocolOptions{}}
	}
	options := &httpv3.HttpProtocolOptions{
		UpstreamProtocolOptions: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_{ExplicitHttpConfig: explicit},
	}
	keep(options, conf)
	if p := conf.PassiveHealthCheck; p != nil && len(p.FailureStatusCodes) > 0 {
		options.OutlierDetection = &httpv3.HttpProtocolOptions_OutlierDetection{ErrorMatcher: anyStatus(p.FailureStatusCodes)}
	}
	a, err := pack(options)
	return map[string]*anypb.Any{httpOptionsKey: a}, err
}

// alpn is what sidecars say they speak to each other.
func alpn(protocol string) []string {
	switch protocol {
	case catalog.ProtocolHTTP:
		return []string{"http/1.1"}
	case catalog.ProtocolHTTP2, catalog.ProtocolGRPC:
		return []string{"h2"}
	}
	return nil
}

// localCluster leads to the application.
func (r *renderer) localCluster() error {
	if c := r.escapedLocal(); c != nil {
		return r.add(ClusterType, LocalCluster, c)
	}
	p := r.in.Proxy.Proxy
	var addr *corev3.Address
	if p.LocalServiceSocketPath != "" {
		addr = pipe(p.LocalServiceSocketPath, 0)
	} else {
		host := r.localHost()
		if p.LocalServicePort == 0 {
			r.warn("proxy %s: local_service_port is 0: nothing can be handed to the service", r.in.Proxy.ID)
			addr = socket(host, 1)
		} else {
			addr = socket(host, p.LocalServicePort)
		}
	}
	c, err := r.application(LocalCluster, r.g.Protocol, r.g.Undeclared, addr)
	if err != nil {
		return err
	}
	if err := r.toApplication(c); err != nil {
		return err
	}
	return r.add(ClusterType, LocalCluster, c)
}

// localHost is where the application listens, if not at a socket of the file system.
func (r *renderer) localHost() string {
	return cmp.Or(r.in.Proxy.Proxy.LocalServiceAddress, "127.0.0.1")
}

// application is a cluster that is the application, at one of its addresses.
func (r *renderer) application(name, protocol string, undeclared bool, addr *corev3.Address) (*clusterv3.Cluster, error) {
	options, err := r.httpOptions(protocol, undeclared, &catalog.UpstreamConfig{})
	if err != nil {
		return nil, err
	}
	meta, err := r.metadata(clusterInfoKey, &proxyv1.ClusterInfo{Service: ref(r.g.Service, ""), Local: true})
	if err != nil {
		return nil, err
	}
	timeout := millis(connectTimeout, r.setting("local_connect_timeout_ms", r.defaults().LocalConnectTimeoutMs))
	return &clusterv3.Cluster{
		Name: name, ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC},
		ConnectTimeout: durationpb.New(timeout), TypedExtensionProtocolOptions: options, Metadata: meta,
		CircuitBreakers: unlimited(),
		LoadAssignment: &endpointv3.ClusterLoadAssignment{ClusterName: name, Endpoints: []*endpointv3.LocalityLbEndpoints{{
			LbEndpoints: []*endpointv3.LbEndpoint{{HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: addr}}}},
		}}},
	}, nil
}

// unlimited lifts the bounds that Envoy sets by itself, which nobody asked for: 1024 connections and requests, and 3 retries at a
// time, with which a killed endpoint loses most of what was to be retried.
func unlimited() *clusterv3.CircuitBreakers {
	n := wrapperspb.UInt32(1 << 30)
	return &clusterv3.CircuitBreakers{Thresholds: []*clusterv3.CircuitBreakers_Thresholds{{
		MaxConnections: n, MaxPendingRequests: n, MaxRequests: n, MaxRetries: n,
	}}}
}

func (r *renderer) defaults() *catalog.ServiceDefaults {
	if r.g.Defaults != nil {
		return r.g.Defaults
	}
	return &catalog.ServiceDefaults{}
}

func mustNumber(o catalog.Opaque, key string) int64 {
	n, _ := number(o, key)
	return n
}

func ref(k catalog.Key, subset string) *proxyv1.ServiceRef {
	return &proxyv1.ServiceRef{Name: k.Name, Namespace: k.Namespace, Partition: k.Partition, Datacenter: k.Datacenter, Peer: k.Peer, Subset: subset}
}

// serviceID is the identity that a target's proxies show.
func (r *renderer) serviceID(t *chain.Target) identity.Service {
	return identity.Service{TrustDomain: r.td, Partition: t.Partition, Namespace: t.Namespace, Datacenter: t.Datacenter, Service: t.Service}
}

// clusterOf is the name of the cluster of an upstream's resolver, and the targets that it leads to, in order.
func clusterOf(u *Upstream, node *chain.Node) (name string, targets []*chain.Target) {
	target := u.Chain.Targets[node.Resolver.Target]
	targets = append(targets, target)
	if node.Resolver.Failover != nil {
		for _, id := range node.Resolver.Failover.Targets {
			targets = append(targets, u.Chain.Targets[id])
		}
	}
	name = target.Name
	if u.Chain.CustomizationHash != "" {
		name = u.Chain.CustomizationHash + "~" + name
	}
	return name, targets
}

// upstreamCluster leads to a target of an upstream's chain, and where it has failover to those in order: one cluster with a
// priority for each, whose peers may be any of them.
func (r *renderer) upstreamCluster(u *Upstream, node *chain.Node) (string, error) {
	name, targets := clusterOf(u, node)
	target := targets[0]
	var ids []identity.Service
	for _, t := range targets {
		ids = append(ids, r.serviceID(t))
	}
	tls, err := upstreamTLS(target.SNI, alpn(u.Chain.Protocol), ids)
	if err != nil {
		return "", err
	}
	conf := r.upstreamConfig(u, node)
	options, err := r.httpOptions(u.Chain.Protocol, u.Undeclared, &conf)
	if err != nil {
		return "", err
	}
	meta, err := r.metadata(clusterInfoKey, &proxyv1.ClusterInfo{
		Service: ref(target.Key(), target.ServiceSubset), Probation: conf.PassiveHealthCheck != nil && conf.PassiveHealthCheck.Probation,
	})
	if err != nil {
		return "", err
	}
	if p := conf.PassiveHealthCheck; p != nil && p.Probation && !r.in.Abilities.Weft {
		r.warn("upstream %s: PassiveHealthCheck.Probation: Envoy doesn't have it: who comes back gets its whole share at once", u.Key.Name)
	}
	timeout := target.ConnectTimeout
	if conf.ConnectTimeoutMs > 0 {
		timeout = time.Duration(conf.ConnectTimeoutMs) * time.Millisecond
	}
	asked := retriedTo(u.Chain)[chain.TypeResolver+":"+target.ID]
	c := &clusterv3.Cluster{
		Name: name, ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS},
		EdsClusterConfig: &clusterv3.Cluster_EdsClusterConfig{EdsConfig: ads()}, ConnectTimeout: durationpb.New(cmp.Or(timeout, connectTimeout)),
		TransportSocket: tls, TypedExtensionProtocolOptions: options, Metadata: meta, CircuitBreakers: breakers(conf.Limits, asked),
		OutlierDetection: outlier(conf.PassiveHealthCheck), CommonLbConfig: common(node), UpstreamConnectionOptions: alive(conf.Connections),
	}
	if err := r.balance(c, node.LoadBalancer, u.Key.Name); err != nil {
		return "", fmt.Errorf("upstream %s: %w", u.Key, err)
	}
	r.warnOutside(u, node, targets)
	o := u.outsideOf(node)
	if o != nil {
		if err := r.outside(c, o); err != nil {
			return "", err
		}
	} else if r.plainTargets(u, targets) {
		if c.TransportSocketMatches, err = plainSocket(); err != nil {
			return "", err
		}
	}
	if own := r.escapedCluster(u, c); own != nil {
		c = own
	}
	if err := r.add(ClusterType, name, c); err != nil || o != nil {
		return name, err
	}
	return name, r.endpoints(name, u, node, targets)
}

// upstreamConfig is how an upstream is called: the registration's word, else the caller's service-defaults for that upstream,
// else those for all, else the resolver's. Of limits each is looked for by itself where the resolver has some.
func (r *renderer) upstreamConfig(u *Upstream, node *chain.Node) catalog.UpstreamConfig {
	out := catalog.UpstreamConfig{PassiveHealthCheck: node.PassiveHealthCheck, Connections: node.Connections}
	take := func(c *catalog.UpstreamConfig) {
		if c.ConnectTimeoutMs > 0 {
			out.ConnectTimeoutMs = c.ConnectTimeoutMs
		}
		if c.Limits != nil {
			out.Limits = c.Limits
		}
		if c.PassiveHealthCheck != nil {
			out.PassiveHealthCheck = c.PassiveHealthCheck
		}
		if c.Connections != nil {
			out.Connections = c.Connections
		}
	}
	if conf := r.defaults().UpstreamConfig; conf != nil {
		if conf.Defaults != nil {
			take(conf.Defaults)
		}
		for i := range conf.Overrides {
			if conf.Overrides[i].About(u.Key, r.defaults().Namespace) {
				take(&conf.Overrides[i])
			}
		}
	}
	own := u.Definition.Config
	take(registrationConfig(own))
	out.Limits = fill(out.Limits, node.Limits)
	return out
}

// filtered is an instance in the form that subset filters are written for.
type filtered struct {
	Node    *catalog.Node
	Service *catalog.Service
	Checks  []*catalog.Check
}

// Selected are the instances of a target's subset, sorted by node and ID.
func Selected(t *chain.Target, all []*catalog.Instance) ([]*catalog.Instance, error) {
	out := make([]*catalog.Instance, 0, len(all))
	var match *bexpr.Evaluator
	if t.Subset.Filter != "" {
		var err error
		if match, err = bexpr.CreateEvaluator(t.Subset.Filter); err != nil {
			return nil, fmt.Errorf("filter %q: %w", t.Subset.Filter, err)
		}
	}
	for _, i := range all {
		if t.Subset.OnlyPassing && i.Status() != catalog.HealthPassing {
			continue
		}
		if match != nil {
			ok, err := match.Evaluate(filtered{i.Node, i.Service, i.Checks})
			if err != nil {
				return nil, fmt.Errorf("filter %q: %w", t.Subset.Filter, err)
			}
			if !ok {
				continue
			}
		}
		out = append(out, i)
	}
	sort.SliceStable(out, func(a, b int) bool {
		x, y := out[a].Service, out[b].Service
		return x.Node < y.Node || (x.Node == y.Node && x.ID < y.ID)
	})
	return out, nil
}

func socket(host string, port int) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address: host, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(port)},
	}}}
}

func pipe(path string, mode uint32) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: path, Mode: mode}}}
}
