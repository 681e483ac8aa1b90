// SPDX-License-Identifier: Apache-2.0

package server

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weftmesh/weft/internal/api"
)

// request is do without a check: for what a table can't say.
func (r *running) request(method, path string, body io.Reader) *http.Response {
	r.t.Helper()
	w := httptest.NewRecorder()
	r.Handler().ServeHTTP(w, httptest.NewRequest(method, path, body))
	return w.Result()
}

func (r *running) session(body string) string {
	r.t.Helper()
	var out struct{ ID string }
	if err := json.NewDecoder(r.request("PUT", "/v1/session/create", strings.NewReader(body)).Body).Decode(&out); err != nil || out.ID == "" {
		r.t.Fatalf("session: %v", err)
	}
	return out.ID
}

func TestKVRoutes(t *testing.T) {
	r := start(t, "")
	for _, c := range []struct {
		method, path, body string
		status             int
		want               string
	}{
		{"GET", "/v1/kv/?keys", "", 200, `[]`},
		{"GET", "/v1/kv/a", "", 404, ``},
		{"GET", "/v1/kv/a?recurse", "", 404, ``},
		{"GET", "/v1/kv/a?keys", "", 404, ``},
		{"GET", "/v1/kv/", "", 400, `Missing key name`},
		{"PUT", "/v1/kv/", "x", 400, `Missing key name`},
		{"DELETE", "/v1/kv/", "", 400, `Missing key name`},
		{"PUT", "/v1/kv/a?flags=42", "hello", 200, `true`},
		{"GET", "/v1/kv/a", "", 200, `[{"LockIndex":0,"Key":"a","Flags":42,"Value":"aGVsbG8=","CreateIndex":`},
		{"GET", "/v1/kv/a?raw", "", 200, `hello`},
		{"PUT", "/v1/kv/a?flags=x", "", 400, `Invalid flags: "x" isn't a whole number`},
		{"PUT", "/v1/kv/a?flags=18446744073709551615", "", 200, `true`},
		{"GET", "/v1/kv/a", "", 200, `"Flags":18446744073709551615,"Value":null`},
		{"PUT", "/v1/kv/a?cas=0", "x", 200, `false`},
		{"PUT", "/v1/kv/a?cas=x", "x", 400, `Invalid cas`},
		{"PUT", "/v1/kv/b?cas=0", "x", 200, `true`},
		{"PUT", "/v1/kv/b?cas=0&acquire=1", "x", 400, `Conflicting flags: acquire=1&cas=0`},
		{"PUT", "/v1/kv/b?acquire=nope", "x", 500, `invalid session "nope"`},
		{"PUT", "/v1/kv/b?release=nope", "x", 200, `false`},
		{"PUT", "/v1/kv/dir/one", "1", 200, `true`},
		{"PUT", "/v1/kv/dir/two/three", "3", 200, `true`},
		{"PUT", "/v1/kv/dir//odd", "2", 200, `true`},
		{"PUT", "/v1/kv/dir/../up", "2", 200, `true`},
		{"GET", "/v1/kv/dir?keys", "", 200, `["dir/../up","dir//odd","dir/one","dir/two/three"]`},
		{"GET", "/v1/kv/dir/?keys&separator=/", "", 200, `["dir/../","dir//","dir/one","dir/two/"]`},
		{"GET", "/v1/kv/dir/?keys&seperator=/", "", 200, `["dir/../","dir//","dir/one","dir/two/"]`},
		{"GET", "/v1/kv/dir%2Fone", "", 200, `"Key":"dir/one"`},
		{"GET", "/v1/kv/dir%252Fone", "", 404, ``},
		{"PUT", "/v1/kv/dir%252Fone", "e", 200, `true`},
		{"GET", "/v1/kv/dir%252Fone", "", 200, `"Key":"dir%2Fone"`},
		{"GET", "/v1/kv/dir/?recurse", "", 200, `"Key":"dir/two/three"`},
		{"DELETE", "/v1/kv/b?cas=1", "", 200, `false`},
		{"DELETE", "/v1/kv/b?cas=0", "", 200, `false`},
		{"DELETE", "/v1/kv/b?cas=x", "", 400, `Invalid cas`},
		{"DELETE", "/v1/kv/b?cas=1&recurse", "", 400, `Conflicting flags`},
		{"DELETE", "/v1/kv/b", "", 200, `true`},
		{"DELETE", "/v1/kv/b", "", 200, `true`},
		{"DELETE", "/v1/kv/dir/?recurse", "", 200, `true`},
		{"GET", "/v1/kv/?keys", "", 200, `["a","dir%2Fone"]`},
		{"PUT", "/v1/kv/big", strings.Repeat("x", 512<<10), 200, `true`},
		{"PUT", "/v1/kv/big", strings.Repeat("x", 512<<10+1), 413, `Request body(524289 bytes) too large, max size: 524288 bytes. See `},
		{"POST", "/v1/kv/a", "", 405, `method POST not allowed`},
		{"PUT", "/v1/kv/a%0Ab", "x", 400, `can't be printed`},
	} {
		h := r.do(c.method, c.path, c.body, c.status, c.want)
		if index := h.Get("X-Consul-Index"); c.method == "GET" && c.status != 400 && (index == "" || index == "0") {
			t.Errorf("%s: index %q", c.path, index)
		}
		if allow := h.Get("Allow"); c.status == 405 && allow != "OPTIONS,DELETE,GET,PUT" {
			t.Errorf("Allow: %s", allow)
		}
	}
	h := r.do("GET", "/v1/kv/big?raw", "", 200, "xxx")
	for name, want := range map[string]string{
		"Content-Type": "text/plain", "X-Content-Type-Options": "nosniff", "Content-Security-Policy": "sandbox", "Content-Length": "524288",
	} {
		if h.Get(name) != want {
			t.Errorf("raw: %s = %q, want %q", name, h.Get(name), want)
		}
	}
	chunked := func() io.Reader { return io.MultiReader(strings.NewReader(strings.Repeat("x", 512<<10+1))) }
	if resp := r.request("PUT", "/v1/kv/big", chunked()); resp.StatusCode != 413 {
		t.Errorf("a body without a length: %d", resp.StatusCode)
	}
}

