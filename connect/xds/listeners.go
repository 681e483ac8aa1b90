// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"sort"
	"strconv"
	"time"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	filelogv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/file/v3"
	corsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/cors/v3"
	faultv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	grpcwebv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/grpc_web/v3"
	localratev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/local_ratelimit/v3"
	httprbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	sessionv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/stateful_session/v3"
	limitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/connection_limit/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	netrbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/rbac/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/connect/chain"
	proxyv1 "github.com/weftmesh/weft/proto/weft/proxy/v1"
)

// PublicRoutes is the name of the inbound route configuration.
const PublicRoutes = "public_listener"

// Where authorisation stands among the HTTP filters; routes override it under this name.
const (
	rbacFilter    = "envoy.filters.http.rbac"
	grpcWebFilter = "envoy.filters.http.grpc_web"
)

const (
	defaultBound  = 10 * time.Second
	defaultBuffer = 1 << 20
)

// inbound renders what others call: the public listener, its routes, and the way to the application.
func (r *renderer) inbound() error {
	conf := r.in.Proxy.Proxy.Config
	r.warnPublic("proxy "+r.in.Proxy.ID, conf)
	if r.g.Global != nil {
		r.warnPublic("proxy-defaults", r.g.Global.Config)
	}
	r.warnTLS()
	if err := r.localCluster(); err != nil {
		return err
	}
	host := r.textSetting("bind_address", "")
	if host == "" {
		host = r.in.Proxy.Address
	}
	if net.ParseIP(host) == nil {
		host = "0.0.0.0"
	}
	port := r.in.Proxy.Port
	if p := mustNumber(conf, "bind_port"); p > 0 {
		port = int(p)
	}
	tls, err := r.downstreamTLS(alpn(r.g.Protocol))
	if err != nil {
		return err
	}
	var filters []*listenerv3.Filter
	if n := r.setting("max_inbound_connections", r.defaults().MaxInboundConnections); n > 0 {
		f, err := filter("envoy.filters.network.connection_limit", &limitv3.ConnectionLimit{
			StatPrefix: "inbound", MaxConnections: wrapperspb.UInt64(uint64(n)),
		})
		if err != nil {
			return err
		}
		filters = append(filters, f)
	}
	more, err := r.inboundFilters()
	if err != nil {
		return err
	}
	name := fmt.Sprintf("public_listener:%s:%d", host, port)
	chain := &listenerv3.FilterChain{
		TransportSocket: tls, Filters: append(filters, more...), Metadata: r.sinceRevoked(),
		TransportSocketConnectTimeout: durationpb.New(cmp.Or(r.in.Limits.Handshake, defaultBound)),
	}
	if err := r.listener(name, socket(host, port), corev3.TrafficDirection_INBOUND, chain, r.mode()); err != nil {
		return err
	}
	return r.exposed(host, port)
}

func (r *renderer) inboundFilters() ([]*listenerv3.Filter, error) {
	log, err := r.accessLogs()
	if err != nil {
		return nil, err
	}
	if !catalog.HTTPLike(r.g.Protocol) {
		rules := &netrbacv3.RBAC{StatPrefix: "connect_authz", Rules: rbac(r.callers(), r.g.Rules, false, r.in.DefaultAllow)}
		switch {
		case r.unasked():
			rules.Rules = rbac(r.callers(), nil, false, false)
		case r.g.Audit:
			rules.Rules, rules.ShadowRules, rules.ShadowRulesStatPrefix = nil, rules.Rules, auditPrefix
		case r.in.Abilities.Weft:
			rules.ShadowRules = deciders(r.callers(), r.g.Rules)
		}
		auth, err := filter("envoy.filters.network.rbac", rules)
		if err != nil {
			return nil, err
		}
		tunnel := &tcpv3.TcpProxy{
			StatPrefix: "public_listener", ClusterSpecifier: &tcpv3.TcpProxy_Cluster{Cluster: LocalCluster}, AccessLog: log,
			IdleTimeout: durationpb.New(millis(0, r.setting("local_idle_timeout_ms", 0))),
		}
		r.tunnelsKept(tunnel)
		tcp, err := filter("envoy.filters.network.tcp_proxy", tunnel)
		if err != nil || !r.g.Undeclared || !r.in.Abilities.Weft {
			return []*listenerv3.Filter{auth, tcp}, err
		}
		detect, err := r.detect("public_listener", true, log, toCluster(LocalCluster))
		return []*listenerv3.Filter{auth, detect, tcp}, err
	}
	if err := r.publicRoutes(); err != nil {
		return nil, err
	}
	m, err := r.manager("public_listener", PublicRoutes, r.g.Protocol, true, true, log, nil)
	if err != nil {
		return nil, err
	}
	return []*listenerv3.Filter{m}, nil
}

