// SPDX-License-Identifier: Apache-2.0

package intake

import (
	"errors"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tracev3 "github.com/envoyproxy/go-control-plane/envoy/config/trace/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	samplersv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/tracers/opentelemetry/samplers/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"

	"github.com/weftmesh/weft/connect/proxy/config"
	"github.com/weftmesh/weft/connect/proxy/trace"
)

// compileSpans takes OTLP over HTTP. A tracer that this proxy doesn't know isn't refused: spans protect nothing, and contexts
// are passed on in any case.
func compileSpans(m *hcmv3.HttpConnectionManager_Tracing) (*config.Spans, error) {
	p := m.GetProvider().GetTypedConfig()
	if p == nil || !p.MessageIs(&tracev3.OpenTelemetryConfig{}) {
		return nil, nil
	}
	o, err := read[*tracev3.OpenTelemetryConfig](p)
	if err != nil {
		return nil, err
	}
	uri := o.GetHttpService().GetHttpUri().GetUri()
	if uri == "" {
		return nil, errors.New("OpenTelemetryConfig without http_service: this proxy sends OTLP over HTTP only")
	}
	s := &config.Spans{To: trace.Target{URL: uri, Service: o.GetServiceName()}, Share: config.Whole}
	for _, p := range []*typev3.Percent{m.GetRandomSampling(), m.GetOverallSampling()} {
		if p != nil {
			s.Share = min(s.Share, config.Share(p.GetValue()*float64(config.Whole)/100))
		}
	}
	ratio, err := sampled(o.GetSampler())
	s.Share = min(s.Share, ratio)
	return s, err
}

// sampled is the share that a sampler takes of what comes without a traceparent. One that isn't known takes all.
func sampled(sampler *corev3.TypedExtensionConfig) (config.Share, error) {
	a := sampler.GetTypedConfig()
	switch {
	case a == nil:
	case a.MessageIs(&samplersv3.ParentBasedSamplerConfig{}):
		m, err := read[*samplersv3.ParentBasedSamplerConfig](a)
		if err != nil {
			return 0, err
		}
		return sampled(m.GetWrappedSampler())
	case a.MessageIs(&samplersv3.TraceIdRatioBasedSamplerConfig{}):
		m, err := read[*samplersv3.TraceIdRatioBasedSamplerConfig](a)
		if err != nil {
			return 0, err
		}
		return shareOf(m.GetSamplingPercentage()), nil
	}
	return config.Whole, nil
}
