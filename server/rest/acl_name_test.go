// SPDX-License-Identifier: Apache-2.0

package rest

import (
	"strings"
	"testing"

	"github.com/weftmesh/weft/catalog"
)

// A token's name is what its method says, in print and of bounded length whatever the claims are.
func TestTokenNames(t *testing.T) {
	vars := map[string]string{"value.user": "Ann", "value.odd": "a\x1b[2J\nb\xff", "value.long": strings.Repeat("é", 200)}
	for _, c := range [][3]string{
		{"", "", "jwt-ci"},
		{"${auth_method_type}/${auth_method_name}-${value.user}", "value.user", "jwt/ci-Ann"},
		{"${value.user}${value.none}!", "value.none", "Ann!"},
		{"[${value.odd}]", "value.odd", "[a[2Jb]"},
		{"${value.long}", "value.long", strings.Repeat("é", 128)},
		{"plain $ {x}", "", "plain $ {x}"},
	} {
		if err := CheckTokenNameFormat(c[0], "value.user", c[1]); err != nil {
			t.Error(err)
		}
		if got := tokenName(&catalog.ACLAuthMethod{Name: "ci", Type: "jwt", TokenNameFormat: c[0]}, vars); got != c[2] {
			t.Errorf("%q makes %q, want %q", c[0], got, c[2])
		}
	}
	for format, want := range map[string]string{
		"${value.other}": "no ${value.other}", "${lower(value.user)}": "no ${lower(value.user)}", "${": "no ${}", strings.Repeat("x", 300): "more than 256",
	} {
		if err := CheckTokenNameFormat(format, "value.user"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", format, err, want)
		}
	}
}
