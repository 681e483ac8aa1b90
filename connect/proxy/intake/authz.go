// SPDX-License-Identifier: Apache-2.0

package intake

import (
	"errors"
	"fmt"
	"net/url"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	httprbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/weftmesh/weft/connect/proxy/config"
)

const (
	extAuthzURL = typePrefix + "extensions.filters.http.ext_authz.v3.ExtAuthz"
	authzFields = "grpc_service http_service transport_api_version failure_mode_allow with_request_body clear_route_cache status_on_error " +
		"filter_enabled_metadata include_peer_certificate stat_prefix allowed_headers disallowed_headers decoder_header_mutation_rules validate_mutations"
	// authzPrefix is that of rules that mark the requests which somebody is asked about; the mark is found under authzMark.
	authzPrefix = "ext_authz_"
	authzMark   = authzPrefix + "shadow_effective_policy_id"
	rbacName    = "envoy.filters.http.rbac"
)

// compileHTTPRules takes an RBAC filter, whose rules are read from routes, or marks of which requests somebody is asked about.
func compileHTTPRules(h *config.HTTP, a *anypb.Any, marks **config.Policies) error {
	m, err := read[*httprbacv3.RBAC](a)
	if err != nil {
		return err
	}
	if m.GetShadowRulesStatPrefix() == authzPrefix && m.GetShadowRules() != nil {
		if err := only(m, "shadow_rules shadow_rules_stat_prefix"); err != nil {
			return err
		}
		*marks, err = compileRules(m.GetShadowRules())
		if err == nil && !(*marks).Allow {
			err = errors.New("shadow_rules.action: marks are of the action ALLOW")
		}
		return err
	}
	if err := only(m, ""); err != nil {
		return fmt.Errorf("rules are read from routes only: %w", err)
	}
	h.Authorize = true
	return nil
}

// compileAsk reads who else decides; marks are the requests that were marked before, nil where none were.
func compileAsk(a *anypb.Any, marks *config.Policies) (*config.Ask, error) {
	m, err := read[*authzv3.ExtAuthz](a)
	if err != nil {
		return nil, err
	}
	body, rules := m.GetWithRequestBody(), m.GetDecoderHeaderMutationRules()
	if err := errors.Join(only(m, authzFields), only(body, "max_request_bytes allow_partial_message pack_as_bytes"), only(rules, "disallow_system")); err != nil {
		return nil, err
	}
	out := &config.Ask{
		Open: m.GetFailureModeAllow(), Status: int(m.GetStatusOnError().GetCode()), Certificate: m.GetIncludePeerCertificate(),
		MaxBody: int(body.GetMaxRequestBytes()), Partial: body.GetAllowPartialMessage(), Send: anyString(),
	}
	if out.Status == 0 {
		out.Status = 403
	}
	if mark := m.GetFilterEnabledMetadata(); mark != nil {
		path := mark.GetPath()
		if mark.GetFilter() != rbacName || len(path) != 1 || path[0].GetKey() != authzMark || !mark.GetValue().GetPresentMatch() || mark.GetInvert() || marks == nil {
			return nil, fmt.Errorf("filter_enabled_metadata: this proxy knows the presence of %s %s alone, of an RBAC filter before this one", rbacName, authzMark)
		}
		out.Only = marks
	}
	if m.GetAllowedHeaders() != nil {
		if out.Send, err = compileStrings(m.GetAllowedHeaders()); err != nil {
			return nil, fmt.Errorf("allowed_headers: %w", err)
		}
	}
	if out.Hide, err = compileStrings(m.GetDisallowedHeaders()); err != nil {
		return nil, fmt.Errorf("disallowed_headers: %w", err)
	}
	switch s := m.GetServices().(type) {
	case *authzv3.ExtAuthz_GrpcService:
		err = askByGRPC(out, s.GrpcService)
	case *authzv3.ExtAuthz_HttpService:
		if m.GetAllowedHeaders() == nil {
			out.Send = []config.StringMatch{{Kind: config.MatchExact, Text: "authorization", CaseFold: true}}
		}
		err = askByHTTP(out, s.HttpService)
	default:
		err = errors.New("want grpc_service or http_service")
	}
	if err == nil && (out.Cluster == "" || out.Timeout <= 0) {
		err = errors.New("want a cluster and a timeout")
	}
	return out, err
}

func anyString() []config.StringMatch { return []config.StringMatch{{Kind: config.MatchAny}} }

func askByGRPC(out *config.Ask, s *corev3.GrpcService) error {
	e := s.GetEnvoyGrpc()
	if err := errors.Join(only(s, "envoy_grpc timeout initial_metadata"), only(e, "cluster_name authority")); err != nil {
		return fmt.Errorf("grpc_service: %w", err)
	}
	out.GRPC, out.Cluster, out.Timeout = true, e.GetClusterName(), s.GetTimeout().AsDuration()
	if out.Authority = e.GetAuthority(); out.Authority == "" {
		out.Authority = out.Cluster
	}
	out.Add = headersToAdd(s.GetInitialMetadata())
	return nil
}

func askByHTTP(out *config.Ask, s *authzv3.HttpService) error {
	uri, ask, answer := s.GetServerUri(), s.GetAuthorizationRequest(), s.GetAuthorizationResponse()
	err := errors.Join(only(s, "server_uri path_prefix authorization_request authorization_response"), only(uri, "uri cluster timeout"),
		only(ask, "headers_to_add"), only(answer, "allowed_upstream_headers allowed_client_headers"))
	if err != nil {
		return fmt.Errorf("http_service: %w", err)
	}
	out.Cluster, out.Timeout, out.PathPrefix, out.Add = uri.GetCluster(), uri.GetTimeout().AsDuration(), s.GetPathPrefix(), headersToAdd(ask.GetHeadersToAdd())
	at, err := url.Parse(uri.GetUri())
	if err != nil || at.Host == "" {
		return fmt.Errorf("http_service.server_uri.uri %q: want http:// and a host", uri.GetUri())
	}
	out.Authority = at.Host
	if out.Pass, err = compileStrings(answer.GetAllowedUpstreamHeaders()); err != nil {
		return fmt.Errorf("allowed_upstream_headers: %w", err)
	}
	out.Deny = anyString()
	if answer.GetAllowedClientHeaders() != nil {
		if out.Deny, err = compileStrings(answer.GetAllowedClientHeaders()); err != nil {
			return fmt.Errorf("allowed_client_headers: %w", err)
		}
	}
	return nil
}

func headersToAdd(list []*corev3.HeaderValue) (out []config.HeaderValue) {
	for _, h := range list {
		out = append(out, config.HeaderValue{Name: h.GetKey(), Value: h.GetValue()})
	}
	return out
}

func compileStrings(m *matcherv3.ListStringMatcher) (out []config.StringMatch, err error) {
	for _, p := range m.GetPatterns() {
		s, err := compileString(p)
		if err != nil {
			return nil, err
		}
		s.CaseFold = true // they are names of headers
		out = append(out, s)
	}
	return out, nil
}
