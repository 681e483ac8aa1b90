// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"fmt"
	"regexp"
	"strings"

	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/connect/chain"
	"github.com/weftmesh/weft/connect/identity"
	"github.com/weftmesh/weft/connect/intention"
	"github.com/weftmesh/weft/internal/guard"
)

// rbac turns the rules, of which the first that is about the caller decides, into a filter that allows what one of its policies
// matches, in whatever order: each policy leaves out whom an earlier rule is about. Nobody is matched by no policy, and is
// denied. With requests, a rule's permissions are rendered; without, a rule that has some denies.
func rbac(who callers, rules intention.Rules, requests, defaultAllow bool) *rbacv3.RBAC {
	out := &rbacv3.RBAC{Action: rbacv3.RBAC_ALLOW, Policies: map[string]*rbacv3.Policy{}}
	var earlier intention.Rules
	for _, rule := range rules {
		if rule.Source.Peer != "" || covered(earlier, rule) {
			continue
		}
		permissions := permissionsOf(rule, requests, defaultAllow)
		if len(permissions) > 0 {
			them := who.principal(rule.Source)
			if rule.Source.Name == catalog.Wildcard {
				them = who.without(them, earlier)
			}
			out.Policies[fmt.Sprintf("%02d %s", len(earlier), rule.Where())] = &rbacv3.Policy{Permissions: permissions, Principals: []*rbacv3.Principal{them}}
		}
		earlier = append(earlier, rule)
	}
	if defaultAllow {
		out.Policies["default"] = &rbacv3.Policy{
			Permissions: []*rbacv3.Permission{anything()}, Principals: []*rbacv3.Principal{who.without(anybody(), earlier)},
		}
	}
	return out
}

// deciders tell a proxy, when it has refused a call, which rule that was: the first that is about the caller, whatever it says of
// the call. They stand where Envoy has rules that are looked at and have no effect; only weft's proxy gets them, which looks at
// them when it has refused.
func deciders(who callers, rules intention.Rules) *rbacv3.RBAC {
	out := &rbacv3.RBAC{Action: rbacv3.RBAC_DENY, Policies: map[string]*rbacv3.Policy{}}
	var earlier intention.Rules
	for _, rule := range rules {
		if rule.Source.Peer != "" || covered(earlier, rule) {
			continue
		}
		out.Policies[fmt.Sprintf("%02d %s", len(earlier), rule.Where())] = &rbacv3.Policy{
			Permissions: []*rbacv3.Permission{anything()}, Principals: []*rbacv3.Principal{who.principal(rule.Source)},
		}
		earlier = append(earlier, rule)
	}
	return out
}

// covered says whether an earlier rule is about everybody that this one is about.
func covered(earlier intention.Rules, rule intention.Rule) bool {
	for _, e := range earlier {
		if within(e.Source.Namespace, rule.Source.Namespace) && within(e.Source.Partition, rule.Source.Partition) &&
			(e.Source.Name == catalog.Wildcard || strings.EqualFold(e.Source.Name, rule.Source.Name)) {
			return true
		}
	}
	return false
}

func within(wide, narrow string) bool { return wide == catalog.Wildcard || wide == narrow }

// without is who, unless an earlier rule is about them.
func (c callers) without(who *rbacv3.Principal, earlier intention.Rules) *rbacv3.Principal {
	if len(earlier) == 0 {
		return who
	}
	var ids []*rbacv3.Principal
	for _, e := range earlier {
		ids = append(ids, c.principal(e.Source))
	}
	not := &rbacv3.Principal{Identifier: &rbacv3.Principal_NotId{NotId: &rbacv3.Principal{
		Identifier: &rbacv3.Principal_OrIds{OrIds: &rbacv3.Principal_Set{Ids: ids}},
	}}}
	return &rbacv3.Principal{Identifier: &rbacv3.Principal_AndIds{AndIds: &rbacv3.Principal_Set{Ids: []*rbacv3.Principal{who, not}}}}
}

func anything() *rbacv3.Permission {
	return &rbacv3.Permission{Rule: &rbacv3.Permission_Any{Any: true}}
}

func anybody() *rbacv3.Principal {
	return &rbacv3.Principal{Identifier: &rbacv3.Principal_Any{Any: true}}
}

// callers are who can call: services of the trust domain and, where plain text is taken, those without an identity.
type callers struct {
	td    identity.TrustDomain
	plain bool
}

// principal is everybody that a rule's source names: services of the trust domain, in whichever datacenter; and if it is about
// every service, those without an identity.
func (c callers) principal(src catalog.Key) *rbacv3.Principal {
	named := c.named(src)
	if !c.plain || src.Name != catalog.Wildcard {
		return named
	}
	nobody := &rbacv3.Principal{Identifier: &rbacv3.Principal_NotId{NotId: &rbacv3.Principal{
		Identifier: &rbacv3.Principal_Authenticated_{Authenticated: &rbacv3.Principal_Authenticated{}},
	}}}
	return &rbacv3.Principal{Identifier: &rbacv3.Principal_OrIds{OrIds: &rbacv3.Principal_Set{Ids: []*rbacv3.Principal{named, nobody}}}}
}

