// SPDX-License-Identifier: Apache-2.0

package server

import "testing"

// A reference to what isn't there is refused, and so is deleting what is referred to, or changing it into what its users can't have.
func TestSetsAndTheirUsers(t *testing.T) {
	r := start(t, "")
	put := func(status int, want, entry string) {
		t.Helper()
		r.do("PUT", "/v1/config", entry, status, want)
	}
	put(200, "true", `{"Kind":"service-defaults","Name":"api","Protocol":"http"}`)
	const router = `{"Kind":"service-router","Name":"api","Routes":[{"MatchSets":["admin"],"Match":{"Source":{"Sets":["ops"]}}}]}`
	const rules = `{"Kind":"service-intentions","Name":"api","Sources":[{"Name":"ops","Type":"identity-set","Permissions":[{"Action":"allow","MatchSets":["admin"]}]}]}`
	const all = `{"Kind":"service-intentions","Name":"*","Sources":[{"Name":"ops","Type":"identity-set","Action":"deny"}]}`
	put(500, `service-router "api": Routes[0]: Source.Sets[0]: there is no identity-set "ops": write that first`, router)
	put(500, `service-intentions "*": Sources[0]: there is no identity-set "ops": write that first`, all)
	put(200, "true", `{"Kind":"identity-set","Name":"ops","Services":["console"]}`)
	put(500, `Routes[0].MatchSets[0]: there is no match-set "admin": write that first`, router)
	put(500, `Sources[0].Permissions[0].MatchSets[0]: there is no match-set "admin": write that first`, rules)
	r.do("PUT", "/v1/connect/intentions/exact?source=web&destination=api", `{"Permissions":[{"Action":"allow","MatchSets":["admin"]}]}`, 500, `there is no match-set "admin"`)
	put(500, `Matches[0].PathPrefix "/a//b" matches no request`, `{"Kind":"match-set","Name":"admin","Matches":[{"PathPrefix":"/a//b"}]}`)
	put(200, "true", `{"Kind":"match-set","Name":"admin","Matches":[{"PathPrefix":"/admin"}]}`)
	put(200, "true", router)
	put(200, "true", rules)
	put(200, "true", all)
	r.do("DELETE", "/v1/config/match-set/admin", "", 500, `match-set "admin" can't be deleted, it is used by service-intentions/api, service-router/api`)
	r.do("DELETE", "/v1/config/identity-set/ops", "", 500, `identity-set "ops" can't be deleted, it is used by service-intentions/*, service-intentions/api, service-router/api`)
	put(500, `identity-set "ops" has Identities, and intentions go by Services alone`, `{"Kind":"identity-set","Name":"ops","Identities":["spiffe://*"]}`)
	r.do("GET", "/v1/weft/explain?source=console&destination=api&method=GET&path=/admin", "", 200, `"Routes":[{"Source":"service-router/api route 1","Matched":true}]`)
	for _, name := range []string{"service-router/api", "service-intentions/api", "service-intentions/*", "match-set/admin", "identity-set/ops"} {
		r.do("DELETE", "/v1/config/"+name, "", 200, "")
	}
}

// What holds for services of all names takes the right to change the mesh, and who may call the right to change intentions: to be a service's
// owner isn't enough.
func TestWhoMayWriteEntries(t *testing.T) {
	r := locked(t)
	_, service := r.token(`service_prefix "" { policy = "write" }`)
	_, mesh := r.token(`mesh = "write"`)
	_, rules := r.token(`service "web" { policy = "read" intentions = "write" }`)
	for _, c := range []struct{ token, path, entry, missing string }{
		{service, "service-defaults/web", `{"Kind":"service-defaults","Name":"web","Protocol":"http"}`, ""},
		{mesh, "service-defaults/web", `{"Kind":"service-defaults","Name":"web","Protocol":"http"}`, "service:write"},
		{service, "identity-set/ops", `{"Kind":"identity-set","Name":"ops","Services":["console"]}`, "mesh:write"},
		{mesh, "identity-set/ops", `{"Kind":"identity-set","Name":"ops","Services":["console"]}`, ""},
		{service, "proxy-defaults/global", `{"Kind":"proxy-defaults","Name":"global"}`, "mesh:write"},
		{service, "mesh/mesh", `{"Kind":"mesh"}`, "mesh:write"},
		{mesh, "mesh/mesh", `{"Kind":"mesh"}`, ""},
		{service, "service-intentions/web", `{"Kind":"service-intentions","Name":"web","Sources":[{"Name":"a","Action":"allow"}]}`, "intentions:write"},
		{rules, "service-intentions/web", `{"Kind":"service-intentions","Name":"web","Sources":[{"Name":"a","Action":"allow"}]}`, ""},
		{rules, "service-intentions/api", `{"Kind":"service-intentions","Name":"api","Sources":[{"Name":"a","Action":"allow"}]}`, "intentions:write"},
	} {
		status := 200
		if c.missing != "" {
			status = 403
		}
		r.as(c.token, "PUT", "/v1/config", c.entry, status, c.missing)
		r.as(c.token, "DELETE", "/v1/config/"+c.path, "", status, c.missing)
	}
}
