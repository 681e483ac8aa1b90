// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"regexp"
	"testing"

	"github.com/weftmesh/weft/catalog"
)

// A name in a rule is that name, whatever its characters mean in a regular expression.
func TestC34_NamesAreNoPatterns(t *testing.T) {
	c := callers{td: "td.consul"}
	for _, name := range []string{"api.v2", "a|b", "a+b", "a(b", `a\\b`, "[ab]", "a.*"} {
		key := catalog.Scope{}.Default("dc1").Name(name)
		pattern := c.named(key).GetAuthenticated().GetPrincipalName().GetSafeRegex().GetRegex()
		re, err := regexp.Compile("^(?:" + pattern + ")$")
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		const before = "spiffe://td.consul/ns/default/dc/dc1/svc/"
		if !re.MatchString(before + name) {
			t.Errorf("the control: %s isn't matched by its own rule", name)
		}
		for _, other := range []string{"apixv2", "a", "b", "aab", "ab", "axyz"} {
			if re.MatchString(before+other) || re.MatchString("spiffe://tdxconsul/ns/default/dc/dc1/svc/"+name) {
				t.Errorf("the rule of %s lets %s by", name, other)
			}
		}
	}
}
