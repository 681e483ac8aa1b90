// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	mutationv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	authzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	httprbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/connect/chain"
	proxyv1 "github.com/weftmesh/weft/proto/weft/proxy/v1"
)

// Where another program is asked about requests: after the intentions and the rate limits, so that it isn't asked about what is refused
// anyhow, and before the bound on concurrent requests, which goes by the application's time alone. The first filter marks the
// requests that it is asked about, where those aren't all.
const (
	authzFilter  = "envoy.filters.http.ext_authz"
	authzMarks   = "weft.ext_authz.requests"
	authzPrefix  = "ext_authz_" // of the marks' statistics, by which both proxies know them
	authzMark    = authzPrefix + "shadow_effective_policy_id"
	authzCluster = "ext_authz"
)

// authorizer reads who else decides about the requests of the service.
func (g *Gathered) authorizer(t *catalog.Txn, proxy *catalog.Service) error {
	g.Authorizer = catalog.Authorizer(g.Service.Name, g.Defaults, g.Global)
	if g.Authorizer == nil || g.Authorizer.Service == "" || !catalog.HTTPLike(g.Protocol) {
		return nil
	}
	u := &Upstream{}
	def := catalog.Upstream{DestinationName: g.Authorizer.Service, DestinationNamespace: g.Service.Namespace, DestinationPartition: g.Service.Partition}
	if err := u.gather(t, proxy, def, nil); err != nil {
		return err
	}
	if u.Err == nil {
		u.Chain.CustomizationHash = authzCluster // another cluster than that of the same service as an upstream, with limits of its own
	}
	g.authz = u
	return u.locate(t)
}

// authorized are the filters by which another program decides; none where nobody is to.
func (r *renderer) authorized() ([]*hcmv3.HttpFilter, error) {
	a := r.g.Authorizer
	if a == nil {
		return nil, nil
	}
	cluster, err := r.authorizerCluster(a)
	if err != nil {
		return nil, err
	}
	f := &authzv3.ExtAuthz{
		TransportApiVersion: corev3.ApiVersion_V3, FailureModeAllow: a.FailOpen, StatusOnError: &typev3.HttpStatus{Code: typev3.StatusCode(a.StatusOnError)},
		IncludePeerCertificate: a.Certificate, AllowedHeaders: headersNamed(a.SendHeaders), StatPrefix: "weft",
		// Whoever decides can't change where a request goes after the intentions have looked at that.
		DecoderHeaderMutationRules: &mutationv3.HeaderMutationRules{DisallowSystem: wrapperspb.Bool(true)},
		ValidateMutations:          true,
	}
	if a.MaxBodyBytes > 0 {
		f.WithRequestBody = &authzv3.BufferSettings{MaxRequestBytes: a.MaxBodyBytes, AllowPartialMessage: a.PartialBody, PackAsBytes: a.Protocol == catalog.ProtocolGRPC}
	}
	if a.Protocol == catalog.ProtocolHTTP {
		r.askByHTTP(f, a, cluster)
	} else {
		f.Services = &authzv3.ExtAuthz_GrpcService{GrpcService: &corev3.GrpcService{
			TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{ClusterName: cluster, Authority: authorityOf(a)}},
			Timeout:         durationpb.New(a.Timeout), InitialMetadata: added(a.AddHeaders),
		}}
	}
	var out []*hcmv3.HttpFilter
	if marks := r.asked(a); marks != nil {
		m, err := pack(marks)
		if err != nil {
			return nil, err
		}
		out = append(out, &hcmv3.HttpFilter{Name: authzMarks, ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: m}})
		f.FilterEnabledMetadata = present(authzMark)
	}
	m, err := pack(f)
	if err != nil {
		return nil, err
	}
	return append(out, &hcmv3.HttpFilter{Name: authzFilter, ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: m}}), f.ValidateAll()
}

