// SPDX-License-Identifier: Apache-2.0

package xds_test

import (
	"testing"
	"time"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/connect/xds"
)

// A changed set renders those upstreams anew that refer to it, and the proxy's own part only where its intentions do.
func TestAChangedSetRendersItsUsers(t *testing.T) {
	w, render := memoWorld(t)
	now, memo := time.Now(), &xds.Memo{}
	matches := func(path string) *catalog.MatchSet {
		return &catalog.MatchSet{EntryHead: head("m"), Matches: []catalog.IntentionHTTPPermission{{PathPrefix: path}, {Hosts: []string{"a.example"}}}}
	}
	callers := func(names ...string) *catalog.IdentitySet {
		return &catalog.IdentitySet{EntryHead: head("c"), Services: names}
	}
	write(t, w, matches("/a"), callers("web"),
		&catalog.ServiceRouter{EntryHead: head("s3"), Routes: []catalog.ServiceRoute{{MatchSets: []string{"m"}}}},
		&catalog.ServiceRouter{EntryHead: head("s4"), Routes: []catalog.ServiceRoute{{Match: &catalog.ServiceRouteMatch{Source: &catalog.RouteSource{Sets: []string{"c"}}}}}})
	render(memo, now)
	for want, e := range []catalog.Entry{0: &catalog.MatchSet{EntryHead: head("unused"), Matches: []catalog.IntentionHTTPPermission{{PathPrefix: "/"}}}, 1: matches("/b")} {
		write(t, w, e)
		if render(memo, now); memo.Rendered() != want {
			t.Errorf("%s/%s: %d upstreams rendered, want %d", e.EntryKind(), e.Head().Name, memo.Rendered(), want)
		}
	}
	routes := func(out *xds.Output) string { return out.TypeHashes[xds.RouteType] }
	before := routes(render(memo, now))
	write(t, w, callers("other"))
	out := render(memo, now)
	if memo.Rendered() != 1 || routes(out) == before {
		t.Errorf("%d upstreams rendered", memo.Rendered())
	}
	if again := render(nil, now); again.Hash != out.Hash {
		t.Error("with a memo it comes to something else than without")
	}
}
