// SPDX-License-Identifier: Apache-2.0

package login

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/weftmesh/weft/catalog"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func newKey(t *testing.T) (*ecdsa.PrivateKey, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return key, string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

func sign(t *testing.T, key any, alg jose.SignatureAlgorithm, id string, claims map[string]any) string {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, (&jose.SignerOptions{}).WithHeader("kid", id))
	if err != nil {
		t.Fatal(err)
	}
	out, err := jwt.Signed(signer).Claims(claims).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func claims(change map[string]any) map[string]any {
	c := map[string]any{
		"iss": "ci", "aud": "weft", "exp": now.Add(time.Minute).Unix(), "sub": "job-1", "groups": []string{"dev", "ops"},
		"deep": map[string]any{"er": "x"},
	}
	for k, v := range change {
		if v == nil {
			delete(c, k)
		} else {
			c[k] = v
		}
	}
	return c
}

func TestJWT(t *testing.T) {
	key, pub := newKey(t)
	other, _ := newKey(t)
	method := &catalog.ACLAuthMethod{Name: "ci", Type: "jwt", Config: catalog.Opaque{
		"JWTValidationPubKeys": []any{pub}, "BoundIssuer": "ci", "BoundAudiences": []any{"weft"},
		"ClaimMappings": map[string]any{"sub": "job", "/deep/er": "deep"}, "ListClaimMappings": map[string]any{"groups": "groups"},
	}}
	if err := Validate(method); err != nil {
		t.Fatal(err)
	}
	m := New(Config{Now: func() time.Time { return now }})
	who, err := m.Verify(t.Context(), method, sign(t, key, jose.ES256, "", claims(nil)))
	if err != nil {
		t.Fatal(err)
	}
	if who.Vars["value.job"] != "job-1" || who.Vars["value.deep"] != "x" {
		t.Errorf("%v", who.Vars)
	}
	for want, token := range map[string]string{
		"signature is taken":               "",
		"isn't a JWT":                      "nonsense",
		"isn't a JWT with":                 sign(t, []byte("0123456789abcdef0123456789abcdef"), jose.HS256, "", claims(nil)),
		"no key verifies":                  sign(t, other, jose.ES256, "", claims(nil)),
		"time is over":                     sign(t, key, jose.ES256, "", claims(map[string]any{"exp": now.Add(-time.Hour).Unix()})),
		"says neither":                     sign(t, key, jose.ES256, "", claims(map[string]any{"exp": nil})),
		"isn't good yet":                   sign(t, key, jose.ES256, "", claims(map[string]any{"nbf": now.Add(time.Hour).Unix()})),
		"from the future":                  sign(t, key, jose.ES256, "", claims(map[string]any{"iat": now.Add(time.Hour).Unix()})),
		"another issuer":                   sign(t, key, jose.ES256, "", claims(map[string]any{"iss": "x"})),
		"another audience":                 sign(t, key, jose.ES256, "", claims(map[string]any{"aud": "x"})),
		"isn't a list of texts":            sign(t, key, jose.ES256, "", claims(map[string]any{"groups": []any{1}})),
		"the claim \"/deep/er\" isn't one": sign(t, key, jose.ES256, "", claims(map[string]any{"deep": map[string]any{"er": []any{"a"}}})),
	} {
		if token == "" {
			want, token = "no bearer token", ""
		}
		if _, err := m.Verify(t.Context(), method, token); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

func TestJWKSIsFetchedAndKept(t *testing.T) {
	key, _ := newKey(t)
	asked := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		switch r.URL.Path {
		case "/.well-known/openid-configuration":
			_ = json.NewEncoder(w).Encode(map[string]string{"issuer": "http://" + r.Host, "jwks_uri": "http://" + r.Host + "/keys"})
		case "/keys":
			_ = json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "k1", Algorithm: "ES256"}}})
		}
	}))
	defer server.Close()
	at := now
	m := New(Config{Now: func() time.Time { return at }})
	method := &catalog.ACLAuthMethod{Type: "jwt", Config: catalog.Opaque{"OIDCDiscoveryURL": server.URL, "BoundAudiences": []any{"weft"}}}
	token := sign(t, key, jose.ES256, "k1", claims(map[string]any{"iss": server.URL, "exp": now.Add(time.Hour).Unix()}))
	for range 3 {
		if _, err := m.Verify(t.Context(), method, token); err != nil {
			t.Fatal(err)
		}
	}
	if asked != 2 {
		t.Errorf("asked %d times, want 2", asked)
	}
	at = at.Add(keysLife)
	if _, err := m.Verify(t.Context(), method, token); err != nil || asked != 4 {
		t.Errorf("%v, asked %d times, want 4", err, asked)
	}
	if _, err := m.Verify(t.Context(), method, sign(t, key, jose.ES256, "k1", claims(nil))); err == nil {
		t.Error("a token of another issuer than the discovery document's was taken")
	}
}