func (r *renderer) askByHTTP(f *authzv3.ExtAuthz, a *catalog.ExternalAuthorization, cluster string) {
	if len(a.SendHeaders) == 0 {
		f.AllowedHeaders = &matcherv3.ListStringMatcher{Patterns: []*matcherv3.StringMatcher{regex(".*")}}
	}
	f.DisallowedHeaders = headersNamed([]string{"transfer-encoding", "connection", "upgrade", "te", "expect", "keep-alive", "proxy-connection", "http2-settings"})
	f.Services = &authzv3.ExtAuthz_HttpService{HttpService: &authzv3.HttpService{
		ServerUri: &corev3.HttpUri{
			Uri: "http://" + authorityOf(a), HttpUpstreamType: &corev3.HttpUri_Cluster{Cluster: cluster}, Timeout: durationpb.New(a.Timeout),
		},
		PathPrefix:            a.PathPrefix,
		AuthorizationRequest:  &authzv3.AuthorizationRequest{HeadersToAdd: added(a.AddHeaders)},
		AuthorizationResponse: &authzv3.AuthorizationResponse{AllowedUpstreamHeaders: headersNamed(a.PassHeaders), AllowedClientHeaders: headersNamed(a.DenyHeaders)},
	}}
}

// authorityOf is what whoever decides is called when it is asked.
func authorityOf(a *catalog.ExternalAuthorization) string {
	if a.Service != "" {
		return a.Service
	}
	if network, address, _ := a.Place(); network == "tcp" {
		return address
	}
	return "localhost"
}

func added(m map[string]string) (out []*corev3.HeaderValue) {
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, &corev3.HeaderValue{Key: strings.ToLower(k), Value: m[k]})
	}
	return out
}

// headersNamed matches names of headers; nil where none is named.
func headersNamed(names []string) *matcherv3.ListStringMatcher {
	if len(names) == 0 {
		return nil
	}
	out := &matcherv3.ListStringMatcher{}
	for _, n := range names {
		m := &matcherv3.StringMatcher{IgnoreCase: true, MatchPattern: &matcherv3.StringMatcher_Exact{Exact: n}}
		if beginning, ok := strings.CutSuffix(n, "*"); ok {
			m.MatchPattern = &matcherv3.StringMatcher_Prefix{Prefix: beginning}
		}
		out.Patterns = append(out.Patterns, m)
	}
	return out
}

// present matches what the marks say under a key.
func present(key string) *matcherv3.MetadataMatcher {
	return &matcherv3.MetadataMatcher{
		Filter: rbacFilter, Path: []*matcherv3.MetadataMatcher_PathSegment{{Segment: &matcherv3.MetadataMatcher_PathSegment_Key{Key: key}}},
		Value: &matcherv3.ValueMatcher{MatchPattern: &matcherv3.ValueMatcher_PresentMatch{PresentMatch: true}},
	}
}

// asked marks the requests that somebody is asked about: rules that are looked at and have no other effect. Nil: all are, and nothing
// else has to tell them apart.
func (r *renderer) asked(a *catalog.ExternalAuthorization) *httprbacv3.RBAC {
	if len(a.Requests)+len(a.Except) == 0 && !r.refusesInvalid() {
		return nil
	}
	any := func(list []catalog.IntentionHTTPPermission) (out []*rbacv3.Permission) {
		for i := range list {
			out = append(out, request(&list[i]))
		}
		return out
	}
	these := anything()
	if len(a.Requests) > 0 {
		these = &rbacv3.Permission{Rule: &rbacv3.Permission_OrRules{OrRules: &rbacv3.Permission_Set{Rules: any(a.Requests)}}}
	}
	rules := &rbacv3.RBAC{Action: rbacv3.RBAC_ALLOW, Policies: map[string]*rbacv3.Policy{
		"asked": {Permissions: []*rbacv3.Permission{except(these, any(a.Except))}, Principals: []*rbacv3.Principal{anybody()}},
	}}
	if r.in.Abilities.olderThan(rulesIndividually) {
		rules = rulesAmongOthers(rules)
	}
	return &httprbacv3.RBAC{ShadowRules: rules, ShadowRulesStatPrefix: authzPrefix}
}

