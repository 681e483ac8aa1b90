// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weftmesh/weft/internal/api"
)

// open are the routes that need no permission, with why. One that isn't here has to be refused to who has none.
var open = map[string]string{
	"GET /v1/agent/connect/ca/roots": "public keys",
	"GET /v1/openapi.json":           "the table itself",
	"GET /v1/status/leader":          "as Consul's",
	"GET /v1/status/peers":           "as Consul's",
	"GET /v1/catalog/datacenters":    "as Consul's",
	"GET /v1/connect/ca/roots":       "public keys",
	"PUT /v1/txn":                    "each operation by itself: TestC100_TransactionOperations",
	"GET /v1/coordinate/datacenters": "as Consul's",
	"PUT /v1/acl/bootstrap":          "once",
	"GET /v1/acl/replication":        "as Consul's",
	"POST /v1/acl/login":             "its bearer token",
	"POST /v1/acl/logout":            "the caller's own token",
	"POST /v1/acl/oidc/auth-url":     "where a provider asks who it is",
	"POST /v1/acl/oidc/callback":     "its provider's code",
	"GET /v1/acl/token/self":         "the caller's own token",
	"GET /v1/weft/acl/resolve":       "the caller's own token",
	"GET /v1/weft/acl/changed":       "a number",
	"POST /v1/weft/join":             "its join token",
}

// more are rules that a row's request asks for beside its route's permission: it registers a service as well, or shows nodes.
var more = map[string]string{
	"PUT /v1/catalog/register":       "service_prefix \"\" { policy = \"write\" }\n",
	"GET /v1/catalog/service/{name}": readNodes,
	"GET /v1/catalog/connect/{name}": readNodes,
	"GET /v1/health/checks/{name}":   readNodes,
	"GET /v1/health/service/{name}":  readNodes,
	"GET /v1/health/connect/{name}":  readNodes,
	"GET /v1/health/ingress/{name}":  readNodes,
	"GET /v1/query/{id}/execute":     readNodes,
}

const readNodes = "node_prefix \"\" { policy = \"read\" }\n"

// refusedAt is what who may not is asked for, where the row asks for something that isn't there.
var refusedAt = map[string]string{"PUT /v1/session/destroy/{id}": "/v1/session/destroy/{session}"}

// rulesFor are rules that grant a permission, and nothing else.
func rulesFor(p api.Permission) string {
	access := map[api.Access]string{api.Read: "read", api.List: "list", api.Write: "write", api.WritePrefix: "write"}[p.Access]
	switch p.Resource {
	case "acl", "operator", "keyring", "mesh", "peering":
		return fmt.Sprintf("%s = %q\n", p.Resource, access)
	case "intentions":
		return fmt.Sprintf("service_prefix \"\" {\n policy = \"read\"\n intentions = %q\n}\n", access)
	}
	return fmt.Sprintf("%s_prefix \"\" { policy = %q }\n", p.Resource, access)
}

// token makes a token with some rules, and gives its accessor and secret.
func (w *whole) token(rules, rest string) (accessor, secret string) {
	w.t.Helper()
	w.count++
	var t struct{ AccessorID, SecretID string }
	body, _ := json.Marshal(map[string]string{"Name": fmt.Sprintf("matrix-%d", w.count), "Rules": rules}) // strings encode
	for _, line := range [][2]string{
		{"/v1/acl/policy", string(body)},
		{"/v1/acl/token", fmt.Sprintf(`{"Policies":[{"Name":"matrix-%d"}]%s}`, w.count, rest)},
	} {
		got := w.ask(http.MethodPut, line[0], line[1])
		if got.Code != http.StatusOK {
			w.t.Fatalf("%s: %d %s", line[1], got.Code, &got.Body)
		}
		if err := json.Unmarshal(got.Body.Bytes(), &t); err != nil {
			w.t.Fatal(err)
		}
	}
	return t.AccessorID, t.SecretID
}

