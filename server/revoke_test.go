// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"encoding/json"
	"errors"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/weftmesh/weft/ca"
	"github.com/weftmesh/weft/ca/vaulttest"
	"github.com/weftmesh/weft/connect/identity"
)

// TestRevoke: what is revoked is in the catalog, with lists that all issuers sign, and stays there over restarts and rotations.
func TestRevoke(t *testing.T) {
	dir := t.TempDir()
	r := start(t, dir)
	r.do("PUT", "/v1/catalog/register", `{"Node":"n1","Address":"10.0.0.1","Service":{"Service":"web","Port":80}}`, 200, "true")
	r.do("GET", "/v1/weft/ca/revoked", "", 200, "[]")
	r.do("PUT", "/v1/weft/ca/revoke", `{"Serial":"0a0b","Reason":"a lost disk"}`, 200, `"Serial":"0a:0b","Reason":"a lost disk"`)
	r.do("PUT", "/v1/weft/ca/revoke", `{"Service":"web"}`, 200, `Envoy sidecars know certificates by serial numbers alone`)
	r.do("PUT", "/v1/weft/ca/revoke", `{}`, 400, "a serial number or a SPIFFE ID")
	r.do("PUT", "/v1/weft/ca/revoke", `{"Serial":"0c","Service":"web"}`, 400, "one of the two")
	r.do("PUT", "/v1/weft/ca/revoke", `{"URI":"spiffe://other.consul/ns/default/dc/dc1/svc/web"}`, 400, "different trust domain")
	r.do("PUT", "/v1/connect/ca/configuration", `{"Config":{"Rotate":true}}`, 200, "")
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	r = start(t, dir)
	state, err := r.store.Read().CA()
	if err != nil || len(state.Revoked) != 2 || len(state.CRLs) != 2 || !strings.HasSuffix(state.Revoked[1].URI, "/svc/web") {
		t.Fatalf("%d revoked, %d lists, %v", len(state.Revoked), len(state.CRLs), err)
	}
	r.do("GET", "/v1/weft/ca/revoked", "", 200, `"0a:0b"`)
	if text, err := r.leafOfWeb(); err != nil || text == "" {
		t.Errorf("a leaf after the revocation of all: %v", err)
	}
	// Its leaves can't be told from revoked ones in the second of the revocation, so a new one isn't dated into it.
	w := httptest.NewRecorder()
	r.Handler().ServeHTTP(w, httptest.NewRequest("PUT", "/v1/weft/ca/revoke", strings.NewReader(`{"Service":"web"}`)))
	var done struct{ Before time.Time }
	if err := json.Unmarshal(w.Body.Bytes(), &done); err != nil {
		t.Fatal(err)
	}
	text, err := r.leafOfWeb()
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ca.ParseCert(text[:strings.Index(text, "-----END CERTIFICATE-----")] + "-----END CERTIFICATE-----\n")
	if err != nil || !cert.NotBefore.After(done.Before) {
		t.Errorf("valid from %s, revoked until %s, %v", cert.NotBefore, done.Before, err)
	}
	// A list can't be signed by keys that are elsewhere, which is said.
	vault := vaulttest.New(time.Now)
	web := httptest.NewServer(vault)
	defer web.Close()
	r.do("PUT", "/v1/connect/ca/configuration", `{"Provider":"vault","Config":{"Address":"`+web.URL+`","Token":"root","RootPKIPath":"pki","IntermediatePKIPath":"int"}}`, 200, "")
	r.do("PUT", "/v1/weft/ca/revoke", `{"Serial":"0d"}`, 200, "Envoy sidecars go on taking it")
	if state, _ := r.store.Read().CA(); len(state.Revoked) != 3 || len(state.CRLs) != 0 {
		t.Errorf("%d revoked, %d lists", len(state.Revoked), len(state.CRLs))
	}
}

// TestRevokeWaitEnds: who waits for the next second and hangs up is let go.
func TestRevokeWaitEnds(t *testing.T) {
	at := time.Now()
	r := startWith(t, Config{Now: func() time.Time { return at }})
	r.do("PUT", "/v1/catalog/register", `{"Node":"n1","Address":"10.0.0.1","Service":{"Service":"web","Port":80}}`, 200, "true")
	r.do("PUT", "/v1/weft/ca/revoke", `{"Service":"web"}`, 200, "")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.ca.notAsRevoked(ctx, r.uriOfWeb()); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if err := r.ca.notAsRevoked(ctx, r.uriOfWeb()+"2"); err != nil {
		t.Errorf("another service waits: %v", err)
	}
}

func (r *running) uriOfWeb() string {
	_, state := r.ca.now()
	return identity.Service{TrustDomain: state.TrustDomain(), Datacenter: "dc1", Service: "web"}.String()
}