// authorizerCluster leads to who decides. Where nobody can be reached in the way that was asked for, it leads nowhere: a request is then
// treated as one that nobody decides about.
func (r *renderer) authorizerCluster(a *catalog.ExternalAuthorization) (string, error) {
	if a.Service == "" {
		return authzCluster, r.authorizerAt(a)
	}
	name, err := r.authorizerService(a)
	if err == nil {
		return name, nil
	}
	r.warn("ExternalAuthorization of %s: service %s can't be asked: %v", r.g.Service.Name, a.Service, err)
	return authzCluster, r.authorizerClusterOf(a, nil)
}

var (
	errNoChain  = errors.New("its chain leads nowhere")
	errProtocol = errors.New("it has to speak HTTP/2 to be asked by grpc (Protocol grpc or http2 in its service-defaults), and any HTTP to be asked by http")
)

// authorizerService asks a service of the mesh: where its last route leads, and there the largest of shares.
func (r *renderer) authorizerService(a *catalog.ExternalAuthorization) (string, error) {
	u := r.g.authz
	if u.Err != nil {
		return "", u.Err
	}
	if p := u.Chain.Protocol; p != catalog.ProtocolHTTP2 && p != catalog.ProtocolGRPC && !(p == catalog.ProtocolHTTP && a.Protocol == catalog.ProtocolHTTP) {
		return "", errProtocol
	}
	n := u.Chain.Nodes[u.Chain.StartNode]
	if n != nil && n.Type == chain.TypeRouter {
		n = u.Chain.Nodes[n.Routes[len(n.Routes)-1].NextNode]
	}
	if n != nil && n.Type == chain.TypeSplitter {
		largest := slices.MaxFunc(n.Splits, func(a, b *chain.Split) int { return int(a.Weight*100) - int(b.Weight*100) })
		n = u.Chain.Nodes[largest.NextNode]
	}
	if n == nil || n.Type != chain.TypeResolver {
		return "", errNoChain
	}
	return r.upstreamCluster(u, n)
}

// authorizerAt asks at an address.
func (r *renderer) authorizerAt(a *catalog.ExternalAuthorization) error {
	network, address, err := a.Place()
	if err != nil {
		return fmt.Errorf("ExternalAuthorization.Address %q: %w", a.Address, err)
	}
	if network == "unix" {
		return r.authorizerClusterOf(a, pipe(address, 0))
	}
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	return r.authorizerClusterOf(a, socket(at.Addr().String(), int(at.Port())))
}

func (r *renderer) authorizerClusterOf(a *catalog.ExternalAuthorization, at *corev3.Address) error {
	options, err := r.httpOptions(a.Protocol, false, &catalog.UpstreamConfig{})
	if err != nil {
		return err
	}
	meta, err := r.metadata(clusterInfoKey, &proxyv1.ClusterInfo{Service: &proxyv1.ServiceRef{Name: authzCluster}})
	if err != nil {
		return err
	}
	c := &clusterv3.Cluster{
		Name: authzCluster, ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC}, ConnectTimeout: durationpb.New(connectTimeout),
		TypedExtensionProtocolOptions: options, CircuitBreakers: unlimited(), Metadata: meta,
		LoadAssignment: &endpointv3.ClusterLoadAssignment{ClusterName: authzCluster},
	}
	if at != nil {
		c.LoadAssignment.Endpoints = []*endpointv3.LocalityLbEndpoints{{
			LbEndpoints: []*endpointv3.LbEndpoint{{HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: at}}}},
		}}
	}
	return r.add(ClusterType, authzCluster, c)
}

// unasked says of a service of which connections alone are seen whether nobody may call it: its own entry wants each request to be
// decided about.
func (r *renderer) unasked() bool {
	if r.g.Authorizer == nil {
		return false
	}
	if catalog.Authorizer(r.g.Service.Name, r.g.Defaults, nil) == nil {
		r.warn("proxy %s: proxy-defaults' ExternalAuthorization isn't for service %s, of which connections alone are seen: declare its Protocol", r.in.Proxy.ID, r.g.Service.Name)
		return false
	}
	r.warn("proxy %s: nobody may call: ExternalAuthorization wants each request to be decided about, and of service %s connections alone are seen: declare its Protocol",
		r.in.Proxy.ID, r.g.Service.Name)
	return true
}
