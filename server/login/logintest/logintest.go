// SPDX-License-Identifier: Apache-2.0

// Package logintest is a small OpenID Connect provider for tests: discovery, the authorization code flow with PKCE, keys and userinfo. It
// checks what a provider has to check, and can be told to lie. It owns no goroutine.
package logintest

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// Provider is one with one client and one person, who is logged in already. It is an http.Handler.
type Provider struct {
	Client, Secret string // an empty Secret is a public client's
	Redirects      []string
	Now            func() time.Time
	Key            *rsa.PrivateKey
	// Proof is the key by which the client signs who it is (RFC 7523): a public key, or a shared secret as bytes. nil where it sends a secret.
	Proof any
	// Claims are what is known of the person; "sub" must be there. Info is what only userinfo tells.
	Claims, Info map[string]any

	// Lie changes an ID token's claims before it is signed; Forge signs in its own way.
	Lie   func(map[string]any)
	Forge func(claims map[string]any) string
	// Meddle may answer a request in the provider's place.
	Meddle func(http.ResponseWriter, *http.Request) bool

	mu     sync.Mutex
	issuer string
	codes  map[string]grant
	access map[string]bool
	asked  []string
	proofs map[string]bool
}

type grant struct {
	redirect, challenge, nonce string
	ends                       time.Time
}

// New makes a provider for a client.
func New(client, secret string, now func() time.Time, redirects ...string) (*Provider, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	return &Provider{
		Client: client, Secret: secret, Now: now, Redirects: redirects, Key: key, Claims: map[string]any{"sub": "alice"},
		codes: map[string]grant{}, access: map[string]bool{}, proofs: map[string]bool{},
	}, err
}

// At says where the provider is served.
func (p *Provider) At(issuer string) {
	p.mu.Lock()
	p.issuer = issuer
	p.mu.Unlock()
}

// Asked are the paths of the requests until now.
func (p *Provider) Asked() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.asked)
}

// ServeHTTP implements http.Handler.
func (p *Provider) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	p.asked = append(p.asked, r.URL.Path)
	issuer := p.issuer
	p.mu.Unlock()
	if p.Meddle != nil && p.Meddle(w, r) {
		return
	}
	switch r.Method + " " + r.URL.Path {
	case "GET /.well-known/openid-configuration":
		methods := []string{"client_secret_basic"}
		if p.Secret == "" {
			methods = []string{"none"}
		}
		write(w, http.StatusOK, map[string]any{
			"issuer": issuer, "authorization_endpoint": issuer + "/authorize?tenant=a", "token_endpoint": issuer + "/token", "jwks_uri": issuer + "/keys",
			"userinfo_endpoint": issuer + "/userinfo", "token_endpoint_auth_methods_supported": methods,
		})
	case "GET /keys":
		write(w, http.StatusOK, jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: p.Key.Public(), KeyID: "k1", Algorithm: "RS256", Use: "sig"}}})
	case "GET /authorize":
		p.authorize(w, r)
	case "POST /token":
		p.token(w, r)
	case "GET /userinfo":
		p.userinfo(w, r)
	default:
		http.NotFound(w, r)
	}
}

func (p *Provider) authorize(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	switch {
	case q.Get("tenant") != "a":
		http.Error(w, "the endpoint's own query is lost", http.StatusBadRequest)
	case q.Get("client_id") != p.Client || !slices.Contains(p.Redirects, q.Get("redirect_uri")):
		http.Error(w, "no such client, or it isn't there", http.StatusBadRequest)
	case q.Get("response_type") != "code" || !slices.Contains(strings.Fields(q.Get("scope")), "openid") || q.Get("code_challenge_method") != "S256" || len(q.Get("code_challenge")) != 43:
		back(w, r, q.Get("redirect_uri"), url.Values{"error": {"invalid_request"}, "state": {q.Get("state")}})
	default:
		code := rand.Text()
		p.mu.Lock()
		p.codes[code] = grant{q.Get("redirect_uri"), q.Get("code_challenge"), q.Get("nonce"), p.Now().Add(time.Minute)}
		p.mu.Unlock()
		back(w, r, q.Get("redirect_uri"), url.Values{"code": {code}, "state": {q.Get("state")}})
	}
}

