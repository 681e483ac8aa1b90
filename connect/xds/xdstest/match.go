// SPDX-License-Identifier: Apache-2.0

package xdstest

import (
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"

	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

	"github.com/weftmesh/weft/connect/intention"
)

// subject is what is matched.
type subject struct {
	peer string
	req  intention.Request
	http bool
	// patterns are those that were compiled before.
	patterns map[string]*regexp.Regexp
}

// decide walks an allowing RBAC: the policy that matches, and whether there is one.
func decide(r *rbacv3.RBAC, s subject) (string, bool, error) {
	if r == nil {
		return "", true, nil
	}
	if r.GetAction() != rbacv3.RBAC_ALLOW {
		return "", false, fmt.Errorf("an RBAC that doesn't allow: %s", r.GetAction())
	}
	for name, p := range r.GetPolicies() {
		who, err := anyOf(p.GetPrincipals(), s.principal)
		if err != nil {
			return "", false, err
		}
		what, err := anyOf(p.GetPermissions(), s.permission)
		if err != nil {
			return "", false, err
		}
		if who && what {
			return name, true, nil
		}
	}
	return "", false, nil
}

func anyOf[T any](list []T, match func(T) (bool, error)) (bool, error) {
	for _, x := range list {
		if ok, err := match(x); ok || err != nil {
			return ok, err
		}
	}
	return false, nil
}

func allOf[T any](list []T, match func(T) (bool, error)) (bool, error) {
	for _, x := range list {
		if ok, err := match(x); !ok || err != nil {
			return false, err
		}
	}
	return true, nil
}

func not(ok bool, err error) (bool, error) { return !ok, err }

func (s subject) principal(p *rbacv3.Principal) (bool, error) {
	switch v := p.GetIdentifier().(type) {
	case *rbacv3.Principal_Any:
		return v.Any, nil
	case *rbacv3.Principal_AndIds:
		return allOf(v.AndIds.GetIds(), s.principal)
	case *rbacv3.Principal_OrIds:
		return anyOf(v.OrIds.GetIds(), s.principal)
	case *rbacv3.Principal_NotId:
		return not(s.principal(v.NotId))
	case *rbacv3.Principal_Authenticated_:
		if v.Authenticated.GetPrincipalName() == nil {
			return s.peer != "", nil
		}
		return s.text(v.Authenticated.GetPrincipalName(), s.peer)
	}
	return false, fmt.Errorf("a principal of type %T", p.GetIdentifier())
}

func (s subject) permission(p *rbacv3.Permission) (bool, error) {
	switch v := p.GetRule().(type) {
	case *rbacv3.Permission_Any:
		return v.Any, nil
	case *rbacv3.Permission_AndRules:
		return allOf(v.AndRules.GetRules(), s.permission)
	case *rbacv3.Permission_OrRules:
		return anyOf(v.OrRules.GetRules(), s.permission)
	case *rbacv3.Permission_NotRule:
		return not(s.permission(v.NotRule))
	}
	if !s.http {
		return false, fmt.Errorf("a permission of type %T on a connection", p.GetRule())
	}
	switch v := p.GetRule().(type) {
	case *rbacv3.Permission_Header:
		return s.header(v.Header)
	case *rbacv3.Permission_UrlPath:
		return s.text(v.UrlPath.GetPath(), s.path())
	case *rbacv3.Permission_Metadata:
		return s.claim(v.Metadata)
	}
	return false, fmt.Errorf("a permission of type %T", p.GetRule())
}

// claim looks at the payload of a verified token.
func (s subject) claim(m *matcherv3.MetadataMatcher) (bool, error) {
	if m.GetFilter() != "envoy.filters.http.jwt_authn" {
		return false, fmt.Errorf("metadata of %s", m.GetFilter())
	}
	provider := strings.TrimPrefix(m.GetPath()[0].GetKey(), "jwt_payload_")
	payload, ok := s.req.Claims[provider]
	if !ok {
		return false, nil
	}
	var at any = payload
	for _, p := range m.GetPath()[1:] {
		fields, ok := at.(map[string]any)
		if !ok {
			return false, nil
		}
		if at, ok = fields[p.GetKey()]; !ok {
			return false, nil
		}
	}
	return s.value(m.GetValue(), at)
}

func (s subject) value(m *matcherv3.ValueMatcher, v any) (bool, error) {
	switch p := m.GetMatchPattern().(type) {
	case *matcherv3.ValueMatcher_PresentMatch:
		return p.PresentMatch, nil
	case *matcherv3.ValueMatcher_StringMatch:
		have, ok := v.(string)
		if !ok {
			return false, nil
		}
		return s.text(p.StringMatch, have)
	case *matcherv3.ValueMatcher_ListMatch:
		list, _ := v.([]any)
		return anyOf(list, func(e any) (bool, error) { return s.value(p.ListMatch.GetOneOf(), e) })
	case *matcherv3.ValueMatcher_OrMatch:
		return anyOf(p.OrMatch.GetValueMatchers(), func(m *matcherv3.ValueMatcher) (bool, error) { return s.value(m, v) })
	}
	return false, fmt.Errorf("a value match of type %T", m.GetMatchPattern())
}