// Every byte that a path can hold makes a key of its own.
func TestKeysWithEveryByte(t *testing.T) {
	r := start(t, "")
	for b := range 256 {
		key := "k" + string([]byte{byte(b)})
		path := "/v1/kv/" + url.PathEscape(key)
		if b < 0x20 || b == 0x7f {
			r.do("PUT", path, "x", 400, "can't be printed")
			continue
		}
		r.do("PUT", path, fmt.Sprint(b), 200, "true")
	}
	for b := range 256 {
		if b < 0x20 || b == 0x7f {
			continue
		}
		r.do("GET", "/v1/kv/"+url.PathEscape("k"+string([]byte{byte(b)}))+"?raw", "", 200, fmt.Sprint(b))
	}
}

// The index of one key is its own; what happens elsewhere neither wakes a reader nor moves its index.
func TestKVBlocking(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, "")
		r.do("PUT", "/v1/kv/a/b", "1", 200, "true")
		index := func(path string, status int) string { return r.do("GET", path, "", status, "").Get("X-Consul-Index") }
		for _, c := range []struct {
			path, body string
			status     int
			other      func()
			change     func()
		}{
			{"/v1/kv/a/b", `"Value":"Mg=="`, 200, func() { r.do("PUT", "/v1/kv/a/c", "1", 200, "true") }, func() { r.do("PUT", "/v1/kv/a/b", "2", 200, "true") }},
			{"/v1/kv/a/b", ``, 404, func() { r.do("PUT", "/v1/kv/a/b", "2", 200, "true") }, func() { r.do("DELETE", "/v1/kv/a/b", "", 200, "true") }},
			{"/v1/kv/a/b", `"Value":"Mw=="`, 200, func() { r.do("PUT", "/v1/kv/a/d", "1", 200, "true") }, func() { r.do("PUT", "/v1/kv/a/b", "3", 200, "true") }},
			{"/v1/kv/a/?recurse", `"Key":"a/e"`, 200, func() { r.do("PUT", "/v1/kv/b", "1", 200, "true") }, func() { r.do("PUT", "/v1/kv/a/e", "1", 200, "true") }},
			{"/v1/kv/a/?keys", `["a/b","a/c","a/d"]`, 200, func() { r.do("DELETE", "/v1/kv/b", "1", 200, "true") }, func() { r.do("DELETE", "/v1/kv/a/e", "", 200, "true") }},
			{"/v1/kv/none/?recurse", `"Key":"none/x"`, 200, func() { r.do("PUT", "/v1/kv/b", "1", 200, "true") }, func() { r.do("PUT", "/v1/kv/none/x", "1", 200, "true") }},
			{"/v1/session/list", `"Name":"one"`, 200, func() { r.do("PUT", "/v1/kv/b", "2", 200, "true") }, func() {
				r.do("PUT", "/v1/catalog/register", web, 200, "true")
				r.do("PUT", "/v1/session/create", `{"Node":"n1","Name":"one"}`, 200, "ID")
			}},
			{"/v1/session/node/n1", `"Name":"two"`, 200, func() { r.do("PUT", "/v1/kv/b", "3", 200, "true") }, func() {
				r.do("PUT", "/v1/session/create", `{"Node":"n1","Name":"two"}`, 200, "ID")
			}},
		} {
			before := func() string {
				w := httptest.NewRecorder()
				r.Handler().ServeHTTP(w, httptest.NewRequest("GET", c.path, nil))
				return w.Header().Get("X-Consul-Index")
			}()
			sep := "?"
			if strings.Contains(c.path, "?") {
				sep = "&"
			}
			done := make(chan struct{})
			go func() {
				defer close(done)
				h := r.do("GET", c.path+sep+"wait=100s&index="+before, "", c.status, c.body)
				if h.Get("X-Consul-Index") == before {
					t.Errorf("%s: woken with the index that it had, %s", c.path, before)
				}
			}()
			time.Sleep(time.Second)
			c.other()
			synctest.Wait()
			select {
			case <-done:
				t.Errorf("%s: another's change woke it", c.path)
				continue
			default:
			}
			c.change()
			<-done
		}
		// Patroni compares the index with the entry's.
		var list []struct{ ModifyIndex uint64 }
		w := httptest.NewRecorder()
		r.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/v1/kv/a/b", nil))
		if err := json.Unmarshal(w.Body.Bytes(), &list); err != nil || fmt.Sprint(list[0].ModifyIndex) != w.Header().Get("X-Consul-Index") {
			t.Errorf("%v: %v, index %s", err, list, w.Header().Get("X-Consul-Index"))
		}
		// Deletions are forgotten after a while: then the index can be lower, and nobody hangs on the old one.
		r.do("DELETE", "/v1/kv/a/b", "", 200, "true")
		old := index("/v1/kv/a/b", 404)
		time.Sleep(20 * time.Minute)
		if now := index("/v1/kv/a/b", 404); now != "1" {
			t.Errorf("index %s after the deletion was forgotten", now)
		}
		began := time.Now()
		r.do("GET", "/v1/kv/a/b?wait=60s&index="+old, "", 404, "")
		if time.Since(began) > time.Second {
			t.Error("a reader from before hangs")
		}
		if err := r.stop(); err != nil {
			t.Error(err)
		}
	})
}

