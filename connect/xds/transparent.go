// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"errors"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	originalv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/original_dst/v3"
	netrbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/rbac/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/connect/chain"
	"github.com/weftmesh/weft/connect/identity"
	"github.com/weftmesh/weft/connect/intention"
	proxyv1 "github.com/weftmesh/weft/proto/weft/proxy/v1"
)

// OutboundListener is the listener of a transparent proxy that gets all that its service sends, and OriginalDestination the cluster of
// where that was going.
const (
	OutboundListener    = "outbound_listener"
	OriginalDestination = "original-destination"
)

// maxReached bounds the services that a transparent proxy is told of beside its upstreams: each costs topics of the feed, a cluster and a
// filter chain. Those whose names come first are told.
const maxReached = 1024

// definition is an upstream of the registration, or one that a transparent proxy has besides.
type definition struct {
	catalog.Upstream
	place partKey
}

// definitions are the proxy's upstreams; of a transparent proxy also the services of its namespace that it may reach, by name.
func (g *Gathered) definitions(t *catalog.Txn, proxy *catalog.Service, defaultAllow bool) (all []definition, errs error) {
	named := map[catalog.Key]bool{}
	scopes := map[catalog.Scope]bool{g.Service.Scope.Default(t.Datacenter()): true}
	for i, u := range proxy.Proxy.Upstreams {
		all = append(all, definition{u, partKey{index: i}})
		if key, here := addressed(t, u, proxy.Scope); here {
			named[key] = true
			scopes[key.Scope] = true
		}
	}
	if g.Transparent == nil {
		return all, nil
	}
	reach, err := intention.ReachOf(t, g.Service, defaultAllow)
	errs = errors.Join(errs, err)
	g.Outside, err = OutsideOf(t, g.Service.Scope)
	errs = errors.Join(errs, err)
	g.Virtual = map[catalog.Key][]string{}
	for _, scope := range slices.SortedFunc(maps.Keys(scopes), byScope) {
		ips, err := t.VirtualIPs(scope)
		errs = errors.Join(errs, err)
		own := scope == g.Service.Scope.Default(t.Datacenter())
		for _, v := range ips {
			key := v.Service.Fold()
			g.Virtual[key] = append([]string{v.Address()}, v.Manual...)
			switch {
			case !own || named[key] || !reach.To(key.Name):
			case len(all) >= maxReached+len(proxy.Proxy.Upstreams):
				g.Beyond++
			default:
				u := catalog.Upstream{DestinationName: v.Service.Name, DestinationNamespace: scope.Namespace, DestinationPartition: scope.Partition}
				all = append(all, definition{u, partKey{-1, key}})
			}
		}
	}
	return all, errs
}

func byScope(a, b catalog.Scope) int {
	return slices.Compare([]string{a.Partition, a.Namespace}, []string{b.Partition, b.Namespace})
}

// addressed is the service that an upstream is, if it can have a virtual address: it is one of this datacenter, and not told apart from
// others by a server name.
func addressed(t *catalog.Txn, u catalog.Upstream, from catalog.Scope) (catalog.Key, bool) {
	key := u.Key(from)
	key.Scope = key.Scope.Default(t.Datacenter())
	names, err := catalog.UpstreamNames(u.Config)
	return key.Fold(), key.Peer == "" && key.Datacenter == t.Datacenter() && names == nil && err == nil
}

// outboundChains are what becomes of connections to a service by its virtual addresses, and to its instances by theirs; both without
// their match. Either can be nil.
type outboundChains struct{ virtual, direct *listenerv3.FilterChain }

// placeless says of an upstream that nothing leads to it.
func (r *renderer) placeless(u *Upstream) bool {
	if bound(u.Definition) {
		return false
	}
	_, ok := addressed(r.in.Txn, u.Definition, r.in.Proxy.Scope)
	return r.g.Transparent == nil || !ok
}

// upstreamChains renders an upstream for the listener of a transparent proxy.
func (r *renderer) upstreamChains(u *Upstream, clusters map[string]string) error {
	if r.g.Transparent == nil {
		return nil
	}
	if _, ok := addressed(r.in.Txn, u.Definition, r.in.Proxy.Scope); !ok {
		return nil
	}
	filters, err := r.upstreamFilters(u, titled(u.Key)+":"+OutboundListener, clusters)
	if err != nil {
		return err
	}
	chains := outboundChains{virtual: &listenerv3.FilterChain{Filters: filters}}
	if len(r.direct(u)) > 0 {
		if chains.direct, err = r.directChain(u); err != nil {
			return err
		}
	}
	r.chains = map[*Upstream]outboundChains{u: chains}
	return nil
}

// ownTarget is the target that is the upstream's service itself, where its chain has it.
func ownTarget(u *Upstream) *chain.Target {
	for _, id := range slices.Sorted(maps.Keys(u.Chain.Targets)) {
		if t := u.Chain.Targets[id]; t.ServiceSubset == "" && t.Peer == "" && t.Key().Fold() == u.Key.Fold() {
			return t
		}
	}
	return nil
}

