// SPDX-License-Identifier: Apache-2.0

package config

import "strings"

// Matches says whether s matches. CaseFold's Text is in lower case already.
func (m *StringMatch) Matches(s string) bool {
	if m.CaseFold && m.Kind != MatchRegex {
		s = strings.ToLower(s)
	}
	switch m.Kind {
	case MatchExact:
		return s == m.Text
	case MatchPrefix:
		return strings.HasPrefix(s, m.Text)
	case MatchSuffix:
		return strings.HasSuffix(s, m.Text)
	case MatchContains:
		return strings.Contains(s, m.Text)
	case MatchRegex:
		return m.Regex.MatchString(s)
	case MatchAny:
		return true
	}
	return false
}
