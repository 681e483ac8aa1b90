// SPDX-License-Identifier: Apache-2.0

package login

import (
	"cmp"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/server/rest"
)

// jwtConfig is that of a jwt or an oidc method. Consul's clients send the keys of both, those of the other one empty.
type jwtConfig struct {
	JWTSupportedAlgs                  []string
	BoundAudiences                    []string
	ClaimMappings, ListClaimMappings  map[string]string
	ClockSkewLeeway                   time.Duration
	ExpirationLeeway, NotBeforeLeeway time.Duration

	OIDCDiscoveryURL, OIDCDiscoveryCACert string

	// Of jwt alone.
	BoundIssuer          string
	JWKSURL, JWKSCACert  string
	JWTValidationPubKeys []string

	// Of oidc alone.
	OIDCClientID, OIDCClientSecret string
	OIDCClientAssertion            *clientAssertion
	OIDCClientUsePKCE              *bool
	OIDCScopes, OIDCACRValues      []string
	AllowedRedirectURIs            []string
	VerboseOIDCLogging             bool

	algs []jose.SignatureAlgorithm
	keys []any
}

// The signatures that are taken: those of a public key. "none" and shared secrets aren't among them.
var algorithms = []jose.SignatureAlgorithm{
	jose.RS256, jose.RS384, jose.RS512, jose.ES256, jose.ES384, jose.ES512, jose.PS256, jose.PS384, jose.PS512, jose.EdDSA,
}

const defaultLeeway = 150 * time.Second

func jwtConfigOf(method *catalog.ACLAuthMethod) (*jwtConfig, error) {
	var c jwtConfig
	if err := configInto(method, &c); err != nil {
		return nil, err
	}
	if c.OIDCClientID != "" || c.OIDCClientSecret != "" || c.OIDCClientAssertion.given() || len(c.OIDCScopes)+len(c.OIDCACRValues)+len(c.AllowedRedirectURIs) > 0 {
		return nil, errors.New("the keys OIDCClient…, OIDCScopes, OIDCACRValues and AllowedRedirectURIs are of methods of type oidc")
	}
	sources := 0
	for _, given := range []bool{c.JWKSURL != "", c.OIDCDiscoveryURL != "", len(c.JWTValidationPubKeys) > 0} {
		if given {
			sources++
		}
	}
	if sources != 1 {
		return nil, errors.New("exactly one of Config.JWTValidationPubKeys, Config.JWKSURL and Config.OIDCDiscoveryURL must be set")
	}
	for i, text := range c.JWTValidationPubKeys {
		key, err := publicKey(text)
		if err != nil {
			return nil, fmt.Errorf("Config.JWTValidationPubKeys[%d] %w", i, err)
		}
		c.keys = append(c.keys, key)
	}
	if err := secureURL("Config.JWKSURL", c.JWKSURL); c.JWKSURL != "" && err != nil {
		return nil, err
	}
	if err := certificates("Config.JWKSCACert", c.JWKSCACert, "Config.JWKSURL", c.JWKSURL); err != nil {
		return nil, err
	}
	return &c, c.complete()
}

// complete checks what jwt and oidc methods have in common.
func (c *jwtConfig) complete() error {
	for _, a := range c.JWTSupportedAlgs {
		if !slices.Contains(algorithms, jose.SignatureAlgorithm(a)) {
			return fmt.Errorf("Config.JWTSupportedAlgs: %q isn't taken: want some of %v", a, algorithms)
		}
		c.algs = append(c.algs, jose.SignatureAlgorithm(a))
	}
	if len(c.algs) == 0 {
		c.algs = algorithms
	}
	if err := secureURL("Config.OIDCDiscoveryURL", c.OIDCDiscoveryURL); c.OIDCDiscoveryURL != "" && err != nil {
		return err
	}
	if err := certificates("Config.OIDCDiscoveryCACert", c.OIDCDiscoveryCACert, "Config.OIDCDiscoveryURL", c.OIDCDiscoveryURL); err != nil {
		return err
	}
	for of, mapping := range map[string]map[string]string{"ClaimMappings": c.ClaimMappings, "ListClaimMappings": c.ListClaimMappings} {
		seen := map[string]bool{}
		for _, to := range mapping {
			if seen[to] {
				return fmt.Errorf("Config.%s maps two claims to %q", of, to)
			}
			seen[to] = true
		}
	}
	return nil
}

// publicKey reads a key, or a certificate that has one, from PEM.
func publicKey(text string) (any, error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil, errors.New("isn't PEM")
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err == nil {
		return key, nil
	}
	cert, certErr := x509.ParseCertificate(block.Bytes)
	if certErr != nil {
		return nil, fmt.Errorf("can't be read: %w", err)
	}
	return cert.PublicKey, nil
}

// secureURL wants HTTPS, but on this machine.
func secureURL(name, text string) error {
	u, err := url.Parse(text)
	if err == nil && u.Host != "" && (u.Scheme == "https" || u.Scheme == "http" && loopback(u.Hostname())) {
		return nil
	}
	return fmt.Errorf("%s must begin with https://", name)
}

func loopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

// verifyJWT checks signature, time, issuer and audience (RFC 7519), and maps the claims.
func (m *Methods) verifyJWT(ctx context.Context, c *jwtConfig, bearer string) (*rest.Bearer, error) {
	claims, all, err := m.claims(ctx, c, bearer)
	if err != nil {
		return nil, err
	}
	if len(c.BoundAudiences) > 0 {
		if !slices.ContainsFunc(c.BoundAudiences, claims.Audience.Contains) {
			return nil, errors.New("the JWT is for another audience")
		}
	} else if len(claims.Audience) > 0 {
		return nil, errors.New("the JWT is for an audience, and the auth method has no BoundAudiences")
	}
	return c.bearer(all)
}

// claims checks a token's signature, time and issuer.
func (m *Methods) claims(ctx context.Context, c *jwtConfig, bearer string) (claims jwt.Claims, all map[string]any, err error) {
	token, err := jwt.ParseSigned(bearer, c.algs)
	if err != nil {
		return claims, nil, errors.New("the bearer token isn't a JWT with a signature that is taken")
	}
	have, err := m.keysFor(ctx, c)
	if err != nil {
		return claims, nil, err
	}
	claims, all, ok := verified(token, have.keys)
	if !ok && m.mayAskAgain(c) { // by a key that is newer than what is known
		if have, err = m.fetch(ctx, c); err != nil {
			return claims, nil, err
		}
		claims, all, ok = verified(token, have.keys)
	}
	if !ok {
		return claims, nil, errors.New("no key verifies the JWT's signature")
	}
	if err := m.checkTimes(c, &claims); err != nil {
		return claims, nil, err
	}
	if want := cmp.Or(c.BoundIssuer, have.provider.Issuer); want != "" && claims.Issuer != want {
		return claims, nil, errors.New("the JWT is of another issuer")
	}
	return claims, all, nil
}

// verified gives a token's claims, if one of the keys has signed it.
func verified(token *jwt.JSONWebToken, keys []any) (claims jwt.Claims, all map[string]any, ok bool) {
	for _, key := range keys {
		if k, ok := key.(jose.JSONWebKey); ok && len(token.Headers) > 0 && token.Headers[0].KeyID != "" && k.KeyID != "" && k.KeyID != token.Headers[0].KeyID {
			continue
		}
		claims, all = jwt.Claims{}, map[string]any{}
		if token.Claims(key, &claims, &all) == nil {
			return claims, all, true
		}
	}
	return jwt.Claims{}, nil, false
}

// checkTimes wants the token to be of now; one that never ends isn't taken. What the token doesn't say of when it begins and ends follows from the
// rest: it ends ExpirationLeeway after it began, or it began NotBeforeLeeway before it ends.
func (m *Methods) checkTimes(c *jwtConfig, claims *jwt.Claims) error {
	or := func(d, otherwise time.Duration) time.Duration {
		switch {
		case d < 0:
			return 0
		case d == 0:
			return otherwise
		}
		return d
	}
	made, begins, ends := claims.IssuedAt.Time(), claims.NotBefore.Time(), claims.Expiry.Time()
	start := begins
	if made.After(start) {
		start = made
	}
	switch {
	case claims.Expiry == nil && claims.IssuedAt == nil && claims.NotBefore == nil:
		return errors.New("the JWT says neither when it ends nor when it was made")
	case claims.Expiry == nil:
		ends = start.Add(or(c.ExpirationLeeway, defaultLeeway))
	case claims.IssuedAt == nil && claims.NotBefore == nil:
		begins = ends.Add(-or(c.NotBeforeLeeway, defaultLeeway))
	}
	skew := or(c.ClockSkewLeeway, time.Minute)
	now := m.c.Now()
	switch {
	case now.After(ends.Add(skew)):
		return errors.New("the JWT's time is over")
	case now.Before(begins.Add(-skew)):
		return errors.New("the JWT isn't good yet")
	case now.Before(made.Add(-skew)):
		return errors.New("the JWT is from the future")
	}
	return nil
}

// bearer maps claims, by their names or JSON pointers, to what selectors and names see.
func (c *jwtConfig) bearer(all map[string]any) (*rest.Bearer, error) {
	value, list, vars := map[string]string{}, map[string][]string{}, map[string]string{}
	for claim, to := range c.ClaimMappings {
		v, ok := lookup(all, claim)
		if !ok {
			continue
		}
		switch v := v.(type) {
		case string:
			value[to] = v
		case bool, float64:
			value[to] = fmt.Sprint(v)
		default:
			return nil, fmt.Errorf("the claim %q isn't one value", claim)
		}
		vars["value."+to] = value[to]
	}
	for claim, to := range c.ListClaimMappings {
		v, ok := lookup(all, claim)
		if !ok {
			continue
		}
		items, ok := v.([]any)
		if !ok {
			items = []any{v}
		}
		for _, item := range items {
			s, ok := item.(string)
			if !ok {
				return nil, fmt.Errorf("the claim %q isn't a list of texts", claim)
			}
			list[to] = append(list[to], s)
		}
	}
	return &rest.Bearer{Fields: map[string]any{"value": value, "list": list}, Vars: vars}, nil
}

