// SPDX-License-Identifier: Apache-2.0

package login

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/internal/api"
	"github.com/weftmesh/weft/server/rest"
)

// A login by a browser (OpenID Connect Core 1.0, authorization code flow with PKCE, RFC 7636) begins with AuthURL and ends with Callback,
// maybe on another server. What must be known in between is no server's to keep: the browser carries it, sealed, as the state. So a
// flood of beginnings takes no memory, and a server that is gone took no login with it.

const (
	// loginLife is how long somebody has from AuthURL to Callback.
	loginLife = 10 * time.Minute
	// atOnce bounds the calls that wait for a provider, usedMax the logins of the last loginLife that were done.
	atOnce  = 64
	usedMax = 10000
	metaMax = 512 // bytes of JSON
	textMax = 8192
)

// usedLogins are the logins that were done, or are being done, so that each is done once. Only what a provider has confirmed stays.
type usedLogins struct {
	mu    sync.Mutex
	until map[string]time.Time
}

// take says whether a login is the first with this seed.
func (u *usedLogins) take(seed string, until, now time.Time) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if _, used := u.until[seed]; used {
		return errors.New("this login was done before: begin again")
	}
	if len(u.until) >= usedMax {
		for s, end := range u.until {
			if !now.Before(end) {
				delete(u.until, s)
			}
		}
	}
	if len(u.until) >= usedMax {
		return tooMany()
	}
	u.until[seed] = until
	return nil
}

func (u *usedLogins) giveBack(seed string) {
	u.mu.Lock()
	delete(u.until, seed)
	u.mu.Unlock()
}

func tooMany() error {
	return &api.StatusError{Code: http.StatusTooManyRequests, Text: "too many logins at once: try again later"}
}

// enter bounds how many calls wait for providers: strangers make them.
func (m *Methods) enter(kind string) (leave func(), err error) {
	busy := m.busy[kind]
	select {
	case busy <- struct{}{}:
		return func() { <-busy }, nil
	default:
		return nil, tooMany()
	}
}

func oidcConfigOf(method *catalog.ACLAuthMethod) (*jwtConfig, error) {
	var c jwtConfig
	if err := configInto(method, &c); err != nil {
		return nil, err
	}
	switch {
	case c.BoundIssuer != "" || c.JWKSURL != "" || c.JWKSCACert != "" || len(c.JWTValidationPubKeys) > 0:
		return nil, errors.New("BoundIssuer, JWKSURL, JWKSCACert and JWTValidationPubKeys are of methods of type jwt: OIDCDiscoveryURL says the issuer and the keys")
	case c.OIDCDiscoveryURL == "":
		return nil, errors.New("Config.OIDCDiscoveryURL is required: the provider's URL, without /.well-known/…")
	case c.OIDCClientID == "":
		return nil, errors.New("Config.OIDCClientID is required: what the provider knows weft by")
	case c.OIDCClientSecret == "" && !c.OIDCClientAssertion.given() && !c.pkce():
		return nil, errors.New("without Config.OIDCClientSecret or Config.OIDCClientAssertion, Config.OIDCClientUsePKCE can't be false: a stranger could use a code")
	case len(c.AllowedRedirectURIs) == 0:
		return nil, errors.New(`Config.AllowedRedirectURIs is required, such as ["http://localhost:8550/oidc/callback"], which weft login listens on`)
	}
	if c.OIDCClientAssertion.given() {
		if _, _, err := c.signing(); err != nil {
			return nil, err
		}
	}
	for i, text := range c.AllowedRedirectURIs {
		u, err := url.Parse(text)
		if err != nil || u.Host == "" || u.Scheme != "https" && (u.Scheme != "http" || !loopback(u.Hostname())) || u.Fragment != "" || u.User != nil {
			return nil, fmt.Errorf("Config.AllowedRedirectURIs[%d] is %q, must be a URL that begins with https://, or http:// on localhost, without #", i, text)
		}
	}
	return &c, c.complete()
}

func (c *jwtConfig) pkce() bool { return c.OIDCClientUsePKCE == nil || *c.OIDCClientUsePKCE }

