// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"

	"github.com/hashicorp/go-bexpr"
)

// retryOn are the conditions that a route may retry on, by Envoy's names.
func retryOn() []string {
	return []string{
		"5xx", "gateway-error", "reset", "reset-before-request", "connect-failure", "envoy-ratelimited",
		"retriable-4xx", "refused-stream", "cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable",
	}
}

// Validate checks each route's match and destination.
func (e *ServiceRouter) Validate() error {
	if err := firstError(e.validate(), e.exactName()); err != nil {
		return err
	}
	for i, r := range e.Routes {
		f := fmt.Sprintf("Routes[%d]", i)
		if err := r.validate(f); err != nil {
			return err
		}
	}
	return nil
}

func (r *ServiceRoute) validate(f string) error {
	if r.Match != nil && len(r.MatchAny) > 0 {
		return invalidf("%s: Match and MatchAny exclude each other", f)
	}
	if len(r.MatchSets) > 0 && (len(r.MatchAny) > 0 || r.Match != nil && r.Match.HTTP != nil) {
		return invalidf("%s: MatchSets stand in place of MatchAny and Match.HTTP", f)
	}
	if err := setNames(f+".MatchSets", r.MatchSets); err != nil {
		return err
	}
	rewritable := len(r.Matches()) > 0
	for i, m := range r.Matches() {
		f := f + ".Match"
		if r.Match == nil {
			f = fmt.Sprintf("%sAny[%d]", f, i)
		}
		if err := firstError(m.HTTP.validate(f+".HTTP"), m.Source.validate(f+".Source")); err != nil {
			return err
		}
		rewritable = rewritable && m.HTTP != nil && (m.HTTP.PathExact != "" || m.HTTP.PathPrefix != "")
	}
	if count(r.Destination != nil, r.Redirect != nil, r.Response != nil) > 1 {
		return invalidf("%s: Destination, Redirect and Response exclude each other", f)
	}
	if err := firstError(r.Redirect.validate(f+".Redirect", rewritable), r.Response.validate(f+".Response")); err != nil {
		return err
	}
	d := r.Destination
	if d == nil {
		return nil
	}
	if d.PrefixRewrite != "" && !rewritable {
		return invalidf("%s cannot make use of PrefixRewrite without configuring either PathExact or PathPrefix", f)
	}
	return d.validate(f + ".Destination")
}

func (d *ServiceRouteDestination) validate(f string) error {
	if d.Service == Wildcard {
		return invalidf("%s.Service must be the name of a service, not the wildcard", f)
	}
	if d.RequestTimeout < 0 || d.IdleTimeout < 0 {
		return invalidf("%s: RequestTimeout and IdleTimeout must not be negative", f)
	}
	if err := firstError(d.validateSend(f), d.validateEndure(f), d.Fault.validate(f+".Fault")); err != nil {
		return err
	}
	for _, r := range d.RetryOn {
		if !slices.Contains(retryOn(), r) {
			return invalidf("%s.RetryOn contains an invalid retry condition: %q", f, r)
		}
	}
	for _, c := range d.RetryOnStatusCodes {
		if c < 100 || c > 599 {
			return invalidf("%s.RetryOnStatusCodes: %d is no HTTP status", f, c)
		}
	}
	return nil
}

var subsetName = regexp.MustCompile(`^[a-zA-Z0-9]([-a-zA-Z0-9]{0,61}[a-zA-Z0-9])?$`)

// Validate checks subsets, redirect, failover and load balancer.
func (e *ServiceResolver) Validate() error {
	if err := firstError(e.validate(), e.exactName()); err != nil {
		return err
	}
	for name, s := range e.Subsets {
		if !subsetName.MatchString(name) {
			return invalidf("Subset %q is invalid: it must be a DNS label of at most 63 characters", name)
		}
		if s.Filter != "" {
			if _, err := bexpr.CreateEvaluator(s.Filter); err != nil {
				return invalidf("Filter for subset %q is not a valid expression: %v", name, err)
			}
		}
	}
	if _, ok := e.Subsets[e.DefaultSubset]; e.DefaultSubset != "" && !ok {
		return invalidf("DefaultSubset %q is not a valid subset", e.DefaultSubset)
	}
	if e.ConnectTimeout < 0 || e.RequestTimeout < 0 {
		return invalidf("ConnectTimeout and RequestTimeout must not be negative")
	}
	if err := firstError(e.Limits.validate("Limits"), e.PassiveHealthCheck.validate("PassiveHealthCheck"), e.Connections.validate("Connections"), e.validateLocality(),
		e.Fallback.validate("Fallback")); err != nil {
		return err
	}
	if e.Redirect != nil && len(e.Failover) > 0 {
		return invalidf("Redirect and Failover cannot both be set")
	}
	if e.Redirect != nil {
		if err := e.Redirect.validate(e); err != nil {
			return err
		}
	}
	for name, f := range e.Failover {
		if _, ok := e.Subsets[name]; name != Wildcard && !ok {
			return invalidf("Bad Failover[%q]: not a valid subset", name)
		}
		if err := f.validate(fmt.Sprintf("Failover[%q]", name), e); err != nil {
			return err
		}
	}
	return e.LoadBalancer.validate()
}

