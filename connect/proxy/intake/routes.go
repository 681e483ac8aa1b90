// SPDX-License-Identifier: Apache-2.0

package intake

import (
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	httprbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/weftmesh/weft/connect/proxy/config"
	proxyv1 "github.com/weftmesh/weft/proto/weft/proxy/v1"
)

const rbacPerRouteURL = typePrefix + "extensions.filters.http.rbac.v3.RBACPerRoute"

func compileRoutes(m *routev3.RouteConfiguration) (*config.RouteTable, error) {
	t := &config.RouteTable{Name: m.GetName()}
	shared, err := compilePerRoute(m.GetTypedPerFilterConfig())
	if err != nil {
		return nil, err
	}
	policies := shared.authorize
	for i, v := range m.GetVirtualHosts() {
		if err := only(v, vhostFields); err != nil {
			return nil, fmt.Errorf("virtual_hosts[%d]: %w", i, err)
		}
		h := &config.VirtualHost{Name: v.GetName(), Domains: v.GetDomains(), Request: mutations(v.GetRequestHeadersToAdd(), v.GetRequestHeadersToRemove()), Response: mutations(v.GetResponseHeadersToAdd(), v.GetResponseHeadersToRemove())}
		own, err := compilePerRoute(v.GetTypedPerFilterConfig())
		if err != nil {
			return nil, fmt.Errorf("virtual_hosts[%d]: %w", i, err)
		}
		if h.Authorize = own.authorize; h.Authorize == nil {
			h.Authorize = policies
		}
		own.authorize, shared.authorize = nil, nil
		if !reflect.DeepEqual(own, perRoute{}) || !reflect.DeepEqual(shared, perRoute{}) {
			return nil, fmt.Errorf("virtual_hosts[%d]: of filters only authorisation is read here; the others from routes", i)
		}
		for j, r := range v.GetRoutes() {
			route, err := compileRoute(r)
			if err != nil {
				return nil, fmt.Errorf("virtual_hosts[%d].routes[%d]: %w", i, j, err)
			}
			h.Routes = append(h.Routes, route)
		}
		t.Hosts = append(t.Hosts, h)
	}
	return t, nil
}

// perRoute is what a route, virtual host or table sets of filters.
type perRoute struct {
	authorize []*config.Policies // not nil where it stands in place of what is further out, even if it checks nothing
	cors      *config.CORS
	fault     *config.Fault
	limit     *config.RateLimit
	session   *config.Session
}

// compilePerRoute reads the filters' settings; one that isn't known is refused, for it might protect.
func compilePerRoute(all map[string]*anypb.Any) (perRoute, error) {
	var out perRoute
	for name, a := range all {
		var err error
		switch a.GetTypeUrl() {
		case rbacPerRouteURL:
			var p *config.Policies
			if p, err = perRouteRBAC(a); p != nil {
				out.authorize = append(out.authorize, p)
			} else if out.authorize == nil {
				out.authorize = []*config.Policies{}
			}
		case corsPolicyURL:
			out.cors, err = compileCORS(a)
		case faultURL:
			out.fault, err = compileFault(a)
		case rateLimitURL:
			out.limit, err = compileLimit(a)
		case sessionRouteURL:
			out.session, err = compileSession(a)
		default:
			err = errors.New("not known to this proxy")
		}
		if err != nil {
			return out, fmt.Errorf("typed_per_filter_config %s (%s): %w", name, a.GetTypeUrl(), err)
		}
	}
	return out, nil
}

// perRouteRBAC gives nil where explicitly nothing is checked.
func perRouteRBAC(a *anypb.Any) (*config.Policies, error) {
	m, err := read[*httprbacv3.RBACPerRoute](a)
	if err != nil {
		return nil, err
	}
	if m.GetRbac().GetRules() == nil {
		return auditPolicies(m.GetRbac().GetShadowRules(), m.GetRbac().GetShadowRulesStatPrefix())
	}
	return compilePolicies(m.GetRbac().GetRules(), m.GetRbac().GetShadowRules())
}

