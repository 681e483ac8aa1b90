// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bytes"
	"log/slog"
	"net/http"
	"net/url"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/internal/api"
)

// TestC99_NothingIsRevealed: who may see one service of two learns nothing of the other: not by a filter, not by an index that
// differs, and not by a refusal that tells what is there from what isn't.
func TestC99_NothingIsRevealed(t *testing.T) {
	r := locked(t)
	r.as(rootSecret, "PUT", "/v1/catalog/register", web, 200, "true")
	r.as(rootSecret, "PUT", "/v1/catalog/register", `{"Node":"n1","SkipNodeUpdate":true,"Service":{"Service":"hidden","Port":81,"Meta":{"x":"y"}}}`, 200, "true")
	r.as(rootSecret, "PUT", "/v1/kv/app/hidden", "x", 200, "true")
	_, token := r.token("service \"web\" { policy = \"read\" }\nnode_prefix \"\" { policy = \"read\" }\nkey \"app/mine\" { policy = \"read\" }")
	for _, path := range []string{
		"/v1/catalog/services", "/v1/catalog/services?filter=" + url.QueryEscape(`ServiceName == hidden`),
		"/v1/catalog/node/n1", "/v1/catalog/node-services/n1", "/v1/catalog/node/n1?filter=" + url.QueryEscape(`Meta.x == y`),
		"/v1/health/node/n1", "/v1/health/state/any", "/v1/internal/ui/services", "/v1/internal/ui/nodes", "/v1/kv/app?recurse", "/v1/kv/app?keys",
	} {
		_, body, _ := r.ask("GET", path, token, "")
		if strings.Contains(body, "hidden") {
			t.Errorf("%s: %s", path, body)
		}
	}
	for _, pair := range [][2]string{
		{"/v1/health/service/hidden", "/v1/health/service/absent"}, {"/v1/kv/app/hidden", "/v1/kv/app/absent"},
		{"/v1/config/service-defaults/hidden", "/v1/config/service-defaults/absent"}, {"/v1/discovery-chain/hidden", "/v1/discovery-chain/absent"},
	} {
		there, one, _ := r.ask("GET", pair[0], token, "")
		absent, two, _ := r.ask("GET", pair[1], token, "")
		if there != absent || strings.ReplaceAll(one, "hidden", "absent") != two {
			t.Errorf("%s: %d %s, %s: %d %s", pair[0], there, one, pair[1], absent, two)
		}
	}
	r.as(rootSecret, "GET", "/v1/catalog/services", "", 200, "hidden") // the control
}

// TestC101_PrefixesEndWhereTheyAreGranted: a tree isn't deleted, listed or followed beyond what is granted.
func TestC101_PrefixesEndWhereTheyAreGranted(t *testing.T) {
	r := locked(t)
	for _, key := range []string{"app/a", "app/b", "application", "other"} {
		r.as(rootSecret, "PUT", "/v1/kv/"+key, "x", 200, "true")
	}
	_, token := r.token(`key_prefix "app/" { policy = "write" }`)
	r.as(token, "DELETE", "/v1/kv/?recurse", "", 403, "Permission denied")
	r.as(token, "DELETE", "/v1/kv/app?recurse", "", 403, "Permission denied")
	if body := r.as(token, "GET", "/v1/kv/?recurse", "", 200, "app/a"); strings.Contains(body, "application") || strings.Contains(body, "other") {
		t.Error(body)
	}
	r.as(token, "PUT", "/v1/txn", `[{"KV":{"Verb":"delete-tree","Key":"app"}}]`, 409, "Permission denied")
	r.as(rootSecret, "GET", "/v1/kv/application?raw", "", 200, "x")
	// A key within the prefix that isn't granted goes with no recursive delete, whichever way it is asked for.
	_, part := r.token("key_prefix \"app/\" { policy = \"write\" }\nkey \"app/b\" { policy = \"read\" }")
	r.as(part, "DELETE", "/v1/kv/app/?recurse", "", 403, "Permission denied")
	r.as(part, "PUT", "/v1/txn", `[{"KV":{"Verb":"delete-tree","Key":"app/"}}]`, 409, "Permission denied")
	r.as(rootSecret, "GET", "/v1/kv/app/b?raw", "", 200, "x")
	r.as(part, "DELETE", "/v1/kv/app/c?recurse", "", 200, "true") // the control: nothing else is beneath it
	r.as(token, "DELETE", "/v1/kv/app/?recurse", "", 200, "true") // the control
	r.as(rootSecret, "GET", "/v1/kv/app/a", "", 404, "")
}

