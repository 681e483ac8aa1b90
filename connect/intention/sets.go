// SPDX-License-Identifier: Apache-2.0

package intention

import (
	"errors"
	"fmt"

	"github.com/weftmesh/weft/catalog"
)

// ErrSet says that an intention refers to a set that isn't there, or that intentions can't go by. Validation keeps that out of the
// catalog; where it comes all the same, nothing is decided rather than something less strict.
var ErrSet = errors.New("a set can't be gone by")

// rulesOf are an entry's rules: sources that are named before those of sets, so that who is named counts as such, and of sets the one whose name
// comes first.
func rulesOf(t *catalog.Txn, e *catalog.ServiceIntentions) ([]Rule, error) {
	out := make([]Rule, 0, len(e.Sources))
	var bySet []Rule
	for i := range e.Sources {
		s := &e.Sources[i]
		permissions, written, err := expand(t, e, i)
		if err != nil {
			return nil, err
		}
		scope := catalog.Scope{Namespace: s.Namespace, Partition: s.Partition, Peer: s.Peer}.Default(t.Datacenter())
		rule := func(name string) Rule {
			src := scope.Name(name)
			return Rule{
				Destination: e.Key(), Source: src, Precedence: catalog.SourcePrecedence(src, e.Key()),
				Allow: s.Action == catalog.ActionAllow, Permissions: permissions, JWT: e.JWT, Index: e.ModifyIndex, written: written,
			}
		}
		if s.Type != catalog.KindIdentitySet {
			out = append(out, rule(s.Name))
			continue
		}
		set, err := catalog.EntryAs[*catalog.IdentitySet](t, catalog.KindIdentitySet, here(t, e, s.Name))
		switch {
		case err != nil:
			return nil, err
		case set == nil:
			return nil, fmt.Errorf("service-intentions %q: Sources[%d]: there is no identity-set %q: write that first: %w", e.Name, i, s.Name, ErrSet)
		case len(set.Identities) > 0:
			return nil, fmt.Errorf("service-intentions %q: Sources[%d]: identity-set %q has Identities, and intentions go by Services alone: %w", e.Name, i, s.Name, ErrSet)
		}
		for _, name := range set.Services {
			r := rule(name)
			r.Set = s.Name
			bySet = append(bySet, r)
		}
	}
	return append(out, bySet...), nil
}

// here is where the sets of an entry are: beside it.
func here(t *catalog.Txn, e *catalog.ServiceIntentions, name string) catalog.Key {
	key := e.Scope.Name(name)
	key.Datacenter = t.Datacenter() // entries are the same in every datacenter
	return key
}

// expand puts the matches of match-sets in the place of permissions that refer to them; written are then the places that they come from.
func expand(t *catalog.Txn, e *catalog.ServiceIntentions, at int) (all []catalog.IntentionPermission, written []int, err error) {
	refers := false
	for _, p := range e.Sources[at].Permissions {
		refers = refers || len(p.MatchSets) > 0
	}
	if !refers {
		return e.Sources[at].Permissions, nil, nil
	}
	for i, p := range e.Sources[at].Permissions {
		if len(p.MatchSets) == 0 {
			all, written = append(all, p), append(written, i)
			continue
		}
		for j, name := range p.MatchSets {
			set, err := catalog.EntryAs[*catalog.MatchSet](t, catalog.KindMatchSet, here(t, e, name))
			if err != nil {
				return nil, nil, err
			}
			if set == nil {
				return nil, nil, fmt.Errorf("service-intentions %q: Sources[%d].Permissions[%d].MatchSets[%d]: there is no match-set %q: write that first: %w", e.Name, at, i, j, name, ErrSet)
			}
			for k := range set.Matches {
				one := p
				one.HTTP, one.MatchSets = &set.Matches[k], nil
				all, written = append(all, one), append(written, i)
			}
		}
	}
	return all, written, nil
}

// place is where a permission was written.
func (r *Rule) place(i int) int {
	if r.written == nil {
		return i
	}
	return r.written[i]
}
