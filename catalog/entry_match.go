// SPDX-License-Identifier: Apache-2.0

package catalog

// Range is the whole numbers from From up to, but without, To.
type Range struct {
	From int64
	To   int64
}

// StringMatch matches a string by exactly one of its forms; a Regex must match the whole.
type StringMatch struct {
	Exact      string `json:",omitempty"`
	Prefix     string `json:",omitempty"`
	Suffix     string `json:",omitempty"`
	Contains   string `json:",omitempty"`
	Regex      string `json:",omitempty"`
	IgnoreCase bool   `json:",omitempty"`
}

// GRPCMatch is for calls of a gRPC service ("shop.v1.Cart"), of one of its methods, or of a method of any service.
type GRPCMatch struct {
	Service string `json:",omitempty"`
	Method  string `json:",omitempty"`
}

// RouteSource says whose calls a route is for: all that is set must hold of the caller.
type RouteSource struct {
	Services    []string `json:",omitempty"` // any of these
	NotServices []string `json:",omitempty"` // none of these
	// Identities are SPIFFE IDs, of which one must be the caller's; one that ends in * stands for all that begin so.
	Identities []string          `json:",omitempty"`
	Meta       map[string]string `json:",omitempty"` // of the caller's registration
	// Sets are identity-sets, of which one must have the caller.
	Sets []string `json:",omitempty"`
}

// Matches returns what the route is for; none is every request.
func (r *ServiceRoute) Matches() []ServiceRouteMatch {
	if r.Match != nil {
		return []ServiceRouteMatch{*r.Match}
	}
	return r.MatchAny
}