// allowed says whether a browser may be sent to a URI: exactly one of the allowed, but for the port of a loopback address (RFC 8252, 7.3).
func (c *jwtConfig) allowed(redirect string) bool {
	u, err := url.Parse(redirect)
	if err != nil {
		return false
	}
	return slices.ContainsFunc(c.AllowedRedirectURIs, func(text string) bool {
		if text == redirect {
			return true
		}
		a, err := url.Parse(text)
		if err != nil || a.Scheme != "http" || u.User != nil || u.Fragment != "" || !loopback(a.Hostname()) {
			return false
		}
		return u.Scheme == a.Scheme && u.Hostname() == a.Hostname() && u.EscapedPath() == a.EscapedPath() && u.RawQuery == a.RawQuery
	})
}

// pending is a login on its way.
type pending struct {
	Seed     []byte            `json:"s"` // PKCE's verifier and the nonce are made of it
	Redirect string            `json:"r"`
	Client   []byte            `json:"c,omitempty"` // the hash of the client's nonce
	Ends     int64             `json:"e"`
	Meta     map[string]string `json:"m,omitempty"`
}

func (p *pending) derived(what string) string {
	h := hmac.New(sha256.New, p.Seed)
	_, _ = h.Write([]byte(what))
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil))
}

func (p *pending) verifier() string { return p.derived("verifier") }
func (p *pending) nonce() string    { return p.derived("nonce") }

