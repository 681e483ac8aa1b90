// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"cmp"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	inspectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/tls_inspector/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// named is an upstream that is reached by the server name that a TLS client asks for; without names it gets all others.
type named struct {
	*Upstream
	names []string
}

// upstreamsByName renders the upstreams that share a place: one listener with a filter chain for each. The name is read and not
// answered: the client's TLS ends at the service.
func (r *renderer) upstreamsByName(all []named) error {
	addr, where, err := place(all[0].Upstream)
	if err != nil {
		return err
	}
	log, err := r.accessLogs()
	if err != nil {
		return err
	}
	inspector, err := pack(&inspectorv3.TlsInspector{})
	if err != nil {
		return err
	}
	name := "sni:" + where
	l := &listenerv3.Listener{
		Name: name, Address: addr, TrafficDirection: corev3.TrafficDirection_OUTBOUND, PerConnectionBufferLimitBytes: wrapperspb.UInt32(r.bufferBytes()),
		ListenerFilters: []*listenerv3.ListenerFilter{{
			Name: "envoy.filters.listener.tls_inspector", ConfigType: &listenerv3.ListenerFilter_TypedConfig{TypedConfig: inspector},
		}},
		ListenerFiltersTimeout: durationpb.New(cmp.Or(r.in.Limits.Handshake, defaultBound)),
	}
	for _, u := range all {
		clusters, err := r.upstreamClusters(u.Upstream)
		if err != nil {
			return err
		}
		f, err := tcpUpstream(u.Upstream, clusters, log)
		if err != nil {
			return err
		}
		chain := &listenerv3.FilterChain{Name: titled(u.Key), Filters: []*listenerv3.Filter{f}}
		if u.names != nil {
			chain.FilterChainMatch = &listenerv3.FilterChainMatch{ServerNames: u.names}
		}
		l.FilterChains = append(l.FilterChains, chain)
	}
	return r.add(ListenerType, name, l)
}
