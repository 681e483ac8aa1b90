// SPDX-License-Identifier: Apache-2.0

package intention

import (
	"fmt"
	"slices"
	"strings"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/connect/identity"
)

// Rule is one source's rule for a destination.
type Rule struct {
	// Destination is the name that the rule was written for: the service's own or "*".
	Destination catalog.Key
	// Source is whom the rule is about; its Name can be "*".
	Source catalog.Key
	// Precedence is Consul's: 9 is the most exact.
	Precedence int
	// Allow is the answer where the rule has no Permissions.
	Allow bool
	// Permissions are the request rules, in order. A rule that has some decides no connection by itself.
	Permissions []catalog.IntentionPermission
	// JWT is what a request must have to be allowed, beside what Permissions say.
	JWT *catalog.JWTRequirement
	// Set is the identity-set by which the source is meant, "" where it is named itself.
	Set string
	// written are the places in the entry of those permissions that stand for a match-set or come after one; nil: they are as written.
	written []int
	// Index is the ModifyIndex of the entry that holds the rule.
	Index uint64
}

// Where names the place that the rule was written at, as "service-intentions/api source web"; a namespace that isn't the default stands before its name, as
// "team/api".
func (r Rule) Where() string {
	named := func(k catalog.Key) string {
		if ns := orDefault(k.Namespace); ns != catalog.DefaultNamespace {
			return ns + "/" + k.Name
		}
		return k.Name
	}
	where := catalog.KindServiceIntentions + "/" + named(r.Destination) + " source " + named(r.Source)
	if r.Set != "" {
		where += " of " + catalog.KindIdentitySet + "/" + r.Set
	}
	return where
}

// Matches says whether the rule is about src. Service identities carry no peer: a rule about a peer's service matches nobody
// of this cluster.
func (r Rule) Matches(src identity.Service) bool {
	if r.Source.Peer != "" {
		return false
	}
	return sameOrAny(r.Source.Partition, orDefault(src.Partition)) && sameOrAny(r.Source.Namespace, orDefault(src.Namespace)) &&
		(r.Source.Name == catalog.Wildcard || strings.EqualFold(r.Source.Name, src.Service))
}

func sameOrAny(rule, have string) bool { return rule == catalog.Wildcard || orDefault(rule) == have }

func orDefault(s string) string {
	if s == "" {
		return catalog.DefaultNamespace
	}
	return s
}

// Rules are all rules about a destination, the one that is asked first first.
type Rules []Rule

// Decision is an answer and where it comes from.
type Decision struct {
	Allowed bool
	// Rule is what decided; nil for the default.
	Rule *Rule
	// Default says that no rule decided, but the default policy.
	Default bool
	// Destination is the name that the deciding rule was written for, "" with the default.
	Destination string
	// Permission is the place in the entry of the permission that decided, or -1.
	Permission int
	// Reason says it to a person, in the words that Consul's clients know.
	Reason string
}

// Match gives the rules about a destination in the order in which they are asked: by falling precedence, then by the source's
// name. It reads the entry of the service, the one of "*" in its namespace, and the one of "*" in all.
func Match(t *catalog.Txn, dst catalog.Key) (Rules, error) {
	dst.Scope = dst.Scope.Default(t.Datacenter())
	every := dst
	every.Name = catalog.Wildcard
	everywhere := every
	everywhere.Namespace = catalog.Wildcard
	keys := []catalog.Key{dst, every, everywhere}
	if dst.Name == catalog.Wildcard {
		keys = keys[1:]
	}
	var rules Rules
	for _, key := range keys {
		e, err := catalog.EntryAs[*catalog.ServiceIntentions](t, catalog.KindServiceIntentions, key)
		if err != nil {
			return nil, fmt.Errorf("intentions for %s: %w", dst, err)
		}
		if e != nil {
			own, err := rulesOf(t, e)
			if err != nil {
				return nil, fmt.Errorf("intentions for %s: %w", dst, err)
			}
			rules = append(rules, own...)
		}
	}
	slices.SortStableFunc(rules, before)
	return rules, nil
}

func before(a, b Rule) int {
	if a.Precedence != b.Precedence {
		return b.Precedence - a.Precedence
	}
	if a.Set != b.Set { // who is named counts as such, and of sets the one whose name comes first
		return strings.Compare(a.Set, b.Set)
	}
	return strings.Compare(a.Source.String()+"\x00"+a.Destination.String(), b.Source.String()+"\x00"+b.Destination.String())
}

