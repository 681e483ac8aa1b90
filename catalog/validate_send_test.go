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
		{check(PassiveHealthCheck{EjectionJitter: -1}), "PassiveHealthCheck.EjectionJitter"},
	} {
		c.entry.Normalize()
		if err := c.entry.Validate(); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want an error that names %q", err, c.want)
		}
	}
}