func (s subject) path() string {
	path, _, _ := strings.Cut(s.req.Path, "?")
	return path
}

func (s subject) header(m *routev3.HeaderMatcher) (bool, error) {
	var values []string
	switch m.GetName() {
	case ":method":
		values = []string{s.req.Method}
	case ":authority":
		values = []string{s.req.Authority}
	case ":scheme":
		values = []string{s.req.Scheme}
	default:
		values = s.req.Header[http.CanonicalHeaderKey(m.GetName())]
	}
	if _, ok := m.GetHeaderMatchSpecifier().(*routev3.HeaderMatcher_PresentMatch); ok {
		return (len(values) > 0 == m.GetPresentMatch()) != m.GetInvertMatch(), nil
	}
	if len(values) == 0 {
		if !m.GetTreatMissingHeaderAsEmpty() {
			return false, nil // inverted or not
		}
		values = []string{""}
	}
	ok, err := anyOf(values, func(v string) (bool, error) {
		if r := m.GetRangeMatch(); r != nil {
			n, err := strconv.ParseInt(v, 10, 64)
			return err == nil && n >= r.GetStart() && n < r.GetEnd(), nil
		}
		return s.text(m.GetStringMatch(), v)
	})
	return ok != m.GetInvertMatch(), err
}

func (s subject) route(m *routev3.RouteMatch) (bool, error) {
	path, fold := s.path(), func(x string) string { return x }
	if c := m.GetCaseSensitive(); c != nil && !c.GetValue() {
		fold = strings.ToLower
	}
	ok, err := false, error(nil)
	switch v := m.GetPathSpecifier().(type) {
	case *routev3.RouteMatch_Prefix:
		ok = strings.HasPrefix(fold(path), fold(v.Prefix))
	case *routev3.RouteMatch_Path:
		ok = fold(path) == fold(v.Path)
	case *routev3.RouteMatch_SafeRegex:
		ok, err = s.full(v.SafeRegex.GetRegex(), path)
	default:
		err = fmt.Errorf("a route's path of type %T", v)
	}
	if !ok || err != nil {
		return false, err
	}
	if m.GetGrpc() != nil && !strings.HasPrefix(s.req.Header.Get("Content-Type"), "application/grpc") {
		return false, nil
	}
	if ok, err := allOf(m.GetHeaders(), s.header); !ok || err != nil {
		return false, err
	}
	_, raw, _ := strings.Cut(s.req.Path, "?")
	query := url.Values{} // as they are written
	for pair := range strings.SplitSeq(raw, "&") {
		k, v, _ := strings.Cut(pair, "=")
		query.Add(k, v)
	}
	return allOf(m.GetQueryParameters(), func(q *routev3.QueryParameterMatcher) (bool, error) {
		if !query.Has(q.GetName()) {
			return false, nil
		}
		if _, ok := q.GetQueryParameterMatchSpecifier().(*routev3.QueryParameterMatcher_PresentMatch); ok {
			return true, nil
		}
		return s.text(q.GetStringMatch(), query.Get(q.GetName()))
	})
}

func (s subject) text(m *matcherv3.StringMatcher, have string) (bool, error) {
	fold := func(x string) string { return x }
	if m.GetIgnoreCase() {
		fold = strings.ToLower
	}
	switch v := m.GetMatchPattern().(type) {
	case *matcherv3.StringMatcher_Exact:
		return fold(have) == fold(v.Exact), nil
	case *matcherv3.StringMatcher_Prefix:
		return strings.HasPrefix(fold(have), fold(v.Prefix)), nil
	case *matcherv3.StringMatcher_Suffix:
		return strings.HasSuffix(fold(have), fold(v.Suffix)), nil
	case *matcherv3.StringMatcher_Contains:
		return strings.Contains(fold(have), fold(v.Contains)), nil
	case *matcherv3.StringMatcher_SafeRegex:
		return s.full(v.SafeRegex.GetRegex(), have)
	}
	return false, fmt.Errorf("a string match of type %T", m.GetMatchPattern())
}

func (s subject) full(pattern, v string) (bool, error) {
	re := s.patterns[pattern]
	if re == nil {
		var err error
		if re, err = regexp.Compile("^(?:" + pattern + ")$"); err != nil {
			return false, err
		}
		s.patterns[pattern] = re
	}
	return re.MatchString(v), nil
}