func back(w http.ResponseWriter, r *http.Request, to string, with url.Values) {
	http.Redirect(w, r, to+"?"+with.Encode(), http.StatusFound)
}

func (p *Provider) token(w http.ResponseWriter, r *http.Request) {
	no := func(code int, reason string) { write(w, code, map[string]string{"error": reason}) }
	if r.ParseForm() != nil || r.PostForm.Get("grant_type") != "authorization_code" {
		no(http.StatusBadRequest, "unsupported_grant_type")
		return
	}
	id, secret, basic := r.BasicAuth()
	if !basic {
		id = r.PostForm.Get("client_id")
	}
	if p.Proof != nil {
		if basic || r.PostForm.Has("client_secret") || !p.proven(r.PostForm) {
			no(http.StatusUnauthorized, "invalid_client")
			return
		}
		p.change(w, r, no)
		return
	}
	plainID, _ := url.QueryUnescape(id)
	plain, _ := url.QueryUnescape(secret)
	if plainID != p.Client || plain != p.Secret || basic == (p.Secret == "") {
		no(http.StatusUnauthorized, "invalid_client")
		return
	}
	p.change(w, r, no)
}

// proven checks a client assertion: its signature, for whom and by whom it is, its time, and that it is new.
func (p *Provider) proven(form url.Values) bool {
	token, err := jwt.ParseSigned(form.Get("client_assertion"), []jose.SignatureAlgorithm{jose.RS256, jose.PS256, jose.ES256, jose.ES384, jose.EdDSA, jose.HS256, jose.HS512})
	if err != nil || form.Get("client_assertion_type") != "urn:ietf:params:oauth:client-assertion-type:jwt-bearer" {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	var c jwt.Claims
	if token.Claims(p.Proof, &c) != nil || c.ID == "" || p.proofs[c.ID] || c.Expiry == nil || c.Expiry.Time().After(p.Now().Add(time.Hour)) {
		return false
	}
	p.proofs[c.ID] = true
	return c.Validate(jwt.Expected{Issuer: p.Client, Subject: p.Client, AnyAudience: jwt.Audience{p.issuer}, Time: p.Now()}) == nil
}

// change gives tokens for a code.
func (p *Provider) change(w http.ResponseWriter, r *http.Request, no func(int, string)) {
	p.mu.Lock()
	g, ok := p.codes[r.PostForm.Get("code")]
	delete(p.codes, r.PostForm.Get("code"))
	access := rand.Text()
	p.access[access] = true
	issuer := p.issuer
	p.mu.Unlock()
	sum := sha256.Sum256([]byte(r.PostForm.Get("code_verifier")))
	if !ok || !p.Now().Before(g.ends) || g.redirect != r.PostForm.Get("redirect_uri") || base64.RawURLEncoding.EncodeToString(sum[:]) != g.challenge {
		no(http.StatusBadRequest, "invalid_grant")
		return
	}
	claims := map[string]any{"iss": issuer, "aud": p.Client, "iat": p.Now().Unix(), "exp": p.Now().Add(time.Hour).Unix(), "nonce": g.nonce}
	maps.Copy(claims, p.Claims)
	if p.Lie != nil {
		p.Lie(claims)
	}
	forge := p.Forge
	if forge == nil {
		forge = func(claims map[string]any) string { return Sign(p.Key, jose.RS256, claims) }
	}
	write(w, http.StatusOK, map[string]any{"token_type": "Bearer", "access_token": access, "id_token": forge(claims), "expires_in": 60})
}

// Sign makes a JWT of the key "k1"; "" if it can't.
func Sign(key any, alg jose.SignatureAlgorithm, claims map[string]any) string {
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, (&jose.SignerOptions{}).WithType("JWT").WithHeader("kid", "k1"))
	if err != nil {
		return ""
	}
	text, _ := jwt.Signed(signer).Claims(claims).Serialize()
	return text
}

func (p *Provider) userinfo(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	ok := p.access[strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")]
	p.mu.Unlock()
	if !ok {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	all := map[string]any{"sub": p.Claims["sub"]}
	maps.Copy(all, p.Info)
	write(w, http.StatusOK, all)
}

func write(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(v) // the client may be gone
}