func TestSessionRoutes(t *testing.T) {
	r := start(t, "")
	for _, c := range []struct {
		method, path, body string
		status             int
		want               string
	}{
		{"PUT", "/v1/session/create", `{"Node":"n1"}`, 500, `Missing node registration`},
		{"PUT", "/v1/catalog/register", web, 200, `true`},
		{"PUT", "/v1/session/create", `{"Node":"n1","TTL":"5s"}`, 500, `Invalid Session TTL '5000000000', must be between [10s=24h0m0s]`},
		{"PUT", "/v1/session/create", `{"Node":"n1","TTL":"25h"}`, 500, `Invalid Session TTL '`},
		{"PUT", "/v1/session/create", `{"Node":"n1","TTL":"x"}`, 500, `Session TTL 'x' invalid: time: invalid duration "x"`},
		{"PUT", "/v1/session/create", `{"Node":"n1","Behavior":"x"}`, 500, `Invalid Behavior setting 'x'`},
		{"PUT", "/v1/session/create", `{"Node":"n1","Checks":["serfHealth"]}`, 500, `Missing check 'serfHealth' registration`},
		{"PUT", "/v1/session/create", `{"Node":"n1","LockDelay":"x"}`, 400, `LockDelay`},
		{"PUT", "/v1/session/create", `{"Nodes":"n1"}`, 400, `Request decode failed`},
		{"GET", "/v1/session/list", "", 200, `[]`},
		{"GET", "/v1/session/info/none", "", 200, `[]`},
		{"PUT", "/v1/session/renew/none", "", 404, `Session id 'none' not found`},
		{"PUT", "/v1/session/destroy/none", "", 200, `true`},
		{"PUT", "/v1/session/create", `{"node":"n1","name":"low","lockdelay":15,"ttl":"10s","behavior":"delete","checks":[]}`, 200, `{"ID":"`},
		{"GET", "/v1/session/list", "", 200, `"Name":"low","Node":"n1","LockDelay":15000000000,"Behavior":"delete","TTL":"10s","NodeChecks":[],"ServiceChecks":null,"CreateIndex":`},
		{"GET", "/v1/session/node/n1", "", 200, `"Name":"low"`},
		{"GET", "/v1/session/node/n2", "", 200, `[]`},
		{"GET", "/v1/session/create", "", 405, `method GET not allowed`},
	} {
		h := r.do(c.method, c.path, c.body, c.status, c.want)
		if c.method == "GET" && c.status == 200 && h.Get("X-Consul-Index") == "" {
			t.Errorf("%s: no index", c.path)
		}
	}
	r.do("PUT", "/v1/catalog/register", `{"Node":"n1","Address":"10.0.0.1","Check":{"CheckID":"serfHealth","Status":"passing"}}`, 200, "true")
	id := r.session(`{"Node":"n1","Name":"default"}`)
	r.do("GET", "/v1/session/info/"+id, "", 200, `"LockDelay":15000000000,"Behavior":"release","TTL":"","NodeChecks":["serfHealth"]`)
	r.do("PUT", "/v1/session/renew/"+id, "", 200, `[{"ID":"`+id+`"`)
	h := r.do("PUT", "/v1/kv/lock?acquire="+id, "me", 200, "true")
	fence := h.Get("X-Weft-Fencing-Index")
	r.do("GET", "/v1/kv/lock", "", 200, `"Session":"`+id+`","FencingIndex":`+fence)
	r.do("PUT", "/v1/session/destroy/"+id, "", 200, "true")
	r.do("GET", "/v1/kv/lock", "", 200, `[{"LockIndex":1,"Key":"lock","Flags":0,"Value":"bWU=","CreateIndex":`)
	other := r.session(`{"Node":"n1"}`)
	r.do("PUT", "/v1/kv/lock?acquire="+other, "", 200, "false") // in lock delay
	r.do("PUT", "/v1/kv/other?acquire="+other, "", 200, "true")
	r.do("PUT", "/v1/kv/other?release="+other, "", 200, "true")
	if h := r.do("GET", "/v1/kv/other", "", 200, `"LockIndex":1`); h.Get("X-Weft-Fencing-Index") != "" {
		t.Error("a fencing index without a lock")
	}
}

