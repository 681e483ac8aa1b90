// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/weftmesh/weft/server"
)

// secured is a server with ACLs, and its managing token.
func secured(t *testing.T) (url, token string) {
	t.Helper()
	token = "11111111-2222-3333-4444-555555555555"
	return serving(t, server.Config{Datacenter: "dc1", NodeName: "s1", ACL: server.ACLConfig{Enabled: true, InitialManagement: token}}), token
}

// recorded is what a Consul with ACLs, keys, entries and an external node answers.
var recorded = map[string]string{
	"GET /v1/agent/self":   `{"Config":{"Datacenter":"dc1","Version":"1.21.4"}}`,
	"GET /v1/acl/policies": `[{"ID":"00000000-0000-0000-0000-000000000001","Name":"global-management"},{"ID":"p1","Name":"keys","Rules":"key_prefix \"app/\" { policy = \"read\" }"}]`,
	"GET /v1/acl/roles":    `[{"ID":"r1","Name":"readers","Policies":[{"ID":"p1","Name":"keys"}]}]`,
	"GET /v1/acl/tokens": `[{"AccessorID":"aaaaaaaa-0000-4000-8000-000000000001","SecretID":"bbbbbbbb-0000-4000-8000-000000000001","Description":"app","Roles":[{"ID":"r1","Name":"readers"}],"CreateTime":"2020-01-01T00:00:00Z"},
		{"AccessorID":"aaaaaaaa-0000-4000-8000-000000000002","SecretID":"bbbbbbbb-0000-4000-8000-000000000002","AuthMethod":"k8s"},
		{"AccessorID":"00000000-0000-0000-0000-000000000002","SecretID":"anonymous","Description":"Anonymous Token"}]`,
	"GET /v1/acl/auth-methods":              `[]`,
	"GET /v1/acl/binding-rules":             `[]`,
	"GET /v1/config/service-defaults":       `[{"Kind":"service-defaults","Name":"web","Protocol":"http","CreateIndex":5,"ModifyIndex":6}]`,
	"GET /v1/config/service-intentions":     `[{"Kind":"service-intentions","Name":"web","Sources":[{"Name":"shop","Action":"allow","Precedence":9,"Type":"consul"}]}]`,
	"GET /v1/config/jwt-provider":           `[{"Kind":"jwt-provider","Name":"odd","Strange":1}]`,
	"GET /v1/kv/":                           `[{"Key":"app/a","Flags":3304740253564472344,"Value":"b25l"},{"Key":"a b/%2F","Flags":0,"Value":null}]`,
	"GET /v1/query":                         `[{"ID":"q1","Name":"q","Service":{"Service":"web"},"DNS":{"TTL":""}}]`,
	"GET /v1/catalog/nodes":                 `[{"Node":"db-host","Address":"10.0.0.7","Meta":{"external-node":"true"}},{"Node":"agent1","Address":"10.0.0.8"}]`,
	"GET /v1/health/node/db-host":           `[{"Node":"db-host","CheckID":"up","Name":"up","Status":"passing","ServiceID":"db","ServiceName":"db"}]`,
	"GET /v1/health/node/agent1":            `[{"Node":"agent1","CheckID":"serfHealth","Status":"passing"}]`,
	"GET /v1/catalog/node-services/db-host": `{"Node":{},"Services":[{"ID":"db","Service":"db","Port":5432,"Tags":[],"Weights":{"Passing":1,"Warning":1},"CreateIndex":1,"ModifyIndex":1}]}`,
	"GET /v1/catalog/node-services/agent1":  `{"Node":{},"Services":[]}`,
}

// What a running Consul holds is copied, once; what can't be is named.
func TestImportConsul(t *testing.T) {
	web := httptest.NewServer(&fake{answers: recorded})
	defer web.Close()
	url, token := secured(t)
	ask := func(secret, path string) string {
		t.Helper()
		req, err := http.NewRequest(http.MethodGet, url+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Consul-Token", secret)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var body strings.Builder
		if _, err := body.WriteString(resp.Status + " "); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 1<<16)
		n, _ := resp.Body.Read(buf)
		return body.String() + string(buf[:n])
	}
	run := func(want string, args ...string) {
		t.Helper()
		got := runs(t.Context(), url, "", append([]string{"import", "consul", "-from", web.URL, "-token", token}, args...)...)
		if got.code != 1 || !strings.Contains(got.out, want) || !strings.Contains(got.out, "jwt-provider entrie odd") && !strings.Contains(got.out, "jwt-provider") {
			t.Errorf("%v: %d\n%s\n%s\nwant %s", args, got.code, got.out, got.errout, want)
		}
	}
	dry := runs(t.Context(), url, "", "import", "consul", "-from", web.URL, "-token", token, "-dry-run")
	if dry.code != 0 || !strings.Contains(dry.out, "keys                        2") || strings.Contains(ask(token, "/v1/kv/app/a"), "200") {
		t.Errorf("%d\n%s\n%s", dry.code, dry.out, dry.errout)
	}
	run("keys                        2        0          0")
	for path, want := range map[string]string{
		"/v1/kv/app/a":                    `"Flags":3304740253564472344,"Value":"b25l"`,
		"/v1/kv/a%20b/%252F":              `"Key":"a b/%2F"`,
		"/v1/config/service-defaults/web": `"Protocol":"http"`,
		"/v1/connect/intentions/exact?source=shop&destination=web": `"Action":"allow"`,
		"/v1/query":             `"Name":"q"`,
		"/v1/health/service/db": `"Address":"10.0.0.7"`,
		"/v1/acl/token/aaaaaaaa-0000-4000-8000-000000000001": `"Name":"readers"`,
	} {
		if got := ask(token, path); !strings.HasPrefix(got, "200") || !strings.Contains(got, want) {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
	if got := ask("bbbbbbbb-0000-4000-8000-000000000001", "/v1/kv/app/a?raw"); got != "200 OK one" {
		t.Errorf("with Consul's token: %s", got)
	}
	if got := ask(token, "/v1/catalog/node/agent1"); got != "200 OK null" {
		t.Errorf("a node with an agent was copied: %s", got)
	}
	run("keys                        0        2          0") // once more: nothing is written
	run("ACL tokens                  0        2          0")
	if got := weft(t, nil, "", nil, "import", "consul"); got.code != 1 || !strings.Contains(got.errout, "-from") {
		t.Error(got)
	}
}
