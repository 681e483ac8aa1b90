// SPDX-License-Identifier: Apache-2.0

package login

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"log/slog"
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
	token := sign(t, key, jose.ES256, "k1", claims(map[string]any{"iss": server.URL, "iat": now.Unix(), "exp": now.Add(time.Hour).Unix()}))
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

// TestC37_C38_C41_WhatAJWTSays: a JWT is believed if its issuer's key signed it, all of it, for this audience and this time. The control is the same token
// without the trick.
func TestC37_C38_C41_WhatAJWTSays(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, _ := x509.MarshalPKIXPublicKey(key.Public())
	pub := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	m := New(Config{Now: func() time.Time { return now }})
	method := &catalog.ACLAuthMethod{Type: "jwt", Config: catalog.Opaque{"JWTValidationPubKeys": []any{string(pub)}, "BoundIssuer": "ci", "BoundAudiences": []any{"weft"}}}
	head := func(more map[jose.HeaderKey]any) string {
		signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: key}, &jose.SignerOptions{ExtraHeaders: more})
		if err != nil {
			t.Fatal(err)
		}
		data, _ := json.Marshal(claims(nil))
		signed, err := signer.Sign(data)
		if err != nil {
			t.Fatal(err)
		}
		text, err := signed.CompactSerialize()
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	good := sign(t, key, jose.RS256, "", claims(nil))
	parts := strings.Split(good, ".")
	unsigned := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." + parts[1] + "."
	encrypter, err := jose.NewEncrypter(jose.A256GCM, jose.Recipient{Algorithm: jose.RSA_OAEP_256, Key: key.Public()}, &jose.EncrypterOptions{Compression: jose.DEFLATE})
	if err != nil {
		t.Fatal(err)
	}
	zipped, err := encrypter.Encrypt([]byte(strings.Repeat("a", 4<<20)))
	if err != nil {
		t.Fatal(err)
	}
	bomb, err := zipped.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	for name, token := range map[string]string{
		"C37 none": unsigned, "C37 none with its signature": unsigned + parts[2], "C37 shared secret": sign(t, pub, jose.HS256, "", claims(nil)),
		"C37 shared secret of the key": sign(t, der, jose.HS256, "", claims(nil)), "C37 critical": head(map[jose.HeaderKey]any{"crit": []string{"mine"}, "mine": true}),
		"C37 no signature": parts[0] + "." + parts[1] + ".", "C38 no end": sign(t, key, jose.RS256, "", claims(map[string]any{"exp": nil})),
		"C38 another audience": sign(t, key, jose.RS256, "", claims(map[string]any{"aud": "x"})), "C38 no audience": sign(t, key, jose.RS256, "", claims(map[string]any{"aud": nil})),
		"C38 another issuer": sign(t, key, jose.RS256, "", claims(map[string]any{"iss": "x"})), "C38 no issuer": sign(t, key, jose.RS256, "", claims(map[string]any{"iss": nil})),
		"C38 not yet": sign(t, key, jose.RS256, "", claims(map[string]any{"nbf": now.Add(time.Hour).Unix()})),
		"C41 dots":    strings.Repeat(".", 1<<20), "C41 encrypted": good + ".a.b", "C41 a zip bomb": bomb,
	} {
		if _, err := m.Verify(t.Context(), method, token); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
	for name, token := range map[string]string{"as it is": good, "key by path": head(map[jose.HeaderKey]any{"kid": "../../dev/null"}), "type": head(map[jose.HeaderKey]any{"typ": "JWT"})} {
		if _, err := m.Verify(t.Context(), method, token); err != nil {
			t.Errorf("the control, %s: %v", name, err)
		}
	}
}

