// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	inspectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/tls_inspector/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/weftmesh/weft/catalog"
	proxyv1 "github.com/weftmesh/weft/proto/weft/proxy/v1"
)

// egress has a transparent proxy's listener tell apart what is outside the mesh: by address and port, then by the name that TLS or HTTP says.
// Envoy's matches of filter chains look at ports first and don't go back, so that a matcher chooses the chain: the addresses of services
// first, as they are without anything outside.
func (r *renderer) egress(l *listenerv3.Listener) error {
	g := &ground{all: r.g.Outside, otherwise: refusedChain, has: map[netip.Prefix]bool{}}
	if l.DefaultFilterChain != nil {
		g.otherwise = l.DefaultFilterChain.Name
		l.FilterChains, l.DefaultFilterChain = append(l.FilterChains, l.DefaultFilterChain), nil
	} else if !r.in.Abilities.Weft { // whose log says why nobody has a connection
		none, err := r.toCluster("nowhere", refusedChain)
		if err != nil {
			return err
		}
		l.FilterChains = append(l.FilterChains, &listenerv3.FilterChain{Name: refusedChain, Filters: []*listenerv3.Filter{none}})
	}
	for _, c := range l.FilterChains {
		for _, p := range c.GetFilterChainMatch().GetPrefixRanges() {
			g.put(netip.PrefixFrom(netip.MustParseAddr(p.GetAddressPrefix()), int(p.GetPrefixLen().GetValue())), leadsTo(c.Name))
		}
		c.FilterChainMatch = nil
	}
	g.ports()
	if err := r.outsideChains(l, g); err != nil {
		return err
	}
	g.networks(r.warn)
	if err := r.inspect(l, g); err != nil {
		return err
	}
	var err error
	l.FilterChainMatcher, err = g.matcher()
	return err
}

// refusedChain is that of what nobody is for: in an Envoy it is logged, in weft's own proxy there is none, which has a reason of its own.
const refusedChain = "refused"

// inspect has the name read that TLS asks for, on the ports where names are looked at. Who says nothing there is served without.
func (r *renderer) inspect(l *listenerv3.Listener, g *ground) error {
	if len(g.named) == 0 {
		return nil
	}
	if err := r.listenerFilter(l, "envoy.filters.listener.tls_inspector", &inspectorv3.TlsInspector{}); err != nil {
		return err
	}
	var at []*listenerv3.ListenerFilterChainMatchPredicate
	for _, port := range slices.Sorted(maps.Keys(g.named)) {
		at = append(at, &listenerv3.ListenerFilterChainMatchPredicate{Rule: &listenerv3.ListenerFilterChainMatchPredicate_DestinationPortRange{
			DestinationPortRange: &typev3.Int32Range{Start: int32(port), End: int32(port) + 1},
		}})
	}
	if len(at) == 1 {
		at = append(at, at[0]) // a set has two at least
	}
	l.ListenerFilters[len(l.ListenerFilters)-1].FilterDisabled = &listenerv3.ListenerFilterChainMatchPredicate{
		Rule: &listenerv3.ListenerFilterChainMatchPredicate_NotMatch{NotMatch: &listenerv3.ListenerFilterChainMatchPredicate{
			Rule: &listenerv3.ListenerFilterChainMatchPredicate_OrMatch{OrMatch: &listenerv3.ListenerFilterChainMatchPredicate_MatchSet{Rules: at}},
		}},
	}
	l.ListenerFiltersTimeout, l.ContinueOnListenerFiltersTimeout = durationpb.New(cmp.Or(r.in.Limits.Handshake, defaultBound)), true
	return nil
}

// outsideChains are the filter chains of connections to what is outside, and of requests told apart by host.
func (r *renderer) outsideChains(l *listenerv3.Listener, g *ground) error {
	for _, o := range g.all {
		chain, err := r.outsideChain(o)
		if err != nil {
			return err
		}
		l.FilterChains = append(l.FilterChains, chain)
	}
	for _, port := range slices.Sorted(maps.Keys(g.named)) {
		if !g.named[port].http {
			continue
		}
		chain, err := r.hostsChain(g, port)
		if err != nil {
			return err
		}
		l.FilterChains = append(l.FilterChains, chain)
	}
	return nil
}

// outsideChain carries connections on to where they were going, in the clear, if the service may. It stays where that changes, so that
// weft's own proxy cuts those that are open; an Envoy drains what has changed.
func (r *renderer) outsideChain(o *Outside) (*listenerv3.FilterChain, error) {
	name := outsideName(o.Key)
	allowed, by := r.allows(o)
	decide, err := r.verdictOfConnections(allowed, by)
	if err != nil {
		return nil, err
	}
	cluster := "nowhere"
	if allowed {
		cluster = name
		if err := r.passthrough(name, &proxyv1.ClusterInfo{Service: ref(o.Key, "")}, nil); err != nil {
			return nil, err
		}
	}
	filters, err := r.askingWho()
	if err != nil {
		return nil, err
	}
	on, err := r.toCluster(cluster, name)
	return &listenerv3.FilterChain{Name: name, Filters: append(filters, decide, on)}, err
}

