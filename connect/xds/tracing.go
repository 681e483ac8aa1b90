// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"net"
	"net/url"
	"strconv"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	tracev3 "github.com/envoyproxy/go-control-plane/envoy/config/trace/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	samplersv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/tracers/opentelemetry/samplers/v3"
	tagv3 "github.com/envoyproxy/go-control-plane/envoy/type/tracing/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// CollectorCluster leads an Envoy to where spans go. Weft's own proxy goes by the URL.
const CollectorCluster = "trace_collector"

const (
	collectorPort    = 4318
	collectorPath    = "/v1/traces"
	collectorTimeout = 5 * time.Second
)

// tracing is what proxy-defaults says of spans; nil for nothing.
func (r *renderer) tracing() (*hcmv3.HttpConnectionManager_Tracing, error) {
	if t := r.escapedTracing(); t != nil {
		return t, nil
	}
	if r.g.Global == nil || r.g.Global.Tracing == nil {
		return nil, nil
	}
	t := r.g.Global.Tracing
	u, err := url.Parse(t.Collector)
	if err != nil {
		return nil, err
	}
	port := collectorPort
	if p, err := strconv.Atoi(u.Port()); err == nil {
		port = p
	}
	if u.Path == "" || u.Path == "/" {
		u.Path = collectorPath
	}
	u.Host = net.JoinHostPort(u.Hostname(), strconv.Itoa(port))
	sampler, err := parentBased(t.Share())
	if err != nil {
		return nil, err
	}
	provider, err := pack(&tracev3.OpenTelemetryConfig{
		ServiceName: r.g.Service.Name, Sampler: sampler,
		HttpService: &corev3.HttpService{HttpUri: &corev3.HttpUri{
			Uri: u.String(), Timeout: durationpb.New(collectorTimeout),
			HttpUpstreamType: &corev3.HttpUri_Cluster{Cluster: CollectorCluster},
		}},
	})
	if err != nil {
		return nil, err
	}
	m := &hcmv3.HttpConnectionManager_Tracing{
		Provider: &tracev3.Tracing_Http{Name: "envoy.tracers.opentelemetry", ConfigType: &tracev3.Tracing_Http_TypedConfig{TypedConfig: provider}},
	}
	if r.in.Abilities.Weft {
		return m, nil
	}
	m.SpawnUpstreamSpan = wrapperspb.Bool(false)
	if r.in.Abilities.olderThan(tagsOfFormats) {
		return m, r.collector(u, port)
	}
	for _, tag := range [...][2]string{{"weft.reason", "%RESP(X-WEFT-REASON)%"}, {"http.response.status_code", "%RESPONSE_CODE%"}} {
		m.CustomTags = append(m.CustomTags, &tagv3.CustomTag{Tag: tag[0], Type: &tagv3.CustomTag_Value{Value: tag[1]}})
	}
	return m, r.collector(u, port)
}

// tagsOfFormats is the minor version of Envoy from which a span's tags may be made of what the access log knows. Before, a span has
// Envoy's own tags: http.status_code and response_flags, but not the reason.
const tagsOfFormats = 37

// collector adds the cluster that spans are sent to.
func (r *renderer) collector(u *url.URL, port int) error {
	kind := clusterv3.Cluster_STRICT_DNS
	if net.ParseIP(u.Hostname()) != nil {
		kind = clusterv3.Cluster_STATIC
	}
	return r.add(ClusterType, CollectorCluster, &clusterv3.Cluster{
		Name: CollectorCluster, ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: kind}, ConnectTimeout: durationpb.New(connectTimeout),
		LoadAssignment: &endpointv3.ClusterLoadAssignment{ClusterName: CollectorCluster, Endpoints: []*endpointv3.LocalityLbEndpoints{{
			LbEndpoints: []*endpointv3.LbEndpoint{{HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: socket(u.Hostname(), port)}}}},
		}}},
	})
}

// parentBased samples a request as its traceparent says, and of those without one a share of 100. Envoy's own sampling would
// refuse spans to traces that are sampled already.
func parentBased(share float64) (*corev3.TypedExtensionConfig, error) {
	ratio, err := pack(&samplersv3.TraceIdRatioBasedSamplerConfig{SamplingPercentage: &typev3.FractionalPercent{
		Numerator: uint32(share * 1e4), Denominator: typev3.FractionalPercent_MILLION,
	}})
	if err != nil {
		return nil, err
	}
	parent, err := pack(&samplersv3.ParentBasedSamplerConfig{WrappedSampler: &corev3.TypedExtensionConfig{
		Name: "envoy.tracers.opentelemetry.samplers.trace_id_ratio_based", TypedConfig: ratio,
	}})
	return &corev3.TypedExtensionConfig{Name: "envoy.tracers.opentelemetry.samplers.parent_based", TypedConfig: parent}, err
}
