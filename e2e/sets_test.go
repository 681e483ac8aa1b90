// SPDX-License-Identifier: Apache-2.0

package e2e

import "testing"

// matchSets: a set of matches, and one of callers, in routes and intentions; a changed set counts for all that refer to it.
func matchSets(t *testing.T, w *World) {
	l := w.traffic(t)
	matches := func(path string) object {
		return object{"Kind": "match-set", "Name": l.name("some"), "Matches": []object{{"PathPrefix": path}, {"Methods": []string{"DELETE"}}, {"Hosts": []string{"*.sets.shop"}}}}
	}
	callers := func(name string) object {
		return object{"Kind": "identity-set", "Name": l.name("callers"), "Services": []string{l.name(name), l.name("nobody")}}
	}
	l.entry("match-set", "some", matches("/a"))
	l.entry("identity-set", "callers", callers("web"))
	sets, named := []string{l.name("some")}, []string{l.name("callers")}
	l.routes(
		object{"MatchSets": sets, "Match": object{"Source": object{"Sets": named}}, "Destination": object{"ResponseHeaders": object{"Set": object{route: "set"}}}},
		marked("rest", object{}),
	)
	l.comes("GET", "/a", byRoute("set"))
	l.is(byRoute("set"), "DELETE", "/")
	l.is(byRoute("set"), "GET", "/", ":authority: a.sets.shop:80")
	l.is(byRoute("rest"), "GET", "/b")
	l.rules(object{"Sources": []object{{"Name": l.name("callers"), "Type": "identity-set", "Permissions": []object{{"Action": "deny", "MatchSets": sets}, {"Action": "allow", "HTTP": object{"PathPrefix": "/"}}}}}})
	l.everywhere("/a", because("rbac_denied"))
	l.is(because("rbac_denied"), "DELETE", "/")
	l.is(statusIs(200), "GET", "/b")
	l.put("/v1/config", matches("/b"))
	l.everywhere("/b", because("rbac_denied"))
	l.everywhere("/a", statusIs(200))
	l.is(byRoute("rest"), "GET", "/a")
	l.put("/v1/config", callers("other"))
	l.everywhere("/a", because("rbac_denied")) // nobody speaks of web
	l.put("/v1/config", callers("web"))
	l.everywhere("/a", statusIs(200))
}
