// SPDX-License-Identifier: Apache-2.0

package h1

import (
	"strings"
	"testing"
)

// What is looked at eight bytes at a time is held to what is looked at one by one: each byte, at each place, beside each neighbour that could
// hide it.
func TestIsValue(t *testing.T) {
	for c := range 256 {
		for at := range 17 {
			for _, around := range []string{"a", "\t", " ", "\x80", "\xff", "~"} {
				s := strings.Repeat(around, at) + string([]byte{byte(c)}) + strings.Repeat(around, 16-at)
				if got, want := isValue(s), allOf(s, charValue); got != want {
					t.Fatalf("%q: %t, want %t", s, got, want)
				}
			}
		}
	}
}
