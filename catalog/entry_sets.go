// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"fmt"
	"slices"
	"strings"
)

// The kinds of config entry that routes and intentions refer to by name. They are weft's own.
const (
	KindIdentitySet = "identity-set"
	KindMatchSet    = "match-set"
)

// ShareKind says whether entries of a kind change what other entries mean, whoever those are about.
func ShareKind(kind string) bool { return kind == KindIdentitySet || kind == KindMatchSet }

// IdentitySet is callers under one name: a route's Match.Source.Sets and an intention's source of Type "identity-set" refer to it.
type IdentitySet struct {
	EntryHead
	// Services are services of the scope that the reference is in.
	Services []string `json:",omitempty"`
	// Identities are SPIFFE IDs, or beginnings that end in *; for routes alone.
	Identities []string `json:",omitempty"`
}

// EntryKind is KindIdentitySet.
func (*IdentitySet) EntryKind() string { return KindIdentitySet }

// Normalize fills in the entry's scope.
func (e *IdentitySet) Normalize() { e.normalize() }

// maxSet bounds a set: each reference is rendered with all of it.
const maxSet = 1024

// Validate checks names and identities.
func (e *IdentitySet) Validate() error {
	if err := firstError(e.validate(), e.exactName()); err != nil {
		return err
	}
	if n := len(e.Services) + len(e.Identities); n == 0 || n > maxSet {
		return invalidf("an identity-set has 1 to %d Services and Identities, not %d", maxSet, n)
	}
	for i, name := range e.Services {
		f := fmt.Sprintf("Services[%d]", i)
		if err := firstError(checkName(f, name), wildcard(f, name)); err != nil {
			return err
		}
		if name == Wildcard {
			return invalidf("%s: name services; all of them are the source %q", f, Wildcard)
		}
	}
	return (&RouteSource{Services: e.Services, Identities: e.Identities}).validate("the set")
}

// Has says whether a service, or its SPIFFE ID, is in the set.
func (e *IdentitySet) Has(service, id string) bool {
	return slices.ContainsFunc(e.Services, func(s string) bool { return strings.EqualFold(s, service) }) ||
		slices.ContainsFunc(e.Identities, func(s string) bool { return matchesIdentity(s, id) })
}

func matchesIdentity(pattern, id string) bool {
	if begin, ok := strings.CutSuffix(pattern, Wildcard); ok {
		return strings.HasPrefix(id, begin)
	}
	return pattern == id
}

// MatchSet is requests under one name: those that any of its matches is about. MatchSets of a route and of an intention's permission
// refer to it.
type MatchSet struct {
	EntryHead
	Matches []IntentionHTTPPermission `json:",omitempty"`
}

// EntryKind is KindMatchSet.
func (*MatchSet) EntryKind() string { return KindMatchSet }

// Normalize upper-cases methods.
func (e *MatchSet) Normalize() {
	e.normalize()
	for i := range e.Matches {
		upper(e.Matches[i].Methods)
	}
}

// Validate checks each match.
func (e *MatchSet) Validate() error {
	if err := firstError(e.validate(), e.exactName()); err != nil {
		return err
	}
	if len(e.Matches) == 0 {
		return invalidf("Matches should not be empty")
	}
	return requests("Matches", e.Matches)
}

// UnmatchedPath is as that of intentions.
func (e *MatchSet) UnmatchedPath() error {
	for i := range e.Matches {
		if err := unmatchedPath(fmt.Sprintf("Matches[%d]", i), &e.Matches[i]); err != nil {
			return err
		}
	}
	return nil
}

// setNames checks a list of references.
func setNames(f string, list []string) error {
	for i, name := range list {
		f := fmt.Sprintf("%s[%d]", f, i)
		if err := firstError(checkName(f, name), wildcard(f, name)); err != nil {
			return err
		}
		if name == Wildcard || slices.Contains(list[:i], name) {
			return invalidf("%s %q: name each set once", f, name)
		}
	}
	return nil
}

// SetUsers are the entries that refer to a set: routers and intentions of its scope, by kind and name.
func (t *Txn) SetUsers(kind string, key Key) ([]Entry, error) {
	var out []Entry
	for _, k := range []string{KindServiceIntentions, KindServiceRouter} {
		all, err := t.Entries(k, key.Scope)
		if err != nil {
			return nil, err
		}
		for _, e := range all {
			if refersTo(e, kind, key.Name) {
				out = append(out, e)
			}
		}
	}
	return out, nil
}

func refersTo(e Entry, kind, name string) bool {
	named := func(list []string) bool {
		return slices.ContainsFunc(list, func(s string) bool { return strings.EqualFold(s, name) })
	}
	switch e := e.(type) {
	case *ServiceIntentions:
		return slices.ContainsFunc(e.Sources, func(s SourceIntention) bool {
			return kind == KindIdentitySet && s.Type == KindIdentitySet && strings.EqualFold(s.Name, name) ||
				kind == KindMatchSet && slices.ContainsFunc(s.Permissions, func(p IntentionPermission) bool { return named(p.MatchSets) })
		})
	case *ServiceRouter:
		return slices.ContainsFunc(e.Routes, func(r ServiceRoute) bool {
			return kind == KindMatchSet && named(r.MatchSets) ||
				kind == KindIdentitySet && slices.ContainsFunc(r.Matches(), func(m ServiceRouteMatch) bool { return m.Source != nil && named(m.Source.Sets) })
		})
	}
	return false
}