// as makes a row's request with a token.
func (w *whole) as(token string, route api.Route, r *row) *api.Recorder {
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Second) // for those that stream
	defer cancel()
	req := w.request(ctx, route.Method, w.expand(r.path(route)), strings.NewReader(w.expand(r.body)))
	req.Header.Del("X-Consul-Token")
	if token != "" {
		req.Header.Set("X-Consul-Token", token)
	}
	return api.Record(w.h, req, 0)
}

// TestC98_C112_PermissionMatrix: every route of agents and servers, each asked by an agent that passes on what is the servers', with
// no token, the anonymous one, one of another scope, one whose time is over, a deleted one, and one with its own permission
// and no other. A route without a row, or that needs nothing and isn't listed as open, fails it.
func TestC98_C112_PermissionMatrix(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		t.Cleanup(func() { time.Sleep(time.Minute) }) // what memberlist has on its way ends
		w := newWholeWith(t, false)
		w.agent.c.Tokens.Set("default", "")     //nolint:errcheck // nothing is kept
		w.agent.c.Tokens.Set("agent", managing) //nolint:errcheck // nothing is kept
		time.Sleep(time.Minute)                 // this node is in the catalog
		for _, line := range fixture {
			w.do(line)
		}
		w.do(`PUT /v1/coordinate/update {"Node":"ext1","Coord":{"Vec":[0.1,0,0,0,0,0,0,0],"Error":1,"Adjustment":0,"Height":0.00001}}`)
		gone, deleted := w.token(rulesFor(api.Permission{Resource: "operator", Access: api.Write}), "")
		w.do("DELETE /v1/acl/token/" + gone)
		_, expired := w.token(rulesFor(api.Permission{Resource: "operator", Access: api.Write}), `,"ExpirationTTL":"1m"`)
		time.Sleep(2 * time.Minute)
		bad := map[string]string{"no token": "", "anonymous": "anonymous", "expired": expired, "deleted": deleted}
		checked := 0
		w.eachRow(func(route api.Route, r *row) {
			checked++
			if route.Need == (api.Permission{}) {
				if open[route.Name()] == "" {
					t.Errorf("%s needs no permission, and isn't in the list of open routes", route.Name())
				}
				w.keeps(route, r, w.as(managing, route, r))
				return
			}
			scope := api.Permission{Resource: "key", Access: api.Write}
			if route.Need.Resource == "key" {
				scope = api.Permission{Resource: "service", Access: api.Write}
			}
			refused := *r
			refused.ask = cmp.Or(refusedAt[route.Name()], r.ask)
			_, bad["wrong scope"] = w.token(rulesFor(scope), "")
			for name, token := range bad {
				w.denied(name, route, w.as(token, route, &refused))
				checked++
			}
			_, right := w.token(rulesFor(route.Need)+more[route.Name()], "")
			w.keeps(route, r, w.as(right, route, r))
		})
		t.Logf("%d routes, %d combinations", len(api.Routes), checked)
	})
}

// denied checks that an answer shows nothing: it is a refusal, or a list without anything in it.
func (w *whole) denied(name string, route api.Route, got *api.Recorder) {
	w.t.Helper()
	if got.Code == http.StatusForbidden {
		return
	}
	if route.Extract == api.Listed && got.Code/100 != 5 {
		for _, secret := range []string{"ext1", "ext2", `"web`, `"db`, "own1", "app/a", "deploy", `"n1"`} {
			if strings.Contains(got.Body.String(), secret) {
				w.t.Errorf("%s, %s: it shows %s: %.300s", route.Name(), name, secret, &got.Body)
			}
		}
		return
	}
	w.t.Errorf("%s, %s: %d %.300s", route.Name(), name, got.Code, &got.Body)
}

// keeps checks the answer that the row wants, and keeps what later rows need.
func (w *whole) keeps(route api.Route, r *row, got *api.Recorder) {
	w.t.Helper()
	found := regexp.MustCompile("(?s)" + w.expand(r.want)).FindStringSubmatch(got.Body.String())
	if got.Code != cmp.Or(r.code, http.StatusOK) || found == nil && r.keep != "" {
		w.t.Errorf("%s with its own permission: %d %.300s, want %d with %s", route.Name(), got.Code, &got.Body, cmp.Or(r.code, http.StatusOK), w.expand(r.want))
	}
	if found != nil && r.keep != "" {
		w.private[r.keep] = found[1]
	}
}