// lookup finds a claim, by name or by JSON pointer (RFC 6901).
func lookup(all map[string]any, claim string) (any, bool) {
	if !strings.HasPrefix(claim, "/") {
		v, ok := all[claim]
		return v, ok
	}
	var at any = all
	for part := range strings.SplitSeq(claim[1:], "/") {
		m, ok := at.(map[string]any)
		if !ok {
			return nil, false
		}
		if at, ok = m[strings.NewReplacer("~1", "/", "~0", "~").Replace(part)]; !ok {
			return nil, false
		}
	}
	return at, true
}

const (
	// keysLife is how long keys that were fetched are used.
	keysLife = 5 * time.Minute
	// keysAgain is how soon they are fetched again for a token that none of them has signed: anybody can send such tokens.
	keysAgain = 10 * time.Second
)

type cachedKeys struct {
	keys     []any
	provider provider
	until    time.Time
	asked    time.Time
}

// keyCache holds the keys of other servers for a while.
type keyCache struct {
	now   func() time.Time
	mu    sync.Mutex
	known map[string]cachedKeys
}

// provider is what a discovery document says (OpenID Connect Discovery 1.0), none of which is trusted beyond its issuer.
type provider struct {
	Issuer        string   `json:"issuer"`
	Authorization string   `json:"authorization_endpoint"`
	Token         string   `json:"token_endpoint"`
	UserInfo      string   `json:"userinfo_endpoint"`
	JWKS          string   `json:"jwks_uri"`
	TokenAuth     []string `json:"token_endpoint_auth_methods_supported"`
}

// keysFor gives the keys that sign, and what the discovery document says if there is one.
func (m *Methods) keysFor(ctx context.Context, c *jwtConfig) (cachedKeys, error) {
	if len(c.keys) > 0 {
		return cachedKeys{keys: c.keys}, nil
	}
	m.keys.mu.Lock()
	have, ok := m.keys.known[c.source()]
	m.keys.mu.Unlock()
	if ok && m.c.Now().Before(have.until) {
		return have, nil
	}
	return m.fetch(ctx, c)
}

// source is where the keys come from.
func (c *jwtConfig) source() string {
	return c.JWKSURL + "\x00" + c.OIDCDiscoveryURL + "\x00" + c.JWKSCACert + "\x00" + c.OIDCDiscoveryCACert
}

// mayAskAgain says whether it is time to look for newer keys, to one caller at a time.
func (m *Methods) mayAskAgain(c *jwtConfig) bool {
	m.keys.mu.Lock()
	defer m.keys.mu.Unlock()
	have, ok := m.keys.known[c.source()]
	now := m.c.Now()
	if !ok || now.Before(have.asked.Add(keysAgain)) {
		return false
	}
	have.asked = now
	m.keys.known[c.source()] = have
	return true
}

// fetch asks for the keys.
func (m *Methods) fetch(ctx context.Context, c *jwtConfig) (cachedKeys, error) {
	now := m.c.Now()
	got := cachedKeys{until: now.Add(keysLife), asked: now}
	from, caCert := c.JWKSURL, c.JWKSCACert
	if c.OIDCDiscoveryURL != "" {
		var err error
		if got.provider, err = discover(ctx, c); err != nil {
			return cachedKeys{}, err
		}
		from, caCert = got.provider.JWKS, c.OIDCDiscoveryCACert
	}
	var set jose.JSONWebKeySet
	if err := ask(ctx, http.MethodGet, from, caCert, "", nil, &set); err != nil {
		return cachedKeys{}, fmt.Errorf("the keys can't be had: %w", err)
	}
	for _, k := range set.Keys {
		if k.Valid() && k.IsPublic() {
			got.keys = append(got.keys, k)
		}
	}
	m.keys.mu.Lock()
	m.keys.known[c.source()] = got
	m.keys.mu.Unlock()
	return got, nil
}

// discover reads the discovery document.
func discover(ctx context.Context, c *jwtConfig) (provider, error) {
	var p provider
	base := strings.TrimSuffix(c.OIDCDiscoveryURL, "/")
	if err := ask(ctx, http.MethodGet, base+"/.well-known/openid-configuration", c.OIDCDiscoveryCACert, "", nil, &p); err != nil {
		return p, fmt.Errorf("the OIDC discovery document can't be had: %w", err)
	}
	if p.Issuer == "" || strings.TrimSuffix(p.Issuer, "/") != base {
		return p, errors.New("the OIDC discovery document names another issuer than its own URL")
	}
	for name, text := range map[string]string{"authorization_endpoint": p.Authorization, "token_endpoint": p.Token, "userinfo_endpoint": p.UserInfo, "jwks_uri": p.JWKS} {
		if err := secureURL("the OIDC discovery document's "+name, text); text != "" && err != nil {
			return p, err
		}
	}
	return p, nil
}
