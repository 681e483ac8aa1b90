// SPDX-License-Identifier: Apache-2.0

package login

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/internal/seal"
	"github.com/weftmesh/weft/server/login/logintest"
	"github.com/weftmesh/weft/server/rest"
)

const here = "http://localhost:8550/oidc/callback"

// desk is a provider with a method for it.
type desk struct {
	*testing.T
	p      *logintest.Provider
	web    *httptest.Server
	m      *Methods
	method *catalog.ACLAuthMethod
	at     time.Time
	log    bytes.Buffer
}

func newDesk(t *testing.T, config map[string]any) *desk {
	t.Helper()
	d := &desk{T: t, at: now}
	var err error
	if d.p, err = logintest.New("weft", "s3:cr t", func() time.Time { return d.at }, here, "http://localhost:9999/oidc/callback"); err != nil {
		t.Fatal(err)
	}
	d.web = httptest.NewTLSServer(d.p)
	t.Cleanup(d.web.Close)
	d.p.At(d.web.URL)
	d.m = d.methods(seal.Key{1})
	all := catalog.Opaque{
		"OIDCDiscoveryURL": d.web.URL, "OIDCDiscoveryCACert": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: d.web.Certificate().Raw})),
		"OIDCClientID": "weft", "OIDCClientSecret": "s3:cr t", "OIDCScopes": []any{"groups", "openid"}, "AllowedRedirectURIs": []any{here},
		"ClaimMappings": map[string]any{"sub": "name"}, "ListClaimMappings": map[string]any{"groups": "groups"},
	}
	for k, v := range config {
		if all[k] = v; v == nil {
			delete(all, k)
		}
	}
	d.method = &catalog.ACLAuthMethod{Name: "corp", Type: "oidc", Config: all}
	if err := Validate(d.method); err != nil {
		t.Fatal(err)
	}
	return d
}