// askingWho keeps what leads outside to the processes that the service is, as its upstreams; an Envoy, which can't tell, lets nobody.
func (r *renderer) askingWho() ([]*listenerv3.Filter, error) {
	if !r.in.Abilities.Weft {
		return nil, nil
	}
	return r.localPeer()
}

func hostsName(port int) string { return "outside-hosts:" + strconv.Itoa(port) }

// hostsChain tells the requests of a port apart by their host.
func (r *renderer) hostsChain(g *ground, port int) (*listenerv3.FilterChain, error) {
	name := hostsName(port)
	log, err := r.accessLogs()
	if err != nil {
		return nil, err
	}
	m, err := r.manager(name, name, catalog.ProtocolHTTP, false, true, log, nil)
	if err != nil {
		return nil, err
	}
	conf := &routev3.RouteConfiguration{Name: name, ValidateClusters: wrapperspb.Bool(false)}
	taken := map[string]bool{}
	for _, o := range g.at(port) {
		if !o.HTTP {
			continue
		}
		var domains []string
		for _, n := range o.At.Names() {
			if !taken[n] { // who has it is told of the warning for names
				taken[n] = true
				domains = append(domains, n, n+":"+strconv.Itoa(port))
			}
		}
		if len(domains) == 0 {
			continue
		}
		allowed, by := r.allows(o)
		host, err := r.hostOutside(o.Key, domains, allowed, by)
		if err != nil {
			return nil, err
		}
		conf.VirtualHosts = append(conf.VirtualHosts, host)
	}
	rest, err := r.hostOutside(catalog.Key{Name: OriginalDestination}, []string{"*"}, !r.g.meshOnly(), "mesh/mesh MeshDestinationsOnly")
	if err != nil {
		return nil, err
	}
	conf.VirtualHosts = append(conf.VirtualHosts, rest)
	filters, err := r.askingWho()
	if err != nil {
		return nil, err
	}
	return &listenerv3.FilterChain{Name: name, Filters: append(filters, m)}, r.add(RouteType, name, conf)
}

func (r *renderer) hostOutside(key catalog.Key, domains []string, allowed bool, by string) (*routev3.VirtualHost, error) {
	cluster := "outside-http~" + key.String()
	if err := r.originalHTTP(cluster, key); err != nil {
		return nil, err
	}
	rules, err := r.verdictOfRequests(allowed, by)
	if err != nil {
		return nil, err
	}
	meta, err := r.metadata(routeInfoKey, &proxyv1.RouteInfo{Source: "service-defaults/" + key.Name, Service: ref(key, "")})
	action := toCluster(cluster)
	action.Timeout = durationpb.New(0) // nobody has said how long it may take
	return &routev3.VirtualHost{Name: key.String(), Domains: domains, Routes: []*routev3.Route{{
		Match: everything(), Metadata: meta, TypedPerFilterConfig: rules, Action: &routev3.Route_Route{Route: action},
	}}}, err
}

// originalHTTP is a cluster of wherever a connection was going, for requests.
func (r *renderer) originalHTTP(name string, key catalog.Key) error {
	meta, err := r.metadata(clusterInfoKey, &proxyv1.ClusterInfo{Service: ref(key, "")})
	if err != nil {
		return err
	}
	options, err := pack(&httpv3.HttpProtocolOptions{UpstreamProtocolOptions: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_{
		ExplicitHttpConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig{
			ProtocolConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_HttpProtocolOptions{HttpProtocolOptions: &corev3.Http1ProtocolOptions{}},
		},
	}})
	if err != nil {
		return err
	}
	c := originalCluster(name)
	c.Metadata, c.TypedExtensionProtocolOptions = meta, map[string]*anypb.Any{httpOptionsKey: options}
	return r.add(ClusterType, name, c)
}

// ground is where a transparent proxy's connections can go.
type ground struct {
	all       []*Outside
	otherwise string // the chain of what nobody is for
	prefixes  []prefixed
	has       map[netip.Prefix]bool
	some      []int // ports that something outside is about
	named     map[int]*portNames
}

// prefixed is what becomes of connections to a network.
type prefixed struct {
	to   netip.Prefix
	then *choice
}

// choice is a chain, or what is looked at next.
type choice struct {
	chain  string
	ports  map[int]*choice // by port, else otherwise
	names  *portNames
	others *choice
}

