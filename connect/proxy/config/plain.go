// SPDX-License-Identifier: Apache-2.0

package config

import (
	"regexp/syntax"
	"slices"
	"strings"
	"unicode/utf8"
)

// Plain is a regular expression that is nothing but text, in ASCII, and [^/]+ as far as the next slash: what the identities of an intention's sources
// are. To go along it costs a sixth of what a regular expression does.
type Plain []plainPart

// plainPart is text, or [^/]+ where that is empty.
type plainPart struct {
	text string
	fold bool // whatever its case
}

var notSlash = []rune{0, '/' - 1, '/' + 1, utf8.MaxRune}

// PlainOf is the plain form of an expression that has to match the whole string; nil where it has none.
func PlainOf(expr string) Plain {
	re, err := syntax.Parse(expr, syntax.Perl)
	if err != nil {
		return nil
	}
	parts := []*syntax.Regexp{re}
	if re.Op == syntax.OpConcat {
		parts = re.Sub
	}
	var out Plain
	for i, sub := range parts {
		switch {
		case sub.Op == syntax.OpLiteral:
			text := string(sub.Rune)
			if strings.ContainsFunc(text, func(r rune) bool { return r >= utf8.RuneSelf }) {
				return nil
			}
			out = append(out, plainPart{text, sub.Flags&syntax.FoldCase != 0})
		case sub.Op == syntax.OpPlus && sub.Sub[0].Op == syntax.OpCharClass && slices.Equal(sub.Sub[0].Rune, notSlash) &&
			(i+1 == len(parts) || parts[i+1].Op == syntax.OpLiteral && parts[i+1].Rune[0] == '/'):
			out = append(out, plainPart{})
		default:
			return nil
		}
	}
	return out
}

// Match says whether all of s matches. It isn't sure where a letter may be another's form in what isn't ASCII, as the Kelvin sign is.
func (p Plain) Match(s string) (matches, sure bool) {
	for i := range p {
		text := p[i].text
		n := len(text)
		switch {
		case n == 0:
			if n = strings.IndexByte(s, '/'); n < 0 {
				n = len(s)
			}
			if n == 0 {
				return false, true
			}
		case len(s) < n:
			return false, true
		case s[:n] != text:
			if !p[i].fold {
				return false, true
			}
			if same, sure := folds(s[:n], text); !same {
				return false, sure
			}
		}
		s = s[n:]
	}
	return s == "", true
}

// folds says whether two strings of one length are the same but for the case of letters in ASCII, where that is all that counts.
func folds(s, text string) (same, sure bool) {
	for i := range len(s) {
		a, b := s[i], text[i]
		switch {
		case a == b:
		case a >= utf8.RuneSelf:
			return false, false
		case a|0x20 != b|0x20 || a|0x20 < 'a' || a|0x20 > 'z':
			return false, true
		}
	}
	return true, true
}
