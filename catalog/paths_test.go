// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"errors"
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
