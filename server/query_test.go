// SPDX-License-Identifier: Apache-2.0

package server

import (
	"encoding/json"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func (r *running) query(body string) string {
	r.t.Helper()
	var out struct{ ID string }
	if err := json.NewDecoder(r.request("POST", "/v1/query", strings.NewReader(body)).Body).Decode(&out); err != nil || out.ID == "" {
		r.t.Fatalf("query %s: %v", body, err)
	}
	return out.ID
}

func TestPreparedQueries(t *testing.T) {
	r := start(t, "")
	for _, body := range []string{
		web, `{"Node":"n2","Address":"10.0.0.2","NodeMeta":{"rack":"r2"},"Service":{"ID":"web2","Service":"web","Port":80,"Tags":["b"],"Meta":{"v":"2"}}}`,
		`{"Node":"n3","Address":"10.0.0.3","Service":{"ID":"web3","Service":"web","Port":80,"Tags":["c"]},"Checks":[{"Name":"up","Status":"warning","ServiceID":"web3"},{"Name":"noise","Status":"critical"}]}`,
	} {
		r.do("PUT", "/v1/catalog/register", body, 200, "true")
	}
	id := r.query(`{"Name":"web","Service":{"Service":"web","IgnoreCheckIDs":["noise"]},"DNS":{"TTL":"10s"}}`)
	template := r.query(`{"Name":"geo-","Template":{"Type":"name_prefix_match","Regexp":"^geo-(.*?)-([^-]+)$","RemoveEmptyTags":true},
		"Service":{"Service":"${match(1)}","Tags":["${match(2)}","${agent.segment}"]}}`)
	for _, c := range []struct {
		method, path, body string
		status             int
		want               string
	}{
		{"POST", "/v1/query", `{"Service":{}}`, 500, `Must provide a Service name to query`},
		{"POST", "/v1/query", `{"ID":"x","Service":{"Service":"web"}}`, 500, `ID must be empty`},
		{"POST", "/v1/query", `{"Service":{"Service":"web"},"Nope":1}`, 400, `Request decode failed`},
		{"POST", "/v1/query", `{"Service":{"Service":"web"},"DNS":{"TTL":"x"}}`, 500, `Bad DNS TTL 'x'`},
		{"POST", "/v1/query", `{"Service":{"Service":"web","Failover":{"NearestN":-1}}}`, 500, `Bad NearestN '-1', must be >= 0`},
		{"POST", "/v1/query", `{"Service":{"Service":"web"},"Template":{"Type":"x"}}`, 500, `Bad Template.Type 'x'`},
		{"POST", "/v1/query", `{"Service":{"Service":"${x}"},"Template":{"Type":"name_prefix_match"}}`, 500, `${x}: want one of`},
		{"POST", "/v1/query", `{"Service":{"Service":"web"},"Template":{"Type":"name_prefix_match","Regexp":"("}}`, 500, `Regexp`},
		{"POST", "/v1/query", `{"Name":"web","Service":{"Service":"web"}}`, 500, `name 'web' aliases an existing query name`},
		{"POST", "/v1/query", `{"Session":"nope","Service":{"Service":"web"}}`, 500, `invalid session "nope"`},
		{"GET", "/v1/query", "", 200, `"Name":"geo-"`},
		{"GET", "/v1/query/" + id, "", 200, `[{"ID":"` + id + `","Name":"web","Session":"","Token":"","Service":{"Service":"web"`},
		{"GET", "/v1/query/none", "", 404, `Query not found`},
		{"PUT", "/v1/query/none", `{"Service":{"Service":"web"}}`, 500, `Cannot modify non-existent prepared query: 'none'`},
		{"DELETE", "/v1/query/none", "", 500, `Cannot modify non-existent prepared query: 'none'`},
		{"GET", "/v1/query/none/execute", "", 404, `Query not found`},
		{"GET", "/v1/query/web/execute?limit=x", "", 400, `Invalid limit`},
		{"GET", "/v1/query/web/execute?near=n2", "", 200, `{"Service":"web","Nodes":[{"Node":{"ID":"","Node":"n2"`},
		{"GET", "/v1/query/" + id + "/execute?near=n3&limit=1", "", 200, `"DNS":{"TTL":"10s"},"Datacenter":"dc1","Failovers":0}`},
		{"GET", "/v1/query/geo-web-b/execute", "", 200, `"ID":"web2"`},
		{"GET", "/v1/query/geo-none-b/execute", "", 200, `"Nodes":[]`},
		{"GET", "/v1/query/geo-web-b/explain", "", 200, `"Tags":["b"]`},
		{"PUT", "/v1/query/" + id, `{"Name":"web","Service":{"Service":"web","OnlyPassing":true,"Tags":["!a"],"ServiceMeta":{"v":"2"},"NodeMeta":{"rack":"r2"}}}`, 200, ``},
		{"GET", "/v1/query/WEB/execute", "", 200, `"ID":"web2"`},
		{"DELETE", "/v1/query/" + template, "", 200, ``},
		{"GET", "/v1/query/geo-web-b/execute", "", 404, `Query not found`},
		{"PATCH", "/v1/query", "", 405, `method PATCH not allowed`},
	} {
		h := r.do(c.method, c.path, c.body, c.status, c.want)
		if c.method == "GET" && c.status == 200 && h.Get("X-Consul-Index") == "" {
			t.Errorf("%s: no index", c.path)
		}
	}
	nodes := func(path string) int {
		var out struct{ Nodes []any }
		if err := json.NewDecoder(r.request("GET", path, nil).Body).Decode(&out); err != nil {
			t.Error(err)
		}
		return len(out.Nodes)
	}
	if n := nodes("/v1/query/web/execute"); n != 1 {
		t.Errorf("%d nodes of a query that asks for one instance", n)
	}
	session := r.session(`{"Node":"n1"}`)
	r.query(`{"Name":"bound","Session":"` + session + `","Service":{"Service":"web"}}`)
	if n := nodes("/v1/query/bound/execute"); n != 2 {
		t.Errorf("%d nodes, one of three is critical", n)
	}
	r.do("PUT", "/v1/session/destroy/"+session, "", 200, "true")
	r.do("GET", "/v1/query/bound/execute", "", 404, "Query not found")
}

func TestPreparedQueryBlocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, "")
		r.do("PUT", "/v1/catalog/register", web, 200, "true")
		id := r.query(`{"Name":"web","Service":{"Service":"web"}}`)
		index := r.do("GET", "/v1/query/"+id, "", 200, "").Get("X-Consul-Index")
		began := time.Now()
		done := make(chan struct{})
		go func() {
			defer close(done)
			r.do("GET", "/v1/query/"+id+"?wait=60s&index="+index, "", 200, `"Service":"api"`)
		}()
		time.Sleep(time.Second)
		r.query(`{"Name":"other","Service":{"Service":"web"}}`)
		time.Sleep(time.Second)
		select {
		case <-done:
			t.Error("another query woke it")
		default:
		}
		r.do("PUT", "/v1/query/"+id, `{"Name":"web","Service":{"Service":"api"}}`, 200, "")
		<-done
		if d := time.Since(began); d > 3*time.Second {
			t.Errorf("woken after %v", d)
		}
		if err := r.stop(); err != nil {
			t.Error(err)
		}
	})
}
