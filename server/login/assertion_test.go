// SPDX-License-Identifier: Apache-2.0

package login

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/weftmesh/weft/catalog"
)

// pemOf is a private key as PKCS #8.
func pemOf(t *testing.T, key any) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

func certOf(t *testing.T, key crypto.Signer) (text, hash string) {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(1)}, &x509.Certificate{SerialNumber: big.NewInt(1)}, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(der)
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), base64.RawURLEncoding.EncodeToString(sum[:])
}

// A client proves who it is by what it signs: the provider gets no secret, and takes no assertion twice, of another key, or for somebody else.
func TestClientAssertions(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	ecKey, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	_, edKey, _ := ed25519.GenerateKey(rand.Reader)
	pkcs1 := string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(rsaKey)}))
	shared := strings.Repeat("0123456789abcdef", 4)
	signs := func(key string, more ...string) map[string]any {
		a := map[string]any{"PrivateKey": map[string]any{"PemKey": key}}
		for i := 0; i+1 < len(more); i += 2 {
			a[more[i]] = more[i+1]
		}
		return map[string]any{"OIDCClientSecret": nil, "OIDCClientAssertion": a}
	}
	for name, c := range map[string]struct {
		proof  any
		config map[string]any
	}{
		"RSA":         {rsaKey.Public(), signs(pemOf(t, rsaKey))},
		"RSA, PKCS 1": {rsaKey.Public(), signs(pkcs1, "KeyAlgorithm", "PS256")},
		"ECDSA":       {ecKey.Public(), signs(pemOf(t, ecKey))},
		"Ed25519":     {edKey.Public(), signs(pemOf(t, edKey))},
		"HS256":       {[]byte(shared), map[string]any{"OIDCClientSecret": shared, "OIDCClientAssertion": map[string]any{"KeyAlgorithm": "HS256"}}},
		"HS512":       {[]byte(shared), map[string]any{"OIDCClientSecret": shared, "OIDCClientAssertion": map[string]any{"KeyAlgorithm": "HS512", "PrivateKey": nil}}},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDesk(t, c.config)
			d.p.Secret, d.p.Proof = "", c.proof
			for range 2 { // each has an assertion of its own
				if _, err := d.login(); err != nil {
					t.Fatal(err)
				}
			}
			d.p.Proof = []byte(strings.Repeat("another's key...", 4))
			_, err := d.login()
			d.refused(err, "invalid_client")
			if strings.Contains(err.Error(), shared) {
				t.Error("the secret is in the error")
			}
		})
	}
	d := newDesk(t, map[string]any{"OIDCClientSecret": nil, "OIDCClientAssertion": map[string]any{"Audience": []any{"https://elsewhere"}, "PrivateKey": map[string]any{"PemKey": pemOf(t, rsaKey)}}})
	d.p.Secret, d.p.Proof = "", rsaKey.Public()
	_, err = d.login()
	d.refused(err, "invalid_client") // it isn't for this provider
}

// The provider learns from the header which of a client's keys it is.
func TestAssertionsNameTheirKey(t *testing.T) {
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	cert, hash := certOf(t, key)
	c := &jwtConfig{OIDCClientID: "weft", OIDCClientAssertion: &clientAssertion{PrivateKey: &assertionKey{PemKey: pemOf(t, key), KeyID: "k7", PemCert: cert}}}
	text, err := c.assertion(provider{Issuer: "https://idp"}, now, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	token, err := jwt.ParseSigned(text, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		t.Fatal(err)
	}
	if h := token.Headers[0]; h.KeyID != "k7" || h.ExtraHeaders["x5t#S256"] != hash {
		t.Errorf("%+v, want k7 and %s", h, hash)
	}
	var claims jwt.Claims
	if err := token.Claims(key.Public(), &claims); err != nil || claims.Expiry.Time() != now.Add(assertionLife).Local() {
		t.Error(claims, err)
	}
}

func TestAssertionConfigsAreValidated(t *testing.T) {
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	other, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	odd, _ := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	cert, _ := certOf(t, other)
	validate := func(secret string, a map[string]any) error {
		return Validate(&catalog.ACLAuthMethod{Name: "o", Type: "oidc", Config: catalog.Opaque{
			"OIDCDiscoveryURL": "https://idp", "OIDCClientID": "weft", "OIDCClientSecret": secret, "AllowedRedirectURIs": []any{here}, "OIDCClientAssertion": a,
		}})
	}
	private := func(more map[string]any) map[string]any {
		k := map[string]any{"PemKey": pemOf(t, key)}
		for n, v := range more {
			k[n] = v
		}
		return map[string]any{"PrivateKey": k}
	}
	for want, c := range map[string]struct {
		secret string
		a      map[string]any
	}{
		"wants PrivateKey":               {"", map[string]any{"Audience": []any{"x"}}},
		"and Config.OIDCClientSecret to": {"", map[string]any{"KeyAlgorithm": "HS256"}},
		"a KeyAlgorithm of HS256":        {"s", map[string]any{"KeyAlgorithm": "none"}},
		"wants at least 32":              {"short", map[string]any{"KeyAlgorithm": "HS256"}},
		"wants at least 64":              {strings.Repeat("x", 63), map[string]any{"KeyAlgorithm": "HS512"}},
		"can't both be set":              {"s", private(nil)},
		"isn't PEM":                      {"", private(map[string]any{"PemKey": "x"})},
		"isn't an unencrypted":           {"", private(map[string]any{"PemKey": cert})},
		"has 1024 bits":                  {"", private(map[string]any{"PemKey": pemOf(t, small)})},
		"signs no JWT":                   {"", private(map[string]any{"PemKey": pemOf(t, odd)})},
		"want one of [ES256]":            {"", func() map[string]any { a := private(nil); a["KeyAlgorithm"] = "RS256"; return a }()},
		"is of another key":              {"", private(map[string]any{"PemCert": cert})},
		"PemCert isn't PEM":              {"", private(map[string]any{"PemCert": "x"})},
		"PemKeyFile":                     {"", private(map[string]any{"PemKeyFile": "/etc/shadow"})}, // who may use the API has a server read no file
	} {
		err := validate(c.secret, c.a)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
		if err != nil && strings.Contains(err.Error(), "PRIVATE KEY") {
			t.Error("the key is in the error")
		}
	}
	for name, a := range map[string]map[string]any{"none": nil, "empty": {"Audience": nil, "KeyAlgorithm": "", "PrivateKey": map[string]any{"PemKey": ""}}} {
		if err := validate("s", a); err != nil {
			t.Errorf("the control, %s: %v", name, err)
		}
	}
	if err := validate("", private(nil)); err != nil {
		t.Error("the control:", err)
	}
}