// MatchSource gives the rules of the source's own name and of "*" about any destination, ordered as Match orders. It reads
// every service-intentions entry of the source's scope.
func MatchSource(t *catalog.Txn, src catalog.Key) (Rules, error) {
	src.Scope = src.Scope.Default(t.Datacenter())
	entries, err := t.Entries(catalog.KindServiceIntentions, src.Scope)
	if err != nil {
		return nil, fmt.Errorf("intentions of %s: %w", src, err)
	}
	everywhere := src.Scope
	everywhere.Namespace = catalog.Wildcard
	every, err := t.Entry(catalog.KindServiceIntentions, everywhere.Name(catalog.Wildcard))
	if err != nil {
		return nil, fmt.Errorf("intentions of %s: %w", src, err)
	}
	if every != nil {
		entries = append(entries, every)
	}
	var rules Rules
	for _, e := range entries {
		si, ok := e.(*catalog.ServiceIntentions)
		if !ok {
			continue
		}
		all, err := rulesOf(t, si)
		if err != nil {
			return nil, fmt.Errorf("intentions of %s: %w", src, err)
		}
		for _, r := range all {
			sameScope := sameOrAny(r.Source.Partition, src.Partition) && sameOrAny(r.Source.Namespace, src.Namespace) && r.Source.Peer == src.Peer
			if sameScope && (r.Source.Name == catalog.Wildcard || strings.EqualFold(r.Source.Name, src.Name)) {
				rules = append(rules, r)
			}
		}
	}
	slices.SortStableFunc(rules, before)
	return rules, nil
}

// Decide answers for a connection from src to dst. A rule that depends on the request denies, as in Consul's authorize and check.
func Decide(t *catalog.Txn, src identity.Service, dst catalog.Key, defaultAllow bool) (Decision, error) {
	rules, err := Match(t, dst)
	if err != nil {
		return Decision{}, err
	}
	return rules.Decide(src, defaultAllow), nil
}

// DecideRequest answers for an HTTP request from src to dst.
func DecideRequest(t *catalog.Txn, src identity.Service, dst catalog.Key, req Request, defaultAllow bool) (Decision, error) {
	rules, err := Match(t, dst)
	if err != nil {
		return Decision{}, err
	}
	return rules.DecideRequest(src, req, defaultAllow)
}

// Decide is the function Decide over rules that were read already.
func (rs Rules) Decide(src identity.Service, defaultAllow bool) Decision {
	r := rs.first(src)
	switch {
	case r == nil:
		return byDefault(defaultAllow)
	case r.perRequest():
		return Decision{Rule: r, Destination: r.Destination.Name, Permission: -1, Reason: "Matched L7 intention: " + r.text(catalog.ActionDeny)}
	}
	return Decision{Allowed: r.Allow, Rule: r, Destination: r.Destination.Name, Permission: -1, Reason: "Matched L4 intention: " + r.text(action(r.Allow))}
}

// DecideRequest is the function DecideRequest over rules that were read already. The error is a pattern that isn't valid RE2,
// which validation keeps out of the catalog.
func (rs Rules) DecideRequest(src identity.Service, req Request, defaultAllow bool) (Decision, error) {
	r := rs.first(src)
	if r == nil || !r.perRequest() {
		return rs.Decide(src, defaultAllow), nil
	}
	if !Satisfied(r.JWT, req.Claims) {
		return Decision{
			Rule: r, Destination: r.Destination.Name, Permission: -1,
			Reason: "No token that the intentions' JWT asks for: " + r.text(catalog.ActionDeny),
		}, nil
	}
	if len(r.Permissions) == 0 {
		return Decision{
			Allowed: r.Allow, Rule: r, Destination: r.Destination.Name, Permission: -1, Reason: "Matched L7 intention: " + r.text(action(r.Allow)),
		}, nil
	}
	for i, p := range r.Permissions {
		ok, err := PermissionMatches(p.HTTP, req)
		if err != nil {
			return Decision{}, fmt.Errorf("%s, permission %d: %w", r.Where(), r.place(i)+1, err)
		}
		out, err := Excepted(&p, req)
		if err != nil {
			return Decision{}, fmt.Errorf("%s, permission %d: Not: %w", r.Where(), r.place(i)+1, err)
		}
		if ok && !out && Satisfied(p.JWT, req.Claims) {
			allow := p.Action == catalog.ActionAllow
			return Decision{
				Allowed: allow, Rule: r, Destination: r.Destination.Name, Permission: r.place(i),
				Reason: "Matched L7 intention: " + r.text(action(allow)),
			}, nil
		}
	}
	d := byDefault(defaultAllow)
	d.Rule = r
	return d, nil
}

func (rs Rules) first(src identity.Service) *Rule {
	for i := range rs {
		if rs[i].Matches(src) {
			return &rs[i]
		}
	}
	return nil
}

func byDefault(allow bool) Decision {
	return Decision{Allowed: allow, Default: true, Permission: -1, Reason: "Default intention policy"}
}

func action(allow bool) string {
	if allow {
		return catalog.ActionAllow
	}
	return catalog.ActionDeny
}

func (r *Rule) text(act string) string {
	ns := func(n string) string { return orDefault(n) + "/" }
	return ns(r.Source.Namespace) + r.Source.Name + " => " + ns(r.Destination.Namespace) + r.Destination.Name +
		fmt.Sprintf(" (Precedence: %d, Action: %s)", r.Precedence, strings.ToUpper(act))
}
