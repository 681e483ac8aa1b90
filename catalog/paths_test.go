// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"errors"
	"strings"
	"testing"
)

// A rule whose path is in a form that no request has after it was brought into its one form is refused when it is written.
func TestC20_PathsThatNoRequestHas(t *testing.T) {
	at := func(h IntentionHTTPPermission) error {
		return (&ServiceIntentions{Sources: []SourceIntention{{Permissions: []IntentionPermission{{HTTP: &h}}}}}).UnmatchedPath()
	}
	for path, want := range map[string][2]bool{ // taken as the whole, and as the beginning
		"/a/b": {true, true}, "/": {true, true}, "/a/": {true, true}, "/a%20b": {true, true}, "/a;b=c": {true, true}, "/a%25b": {true, true}, "/.well-known": {true, true},
		"/a//b": {}, "/a/%2e/b": {}, "/a/%2E/b": {}, "/a/./b": {}, "/a/../b": {}, "/a%2Fb": {}, "/a%2fb": {}, "/a%5Cb": {}, `/a\b`: {}, "/%61": {}, "/a b": {}, "/a#b": {},
		"/a?b": {}, "/a%00": {}, "/a%zz": {}, "/\xc3\xa7": {}, "/a%2a": {}, "/a%2A": {true, true},
		"/a/.": {false, true}, "/a/..": {false, true}, "/a%": {false, true}, "/a%2": {false, true},
	} {
		for i, err := range []error{at(IntentionHTTPPermission{PathExact: path}), at(IntentionHTTPPermission{PathPrefix: path})} {
			if (err == nil) != want[i] || err != nil && !errors.Is(err, ErrInvalid) {
				t.Errorf("%q as %s: %v", path, []string{"PathExact", "PathPrefix"}[i], err)
			}
		}
	}
}

// A rule about how a message is sent would be asked when that has been taken off.
func TestC36_HeadersThatNoRuleSees(t *testing.T) {
	for name, ok := range map[string]bool{"Connection": false, "content-length": false, "Transfer-Encoding": false, "Upgrade": true, "x-role": true, "te": true} {
		err := (&ServiceIntentions{Sources: []SourceIntention{{Permissions: []IntentionPermission{{HTTP: &IntentionHTTPPermission{Header: []IntentionHTTPHeader{{Name: name, Present: true}}}}}}}}).UnmatchedPath()
		if (err == nil) != ok || err != nil && !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A regular expression is of the kind that is matched in linear time, and of a bounded length.
func TestC75_RegularExpressions(t *testing.T) {
	for expr, ok := range map[string]bool{
		"/a+/b": true, "(a+)+$": true, strings.Repeat("a|", 2000) + "a": true, // which is harmless to this kind
		strings.Repeat("a|", 10_000) + "a": false, strings.Repeat("a", 1<<20): false, "(a": false, `(a)\1`: false, "(?=a)": false, "a{5000}": false,
	} {
		for i, e := range []Entry{
			&ServiceIntentions{EntryHead: EntryHead{Name: "x"}, Sources: []SourceIntention{{Name: "*", Type: "consul", Permissions: []IntentionPermission{{Action: ActionAllow, HTTP: &IntentionHTTPPermission{PathRegex: expr}}}}}},
			&ServiceRouter{EntryHead: EntryHead{Name: "x"}, Routes: []ServiceRoute{{Match: &ServiceRouteMatch{HTTP: &ServiceRouteHTTPMatch{PathRegex: expr}}}}},
		} {
			if err := e.Validate(); (err == nil) != ok {
				t.Errorf("entry %d, %.40q of %d bytes: %v", i, expr, len(expr), err)
			}
		}
	}
}