func challenge(verifier string) string {
	sum := sha256.Sum256([]byte(verifier))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

func clientHash(nonce string) []byte {
	if nonce == "" {
		return nil
	}
	sum := sha256.Sum256([]byte(nonce))
	return sum[:16]
}

func purposeOf(method *catalog.ACLAuthMethod) string {
	return "weft: a login by the auth method " + strings.ToLower(method.Name)
}

// AuthURL gives the address at the provider where a browser begins a login.
func (m *Methods) AuthURL(ctx context.Context, method *catalog.ACLAuthMethod, start rest.LoginStart) (string, error) {
	to, err := m.authURL(ctx, method, start)
	m.note(method, err)
	return to, err
}

func (m *Methods) authURL(ctx context.Context, method *catalog.ACLAuthMethod, start rest.LoginStart) (string, error) {
	c, err := m.oidc(method)
	if err != nil {
		return "", err
	}
	if !c.allowed(start.RedirectURI) {
		return "", fmt.Errorf("the redirect URI %.200q isn't among the auth method's AllowedRedirectURIs", start.RedirectURI)
	}
	if meta, err := json.Marshal(start.Meta); err != nil || len(meta) > metaMax {
		return "", fmt.Errorf("Meta must take at most %d bytes", metaMax)
	}
	leave, err := m.enter(typeOIDC)
	if err != nil {
		return "", err
	}
	defer leave()
	have, err := m.keysFor(ctx, c)
	if err != nil {
		return "", err
	}
	to, err := url.Parse(have.provider.Authorization)
	if err != nil || to.Host == "" || have.provider.Token == "" {
		return "", errors.New("the OIDC discovery document has no authorization_endpoint or no token_endpoint")
	}
	p := &pending{Seed: make([]byte, 16), Redirect: start.RedirectURI, Client: clientHash(start.ClientNonce), Ends: m.c.Now().Add(loginLife).Unix(), Meta: start.Meta}
	if _, err := io.ReadFull(m.c.Rand, p.Seed); err != nil {
		return "", err
	}
	data, err := json.Marshal(p)
	if err != nil {
		return "", err
	}
	if data, err = m.c.Seal(purposeOf(method), data); err != nil {
		return "", err
	}
	q := to.Query()
	q.Set("response_type", "code")
	q.Set("client_id", c.OIDCClientID)
	q.Set("redirect_uri", p.Redirect)
	q.Set("scope", c.scopes())
	q.Set("state", base64.RawURLEncoding.EncodeToString(data))
	q.Set("nonce", p.nonce())
	if len(c.OIDCACRValues) > 0 {
		q.Set("acr_values", strings.Join(c.OIDCACRValues, " "))
	}
	if c.pkce() {
		q.Set("code_challenge", challenge(p.verifier()))
		q.Set("code_challenge_method", "S256")
	}
	to.RawQuery = q.Encode()
	return to.String(), nil
}

func (c *jwtConfig) scopes() string {
	all := []string{"openid"}
	for _, s := range c.OIDCScopes {
		if !slices.Contains(all, s) {
			all = append(all, s)
		}
	}
	return strings.Join(all, " ")
}

func (m *Methods) oidc(method *catalog.ACLAuthMethod) (*jwtConfig, error) {
	if method.Type != typeOIDC {
		return nil, fmt.Errorf("the auth method is of type %s: nobody logs in by it in a browser", method.Type)
	}
	return oidcConfigOf(method)
}

// Callback ends a login: it has the provider change the code for an ID token, and says whose it is, with what AuthURL was given as Meta.
func (m *Methods) Callback(ctx context.Context, method *catalog.ACLAuthMethod, end rest.LoginEnd) (*rest.Bearer, map[string]string, error) {
	c, err := m.oidc(method)
	if err != nil {
		return nil, nil, err
	}
	p, err := m.opened(method, c, end)
	if err != nil {
		return nil, nil, err
	}
	leave, err := m.enter(typeOIDC)
	if err != nil {
		return nil, nil, err
	}
	defer leave()
	now := m.c.Now()
	if err := m.used.take(string(p.Seed), now.Add(loginLife), now); err != nil {
		return nil, nil, err
	}
	who, err := m.finish(ctx, method, c, p, end.Code)
	if err != nil {
		m.note(method, err)
		m.used.giveBack(string(p.Seed)) // the provider takes no code twice
		return nil, nil, err
	}
	return who, p.Meta, nil
}

// opened gives the login that a state is of, if it is this client's and in its time.
func (m *Methods) opened(method *catalog.ACLAuthMethod, c *jwtConfig, end rest.LoginEnd) (*pending, error) {
	lost := errors.New("the state is of no login that was begun here with this auth method: begin again")
	if end.Code == "" || len(end.Code) > textMax || len(end.State) > textMax {
		return nil, errors.New("a State and a Code are required, as the provider gave them to the browser")
	}
	data, err := base64.RawURLEncoding.DecodeString(end.State)
	if err != nil {
		return nil, lost
	}
	if data, err = m.c.Open(purposeOf(method), data); err != nil {
		return nil, lost
	}
	var p pending
	if json.Unmarshal(data, &p) != nil || len(p.Seed) < 16 {
		return nil, lost
	}
	switch {
	case m.c.Now().Unix() >= p.Ends:
		return nil, fmt.Errorf("the login took longer than %s: begin again", loginLife)
	case subtle.ConstantTimeCompare(p.Client, clientHash(end.ClientNonce)) != 1:
		return nil, errors.New("the ClientNonce isn't that of who began the login")
	case !c.allowed(p.Redirect):
		return nil, errors.New("the login's redirect URI is no longer among the auth method's AllowedRedirectURIs")
	}
	return &p, nil
}

// finish asks the provider, and believes only what its key signed for this login.
func (m *Methods) finish(ctx context.Context, method *catalog.ACLAuthMethod, c *jwtConfig, p *pending, code string) (*rest.Bearer, error) {
	have, err := m.keysFor(ctx, c)
	if err != nil {
		return nil, err
	}
	idToken, accessToken, err := m.exchange(ctx, c, have.provider, p, code)
	if err != nil {
		return nil, err
	}
	claims, all, err := m.claims(ctx, c, idToken)
	switch {
	case err != nil:
		return nil, fmt.Errorf("the provider's ID token: %w", err)
	case claims.Expiry == nil:
		return nil, errors.New("the provider's ID token never ends")
	case claims.Subject == "":
		return nil, errors.New("the provider's ID token says of nobody")
	case !claims.Audience.Contains(c.OIDCClientID):
		return nil, errors.New("the provider's ID token is for another client")
	case len(c.BoundAudiences) > 0 && !slices.ContainsFunc(c.BoundAudiences, claims.Audience.Contains):
		return nil, errors.New("the provider's ID token is for none of the BoundAudiences")
	case all["azp"] != nil && all["azp"] != c.OIDCClientID, all["azp"] == nil && len(claims.Audience) > 1:
		return nil, errors.New("the provider's ID token was given to another client")
	}
	if nonce, _ := all["nonce"].(string); subtle.ConstantTimeCompare([]byte(nonce), []byte(p.nonce())) != 1 {
		return nil, errors.New("the provider's ID token is of another login")
	}
	if err := c.addUserInfo(ctx, have.provider, accessToken, claims.Subject, all); err != nil {
		return nil, err
	}
	if c.VerboseOIDCLogging {
		m.c.Log.Debug("somebody logs in", "method", method.Name, "claims", all)
	}
	return c.bearer(all)
}

// exchange changes a code for tokens (RFC 6749, 4.1.3).
func (m *Methods) exchange(ctx context.Context, c *jwtConfig, to provider, p *pending, code string) (idToken, accessToken string, err error) {
	form := url.Values{"grant_type": {"authorization_code"}, "code": {code}, "redirect_uri": {p.Redirect}}
	if c.pkce() {
		form.Set("code_verifier", p.verifier())
	}
	signs := c.OIDCClientAssertion.given()
	basic := !signs && c.OIDCClientSecret != "" && (len(to.TokenAuth) == 0 || slices.Contains(to.TokenAuth, "client_secret_basic"))
	if !basic {
		form.Set("client_id", c.OIDCClientID)
	}
	switch {
	case signs:
		proof, err := c.assertion(to, m.c.Now(), m.c.Rand)
		if err != nil {
			return "", "", err
		}
		form.Set("client_assertion_type", assertionType)
		form.Set("client_assertion", proof)
	case !basic && c.OIDCClientSecret != "":
		form.Set("client_secret", c.OIDCClientSecret)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to.Token, strings.NewReader(form.Encode()))
	if err != nil {
		return "", "", err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", "application/json")
	if basic {
		req.SetBasicAuth(url.QueryEscape(c.OIDCClientID), url.QueryEscape(c.OIDCClientSecret))
	}
	status, data, err := send(req, c.OIDCDiscoveryCACert)
	if err != nil {
		return "", "", fmt.Errorf("the provider can't be asked about the code: %w", err)
	}
	var answer struct {
		IDToken     string `json:"id_token"`
		AccessToken string `json:"access_token"`
		Error       string `json:"error"`
	}
	jsonErr := json.Unmarshal(data, &answer)
	switch {
	case status != http.StatusOK:
		return "", "", fmt.Errorf("the provider doesn't take the code: %.60q (%d)", cmp.Or(answer.Error, "no reason given"), status)
	case jsonErr != nil:
		return "", "", errors.New("the provider's answer to the code isn't JSON")
	case answer.IDToken == "":
		return "", "", errors.New("the provider gave no ID token for the code")
	}
	return answer.IDToken, answer.AccessToken, nil
}

// addUserInfo asks for claims that are mapped and that the ID token lacks: many providers give groups here alone. What the ID token says holds.
func (c *jwtConfig) addUserInfo(ctx context.Context, at provider, accessToken, subject string, all map[string]any) error {
	lacks := false
	for _, mapping := range []map[string]string{c.ClaimMappings, c.ListClaimMappings} {
		for claim := range mapping {
			_, has := lookup(all, claim)
			lacks = lacks || !has
		}
	}
	if !lacks || at.UserInfo == "" || accessToken == "" {
		return nil
	}
	more := map[string]any{}
	if err := ask(ctx, http.MethodGet, at.UserInfo, c.OIDCDiscoveryCACert, accessToken, nil, &more); err != nil {
		return fmt.Errorf("the provider's userinfo can't be had: %w", err)
	}
	if more["sub"] != subject {
		return errors.New("the provider's userinfo is about somebody else")
	}
	for claim, value := range more {
		if _, has := all[claim]; !has {
			all[claim] = value
		}
	}
	return nil
}