func compileRoute(m *routev3.Route) (*config.Route, error) {
	if err := only(m, routeFields); err != nil {
		return nil, err
	}
	r := &config.Route{
		Name: m.GetName(), Request: mutations(m.GetRequestHeadersToAdd(), m.GetRequestHeadersToRemove()),
		Response: mutations(m.GetResponseHeadersToAdd(), m.GetResponseHeadersToRemove()),
	}
	var err error
	if r.Match, err = compileMatch(m.GetMatch()); err != nil {
		return nil, fmt.Errorf("match: %w", err)
	}
	own, err := compilePerRoute(m.GetTypedPerFilterConfig())
	if err != nil {
		return nil, err
	}
	r.Authorize, r.CORS, r.Fault, r.Limit, r.Session = own.authorize, own.cors, own.fault, own.limit, own.session
	if a := m.GetMetadata().GetTypedFilterMetadata()[routeInfoKey]; a != nil {
		info := &proxyv1.RouteInfo{}
		if err := unpack(a, info); err != nil {
			return nil, fmt.Errorf("metadata %s: %w", routeInfoKey, err)
		}
		r.Source = info.GetSource()
		if r.Fault != nil {
			r.Fault.AbortReset = info.GetFaultReset()
		}
	}
	switch a := m.GetAction().(type) {
	case *routev3.Route_Route:
		if r.Forward, err = compileForward(a.Route); err == nil && r.Forward.Retry != nil {
			limit := m.GetRequestBodyBufferLimit().GetValue()
			if limit == 0 {
				limit = uint64(m.GetPerRequestBufferLimitBytes().GetValue())
			}
			r.Forward.Retry.MaxBody = int(min(limit, 16<<20))
		}
		return r, err
	case *routev3.Route_Redirect:
		r.Redirect = &config.Redirect{
			Scheme: a.Redirect.GetSchemeRedirect(), Host: a.Redirect.GetHostRedirect(), Path: a.Redirect.GetPathRedirect(),
			PrefixTo: a.Redirect.GetPrefixRewrite(), Port: a.Redirect.GetPortRedirect(), StripQuery: a.Redirect.GetStripQuery(),
			Status: map[routev3.RedirectAction_RedirectResponseCode]int{
				routev3.RedirectAction_MOVED_PERMANENTLY: 301, routev3.RedirectAction_FOUND: 302, routev3.RedirectAction_SEE_OTHER: 303,
				routev3.RedirectAction_TEMPORARY_REDIRECT: 307, routev3.RedirectAction_PERMANENT_REDIRECT: 308,
			}[a.Redirect.GetResponseCode()],
		}
		return r, nil
	case *routev3.Route_DirectResponse:
		body, err := bytesOf(a.DirectResponse.GetBody())
		if a.DirectResponse.GetBody() != nil && err != nil {
			return nil, fmt.Errorf("direct_response.body: %w", err)
		}
		r.Direct = &config.Direct{Status: int(a.DirectResponse.GetStatus()), Body: body}
		return r, nil
	}
	return nil, fmt.Errorf("action %T: not known to this proxy", m.GetAction())
}

func compileMatch(m *routev3.RouteMatch) (config.Match, error) {
	if err := only(m, pathFields); err != nil {
		return config.Match{}, err
	}
	out := config.Match{CaseFold: m.GetCaseSensitive() != nil && !m.GetCaseSensitive().GetValue(), GRPC: m.GetGrpc() != nil}
	switch p := m.GetPathSpecifier().(type) {
	case *routev3.RouteMatch_Prefix:
		out.Prefix = p.Prefix
	case *routev3.RouteMatch_Path:
		out.Exact = p.Path
	case *routev3.RouteMatch_PathSeparatedPrefix:
		out.Separated = p.PathSeparatedPrefix
	case *routev3.RouteMatch_SafeRegex:
		re, err := whole(p.SafeRegex)
		if err != nil {
			return out, err
		}
		out.Regex = re
	default:
		return out, fmt.Errorf("path_specifier %T: not known to this proxy", p)
	}
	for i, h := range m.GetHeaders() {
		hm, err := compileHeader(h)
		if err != nil {
			return out, fmt.Errorf("headers[%d]: %w", i, err)
		}
		out.Headers = append(out.Headers, *hm)
	}
	for i, q := range m.GetQueryParameters() {
		qm := config.QueryMatch{Name: q.GetName(), Present: q.GetPresentMatch()}
		if s := q.GetStringMatch(); s != nil {
			var err error
			if qm.Value, err = compileString(s); err != nil {
				return out, fmt.Errorf("query_parameters[%d]: %w", i, err)
			}
		}
		out.Query = append(out.Query, qm)
	}
	if m.GetRuntimeFraction() != nil {
		return out, errors.New("runtime_fraction: not known to this proxy")
	}
	return out, nil
}

// whole compiles a regular expression that must match all of a string, as Envoy's do.
func whole(m *matcherv3.RegexMatcher) (*regexp.Regexp, error) {
	re, err := regexp.Compile(`^(?:` + m.GetRegex() + `)$`)
	if err != nil {
		return nil, fmt.Errorf("safe_regex: %w", err)
	}
	return re, nil
}