// operation is the body of a transaction's operation, by kind and verb.
func operation(name, session string) string {
	kind, verb, _ := strings.Cut(name, " ")
	return map[string]string{
		"kv":      `[{"KV":{"Verb":"` + verb + `","Key":"app/a","Value":"eA==","Session":"` + session + `"}}]`,
		"node":    `[{"Node":{"Verb":"` + verb + `","Node":{"Node":"ext1","Address":"10.0.1.1"}}}]`,
		"service": `[{"Service":{"Verb":"` + verb + `","Node":"ext1","Service":{"ID":"web1","Service":"web","Port":80}}}]`,
		"check":   `[{"Check":{"Verb":"` + verb + `","Check":{"Node":"ext1","CheckID":"alive","Name":"alive","Status":"passing","ServiceID":"web1"}}}]`,
		"session": `[{"Session":{"Verb":"` + verb + `","Session":{"ID":"` + session + `"}}}]`,
	}[kind]
}

// TestC100_TransactionOperations: every operation of a transaction is decided as its own endpoint would: with its permission it isn't
// refused, with none, another one, or one that ended it does nothing and shows nothing.
func TestC100_TransactionOperations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		t.Cleanup(func() { time.Sleep(time.Minute) }) // what memberlist has on its way ends
		w := newWholeWith(t, false)
		w.agent.c.Tokens.Set("default", "") //nolint:errcheck // nothing is kept
		time.Sleep(time.Minute)
		route := api.Route{Method: http.MethodPut, Path: "/v1/txn"}
		gone, deleted := w.token(rulesFor(api.Permission{Resource: "key", Access: api.Write}), "")
		w.do("DELETE /v1/acl/token/" + gone)
		_, expired := w.token(rulesFor(api.Permission{Resource: "key", Access: api.Write}), `,"ExpirationTTL":"1m"`)
		time.Sleep(2 * time.Minute)
		bad := map[string]string{"no token": "", "anonymous": "anonymous", "expired": expired, "deleted": deleted}
		for name, need := range api.Operations {
			for _, line := range fixture[:10] {
				w.do(line)
			}
			w.do(`PUT /v1/session/create {"Node":"ext1"}`)
			r := &row{body: operation(name, w.private["made"])}
			if r.body == "" {
				t.Errorf("no body is known for %s", name)
				continue
			}
			scope := api.Permission{Resource: "key", Access: api.Write}
			if need.Resource == "key" {
				scope = api.Permission{Resource: "service", Access: api.Write}
			}
			_, bad["wrong scope"] = w.token(rulesFor(scope), "")
			for who, token := range bad {
				got := w.as(token, route, r)
				text := got.Body.String()
				if refused := strings.Contains(text, "Permission denied") || strings.Contains(text, "ACL not found"); !refused && (need.Access == api.Write || strings.Contains(text, "CreateIndex")) {
					t.Errorf("%s, %s: %d %.300s", name, who, got.Code, text)
				}
			}
			_, right := w.token(rulesFor(need), "")
			if got := w.as(right, route, r); got.Code == http.StatusForbidden || strings.Contains(got.Body.String(), "Permission denied") {
				t.Errorf("%s with its own permission: %d %.300s", name, got.Code, &got.Body)
			}
		}
		t.Logf("%d operations, %d combinations", len(api.Operations), 6*len(api.Operations))
	})
}

// The list of open routes names no route that isn't one.
func TestOpenRoutesAreRoutes(t *testing.T) {
	for name := range open {
		if !slices.ContainsFunc(api.Routes, func(r api.Route) bool { return r.Name() == name && r.Need == (api.Permission{}) }) {
			t.Errorf("%s is listed as open, and isn't", name)
		}
	}
}
