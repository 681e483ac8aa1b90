// SPDX-License-Identifier: Apache-2.0

package ads_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/connect/chain"
)

// signed is a token of a new key, and the set with that key (RFC 7515, RFC 7517).
func signed(t *testing.T) (token, set string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	point, err := key.PublicKey.Bytes() // 4, x, y
	if err != nil {
		t.Fatal(err)
	}
	b := base64.RawURLEncoding.EncodeToString
	token = b([]byte(`{"alg":"ES256","kid":"one"}`)) + "." + b(fmt.Appendf(nil, `{"iss":"https://sso.example","exp":%d}`, time.Now().Add(time.Hour).Unix()))
	sum := sha256.Sum256([]byte(token))
	r, s, err := ecdsa.Sign(rand.Reader, key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	var signature [64]byte
	r.FillBytes(signature[:32])
	s.FillBytes(signature[32:])
	set = fmt.Sprintf(`{"keys":[{"kty":"EC","crv":"P-256","alg":"ES256","kid":"one","use":"sig","x":%q,"y":%q}]}`, b(point[1:33]), b(point[33:]))
	return token + "." + b(signature[:]), set
}

// An Envoy fetches the keys of tokens by itself, and again; those that stand in the entry count beside them.
func TestEnvoyFetchesKeys(t *testing.T) {
	a := newAgreeing(t, []string{"first", "probe"})
	first, firstSet := signed(t)
	second, secondSet := signed(t)
	var serves atomic.Pointer[string]
	serves.Store(&firstSet)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, *serves.Load()) })}
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close(); <-done })
	provider := &catalog.JWTProvider{EntryHead: catalog.EntryHead{Name: "sso"}, Issuer: "https://sso.example", JSONWebKeySet: &catalog.JSONWebKeySet{
		Remote: &catalog.RemoteJWKS{URI: "http://" + l.Addr().String() + "/keys", CacheDuration: time.Second},
	}}
	if err := a.m.w.Write(provider); err != nil {
		t.Fatal(err)
	}
	a.put(&catalog.ServiceRouter{EntryHead: catalog.EntryHead{Name: "api"}}, &catalog.ServiceIntentions{
		EntryHead: catalog.EntryHead{Name: "web"}, Sources: []catalog.SourceIntention{{Name: "first", Permissions: []catalog.IntentionPermission{{
			Action: "allow", HTTP: &catalog.IntentionHTTPPermission{PathPrefix: "/"}, JWT: &catalog.JWTRequirement{Providers: []catalog.JWTRequired{{Name: "sso"}}},
		}}}},
	})
	come := func(token string) bool {
		req := chain.Request{Method: "GET", Path: "/", Authority: "web", Header: http.Header{"Authorization": {"Bearer " + token}}}
		resp, err := a.do(a.clients["first"], fmt.Sprintf("https://127.0.0.1:%d", a.public), req)
		return err == nil && resp.Header.Get("X-Came") != ""
	}
	a.m.until(10*time.Second, "a token of the fetched key is taken", func() bool { return come(first) })
	if come("") || come(second) {
		t.Error("a request comes without a token that is right")
	}
	serves.Store(&secondSet)
	a.m.until(10*time.Second, "a token of the new key is taken", func() bool { return come(second) })
	if come(first) {
		t.Error("a token of the old key is still taken")
	}
}
