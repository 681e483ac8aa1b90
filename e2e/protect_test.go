// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

var protectRows = []Row{
	{Name: "protect by path header and method", Run: protectRequests},
	{Name: "protect by host and by exception", Run: protectHosts},
	{Name: "protect by token", Run: protectTokens},
	{Name: "protect by claims in headers and refuse what is wrong", Run: protectClaims},
	{Name: "protect by token of fetched keys", Run: protectFetched},
	{Name: "protect by another program", Run: protectByProgram},
	{Name: "protect by another program over http", Run: protectByProgramHTTP},
	{Name: "protect by a service that decides", Run: protectByService},
	{Name: "protect in audit mode", Run: protectAudit},
	{Name: "protect by mutual tls strict permissive and off", Run: protectMTLS},
	{Name: "protect by mutual tls of a port", Run: protectPort},
	{Name: "protect nothing at an exposed path", Run: protectExposed},
	{Name: "protect nothing of exposed checks", Run: protectExposedChecks},
}

// rules writes who may call api, until the row ends; then web may again.
func (l *Lab) rules(fields object) {
	l.t.Helper()
	fields["Kind"], fields["Name"] = "service-intentions", l.name("api")
	l.t.Cleanup(func() {
		l.put("/v1/config", object{"Kind": "service-intentions", "Name": l.name("api"), "Sources": []object{{"Name": l.name("web"), "Action": "allow"}}})
	})
	l.put("/v1/config", fields)
}

func protectRequests(t *testing.T, w *World) {
	l := w.traffic(t)
	l.rules(object{"Sources": []object{{"Name": l.name("web"), "Permissions": []object{
		{"Action": "deny", "HTTP": object{"PathPrefix": "/admin"}},
		{"Action": "allow", "HTTP": object{"Methods": []string{"GET"}}},
		{"Action": "allow", "HTTP": object{"PathExact": "/write", "Header": []object{{"Name": "x-key", "Exact": "k"}}}},
	}}}})
	l.everywhere("/admin/x", statusIs(http.StatusForbidden))
	l.is(statusIs(200), "GET", "/x")
	l.is(because("rbac_denied"), "GET", "/admin")
	l.is(statusIs(403), "GET", "/x/../admin")
	l.is(statusIs(403), "POST", "/write")
	l.is(statusIs(200), "POST", "/write", "x-key: k")
	l.is(statusIs(403), "POST", "/other", "x-key: k")
}

func protectHosts(t *testing.T, w *World) {
	l := w.traffic(t)
	l.rules(object{"Sources": []object{{"Name": l.name("web"), "Permissions": []object{
		{"Action": "deny", "HTTP": object{"Hosts": []string{"admin.shop", "*.internal.shop"}}},
		{"Action": "allow", "HTTP": object{"PathPrefix": "/"}, "Not": object{"PathPrefix": "/private", "Header": []object{{"Name": "x-key", "Exact": "k", "Invert": true}}}},
		{"Action": "allow", "HTTP": object{"PathExact": "/private/open"}},
	}}}})
	l.everywhere("/", statusIs(403), ":authority: admin.shop")
	for _, host := range []string{"admin.shop:8080", "ADMIN.shop", "admin.shop.", "a.b.internal.shop"} {
		l.is(statusIs(403), "GET", "/", ":authority: "+host)
	}
	for _, host := range []string{"api.shop", "my-admin.shop", "internal.shop", "admin.shop.example"} {
		l.is(statusIs(200), "GET", "/", ":authority: "+host)
	}
	l.is(statusIs(403), "GET", "/private/x", "x-key: other")
	l.is(statusIs(200), "GET", "/private/x", "x-key: k")
	l.is(statusIs(200), "GET", "/private/open", "x-key: other")
	l.is(statusIs(200), "GET", "/public", "x-key: other")
}

// issuer signs tokens.
type issuer struct{ key *ecdsa.PrivateKey }

func newIssuer(t *testing.T) issuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return issuer{key}
}

func (i issuer) keys(t *testing.T) string {
	t.Helper()
	point, err := i.key.PublicKey.Bytes() // 4, x, y
	if err != nil {
		t.Fatal(err)
	}
	b := base64.RawURLEncoding.EncodeToString
	set, err := json.Marshal(object{"keys": []object{{"kty": "EC", "crv": "P-256", "alg": "ES256", "kid": "one", "use": "sig", "x": b(point[1:33]), "y": b(point[33:])}}})
	if err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(set)
}

