// SPDX-License-Identifier: Apache-2.0

package intake

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"

	"github.com/weftmesh/weft/connect/proxy/config"
	"github.com/weftmesh/weft/internal/guard"
)

// compilePolicies reads the rules of one RBAC filter. A condition that this proxy can't see is an error: leaving it out would
// let somebody through, or keep somebody out.
//
// Shadow rules have no effect on calls: those that can't be read are left out.
func compilePolicies(m, shadow *rbacv3.RBAC) (*config.Policies, error) {
	out, err := compileRules(m)
	if err != nil {
		return nil, err
	}
	if s, err := compileRules(shadow); shadow != nil && err == nil {
		out.Deciders = s.Policies
	}
	return out, nil
}

// auditPolicies are rules that are looked at and have no effect; nil where there are none.
func auditPolicies(shadow *rbacv3.RBAC, prefix string) (*config.Policies, error) {
	if shadow == nil || prefix != auditPrefix {
		return nil, nil
	}
	out, err := compileRules(shadow)
	if err == nil {
		out.Audit = true
	}
	return out, err
}

// auditPrefix is the statistics' by which the renderer marks such rules.
const auditPrefix = "audit_"

func compileRules(m *rbacv3.RBAC) (*config.Policies, error) {
	out := &config.Policies{}
	switch m.GetAction() {
	case rbacv3.RBAC_ALLOW:
		out.Allow = true
	case rbacv3.RBAC_DENY:
	default:
		return nil, fmt.Errorf("rules.action %s: want ALLOW or DENY", m.GetAction())
	}
	for _, name := range slices.Sorted(maps.Keys(m.GetPolicies())) {
		p := m.GetPolicies()[name]
		if p.GetCondition() != nil || p.GetCheckedCondition() != nil {
			return nil, fmt.Errorf("rules.policies[%s].condition: not known to this proxy", name)
		}
		c := config.Policy{Name: name, Permission: config.Rule{Kind: config.Or}, Principal: config.Rule{Kind: config.Or}}
		for i, perm := range p.GetPermissions() {
			r, err := compilePermission(perm)
			if err != nil {
				return nil, fmt.Errorf("rules.policies[%s].permissions[%d]: %w", name, i, err)
			}
			c.Permission.Rules = append(c.Permission.Rules, r)
		}
		for i, pr := range p.GetPrincipals() {
			r, err := compilePrincipal(pr)
			if err != nil {
				return nil, fmt.Errorf("rules.policies[%s].principals[%d]: %w", name, i, err)
			}
			c.Principal.Rules = append(c.Principal.Rules, r)
		}
		c.Permission.Gates = config.Gates(c.Permission.Rules)
		out.Policies = append(out.Policies, c)
	}
	return out, nil
}

func compilePermission(m *rbacv3.Permission) (config.Rule, error) {
	switch r := m.GetRule().(type) {
	case *rbacv3.Permission_Any:
		return config.Rule{Kind: config.Any}, nil
	case *rbacv3.Permission_AndRules:
		return several(config.And, r.AndRules.GetRules(), compilePermission)
	case *rbacv3.Permission_OrRules:
		return several(config.Or, r.OrRules.GetRules(), compilePermission)
	case *rbacv3.Permission_NotRule:
		return several(config.Not, []*rbacv3.Permission{r.NotRule}, compilePermission)
	case *rbacv3.Permission_Header:
		return headerRule(r.Header)
	case *rbacv3.Permission_UrlPath:
		s, err := compileString(r.UrlPath.GetPath())
		return config.Rule{Kind: config.PathIs, String: s}, err
	case *rbacv3.Permission_DestinationPort:
		return config.Rule{Kind: config.DestinationPort, Port: r.DestinationPort}, nil
	case *rbacv3.Permission_Metadata:
		return claimRule(r.Metadata)
	case *rbacv3.Permission_RequestedServerName:
		s, err := compileString(r.RequestedServerName)
		return config.Rule{Kind: config.ServerName, String: s}, err
	}
	return config.Rule{}, fmt.Errorf("%T isn't known to this proxy", m.GetRule())
}

// unseen are the fields that frame a message: the codecs take them off before a rule is asked, so that none of them can be decided about.
var unseen = []string{"connection", "keep-alive", "proxy-connection", "transfer-encoding", "content-length", "http2-settings", "expect"}

func headerRule(m *routev3.HeaderMatcher) (config.Rule, error) {
	h, err := compileHeader(m)
	if slices.Contains(unseen, strings.ToLower(m.GetName())) && !guard.Off("C36") {
		return config.Rule{Kind: config.Undecidable}, err
	}
	return config.Rule{Kind: config.HeaderIs, Header: h}, err
}

func compilePrincipal(m *rbacv3.Principal) (config.Rule, error) {
	switch r := m.GetIdentifier().(type) {
	case *rbacv3.Principal_Any:
		return config.Rule{Kind: config.Any}, nil
	case *rbacv3.Principal_AndIds:
		return several(config.And, r.AndIds.GetIds(), compilePrincipal)
	case *rbacv3.Principal_OrIds:
		return several(config.Or, r.OrIds.GetIds(), compilePrincipal)
	case *rbacv3.Principal_NotId:
		return several(config.Not, []*rbacv3.Principal{r.NotId}, compilePrincipal)
	case *rbacv3.Principal_Authenticated_:
		if r.Authenticated.GetPrincipalName() == nil {
			return config.Rule{Kind: config.Authenticated, String: config.StringMatch{Kind: config.MatchAny}}, nil
		}
		s, err := compileString(r.Authenticated.GetPrincipalName())
		return config.Rule{Kind: config.Authenticated, String: s}, err
	case *rbacv3.Principal_Header:
		return headerRule(r.Header)
	case *rbacv3.Principal_UrlPath:
		s, err := compileString(r.UrlPath.GetPath())
		return config.Rule{Kind: config.PathIs, String: s}, err
	case *rbacv3.Principal_DirectRemoteIp:
		return remote(r.DirectRemoteIp)
	case *rbacv3.Principal_RemoteIp:
		return remote(r.RemoteIp)
	}
	return config.Rule{}, fmt.Errorf("%T isn't known to this proxy", m.GetIdentifier())
}

func remote(m *corev3.CidrRange) (config.Rule, error) {
	addr, err := netip.ParseAddr(m.GetAddressPrefix())
	if err != nil {
		return config.Rule{}, err
	}
	p, err := addr.Prefix(int(m.GetPrefixLen().GetValue()))
	return config.Rule{Kind: config.RemoteIP, Prefix: p}, err
}

func several[M any](kind config.RuleKind, all []M, compile func(M) (config.Rule, error)) (config.Rule, error) {
	out := config.Rule{Kind: kind}
	for _, m := range all {
		r, err := compile(m)
		if err != nil {
			return out, err
		}
		out.Rules = append(out.Rules, r)
	}
	if kind == config.Or {
		out.Gates = config.Gates(out.Rules)
	}
	return out, nil
}
