// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weftmesh/weft/internal/api"
)

// redRules grant everything in the namespace red, and to see nodes there.
const redRules = `namespace "red" {
  service_prefix "" {
    policy = "write"
    intentions = "write"
  }
  key_prefix "" { policy = "write" }
  session_prefix "" { policy = "write" }
  node_prefix "" { policy = "read" }
}
`

// blue is what is in the namespace blue: all of it has azure in it.
var blue = []string{
	`PUT /v1/namespace {"Name":"red"}`, `PUT /v1/namespace {"Name":"blue"}`,
	`PUT /v1/catalog/register?ns=blue {"Node":"ext1","SkipNodeUpdate":true,"Service":{"ID":"azure-web","Service":"web","Port":80,"Tags":["azure"]}}`,
	`PUT /v1/catalog/register?ns=blue {"Node":"ext1","SkipNodeUpdate":true,"Service":{"ID":"azure-proxy","Service":"azure-sidecar","Kind":"connect-proxy","Port":82,"Meta":{"is":"azure"},"Proxy":{"DestinationServiceName":"web","Upstreams":[{"DestinationName":"azure-db"}]}}}`,
	`PUT /v1/catalog/register {"Node":"ext1","SkipNodeUpdate":true,"Check":{"Namespace":"","CheckID":"plain","Name":"plain","Status":"passing"}}`,
	`PUT /v1/catalog/register?ns=blue {"Node":"ext1","SkipNodeUpdate":true,"Check":{"CheckID":"azure","Name":"azure","Status":"critical","ServiceID":"azure-web"}}`,
	`PUT /v1/kv/app/a?ns=blue azure`, `PUT /v1/kv/azure?ns=blue azure`,
	`PUT /v1/config?ns=blue {"Kind":"service-defaults","Name":"web","Protocol":"http","Meta":{"is":"azure"}}`,
	`PUT /v1/config?ns=blue {"Kind":"service-resolver","Name":"azure","Redirect":{"Service":"azure-db"}}`,
	`PUT /v1/connect/intentions/exact?source=azure&destination=web&ns=blue {"Action":"allow","Description":"azure"}`,
	`PUT /v1/session/create?ns=blue {"Node":"ext1","Name":"azure"}`,
	`PUT /v1/agent/service/register?ns=blue {"ID":"azure1","Name":"own","Port":92,"Tags":["azure"],"Check":{"CheckID":"azure-beat","TTL":"1h"},"Connect":{"SidecarService":{"Port":21009}}}`,
}

// blueState is all that a reader of the namespace blue sees of it.
func (w *whole) blueState() string {
	w.t.Helper()
	var all strings.Builder
	for _, path := range []string{
		"/v1/catalog/services", "/v1/catalog/service/web", "/v1/health/service/own", "/v1/health/checks/web", "/v1/catalog/node-services/ext1",
		"/v1/kv/?recurse", "/v1/config/service-defaults", "/v1/config/service-resolver", "/v1/connect/intentions", "/v1/session/list", "/v1/agent/services", "/v1/agent/checks",
	} {
		got := w.ask(http.MethodGet, with(path, "ns=blue"), "")
		if got.Code != http.StatusOK || !strings.Contains(got.Body.String(), "azure") && !strings.Contains(got.Body.String(), `"web"`) && !strings.Contains(got.Body.String(), "blue") {
			w.t.Errorf("%s?ns=blue with a token for everything: %d %.300s", path, got.Code, &got.Body)
		}
		fmt.Fprintf(&all, "%s %s\n", path, &got.Body)
	}
	return all.String()
}

