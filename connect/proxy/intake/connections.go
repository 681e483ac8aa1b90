// SPDX-License-Identifier: Apache-2.0

package intake

import (
	"errors"
	"fmt"
	"net"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	proxyprotov3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/proxy_protocol/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/weftmesh/weft/connect/proxy/config"
)

const proxyProtocolURL = typePrefix + "extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport"

func keepAlive(m *corev3.TcpKeepalive) *net.KeepAliveConfig {
	if m == nil {
		return nil
	}
	return &net.KeepAliveConfig{
		Enable: true, Idle: time.Duration(m.GetKeepaliveTime().GetValue()) * time.Second,
		Interval: time.Duration(m.GetKeepaliveInterval().GetValue()) * time.Second, Count: int(m.GetKeepaliveProbes().GetValue()),
	}
}

// announced reads a transport that begins with the PROXY protocol; beneath it this proxy takes plain text alone.
func announced(a *anypb.Any) (config.ProxyProtocol, error) {
	m, err := read[*proxyprotov3.ProxyProtocolUpstreamTransport](a)
	if err != nil {
		return 0, err
	}
	if err := errors.Join(only(m, "config transport_socket"), only(m.GetConfig(), "version")); err != nil {
		return 0, fmt.Errorf("proxy_protocol: %w", err)
	}
	if url := m.GetTransportSocket().GetTypedConfig().GetTypeUrl(); url != rawBufferURL {
		return 0, fmt.Errorf("proxy_protocol.transport_socket %s: this proxy takes raw_buffer", url)
	}
	if m.GetConfig().GetVersion() == corev3.ProxyProtocolConfig_V2 {
		return config.ProxyProtocolV2, nil
	}
	return config.ProxyProtocolV1, nil
}
