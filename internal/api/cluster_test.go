// SPDX-License-Identifier: Apache-2.0

package api

import (
	"net/http/httptest"
	"strings"
	"testing"
)

// What may wait for a change is never brief, however its parameter is written: nobody would notice that its caller went.
func TestBrief(t *testing.T) {
	for _, c := range []struct {
		request, body string
		want          bool
	}{
		{"GET /v1/kv/a", "", true},
		{"GET /v1/kv/a?stale", "", true},
		{"GET /v1/kv/?recurse", "", true},
		{"GET /v1/kv/?recurse&dc=dc2", "", false},
		{"GET /v1/health/service/web?passing", "", true},
		{"GET /v1/catalog/nodes", "", true},
		{"GET /v1/kv/a?index=7", "", false},
		{"GET /v1/kv/a?wait=10m&index=7", "", false},
		{"GET /v1/kv/a?%69ndex=7", "", false},
		{"GET /v1/health/service/web?hash=7", "", false},
		{"GET /v1/health/service/web?h%61sh=7", "", false},
		{"GET /v1/kv/a", "x", false}, // a body is still to come
		{"GET /v1/agent/monitor", "", false},
		{"GET /v1/snapshot", "", false},
		{"PUT /v1/kv/a", "x", true},
		{"PUT /v1/txn", "[]", true},
		{"PUT /v1/kv/a", "", false},
		{"PUT /v1/kv/a", strings.Repeat("x", believed+1), false},
		{"PUT /v1/snapshot", "x", false},
		{"DELETE /v1/kv/a", "", false},
	} {
		method, target, _ := strings.Cut(c.request, " ")
		if got := Brief(httptest.NewRequest(method, target, strings.NewReader(c.body))); got != c.want {
			t.Errorf("%s with %d bytes is brief: %v", c.request, len(c.body), got)
		}
	}
}