// asRed makes a request with the token of red, and checks that its answer tells nothing of blue.
func (w *whole) asRed(token, method, path, body, header string) *api.Recorder {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Second) // for those that stream
	defer cancel()
	req := w.request(ctx, method, w.expand(path), strings.NewReader(w.expand(body)))
	req.Header.Set("X-Consul-Token", token)
	if header != "" {
		req.Header.Set(api.NamespaceHeader, header)
	}
	got := api.Record(w.h, req, 0)
	text := strings.ReplaceAll(got.Body.String(), "azure-web", "") // which red may write for an ID of its own: blue's has a tag
	if got.Code == http.StatusOK && (strings.Contains(text, "azure") || strings.Contains(text, "YXp1cm")) {
		w.t.Errorf("%s %s %s %s: it shows what is in blue: %.400s", method, path, body, header, text)
	}
	return got
}

// TestC98_OtherNamespace: a token for all that is in one namespace, asked of every route about another, by each way in which a request can name one:
// it reads nothing there, and what is there is afterwards what it was.
func TestC98_OtherNamespace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		t.Cleanup(func() { time.Sleep(time.Minute) }) // what memberlist has on its way ends
		w := newWholeWith(t, false)
		w.agent.c.Tokens.Set("default", "")     //nolint:errcheck // nothing is kept
		w.agent.c.Tokens.Set("agent", managing) //nolint:errcheck // nothing is kept
		time.Sleep(time.Minute)                 // this node is in the catalog
		for _, line := range append(fixture[:len(fixture):len(fixture)], blue...) {
			w.do(line)
		}
		session := w.private["made"]
		w.do(`PUT /v1/session/create?ns=blue {"Node":"ext1","Name":"azure"}`)
		time.Sleep(time.Minute)
		_, red := w.token(redRules, "")
		before := w.blueState()
		// Of this agent's own things those of blue, by their IDs alone, which need no namespace.
		theirs := strings.NewReplacer("own1", "azure1", "two1", "azure1", "r1", "azure1", "/beat", "/azure-beat", "/c1", "/azure-beat", "{session}", session, "session/destroy/none", "session/destroy/"+session)
		checked := 0
		w.eachRow(func(route api.Route, r *row) {
			path, body := r.path(route), r.body
			inside := body
			if strings.HasPrefix(body, "{") && body != "{}" {
				inside = `{"Namespace":"blue",` + body[1:]
			}
			deep := strings.ReplaceAll(body, `"Service":{`, `"Service":{"Namespace":"blue",`)
			for _, try := range []struct{ path, body, header string }{
				{path, body, ""}, {theirs.Replace(path), theirs.Replace(body), ""},
				{with(path, "ns=blue"), body, ""}, {with(theirs.Replace(path), "ns=blue"), theirs.Replace(body), ""}, {with(path, "namespace=blue"), body, ""},
				{with(path, "ns=*"), body, ""}, {path, body, "blue"}, {path, inside, ""}, {path, deep, ""}, {with(path, "ns=red"), inside, ""}, {with(path, "ns=red"), deep, ""},
				{strings.NewReplacer("source=", "source=blue/", "destination=", "destination=blue/", "name=", "name=blue/").Replace(path), body, ""},
			} {
				checked++
				got := w.asRed(red, route.Method, try.path, try.body, try.header)
				knows, all := route.Namespaced()
				if strings.Contains(try.path, "ns=blue") && got.Code == http.StatusOK && !knows {
					t.Errorf("%s knows no namespaces, and takes one: %.200s", route.Name(), &got.Body)
				}
				if strings.Contains(try.path, "ns=*") && got.Code == http.StatusOK && !all {
					t.Errorf("%s isn't for all namespaces, and takes them: %.200s", route.Name(), &got.Body)
				}
			}
		})
		for name := range api.Operations {
			body := operation(name, session)
			for _, field := range []string{`"KV":{`, `"Service":{"ID"`, `"Check":{"Node"`, `"Session":{"ID"`} {
				rest := strings.TrimPrefix(field[strings.Index(field, "{"):], "{")
				at := strings.Replace(body, field, strings.TrimSuffix(field, rest)+`"Namespace":"blue",`+rest, 1)
				at = strings.NewReplacer("web1", "azure-web", "alive", "azure").Replace(at)
				for _, path := range []string{"/v1/txn", "/v1/txn?ns=red", "/v1/txn?ns=blue"} {
					checked++
					w.asRed(red, http.MethodPut, path, at, "")
				}
			}
		}
		for _, line := range []string{ // an ID that is in use, for another service's name
			`PUT /v1/agent/service/register?ns=red {"ID":"azure1","Name":"own"}`, `PUT /v1/agent/services/register?ns=red {"Services":[{"ID":"azure1","Name":"own"}]}`,
			`PUT /v1/agent/check/register?ns=red {"ID":"azure-beat","Name":"x","TTL":"1h","ServiceID":"red0"}`,
		} {
			method, rest, _ := strings.Cut(line, " ")
			path, body, _ := strings.Cut(rest, " ")
			if got := w.asRed(red, method, path, body, ""); got.Code == http.StatusOK {
				t.Errorf("%s: %d", line, got.Code)
			}
		}
		if after := w.blueState(); after != before {
			t.Errorf("what is in blue was changed:\n%s\nis now\n%s", before, after)
		}
		for _, line := range []string{
			`PUT /v1/kv/app/a?ns=red scarlet`, `PUT /v1/session/create?ns=red {"Node":"ext1"}`,
			`PUT /v1/catalog/register {"Node":"ext1","SkipNodeUpdate":true,"Service":{"ID":"red-web","Service":"web","Port":80,"Namespace":"red"}}`,
			`PUT /v1/config {"Kind":"service-defaults","Name":"web","Namespace":"red","Protocol":"http"}`,
			`PUT /v1/connect/intentions/exact?source=api&destination=web&ns=red {"Action":"allow"}`,
			`PUT /v1/agent/service/register?ns=red {"ID":"red1","Name":"own","Port":93}`,
			`GET /v1/health/service/web?ns=red`, `GET /v1/kv/app/a?ns=red`, `GET /v1/discovery-chain/web?ns=red`,
			`PUT /v1/txn?ns=red [{"KV":{"Verb":"set","Key":"x","Value":"eA=="}}]`,
		} {
			method, rest, _ := strings.Cut(line, " ")
			path, body, _ := strings.Cut(rest, " ")
			if got := w.asRed(red, method, path, body, ""); got.Code != http.StatusOK || strings.TrimSpace(got.Body.String()) == "[]" {
				t.Errorf("%s, in its own namespace: %d %.300s", line, got.Code, &got.Body)
			}
		}
		t.Logf("%d routes, %d requests", len(api.Routes), checked)
	})
}