func compileHeader(m *routev3.HeaderMatcher) (*config.HeaderMatch, error) {
	h := &config.HeaderMatch{Name: m.GetName(), Invert: m.GetInvertMatch(), AbsentAs: m.GetTreatMissingHeaderAsEmpty()}
	switch s := m.GetHeaderMatchSpecifier().(type) {
	case *routev3.HeaderMatcher_StringMatch:
		v, err := compileString(s.StringMatch)
		h.Value = v
		return h, err
	case *routev3.HeaderMatcher_PresentMatch:
		h.Present = true
		if !s.PresentMatch {
			h.Invert = !h.Invert
		}
		return h, nil
	case *routev3.HeaderMatcher_RangeMatch:
		h.Range = &config.Range{From: s.RangeMatch.GetStart(), To: s.RangeMatch.GetEnd()}
		return h, nil
	case nil:
		h.Present = true
		return h, nil
	}
	return nil, fmt.Errorf("header %s: %T is deprecated; use string_match", m.GetName(), m.GetHeaderMatchSpecifier())
}

func compileString(m *matcherv3.StringMatcher) (config.StringMatch, error) {
	out := config.StringMatch{CaseFold: m.GetIgnoreCase()}
	switch p := m.GetMatchPattern().(type) {
	case *matcherv3.StringMatcher_Exact:
		out.Kind, out.Text = config.MatchExact, p.Exact
	case *matcherv3.StringMatcher_Prefix:
		out.Kind, out.Text = config.MatchPrefix, p.Prefix
	case *matcherv3.StringMatcher_Suffix:
		out.Kind, out.Text = config.MatchSuffix, p.Suffix
	case *matcherv3.StringMatcher_Contains:
		out.Kind, out.Text = config.MatchContains, p.Contains
	case *matcherv3.StringMatcher_SafeRegex:
		re, err := whole(p.SafeRegex)
		if err != nil {
			return out, err
		}
		out.Kind, out.Regex, out.Plain = config.MatchRegex, re, config.PlainOf(p.SafeRegex.GetRegex())
	default:
		return out, fmt.Errorf("match_pattern %T: not known to this proxy", p)
	}
	if out.CaseFold {
		out.Text = strings.ToLower(out.Text)
	}
	return out, nil
}

