// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"strconv"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	matchv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/matcher/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/connect/chain"
)

// registrationConfig reads the keys of an upstream's opaque configuration.
func registrationConfig(o catalog.Opaque) *catalog.UpstreamConfig {
	c := &catalog.UpstreamConfig{ConnectTimeoutMs: int(mustNumber(o, "connect_timeout_ms"))}
	if l := table(o, "limits"); l != nil {
		c.Limits = &catalog.UpstreamLimits{
			MaxConnections: limit(l, "max_connections"), MaxPendingRequests: limit(l, "max_pending_requests"),
			MaxConcurrentRequests: limit(l, "max_concurrent_requests"), MaxRequestsPerConnection: limit(l, "max_requests_per_connection"),
		}
	}
	if p := table(o, "passive_health_check"); p != nil {
		c.PassiveHealthCheck = &catalog.PassiveHealthCheck{MaxFailures: uint32(mustNumber(p, "max_failures"))}
		c.PassiveHealthCheck.Interval, _ = span(p, "interval")
		if d, ok := span(p, "base_ejection_time"); ok {
			c.PassiveHealthCheck.BaseEjectionTime = &d
		}
		for key, to := range map[string]**uint32{
			"enforcing_consecutive_5xx": &c.PassiveHealthCheck.EnforcingConsecutive5xx, "max_ejection_percent": &c.PassiveHealthCheck.MaxEjectionPercent,
		} {
			if n, ok := number(p, key); ok && n >= 0 && n <= 100 {
				v := uint32(n)
				*to = &v
			}
		}
	}
	return c
}

// span is a duration, as "5s" or in nanoseconds.
func span(o catalog.Opaque, key string) (time.Duration, bool) {
	if d, err := time.ParseDuration(text(o, key)); err == nil {
		return d, true
	}
	ns, ok := number(o, key)
	return time.Duration(ns), ok
}

func limit(o catalog.Opaque, key string) *int {
	if n, ok := number(o, key); ok {
		i := int(n)
		return &i
	}
	return nil
}

// breakers bound what is sent to a cluster. Retries that a route asked for are held to a budget, unless a number of them was
// said; those of what certainly wasn't processed cost nobody anything and are free.
func breakers(l *catalog.UpstreamLimits, retried bool) *clusterv3.CircuitBreakers {
	t := unlimited().Thresholds[0]
	for _, set := range []struct {
		to   **wrapperspb.UInt32Value
		from *int
	}{
		{&t.MaxConnections, l.MaxConnections}, {&t.MaxPendingRequests, l.MaxPendingRequests}, {&t.MaxRequests, l.MaxConcurrentRequests},
		{&t.MaxRetries, l.MaxConcurrentRetries},
	} {
		if set.from != nil && *set.from > 0 {
			*set.to = wrapperspb.UInt32(uint32(*set.from))
		}
	}
	if l.MaxConcurrentRetries != nil || !retried && l.RetryBudget == nil {
		return &clusterv3.CircuitBreakers{Thresholds: []*clusterv3.CircuitBreakers_Thresholds{t}}
	}
	percent, least := 18.0, uint32(3)
	if b := l.RetryBudget; b != nil {
		if b.Percent != nil {
			percent = *b.Percent
		}
		if b.MinConcurrent != nil {
			least = uint32(*b.MinConcurrent)
		}
	}
	t.MaxRetries = nil
	t.RetryBudget = &clusterv3.CircuitBreakers_Thresholds_RetryBudget{
		// Envoy counts the retries among the requests of which they are a share.
		BudgetPercent: &typev3.Percent{Value: 100 * percent / (100 + percent)}, MinRetryConcurrency: wrapperspb.UInt32(least),
	}
	return &clusterv3.CircuitBreakers{Thresholds: []*clusterv3.CircuitBreakers_Thresholds{t}}
}

// retriedTo are the nodes of a chain that a route with retries of its own leads to.
func retriedTo(c *chain.Chain) map[string]bool {
	out := map[string]bool{}
	for _, n := range c.Nodes {
		for _, r := range n.Routes {
			if r.Definition == nil || !asksForRetries(r.Definition.Destination) {
				continue
			}
			out[r.NextNode] = true
			if next := c.Nodes[r.NextNode]; next != nil {
				for _, s := range next.Splits {
					out[s.NextNode] = true
				}
			}
		}
	}
	return out
}