func (r *ServiceResolverRedirect) validate(e *ServiceResolver) error {
	switch {
	case *r == ServiceResolverRedirect{}:
		return invalidf("Redirect is empty")
	case r.Peer != "" && (r.ServiceSubset != "" || r.Datacenter != "" || r.Partition != ""):
		return invalidf("Redirect.Peer cannot be set with Redirect.ServiceSubset, Datacenter or Partition")
	case r.Service == "" && r.ServiceSubset != "":
		return invalidf("Redirect.ServiceSubset defined without Redirect.Service")
	case r.Service == e.Name && r.ServiceSubset != "":
		if _, ok := e.Subsets[r.ServiceSubset]; !ok {
			return invalidf("Redirect.ServiceSubset %q is not a valid subset of %q", r.ServiceSubset, e.Name)
		}
	}
	return nil
}

func (f *ServiceResolverFailover) validate(at string, e *ServiceResolver) error {
	if len(f.Targets) > 0 && (f.Service != "" || f.ServiceSubset != "" || len(f.Datacenters) > 0) {
		return invalidf("Bad %s: Targets cannot be set with Service, ServiceSubset or Datacenters", at)
	}
	if len(f.Targets) == 0 && f.Service == "" && f.ServiceSubset == "" && len(f.Datacenters) == 0 && f.Namespace == "" {
		return invalidf("Bad %s: one of Service, ServiceSubset, Namespace, Targets, or Datacenters is required", at)
	}
	if f.ServiceSubset != "" && cmp.Or(f.Service, e.Name) == e.Name {
		if _, ok := e.Subsets[f.ServiceSubset]; !ok {
			return invalidf("Bad %s.ServiceSubset %q: not a valid subset of %q", at, f.ServiceSubset, e.Name)
		}
	}
	if slices.Contains(f.Datacenters, "") {
		return invalidf("Bad %s.Datacenters: found empty datacenter", at)
	}
	for i, t := range f.Targets {
		switch {
		case t == ServiceResolverFailoverTarget{}:
			return invalidf("Bad %s.Targets[%d]: it is empty", at, i)
		case t.Peer != "" && (t.ServiceSubset != "" || t.Datacenter != "" || t.Partition != ""):
			return invalidf("Bad %s.Targets[%d]: Peer cannot be set with ServiceSubset, Datacenter or Partition", at, i)
		}
	}
	return nil
}

func (l *LoadBalancer) validate() error {
	if l == nil {
		return nil
	}
	const f = "LoadBalancer"
	if err := oneOf(f+".Policy", l.Policy, "", "random", "round_robin", "least_request", "ring_hash", "maglev", "peak_ewma"); err != nil {
		return err
	}
	hashed := l.Policy == "ring_hash" || l.Policy == "maglev"
	switch {
	case l.RingHashConfig != nil && l.Policy != "ring_hash":
		return invalidf("RingHashConfig specified for incompatible load balancing policy %q", l.Policy)
	case l.LeastRequestConfig != nil && l.Policy != "least_request":
		return invalidf("LeastRequestConfig specified for incompatible load balancing policy %q", l.Policy)
	case len(l.HashPolicies) > 0 && !hashed:
		return invalidf("HashPolicies specified for non-hash-based Policy: %q", l.Policy)
	}
	if r := l.RingHashConfig; r != nil && r.MaximumRingSize > 0 && r.MinimumRingSize > r.MaximumRingSize {
		return invalidf("%s.RingHashConfig: MinimumRingSize %d is above MaximumRingSize %d", f, r.MinimumRingSize, r.MaximumRingSize)
	}
	return firstError(hashPolicies(f+".HashPolicies", l.HashPolicies), l.validateMore(f))
}

func hashPolicies(at string, list []HashPolicy) error {
	for i, h := range list {
		f := fmt.Sprintf("%s[%d]", at, i)
		switch {
		case h.SourceIP && (h.Field != "" || h.FieldValue != ""):
			return invalidf("%s: a single hash policy cannot hash both a source address and a %q", f, h.Field)
		case h.SourceIP:
			continue
		case h.Field == "":
			return invalidf("%s.Field is required unless SourceIP is set", f)
		case h.FieldValue == "":
			return invalidf("%s.FieldValue is required for field %q", f, h.Field)
		case h.CookieConfig != nil && h.Field != "cookie":
			return invalidf("%s: cookie_config provided for %q", f, h.Field)
		case h.CookieConfig != nil && h.CookieConfig.Session && h.CookieConfig.TTL != 0:
			return invalidf("%s: a session cookie cannot have an associated TTL", f)
		}
		if err := oneOf(f+".Field", h.Field, "header", "cookie", "query_parameter"); err != nil {
			return err
		}
	}
	return nil
}
