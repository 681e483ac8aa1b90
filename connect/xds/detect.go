// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"cmp"
	"time"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	proxyv1 "github.com/weftmesh/weft/proto/weft/proxy/v1"
)

const detectFilter = "weft.filters.network.detect"

// detect has weft's own proxy look at what the clients of a service speak whose protocol nobody declared, and tell requests apart
// where it is HTTP. Nothing is decided by them: who may call is said for connections, paths stay as they are, and a request may take
// as long as a connection may. Envoy, which would have to wait for a client's first bytes, carries bytes.
func (r *renderer) detect(stat string, inbound bool, log []*accesslogv3.AccessLog, action *routev3.RouteAction) (*listenerv3.Filter, error) {
	router, err := pack(&routerv3.Router{})
	if err != nil {
		return nil, err
	}
	action.Timeout = durationpb.New(0)
	m := &hcmv3.HttpConnectionManager{
		StatPrefix: stat, CodecType: hcmv3.HttpConnectionManager_AUTO, AccessLog: log,
		RouteSpecifier: &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: &routev3.RouteConfiguration{
			Name: stat, VirtualHosts: []*routev3.VirtualHost{{Name: stat, Domains: []string{"*"}, Routes: []*routev3.Route{{
				Match: everything(), Action: &routev3.Route_Route{Route: action},
			}}}},
		}},
		StreamIdleTimeout:     durationpb.New(24 * time.Hour),
		UpgradeConfigs:        []*hcmv3.HttpConnectionManager_UpgradeConfig{{UpgradeType: "websocket"}},
		GenerateRequestId:     wrapperspb.Bool(true),
		HttpFilters:           []*hcmv3.HttpFilter{{Name: "envoy.filters.http.router", ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: router}}},
		RequestHeadersTimeout: durationpb.New(cmp.Or(r.in.Limits.Headers, defaultBound)),
	}
	if inbound {
		m.ForwardClientCertDetails = hcmv3.HttpConnectionManager_SANITIZE_SET
		m.SetCurrentClientCertDetails = &hcmv3.HttpConnectionManager_SetCurrentClientCertDetails{Uri: true}
	}
	if err := m.ValidateAll(); err != nil {
		return nil, err
	}
	http, err := pack(m)
	if err != nil {
		return nil, err
	}
	a, err := pack(&proxyv1.Detect{Http: http})
	return &listenerv3.Filter{Name: detectFilter, ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: a}}, err
}

func toCluster(name string) *routev3.RouteAction {
	return &routev3.RouteAction{ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: name}}
}

// sameAs leads requests where a tcp_proxy leads connections.
func sameAs(f *listenerv3.Filter) (*routev3.RouteAction, error) {
	t := &tcpv3.TcpProxy{}
	if err := f.GetTypedConfig().UnmarshalTo(t); err != nil {
		return nil, err
	}
	if t.GetWeightedClusters() == nil {
		return toCluster(t.GetCluster()), nil
	}
	w := &routev3.WeightedCluster{}
	for _, c := range t.GetWeightedClusters().GetClusters() {
		w.Clusters = append(w.Clusters, &routev3.WeightedCluster_ClusterWeight{Name: c.GetName(), Weight: wrapperspb.UInt32(c.GetWeight())})
	}
	return &routev3.RouteAction{ClusterSpecifier: &routev3.RouteAction_WeightedClusters{WeightedClusters: w}}, nil
}
