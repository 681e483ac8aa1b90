// SPDX-License-Identifier: Apache-2.0

package intake

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/weftmesh/weft/connect/proxy/config"
	proxyv1 "github.com/weftmesh/weft/proto/weft/proxy/v1"
)

// Keys under which the renderer puts typed metadata.
const (
	clusterInfoKey = "weft.proxy.v1.cluster"
	routeInfoKey   = "weft.proxy.v1.route"
)

const (
	httpOptionsKey        = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
	defaultConnectTimeout = 5 * time.Second
)

func (w *world) compileCluster(m *clusterv3.Cluster) (*cluster, error) {
	c := &config.Cluster{Name: m.GetName(), ConnectTimeout: defaultConnectTimeout, ChoiceCount: 2, Codec: config.HTTP1}
	if d := m.GetConnectTimeout(); d != nil {
		c.ConnectTimeout = d.AsDuration()
	}
	out := &cluster{config: c}
	if err := w.discovery(m, out); err != nil {
		return nil, err
	}
	if err := balance(m, c); err != nil {
		return nil, err
	}
	if err := protocol(m, c); err != nil {
		return nil, err
	}
	if err := limits(m, c); err != nil {
		return nil, err
	}
	c.Outlier = compileOutlier(m.GetOutlierDetection())
	if err := failures(m, c.Outlier); err != nil {
		return nil, err
	}
	if a := m.GetMetadata().GetTypedFilterMetadata()[clusterInfoKey]; a != nil {
		info := &proxyv1.ClusterInfo{}
		if err := unpack(a, info); err != nil {
			return nil, fmt.Errorf("metadata %s: %w", clusterInfoKey, err)
		}
		s := info.GetService()
		c.Local = info.GetLocal()
		if c.Outlier != nil {
			c.Outlier.Probation = info.GetProbation()
		}
		c.Service = config.ServiceRef{
			Name: s.GetName(), Namespace: s.GetNamespace(), Partition: s.GetPartition(), Datacenter: s.GetDatacenter(), Peer: s.GetPeer(), Subset: s.GetSubset(),
		}
	}
	if c.Service.Name == "" {
		c.Service.Name = c.Name
	}
	c.Keep.TCP = keepAlive(m.GetUpstreamConnectionOptions().GetTcpKeepalive())
	if ts := m.GetTransportSocket(); ts.GetTypedConfig().GetTypeUrl() == proxyProtocolURL {
		var err error
		if c.Announce, err = announced(ts.GetTypedConfig()); err != nil {
			return nil, err
		}
	} else if ts != nil {
		tlsConf, t, err := w.clientTLS(ts)
		if err != nil {
			return nil, err
		}
		c.TLS, out.secrets, out.identity = tlsConf, t.names(), t.identity
	}
	if err := plainMatches(m.GetTransportSocketMatches()); err != nil {
		return nil, err
	}
	return out, nil
}

func (w *world) discovery(m *clusterv3.Cluster, out *cluster) error {
	switch m.GetType() {
	case clusterv3.Cluster_EDS:
		out.eds = m.GetEdsClusterConfig().GetServiceName()
		if out.eds == "" {
			out.eds = m.GetName()
		}
	case clusterv3.Cluster_STATIC, clusterv3.Cluster_STRICT_DNS: // a name is looked up with each connection
		endpoints, err := w.compileEndpoints(m.GetLoadAssignment(), m.GetType() == clusterv3.Cluster_STRICT_DNS)
		if err != nil {
			return fmt.Errorf("load_assignment: %w", err)
		}
		out.config.Endpoints = endpoints
	case clusterv3.Cluster_ORIGINAL_DST:
		if m.GetLbPolicy() != clusterv3.Cluster_CLUSTER_PROVIDED || m.GetOriginalDstLbConfig() != nil || m.GetLoadBalancingPolicy() != nil {
			return errors.New("type ORIGINAL_DST: this proxy knows lb_policy CLUSTER_PROVIDED alone, without original_dst_lb_config")
		}
		out.config.Original = true
		out.config.MaxPerConn = 1 // a connection leads where one client's was going: it isn't kept for others
	default:
		return fmt.Errorf("type %s: this proxy knows EDS, STATIC, STRICT_DNS and ORIGINAL_DST", m.GetType())
	}
	if m.GetClusterType() != nil {
		return fmt.Errorf("cluster_type %s: this proxy knows EDS, STATIC, STRICT_DNS and ORIGINAL_DST", m.GetClusterType().GetName())
	}
	return nil
}