// fill completes limits by those that hold where nothing was said.
func fill(said, base *catalog.UpstreamLimits) *catalog.UpstreamLimits {
	out := &catalog.UpstreamLimits{}
	if base != nil {
		*out = *base
	}
	if said == nil {
		return out
	}
	for _, set := range []struct{ to, from **int }{
		{&out.MaxConnections, &said.MaxConnections}, {&out.MaxPendingRequests, &said.MaxPendingRequests},
		{&out.MaxConcurrentRequests, &said.MaxConcurrentRequests}, {&out.MaxRequestsPerConnection, &said.MaxRequestsPerConnection},
		{&out.MaxConcurrentRetries, &said.MaxConcurrentRetries},
	} {
		if *set.from != nil {
			*set.to = *set.from
		}
	}
	if said.RetryBudget != nil || said.MaxConcurrentRetries != nil {
		out.RetryBudget = said.RetryBudget
	}
	return out
}

// outlier says each of Envoy's kinds of ejection, so that none holds that nobody asked for.
func outlier(p *catalog.PassiveHealthCheck) *clusterv3.OutlierDetection {
	if p == nil {
		return nil
	}
	off := wrapperspb.UInt32(0)
	o := &clusterv3.OutlierDetection{EnforcingSuccessRate: off, EnforcingConsecutiveGatewayFailure: off}
	if p.Interval > 0 {
		o.Interval = durationpb.New(p.Interval)
	}
	if p.MaxFailures > 0 {
		o.Consecutive_5Xx = wrapperspb.UInt32(p.MaxFailures)
	}
	if p.EnforcingConsecutive5xx != nil {
		o.EnforcingConsecutive_5Xx = wrapperspb.UInt32(*p.EnforcingConsecutive5xx)
	}
	if p.MaxEjectionPercent != nil {
		o.MaxEjectionPercent = wrapperspb.UInt32(*p.MaxEjectionPercent)
	}
	if p.BaseEjectionTime != nil {
		o.BaseEjectionTime = durationpb.New(*p.BaseEjectionTime)
	}
	if p.MaxEjectionTime != nil {
		o.MaxEjectionTime = durationpb.New(*p.MaxEjectionTime)
	}
	if p.EjectionJitter > 0 {
		o.MaxEjectionTimeJitter = durationpb.New(p.EjectionJitter)
	}
	if p.AlwaysEjectOne {
		o.AlwaysEjectOneHost = wrapperspb.Bool(true)
	}
	moreKinds(o, p)
	return o
}

func moreKinds(o *clusterv3.OutlierDetection, p *catalog.PassiveHealthCheck) {
	on := wrapperspb.UInt32(100)
	set := func(to **wrapperspb.UInt32Value, v uint32) {
		if v > 0 {
			*to = wrapperspb.UInt32(v)
		}
	}
	if p.MaxGatewayFailures > 0 {
		o.ConsecutiveGatewayFailure, o.EnforcingConsecutiveGatewayFailure = wrapperspb.UInt32(p.MaxGatewayFailures), on
	}
	if p.MaxLocalFailures > 0 {
		o.SplitExternalLocalOriginErrors = true
		o.ConsecutiveLocalOriginFailure, o.EnforcingLocalOriginSuccessRate = wrapperspb.UInt32(p.MaxLocalFailures), wrapperspb.UInt32(0)
	}
	if s := p.SuccessRate; s != nil {
		o.EnforcingSuccessRate = on
		set(&o.SuccessRateMinimumHosts, s.MinimumHosts)
		set(&o.SuccessRateRequestVolume, s.RequestVolume)
		set(&o.SuccessRateStdevFactor, uint32(s.Deviation*1000+0.5))
	}
	if f := p.FailurePercentage; f != nil {
		o.EnforcingFailurePercentage = on
		set(&o.FailurePercentageThreshold, f.Threshold)
		set(&o.FailurePercentageMinimumHosts, f.MinimumHosts)
		set(&o.FailurePercentageRequestVolume, f.RequestVolume)
	}
	if others := p.MaxGatewayFailures > 0 || p.MaxLocalFailures > 0 || p.SuccessRate != nil || p.FailurePercentage != nil; others && p.MaxFailures == 0 {
		o.EnforcingConsecutive_5Xx = wrapperspb.UInt32(0) // only what was asked for
	}
}

// anyStatus matches answers of any of the statuses.
func anyStatus(codes []uint32) *matchv3.MatchPredicate {
	one := func(code uint32) *matchv3.MatchPredicate {
		return &matchv3.MatchPredicate{Rule: &matchv3.MatchPredicate_HttpResponseHeadersMatch{HttpResponseHeadersMatch: &matchv3.HttpHeadersMatch{
			Headers: []*routev3.HeaderMatcher{headerMatcher(headerForm{name: ":status", exact: strconv.Itoa(int(code))})},
		}}}
	}
	if len(codes) == 1 {
		return one(codes[0])
	}
	set := &matchv3.MatchPredicate_MatchSet{}
	for _, code := range codes {
		set.Rules = append(set.Rules, one(code))
	}
	return &matchv3.MatchPredicate{Rule: &matchv3.MatchPredicate_OrMatch{OrMatch: set}}
}
