// SPDX-License-Identifier: Apache-2.0

package config

import (
	"math/rand/v2"
	"regexp"
	"testing"
)

// A plain form says what its expression says, wherever it is sure.
func TestPlainIsItsExpression(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	some := func(of ...string) (s string) {
		for range r.IntN(6) {
			s += of[r.IntN(len(of))]
		}
		return s
	}
	plain, matched, sure := 0, 0, 0
	for range 60_000 {
		expr := some("/", "a", "[^/]+", "/svc/", "(?i:sk)", "(?i:/k)", `\.`, "é", "[^/]*", "(?:/ap/[^/]+)?", "(a)", "[^/a]+", "x|y", "$")
		p := PlainOf(expr)
		if p == nil {
			continue
		}
		plain++
		s := some("/", "a", "A", "/svc/", "sk", "SK", "/K", ".", "é", "\u212a", "ſ", "\xff", "\n")
		if r.IntN(2) == 0 { // something like what would match
			s = regexp.MustCompile(`\[\^/\]\+`).ReplaceAllLiteralString(expr, some("a", "é", "."))
			s = regexp.MustCompile(`\(\?i:(.*?)\)`).ReplaceAllString(s, "$1")
		}
		want := regexp.MustCompile(`^(?:` + expr + `)$`).MatchString(s)
		got, is := p.Match(s)
		if is && got != want {
			t.Fatalf("%q of %q: %v, want %v", s, expr, got, want)
		}
		if is {
			sure++
		}
		if want {
			matched++
		}
	}
	if plain < 3_000 || matched < 300 || sure < plain*9/10 || sure == plain {
		t.Errorf("%d expressions were plain, %d sure, %d matched: they show too little", plain, sure, matched)
	}
}

func TestPlain(t *testing.T) {
	for expr, want := range map[string]bool{
		`spiffe://td\.x/ns/default/dc/[^/]+/svc/(?i:web)`: true, "a": true, "[^/]+": true, "[^/]+/a": true,
		"[^/]+a": false, "[^/]+[^/]+": false, "[^/]*": false, "a|b": false, "é": false, "(a)": false, "a$": false, "(": false,
	} {
		if got := PlainOf(expr) != nil; got != want {
			t.Errorf("%s: %v, want %v", expr, got, want)
		}
	}
}