// TestC102_KeysAreTakenAsTheyAre: no form of a key's path leads to another key than the one that is checked.
func TestC102_KeysAreTakenAsTheyAre(t *testing.T) {
	r := locked(t)
	r.as(rootSecret, "PUT", "/v1/kv/secret", "hidden", 200, "true")
	_, token := r.token(`key_prefix "app/" { policy = "write" }`)
	for _, path := range []string{
		"app/../secret", "app/%2e%2e/secret", "app/%2e%2e%2fsecret", "./secret", "/secret", "app//../../secret", "%2fsecret", "app/..%2Fsecret", "app/%252e%252e/secret",
	} {
		for _, method := range []string{"GET", "PUT", "DELETE"} {
			_, body, _ := r.ask(method, "/v1/kv/"+path, token, "changed")
			if strings.Contains(body, "aGlkZGVu") {
				t.Errorf("%s %s: %s", method, path, body)
			}
		}
	}
	r.as(rootSecret, "GET", "/v1/kv/secret?raw", "", 200, "hidden")
	r.as(token, "PUT", "/v1/kv/app/%00", "x", 400, "can't be printed")
	r.as(token, "PUT", "/v1/kv/"+strings.Repeat("k", 64<<10), "x", 403, "Permission denied")
	r.as(token, "PUT", "/v1/kv/app/..", "x", 200, "true") // the control: it is a key of that name
}

// TestC104_AServiceCantTakeAnothers: who may write one service changes neither another one on the same node, nor its check, nor
// speaks for it as its sidecar.
func TestC104_AServiceCantTakeAnothers(t *testing.T) {
	r := locked(t)
	r.as(rootSecret, "PUT", "/v1/catalog/register", web, 200, "true")
	_, token := r.token("service \"mine\" { policy = \"write\" }\nnode \"n1\" { policy = \"read\" }")
	for _, body := range []string{
		`{"Node":"n1","SkipNodeUpdate":true,"Service":{"ID":"web1","Service":"mine","Port":99}}`,
		`{"Node":"n1","SkipNodeUpdate":true,"Service":{"ID":"web1","Service":"web","Port":99}}`,
		`{"Node":"n1","SkipNodeUpdate":true,"Check":{"CheckID":"alive","Name":"alive","Status":"critical","ServiceID":"web1"}}`,
		`{"Node":"n1","SkipNodeUpdate":true,"Service":{"ID":"p","Service":"mine","Kind":"connect-proxy","Port":1,"Proxy":{"DestinationServiceName":"web"}}}`,
		`{"Node":"n1","SkipNodeUpdate":true,"Check":{"CheckID":"own","Name":"own","Status":"critical"}}`,
		`{"Node":"n1","SkipNodeUpdate":true,"Service":{"ID":"p","Service":"web-proxy","Kind":"connect-proxy","Port":1,"Proxy":{"DestinationServiceName":"web"}}}`,
		`{"Node":"n1","Address":"10.9.9.9"}`,
	} {
		r.as(token, "PUT", "/v1/catalog/register", body, 403, "Permission denied")
	}
	r.as(token, "PUT", "/v1/catalog/deregister", `{"Node":"n1","ServiceID":"web1"}`, 403, "Permission denied")
	_, node := r.token(`node "n1" { policy = "write" }`)
	r.as(node, "PUT", "/v1/catalog/register", `{"Node":"n1","SkipNodeUpdate":true,"Service":{"ID":"x","Service":"web","Port":99}}`, 403, "service:write")
	r.as(rootSecret, "GET", "/v1/health/service/web?passing", "", 200, `"Port":80`)
	r.as(token, "PUT", "/v1/catalog/register", `{"Node":"n1","SkipNodeUpdate":true,"Service":{"ID":"mine","Service":"mine","Port":99}}`, 200, "true") // the control
}