// portNames are the names that are looked at on a port: what TLS asks for, and whether requests are told apart by host.
type portNames struct {
	tls  map[string]string // to chains
	http bool
}

func leadsTo(chain string) *choice { return &choice{chain: chain} }

func (g *ground) put(p netip.Prefix, then *choice) {
	if !g.has[p] {
		g.has[p] = true
		g.prefixes = append(g.prefixes, prefixed{p, then})
	}
}

// at lists what is outside at a port.
func (g *ground) at(port int) (out []*Outside) {
	for _, o := range g.all {
		if slices.Contains(o.At.AllPorts(), port) {
			out = append(out, o)
		}
	}
	return out
}

// ports looks at the ports that are named, and at the names there.
func (g *ground) ports() {
	g.named = map[int]*portNames{}
	for _, o := range g.all {
		for _, port := range o.At.AllPorts() {
			if !slices.Contains(g.some, port) {
				g.some = append(g.some, port)
			}
			for _, n := range o.At.Names() {
				at := g.named[port]
				if at == nil {
					at = &portNames{tls: map[string]string{}}
					g.named[port] = at
				}
				if o.HTTP {
					at.http = true
				} else if at.tls[n] == "" {
					at.tls[n] = outsideName(o.Key)
				}
			}
		}
	}
	slices.Sort(g.some)
}

// networks says what becomes of connections to each network that is spoken of, also of those that are left out of others. The addresses of
// services and of this host stay what they are.
func (g *ground) networks(warn func(string, ...any)) {
	own := slices.Clone(g.prefixes)
	said := map[netip.Prefix]bool{}
	for _, o := range g.all {
		for _, p := range slices.Concat(o.At.Networks(), o.At.Excepted()) {
			at := slices.IndexFunc(own, func(other prefixed) bool { return other.to.Bits() <= p.Bits() && other.to.Contains(p.Addr()) })
			if at >= 0 && !said[p] {
				warn("service-defaults/%s: Destination.Addresses: %s is this host's, or a service's of the mesh, and stays that", o.Key.Name, p)
			}
			said[p] = true
			if at < 0 {
				g.put(p, g.of(p))
			}
		}
		for _, n := range o.At.Names() {
			for _, port := range o.At.AllPorts() {
				if owner := g.named[port].tls[n]; !o.HTTP && owner != outsideName(o.Key) {
					warn("service-defaults/%s: Destination.Addresses: %s at port %d is in %s already: it is reached as that", o.Key.Name, n, port, strings.TrimPrefix(owner, "outside~"))
				}
			}
		}
	}
}

// of is what becomes of connections to a network.
func (g *ground) of(p netip.Prefix) *choice {
	whole := g.decide(p, 0)
	out := &choice{ports: map[int]*choice{}, others: whole}
	for _, port := range g.some {
		if at := g.decide(p, port); at.chain != whole.chain || at.names != nil {
			out.ports[port] = at
		}
	}
	if len(out.ports) == 0 {
		return whole
	}
	return out
}

// decide finds whose a network is at a port, 0 for those that nobody names: the closest network's, of equal ones that which names the
// port. Where it is nobody's, names count.
func (g *ground) decide(p netip.Prefix, port int) *choice {
	var best *Outside
	bits, exact := -1, false
	for _, o := range g.all {
		ports := o.At.AllPorts()
		if len(ports) > 0 && !slices.Contains(ports, port) || inside(o.At.Excepted(), p) >= 0 {
			continue
		}
		if n := inside(o.At.Networks(), p); n > bits || n == bits && n >= 0 && !exact && len(ports) > 0 {
			best, bits, exact = o, n, len(ports) > 0
		}
	}
	if best != nil {
		return leadsTo(outsideName(best.Key))
	}
	if n := g.named[port]; n != nil {
		return &choice{chain: hostsName(port), names: n}
	}
	return leadsTo(g.otherwise)
}

// inside is the length of the closest of the networks that a network is in, -1 if it is in none.
func inside(all []netip.Prefix, p netip.Prefix) int {
	best := -1
	for _, n := range all {
		if n.Bits() <= p.Bits() && n.Contains(p.Addr()) {
			best = max(best, n.Bits())
		}
	}
	return best
}

// everywhere is what becomes of connections to all that isn't spoken of.
func (g *ground) everywhere() *choice { return g.of(netip.Prefix{}) }

// String says where it is, to people.
func (o *Outside) String() string {
	where := strings.Join(o.At.Addresses, ", ")
	if len(o.At.Except) > 0 {
		where += " but for " + strings.Join(o.At.Except, ", ")
	}
	if ports := o.At.AllPorts(); len(ports) > 0 {
		var all []string
		for _, p := range ports {
			all = append(all, strconv.Itoa(p))
		}
		where += " at port " + strings.Join(all, ", ")
	}
	return where
}
