// SPDX-License-Identifier: Apache-2.0

package intake

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/weftmesh/weft/internal/guard"
)

// only refuses a message in which a field is set that this proxy doesn't know: leaving it out could be less strict than what
// was asked for. The fields that are read, and those that mean nothing to this proxy and protect nothing (names of
// statistics, buffer sizes), are listed where the message is read. It looks at the generated struct, as decode does.
func only(m proto.Message, fields string) error {
	v := reflect.ValueOf(m)
	if v.IsNil() {
		return nil
	}
	v = v.Elem()
	var faults []error
	for i := range v.NumField() {
		at, tag := v.Field(i), v.Type().Field(i).Tag
		if _, ok := tag.Lookup("protobuf_oneof"); ok {
			if at.IsNil() || at.Elem().IsNil() {
				continue
			}
			tag = at.Elem().Type().Elem().Field(0).Tag
		} else if tag.Get("protobuf") == "" || !isSet(at, tag.Get("protobuf")) {
			continue
		}
		if name := nameOf(tag.Get("protobuf")); !listed(fields, name) && !guard.Off("C36") {
			faults = append(faults, fmt.Errorf("%s: not known to this proxy", name))
		}
	}
	return errors.Join(faults...)
}

// listed says whether a name is one of the words of a text.
func listed(words, name string) bool {
	apart := func(i int) bool {
		return i < 0 || i >= len(words) || words[i] == ' ' || words[i] == '\n' || words[i] == '\t'
	}
	for at := 0; ; at++ {
		i := strings.Index(words[at:], name)
		if i < 0 {
			return false
		}
		if at += i; apart(at-1) && apart(at+len(name)) {
			return true
		}
	}
}

// isSet says whether a field that is no oneof's has a value: one that may be absent, any; others, another than zero.
func isSet(at reflect.Value, tag string) bool {
	switch at.Kind() {
	case reflect.Map:
		return at.Len() > 0
	case reflect.Slice:
		return at.Len() > 0 || !at.IsNil() && slices.Contains(strings.Split(tag, ","), "oneof")
	}
	return !at.IsZero()
}

// nameOf is the field's name in its definition.
func nameOf(tag string) string {
	for part := range strings.SplitSeq(tag, ",") {
		if name, ok := strings.CutPrefix(part, "name="); ok {
			return name
		}
	}
	return tag
}

// The fields of each message that are read here, or that change nothing that this proxy does.
const (
	listenerFields = "name address traffic_direction use_original_dst listener_filters filter_chains filter_chain_matcher default_filter_chain " +
		"per_connection_buffer_limit_bytes stat_prefix metadata enable_reuse_port bind_to_port drain_type connection_balance_config listener_filters_timeout continue_on_listener_filters_timeout"
	chainFields = "name filters transport_socket transport_socket_connect_timeout filter_chain_match metadata"
	matchFields = ""
	hcmFields   = "codec_type stat_prefix rds route_config http_filters add_user_agent tracing common_http_protocol_options " +
		"http_protocol_options http2_protocol_options server_name server_header_transformation max_request_headers_kb stream_idle_timeout " +
		"request_headers_timeout drain_timeout delayed_close_timeout access_log use_remote_address xff_num_trusted_hops skip_xff_append via " +
		"generate_request_id preserve_external_request_id always_set_request_id_in_response forward_client_cert_details " +
		"set_current_client_cert_details upgrade_configs normalize_path merge_slashes path_with_escaped_slashes_action local_reply_config"
	tcpFields      = "stat_prefix cluster weighted_clusters idle_timeout max_downstream_connection_duration access_log tunneling_config max_connect_attempts metadata_match"
	vhostFields    = "name domains routes request_headers_to_add request_headers_to_remove response_headers_to_add response_headers_to_remove typed_per_filter_config metadata"
	routeFields    = "name match route redirect direct_response metadata request_headers_to_add request_headers_to_remove response_headers_to_add response_headers_to_remove typed_per_filter_config stat_prefix per_request_buffer_limit_bytes request_body_buffer_limit"
	pathFields     = "prefix path path_separated_prefix safe_regex case_sensitive headers query_parameters grpc runtime_fraction"
	commonFields   = "tls_params alpn_protocols tls_certificates tls_certificate_sds_secret_configs validation_context_sds_secret_config combined_validation_context"
	validateFields = "trusted_ca match_typed_subject_alt_names custom_validator_config"
	serverFields   = "common_tls_context require_client_certificate disable_stateless_session_resumption disable_stateful_session_resumption"
	clientFields   = "common_tls_context sni max_session_keys allow_renegotiation"
)