func (i issuer) token(t *testing.T, claims object) string {
	t.Helper()
	part := func(v object) string {
		data, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(data)
	}
	text := part(object{"alg": "ES256", "kid": "one", "typ": "JWT"}) + "." + part(claims)
	sum := sha256.Sum256([]byte(text))
	r, s, err := ecdsa.Sign(rand.Reader, i.key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	var signature [64]byte
	r.FillBytes(signature[:32])
	s.FillBytes(signature[32:])
	return text + "." + base64.RawURLEncoding.EncodeToString(signature[:])
}

func protectTokens(t *testing.T, w *World) {
	l := w.traffic(t)
	ours, theirs := newIssuer(t), newIssuer(t)
	l.entry("jwt-provider", "sso", object{"Issuer": "https://sso.example", "Audiences": []string{"shop"}, "JSONWebKeySet": object{"Local": object{"JWKS": ours.keys(t)}}})
	provider := object{"Providers": []object{{"Name": l.name("sso"), "VerifyClaims": []object{{"Path": []string{"perms", "role"}, "Value": "admin"}}}}}
	l.rules(object{
		"JWT": object{"Providers": []object{{"Name": l.name("sso")}}},
		"Sources": []object{{"Name": l.name("web"), "Permissions": []object{
			{"Action": "allow", "HTTP": object{"PathPrefix": "/admin"}, "JWT": provider},
			{"Action": "deny", "HTTP": object{"PathPrefix": "/admin"}},
			{"Action": "allow", "HTTP": object{"PathPrefix": "/"}},
		}}},
	})
	claims := func(change object) object {
		c := object{"iss": "https://sso.example", "aud": "shop", "exp": time.Now().Add(time.Hour).Unix(), "perms": object{"role": []string{"user", "admin"}}}
		for k, v := range change {
			c[k] = v
		}
		return c
	}
	bearer := func(i issuer, c object) string { return "Authorization: Bearer " + i.token(t, c) }
	good := bearer(ours, claims(nil))
	l.everywhere("/x", statusIs(403))
	l.everywhere("/admin", statusIs(200), good)
	l.is(statusIs(200), "GET", "/x", good)
	user := bearer(ours, claims(object{"perms": object{"role": "user"}}))
	l.is(statusIs(200), "GET", "/x", user)
	l.is(statusIs(403), "GET", "/admin", user)
	endless := claims(nil)
	delete(endless, "exp")
	for name, header := range map[string]string{
		"no token": "x: y", "without an end": bearer(ours, endless), "another's token": bearer(theirs, claims(nil)), "past": bearer(ours, claims(object{"exp": time.Now().Add(-time.Hour).Unix()})),
		"other audience": bearer(ours, claims(object{"aud": "bank"})), "other issuer": bearer(ours, claims(object{"iss": "https://evil.example"})),
		"unsigned": "Authorization: Bearer " + base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." + strings.Split(good, ".")[1] + ".",
		"changed":  good[:len(good)-4] + "AAAA",
	} {
		g, err := l.call("GET", "/x", header)
		if err != nil || g.Status != http.StatusForbidden {
			t.Errorf("%s: %d %v, want 403", name, g.Status, err)
		}
	}
}

// protectClaims: the application gets claims in headers, which nobody can forge; a scope is a list; a wrong token is an error, none isn't.
func protectClaims(t *testing.T, w *World) {
	l := w.traffic(t)
	ours, theirs := newIssuer(t), newIssuer(t)
	l.entry("jwt-provider", "claims", object{
		"Issuer": "https://sso.example", "JSONWebKeySet": object{"Local": object{"JWKS": ours.keys(t)}}, "RefuseInvalid": true,
		"SpaceDelimitedClaims": []string{"scope"}, "Forwarding": object{"HeaderName": "x-payload"}, "Locations": []object{
			{"Header": object{"Name": "authorization", "ValuePrefix": "Bearer "}}, {"Cookie": object{"Name": "session"}},
		},
		"ClaimHeaders": []object{{"Claim": "sub", "Header": "x-user"}, {"Claim": "org.id", "Header": "x-org"}, {"Claim": "groups", "Header": "x-groups"}},
	})
	write := object{"Providers": []object{{"Name": l.name("claims"), "VerifyClaims": []object{{"Path": []string{"scope"}, "Value": "write"}}}}}
	l.rules(object{"Sources": []object{{"Name": l.name("web"), "Permissions": []object{
		{"Action": "allow", "HTTP": object{"PathPrefix": "/write"}, "JWT": write},
		{"Action": "deny", "HTTP": object{"PathPrefix": "/write"}},
		{"Action": "allow", "HTTP": object{"PathPrefix": "/"}},
	}}}})
	claims := object{
		"iss": "https://sso.example", "exp": time.Now().Add(time.Hour).Unix(), "sub": "anna", "org": object{"id": 7},
		"groups": []string{"a", "b"}, "scope": "read write",
	}
	good := ours.token(t, claims)
	l.everywhere("/write", statusIs(403))
	l.everywhere("/write", statusIs(200), "Authorization: Bearer "+good)
	l.is(statusIs(200), "GET", "/write", "Cookie: a=b; session="+good)
	headers := func(want map[string]string) func(got) error {
		return func(g got) error {
			for h, v := range want {
				if have := g.Seen.Header.Get(h); have != v {
					return fmt.Errorf("status %d, the application got %s %q, want %q", g.Status, h, have, v)
				}
			}
			return statusIs(200)(g)
		}
	}
	groups := base64.RawURLEncoding.EncodeToString([]byte(`["a","b"]`))
	l.is(headers(map[string]string{"X-User": "anna", "X-Org": "7", "X-Groups": groups}), "GET", "/", "Authorization: Bearer "+good, "x-user: root")
	l.is(headers(map[string]string{"X-User": "", "X-Org": "", "X-Payload": ""}), "GET", "/", "x-user: root", "x-org: 1", "x-payload: e30")
	claims["scope"] = "read writer"
	l.is(statusIs(403), "GET", "/write", "Authorization: Bearer "+ours.token(t, claims))
	for name, token := range map[string]string{"another's key": theirs.token(t, claims), "no token": "abc"} {
		g, err := l.call("GET", "/", "Authorization: Bearer "+token)
		if err != nil || g.Status != http.StatusUnauthorized || g.Header.Get("X-Weft-Reason") != "token_invalid" {
			t.Errorf("%s: %d %q %v, want 401", name, g.Status, g.Header.Get("X-Weft-Reason"), err)
		}
	}
	// A second issuer: a token is right for one of the two.
	l.entry("jwt-provider", "second", object{"Issuer": "https://other.example", "JSONWebKeySet": object{"Local": object{"JWKS": theirs.keys(t)}}, "RefuseInvalid": true})
	l.rules(object{"Sources": []object{{"Name": l.name("web"), "Permissions": []object{
		{"Action": "allow", "HTTP": object{"PathPrefix": "/"}, "JWT": object{"Providers": []object{{"Name": l.name("claims")}, {"Name": l.name("second")}}}},
	}}}})
	claims["iss"] = "https://other.example"
	l.everywhere("/", statusIs(200), "Authorization: Bearer "+theirs.token(t, claims))
	l.is(statusIs(200), "GET", "/", "Authorization: Bearer "+good)
	l.is(statusIs(401), "GET", "/", "Authorization: Bearer "+ours.token(t, claims))
	l.is(statusIs(403), "GET", "/")
}

// protectFetched: keys come from a server of the issuer's, anew now and then; those in the entry count beside them.
func protectFetched(t *testing.T, w *World) {
	l := w.traffic(t)
	own, first, second := newIssuer(t), newIssuer(t), newIssuer(t)
	var serves atomic.Pointer[string] // nil: it fails
	serve := func(i issuer) {
		set, err := base64.StdEncoding.DecodeString(i.keys(t))
		if err != nil {
			t.Fatal(err)
		}
		text := string(set)
		serves.Store(&text)
	}
	serve(first)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if set := serves.Load(); set != nil {
			_, _ = io.WriteString(w, *set)
			return
		}
		w.WriteHeader(http.StatusInternalServerError)
	})}
	go func() { _ = s.Serve(ln) }() // ends with Close
	t.Cleanup(func() { _ = s.Close() })
	l.entry("jwt-provider", "fetched", object{"Issuer": "https://sso.example", "JSONWebKeySet": object{
		"Local":  object{"JWKS": own.keys(t)},
		"Remote": object{"URI": "http://" + ln.Addr().String() + "/keys", "CacheDuration": "1s"},
	}})
	l.rules(object{"JWT": object{"Providers": []object{{"Name": l.name("fetched")}}}, "Sources": []object{{"Name": l.name("web"), "Action": "allow"}}})
	bearer := func(i issuer) string {
		return "Authorization: Bearer " + i.token(t, object{"iss": "https://sso.example", "exp": time.Now().Add(time.Hour).Unix()})
	}
	l.everywhere("/", statusIs(403))
	l.everywhere("/", statusIs(200), bearer(first))
	l.everywhere("/", statusIs(200), bearer(own))
	l.is(statusIs(403), "GET", "/", bearer(second))
	serve(second)
	l.everywhere("/", statusIs(200), bearer(second))
	l.everywhere("/", statusIs(403), bearer(first))
	serves.Store(nil) // what was fetched stays, and what stands in the entry
	until(t, 10*time.Second, after(3*time.Second))
	l.everywhere("/", statusIs(200), bearer(second))
	l.everywhere("/", statusIs(200), bearer(own))
}

// after succeeds when so much time has passed.
func after(d time.Duration) func() error {
	end := time.Now().Add(d)
	return func() error {
		if left := time.Until(end); left > 0 {
			return fmt.Errorf("%s are left", left)
		}
		return nil
	}
}

func protectAudit(t *testing.T, w *World) {
	l := w.traffic(t)
	deny := []object{{"Name": l.name("web"), "Action": "deny"}}
	l.rules(object{"Sources": deny})
	l.everywhere("/", statusIs(403))
	l.rules(object{"Sources": deny, "Mode": "audit"})
	l.everywhere("/", statusIs(200))
	l.rules(object{"Sources": deny})
	l.everywhere("/", statusIs(403))
}