// A session that isn't renewed ends between one and two times its time to live, and with it its locks.
func TestSessionTTL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, "")
		r.do("PUT", "/v1/catalog/register", web, 200, "true")
		id := r.session(`{"Node":"n1","TTL":"10s","LockDelay":"1s"}`)
		r.do("PUT", "/v1/kv/lock?acquire="+id, "", 200, "true")
		for range 5 {
			time.Sleep(9 * time.Second)
			r.do("PUT", "/v1/session/renew/"+id, "", 200, id)
		}
		time.Sleep(11 * time.Second)
		r.do("GET", "/v1/session/info/"+id, "", 200, id)
		time.Sleep(10 * time.Second)
		r.do("GET", "/v1/session/info/"+id, "", 200, `[]`)
		if body := r.do("GET", "/v1/kv/lock", "", 200, `"LockIndex":1`); body.Get("X-Consul-Index") == "" {
			t.Error("no index")
		}
		second := r.session(`{"Node":"n1"}`)
		r.do("PUT", "/v1/kv/lock?acquire="+second, "", 200, "false")
		time.Sleep(time.Second)
		r.do("PUT", "/v1/kv/lock?acquire="+second, "", 200, "true")
		if err := r.stop(); err != nil {
			t.Error(err)
		}
		if err := r.RenewSession(nil); err == nil {
			t.Error("a server that doesn't lead renewed a session")
		}
	})
}