// manager is the HTTP connection manager of either side. With decides, routes have rules of who may send a request.
func (r *renderer) manager(stat, routes, protocol string, inbound, decides bool, log []*accesslogv3.AccessLog, fallback *catalog.HTTPResponse) (*listenerv3.Filter, error) {
	m := &hcmv3.HttpConnectionManager{
		StatPrefix: stat, CodecType: hcmv3.HttpConnectionManager_AUTO, AccessLog: log,
		RouteSpecifier: &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{RouteConfigName: routes, ConfigSource: ads()}},
		// A path has one form before anybody decides by it.
		NormalizePath: wrapperspb.Bool(true), MergeSlashes: true,
		PathWithEscapedSlashesAction: hcmv3.HttpConnectionManager_UNESCAPE_AND_FORWARD,
		ServerHeaderTransformation:   hcmv3.HttpConnectionManager_PASS_THROUGH,
		RequestHeadersTimeout:        durationpb.New(cmp.Or(r.in.Limits.Headers, defaultBound)),
		StreamIdleTimeout:            durationpb.New(5 * time.Minute),
		UpgradeConfigs:               []*hcmv3.HttpConnectionManager_UpgradeConfig{{UpgradeType: "websocket"}},
		GenerateRequestId:            wrapperspb.Bool(true),
		PreserveExternalRequestId:    true,
		AlwaysSetRequestIdInResponse: false,
		UseRemoteAddress:             wrapperspb.Bool(false),
		SkipXffAppend:                true,
		HttpProtocolOptions:          &corev3.Http1ProtocolOptions{AcceptHttp_10: true, EnableTrailers: true},
		Http2ProtocolOptions:         &corev3.Http2ProtocolOptions{AllowConnect: true, MaxConcurrentStreams: wrapperspb.UInt32(1000)},
		CommonHttpProtocolOptions:    &corev3.HttpProtocolOptions{IdleTimeout: durationpb.New(time.Hour)},
		StripPortMode:                nil,
		ForwardClientCertDetails:     hcmv3.HttpConnectionManager_SANITIZE,
	}
	m.LocalReplyConfig = r.replies(fallback)
	tracing, err := r.tracing()
	if err != nil {
		return nil, err
	}
	m.Tracing = tracing
	if protocol == catalog.ProtocolGRPC {
		web, err := pack(&grpcwebv3.GrpcWeb{})
		if err != nil {
			return nil, err
		}
		m.HttpFilters = append(m.HttpFilters, &hcmv3.HttpFilter{Name: grpcWebFilter, ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: web}})
	}
	if inbound {
		r.callersKept(m)
		m.ForwardClientCertDetails = hcmv3.HttpConnectionManager_SANITIZE_SET
		m.SetCurrentClientCertDetails = &hcmv3.HttpConnectionManager_SetCurrentClientCertDetails{Uri: true}
		tokens, err := r.jwt()
		if err != nil {
			return nil, err
		}
		if tokens != nil {
			a, err := pack(tokens)
			if err != nil {
				return nil, err
			}
			m.HttpFilters = append(m.HttpFilters, &hcmv3.HttpFilter{Name: jwtFilter, ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: a}})
		}
	}
	if decides {
		// Without rules of its own it lets everything by: the routes' rules stand in its place.
		auth, err := pack(&httprbacv3.RBAC{})
		if err != nil {
			return nil, err
		}
		m.HttpFilters = append(m.HttpFilters, &hcmv3.HttpFilter{Name: rbacFilter, ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: auth}})
	}
	if inbound {
		limit, err := pack(&localratev3.LocalRateLimit{StatPrefix: "inbound"})
		if err != nil {
			return nil, err
		}
		m.HttpFilters = append(m.HttpFilters, &hcmv3.HttpFilter{Name: limitFilter, ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: limit}})
		deciders, err := r.authorized()
		if err != nil {
			return nil, err
		}
		m.HttpFilters = append(m.HttpFilters, deciders...)
		if a := r.defaults().AdaptiveConcurrency; a != nil {
			adaptive, err := pack(adaptive(a))
			if err != nil {
				return nil, err
			}
			m.HttpFilters = append(m.HttpFilters, &hcmv3.HttpFilter{Name: adaptiveFilter, ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: adaptive}})
		}
	}
	if !inbound {
		for _, f := range []struct {
			name string
			m    validated
		}{{corsFilter, &corsv3.Cors{}}, {faultFilter, &faultv3.HTTPFault{}}, {sessionFilter, &sessionv3.StatefulSession{}}} {
			a, err := pack(f.m)
			if err != nil {
				return nil, err
			}
			m.HttpFilters = append(m.HttpFilters, &hcmv3.HttpFilter{Name: f.name, ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: a}})
		}
	}
	router, err := pack(&routerv3.Router{})
	if err != nil {
		return nil, err
	}
	m.HttpFilters = append(m.HttpFilters, &hcmv3.HttpFilter{Name: "envoy.filters.http.router", ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: router}})
	return filter("envoy.filters.network.http_connection_manager", m)
}