func compileForward(m *routev3.RouteAction) (*config.Forward, error) {
	f := &config.Forward{Timeout: 15 * time.Second, PrefixTo: m.GetPrefixRewrite(), HostTo: m.GetHostRewriteLiteral(), Upgrade: true}
	switch c := m.GetClusterSpecifier().(type) {
	case *routev3.RouteAction_Cluster:
		f.Clusters = []config.WeightedCluster{{Cluster: c.Cluster, Weight: 1}}
	case *routev3.RouteAction_WeightedClusters:
		f.ByHash = c.WeightedClusters.GetUseHashPolicy().GetValue()
		for _, w := range c.WeightedClusters.GetClusters() {
			f.Clusters = append(f.Clusters, config.WeightedCluster{
				Cluster: w.GetName(), Weight: w.GetWeight().GetValue(),
				Request:  mutations(w.GetRequestHeadersToAdd(), w.GetRequestHeadersToRemove()),
				Response: mutations(w.GetResponseHeadersToAdd(), w.GetResponseHeadersToRemove()),
			})
		}
	default:
		return nil, fmt.Errorf("cluster_specifier %T: not known to this proxy", c)
	}
	if d := m.GetTimeout(); d != nil {
		f.Timeout = d.AsDuration()
	}
	if d := m.GetIdleTimeout(); d != nil {
		f.IdleTimeout = d.AsDuration()
	}
	if r := m.GetRegexRewrite(); r != nil {
		re, err := regexp.Compile(r.GetPattern().GetRegex())
		if err != nil {
			return nil, fmt.Errorf("regex_rewrite: %w", err)
		}
		f.RegexFrom, f.RegexTo = re, backReferences.ReplaceAllString(strings.ReplaceAll(r.GetSubstitution(), "$", "$$"), "$${$1}")
		f.RegexTo = strings.ReplaceAll(f.RegexTo, `\\`, `\`)
	}
	for _, u := range m.GetUpgradeConfigs() {
		f.Upgrade = u.GetEnabled() == nil || u.GetEnabled().GetValue()
	}
	for i, p := range m.GetRequestMirrorPolicies() {
		if err := only(p, mirrorFields); err != nil {
			return nil, fmt.Errorf("request_mirror_policies[%d]: %w", i, err)
		}
		f.Mirrors = append(f.Mirrors, config.Mirror{Cluster: p.GetCluster(), Share: shareOf(p.GetRuntimeFraction().GetDefaultValue())})
	}
	f.MaxDuration = m.GetMaxStreamDuration().GetMaxStreamDuration().AsDuration()
	for _, h := range m.GetHashPolicy() {
		f.Hash = append(f.Hash, config.HashBy{
			Header: h.GetHeader().GetHeaderName(), Cookie: h.GetCookie().GetName(), CookieTTL: h.GetCookie().GetTtl().AsDuration(),
			CookiePath: h.GetCookie().GetPath(), CookieMake: h.GetCookie().GetTtl() != nil, Query: h.GetQueryParameter().GetName(),
			SourceIP: h.GetConnectionProperties().GetSourceIp(), Terminal: h.GetTerminal(),
		})
	}
	var err error
	if f.Retry, err = compileRetry(m.GetRetryPolicy()); err != nil || f.Retry == nil {
		return f, err
	}
	if err := only(m.GetHedgePolicy(), "hedge_on_per_try_timeout"); err != nil {
		return nil, fmt.Errorf("hedge_policy: %w", err)
	}
	f.Retry.Hedge = m.GetHedgePolicy().GetHedgeOnPerTryTimeout()
	return f, nil
}

// backReferences are \1 in Envoy's form; Go's is ${1}.
var backReferences = regexp.MustCompile(`\\(\d)`)

func compileRetry(m *routev3.RetryPolicy) (*config.Retry, error) {
	if m == nil {
		return nil, nil
	}
	r := &config.Retry{Attempts: 1, PerTry: m.GetPerTryTimeout().AsDuration(), BackOff: 25 * time.Millisecond}
	for i, h := range m.GetRateLimitedRetryBackOff().GetResetHeaders() {
		if !strings.EqualFold(h.GetName(), "retry-after") || h.GetFormat() != routev3.RetryPolicy_SECONDS {
			return nil, fmt.Errorf("rate_limited_retry_back_off.reset_headers[%d]: this proxy knows retry-after in seconds alone", i)
		}
		r.AfterMax = 300 * time.Second
		if most := m.GetRateLimitedRetryBackOff().GetMaxInterval(); most != nil {
			r.AfterMax = most.AsDuration()
		}
	}
	if n := m.GetNumRetries(); n != nil {
		r.Attempts = int(n.GetValue())
	}
	if b := m.GetRetryBackOff(); b != nil {
		r.BackOff, r.MaxBackOff = b.GetBaseInterval().AsDuration(), b.GetMaxInterval().AsDuration()
	}
	if r.MaxBackOff == 0 {
		r.MaxBackOff = 10 * r.BackOff
	}
	for i, h := range m.GetRetriableRequestHeaders() {
		methods, err := methodsOf(h)
		if err != nil {
			return nil, fmt.Errorf("retriable_request_headers[%d]: %w", i, err)
		}
		r.Methods = methods
	}
	codes := []string{
		"ok", "cancelled", "unknown", "invalid-argument", "deadline-exceeded", "not-found", "already-exists", "permission-denied",
		"resource-exhausted", "failed-precondition", "aborted", "out-of-range", "unimplemented", "internal", "unavailable",
	}
	for on := range strings.SplitSeq(m.GetRetryOn(), ",") {
		switch on = strings.TrimSpace(on); on {
		case "":
		case "5xx":
			r.On5xx, r.OnConnect, r.OnReset, r.OnRefused = true, true, true, true
		case "gateway-error":
			r.OnGateway = true
		case "reset":
			r.OnReset = true
		case "reset-before-request":
			r.OnConnect = true
		case "connect-failure":
			r.OnConnect = true
		case "refused-stream":
			r.OnRefused = true
		case "retriable-4xx":
			r.OnRetriable4 = true
		case "retriable-status-codes":
			for _, s := range m.GetRetriableStatusCodes() {
				r.OnStatus = append(r.OnStatus, int(s))
			}
		default:
			i := slices.Index(codes, on)
			if i < 0 {
				if n, err := strconv.Atoi(on); err == nil && n >= 100 && n <= 599 {
					r.OnStatus = append(r.OnStatus, n)
					continue
				}
				return nil, fmt.Errorf("retry_on %q: not known to this proxy", on)
			}
			r.OnGRPC = append(r.OnGRPC, i)
		}
	}
	return r, nil
}

func mutations(add []*corev3.HeaderValueOption, remove []string) *config.Mutations {
	if len(add)+len(remove) == 0 {
		return nil
	}
	m := &config.Mutations{Remove: remove}
	for _, o := range add {
		v := config.HeaderValue{Name: o.GetHeader().GetKey(), Value: o.GetHeader().GetValue()}
		if o.GetAppendAction() == corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD {
			m.Set = append(m.Set, v)
		} else {
			m.Add = append(m.Add, v)
		}
	}
	return m
}
