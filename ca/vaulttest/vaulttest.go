// SPDX-License-Identifier: Apache-2.0

// Package vaulttest is a Vault for tests: an HTTP handler with the endpoints of tokens, logins, mounts and the PKI engine that a CA
// provider uses, which answers and refuses as Vault 1.11 and OpenBao do: unknown mounts are 404, an engine without a certificate
// answers 204, lifetimes are capped by role, mount and issuer, issuers are many and one is the default. It owns no goroutine.
package vaulttest

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"
)

// Vault is one. Make it with New.
type Vault struct {
	now func() time.Time

	mu      sync.Mutex // guards all below
	tokens  map[string]*token
	mounts  map[string]*engine
	secrets map[string]string // of an approle: role_id to secret_id
	jwts    map[string]string // of kubernetes: JWT to role
	refuse  map[string]string // beginnings of paths that are refused, with the error
	calls   map[string]int    // by method and path
	ttl     time.Duration     // of the tokens that logins give
}

type token struct {
	ends time.Time // zero: never
	ttl  time.Duration
}

// New makes a Vault with the root token "root".
func New(now func() time.Time) *Vault {
	return &Vault{
		now: now, tokens: map[string]*token{"root": {}}, mounts: map[string]*engine{}, secrets: map[string]string{}, jwts: map[string]string{},
		refuse: map[string]string{}, calls: map[string]int{}, ttl: time.Hour,
	}
}

// AddToken makes a token that can be renewed and lives for ttl.
func (v *Vault) AddToken(id string, ttl time.Duration) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.tokens[id] = &token{v.now().Add(ttl), ttl}
}

// RevokeTokens ends every token but the root's.
func (v *Vault) RevokeTokens() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.tokens = map[string]*token{"root": {}}
}

// AppRole lets a role log in, Kubernetes the bearer of a JWT under a role.
func (v *Vault) AppRole(role, secret string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.secrets[role] = secret
}

// Kubernetes lets the bearer of a JWT log in under a role.
func (v *Vault) Kubernetes(jwt, role string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.jwts[jwt] = role
}

// Refuse has requests whose path begins so answered by 500 and this error; "" lets them pass again.
func (v *Vault) Refuse(path, text string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if text == "" {
		delete(v.refuse, path)
	} else {
		v.refuse[path] = text
	}
}

// Calls is how often a method and path ("POST pki/root/generate/internal") was asked for.
func (v *Vault) Calls(what string) int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.calls[what]
}

// Unmount takes an engine away with all that it holds.
func (v *Vault) Unmount(path string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.mounts, path)
}

// failure is what a request is refused with.
type failure struct {
	code int
	text string
}

func fail(code int, format string, args ...any) *failure {
	return &failure{code, fmt.Sprintf(format, args...)}
}

// raw is an answer that isn't JSON.
type raw string

// ServeHTTP answers.
func (v *Vault) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	v.mu.Lock()
	defer v.mu.Unlock()
	path, ok := strings.CutPrefix(r.URL.Path, "/v1/")
	body := map[string]any{}
	if r.Method != http.MethodGet {
		_ = json.NewDecoder(r.Body).Decode(&body) // nothing is an empty body
	}
	v.calls[r.Method+" "+path]++
	var answer map[string]any
	f := fail(404, "no handler for route %q", path)
	if ok {
		answer, f = v.route(r, path, body)
	}
	switch {
	case f != nil:
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(f.code)
		_ = json.NewEncoder(w).Encode(map[string][]string{"errors": {f.text}})
	case answer == nil:
		w.WriteHeader(http.StatusNoContent)
	default:
		if text, ok := answer["raw"].(raw); ok {
			w.Header().Set("Content-Type", "application/pem-certificate-chain")
			_, _ = w.Write([]byte(text))
			return
		}
		full := map[string]any{"request_id": id(), "lease_id": "", "renewable": false, "lease_duration": 0, "data": nil, "wrap_info": nil, "warnings": nil, "auth": nil}
		for k, x := range answer {
			full[k] = x
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(full)
	}
}

func (v *Vault) route(r *http.Request, path string, body map[string]any) (map[string]any, *failure) {
	for p, text := range v.refuse {
		if strings.HasPrefix(path, p) {
			return nil, fail(500, "%s", text)
		}
	}
	if name, ok := strings.CutSuffix(path, "/login"); ok && strings.HasPrefix(name, "auth/") {
		return v.login(strings.TrimPrefix(name, "auth/"), body)
	}
	// The PEM of a CA needs no token, as with Vault.
	for name, e := range v.mounts {
		if rest, ok := strings.CutPrefix(path, name+"/"); ok && r.Method == http.MethodGet {
			return e.get(rest)
		}
	}
	t := v.tokens[r.Header.Get("X-Vault-Token")]
	if t == nil || !t.ends.IsZero() && !v.now().Before(t.ends) {
		return nil, fail(403, "permission denied")
	}
	switch {
	case path == "auth/token/lookup-self":
		left := int64(0)
		if !t.ends.IsZero() {
			left = int64(t.ends.Sub(v.now()) / time.Second)
		}
		return map[string]any{"data": map[string]any{"ttl": left, "renewable": !t.ends.IsZero()}}, nil
	case path == "auth/token/renew-self":
		if t.ends.IsZero() {
			return nil, fail(400, "lease is not renewable")
		}
		t.ends = v.now().Add(t.ttl)
		return map[string]any{"auth": map[string]any{"client_token": r.Header.Get("X-Vault-Token"), "lease_duration": int64(t.ttl / time.Second), "renewable": true}}, nil
	case strings.HasPrefix(path, "sys/mounts/"):
		name := strings.TrimPrefix(path, "sys/mounts/")
		if v.mounts[name] != nil {
			return nil, fail(400, "path is already in use at %s/", name)
		}
		if body["type"] != "pki" {
			return nil, fail(400, "plugin not found in the catalog: %v", body["type"])
		}
		conf, _ := body["config"].(map[string]any)
		v.mounts[name] = &engine{now: v.now, most: lifetime(conf["max_lease_ttl"], 768*time.Hour), issuers: map[string]*issuer{}, keys: map[string]*key{}, roles: map[string]map[string]any{}}
		return nil, nil
	}
	for name, e := range v.mounts {
		if rest, ok := strings.CutPrefix(path, name+"/"); ok {
			return e.post(rest, body)
		}
	}
	return nil, fail(404, "no handler for route %q. route entry not found.", path)
}

func (v *Vault) login(mount string, body map[string]any) (map[string]any, *failure) {
	ok := false
	switch mount {
	case "approle":
		secret, known := v.secrets[text(body, "role_id")]
		ok = known && secret == text(body, "secret_id")
		if !ok {
			return nil, fail(400, "invalid role or secret ID")
		}
	case "kubernetes":
		role, known := v.jwts[text(body, "jwt")]
		ok = known && role == text(body, "role")
	}
	if !ok {
		return nil, fail(403, "permission denied")
	}
	t := "hvs." + id()
	v.tokens[t] = &token{v.now().Add(v.ttl), v.ttl}
	return map[string]any{"auth": map[string]any{"client_token": t, "lease_duration": int64(v.ttl / time.Second), "renewable": true}}, nil
}

func text(body map[string]any, key string) string {
	s, _ := body[key].(string)
	return s
}

func lifetime(v any, or time.Duration) time.Duration {
	s, _ := v.(string)
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		return or
	}
	return d
}

func id() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // it never fails
	return hex.EncodeToString(b[:])
}
