// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	faultcommonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/common/fault/v3"
	corsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/cors/v3"
	faultv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	previousv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/host/previous_hosts/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/connect/chain"
)

// Where the filters stand that routes set up; without a route's word they do nothing.
const (
	corsFilter  = "envoy.filters.http.cors"
	faultFilter = "envoy.filters.http.fault"
)

// answers makes a route that the proxy answers by itself.
func answers(out *routev3.Route, def *catalog.ServiceRoute) {
	if a := def.Response; a != nil {
		out.Action = &routev3.Route_DirectResponse{DirectResponse: &routev3.DirectResponseAction{
			Status: uint32(a.Status), Body: &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: a.Body}},
		}}
		return
	}
	a := def.Redirect
	to := &routev3.RedirectAction{HostRedirect: a.Host, PortRedirect: uint32(a.Port), StripQuery: a.StripQuery, ResponseCode: map[int]routev3.RedirectAction_RedirectResponseCode{
		302: routev3.RedirectAction_FOUND, 303: routev3.RedirectAction_SEE_OTHER, 307: routev3.RedirectAction_TEMPORARY_REDIRECT,
		308: routev3.RedirectAction_PERMANENT_REDIRECT,
	}[a.Status]}
	if a.Scheme != "" {
		to.SchemeRewriteSpecifier = &routev3.RedirectAction_SchemeRedirect{SchemeRedirect: a.Scheme}
	}
	switch {
	case a.Path != "":
		to.PathRewriteSpecifier = &routev3.RedirectAction_PathRedirect{PathRedirect: a.Path}
	case a.PrefixRewrite != "":
		to.PathRewriteSpecifier = &routev3.RedirectAction_PrefixRewrite{PrefixRewrite: a.PrefixRewrite}
	}
	out.Action = &routev3.Route_Redirect{Redirect: to}
}

