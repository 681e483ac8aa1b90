// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"cmp"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	proxyprotov3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/proxy_protocol/v3"
	rawv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/raw_buffer/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/weftmesh/weft/catalog"
)

// keep has connections that carry requests kept as a resolver or the caller says.
func keep(options *httpv3.HttpProtocolOptions, conf *catalog.UpstreamConfig) {
	common := &corev3.HttpProtocolOptions{}
	said := false
	if l := conf.Limits; l != nil && l.MaxRequestsPerConnection != nil && *l.MaxRequestsPerConnection > 0 {
		common.MaxRequestsPerConnection, said = wrapperspb.UInt32(uint32(*l.MaxRequestsPerConnection)), true
	}
	if c := conf.Connections; c != nil {
		said = bounds(common, c.IdleTimeout, c.MaxAge) || said
		if h2 := options.GetExplicitHttpConfig().GetHttp2ProtocolOptions(); h2 != nil {
			if c.MaxStreams > 0 {
				h2.MaxConcurrentStreams = wrapperspb.UInt32(uint32(c.MaxStreams))
			}
			if c.Ping != nil {
				h2.ConnectionKeepalive = &corev3.KeepaliveSettings{
					Interval: durationpb.New(c.Ping.Interval), Timeout: durationpb.New(cmp.Or(c.Ping.Timeout, defaultBound)),
				}
			}
		}
	}
	if said {
		options.CommonHttpProtocolOptions = common
	}
}

func bounds(o *corev3.HttpProtocolOptions, idle, age time.Duration) (said bool) {
	if idle > 0 {
		o.IdleTimeout, said = durationpb.New(idle), true
	}
	if age > 0 {
		o.MaxConnectionDuration, said = durationpb.New(age), true
	}
	return said
}

// alive is TCP's keep-alive; nil where nothing is said.
func alive(c *catalog.Connections) *clusterv3.UpstreamConnectionOptions {
	if c == nil || c.KeepAlive == nil {
		return nil
	}
	k, out := c.KeepAlive, &corev3.TcpKeepalive{}
	seconds := func(d time.Duration) *wrapperspb.UInt32Value {
		if d == 0 {
			return nil
		}
		return wrapperspb.UInt32(uint32(d / time.Second))
	}
	out.KeepaliveTime, out.KeepaliveInterval = seconds(k.Time), seconds(k.Interval)
	if k.Probes > 0 {
		out.KeepaliveProbes = wrapperspb.UInt32(uint32(k.Probes))
	}
	return &clusterv3.UpstreamConnectionOptions{TcpKeepalive: out}
}

// callersKept has the connections of callers kept as service-defaults say.
func (r *renderer) callersKept(m *hcmv3.HttpConnectionManager) {
	c := r.defaults().InboundConnections
	if c == nil {
		return
	}
	bounds(m.CommonHttpProtocolOptions, c.IdleTimeout, c.MaxAge)
	if c.MaxRequests > 0 {
		m.CommonHttpProtocolOptions.MaxRequestsPerConnection = wrapperspb.UInt32(uint32(c.MaxRequests))
	}
	if c.MaxStreams > 0 {
		m.Http2ProtocolOptions.MaxConcurrentStreams = wrapperspb.UInt32(uint32(c.MaxStreams))
	}
}

// tunnelsKept is the same for a TCP service.
func (r *renderer) tunnelsKept(t *tcpv3.TcpProxy) {
	c := r.defaults().InboundConnections
	if c == nil {
		return
	}
	if c.IdleTimeout > 0 {
		t.IdleTimeout = durationpb.New(c.IdleTimeout)
	}
	if c.MaxAge > 0 {
		t.MaxDownstreamConnectionDuration = durationpb.New(c.MaxAge)
	}
	if c.MaxRequests > 0 || c.MaxStreams > 0 || c.MaxConcurrentRequests > 0 {
		r.warn("service-defaults/%s: InboundConnections: MaxRequests, MaxStreams and MaxConcurrentRequests have no effect: the service's protocol is tcp",
			r.g.Service.Name)
	}
}

// toApplication is what else holds for the application's cluster.
func (r *renderer) toApplication(c *clusterv3.Cluster) error {
	d := r.defaults()
	if in := d.InboundConnections; in != nil && in.MaxConcurrentRequests > 0 {
		c.CircuitBreakers.Thresholds[0].MaxRequests = wrapperspb.UInt32(uint32(in.MaxConcurrentRequests))
	}
	if d.LocalProxyProtocol == "" {
		return nil
	}
	if catalog.HTTPLike(r.g.Protocol) {
		r.warn("service-defaults/%s: LocalProxyProtocol has no effect: the service's protocol is %s", r.g.Service.Name, r.g.Protocol)
		return nil
	}
	raw, err := pack(&rawv3.RawBuffer{})
	if err != nil {
		return err
	}
	config := &corev3.ProxyProtocolConfig{Version: corev3.ProxyProtocolConfig_V1}
	if d.LocalProxyProtocol == catalog.ProxyProtocolV2 {
		config.Version = corev3.ProxyProtocolConfig_V2
	}
	socket, err := pack(&proxyprotov3.ProxyProtocolUpstreamTransport{Config: config, TransportSocket: &corev3.TransportSocket{
		Name: "envoy.transport_sockets.raw_buffer", ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: raw},
	}})
	if err != nil {
		return err
	}
	c.TransportSocket = &corev3.TransportSocket{
		Name: "envoy.transport_sockets.upstream_proxy_protocol", ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: socket},
	}
	return nil
}