// direct are the addresses of a service's instances that want to be dialled by them.
func (r *renderer) direct(u *Upstream) (out []string) {
	if r.g.Transparent == nil || u.Err != nil {
		return nil
	}
	t := ownTarget(u)
	if t == nil {
		return nil
	}
	plain := r.plain(u, t)
	for _, i := range u.Instances[t.ID] {
		if i.Service.Proxy == nil || i.Status() == catalog.HealthCritical || plain(i) {
			continue
		}
		how := catalog.Transparency(i.Service.Proxy, u.Defaults[t.ID], r.g.Global)
		host, _ := i.Address()
		if ip, err := netip.ParseAddr(host); how != nil && how.DialedDirectly && err == nil && !ip.IsLoopback() && !ip.IsUnspecified() {
			out = append(out, ip.Unmap().String())
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// directChain carries a connection to the very instance that it was for, whose proxy takes it under whatever port.
func (r *renderer) directChain(u *Upstream) (*listenerv3.FilterChain, error) {
	t := ownTarget(u)
	name := "passthrough~" + t.SNI
	tls, err := upstreamTLS(name, alpn(u.Chain.Protocol), []identity.Service{r.serviceID(t)})
	if err != nil {
		return nil, err
	}
	if err := r.passthrough(name, &proxyv1.ClusterInfo{Service: ref(t.Key(), "")}, tls); err != nil {
		return nil, err
	}
	f, err := r.toCluster(name, statistics(u.Key))
	return &listenerv3.FilterChain{Filters: []*listenerv3.Filter{f}}, err
}

// passthrough is a cluster of wherever a connection was going.
func (r *renderer) passthrough(name string, info *proxyv1.ClusterInfo, tls *corev3.TransportSocket) error {
	meta, err := r.metadata(clusterInfoKey, info)
	if err != nil {
		return err
	}
	c := originalCluster(name)
	c.TransportSocket, c.Metadata = tls, meta
	return r.add(ClusterType, name, c)
}

func originalCluster(name string) *clusterv3.Cluster {
	return &clusterv3.Cluster{
		Name: name, ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_ORIGINAL_DST}, LbPolicy: clusterv3.Cluster_CLUSTER_PROVIDED,
		ConnectTimeout: durationpb.New(connectTimeout), CircuitBreakers: unlimited(),
	}
}

func (r *renderer) toCluster(cluster, stat string) (*listenerv3.Filter, error) {
	log, err := r.accessLogs()
	if err != nil {
		return nil, err
	}
	return filter("envoy.filters.network.tcp_proxy", &tcpv3.TcpProxy{
		StatPrefix: stat, ClusterSpecifier: &tcpv3.TcpProxy_Cluster{Cluster: cluster}, AccessLog: log, IdleTimeout: durationpb.New(0),
	})
}

// transparent renders the listener that gets all that the service sends: a filter chain for each service by its addresses, and what
// isn't for one of them goes where it was going, if it may and that is somewhere.
func (r *renderer) transparent() error {
	if r.g.Transparent == nil {
		return nil
	}
	if r.g.Beyond > 0 {
		r.warn("proxy %s: it reaches %d services more than the %d that are told to a transparent proxy: name those that it calls as its upstreams, or allow it fewer by intentions",
			r.in.Proxy.ID, r.g.Beyond, maxReached)
	}
	none, err := r.nowhere()
	if err != nil {
		return err
	}
	l := &listenerv3.Listener{
		TrafficDirection: corev3.TrafficDirection_OUTBOUND, FilterChains: append([]*listenerv3.FilterChain{none}, r.reachedChains()...),
		PerConnectionBufferLimitBytes: wrapperspb.UInt32(r.bufferBytes()),
	}
	if err := r.listenerFilter(l, "envoy.filters.listener.original_dst", &originalv3.OriginalDst{}); err != nil {
		return err
	}
	if l.DefaultFilterChain, err = r.elsewhere(); err != nil {
		return err
	}
	if len(r.g.Outside) > 0 {
		if err := r.egress(l); err != nil {
			return err
		}
	}
	for _, host := range r.loopbacks() {
		port := r.g.Transparent.OutboundListenerPort
		one, ok := proto.Clone(l).(*listenerv3.Listener)
		if !ok {
			return errors.New("a listener's copy is none")
		}
		one.Name, one.Address = OutboundListener+":"+net.JoinHostPort(host, strconv.Itoa(port)), socket(host, port)
		if err := r.add(ListenerType, one.Name, one); err != nil {
			return err
		}
	}
	return nil
}

func (r *renderer) listenerFilter(l *listenerv3.Listener, name string, m proto.Message) error {
	a, err := pack(m)
	l.ListenerFilters = append(l.ListenerFilters, &listenerv3.ListenerFilter{Name: name, ConfigType: &listenerv3.ListenerFilter_TypedConfig{TypedConfig: a}})
	return err
}

// meshOnly says whether what isn't for a service is refused.
func (g *Gathered) meshOnly() bool {
	m := g.Mesh
	return m != nil && m.TransparentProxy != nil && m.TransparentProxy.MeshDestinationsOnly
}

// elsewhere is the filter chain of what isn't for a service; nil if it is refused.
func (r *renderer) elsewhere() (*listenerv3.FilterChain, error) {
	if r.g.meshOnly() {
		return nil, nil
	}
	pass, err := r.toCluster(OriginalDestination, OriginalDestination)
	if err != nil {
		return nil, err
	}
	err = r.passthrough(OriginalDestination, &proxyv1.ClusterInfo{Service: &proxyv1.ServiceRef{Name: OriginalDestination}}, nil)
	return &listenerv3.FilterChain{Name: OriginalDestination, Filters: []*listenerv3.Filter{pass}}, err
}

// nowhere is the filter chain of what leads nowhere. What is for this host itself is never captured: somebody has dialled the listener,
// and to go on would be to dial it again. And who calls a virtual address that isn't that of a service which is reached would wait. Envoy
// looks at rules only once there are bytes, and connects before: so what it would connect to has no endpoint.
func (r *renderer) nowhere() (*listenerv3.FilterChain, error) {
	const name = "nowhere"
	nobody, err := filter("envoy.filters.network.rbac", &netrbacv3.RBAC{StatPrefix: name, Rules: &rbacv3.RBAC{Action: rbacv3.RBAC_ALLOW}})
	if err != nil {
		return nil, err
	}
	end, err := r.toCluster(name, name)
	if err != nil {
		return nil, err
	}
	chain := matching(name, &listenerv3.FilterChain{Filters: []*listenerv3.Filter{nobody, end}}, []string{"127.0.0.0/8", "::1/128", catalog.VirtualRange.String()})
	return chain, r.add(ClusterType, name, &clusterv3.Cluster{
		Name: name, ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC}, ConnectTimeout: durationpb.New(connectTimeout),
		LoadAssignment: &endpointv3.ClusterLoadAssignment{ClusterName: name},
	})
}

// loopbacks are where captured connections arrive: those over IPv6 are captured only where the mesh is reached over it.
func (r *renderer) loopbacks() []string {
	for _, a := range []string{r.in.Proxy.Address, r.in.NodeAddress} {
		if ip, err := netip.ParseAddr(a); err == nil && ip.Unmap().Is6() {
			return []string{"127.0.0.1", "::1"}
		}
	}
	return []string{"127.0.0.1"}
}

// reachedChains are the filter chains of all upstreams. An address that two of them claim is the first one's.
func (r *renderer) reachedChains() (out []*listenerv3.FilterChain) {
	taken := map[string]catalog.Key{}
	free := func(u *Upstream, all []string) (mine []string) {
		for _, a := range all {
			ip, err := netip.ParseAddr(a)
			if err != nil {
				continue // a host name in a tagged address
			}
			ip = ip.Unmap()
			key := netip.PrefixFrom(ip, ip.BitLen()).String()
			switch owner, is := taken[key]; {
			case !is:
				taken[key] = u.Key.Fold()
				mine = append(mine, key)
			case owner != u.Key.Fold():
				r.warn("upstream %s: address %s is that of service %s already: it is reached as that", u.Key, a, owner)
			}
		}
		return mine
	}
	for _, direct := range []bool{false, true} { // a service's own address counts before that of an instance
		for _, u := range r.g.Upstreams {
			c, ok := r.chains[u]
			if !ok || u.Err != nil {
				continue
			}
			if direct && c.direct != nil {
				if mine := free(u, r.direct(u)); len(mine) > 0 {
					out = append(out, matching("passthrough~"+u.Key.String(), c.direct, mine))
				}
			}
			if !direct && c.virtual != nil {
				if mine := free(u, r.virtual(u)); len(mine) > 0 {
					out = append(out, matching(u.Key.String(), c.virtual, mine))
				}
			}
		}
	}
	return out
}

// virtual are the addresses that stand for a service: those that the catalog gave it, then those that its instances are tagged with.
func (r *renderer) virtual(u *Upstream) []string {
	out := slices.Clone(r.g.Virtual[u.Key.Fold()])
	if t := ownTarget(u); t != nil {
		var tagged []string
		for _, i := range u.Instances[t.ID] {
			if a := i.Service.TaggedAddresses["virtual"].Address; a != "" {
				tagged = append(tagged, a)
			}
		}
		slices.Sort(tagged)
		out = append(out, slices.Compact(tagged)...)
	}
	return out
}

// matching is a filter chain for destinations.
func matching(name string, c *listenerv3.FilterChain, prefixes []string) *listenerv3.FilterChain {
	m := &listenerv3.FilterChainMatch{}
	for _, p := range prefixes {
		prefix := netip.MustParsePrefix(p)
		m.PrefixRanges = append(m.PrefixRanges, &corev3.CidrRange{AddressPrefix: prefix.Addr().String(), PrefixLen: wrapperspb.UInt32(uint32(prefix.Bits()))})
	}
	return &listenerv3.FilterChain{Name: name, FilterChainMatch: m, Filters: c.Filters}
}
