// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/weftmesh/weft/internal/guard"
)

func wildcard(field, name string) error {
	if strings.Contains(name, Wildcard) && name != Wildcard {
		return invalidf("%s: wildcard character '*' cannot be used with partial values, got %q", field, name)
	}
	return nil
}

// Validate checks that there are sources, none twice, each with an action or permissions.
func (e *ServiceIntentions) Validate() error {
	if err := firstError(e.validate(), wildcard("Name", e.Name)); err != nil {
		return err
	}
	if len(e.Sources) == 0 {
		return invalidf("at least one source is required")
	}
	if err := firstError(e.JWT.validate("JWT"), oneOf("Mode", e.Mode, "", ModeEnforce, ModeAudit)); err != nil {
		return err
	}
	if e.Name == Wildcard && (e.JWT != nil || e.Mode != "") {
		return invalidf("JWT and Mode cannot be specified on intentions with wildcarded destinations")
	}
	for i := range e.Sources {
		s := &e.Sources[i]
		f := fmt.Sprintf("Sources[%d]", i)
		if err := s.validate(f, e.Name); err != nil {
			return err
		}
		for j := range i {
			if sameSource(s, &e.Sources[j]) {
				return invalidf("%s defines %q more than once", f, s.Name)
			}
		}
	}
	return nil
}

func (s *SourceIntention) validate(f, destination string) error {
	if s.Name == "" {
		return invalidf("%s.Name is required", f)
	}
	err := firstError(checkName(f+".Name", s.Name), wildcard(f+".Name", s.Name), oneOf(f+".Type", s.Type, "consul", KindIdentitySet))
	if err != nil {
		return err
	}
	if s.Type == KindIdentitySet && (s.Name == Wildcard || s.Peer != "") {
		return invalidf("%s: an identity-set has a name, and is of this cluster", f)
	}
	switch {
	case s.Namespace == Wildcard && s.Name != Wildcard:
		return invalidf("%s.Namespace can be the wildcard only where Name is", f)
	case s.Namespace != "" && s.Namespace != Wildcard && !ValidNamespace(s.Namespace):
		return invalidf("%s.Namespace %q: want lower-case letters, digits and - within, at most 63", f, s.Namespace)
	case s.Peer == Wildcard:
		return invalidf("%s.Peer must be a peer's name, not the wildcard", f)
	case len(s.Permissions) > 0 && s.Action != "":
		return invalidf("%s.Action must be omitted if Permissions are specified", f)
	case len(s.Permissions) > 0 && destination == Wildcard:
		return invalidf("%s.Permissions cannot be specified on intentions with wildcarded destinations", f)
	case len(s.Permissions) == 0:
		return oneOf(f+".Action", s.Action, ActionAllow, ActionDeny)
	}
	for i := range s.Permissions {
		if err := s.Permissions[i].validate(fmt.Sprintf("%s.Permissions[%d]", f, i)); err != nil {
			return err
		}
	}
	return nil
}

func (p *IntentionPermission) validate(f string) error {
	if err := oneOf(f+".Action", p.Action, ActionAllow, ActionDeny); err != nil {
		return err
	}
	if err := p.JWT.validate(f + ".JWT"); err != nil {
		return err
	}
	if p.HTTP == nil && p.JWT == nil && p.Not == nil && len(p.MatchSets) == 0 {
		return invalidf("%s.HTTP is required", f)
	}
	if p.HTTP != nil && len(p.MatchSets) > 0 {
		return invalidf("%s: HTTP and MatchSets exclude each other", f)
	}
	if err := setNames(f+".MatchSets", p.MatchSets); err != nil {
		return err
	}
	return firstError(p.HTTP.validate(f+".HTTP"), p.Not.validate(f+".Not"))
}

func (h *IntentionHTTPPermission) validate(f string) error {
	if h == nil {
		return nil
	}
	if h.PathExact+h.PathPrefix+h.PathRegex == "" && len(h.Header) == 0 && len(h.Methods) == 0 && len(h.Hosts) == 0 {
		return invalidf("%s should not be empty", f)
	}
	for i, host := range h.Hosts {
		if name := strings.TrimPrefix(host, "*."); name == "" || strings.ContainsAny(name, "*/:@ ") {
			return invalidf("%s.Hosts[%d] %q: want a host's name without a port, or *. before it for all names below it", f, i, host)
		}
	}
	if err := firstError(paths(f, h.PathExact, h.PathPrefix, h.PathRegex), methods(f, h.Methods)); err != nil {
		return err
	}
	for i, m := range h.Header {
		f := fmt.Sprintf("%s.Header[%d]", f, i)
		forms := count(m.Present, m.Exact != "", m.Prefix != "", m.Suffix != "", m.Contains != "", m.Regex != "")
		if err := matcher(f, m.Name, forms, m.Regex, "Present, Exact, Prefix, Suffix, Contains, or Regex"); err != nil {
			return err
		}
		if m.IgnoreCase && (m.Present || m.Regex != "") {
			return invalidf("%s: should set one of Exact, Prefix, Suffix, or Contains when using IgnoreCase", f)
		}
	}
	return nil
}

func (r *JWTRequirement) validate(f string) error {
	if r == nil {
		return nil
	}
	if len(r.Providers) == 0 {
		return invalidf("%s.Providers: name at least one", f)
	}
	for i, p := range r.Providers {
		f := fmt.Sprintf("%s.Providers[%d]", f, i)
		if err := checkName(f+".Name", p.Name); err != nil {
			return err
		}
		for j, c := range p.VerifyClaims {
			if len(c.Path) == 0 || slices.Contains(c.Path, "") {
				return invalidf("%s.VerifyClaims[%d].Path must name the claim", f, j)
			}
		}
	}
	return nil
}

func count(set ...bool) (n int) {
	for _, b := range set {
		if b {
			n++
		}
	}
	return n
}

func matcher(f, name string, forms int, expr, names string) error {
	switch {
	case name == "":
		return invalidf("%s missing required Name field", f)
	case forms != 1:
		return invalidf("%s should only contain one of %s", f, names)
	}
	return pattern(f+".Regex", expr)
}

// maxPattern is how long a regular expression may be.
const maxPattern = 8 << 10

func pattern(f, expr string) error {
	if expr == "" {
		return nil
	}
	if len(expr) > maxPattern && !guard.Off("C75") {
		return invalidf("%s has %d bytes, want at most %d: each proxy compiles it, and asks it about each request", f, len(expr), maxPattern)
	}
	if _, err := regexp.Compile(expr); err != nil {
		return invalidf("%s: %v", f, err)
	}
	return nil
}

func paths(f, exact, prefix, regex string) error {
	if count(exact != "", prefix != "", regex != "") > 1 {
		return invalidf("%s should only contain at most one of PathExact, PathPrefix, or PathRegex", f)
	}
	if exact != "" && exact[0] != '/' {
		return invalidf("%s.PathExact doesn't start with '/': %q", f, exact)
	}
	if prefix != "" && prefix[0] != '/' {
		return invalidf("%s.PathPrefix doesn't start with '/': %q", f, prefix)
	}
	return pattern(f+".PathRegex", regex)
}

func methods(f string, list []string) error {
	seen := map[string]bool{}
	for _, m := range list {
		if m == "" || strings.ContainsFunc(m, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
			return invalidf("%s.Methods contains an invalid method %q", f, m)
		}
		if seen[m] {
			return invalidf("%s.Methods contains %q more than once", f, m)
		}
		seen[m] = true
	}
	return nil
}