// methods are those of a server with a key.
func (d *desk) methods(key seal.Key) *Methods {
	return New(Config{
		Now: func() time.Time { return d.at }, Rand: rand.Reader, Log: slog.New(slog.NewTextHandler(&d.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Seal: func(purpose string, data []byte) ([]byte, error) { return key.Seal(purpose, data, rand.Reader) },
		Open: func(purpose string, data []byte) ([]byte, error) {
			return seal.Open(func(id string) (seal.Key, bool) { return key, id == key.ID() }, purpose, data)
		},
	})
}

// browse begins a login, and has a browser go to the provider and as far as it is sent back.
func (d *desk) browse(start rest.LoginStart) rest.LoginEnd {
	d.Helper()
	to, err := d.m.AuthURL(d.Context(), d.method, start)
	if err != nil {
		d.Fatal(err)
	}
	browser := d.web.Client()
	browser.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	resp, err := browser.Get(to) //nolint:noctx // the test's own
	if err != nil {
		d.Fatal(err)
	}
	resp.Body.Close() //nolint:errcheck // nothing was written
	back, err := resp.Location()
	if err != nil {
		d.Fatalf("%s: %v", resp.Status, err)
	}
	if got := back.Scheme + "://" + back.Host + back.Path; got != start.RedirectURI {
		d.Fatalf("sent to %s", got)
	}
	q := back.Query()
	return rest.LoginEnd{State: q.Get("state"), Code: q.Get("code"), ClientNonce: start.ClientNonce}
}

func (d *desk) login() (*rest.Bearer, error) {
	d.Helper()
	who, _, err := d.m.Callback(d.Context(), d.method, d.browse(rest.LoginStart{RedirectURI: here, ClientNonce: "mine"}))
	return who, err
}

func (d *desk) refused(err error, want string) {
	d.Helper()
	if err == nil || !strings.Contains(err.Error(), want) {
		d.Errorf("%v, want %q", err, want)
	}
}

func TestOIDC(t *testing.T) {
	d := newDesk(t, map[string]any{"VerboseOIDCLogging": true, "OIDCACRValues": []any{"mfa"}})
	d.p.Claims = map[string]any{"sub": "alice", "groups": []string{"dev", "ops"}}
	end := d.browse(rest.LoginStart{RedirectURI: here, ClientNonce: "mine", Meta: map[string]string{"pod": "a"}})
	who, meta, err := d.m.Callback(t.Context(), d.method, end)
	if err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(who.Fields, who.Vars, meta) != "map[list:map[groups:[dev ops]] value:map[name:alice]] map[value.name:alice] map[pod:a]" {
		t.Error(who, meta)
	}
	if log := d.log.String(); !strings.Contains(log, "alice") || strings.Contains(log, end.Code) {
		t.Errorf("the log has no claims, or more than them: %s", log)
	}
	for _, path := range d.p.Asked() {
		if path == "/userinfo" {
			t.Error("userinfo was asked for what the ID token says")
		}
	}
	// What only userinfo knows comes from there, about the same person.
	d.p.Claims, d.p.Info = map[string]any{"sub": "bob"}, map[string]any{"groups": []string{"dev"}}
	if who, err = d.login(); err != nil || fmt.Sprint(who.Fields) != "map[list:map[groups:[dev]] value:map[name:bob]]" {
		t.Error(who, err)
	}
	d.p.Info["sub"] = "alice"
	_, err = d.login()
	d.refused(err, "somebody else")
	// The provider's other port is as good as the one that is allowed; another host isn't.
	if got := d.browse(rest.LoginStart{RedirectURI: "http://localhost:9999/oidc/callback"}); got.Code == "" {
		t.Error("no code")
	}
	for _, elsewhere := range []string{"", "http://localhost:8550/other", "http://127.0.0.1:8550/oidc/callback", "http://localhost.evil:8550/oidc/callback", "http://localhost:8550@evil/oidc/callback", here + "?x=1", "https://localhost:8550/oidc/callback"} {
		_, err := d.m.AuthURL(t.Context(), d.method, rest.LoginStart{RedirectURI: elsewhere})
		d.refused(err, "AllowedRedirectURIs")
	}
	_, err = d.m.AuthURL(t.Context(), d.method, rest.LoginStart{RedirectURI: here, Meta: map[string]string{"x": strings.Repeat("y", 600)}})
	d.refused(err, "Meta")
	_, err = d.m.Verify(t.Context(), d.method, "x")
	d.refused(err, "weft login -type oidc")
	_, err = d.m.AuthURL(t.Context(), &catalog.ACLAuthMethod{Type: "jwt"}, rest.LoginStart{})
	d.refused(err, "is of type jwt")
}

// A public client has no secret; PKCE alone says that the code is its own.
func TestPublicClient(t *testing.T) {
	d := newDesk(t, map[string]any{"OIDCClientSecret": nil})
	d.p.Secret = ""
	if _, err := d.login(); err != nil {
		t.Error(err)
	}
	d.p.Secret = "one after all"
	_, err := d.login()
	d.refused(err, "invalid_client")
}

// TestC37_C38_C41_WhatAProviderSays: an ID token is believed if the provider's key signed it, for this client, this login and this time. The control is
// the same token without the trick.
func TestC37_C38_C41_WhatAProviderSays(t *testing.T) {
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	set := func(claim string, v any) func(map[string]any) {
		return func(c map[string]any) {
			if c[claim] = v; v == nil {
				delete(c, claim)
			}
		}
	}
	unsigned := func(head string) func(map[string]any) string {
		return func(c map[string]any) string {
			data, _ := json.Marshal(c)
			return base64.RawURLEncoding.EncodeToString([]byte(head)) + "." + base64.RawURLEncoding.EncodeToString(data) + "."
		}
	}
	d := newDesk(t, nil)
	der, _ := x509.MarshalPKIXPublicKey(d.p.Key.Public())
	public := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	for name, c := range map[string]struct {
		lie   func(map[string]any)
		forge func(map[string]any) string
		want  string
	}{
		"alg none":      {nil, unsigned(`{"alg":"none"}`), "isn't a JWT with a signature that is taken"},
		"alg None":      {nil, unsigned(`{"alg":"None","kid":"k1"}`), "isn't a JWT with a signature that is taken"},
		"shared secret": {nil, func(c map[string]any) string { return logintest.Sign(public, jose.HS256, c) }, "isn't a JWT with a signature that is taken"},
		"client's secret": {nil, func(c map[string]any) string {
			return logintest.Sign([]byte(strings.Repeat("s3:cr t", 5)), jose.HS256, c)
		}, "isn't a JWT with a signature that is taken"},
		"another key":         {nil, func(c map[string]any) string { return logintest.Sign(other, jose.RS256, c) }, "no key verifies"},
		"dots":                {nil, func(map[string]any) string { return strings.Repeat(".", 1<<19) }, "isn't a JWT"},
		"no token":            {nil, func(map[string]any) string { return "" }, "no ID token"},
		"another issuer":      {set("iss", "https://other"), nil, "another issuer"},
		"no issuer":           {set("iss", nil), nil, "another issuer"},
		"another client":      {set("aud", "other"), nil, "for another client"},
		"no audience":         {set("aud", nil), nil, "for another client"},
		"given to another":    {func(c map[string]any) { c["aud"], c["azp"] = []string{"weft", "other"}, "other" }, nil, "given to another client"},
		"who knows to whom":   {set("aud", []string{"weft", "other"}), nil, "given to another client"},
		"another nonce":       {set("nonce", "x"), nil, "of another login"},
		"no nonce":            {set("nonce", nil), nil, "of another login"},
		"a nonce of a number": {set("nonce", 1), nil, "of another login"},
		"over":                {set("exp", now.Add(-time.Hour).Unix()), nil, "time is over"},
		"no end":              {set("exp", nil), nil, "never ends"},
		"not yet":             {set("nbf", now.Add(time.Hour).Unix()), nil, "isn't good yet"},
		"from the future":     {set("iat", now.Add(time.Hour).Unix()), nil, "from the future"},
		"nobody":              {set("sub", nil), nil, "of nobody"},
	} {
		t.Run(name, func(t *testing.T) {
			d.T, d.p.Lie, d.p.Forge = t, nil, nil
			if _, err := d.login(); err != nil {
				t.Fatal("the control:", err)
			}
			d.p.Lie, d.p.Forge = c.lie, c.forge
			_, err := d.login()
			d.refused(err, c.want)
		})
	}
	d.T, d.p.Forge = t, nil
	d.p.Lie = func(c map[string]any) { c["aud"], c["azp"] = []string{"weft", "mesh"}, "weft" }
	if _, err := d.login(); err != nil {
		t.Error("the control: several audiences, given to this client:", err)
	}
	bound := newDesk(t, map[string]any{"BoundAudiences": []any{"mesh"}})
	_, err = bound.login()
	bound.refused(err, "BoundAudiences")
	bound.p.Lie = d.p.Lie
	if _, err := bound.login(); err != nil {
		t.Error("the control: bound to an audience that is there:", err)
	}
}

// A login is of who began it, ends once, in its time, with the method that it was begun with; on any server.
func TestALoginIsOfOne(t *testing.T) {
	d := newDesk(t, nil)
	start := rest.LoginStart{RedirectURI: here, ClientNonce: "mine"}
	end := d.browse(start)
	try := func(m *Methods, method *catalog.ACLAuthMethod, end rest.LoginEnd, want string) {
		t.Helper()
		_, _, err := m.Callback(t.Context(), method, end)
		if want == "" && err == nil {
			return
		}
		d.refused(err, want)
	}
	try(d.m, d.method, rest.LoginEnd{State: end.State, Code: end.Code, ClientNonce: "another's"}, "ClientNonce")
	try(d.m, d.method, rest.LoginEnd{State: end.State, Code: end.Code}, "ClientNonce")
	try(d.m, d.method, rest.LoginEnd{State: end.State, ClientNonce: "mine"}, "a Code")
	changed := []byte(end.State)
	changed[60] ^= 'A' ^ 'B' // another letter
	try(d.m, d.method, rest.LoginEnd{State: string(changed), Code: end.Code, ClientNonce: "mine"}, "no login")
	other := *d.method
	other.Name = "other"
	try(d.m, &other, end, "no login")
	try(d.methods(seal.Key{2}), d.method, end, "no login") // of another cluster
	try(d.methods(seal.Key{1}), d.method, end, "")         // another server of this one, to which the browser came
	try(d.m, d.method, end, "invalid_grant")               // the provider takes no code twice
	again := d.browse(start)
	try(d.m, d.method, rest.LoginEnd{State: again.State, Code: "made up", ClientNonce: "mine"}, "invalid_grant")
	try(d.m, d.method, again, "")
	code := d.browse(start).Code // a code of another login of the same person
	try(d.m, d.method, rest.LoginEnd{State: again.State, Code: code, ClientNonce: "mine"}, "done before")
	fresh := d.browse(start)
	try(d.m, d.method, rest.LoginEnd{State: fresh.State, Code: d.browse(start).Code, ClientNonce: "mine"}, "invalid_grant") // PKCE
	late := d.browse(start)
	d.at = d.at.Add(loginLife)
	try(d.m, d.method, late, "took longer than")
	inTime := d.browse(start)
	d.at = d.at.Add(30 * time.Second)
	try(d.m, d.method, inTime, "")
	gone := d.browse(start)
	d.method.Config["AllowedRedirectURIs"] = []any{"https://ui/callback"}
	try(d.m, d.method, gone, "no longer among")
}

// TestBeginningsTakeNoMemory: whoever begins logins and ends none has a server keep nothing, and ask the provider nothing more.
func TestBeginningsTakeNoMemory(t *testing.T) {
	d := newDesk(t, nil)
	for range 5000 {
		if _, err := d.m.AuthURL(t.Context(), d.method, rest.LoginStart{RedirectURI: here}); err != nil {
			t.Fatal(err)
		}
	}
	end := d.browse(rest.LoginStart{RedirectURI: here})
	for range 50 {
		if _, _, err := d.m.Callback(t.Context(), d.method, rest.LoginEnd{State: end.State, Code: "made up"}); err == nil {
			t.Fatal("it was taken")
		}
	}
	if n := len(d.m.used.until); n != 0 || len(d.m.busy[typeOIDC]) != 0 {
		t.Errorf("%d logins are remembered", n)
	}
	if n := strings.Count(strings.Join(d.p.Asked(), "\n"), "openid-configuration"); n != 1 {
		t.Errorf("the provider was discovered %d times", n)
	}
	for range usedMax {
		if err := d.m.used.take(rand.Text(), d.at.Add(loginLife), d.at); err != nil {
			t.Fatal(err)
		}
	}
	_, _, err := d.m.Callback(t.Context(), d.method, end)
	d.refused(err, "too many logins")
	d.at = d.at.Add(loginLife)
	if _, err := d.login(); err != nil || len(d.m.used.until) != 1 {
		t.Error("what is over isn't forgotten:", err, len(d.m.used.until))
	}
	for range atOnce {
		d.m.busy[typeOIDC] <- struct{}{}
	}
	_, err = d.m.AuthURL(t.Context(), d.method, rest.LoginStart{RedirectURI: here})
	d.refused(err, "too many logins")
}

// TestC117_AProviderLeadsNowhere: what a provider answers doesn't send a server elsewhere, least of all with the client's secret or in plain text.
func TestC117_AProviderLeadsNowhere(t *testing.T) {
	asked := 0
	inside := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		_, _ = w.Write([]byte(`{"id_token":"x"}`))
	}))
	defer inside.Close()
	for _, path := range []string{"/token", "/keys", "/userinfo", "/.well-known/openid-configuration"} {
		for _, code := range []int{http.StatusFound, http.StatusTemporaryRedirect} {
			d := newDesk(t, nil)
			if _, err := d.login(); err != nil {
				t.Fatal("the control:", err)
			}
			at := d.at
			d.p.Meddle = func(w http.ResponseWriter, r *http.Request) bool {
				if r.URL.Path == path {
					http.Redirect(w, r, inside.URL+"/latest/meta-data", code)
				}
				return r.URL.Path == path
			}
			end := rest.LoginEnd{}
			if path != "/keys" && path != "/.well-known/openid-configuration" {
				end = d.browse(rest.LoginStart{RedirectURI: here})
			}
			d.at = at.Add(keysLife) // the document and the keys are asked for again
			var err error
			if end.Code == "" {
				_, err = d.m.AuthURL(t.Context(), d.method, rest.LoginStart{RedirectURI: here})
			} else {
				d.at = at
				_, _, err = d.m.Callback(t.Context(), d.method, end)
			}
			if err == nil || asked > 0 {
				t.Errorf("%s %d: %v, asked elsewhere %d times", path, code, err, asked)
			}
		}
	}
	d := newDesk(t, nil)
	d.p.Meddle = func(w http.ResponseWriter, r *http.Request) bool {
		_, _ = fmt.Fprintf(w, `{"issuer":%q,"authorization_endpoint":"https://x/","token_endpoint":"http://169.254.169.254/token","jwks_uri":"https://x/"}`, d.web.URL)
		return true
	}
	_, err := d.m.AuthURL(context.Background(), d.method, rest.LoginStart{RedirectURI: here})
	d.refused(err, "token_endpoint must begin with https://")
}