func rewrites(a *routev3.RouteAction, d *catalog.ServiceRouteDestination) {
	a.PrefixRewrite = d.PrefixRewrite
	replace := func(expr, by string) {
		a.RegexRewrite = &matcherv3.RegexMatchAndSubstitute{Pattern: &matcherv3.RegexMatcher{Regex: expr}, Substitution: by}
	}
	switch {
	case d.PathRewrite != "":
		replace("^.*$", strings.ReplaceAll(d.PathRewrite, `\`, `\\`))
	case d.RegexRewrite != nil:
		replace(d.RegexRewrite.Regex, d.RegexRewrite.Substitution)
	}
	if d.HostRewrite != "" {
		a.HostRewriteSpecifier = &routev3.RouteAction_HostRewriteLiteral{HostRewriteLiteral: d.HostRewrite}
		a.AppendXForwardedHost = true
	}
}

func times(a *routev3.RouteAction, d *catalog.ServiceRouteDestination) {
	if d.IdleTimeout > 0 {
		a.IdleTimeout = durationpb.New(d.IdleTimeout)
	}
	if d.MaxStreamDuration > 0 {
		a.MaxStreamDuration = &routev3.RouteAction_MaxStreamDuration{MaxStreamDuration: durationpb.New(d.MaxStreamDuration)}
	}
}

// safeRetries sends again, to another instance, what certainly wasn't processed: no connection was made, or the request hadn't
// left. Weft's own proxy does so by itself.
func safeRetries() *routev3.RetryPolicy {
	return &routev3.RetryPolicy{RetryOn: "connect-failure,refused-stream,reset-before-request", NumRetries: wrapperspb.UInt32(2)}
}

// asksForRetries says whether a destination wants what may have been processed to be sent again.
func asksForRetries(d *catalog.ServiceRouteDestination) bool {
	return d != nil && (len(d.RetryOn) > 0 || len(d.RetryOnStatusCodes) > 0)
}

func retries(out *routev3.Route, a *routev3.RouteAction, d *catalog.ServiceRouteDestination) {
	var on []string
	if d.RetryOnConnectFailure {
		on = append(on, "connect-failure")
	}
	for _, o := range d.RetryOn {
		if !slices.Contains(on, o) {
			on = append(on, o)
		}
	}
	if len(d.RetryOnStatusCodes) > 0 && !slices.Contains(on, "retriable-status-codes") {
		on = append(on, "retriable-status-codes")
	}
	p := a.RetryPolicy
	if len(on) > 0 {
		p = &routev3.RetryPolicy{RetryOn: strings.Join(on, ","), RetriableStatusCodes: d.RetryOnStatusCodes}
		a.RetryPolicy = p
	}
	if d.NumRetries > 0 {
		p.NumRetries = wrapperspb.UInt32(d.NumRetries)
	}
	if d.PerTryTimeout > 0 {
		p.PerTryTimeout = durationpb.New(d.PerTryTimeout)
	}
	if b := d.RetryBackOff; b != nil {
		p.RetryBackOff = &routev3.RetryPolicy_RetryBackOff{BaseInterval: durationpb.New(b.Base)}
		if b.Max > 0 {
			p.RetryBackOff.MaxInterval = durationpb.New(b.Max)
		}
	}
	if d.RetryAfterMax > 0 {
		p.RateLimitedRetryBackOff = &routev3.RetryPolicy_RateLimitedRetryBackOff{
			ResetHeaders: []*routev3.RetryPolicy_ResetHeader{{Name: "retry-after", Format: routev3.RetryPolicy_SECONDS}},
			MaxInterval:  durationpb.New(d.RetryAfterMax),
		}
	}
	if d.Hedge {
		a.HedgePolicy = &routev3.HedgePolicy{HedgeOnPerTryTimeout: true}
	}
	if d.RetryOtherHost {
		if a, err := pack(&previousv3.PreviousHostsPredicate{}); err == nil { // an empty message
			p.RetryHostPredicate = []*routev3.RetryPolicy_RetryHostPredicate{{
				Name: "envoy.retry_host_predicates.previous_hosts", ConfigType: &routev3.RetryPolicy_RetryHostPredicate_TypedConfig{TypedConfig: a},
			}}
			p.HostSelectionRetryMaxAttempts = 5
		}
	}
	if len(d.RetryMethods) > 0 {
		p.RetriableRequestHeaders = []*routev3.HeaderMatcher{methodsMatcher(d.RetryMethods)}
	}
	if d.RetryBodyBytes > 0 {
		out.RequestBodyBufferLimit = wrapperspb.UInt64(uint64(d.RetryBodyBytes))
	}
}

func methodsMatcher(methods []string) *routev3.HeaderMatcher {
	var quoted []string
	for _, m := range methods {
		quoted = append(quoted, regexp.QuoteMeta(m))
	}
	return &routev3.HeaderMatcher{Name: ":method", HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{StringMatch: regex(strings.Join(quoted, "|"))}}
}

// fraction is a percentage with four decimals; nil is all.
func fraction(p *float64) *typev3.FractionalPercent {
	if p == nil {
		return &typev3.FractionalPercent{Numerator: 100}
	}
	return &typev3.FractionalPercent{Numerator: uint32(math.Round(*p * 10000)), Denominator: typev3.FractionalPercent_MILLION}
}

// configure sets one of a route's filters up.
func configure(out *routev3.Route, name string, m validated) error {
	a, err := pack(m)
	if out.TypedPerFilterConfig == nil {
		out.TypedPerFilterConfig = map[string]*anypb.Any{}
	}
	out.TypedPerFilterConfig[name] = a
	return err
}

// filters sets the route's filters up.
func (r *renderer) filters(out *routev3.Route, from *chain.Route, d *catalog.ServiceRouteDestination) error {
	if d.CORS != nil {
		if err := configure(out, corsFilter, cors(d.CORS)); err != nil {
			return err
		}
	}
	f := d.Fault
	if f == nil {
		return nil
	}
	if f.Until != nil {
		if !f.Until.After(r.in.Now) {
			return nil
		}
		r.until(*f.Until)
	}
	if f.Abort != nil && f.Abort.Reset && !r.in.Abilities.Weft {
		r.warn("%s: Fault.Abort.Reset: Envoy can't reset a caller's connection; it answers 503 in its place", from.Source)
	}
	x := fault(f)
	if r.in.Abilities.olderThan(routesIndividually) {
		amongOthers(x.Headers)
	}
	return configure(out, faultFilter, x)
}

func cors(c *catalog.CORS) *corsv3.CorsPolicy {
	out := &corsv3.CorsPolicy{
		AllowMethods: strings.Join(c.AllowMethods, ","), AllowHeaders: strings.Join(c.AllowHeaders, ","),
		ExposeHeaders: strings.Join(c.ExposeHeaders, ","), AllowCredentials: wrapperspb.Bool(c.AllowCredentials),
	}
	for _, o := range c.AllowOrigins {
		out.AllowOriginStringMatch = append(out.AllowOriginStringMatch, stringMatcher(o))
	}
	if c.MaxAge > 0 {
		out.MaxAge = strconv.Itoa(int(c.MaxAge.Seconds()))
	}
	return out
}

// resets says whether a route's fault resets callers, which only weft's own proxy can.
func resets(def *catalog.ServiceRoute) bool {
	return def != nil && def.Destination != nil && def.Destination.Fault != nil && def.Destination.Fault.Abort != nil &&
		def.Destination.Fault.Abort.Reset
}

func fault(f *catalog.Fault) *faultv3.HTTPFault {
	out := &faultv3.HTTPFault{}
	for _, h := range f.Header {
		out.Headers = append(out.Headers, headerMatcher(headerForm{
			name: h.Name, present: h.Present, exact: h.Exact, prefix: h.Prefix, suffix: h.Suffix, contains: h.Contains, regex: h.Regex,
			invert: h.Invert, fold: h.IgnoreCase, within: h.Range,
		}))
	}
	if d := f.Delay; d != nil {
		out.Delay = &faultcommonv3.FaultDelay{
			FaultDelaySecifier: &faultcommonv3.FaultDelay_FixedDelay{FixedDelay: durationpb.New(d.Duration)}, Percentage: fraction(d.Percent),
		}
	}
	if a := f.Abort; a != nil {
		out.Abort = &faultv3.FaultAbort{Percentage: fraction(a.Percent)}
		switch {
		case a.GRPCStatus != nil:
			out.Abort.ErrorType = &faultv3.FaultAbort_GrpcStatus{GrpcStatus: *a.GRPCStatus}
		case a.Reset:
			out.Abort.ErrorType = &faultv3.FaultAbort_HttpStatus{HttpStatus: 503}
		default:
			out.Abort.ErrorType = &faultv3.FaultAbort_HttpStatus{HttpStatus: uint32(a.Status)}
		}
	}
	if b := f.Bandwidth; b != nil {
		out.ResponseRateLimit = &faultcommonv3.FaultRateLimit{
			LimitType:  &faultcommonv3.FaultRateLimit_FixedLimit_{FixedLimit: &faultcommonv3.FaultRateLimit_FixedLimit{LimitKbps: uint64(b.KiBPerSecond)}},
			Percentage: fraction(b.Percent),
		}
	}
	return out
}