func TestTransactionRoute(t *testing.T) {
	r := start(t, "")
	r.do("PUT", "/v1/catalog/register", web, 200, "true")
	many := strings.TrimSuffix(strings.Repeat(`{"KV":{"Verb":"get","Key":"a"}},`, 129), ",")
	for _, c := range []struct {
		body   string
		status int
		want   string
	}{
		{`[]`, 200, `{"Results":[],"Errors":null}`},
		{`{`, 400, `Failed to parse body`},
		{`[{"KV":{"Verb":"set","Key":"a","Valu":""}}]`, 400, `Failed to parse body`},
		{`[{"KV":{"Verb":"set","Key":"a","Value":"aGk=","Flags":3}},{"KV":{"Verb":"get","Key":"a"}}]`, 200, `{"Results":[{"KV":{"LockIndex":0,"Key":"a","Flags":3,"Value":null,`},
		{`[{"KV":{"Verb":"get","Key":"a"}}]`, 200, `"Value":"aGk="`},
		{`[{"KV":{"Verb":"cas","Key":"a","Index":1}},{"KV":{"Verb":"set","Key":"b"}}]`, 409, `{"Results":null,"Errors":[{"OpIndex":0,"What":"failed to set key \"a\", index is stale"}]}`},
		{`[{"KV":{"Verb":"get","Key":"b"}}]`, 409, `key \"b\" doesn't exist`},
		{`[{"KV":{"Verb":"odd","Key":"b"}}]`, 409, `unknown operation \"kv odd\"`},
		{`[{}]`, 409, `the operation is empty`},
		{`[{"Node":{"Verb":"get","Node":{"Node":"n1"}}}]`, 200, `"Node":{"ID":"","Node":"n1","Address":"10.0.0.1"`},
		{`[{"Service":{"Verb":"set","Node":"n1","Service":{"ID":"db1","Service":"db","Port":70000}}}]`, 409, `Port is 70000`},
		{`[{"Service":{"Verb":"set","Node":"n1","Service":{"ID":"db1","Service":"db","Port":7}}}]`, 200, `"Service":{"ID":"db1","Service":"db"`},
		{`[{"Check":{"Verb":"set","Check":{"Node":"n1","CheckID":"x","ServiceID":"db1","Status":"passing"}}}]`, 200, `"ServiceName":"db"`},
		{`[{"Check":{"Verb":"delete","Check":{"Node":"n1","CheckID":"x"}}},{"Service":{"Verb":"delete","Node":"n1","Service":{"ID":"db1"}}}]`, 200, `{"Results":[],"Errors":null}`},
		{`[{"Session":{"Verb":"delete","Session":{"ID":"x"}}}]`, 200, `{"Results":[],"Errors":null}`},
		{`[` + many + `]`, 413, `Transaction contains too many operations (129 > 128)`},
		{`[` + strings.Repeat(" ", 600<<10) + `]`, 413, `too large`},
	} {
		r.do("PUT", "/v1/txn", c.body, c.status, c.want)
	}
	if h := r.do("PUT", "/v1/txn", `[{"KV":{"Verb":"get","Key":"a"}}]`, 200, ""); h.Get("X-Consul-KnownLeader") != "true" || h.Get("X-Consul-LastContact") != "0" {
		t.Errorf("%v", h)
	}
	r.do("GET", "/v1/txn", "", 405, "method GET not allowed")
	for _, verb := range []string{"kv lock", "node set", "session delete"} {
		if api.Operations[verb] == (api.Permission{}) {
			t.Errorf("%s needs nothing", verb)
		}
	}
}

// The limits of the configuration hold.
func TestConfiguredLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startWith(t, Config{MaxValue: 4, MaxTransaction: 60, SessionTTLMin: time.Second, DefaultWait: 2 * time.Second, MaxWait: 4 * time.Second})
		r.do("PUT", "/v1/catalog/register", web, 200, "true")
		r.do("PUT", "/v1/kv/a", "1234", 200, "true")
		r.do("PUT", "/v1/kv/a", "12345", 413, "max size: 4 bytes. See limits.kv_max_value_size")
		r.do("PUT", "/v1/txn", `[{"KV":{"Verb":"set","Key":"a","Value":"MTIzNDU="}}]`, 413, "(5 > 4 bytes)")
		r.do("PUT", "/v1/txn", `[{"KV":{"Verb":"get","Key":"a"}},`+strings.Repeat(" ", 60)+`]`, 413, "max size: 60 bytes. See limits.txn_max_req_len")
		r.do("PUT", "/v1/session/create", `{"Node":"n1","TTL":"2s"}`, 200, "ID")
		index := r.do("GET", "/v1/kv/a", "", 200, "").Get("X-Consul-Index")
		for _, c := range []struct {
			wait        string
			least, most time.Duration
		}{{"", 2 * time.Second, 3 * time.Second}, {"&wait=1h", 4 * time.Second, 5 * time.Second}, {"&wait=1s", time.Second, 2 * time.Second}} {
			began := time.Now()
			r.do("GET", "/v1/kv/a?index="+index+c.wait, "", 200, "")
			if d := time.Since(began); d < c.least || d > c.most {
				t.Errorf("wait %q took %v", c.wait, d)
			}
		}
		if err := r.stop(); err != nil {
			t.Error(err)
		}
	})
}
