// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"encoding/json"
	"strings"
	"testing"
)

// A value in the log is what it was, wherever in it the byte stands that has to be escaped.
func TestEscape(t *testing.T) {
	for c := range 0x80 {
		for at := range 17 {
			for _, around := range []string{"a", "~", " ", "!", "]", "["} {
				s := strings.Repeat(around, at) + string(rune(c)) + strings.Repeat(around, 16-at)
				line := quote([]byte(`before"`), s)[len(`before"`):]
				var got string
				if err := json.Unmarshal(line, &got); err != nil || got != s {
					t.Fatalf("%q was written as %s: %v", s, line, err)
				}
				if c == 0x7f && !strings.Contains(string(line), `\u007f`) {
					t.Fatalf("DEL was written as it is: %q", line)
				}
			}
		}
	}
	for at := range 17 {
		s := strings.Repeat("a", at) + "\xff" + strings.Repeat("a", 16-at)
		if line := string(quote(nil, s)); line != `"`+strings.ReplaceAll(s, "\xff", "\ufffd")+`"` {
			t.Fatalf("%q was written as %s", s, line)
		}
	}
}
