// SPDX-License-Identifier: Apache-2.0

package intake

import (
	"testing"

	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
)

// Rules get what spares looking at most of them: gates, and the plain form of an identity's expression.
func TestRulesGetShortcuts(t *testing.T) {
	path := func(prefix string) *rbacv3.Permission {
		return &rbacv3.Permission{Rule: &rbacv3.Permission_UrlPath{UrlPath: &matcherv3.PathMatcher{Rule: &matcherv3.PathMatcher_Path{
			Path: &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: prefix}},
		}}}}
	}
	set := &rbacv3.Permission_Set{Rules: []*rbacv3.Permission{path("/a/"), path("/b/")}}
	got, err := compileRules(&rbacv3.RBAC{Policies: map[string]*rbacv3.Policy{"x": {
		Permissions: []*rbacv3.Permission{path("/a/"), {Rule: &rbacv3.Permission_NotRule{NotRule: &rbacv3.Permission{Rule: &rbacv3.Permission_OrRules{OrRules: set}}}}},
		Principals: []*rbacv3.Principal{{Identifier: &rbacv3.Principal_Authenticated_{Authenticated: &rbacv3.Principal_Authenticated{
			PrincipalName: &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: "spiffe://td/ns/[^/]+/svc/(?i:web)"}}},
		}}}},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	p := got.Policies[0]
	if g := p.Permission.Gates; len(g) != 2 || !g[0].Shut("/b/") || g[0].Shut("/a/") || g[1].Shut("/b/") {
		t.Errorf("a policy's permissions have the gates %v", g)
	}
	if g := p.Permission.Rules[1].Rules[0].Gates; len(g) != 2 || !g[1].Shut("/a/") || g[1].Shut("/b/x") {
		t.Errorf("the members of an or have the gates %v", g)
	}
	if p.Principal.Gates != nil || p.Principal.Rules[0].String.Plain == nil {
		t.Errorf("a principal: %+v", p.Principal)
	}
}
