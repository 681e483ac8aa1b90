// SPDX-License-Identifier: Apache-2.0

package intake

import (
	"errors"
	"fmt"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	limitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/local_ratelimit/v3"
	sessionv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/stateful_session/v3"
	cookiev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/http/stateful_session/cookie/v3"
	headerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/http/stateful_session/header/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/weftmesh/weft/connect/proxy/config"
)

// The URLs of the filters for rate limits and sessions.
const (
	rateLimitURL     = typePrefix + "extensions.filters.http.local_ratelimit.v3.LocalRateLimit"
	sessionURL       = typePrefix + "extensions.filters.http.stateful_session.v3.StatefulSession"
	sessionRouteURL  = typePrefix + "extensions.filters.http.stateful_session.v3.StatefulSessionPerRoute"
	rateLimitFields  = "stat_prefix token_bucket filter_enabled filter_enforced descriptors rate_limits rate_limited_as_resource_exhausted"
	rateActionFields = "actions"
)

// compileLimit reads a rate limit; nil is one that limits nothing.
func compileLimit(a *anypb.Any) (*config.RateLimit, error) {
	m, err := read[*limitv3.LocalRateLimit](a)
	if err != nil {
		return nil, err
	}
	if err := only(m, rateLimitFields); err != nil {
		return nil, err
	}
	if m.GetTokenBucket() == nil {
		return nil, nil
	}
	if shareOf(m.GetFilterEnabled().GetDefaultValue()) != config.Whole || shareOf(m.GetFilterEnforced().GetDefaultValue()) != config.Whole {
		return nil, errors.New("filter_enabled and filter_enforced: this proxy knows 100 percent only")
	}
	out := &config.RateLimit{}
	if out.All, err = compileBucket(m.GetTokenBucket()); err != nil {
		return nil, err
	}
	for i, l := range m.GetRateLimits() {
		c, err := callerLimit(m, l)
		if err != nil {
			return nil, fmt.Errorf("rate_limits[%d]: %w", i, err)
		}
		out.Callers = append(out.Callers, *c)
	}
	return out, nil
}

// callerLimit takes a limit of the one form that is known: a match of headers that names a descriptor with a bucket.
func callerLimit(m *limitv3.LocalRateLimit, l *routev3.RateLimit) (*config.CallerLimit, error) {
	if err := only(l, rateActionFields); err != nil {
		return nil, err
	}
	if len(l.GetActions()) != 1 || l.GetActions()[0].GetHeaderValueMatch() == nil {
		return nil, errors.New("want one action, header_value_match")
	}
	h := l.GetActions()[0].GetHeaderValueMatch()
	if h.GetExpectMatch() != nil && !h.GetExpectMatch().GetValue() {
		return nil, errors.New("header_value_match.expect_match false: not known to this proxy")
	}
	out := &config.CallerLimit{}
	for _, one := range h.GetHeaders() {
		hm, err := compileHeader(one)
		if err != nil {
			return nil, err
		}
		out.Headers = append(out.Headers, *hm)
	}
	key := h.GetDescriptorKey()
	if key == "" {
		key = "header_match"
	}
	for _, d := range m.GetDescriptors() {
		if e := d.GetEntries(); len(e) == 1 && e[0].GetKey() == key && e[0].GetValue() == h.GetDescriptorValue() {
			var err error
			out.Bucket, err = compileBucket(d.GetTokenBucket())
			return out, err
		}
	}
	return nil, fmt.Errorf("no descriptor is %s=%s", key, h.GetDescriptorValue())
}

func compileBucket(b *typev3.TokenBucket) (*config.Bucket, error) {
	if b.GetFillInterval().AsDuration() != time.Second {
		return nil, errors.New("token_bucket.fill_interval: this proxy knows one second only")
	}
	fill := uint32(1)
	if b.GetTokensPerFill() != nil {
		fill = b.GetTokensPerFill().GetValue()
	}
	return config.NewBucket(fill, b.GetMaxTokens()), nil
}

func compileSession(a *anypb.Any) (*config.Session, error) {
	m, err := read[*sessionv3.StatefulSessionPerRoute](a)
	if err != nil {
		return nil, err
	}
	if m.GetDisabled() {
		return nil, nil
	}
	s := m.GetStatefulSession()
	if err := only(s, "session_state strict stat_prefix"); err != nil {
		return nil, err
	}
	out := &config.Session{Strict: s.GetStrict()}
	state := s.GetSessionState().GetTypedConfig()
	cookie, header := &cookiev3.CookieBasedSessionState{}, &headerv3.HeaderBasedSessionState{}
	switch {
	case state.MessageIs(cookie):
		err = unpack(state, cookie)
		c := cookie.GetCookie()
		out.Cookie, out.TTL, out.Path = c.GetName(), c.GetTtl().AsDuration(), c.GetPath()
	case state.MessageIs(header):
		err = unpack(state, header)
		out.Header = header.GetName()
	default:
		return nil, fmt.Errorf("session_state %q: not known to this proxy", state.GetTypeUrl())
	}
	return out, err
}