// Who may write a service takes no other's place by its ID.
func TestC98_IDInUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		t.Cleanup(func() { time.Sleep(time.Minute) }) // what memberlist has on its way ends
		w := newWholeWith(t, false)
		w.do(`PUT /v1/agent/service/register {"ID":"two1","Name":"two","Port":91}`)
		_, own := w.token(`service "own" { policy = "write" }`, "")
		for path, body := range map[string]string{
			"/v1/agent/service/register": `{"ID":"two1","Name":"own"}`, "/v1/agent/services/register": `{"Services":[{"Name":"own"},{"ID":"two1","Name":"own"}]}`,
		} {
			if got := w.asRed(own, http.MethodPut, path, body, ""); got.Code != http.StatusForbidden {
				t.Errorf("%s %s: %d %s", path, body, got.Code, &got.Body)
			}
		}
		if got := w.asRed(own, http.MethodPut, "/v1/agent/service/register", `{"ID":"own1","Name":"own"}`, ""); got.Code != http.StatusOK {
			t.Errorf("its own: %d %s", got.Code, &got.Body)
		}
	})
}

// The list of routes that know namespaces names no route that isn't one.
func TestNamespacedRoutesAreRoutes(t *testing.T) {
	known := 0
	for _, r := range api.Routes {
		if knows, _ := r.Namespaced(); knows {
			known++
		}
	}
	if want := api.NamespacedRoutes(); known != want {
		t.Errorf("%d routes know namespaces, and %d are listed", known, want)
	}
}
