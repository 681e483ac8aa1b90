// SPDX-License-Identifier: Apache-2.0

package intention

import (
	"testing"

	"github.com/weftmesh/weft/catalog"
)

// What a source reaches is what its rules would allow some request, the most exact rule first.
func TestReach(t *testing.T) {
	src := func(name, action string, perms ...catalog.IntentionPermission) catalog.SourceIntention {
		return catalog.SourceIntention{Name: name, Action: action, Permissions: perms}
	}
	entry := func(name, mode string, sources ...catalog.SourceIntention) catalog.Entry {
		return &catalog.ServiceIntentions{EntryHead: catalog.EntryHead{Name: name}, Sources: sources, Mode: mode}
	}
	some := catalog.IntentionPermission{Action: catalog.ActionAllow, HTTP: &catalog.IntentionHTTPPermission{PathPrefix: "/x"}}
	none := catalog.IntentionPermission{Action: catalog.ActionDeny, HTTP: &catalog.IntentionHTTPPermission{PathPrefix: "/x"}}
	all := []catalog.Entry{
		entry("allowed", "", src("web", "allow")), entry("denied", "", src("web", "deny"), src("*", "allow")),
		entry("others", "", src("db", "allow")), entry("any", "", src("*", "allow")),
		entry("some", "", src("web", "", none, some)), entry("nothing", "", src("web", "", none)),
		entry("audited", catalog.ModeAudit, src("web", "deny")),
	}
	txn := view(t, all...)
	check := func(byDefault bool, want map[string]bool) {
		t.Helper()
		r, err := ReachOf(txn, catalog.Scope{}.Default("dc1").Name("web"), byDefault)
		if err != nil {
			t.Fatal(err)
		}
		for name, yes := range want {
			if r.To(name) != yes {
				t.Errorf("by default %v: %s is reached: %v", byDefault, name, !yes)
			}
		}
	}
	said := map[string]bool{"allowed": true, "Allowed": true, "denied": false, "any": true, "some": true, "nothing": false, "audited": true}
	check(false, said)
	check(true, said)
	check(false, map[string]bool{"others": false, "new": false})
	check(true, map[string]bool{"others": true, "new": true})
	txn = view(t, append(all, entry("*", "", src("web", "allow")))...)
	check(false, said)
	check(false, map[string]bool{"others": true, "new": true})
	txn = view(t, append(all, entry("*", "", src("web", "deny"), src("*", "allow")))...)
	check(true, map[string]bool{"others": false, "new": false, "any": true})
}