func TestOIDCConfigsAreValidated(t *testing.T) {
	whole := func(change map[string]any) *catalog.ACLAuthMethod {
		c := catalog.Opaque{"OIDCDiscoveryURL": "https://idp", "OIDCClientID": "weft", "OIDCClientSecret": "s", "AllowedRedirectURIs": []any{here}}
		for k, v := range change {
			c[k] = v
		}
		return &catalog.ACLAuthMethod{Name: "o", Type: "oidc", Config: c}
	}
	// What Consul's own library sends has the keys of both types.
	if err := Validate(whole(map[string]any{
		"JWKSURL": "", "JWKSCACert": "", "JWTValidationPubKeys": nil, "BoundIssuer": "", "OIDCClientAssertion": nil, "OIDCClientUsePKCE": nil, "ClockSkewLeeway": 0,
		"ExpirationLeeway": 0, "NotBeforeLeeway": 0, "OIDCACRValues": nil, "VerboseOIDCLogging": false, "BoundAudiences": nil, "ClaimMappings": nil,
	})); err != nil {
		t.Error(err)
	}
	for want, m := range map[string]*catalog.ACLAuthMethod{
		"Config.OIDCDiscoveryURL must begin": whole(map[string]any{"OIDCDiscoveryURL": "http://idp"}),
		"Config.OIDCDiscoveryURL must":       whole(map[string]any{"OIDCDiscoveryURL": "http://127.0.0.1.evil.example"}),
		"Config.OIDCDiscoveryURL is":         whole(map[string]any{"OIDCDiscoveryURL": ""}),
		"Config.OIDCClientID":                whole(map[string]any{"OIDCClientID": ""}),
		"Config.OIDCClientAssertion wants":   whole(map[string]any{"OIDCClientAssertion": map[string]any{"Audience": []any{"x"}}}),
		"Config.OIDCClientUsePKCE":           whole(map[string]any{"OIDCClientSecret": "", "OIDCClientUsePKCE": false}),
		"Config.AllowedRedirectURIs is":      whole(map[string]any{"AllowedRedirectURIs": []any{}}),
		"Config.AllowedRedirectURIs[0]":      whole(map[string]any{"AllowedRedirectURIs": []any{"http://example.com/cb"}}),
		"Config.AllowedRedirectURIs[1]":      whole(map[string]any{"AllowedRedirectURIs": []any{here, "javascript:alert(1)"}}),
		"of methods of type jwt":             whole(map[string]any{"JWKSURL": "https://idp/keys"}),
		"isn't taken":                        whole(map[string]any{"JWTSupportedAlgs": []any{"HS256"}}),
		"of methods of type oidc":            {Type: "jwt", Config: catalog.Opaque{"OIDCDiscoveryURL": "https://idp", "OIDCClientID": "x"}},
	} {
		if err := Validate(m); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}
