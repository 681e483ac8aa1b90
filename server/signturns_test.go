// SPDX-License-Identifier: Apache-2.0

package server

import (
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// TestSignTurns: csr_max_concurrent by the API bounds the signatures at one time, also after a restart.
func TestSignTurns(t *testing.T) {
	dir := t.TempDir()
	r := start(t, dir)
	r.do("PUT", "/v1/catalog/register", `{"Node":"n1","Address":"10.0.0.1","Service":{"Service":"web","Port":80}}`, 200, "true")
	r.do("PUT", "/v1/connect/ca/configuration", `{"Config":{"CSRMaxConcurrent":-1}}`, 400, "CSRMaxConcurrent")
	r.do("PUT", "/v1/connect/ca/configuration", `{"Provider":"consul","Config":{"csr_max_concurrent":1}}`, 200, "")
	r.do("GET", "/v1/connect/ca/configuration", "", 200, `"CSRMaxConcurrent":1`)
	busy := func(r *running) {
		t.Helper()
		if err := r.ca.turns.Take(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := r.leafOfWeb(); status.Code(err) != codes.ResourceExhausted {
			t.Errorf("while another is signed: %v", err)
		}
		r.ca.turns.Done()
		if _, err := r.leafOfWeb(); err != nil {
			t.Errorf("after it: %v", err)
		}
	}
	busy(r)
	r.stop()
	busy(start(t, dir))
}