func filter(name string, m validated) (*listenerv3.Filter, error) {
	a, err := pack(m)
	if err != nil {
		return nil, err
	}
	return &listenerv3.Filter{Name: name, ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: a}}, m.ValidateAll()
}

func (r *renderer) listener(name string, addr *corev3.Address, way corev3.TrafficDirection, chain *listenerv3.FilterChain, mode string) error {
	var balance *listenerv3.Listener_ConnectionBalanceConfig
	if way == corev3.TrafficDirection_INBOUND && r.textSetting("balance_inbound_connections", r.defaults().BalanceInboundConnections) == "exact_balance" {
		balance = &listenerv3.Listener_ConnectionBalanceConfig{
			BalanceType: &listenerv3.Listener_ConnectionBalanceConfig_ExactBalance_{ExactBalance: &listenerv3.Listener_ConnectionBalanceConfig_ExactBalance{}},
		}
	}
	l := &listenerv3.Listener{
		ConnectionBalanceConfig: balance,
		Name:                    name, Address: addr, TrafficDirection: way, FilterChains: []*listenerv3.FilterChain{chain},
		PerConnectionBufferLimitBytes: wrapperspb.UInt32(r.bufferBytes()),
	}
	if err := plainToo(l, mode); err != nil {
		return err
	}
	return r.add(ListenerType, name, l)
}

func (r *renderer) bufferBytes() uint32 { return cmp.Or(r.in.Limits.BufferBytes, defaultBuffer) }

