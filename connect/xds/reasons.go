// SPDX-License-Identifier: Apache-2.0

package xds

import (
	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/weftmesh/weft/catalog"
)

// flagReasons are weft's reasons for the flags that Envoy gives an answer of its own, the most telling first.
var flagReasons = []struct{ flag, reason string }{
	{"FI", "fault_injected"}, {"RL", "rate_limited"}, {"UO", "upstream_overflow"}, {"UH", "no_healthy_upstream"}, {"UF", "upstream_connect_failure"},
	{"UMSDR", "upstream_timeout"}, {"UT", "upstream_timeout"}, {"SI", "stream_idle_timeout"}, {"UPE", "upstream_protocol_error"},
	{"UC", "upstream_reset"}, {"UR", "upstream_reset"}, {"NR", "no_route"}, {"NC", "no_cluster"}, {"DPE", "bad_request"},
}

// unanswered are the flags of requests that no instance answered.
func unanswered() []string { return []string{"UO", "UH", "UF", "UMSDR", "UT", "UPE", "UC", "UR"} }

// replies are the answers that a proxy makes itself: an Envoy says why in them, as weft's own proxy does by itself, and both take the
// fallback where no instance answered.
func (r *renderer) replies(fallback *catalog.HTTPResponse) *hcmv3.LocalReplyConfig {
	out := &hcmv3.LocalReplyConfig{}
	if fallback != nil {
		for _, flag := range unanswered() {
			out.Mappers = append(out.Mappers, r.mapper(flagged(flag), reasonOf(flag), fallback))
		}
	}
	if r.in.Abilities.Weft {
		if fallback == nil {
			return nil
		}
		return out
	}
	for _, f := range flagReasons {
		out.Mappers = append(out.Mappers, r.mapper(flagged(f.flag), f.reason, nil))
	}
	if a := r.g.Authorizer; a != nil {
		// An Envoy's own words for who refused are weft's reasons: ext_authz_denied, and ext_authz_error.
		out.Mappers = append(out.Mappers, r.mapper(r.refusedBySomebody(a), "%RESPONSE_CODE_DETAILS%", nil))
		if a.MaxBodyBytes > 0 && !a.PartialBody {
			out.Mappers = append(out.Mappers, r.mapper(statusIs(413), "ext_authz_body", nil))
		}
	}
	// Only authorisation answers with 403 by itself, and only the bound on requests with 503 and no flag.
	out.Mappers = append(out.Mappers, r.mapper(statusIs(403), "rbac_denied", nil))
	if r.refusesInvalid() {
		out.Mappers = append(out.Mappers, r.mapper(statusIs(401), "token_invalid", nil))
	}
	if r.defaults().AdaptiveConcurrency != nil {
		out.Mappers = append(out.Mappers, r.mapper(statusIs(503), "overloaded", nil))
	}
	return out
}

func reasonOf(flag string) string {
	for _, f := range flagReasons {
		if f.flag == flag {
			return f.reason
		}
	}
	return ""
}

func flagged(flag string) *accesslogv3.AccessLogFilter {
	return &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_ResponseFlagFilter{
		ResponseFlagFilter: &accesslogv3.ResponseFlagFilter{Flags: []string{flag}},
	}}
}

func statusIs(status uint32) *accesslogv3.AccessLogFilter {
	return &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_StatusCodeFilter{StatusCodeFilter: &accesslogv3.StatusCodeFilter{
		Comparison: &accesslogv3.ComparisonFilter{Op: accesslogv3.ComparisonFilter_EQ, Value: &corev3.RuntimeUInt32{DefaultValue: status, RuntimeKey: "weft.reason_status"}},
	}}}
}

// refusedBySomebody are answers of who is asked about requests. A wrong token has their flag too, but it is refused before the marks.
func (r *renderer) refusedBySomebody(a *catalog.ExternalAuthorization) *accesslogv3.AccessLogFilter {
	if r.asked(a) == nil {
		return flagged("UAEX")
	}
	marked := &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_MetadataFilter{MetadataFilter: &accesslogv3.MetadataFilter{
		Matcher: present(authzPrefix + "shadow_engine_result"), MatchIfKeyNotFound: wrapperspb.Bool(false),
	}}}
	return &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_AndFilter{AndFilter: &accesslogv3.AndFilter{
		Filters: []*accesslogv3.AccessLogFilter{flagged("UAEX"), marked},
	}}}
}

// mapper adds the reason to an answer, and has it be the fallback where there is one.
func (r *renderer) mapper(f *accesslogv3.AccessLogFilter, reason string, fallback *catalog.HTTPResponse) *hcmv3.ResponseMapper {
	m := &hcmv3.ResponseMapper{Filter: f}
	if !r.in.Abilities.Weft {
		m.HeadersToAdd = []*corev3.HeaderValueOption{{
			Header: &corev3.HeaderValue{Key: "x-weft-reason", Value: reason}, AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
		}}
	}
	if fallback != nil {
		m.StatusCode = wrapperspb.UInt32(uint32(fallback.Status))
		m.Body = &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: fallback.Body}}
	}
	return m
}
