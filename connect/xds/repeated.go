// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"regexp"
	"strconv"
	"strings"

	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
)

// A header that comes several times is matched value by value: by weft's own proxy, by Envoy's authorisation from 1.38 on, and by its
// routes from 1.39 on. Before, Envoy joins the values by commas, so that a rule is got by with a second value. For such an Envoy
// the matches are written so that they find a value among others.
const (
	rulesIndividually  = 38
	routesIndividually = 39
)

// olderThan says whether the proxy is an Envoy older than 1.minor.
func (a Abilities) olderThan(minor int) bool {
	major, rest, _ := strings.Cut(a.Version, ".")
	second, _, _ := strings.Cut(rest, ".")
	n, err := strconv.Atoi(second)
	return !a.Weft && major == "1" && err == nil && n < minor
}

// amongOthers makes matches of whole headers ones of each value of a list. Ranges stay: they can't be written so.
func amongOthers(headers []*routev3.HeaderMatcher) {
	for _, h := range headers {
		m := h.GetStringMatch()
		if m == nil || strings.HasPrefix(h.GetName(), ":") {
			continue
		}
		const some = "[^,]*"
		expr := ""
		switch {
		case m.GetExact() != "":
			expr = regexp.QuoteMeta(m.GetExact())
		case m.GetPrefix() != "":
			expr = regexp.QuoteMeta(m.GetPrefix()) + some
		case m.GetSuffix() != "":
			expr = some + regexp.QuoteMeta(m.GetSuffix())
		case m.GetContains() != "":
			expr = some + regexp.QuoteMeta(m.GetContains()) + some
		case m.GetSafeRegex() != nil:
			expr = m.GetSafeRegex().GetRegex()
		}
		if m.GetIgnoreCase() {
			expr = "(?i:" + expr + ")"
		}
		h.HeaderMatchSpecifier = &routev3.HeaderMatcher_StringMatch{StringMatch: regex("(?:.*,)?(?:" + expr + ")(?:,.*)?")}
	}
}

func rulesAmongOthers(r *rbacv3.RBAC) *rbacv3.RBAC {
	var walk func([]*rbacv3.Permission)
	walk = func(list []*rbacv3.Permission) {
		for _, p := range list {
			switch v := p.GetRule().(type) {
			case *rbacv3.Permission_AndRules:
				walk(v.AndRules.GetRules())
			case *rbacv3.Permission_OrRules:
				walk(v.OrRules.GetRules())
			case *rbacv3.Permission_NotRule:
				walk([]*rbacv3.Permission{v.NotRule})
			case *rbacv3.Permission_Header:
				if m := v.Header.GetStringMatch().GetSafeRegex(); m == nil || !strings.HasPrefix(m.GetRegex(), "(?:.*,)?") { // a permission stands in several rules
					amongOthers([]*routev3.HeaderMatcher{v.Header})
				}
			}
		}
	}
	for _, p := range r.GetPolicies() {
		walk(p.GetPermissions())
	}
	return r
}
