// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/weftmesh/weft/agent/config"
)

// With translate_wan_addrs what is of another datacenter stands in answers with the addresses by which it is reached from here.
func TestTranslatedAnswers(t *testing.T) {
	const flat = `{"Datacenter":"dc2","Address":"10.0.0.1","TaggedAddresses":{"wan":"192.0.2.1"},"ServiceAddress":"10.0.0.2","ServicePort":80,"ServiceTaggedAddresses":{"wan":{"Address":"192.0.2.2","Port":8080}}}`
	for _, c := range []struct {
		name, path, body string
		want, without    []string
	}{
		{"catalog's instances", "/v1/catalog/service/web?dc=dc2", "[" + flat + "]", []string{`"Address":"192.0.2.1"`, `"ServiceAddress":"192.0.2.2"`, `"ServicePort":8080`}, []string{`"Address":"10.0.0.1"`}},
		{"health's instances", "/v1/health/service/web?dc=dc2", `[{"Node":{"Datacenter":"dc2","Address":"10.0.0.1","TaggedAddresses":{"wan":"192.0.2.1"}},"Service":{"Address":"","Port":80,"TaggedAddresses":{"wan":{"Address":"192.0.2.2","Port":0}}},"Checks":[{"ModifyIndex":18446744073709551615}]}]`,
			[]string{`"Address":"192.0.2.1"`, `"Address":"192.0.2.2"`, `"Port":80`, "18446744073709551615"}, nil},
		{"results of a query that failed over", "/v1/query/web/execute", `{"Datacenter":"dc2","Nodes":[{"Node":{"Datacenter":"dc2","Address":"10.0.0.1","TaggedAddresses":{"wan":"192.0.2.1"}}}]}`, []string{`"Address":"192.0.2.1"`}, nil},
		{"a node with its services", "/v1/catalog/node/n?dc=dc2", `{"Node":{"Datacenter":"dc2","Address":"10.0.0.1","TaggedAddresses":{}},"Services":{"web":{"Address":"10.0.0.2","TaggedAddresses":{"wan":{"Address":"192.0.2.2","Port":1}}}}}`,
			[]string{`"Address":"10.0.0.1"`, `"Address":"192.0.2.2"`}, nil},
		{"this datacenter's", "/v1/catalog/service/web?dc=dc1", "[" + strings.ReplaceAll(flat, "dc2", "dc1") + "]", []string{`"Address":"10.0.0.1"`, `"ServiceAddress":"10.0.0.2"`}, nil},
		{"what isn't about addresses", "/v1/kv/a?dc=dc2", "[" + flat + "]", []string{`"Address":"10.0.0.1"`}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			settings := &config.Config{Datacenter: "dc1", TranslateWANAddrs: true}
			inner := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("X-Consul-Index", "7")
				_, _ = io.WriteString(w, c.body)
			})
			h := guarded(func() *config.Config { return settings }, inner)
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest("GET", c.path, nil))
			for _, want := range c.want {
				if !strings.Contains(w.Body.String(), want) {
					t.Errorf("no %s in %s", want, w.Body)
				}
			}
			for _, not := range c.without {
				if strings.Contains(w.Body.String(), not) {
					t.Errorf("%s in %s", not, w.Body)
				}
			}
			if w.Header().Get("X-Consul-Index") != "7" {
				t.Errorf("header %v", w.Header())
			}
			settings.TranslateWANAddrs = false
			off := httptest.NewRecorder()
			h.ServeHTTP(off, httptest.NewRequest("GET", c.path, nil))
			if off.Body.String() != c.body {
				t.Errorf("without: %s", off.Body)
			}
		})
	}
}
