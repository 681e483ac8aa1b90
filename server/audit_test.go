// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/weftmesh/weft/internal/api"
)

// Every write and every refusal is a line that says who, what, from where and with which result; other reads are none. No token
// and no body is in it, whatever form of URL a request had (C115).
func TestC115_AuditLog(t *testing.T) {
	var out bytes.Buffer
	audit := api.NewAudit(api.AuditConfig{Writer: &out, Node: "n1", Now: time.Now, Log: slog.New(slog.DiscardHandler)})
	r := startWith(t, Config{ACL: ACLConfig{Enabled: true, InitialManagement: rootSecret}, Audit: audit})
	_, other := r.token(`key "other" { policy = "write" }`)
	const canary = "canary-4711"
	for _, c := range []struct {
		token, method, path, body string
		want                      string // a part of the line, "" for none
	}{
		{rootSecret, "PUT", "/v1/kv/a", canary, `"what":"PUT /v1/kv/{name...}","path":"/v1/kv/a","status":200,"result":"done"`},
		{"", "PUT", "/v1/kv/a?token=" + rootSecret + "&flags=7", canary, `"query":"flags=7","status":200,"result":"done"`},
		{rootSecret, "GET", "/v1/kv/a", "", ""},
		{rootSecret, "GET", "/v1/catalog/nodes", "", ""},
		{other, "GET", "/v1/kv/a", "", `"result":"denied"`},
		{other, "GET", "/v1/kv/./a", "", `"result":"denied"`},
		{other, "GET", "/v1/kv/%61", "", `"result":"denied"`},
		{other, "HEAD", "/v1/kv/a", "", `"result":"denied"`},
		{other, "GET", "/v1/catalog/node/n1", "", `lacks permission 'node:read'`},
		{"22222222-2222-3333-4444-555555555555", "GET", "/v1/catalog/nodes", "", `"who":"unknown"`},
		{"", "GET", "/v1/catalog/node/n1", "", `"who":"anonymous"`},
		{other, "DELETE", "/v1/kv/a", "", `"result":"denied"`},
		{rootSecret, "PUT", "/v1/catalog/register", `{"Node":"` + canary + `"`, `"result":"failed"`},
		{"", "POST", "/v1/acl/login", `{"AuthMethod":"m","BearerToken":"` + canary + `"}`, `"result":"denied"`},
		{rootSecret, "PUT", "/v1/acl/token", `{"SecretID":"33333333-2222-3333-4444-555555555555"}`, `"what":"PUT /v1/acl/token"`},
	} {
		out.Reset()
		r.ask(c.method, c.path, c.token, c.body)
		line := out.String()
		if c.want == "" && line != "" || !strings.Contains(line, c.want) || strings.Count(line, "\n") > 1 {
			t.Errorf("%s %s: %q, want %q", c.method, c.path, line, c.want)
		}
		if c.want != "" && !json.Valid([]byte(line)) {
			t.Errorf("%s %s: no JSON: %s", c.method, c.path, line)
		}
		for _, secret := range []string{canary, rootSecret, other, "33333333-2222-3333"} {
			if strings.Contains(line, secret) {
				t.Errorf("%s %s: a secret in it: %s", c.method, c.path, line)
			}
		}
	}
}
