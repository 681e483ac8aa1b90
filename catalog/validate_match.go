// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"fmt"
	"strings"
)

func (m *ServiceRouteHTTPMatch) validate(f string) error {
	if m == nil {
		return nil
	}
	if err := firstError(paths(f, m.PathExact, m.PathPrefix, m.PathRegex), methods(f, m.Methods)); err != nil {
		return err
	}
	for i, h := range m.Header {
		f := fmt.Sprintf("%s.Header[%d]", f, i)
		forms := count(h.Present, h.Exact != "", h.Prefix != "", h.Suffix != "", h.Regex != "", h.Contains != "", h.Range != nil)
		if err := matcher(f, h.Name, forms, h.Regex, "Present, Exact, Prefix, Suffix, Contains, Range, or Regex"); err != nil {
			return err
		}
		if h.Range != nil && h.Range.From >= h.Range.To {
			return invalidf("%s.Range: From %d must be below To %d", f, h.Range.From, h.Range.To)
		}
		if h.IgnoreCase && (h.Present || h.Regex != "" || h.Range != nil) {
			return invalidf("%s: IgnoreCase goes with Exact, Prefix, Suffix, or Contains; in a Regex write (?i)", f)
		}
	}
	for i, q := range m.QueryParam {
		f := fmt.Sprintf("%s.QueryParam[%d]", f, i)
		forms := count(q.Present, q.Exact != "", q.Regex != "", q.Prefix != "", q.Suffix != "", q.Contains != "")
		if err := matcher(f, q.Name, forms, q.Regex, "Present, Exact, Prefix, Suffix, Contains, or Regex"); err != nil {
			return err
		}
		if q.IgnoreCase && (q.Present || q.Regex != "") {
			return invalidf("%s: IgnoreCase goes with Exact, Prefix, Suffix, or Contains; in a Regex write (?i)", f)
		}
	}
	if m.Port < 0 || m.Port > 65535 {
		return invalidf("%s.Port %d is no port; it must be from 1 to 65535", f, m.Port)
	}
	if g := m.GRPC; g != nil {
		switch {
		case m.PathExact+m.PathPrefix+m.PathRegex != "":
			return invalidf("%s: GRPC and the path forms exclude each other", f)
		case g.Service+g.Method == "":
			return invalidf("%s.GRPC: name a Service, a Method, or both", f)
		case strings.ContainsAny(g.Service+g.Method, "/ ?#"):
			return invalidf("%s.GRPC: names are as shop.v1.Cart and Add, without slashes", f)
		}
	}
	return firstError(oneOf(f+".Scheme", m.Scheme, "", "http", "https"), m.Authority.validate(f+".Authority"))
}

func (m *StringMatch) validate(f string) error {
	if m == nil {
		return nil
	}
	if count(m.Exact != "", m.Prefix != "", m.Suffix != "", m.Contains != "", m.Regex != "") != 1 {
		return invalidf("%s should contain exactly one of Exact, Prefix, Suffix, Contains, or Regex", f)
	}
	if m.IgnoreCase && m.Regex != "" {
		return invalidf("%s: IgnoreCase goes with Exact, Prefix, Suffix, or Contains; in a Regex write (?i)", f)
	}
	return pattern(f+".Regex", m.Regex)
}

func (s *RouteSource) validate(f string) error {
	if s == nil {
		return nil
	}
	if len(s.Services)+len(s.NotServices)+len(s.Identities)+len(s.Meta)+len(s.Sets) == 0 {
		return invalidf("%s should not be empty", f)
	}
	if err := setNames(f+".Sets", s.Sets); err != nil {
		return err
	}
	for field, list := range map[string][]string{"Services": s.Services, "NotServices": s.NotServices} {
		for i, name := range list {
			if err := firstError(checkName(fmt.Sprintf("%s.%s[%d]", f, field, i), name), wildcard(fmt.Sprintf("%s.%s[%d]", f, field, i), name)); err != nil {
				return err
			}
		}
	}
	for i, id := range s.Identities {
		if !strings.HasPrefix(id, "spiffe://") || strings.Contains(strings.TrimSuffix(id, Wildcard), Wildcard) {
			return invalidf("%s.Identities[%d] %q: want a SPIFFE ID, or its beginning and then *", f, i, id)
		}
	}
	return nil
}
