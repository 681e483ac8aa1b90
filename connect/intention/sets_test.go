// SPDX-License-Identifier: Apache-2.0

package intention

import (
	"errors"
	"net/http"
	"testing"

	"github.com/weftmesh/weft/catalog"
)

// Who is named counts as such, others of a set as the set; what a permission refers to is as if it stood there, in its place.
func TestRulesBySets(t *testing.T) {
	scope := catalog.Scope{}.Default("dc1")
	shops := &catalog.IdentitySet{EntryHead: catalog.EntryHead{Scope: scope, Name: "shops"}, Services: []string{"Web", "batch"}}
	reads := &catalog.MatchSet{EntryHead: catalog.EntryHead{Scope: scope, Name: "reads"}, Matches: []catalog.IntentionHTTPPermission{{Methods: []string{"get"}}, {PathPrefix: "/search"}}}
	set := source("shops", "", catalog.IntentionPermission{Action: "deny", HTTP: &catalog.IntentionHTTPPermission{PathPrefix: "/admin"}}, catalog.IntentionPermission{Action: "allow", MatchSets: []string{"reads"}},
		catalog.IntentionPermission{Action: "allow", HTTP: &catalog.IntentionHTTPPermission{PathExact: "/write"}})
	set.Type = catalog.KindIdentitySet
	x := txn(t, shops, reads, entry("api", set, source("web", "allow"), source("*", "deny")))
	for _, c := range []struct {
		who, method, path string
		allowed           bool
		permission        int
	}{
		{"web", "PUT", "/admin", true, -1},
		{"batch", "GET", "/x", true, 1},
		{"batch", "PUT", "/search/x", true, 1},
		{"batch", "GET", "/admin", false, 0},
		{"batch", "PUT", "/write", true, 2},
		{"batch", "PUT", "/x", false, -1},
		{"shops", "GET", "/x", false, -1},
	} {
		d, err := DecideRequest(x, service(c.who), scope.Name("api"), Request{Method: c.method, Path: c.path, Header: http.Header{}}, false)
		if err != nil || d.Allowed != c.allowed || d.Permission != c.permission {
			t.Errorf("%+v: %+v %v", c, d, err)
		}
		if c.who == "batch" && d.Rule.Where() != "service-intentions/api source batch of identity-set/shops" {
			t.Error(d.Rule.Where())
		}
	}
	if reach, err := ReachOf(x, scope.Name("batch"), false); err != nil || !reach.To("api") {
		t.Error("batch doesn't reach it", err)
	}
	for name, y := range map[string]*catalog.Txn{
		"no identity-set": x.Without(catalog.KindIdentitySet, scope.Name("shops")), "no match-set": x.Without(catalog.KindMatchSet, scope.Name("reads")),
		"identities": x.With(&catalog.IdentitySet{EntryHead: shops.EntryHead, Identities: []string{"spiffe://*"}}),
	} {
		if _, err := Match(y, scope.Name("api")); !errors.Is(err, ErrSet) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
