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

// A set changes who may call services of all names, so that the right to write its own name isn't enough.
func TestWhoMayWriteSets(t *testing.T) {
	r := locked(t)
	const set = `{"Kind":"identity-set","Name":"ops","Services":["console"]}`
	_, service := r.token(`service_prefix "" { policy = "write" }`)
	_, mesh := r.token("mesh = \"write\"\nservice_prefix \"\" { policy = \"write\" }")
	r.as(service, "PUT", "/v1/config", set, 403, "mesh:write")
	r.as(mesh, "PUT", "/v1/config", set, 200, "true")
	r.as(service, "DELETE", "/v1/config/identity-set/ops", "", 403, "mesh:write")
	r.as(mesh, "DELETE", "/v1/config/identity-set/ops", "", 200, "")
}