// TestC108_ReadersGetNoKeys: operator:read shows neither the CA's private key nor the gossip key; agents' feeds never carry it.
func TestC108_ReadersGetNoKeys(t *testing.T) {
	r := locked(t)
	_, token := r.token(`operator = "read"`)
	for _, path := range []string{"/v1/connect/ca/configuration", "/v1/connect/ca/roots", "/v1/operator/raft/configuration", "/v1/weft/join/tokens"} {
		if _, body, _ := r.ask("GET", path, token, ""); strings.Contains(body, "PRIVATE KEY") {
			t.Errorf("%s: %s", path, body)
		}
	}
	r.as(token, "GET", "/v1/operator/keyring", "", 403, "keyring:read")
	r.as(token, "GET", "/v1/snapshot", "", 403, "operator:write")
	r.as(rootSecret, "GET", "/v1/connect/ca/configuration", "", 200, "Provider") // the control
}

// logged is what a server has written, to be read while its goroutines still write.
type logged struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// TestC121_NamesBreakNoLine: names with control characters are refused, or are in answers and logs as JSON has them.
func TestC121_NamesBreakNoLine(t *testing.T) {
	var out logged
	r := startWith(t, Config{Log: slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	for _, name := range []string{`a\nlevel=ERROR msg=forged`, `a\r\nX: y`, `a\u001b[31m`, `a\u0000b`} {
		for _, body := range []string{
			`{"Node":"` + name + `","Address":"10.0.0.1"}`, `{"Node":"n1","Address":"10.0.0.1","Service":{"Service":"` + name + `","Port":1}}`,
		} {
			if w := r.request("PUT", "/v1/catalog/register", strings.NewReader(body)); w.StatusCode/100 != 4 {
				t.Errorf("%s: %d", body, w.StatusCode)
			}
		}
	}
	for line := range strings.Lines(out.String()) {
		if strings.HasPrefix(line, "level=ERROR msg=forged") || strings.ContainsAny(strings.TrimSuffix(line, "\n"), "\r\x1b\x00") {
			t.Errorf("forged: %q", line)
		}
	}
	r.do("PUT", "/v1/catalog/register", web, 200, "true") // the control
}

// TestC122_SecretsAreNowhere: neither logs at their loudest, nor the audit log, nor answers to others hold a secret that was sent or made.
func TestC122_SecretsAreNowhere(t *testing.T) {
	var log, audited logged
	r := startWith(t, Config{
		ACL:   ACLConfig{Enabled: true, InitialManagement: rootSecret, DownPolicy: "extend-cache"},
		Log:   slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Audit: api.NewAudit(api.AuditConfig{Writer: &audited, Now: time.Now, Log: slog.New(slog.DiscardHandler)}),
	})
	const canary = "7ca9a117-0000-4000-8000-00000000ca9a"
	_, secret := r.token(`key_prefix "" { policy = "write" }`)
	r.as(rootSecret, "PUT", "/v1/acl/token", `{"SecretID":"`+canary+`","Description":"x"}`, 200, canary) // the control: shown once, to who made it
	var answers strings.Builder
	for _, c := range [][3]string{
		{"GET", "/v1/kv/x?token=" + canary, ""}, {"PUT", "/v1/kv/x?token=" + canary, "v"}, {"GET", "/v1/acl/tokens", ""}, {"GET", "/v1/catalog/nodes?token=" + canary + "x", ""},
		{"POST", "/v1/acl/login", `{"AuthMethod":"none","BearerToken":"` + canary + `"}`}, {"PUT", "/v1/acl/token", `{"SecretID":"` + canary + `"}`},
		{"PUT", "/v1/acl/token", `{"SecretID":"` + canary + `"`}, {"PUT", "/v1/acl/bootstrap", `{"BootstrapSecret":"` + canary + `"}`}, {"POST", "/v1/acl/logout?token=" + canary, ""},
		{"POST", "/v1/peering/establish", `{"PeerName":"p","PeeringToken":"` + canary + `"}`}, {"POST", "/v1/weft/join", `{"Secret":"` + canary + `"}`},
	} {
		_, body, header := r.ask(c[0], c[1], rootSecret, c[2])
		answers.WriteString(body)
		for k, v := range header {
			answers.WriteString(k + strings.Join(v, ","))
		}
	}
	for where, text := range map[string]string{"logs": log.String(), "audit log": audited.String(), "answers": answers.String()} {
		for _, s := range []string{canary, secret, rootSecret} {
			if i := strings.Index(text, s); i >= 0 {
				t.Errorf("%s have a secret: …%s…", where, text[max(0, i-200):min(len(text), i+100)])
			}
		}
	}
	if !strings.Contains(audited.String(), "PUT /v1/kv/") {
		t.Error("nothing was audited: the test looks at nothing")
	}
}

// TestC128_NothingIsWrittenTwice: what is written as it already is wakes nobody and moves no index of what reads it.
func TestC128_NothingIsWrittenTwice(t *testing.T) {
	r := start(t, "")
	r.do("PUT", "/v1/config", `{"Kind":"service-defaults","Name":"web","Protocol":"http"}`, 200, "true")
	r.do("PUT", "/v1/catalog/register", web, 200, "true")
	for _, c := range [][3]string{
		{"/v1/config/service-defaults/web", "/v1/config", `{"Kind":"service-defaults","Name":"web","Protocol":"http"}`},
		{"/v1/health/service/web", "/v1/catalog/register", web},
	} {
		before := r.do("GET", c[0], "", 200, "").Get("X-Consul-Index")
		r.do("PUT", c[1], c[2], 200, "true")
		if after := r.do("GET", c[0], "", 200, "").Get("X-Consul-Index"); after != before {
			t.Errorf("%s: index %s became %s by a write that changes nothing", c[0], before, after)
		}
	}
}

// TestC127_OddEntries: no config entry with empty, missing, doubled or absurd values where others have some gets further than
// its validation, or what gets through is read, compiled and saved: nothing panics, and the server goes on.
func TestC127_OddEntries(t *testing.T) {
	r := start(t, "")
	r.do("PUT", "/v1/catalog/register", web, 200, "true")
	for _, kind := range catalog.EntryKinds() {
		e, err := catalog.NewEntry(kind)
		if err != nil {
			t.Fatal(err)
		}
		kindOf := reflect.TypeOf(e).Elem()
		for i := range kindOf.NumField() {
			field := kindOf.Field(i).Name
			for _, value := range []string{"null", "[null]", "{}", "[{}]", `{"a":null}`, `{"a":{}}`, `"x"`, "-1", `[{"Destination":null}]`, `[{"Match":null,"Destination":{}}]`} {
				for _, name := range []string{"web", "mesh", "global"} {
					code, _, _ := r.ask("PUT", "/v1/config", "", `{"Kind":"`+kind+`","Name":"`+name+`","`+field+`":`+value+`}`)
					if code == http.StatusOK {
						r.ask("GET", "/v1/discovery-chain/web", "", "")
						r.ask("DELETE", "/v1/config/"+kind+"/"+name, "", "")
					}
				}
			}
		}
	}
	if w := r.request("GET", "/v1/snapshot", http.NoBody); w.StatusCode != http.StatusOK {
		t.Errorf("the snapshot: %d", w.StatusCode)
	}
	r.do("GET", "/v1/health/service/web?passing", "", 200, `"Port":80`)
}