// outbound renders what the service calls: for each upstream a listener, its routes and clusters. An upstream whose chain is
// broken is left out with a warning; the others stand.
func (r *renderer) outbound() error {
	local := r.localProcesses()
	if local != nil && !r.in.Abilities.Weft {
		r.warn("proxy %s: Envoy can't tell which process calls, so no upstream is served: LocalIdentity is for weft's own proxy", r.in.Proxy.ID)
		return nil
	}
	shared, byName := map[string]bool{}, map[string][]named{}
	for _, u := range r.g.Upstreams {
		if names, err := catalog.UpstreamNames(u.Definition.Config); err == nil && names != nil {
			shared[bind(u.Definition)] = true
		}
	}
	for i, u := range r.g.Upstreams {
		if u.Err != nil {
			r.warn("upstream %s: %v", u.Key, u.Err)
			continue
		}
		if u.Key.Peer != "" {
			r.warn("upstream %s: peers can't be called yet", u.Key)
			continue
		}
		if r.placeless(u) {
			r.warn("upstream %s: it has neither a virtual address nor a place: it needs local_bind_port or local_bind_socket_path", u.Key)
			continue
		}
		names, err := catalog.UpstreamNames(u.Definition.Config)
		if err != nil {
			r.warn("upstream %s: %v", u.Key, err)
			continue
		}
		if at := bind(u.Definition); names != nil || shared[at] {
			if local != nil {
				r.warn("upstream %s: a port that upstreams share by %s can't be kept to some processes (LocalIdentity): give it one of its own", u.Key, catalog.UpstreamNamesKey)
				continue
			}
			if catalog.HTTPLike(u.Chain.Protocol) {
				r.warn("upstream %s: %s is for services of protocol tcp, this one's is %s", u.Key, catalog.UpstreamNamesKey, u.Chain.Protocol)
				continue
			}
			byName[at] = append(byName[at], named{u, names})
			continue
		}
		if err := r.upstreamOnce(i, u); err != nil {
			return err
		}
	}
	for _, at := range slices.Sorted(maps.Keys(byName)) {
		if err := r.upstreamsByName(byName[at]); err != nil {
			return err
		}
	}
	return nil
}

// localProcesses are those that the service is, nil where its registration names none.
func (r *renderer) localProcesses() *catalog.LocalProcesses {
	id := r.in.Proxy.Proxy.LocalIdentity
	if id == nil || id.None() {
		return nil
	}
	return &id.LocalProcesses
}

// localPeer keeps an upstream's listener to the processes that the service is, where its registration names them.
func (r *renderer) localPeer() ([]*listenerv3.Filter, error) {
	id := r.localProcesses()
	if id == nil {
		return nil, nil
	}
	a, err := pack(&proxyv1.LocalPeer{Uids: id.UIDs, Units: id.Units, Cgroups: id.Cgroups})
	return []*listenerv3.Filter{{Name: localPeerFilter, ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: a}}}, err
}

// localPeerFilter is the name of weft's own filter for them.
const localPeerFilter = "weft.proxy.v1.LocalPeer"

func (r *renderer) upstream(u *Upstream) error {
	clusters, err := r.upstreamClusters(u)
	if err != nil {
		return err
	}
	if err := r.upstreamChains(u, clusters); err != nil || !bound(u.Definition) {
		return err
	}
	addr, where, err := place(u)
	if err != nil {
		return err
	}
	name := titled(u.Key) + ":" + where
	if l := r.escapedListener(u); l != nil {
		return r.add(ListenerType, cmp.Or(l.GetName(), name), l)
	}
	filters, err := r.upstreamFilters(u, name, clusters)
	if err != nil {
		return err
	}
	return r.listener(name, addr, corev3.TrafficDirection_OUTBOUND, &listenerv3.FilterChain{Filters: filters}, "")
}

// titled is an upstream's name in those of resources: a namespace that isn't the default stands before it.
func titled(k catalog.Key) string {
	if k.Namespace == "" || k.Namespace == catalog.DefaultNamespace {
		return k.Name
	}
	return k.Namespace + "/" + k.Name
}

// statistics is the prefix of an upstream's statistics: what tags are taken out of begins with the service's name.
func statistics(k catalog.Key) string {
	if k.Namespace == "" || k.Namespace == catalog.DefaultNamespace {
		return "upstream." + k.Name
	}
	return "upstream." + k.Name + "." + k.Namespace
}

