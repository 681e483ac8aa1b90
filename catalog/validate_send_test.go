// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"errors"
	"strings"
	"testing"
	"time"
)

// Each refusal names the field.
func TestTrafficRefusals(t *testing.T) {
	over, n := 101.0, 3
	dest := func(d ServiceRouteDestination) Entry {
		return &ServiceRouter{EntryHead: EntryHead{Name: "api"}, Routes: []ServiceRoute{{Destination: &d}}}
	}
	at := func(m ServiceRouteHTTPMatch) Entry {
		return &ServiceRouter{EntryHead: EntryHead{Name: "api"}, Routes: []ServiceRoute{{Match: &ServiceRouteMatch{HTTP: &m}}}}
	}
	permit := func(p IntentionPermission) Entry {
		return &ServiceIntentions{EntryHead: EntryHead{Name: "api"}, Sources: []SourceIntention{{Name: "web", Permissions: []IntentionPermission{p}}}}
	}
	keys := &JSONWebKeySet{Local: &LocalJWKS{JWKS: "x"}}
	check := func(p PassiveHealthCheck) Entry {
		return &ServiceResolver{EntryHead: EntryHead{Name: "api"}, PassiveHealthCheck: &p}
	}
	for _, c := range []struct {
		entry Entry
		want  string
	}{
		{at(ServiceRouteHTTPMatch{PathRegex: "(?!x)"}), "Routes[0].Match.HTTP.PathRegex"},
		{at(ServiceRouteHTTPMatch{Header: []ServiceRouteHTTPMatchHeader{{Name: "x", Range: &Range{From: 2, To: 2}}}}), "Header[0].Range"},
		{at(ServiceRouteHTTPMatch{Scheme: "ftp"}), "Match.HTTP.Scheme"},
		{at(ServiceRouteHTTPMatch{Port: 70000}), "Match.HTTP.Port"},
		{at(ServiceRouteHTTPMatch{PathExact: "/x", GRPC: &GRPCMatch{Service: "s"}}), "GRPC and the path forms"},
		{at(ServiceRouteHTTPMatch{Authority: &StringMatch{}}), "Match.HTTP.Authority"},
		{&ServiceRouter{EntryHead: EntryHead{Name: "api"}, Routes: []ServiceRoute{{MatchAny: []ServiceRouteMatch{{Source: &RouteSource{Identities: []string{"web"}}}}}}}, "MatchAny[0].Source.Identities[0]"},
		{&ServiceRouter{EntryHead: EntryHead{Name: "api"}, Routes: []ServiceRoute{{Redirect: &HTTPRedirect{Status: 301}}}}, "Routes[0].Redirect"},
		{&ServiceRouter{EntryHead: EntryHead{Name: "api"}, Routes: []ServiceRoute{{Response: &HTTPResponse{Status: 99}}}}, "Routes[0].Response.Status"},
		{&ServiceRouter{EntryHead: EntryHead{Name: "api"}, Routes: []ServiceRoute{{Response: &HTTPResponse{Status: 200}, Destination: &ServiceRouteDestination{}}}}, "exclude each other"},
		{dest(ServiceRouteDestination{PathRewrite: "x"}), "Destination.PathRewrite"},
		{dest(ServiceRouteDestination{RegexRewrite: &RegexRewrite{Regex: "["}}), "RegexRewrite.Regex"},
		{dest(ServiceRouteDestination{Mirror: []Mirror{{Service: "x", Percent: &over}}}), "Mirror[0].Percent"},
		{dest(ServiceRouteDestination{CORS: &CORS{}}), "CORS.AllowOrigins"},
		{dest(ServiceRouteDestination{RequestTimeout: time.Second, PerTryTimeout: 2 * time.Second}), "Destination.PerTryTimeout"},
		{dest(ServiceRouteDestination{RetryOtherHost: true}), "RetryOtherHost"},
		{dest(ServiceRouteDestination{Fault: &Fault{}}), "Destination.Fault"},
		{dest(ServiceRouteDestination{Fault: &Fault{Abort: &FaultAbort{Status: 500, Reset: true}}}), "Fault.Abort"},
		{&ServiceSplitter{EntryHead: EntryHead{Name: "api"}, Splits: []ServiceSplit{{Weight: 99}}}, "must be 100, not 99"},
		{&ServiceSplitter{EntryHead: EntryHead{Name: "api"}, Splits: []ServiceSplit{{Weight: 100}}, Sticky: []HashPolicy{{Field: "body", FieldValue: "x"}}}, "Sticky[0].Field"},
		{&ServiceResolver{EntryHead: EntryHead{Name: "api"}, Limits: &UpstreamLimits{MaxConcurrentRetries: &n, RetryBudget: &RetryBudget{}}}, "Limits.RetryBudget"},
		{&ServiceResolver{EntryHead: EntryHead{Name: "api"}, PassiveHealthCheck: &PassiveHealthCheck{FailurePercentage: &FailurePercentage{Threshold: 101}}}, "FailurePercentage.Threshold"},
		{check(PassiveHealthCheck{FailureStatusCodes: []uint32{429, 199}}), "PassiveHealthCheck.FailureStatusCodes[1]"},
		{check(PassiveHealthCheck{FailureStatusCodes: []uint32{429}, MaxGatewayFailures: 3}), "FailureStatusCodes and MaxGatewayFailures"},
		{&ServiceResolver{EntryHead: EntryHead{Name: "api"}, Connections: &Connections{MaxAge: -1}}, "Connections.MaxAge"},
		{&ServiceResolver{EntryHead: EntryHead{Name: "api"}, Connections: &Connections{KeepAlive: &KeepAlive{Time: time.Millisecond}}}, "Connections.KeepAlive.Time"},
		{&ServiceResolver{EntryHead: EntryHead{Name: "api"}, Connections: &Connections{Ping: &Ping{}}}, "Connections.Ping"},
		{&ServiceDefaults{EntryHead: EntryHead{Name: "api"}, UpstreamConfig: &UpstreamDefaults{Defaults: &UpstreamConfig{Connections: &Connections{MaxStreams: -1}}}}, "UpstreamConfig.Defaults.Connections.MaxStreams"},
		{&ServiceDefaults{EntryHead: EntryHead{Name: "api"}, Protocol: "tcp", InboundConnections: &InboundConnections{MaxRequests: 1}}, "InboundConnections.MaxRequests"},
		{&ServiceDefaults{EntryHead: EntryHead{Name: "api"}, Protocol: "http", LocalProxyProtocol: "v1"}, "LocalProxyProtocol"},
		{&ServiceDefaults{EntryHead: EntryHead{Name: "api"}, LocalProxyProtocol: "v3"}, "LocalProxyProtocol"},
		{&JWTProvider{EntryHead: EntryHead{Name: "p"}, JSONWebKeySet: keys, ClaimHeaders: []JWTClaimHeader{{Claim: "a..b", Header: "x"}}}, "ClaimHeaders[0].Claim"},
		{&JWTProvider{EntryHead: EntryHead{Name: "p"}, JSONWebKeySet: keys, ClaimHeaders: []JWTClaimHeader{{Claim: "a", Header: "Host"}}}, "ClaimHeaders[0].Header"},
		{&JWTProvider{EntryHead: EntryHead{Name: "p"}, JSONWebKeySet: keys, SpaceDelimitedClaims: []string{""}}, "SpaceDelimitedClaims[0]"},
		{permit(IntentionPermission{Action: "allow"}), "Permissions[0].HTTP"},
		{permit(IntentionPermission{Action: "allow", HTTP: &IntentionHTTPPermission{Hosts: []string{"a", "a:80"}}}), "Permissions[0].HTTP.Hosts[1]"},
		{permit(IntentionPermission{Action: "allow", Not: &IntentionHTTPPermission{PathRegex: "["}}), "Permissions[0].Not.PathRegex"},
		{permit(IntentionPermission{Action: "allow", Not: &IntentionHTTPPermission{}}), "Permissions[0].Not should not be empty"},
		{check(PassiveHealthCheck{EjectionJitter: -1}), "PassiveHealthCheck.EjectionJitter"},
	} {
		c.entry.Normalize()
		if err := c.entry.Validate(); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want an error that names %q", err, c.want)
		}
	}
}