func TestKubernetes(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer reviewer" {
			http.Error(w, "no", http.StatusForbidden)
			return
		}
		if strings.HasSuffix(r.URL.Path, "/serviceaccounts/web") {
			_, _ = w.Write([]byte(`{"metadata":{"annotations":{"consul.hashicorp.com/service-name":"shop"}}}`))
			return
		}
		var q struct{ Spec struct{ Token string } }
		if err := json.NewDecoder(r.Body).Decode(&q); err != nil || q.Spec.Token != "good" {
			_, _ = w.Write([]byte(`{"status":{"authenticated":false,"error":"bad token good?"}}`))
			return
		}
		_, _ = w.Write([]byte(`{"status":{"authenticated":true,"user":{"username":"system:serviceaccount:ns:web","uid":"u","groups":["system:serviceaccounts"]}}}`))
	}))
	defer server.Close()
	method := &catalog.ACLAuthMethod{Type: "kubernetes", Config: catalog.Opaque{"Host": server.URL, "ServiceAccountJWT": "reviewer"}}
	m := New(Config{Now: func() time.Time { return now }})
	who, err := m.Verify(t.Context(), method, "good")
	if err != nil {
		t.Fatal(err)
	}
	if who.Vars["serviceaccount.name"] != "shop" || who.Vars["serviceaccount.namespace"] != "ns" {
		t.Errorf("%v", who.Vars)
	}
	if _, err := m.Verify(t.Context(), method, "bad"); err == nil || strings.Contains(err.Error(), "bad token") {
		t.Errorf("a refused token: %v", err)
	}
	method.Config["ServiceAccountJWT"] = "x"
	if _, err := m.Verify(t.Context(), method, "good"); err == nil {
		t.Error("without the reviewer's permission it was taken")
	}
}

func TestConfigsAreValidated(t *testing.T) {
	_, pub := newKey(t)
	for want, m := range map[string]*catalog.ACLAuthMethod{
		"no auth method type":  {Type: "ldap"},
		"exactly one of":       {Type: "jwt"},
		"isn't PEM":            {Type: "jwt", Config: catalog.Opaque{"JWTValidationPubKeys": []any{"x"}}},
		"JWTSupportedAlgs":     {Type: "jwt", Config: catalog.Opaque{"JWTValidationPubKeys": []any{pub}, "JWTSupportedAlgs": []any{"none"}}},
		"must begin with http": {Type: "jwt", Config: catalog.Opaque{"JWKSURL": "http://other/keys"}},
		"Unknown":              {Type: "jwt", Config: catalog.Opaque{"Unknown": true}},
		"two claims":           {Type: "jwt", Config: catalog.Opaque{"JWTValidationPubKeys": []any{pub}, "ClaimMappings": map[string]any{"a": "x", "b": "x"}}},
		"Config.Host":          {Type: "kubernetes"},
		"CACert":               {Type: "kubernetes", Config: catalog.Opaque{"Host": "https://k"}},
	} {
		if err := Validate(m); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}
