// SPDX-License-Identifier: Apache-2.0

package xds

import (
	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
)

// flagReasons are weft's reasons for the flags that Envoy gives an answer of its own, the most telling first.
var flagReasons = []struct{ flag, reason string }{
	{"FI", "fault_injected"}, {"RL", "rate_limited"}, {"UO", "upstream_overflow"}, {"UH", "no_healthy_upstream"}, {"UF", "upstream_connect_failure"},
	{"UMSDR", "upstream_timeout"}, {"UT", "upstream_timeout"}, {"SI", "stream_idle_timeout"}, {"UPE", "upstream_protocol_error"},
	{"UC", "upstream_reset"}, {"UR", "upstream_reset"}, {"NR", "no_route"}, {"NC", "no_cluster"}, {"DPE", "bad_request"},
}

// reasons has an Envoy say why it answered by itself, as weft's own proxy does.
func reasons() *hcmv3.LocalReplyConfig {
	out := &hcmv3.LocalReplyConfig{}
	add := func(f *accesslogv3.AccessLogFilter, reason string) {
		out.Mappers = append(out.Mappers, &hcmv3.ResponseMapper{Filter: f, HeadersToAdd: []*corev3.HeaderValueOption{{
			Header: &corev3.HeaderValue{Key: "x-weft-reason", Value: reason}, AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
		}}})
	}
	for _, f := range flagReasons {
		add(&accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_ResponseFlagFilter{
			ResponseFlagFilter: &accesslogv3.ResponseFlagFilter{Flags: []string{f.flag}},
		}}, f.reason)
	}
	// Only authorisation answers with 403 by itself.
	add(&accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_StatusCodeFilter{StatusCodeFilter: &accesslogv3.StatusCodeFilter{
		Comparison: &accesslogv3.ComparisonFilter{Op: accesslogv3.ComparisonFilter_EQ, Value: &corev3.RuntimeUInt32{DefaultValue: 403, RuntimeKey: "weft.denied_status"}},
	}}}, "rbac_denied")
	return out
}