// Keys that are newer than those that are known are looked for, but not for whoever sends tokens of no key.
func TestNewKeysAreFetched(t *testing.T) {
	first, _ := newKey(t)
	second, _ := newKey(t)
	key, asked := first, 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked++
		_ = json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "k", Algorithm: "ES256"}}})
	}))
	defer server.Close()
	at := now
	m := New(Config{Now: func() time.Time { return at }})
	method := &catalog.ACLAuthMethod{Type: "jwt", Config: catalog.Opaque{"JWKSURL": server.URL, "BoundAudiences": []any{"weft"}}}
	old, fresh := sign(t, first, jose.ES256, "k", claims(nil)), sign(t, second, jose.ES256, "k", claims(nil))
	if _, err := m.Verify(t.Context(), method, old); err != nil {
		t.Fatal(err)
	}
	key = second
	for range 5 {
		if _, err := m.Verify(t.Context(), method, fresh); err == nil {
			t.Error("it is verified by a key that isn't known yet")
		}
	}
	if at = at.Add(keysAgain); asked != 1 {
		t.Errorf("asked %d times", asked)
	}
	if _, err := m.Verify(t.Context(), method, fresh); err != nil {
		t.Error(err)
	}
	for range 5 {
		if _, err := m.Verify(t.Context(), method, old); err == nil {
			t.Error("a key that is gone verifies")
		}
	}
	if asked != 2 {
		t.Errorf("asked %d times, want 2", asked)
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
	// What Consul's own library sends has the keys of the type oidc too, empty.
	if err := Validate(&catalog.ACLAuthMethod{Type: "jwt", Config: catalog.Opaque{
		"JWTValidationPubKeys": []any{pub}, "OIDCClientID": "", "OIDCClientSecret": "", "OIDCClientAssertion": nil, "OIDCClientUsePKCE": nil, "OIDCScopes": nil,
		"OIDCACRValues": nil, "AllowedRedirectURIs": nil, "VerboseOIDCLogging": false, "ClockSkewLeeway": 0,
	}}); err != nil {
		t.Error(err)
	}
	for want, m := range map[string]*catalog.ACLAuthMethod{
		"no auth method type":    {Type: "ldap"},
		"exactly one of":         {Type: "jwt"},
		"isn't PEM":              {Type: "jwt", Config: catalog.Opaque{"JWTValidationPubKeys": []any{"x"}}},
		"JWTSupportedAlgs":       {Type: "jwt", Config: catalog.Opaque{"JWTValidationPubKeys": []any{pub}, "JWTSupportedAlgs": []any{"none"}}},
		"must begin with http":   {Type: "jwt", Config: catalog.Opaque{"JWKSURL": "http://other/keys"}},
		"Unknown":                {Type: "jwt", Config: catalog.Opaque{"Unknown": true}},
		"two claims":             {Type: "jwt", Config: catalog.Opaque{"JWTValidationPubKeys": []any{pub}, "ClaimMappings": map[string]any{"a": "x", "b": "x"}}},
		"JWKSCACert has no PEM":  {Type: "jwt", Config: catalog.Opaque{"JWKSURL": "https://idp/keys", "JWKSCACert": "x"}},
		"without Config.JWKSURL": {Type: "jwt", Config: catalog.Opaque{"JWTValidationPubKeys": []any{pub}, "JWKSCACert": "x"}},
		"without Config.OIDCDi":  {Type: "jwt", Config: catalog.Opaque{"JWTValidationPubKeys": []any{pub}, "OIDCDiscoveryCACert": "x"}},
		"Config.CACert has no":   {Type: "kubernetes", Config: catalog.Opaque{"Host": "https://k", "CACert": "x", "ServiceAccountJWT": "j"}},
		"Config.Host":            {Type: "kubernetes"},
		"CACert":                 {Type: "kubernetes", Config: catalog.Opaque{"Host": "https://k"}},
	} {
		if err := Validate(m); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// What a JWT leaves out of when it begins and ends follows from the rest and the leeways; -1 is none, 0 the default.
func TestLeeways(t *testing.T) {
	key, pub := newKey(t)
	at := func(d time.Duration) int64 { return now.Add(d).Unix() }
	const s, m = time.Second, time.Minute
	for name, c := range map[string]struct {
		config map[string]any
		claims map[string]any
		taken  bool
	}{
		"ended, within the skew":                 {nil, map[string]any{"exp": at(-59 * s)}, true},
		"ended, beyond the skew":                 {nil, map[string]any{"exp": at(-61 * s)}, false},
		"ended, no skew":                         {map[string]any{"ClockSkewLeeway": int64(-1)}, map[string]any{"exp": at(-1 * s)}, false},
		"ended, more skew":                       {map[string]any{"ClockSkewLeeway": "5m"}, map[string]any{"exp": at(-4 * m)}, true},
		"begins, within the skew":                {nil, map[string]any{"nbf": at(59 * s)}, true},
		"begins, beyond the skew":                {nil, map[string]any{"nbf": at(61 * s)}, false},
		"no end, made lately":                    {nil, map[string]any{"exp": nil, "iat": at(-150 * s)}, true},
		"no end, made long ago":                  {nil, map[string]any{"exp": nil, "iat": at(-4 * m)}, false},
		"no end, made long ago, more leeway":     {map[string]any{"ExpirationLeeway": "10m"}, map[string]any{"exp": nil, "iat": at(-4 * m)}, true},
		"no end, made a while ago, no leeway":    {map[string]any{"ExpirationLeeway": int64(-1)}, map[string]any{"exp": nil, "iat": at(-90 * s)}, false},
		"no end, made long ago, good since then": {nil, map[string]any{"exp": nil, "iat": at(-9 * m), "nbf": at(-1 * m)}, true},
		"no end, good since lately":              {nil, map[string]any{"exp": nil, "nbf": at(-2 * m)}, true},
		"no beginning, ends soon":                {nil, map[string]any{"exp": at(3 * m)}, true},
		"no beginning, ends late":                {nil, map[string]any{"exp": at(10 * m)}, false},
		"no beginning, ends late, more leeway":   {map[string]any{"NotBeforeLeeway": "10m"}, map[string]any{"exp": at(10 * m)}, true},
		"no beginning, ends soon, no leeway":     {map[string]any{"NotBeforeLeeway": int64(-1)}, map[string]any{"exp": at(90 * s)}, false},
		"made now, ends late":                    {nil, map[string]any{"iat": at(0), "exp": at(10 * m)}, true},
		"nothing said":                           {nil, map[string]any{"exp": nil}, false},
	} {
		config := catalog.Opaque{"JWTValidationPubKeys": []any{pub}, "BoundAudiences": []any{"weft"}}
		for k, v := range c.config {
			config[k] = v
		}
		method := &catalog.ACLAuthMethod{Type: "jwt", Config: config}
		if err := Validate(method); err != nil {
			t.Fatal(name, err)
		}
		_, err := New(Config{Now: func() time.Time { return now }}).Verify(t.Context(), method, sign(t, key, jose.ES256, "", claims(c.claims)))
		if (err == nil) != c.taken {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Strangers make logins: those that have a server ask others are bounded for each type of method, not for one alone, and hold up no other type.
func TestLoginsAtOnceAreBounded(t *testing.T) {
	_, pub := newKey(t)
	m := New(Config{Now: func() time.Time { return now }})
	for kind, config := range map[string]catalog.Opaque{
		typeJWT: {"JWKSURL": "http://127.0.0.1:1/keys"}, typeKubernetes: {"Host": "http://127.0.0.1:1", "ServiceAccountJWT": "reviewer"},
	} {
		for range atOnce {
			m.busy[kind] <- struct{}{}
		}
		method := &catalog.ACLAuthMethod{Type: kind, Config: config}
		if _, err := m.Verify(t.Context(), method, "x.y.z"); err == nil || !strings.Contains(err.Error(), "too many logins") {
			t.Errorf("%s: %v", kind, err)
		}
		for range atOnce {
			<-m.busy[kind]
		}
		if _, err := m.Verify(t.Context(), method, "x.y.z"); err == nil || strings.Contains(err.Error(), "too many logins") {
			t.Errorf("%s, the control: %v", kind, err)
		}
	}
	for range atOnce {
		m.busy[typeJWT] <- struct{}{}
	}
	if _, err := m.Verify(t.Context(), &catalog.ACLAuthMethod{Type: typeJWT, Config: catalog.Opaque{"JWTValidationPubKeys": []any{pub}}}, "x"); err == nil || strings.Contains(err.Error(), "too many") {
		t.Error("a login that has nobody asked is refused:", err)
	}
}

// Strangers log in: what they are told names no address within, which the log does.
func TestStrangersHearNoAddresses(t *testing.T) {
	var log bytes.Buffer
	m := New(Config{Now: func() time.Time { return now }, Log: slog.New(slog.NewTextHandler(&log, nil))})
	sick := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "who within", http.StatusTeapot) }))
	defer sick.Close()
	for _, host := range []string{sick.URL, "http://127.0.0.1:1"} {
		for kind, config := range map[string]catalog.Opaque{
			typeJWT: {"JWKSURL": host + "/keys"}, typeKubernetes: {"Host": host, "ServiceAccountJWT": "reviewer"},
		} {
			key, _ := newKey(t)
			log.Reset()
			_, err := m.Verify(t.Context(), &catalog.ACLAuthMethod{Name: "ci", Type: kind, Config: config}, sign(t, key, jose.ES256, "", claims(nil)))
			if err == nil || strings.Contains(err.Error(), "127.0.0.1") || strings.Contains(err.Error(), "418") || !strings.Contains(err.Error(), "log says more") {
				t.Errorf("%s at %s: %v", kind, host, err)
			}
			if text := log.String(); !strings.Contains(text, host) || !strings.Contains(text, "method=ci") || strings.Contains(text, "reviewer") {
				t.Errorf("the log: %s", text)
			}
		}
	}
}