// upstreamFilters handle a connection to an upstream. What is HTTP goes by routes of this name.
func (r *renderer) upstreamFilters(u *Upstream, name string, clusters map[string]string) ([]*listenerv3.Filter, error) {
	log, err := r.accessLogs()
	if err != nil {
		return nil, err
	}
	filters, err := r.localPeer()
	if err != nil {
		return nil, err
	}
	var f *listenerv3.Filter
	if catalog.HTTPLike(u.Chain.Protocol) {
		if err := r.upstreamRoutes(u, name, clusters); err != nil {
			return nil, err
		}
		f, err = r.manager(statistics(u.Key), name, u.Chain.Protocol, false, len(u.Outside) > 0, log, u.Chain.Fallback)
	} else {
		f, err = tcpUpstream(u, clusters, log)
		if by, refused := r.refusedOutside(u, u.Chain.StartNode); refused && err == nil {
			no, err := r.verdictOfConnections(false, by)
			return append(filters, no, f), err
		}
	}
	if err != nil || !u.Undeclared || !r.in.Abilities.Weft {
		return append(filters, f), err
	}
	action, err := sameAs(f)
	if err != nil {
		return nil, err
	}
	detect, err := r.detect(statistics(u.Key), false, log, action)
	return append(filters, detect, f), err
}

// upstreamClusters renders where an upstream's chain can end: the clusters by resolver node.
func (r *renderer) upstreamClusters(u *Upstream) (map[string]string, error) {
	r.warnGateways(u)
	clusters := map[string]string{}
	used := r.reached(u.Chain)
	for _, id := range sortedNodes(u.Chain) {
		n := u.Chain.Nodes[id]
		if !used[id] {
			continue
		}
		if n.Type != chain.TypeResolver {
			continue
		}
		name, err := r.upstreamCluster(u, n)
		if err != nil {
			return nil, err
		}
		clusters[id] = name
	}
	return clusters, nil
}

// place is where an upstream listens.
func place(u *Upstream) (*corev3.Address, string, error) {
	d, where := u.Definition, bind(u.Definition)
	if d.LocalBindSocketPath == "" {
		return socket(bindHost(d), d.LocalBindPort), where, nil
	}
	mode := uint64(0o600)
	if d.LocalBindSocketMode != "" {
		var err error
		if mode, err = strconv.ParseUint(d.LocalBindSocketMode, 8, 32); err != nil {
			return nil, "", fmt.Errorf("upstream %s: local_bind_socket_mode %q: want octal digits, as 0600", u.Key, d.LocalBindSocketMode)
		}
	}
	return pipe(d.LocalBindSocketPath, uint32(mode)), where, nil
}

func bindHost(d catalog.Upstream) string { return cmp.Or(d.LocalBindAddress, "127.0.0.1") }

// bound says whether an upstream has a place of its own; one of a transparent proxy needs none.
func bound(d catalog.Upstream) bool { return d.LocalBindPort != 0 || d.LocalBindSocketPath != "" }

func bind(d catalog.Upstream) string {
	return cmp.Or(d.LocalBindSocketPath, net.JoinHostPort(bindHost(d), strconv.Itoa(d.LocalBindPort)))
}

func sortedNodes(c *chain.Chain) []string {
	ids := make([]string, 0, len(c.Nodes))
	for id := range c.Nodes {
		ids = append(ids, id)
	}
	sort.Strings(ids)
	return ids
}

// errSplit can't happen with a compiled chain.
var errSplit = errors.New("the chain of a TCP service begins with neither a resolver nor a splitter")

