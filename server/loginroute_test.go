// SPDX-License-Identifier: Apache-2.0

package server

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// TestLoginRoutes: who brings a JWT of the auth method gets a token that may what the binding rule gives, until it logs out.
func TestLoginRoutes(t *testing.T) {
	r := startWith(t, Config{ACL: ACLConfig{Enabled: true, InitialManagement: rootSecret}})
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	body := func(v any) string {
		t.Helper()
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	type object = map[string]any
	r.as(rootSecret, "PUT", "/v1/acl/auth-method", body(object{"Name": "m", "Type": "jwt", "MaxTokenTTL": "1h", "Config": object{
		"JWTValidationPubKeys": []string{string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))},
		"BoundIssuer":          "me", "BoundAudiences": []string{"weft"}, "ClaimMappings": object{"user": "user"},
	}}), 200, `"Name":"m"`)
	r.as(rootSecret, "PUT", "/v1/acl/binding-rule", `{"AuthMethod":"m","BindType":"service","BindName":"${value.user}"}`, 200, `"AuthMethod":"m"`)
	bearer := func(audience string) string {
		t.Helper()
		signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: key}, nil)
		if err != nil {
			t.Fatal(err)
		}
		now := time.Now().Unix()
		out, err := jwt.Signed(signer).Claims(object{"iss": "me", "aud": audience, "sub": "s", "user": "web", "iat": now, "nbf": now, "exp": now + 60}).Serialize()
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	r.as("", "POST", "/v1/acl/login", body(object{"AuthMethod": "m", "BearerToken": bearer("others")}), 403, "")
	accessor, secret := made(t, r.as("", "POST", "/v1/acl/login", body(object{"AuthMethod": "m", "BearerToken": bearer("weft"), "Meta": object{"pod": "p1"}}), 200, `"AuthMethod":"m"`))
	r.as(secret, "GET", "/v1/acl/token/self", "", 200, accessor)
	const register = `{"Node":"n1","SkipNodeUpdate":true,"Service":{"Service":"web","Port":80}}`
	r.as(rootSecret, "PUT", "/v1/catalog/register", `{"Node":"n1","Address":"10.0.0.1"}`, 200, "true")
	r.as(secret, "PUT", "/v1/catalog/register", register, 200, "true")
	r.as(secret, "PUT", "/v1/kv/a", "x", 403, "Permission denied")
	r.as(secret, "POST", "/v1/acl/logout", "", 200, "")
	r.as(secret, "PUT", "/v1/catalog/register", register, 403, "ACL not found")
	r.as(rootSecret, "GET", "/v1/acl/token/"+accessor, "", 403, "ACL not found")
}
