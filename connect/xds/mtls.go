// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	inspectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/tls_inspector/v3"
	rawv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/raw_buffer/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/connect/chain"
)

// mode is how the proxy's public listener takes connections.
func (r *renderer) mode() string {
	return catalog.MutualTLS(r.g.Defaults, r.g.Global, r.in.Proxy.Proxy.LocalServicePort)
}

func (r *renderer) callers() callers { return callers{r.td, r.mode() != catalog.MTLSStrict} }

// firstBytes is how long a connection may say nothing before it is taken as plain: there are protocols in which the server
// speaks first.
const firstBytes = 2 * time.Second

// plainToo has a listener take plain text, beside mutual TLS or in place of it.
func plainToo(l *listenerv3.Listener, mode string) error {
	switch mode {
	case catalog.MTLSOff:
		l.FilterChains[0].TransportSocket, l.FilterChains[0].TransportSocketConnectTimeout = nil, nil
	case catalog.MTLSPermissive:
		inspect, err := pack(&inspectorv3.TlsInspector{})
		if err != nil {
			return err
		}
		l.ListenerFilters = []*listenerv3.ListenerFilter{{
			Name: "envoy.filters.listener.tls_inspector", ConfigType: &listenerv3.ListenerFilter_TypedConfig{TypedConfig: inspect},
		}}
		l.ListenerFiltersTimeout, l.ContinueOnListenerFiltersTimeout = durationpb.New(firstBytes), true
		secure := l.FilterChains[0]
		secure.Name, secure.FilterChainMatch = "mtls", &listenerv3.FilterChainMatch{TransportProtocol: "tls"}
		plain := proto.Clone(secure).(*listenerv3.FilterChain)
		plain.Name, plain.FilterChainMatch, plain.TransportSocket, plain.TransportSocketConnectTimeout = "plain", nil, nil, nil
		l.FilterChains = append(l.FilterChains, plain)
	}
	return nil
}

// plainly says of an instance whether it is called in plain text.
type plainly func(*catalog.Instance) bool

func (r *renderer) plain(u *Upstream, t *chain.Target) plainly {
	return func(i *catalog.Instance) bool {
		port := 0
		if i.Service.Proxy != nil {
			port = i.Service.Proxy.LocalServicePort
		}
		return catalog.MutualTLS(u.Defaults[t.ID], r.g.Global, port) == catalog.MTLSOff
	}
}

func (r *renderer) plainTargets(u *Upstream, targets []*chain.Target) bool {
	for _, t := range targets {
		plain := r.plain(u, t)
		for _, i := range u.Instances[t.ID] {
			if plain(i) {
				return true
			}
		}
	}
	return false
}

// plainKey marks endpoints that are called in plain text.
const plainKey = "weft_plain"

func plainMark() *structpb.Struct {
	return &structpb.Struct{Fields: map[string]*structpb.Value{plainKey: structpb.NewBoolValue(true)}}
}

func plainEndpoint() *corev3.Metadata {
	return &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{"envoy.transport_socket_match": plainMark()}}
}

// plainSocket is a cluster's way to endpoints that are so marked; the others keep the cluster's own.
func plainSocket() ([]*clusterv3.Cluster_TransportSocketMatch, error) {
	raw, err := pack(&rawv3.RawBuffer{})
	return []*clusterv3.Cluster_TransportSocketMatch{{
		Name: "plain", Match: plainMark(),
		TransportSocket: &corev3.TransportSocket{Name: "envoy.transport_sockets.raw_buffer", ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: raw}},
	}}, err
}