// protocol reads which HTTP is spoken to the cluster.
func protocol(m *clusterv3.Cluster, c *config.Cluster) error {
	a := m.GetTypedExtensionProtocolOptions()[httpOptionsKey]
	if a == nil {
		return nil
	}
	o, err := read[*httpv3.HttpProtocolOptions](a)
	if err != nil {
		return fmt.Errorf("%s: %w", httpOptionsKey, err)
	}
	common := o.GetCommonHttpProtocolOptions()
	if !c.Original {
		c.MaxPerConn = int(common.GetMaxRequestsPerConnection().GetValue())
	}
	c.Keep.Idle, c.Keep.Age = common.GetIdleTimeout().AsDuration(), common.GetMaxConnectionDuration().AsDuration()
	switch p := o.GetUpstreamProtocolOptions().(type) {
	case *httpv3.HttpProtocolOptions_ExplicitHttpConfig_:
		switch e := p.ExplicitHttpConfig.GetProtocolConfig().(type) {
		case *httpv3.HttpProtocolOptions_ExplicitHttpConfig_HttpProtocolOptions:
			c.Codec = config.HTTP1
		case *httpv3.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions:
			c.Codec = config.HTTP2
			c.Keep.Streams = int(e.Http2ProtocolOptions.GetMaxConcurrentStreams().GetValue())
			if k := e.Http2ProtocolOptions.GetConnectionKeepalive(); k.GetInterval() != nil {
				c.Keep.PingEvery, c.Keep.PingTimeout = k.GetInterval().AsDuration(), k.GetTimeout().AsDuration()
			}
		default:
			return fmt.Errorf("%s: %T isn't known to this proxy", httpOptionsKey, e)
		}
	case *httpv3.HttpProtocolOptions_UseDownstreamProtocolConfig, *httpv3.HttpProtocolOptions_AutoConfig:
		c.Codec = config.Auto
	}
	if c.Original && c.Codec != config.HTTP1 {
		return fmt.Errorf("%s: to where captured connections were going, this proxy speaks HTTP/1.1 alone", httpOptionsKey)
	}
	return nil
}

func limits(m *clusterv3.Cluster, c *config.Cluster) error {
	for _, t := range m.GetCircuitBreakers().GetThresholds() {
		if t.GetPriority() != corev3.RoutingPriority_DEFAULT {
			continue
		}
		c.Limits = config.Limits{
			Connections: int(t.GetMaxConnections().GetValue()), Pending: int(t.GetMaxPendingRequests().GetValue()),
			Requests: int(t.GetMaxRequests().GetValue()), Retries: int(t.GetMaxRetries().GetValue()),
		}
		if b := t.GetRetryBudget(); b != nil {
			c.Limits.Budget = &config.Budget{Percent: 20, Least: 3}
			if b.GetBudgetPercent() != nil {
				c.Limits.Budget.Percent = b.GetBudgetPercent().GetValue()
			}
			if b.GetMinRetryConcurrency() != nil {
				c.Limits.Budget.Least = int(b.GetMinRetryConcurrency().GetValue())
			}
		}
		for what, v := range map[string]*wrapperspb.UInt32Value{
			"max_connections": t.GetMaxConnections(), "max_pending_requests": t.GetMaxPendingRequests(), "max_requests": t.GetMaxRequests(),
		} {
			if v != nil && v.GetValue() == 0 {
				return fmt.Errorf("circuit_breakers %s: 0 would let nothing through", what)
			}
		}
	}
	return nil
}

func (w *world) compileEndpoints(m *endpointv3.ClusterLoadAssignment, names bool) ([]*config.Endpoint, error) {
	out := []*config.Endpoint{}
	shares := localityShares(m)
	for i, l := range m.GetEndpoints() {
		for j, e := range l.GetLbEndpoints() {
			network, address, err := addressOf(e.GetEndpoint().GetAddress(), names)
			if err != nil {
				return nil, fmt.Errorf("endpoints[%d].lb_endpoints[%d]: %w", i, j, err)
			}
			k := endpointKey{
				cluster: m.GetClusterName(), network: network, address: address, weight: 1, priority: l.GetPriority(), healthy: true,
			}
			if v := e.GetLoadBalancingWeight(); v != nil {
				k.weight = v.GetValue()
			}
			if shares != nil {
				k.weight = uint32(max(1, float64(k.weight)*shares[i]*100+0.5))
			}
			switch e.GetHealthStatus() {
			case corev3.HealthStatus_UNHEALTHY, corev3.HealthStatus_TIMEOUT:
				k.healthy = false
			case corev3.HealthStatus_DRAINING:
				k.draining = true
			}
			k.plain = plainMark(e.GetMetadata().GetFilterMetadata()[socketMatchKey])
			out = append(out, w.endpoint(k))
		}
	}
	return out, nil
}

// addressOf is an address as net.Dial and net.Listen take it; with names it may be a host's name.
func addressOf(a *corev3.Address, names bool) (network, address string, err error) {
	switch t := a.GetAddress().(type) {
	case *corev3.Address_SocketAddress:
		s := t.SocketAddress
		if s.GetProtocol() != corev3.SocketAddress_TCP {
			return "", "", errors.New("socket_address.protocol: only TCP")
		}
		if net.ParseIP(s.GetAddress()) == nil && !names {
			return "", "", fmt.Errorf("socket_address.address %q isn't an IP address", s.GetAddress())
		}
		return "tcp", net.JoinHostPort(s.GetAddress(), strconv.Itoa(int(s.GetPortValue()))), nil
	case *corev3.Address_Pipe:
		return "unix", t.Pipe.GetPath(), nil
	}
	return "", "", fmt.Errorf("an address of the form %T: want socket_address or pipe", a.GetAddress())
}