func (c callers) named(src catalog.Key) *rbacv3.Principal {
	part := func(s string) string {
		if s == catalog.Wildcard {
			return "[^/]+"
		}
		if guard.Off("C34") {
			return s
		}
		return regexp.QuoteMeta(s)
	}
	partition := ""
	switch src.Partition {
	case catalog.DefaultPartition, "":
	case catalog.Wildcard:
		partition = "(?:/ap/[^/]+)?"
	default:
		partition = "/ap/" + regexp.QuoteMeta(src.Partition)
	}
	name := part(src.Name)
	if src.Name != catalog.Wildcard {
		name = "(?i:" + name + ")" // names of services are compared without regard to case
	}
	pattern := "spiffe://" + regexp.QuoteMeta(string(c.td)) + partition + "/ns/" + part(src.Namespace) + "/dc/[^/]+/svc/" + name
	return &rbacv3.Principal{Identifier: &rbacv3.Principal_Authenticated_{Authenticated: &rbacv3.Principal_Authenticated{
		PrincipalName: regex(pattern),
	}}}
}

func regex(pattern string) *matcherv3.StringMatcher {
	return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: pattern}}}
}

// permissionsOf is what a rule allows, none if it denies all.
func permissionsOf(rule intention.Rule, requests, defaultAllow bool) []*rbacv3.Permission {
	if !requests && (rule.JWT != nil || len(rule.Permissions) > 0) {
		return nil
	}
	if len(rule.Permissions) == 0 {
		if rule.Allow {
			return []*rbacv3.Permission{both(anything(), rule.JWT)}
		}
		return nil
	}
	var out, before []*rbacv3.Permission
	for _, p := range rule.Permissions {
		this := request(p.HTTP)
		if p.Not != nil {
			this = except(this, []*rbacv3.Permission{request(p.Not)})
		}
		this = both(this, p.JWT)
		if p.Action == catalog.ActionAllow {
			out = append(out, both(except(this, before), rule.JWT))
		}
		before = append(before, this)
	}
	if defaultAllow {
		out = append(out, both(except(anything(), before), rule.JWT))
	}
	return out
}

// except is a permission, unless one that came before it matches.
func except(p *rbacv3.Permission, before []*rbacv3.Permission) *rbacv3.Permission {
	if len(before) == 0 {
		return p
	}
	not := &rbacv3.Permission{Rule: &rbacv3.Permission_NotRule{NotRule: &rbacv3.Permission{
		Rule: &rbacv3.Permission_OrRules{OrRules: &rbacv3.Permission_Set{Rules: before}},
	}}}
	return &rbacv3.Permission{Rule: &rbacv3.Permission_AndRules{AndRules: &rbacv3.Permission_Set{Rules: []*rbacv3.Permission{p, not}}}}
}

// request matches what an L7 permission says of a request; nil matches every request.
func request(h *catalog.IntentionHTTPPermission) *rbacv3.Permission {
	if h == nil {
		return anything()
	}
	var all []*rbacv3.Permission
	path := func(m *matcherv3.StringMatcher) {
		all = append(all, &rbacv3.Permission{Rule: &rbacv3.Permission_UrlPath{UrlPath: &matcherv3.PathMatcher{Rule: &matcherv3.PathMatcher_Path{Path: m}}}})
	}
	switch {
	case h.PathExact != "":
		path(&matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: h.PathExact}})
	case h.PathPrefix != "":
		path(&matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: h.PathPrefix}})
	case h.PathRegex != "":
		path(regex(h.PathRegex))
	}
	for _, hm := range h.Header {
		all = append(all, &rbacv3.Permission{Rule: &rbacv3.Permission_Header{Header: permissionHeader(hm)}})
	}
	if len(h.Hosts) > 0 {
		all = append(all, &rbacv3.Permission{Rule: &rbacv3.Permission_Header{Header: &routev3.HeaderMatcher{
			Name: ":authority", HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{StringMatch: regex(chain.AnyHost(h.Hosts))},
		}}})
	}
	if len(h.Methods) > 0 {
		var any []*rbacv3.Permission
		for _, m := range h.Methods {
			any = append(any, &rbacv3.Permission{Rule: &rbacv3.Permission_Header{Header: &routev3.HeaderMatcher{
				Name: ":method", HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{StringMatch: &matcherv3.StringMatcher{
					MatchPattern: &matcherv3.StringMatcher_Exact{Exact: m},
				}},
			}}})
		}
		all = append(all, &rbacv3.Permission{Rule: &rbacv3.Permission_OrRules{OrRules: &rbacv3.Permission_Set{Rules: any}}})
	}
	switch len(all) {
	case 0:
		return anything()
	case 1:
		return all[0]
	}
	return &rbacv3.Permission{Rule: &rbacv3.Permission_AndRules{AndRules: &rbacv3.Permission_Set{Rules: all}}}
}

func permissionHeader(h catalog.IntentionHTTPHeader) *routev3.HeaderMatcher {
	return headerMatcher(headerForm{
		name: h.Name, present: h.Present, exact: h.Exact, prefix: h.Prefix, suffix: h.Suffix, contains: h.Contains, regex: h.Regex,
		invert: h.Invert, fold: h.IgnoreCase,
	})
}
