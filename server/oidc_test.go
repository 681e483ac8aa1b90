// SPDX-License-Identifier: Apache-2.0

package server

import (
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/weftmesh/weft/server/login/logintest"
)

// People log in by a provider, with Consul's routes: binding rules see their claims, the token ends when the method says; a state in clear, which no
// server sealed, is of no login.
func TestOIDCLogin(t *testing.T) {
	const redirect = "http://localhost:8550/oidc/callback"
	p, err := logintest.New("weft", "canary-of-oidc", time.Now, redirect)
	if err != nil {
		t.Fatal(err)
	}
	p.Claims = map[string]any{"sub": "alice", "groups": []string{"Payments", "ops"}}
	web := httptest.NewTLSServer(p)
	defer web.Close()
	p.At(web.URL)
	r := startWith(t, Config{ACL: ACLConfig{Enabled: true, InitialManagement: rootSecret}})
	body := func(v any) string {
		data, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	method := map[string]any{"Name": "Corp", "Type": "oidc", "MaxTokenTTL": "1h", "TokenNameFormat": "${auth_method_name}: ${value.name}${value.mail}", "Config": map[string]any{
		"OIDCDiscoveryURL": web.URL, "OIDCDiscoveryCACert": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: web.Certificate().Raw})),
		"OIDCClientID": "weft", "OIDCClientSecret": "canary-of-oidc", "AllowedRedirectURIs": []string{redirect},
		"ClaimMappings": map[string]string{"sub": "name", "email": "mail"}, "ListClaimMappings": map[string]string{"groups": "groups"}, "OIDCClientAssertion": nil, "JWKSURL": "",
	}}
	r.as(rootSecret, "PUT", "/v1/acl/auth-method", body(method), 200, "canary-of-oidc")
	begin := func(meta map[string]string) (state, code string) {
		t.Helper()
		var to struct{ AuthURL string }
		answer := r.as("", "POST", "/v1/acl/oidc/auth-url", body(map[string]any{"AuthMethod": "corp", "RedirectURI": redirect, "ClientNonce": "n", "Meta": meta}), 200, "AuthURL")
		if err := json.Unmarshal([]byte(answer), &to); err != nil {
			t.Fatal(err)
		}
		browser := web.Client()
		browser.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
		resp, err := browser.Get(to.AuthURL) //nolint:noctx // the test's own
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close() //nolint:errcheck // nothing was written
		back, err := resp.Location()
		if err != nil {
			t.Fatal(err)
		}
		return back.Query().Get("state"), back.Query().Get("code")
	}
	end := func(state, code string, status int, want string) string {
		t.Helper()
		return r.as("", "POST", "/v1/acl/oidc/callback", body(map[string]any{"AuthMethod": "corp", "State": state, "Code": code, "ClientNonce": "n"}), status, want)
	}
	state, code := begin(nil)
	end(state, code, 403, "Permission denied") // nobody is granted anything yet
	r.as(rootSecret, "PUT", "/v1/acl/binding-rule", `{"AuthMethod":"corp","BindType":"service","BindName":"${value.name}-app","Selector":"\"Payments\" in list.groups"}`, 200, "ID")
	state, code = begin(map[string]string{"host": "laptop"})
	text := end(state, code, 200, `"ServiceName":"alice-app"`)
	var token struct {
		Name, Description, AuthMethod, SecretID, AccessorID string
		Local                                               bool
		CreateTime, ExpirationTime                          time.Time
	}
	if err := json.Unmarshal([]byte(text), &token); err != nil {
		t.Fatal(err)
	}
	if token.Description != `token created via OIDC login: {"host":"laptop"}` || token.AuthMethod != "Corp" || !token.Local || token.ExpirationTime.Sub(token.CreateTime).Round(time.Minute) != time.Hour {
		t.Errorf("%s", text)
	}
	r.as(token.SecretID, "GET", "/v1/acl/token/self", "", 200, "alice-app")
	if token.Name != "Corp: alice" { // there is no address
		t.Errorf("its name is %q", token.Name)
	}
	r.as(rootSecret, "PUT", "/v1/acl/token/"+token.AccessorID, `{"Description":"kept by a client that knows no names","ServiceIdentities":[{"ServiceName":"alice-app"}],"Local":true}`, 200, `"Name":"Corp: alice"`)
	for key, want := range map[string]string{
		"TokenNameFormat": "there is no ${value.team}: want some of ${auth_method_type}, ${auth_method_name}, ${value.mail}, ${value.name}", "MaxTokenTTL": "MaxTokenTTL is required",
	} {
		changed := maps.Clone(method)
		changed[key] = map[string]string{"TokenNameFormat": "${value.team}", "MaxTokenTTL": ""}[key]
		r.as(rootSecret, "PUT", "/v1/acl/auth-method/corp", body(changed), 500, want)
	}
	end(state, code, 403, "done before: begin again")
	clear := base64.RawURLEncoding.EncodeToString([]byte(body(map[string]any{"s": make([]byte, 16), "r": redirect, "e": time.Now().Add(time.Hour).Unix()})))
	end(clear, "c", 403, "of no login that was begun here")
	r.as("", "POST", "/v1/acl/oidc/auth-url", `{"AuthMethod":"corp","RedirectURI":"https://evil.example/"}`, 403, "AllowedRedirectURIs")
	r.as("", "POST", "/v1/acl/oidc/auth-url", `{"AuthMethod":"none","RedirectURI":"x"}`, 403, "ACL not found")
	r.as("", "POST", "/v1/acl/login", `{"AuthMethod":"corp","BearerToken":"x"}`, 403, "weft login -type oidc")
	r.as(token.SecretID, "POST", "/v1/acl/logout", "", 200, "true")
	o, err := r.store.Read().ACL("auth-method", "corp")
	if secret, _ := o.AuthMethod.Config["OIDCClientSecret"].(string); err != nil || !strings.HasPrefix(secret, sealedText) {
		t.Error("the client's secret isn't sealed in the log", err)
	}
}
