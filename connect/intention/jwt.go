// SPDX-License-Identifier: Apache-2.0

package intention

import (
	"slices"

	"github.com/weftmesh/weft/catalog"
)

// Claims are what the verified tokens of a request say, by the provider that verified them.
type Claims map[string]map[string]any

// Satisfied says whether the claims meet a requirement: a token of one of its providers, that claims what it must. A nil
// requirement is met by every request.
func Satisfied(r *catalog.JWTRequirement, claims Claims) bool {
	return r == nil || slices.ContainsFunc(r.Providers, func(p catalog.JWTRequired) bool {
		token, ok := claims[p.Name]
		return ok && !slices.ContainsFunc(p.VerifyClaims, func(c catalog.JWTClaim) bool { return !claimed(token, c) })
	})
}

// claimed follows a claim's path. Text is compared as it is; of a list one has to be it.
func claimed(token map[string]any, c catalog.JWTClaim) bool {
	var at any = token
	for _, key := range c.Path {
		m, ok := at.(map[string]any)
		if !ok {
			return false
		}
		at = m[key]
	}
	if list, ok := at.([]any); ok {
		return slices.Contains(list, any(c.Value))
	}
	return at == any(c.Value)
}

// perRequest says whether the rule depends on what a request looks like.
func (r *Rule) perRequest() bool { return len(r.Permissions) > 0 || r.JWT != nil }

// Providers are the names of the JWT providers that rules speak of, sorted.
func (rs Rules) Providers() []string {
	var out []string
	add := func(r *catalog.JWTRequirement) {
		if r != nil {
			for _, p := range r.Providers {
				out = append(out, p.Name)
			}
		}
	}
	for _, r := range rs {
		add(r.JWT)
		for _, p := range r.Permissions {
			add(p.JWT)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