func tcpUpstream(u *Upstream, clusters map[string]string, log []*accesslogv3.AccessLog) (*listenerv3.Filter, error) {
	t := &tcpv3.TcpProxy{StatPrefix: statistics(u.Key), AccessLog: log, IdleTimeout: durationpb.New(0)}
	switch n := u.Chain.Nodes[u.Chain.StartNode]; n.Type {
	case chain.TypeResolver:
		t.ClusterSpecifier = &tcpv3.TcpProxy_Cluster{Cluster: clusters[u.Chain.StartNode]}
	case chain.TypeSplitter:
		w := &tcpv3.TcpProxy_WeightedCluster{}
		for _, s := range n.Splits {
			if weight := uint32(s.Weight*100 + 0.5); weight > 0 {
				w.Clusters = append(w.Clusters, &tcpv3.TcpProxy_WeightedCluster_ClusterWeight{Name: clusters[s.NextNode], Weight: weight})
			}
		}
		t.ClusterSpecifier = &tcpv3.TcpProxy_WeightedClusters{WeightedClusters: w}
	default:
		return nil, errSplit
	}
	return filter("envoy.filters.network.tcp_proxy", t)
}

// accessLogs is where proxy-defaults wants a line for each request.
func (r *renderer) accessLogs() ([]*accesslogv3.AccessLog, error) {
	var a *catalog.AccessLogs
	if r.g.Global != nil {
		a = r.g.Global.AccessLogs
	}
	if p := r.in.Proxy.Proxy; p.AccessLogs != nil {
		a = p.AccessLogs
	}
	if a == nil || !a.Enabled {
		return nil, nil
	}
	path := map[string]string{"": "/dev/stdout", "stdout": "/dev/stdout", "stderr": "/dev/stderr", "file": a.Path}[a.Type]
	if path == "" {
		return nil, fmt.Errorf("proxy-defaults: AccessLogs.Type %q: want stdout, stderr or file (with Path)", a.Type)
	}
	f := &filelogv3.FileAccessLog{Path: path}
	if a.TextFormat != "" {
		f.AccessLogFormat = &filelogv3.FileAccessLog_LogFormat{LogFormat: &corev3.SubstitutionFormatString{
			Format: &corev3.SubstitutionFormatString_TextFormatSource{TextFormatSource: &corev3.DataSource{
				Specifier: &corev3.DataSource_InlineString{InlineString: a.TextFormat + "\n"},
			}},
		}}
	} else {
		fields, err := jsonFormat(a.JSONFormat)
		if err != nil {
			return nil, err
		}
		f.AccessLogFormat = &filelogv3.FileAccessLog_LogFormat{LogFormat: &corev3.SubstitutionFormatString{
			Format: &corev3.SubstitutionFormatString_JsonFormat{JsonFormat: fields},
		}}
	}
	packed, err := pack(f)
	if err != nil {
		return nil, err
	}
	return []*accesslogv3.AccessLog{{Name: "envoy.access_loggers.file", ConfigType: &accesslogv3.AccessLog_TypedConfig{TypedConfig: packed}}}, nil
}

func jsonFormat(given string) (*structpb.Struct, error) {
	if given == "" {
		return structpb.NewStruct(map[string]any{
			"start_time": "%START_TIME%", "method": "%REQ(:METHOD)%", "path": "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%", "authority": "%REQ(:AUTHORITY)%",
			"protocol": "%PROTOCOL%", "response_code": "%RESPONSE_CODE%", "response_flags": "%RESPONSE_FLAGS%",
			"response_code_details": "%RESPONSE_CODE_DETAILS%", "bytes_received": "%BYTES_RECEIVED%", "bytes_sent": "%BYTES_SENT%",
			"duration_ms": "%DURATION%", "upstream_host": "%UPSTREAM_HOST%", "upstream_cluster": "%UPSTREAM_CLUSTER%",
			"request_id": "%REQ(X-REQUEST-ID)%", "traceparent": "%REQ(TRACEPARENT)%", "user_agent": "%REQ(USER-AGENT)%",
			"downstream_peer": "%DOWNSTREAM_PEER_URI_SAN%", "downstream_remote_address": "%DOWNSTREAM_REMOTE_ADDRESS%",
		})
	}
	s := &structpb.Struct{}
	if err := s.UnmarshalJSON([]byte(given)); err != nil {
		return nil, fmt.Errorf("proxy-defaults: AccessLogs.JSONFormat isn't a JSON object: %w", err)
	}
	return s, nil
}
