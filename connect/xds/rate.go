// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"fmt"
	"math"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	adaptivev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/adaptive_concurrency/v3"
	limitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/local_ratelimit/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/connect/identity"
)

// limitFilter is where rate limits stand among the inbound HTTP filters; routes set it up.
const limitFilter = "envoy.filters.http.local_ratelimit"

// limited is an inbound route with its limit.
type limited struct {
	match  *routev3.RouteMatch
	source string
	rate   catalog.RateLimit // 0: none
}

// rateLimits are the inbound routes: one for each path that has a limit of its own, and one for the rest.
func (r *renderer) rateLimits() []limited {
	rest := limited{match: everything(), source: "service " + r.g.Service.Name}
	limits := r.defaults().RateLimits
	if limits == nil {
		return []limited{rest}
	}
	var out []limited
	where := catalog.KindServiceDefaults + "/" + r.g.Service.Name + " RateLimits"
	rest.source = where
	if s := limits.ServiceLevel; s != nil {
		share := func(n int) int { return int(math.Ceil(float64(n) / float64(max(1, r.g.Peers)))) }
		rest.rate = catalog.RateLimit{RequestsPerSecond: share(s.RequestsPerSecond), RequestsMaxBurst: share(s.RequestsMaxBurst)}
	}
	i := limits.InstanceLevel
	if i == nil {
		return []limited{rest}
	}
	for n, route := range i.Routes {
		out = append(out, limited{
			match:  routeMatch(&catalog.ServiceRouteHTTPMatch{PathExact: route.PathExact, PathPrefix: route.PathPrefix, PathRegex: route.PathRegex}),
			source: fmt.Sprintf("%s.InstanceLevel route %d", where, n+1),
			rate:   catalog.RateLimit{RequestsPerSecond: route.RequestsPerSecond, RequestsMaxBurst: route.RequestsMaxBurst},
		})
	}
	if own := i.RequestsPerSecond; own > 0 && (rest.rate.RequestsPerSecond == 0 || own < rest.rate.RequestsPerSecond) {
		rest.rate = catalog.RateLimit{RequestsPerSecond: own, RequestsMaxBurst: i.RequestsMaxBurst}
	}
	return append(out, rest)
}

func bucket(l catalog.RateLimit) *typev3.TokenBucket {
	if l.RequestsPerSecond == 0 {
		l.RequestsPerSecond = math.MaxInt32 // who has no limit
	}
	if l.RequestsMaxBurst == 0 {
		l.RequestsMaxBurst = l.RequestsPerSecond
	}
	return &typev3.TokenBucket{
		MaxTokens: uint32(l.RequestsMaxBurst), TokensPerFill: wrapperspb.UInt32(uint32(l.RequestsPerSecond)), FillInterval: durationpb.New(time.Second),
	}
}

// localLimit is nil where nothing is limited. A caller is known by the certificate that its sidecar showed, which the proxy
// itself has put into x-forwarded-client-cert.
func (r *renderer) localLimit(l limited) *limitv3.LocalRateLimit {
	var callers []catalog.CallerRateLimit
	if limits := r.defaults().RateLimits; limits != nil {
		callers = limits.Callers
	}
	if l.rate.RequestsPerSecond == 0 && len(callers) == 0 {
		return nil
	}
	all := &corev3.RuntimeFractionalPercent{DefaultValue: &typev3.FractionalPercent{Numerator: 100}}
	out := &limitv3.LocalRateLimit{
		StatPrefix: "inbound", TokenBucket: bucket(l.rate), FilterEnabled: all, FilterEnforced: all, RateLimitedAsResourceExhausted: true,
	}
	const key = "caller"
	for _, c := range callers {
		who := identity.Service{
			TrustDomain: r.td, Partition: r.g.Service.Partition, Namespace: r.g.Service.Namespace, Datacenter: r.g.Service.Datacenter, Service: c.Service,
		}
		out.Descriptors = append(out.Descriptors, &ratelimitv3.LocalRateLimitDescriptor{
			Entries:     []*ratelimitv3.RateLimitDescriptor_Entry{{Key: key, Value: c.Service}},
			TokenBucket: bucket(catalog.RateLimit{RequestsPerSecond: c.RequestsPerSecond, RequestsMaxBurst: c.RequestsMaxBurst}),
		})
		out.RateLimits = append(out.RateLimits, &routev3.RateLimit{Actions: []*routev3.RateLimit_Action{{
			ActionSpecifier: &routev3.RateLimit_Action_HeaderValueMatch_{HeaderValueMatch: &routev3.RateLimit_Action_HeaderValueMatch{
				DescriptorKey: key, DescriptorValue: c.Service,
				Headers: []*routev3.HeaderMatcher{headerMatcher(headerForm{name: "x-forwarded-client-cert", suffix: "URI=" + who.String(), fold: true})},
			}},
		}}})
	}
	return out
}

// adaptiveFilter is where the bound on concurrent requests stands, after authorisation and rate limits.
const adaptiveFilter = "envoy.filters.http.adaptive_concurrency"

func adaptive(a *catalog.AdaptiveConcurrency) *adaptivev3.AdaptiveConcurrency {
	return &adaptivev3.AdaptiveConcurrency{ConcurrencyControllerConfig: &adaptivev3.AdaptiveConcurrency_GradientControllerConfig{
		GradientControllerConfig: &adaptivev3.GradientControllerConfig{
			ConcurrencyLimitParams: &adaptivev3.GradientControllerConfig_ConcurrencyLimitCalculationParams{
				MaxConcurrencyLimit: wrapperspb.UInt32(a.MaxConcurrency), ConcurrencyUpdateInterval: durationpb.New(a.Interval),
			},
			MinRttCalcParams: &adaptivev3.GradientControllerConfig_MinimumRTTCalculationParams{
				Interval: durationpb.New(a.BaselineInterval), RequestCount: wrapperspb.UInt32(a.BaselineRequests), MinConcurrency: wrapperspb.UInt32(a.MinConcurrency),
			},
		},
	}}
}
