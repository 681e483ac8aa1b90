// SPDX-License-Identifier: Apache-2.0

package login

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/server/rest"
)

// jwtConfig is that of a jwt method.
type jwtConfig struct {
	JWTSupportedAlgs                                   []string
	BoundAudiences                                     []string
	BoundIssuer                                        string
	ClaimMappings, ListClaimMappings                   map[string]string
	JWKSURL, JWKSCACert                                string
	OIDCDiscoveryURL, OIDCDiscoveryCACert              string
	JWTValidationPubKeys                               []string
	ClockSkewLeeway, ExpirationLeeway, NotBeforeLeeway time.Duration

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
	sources := 0
	for _, given := range []bool{c.JWKSURL != "", c.OIDCDiscoveryURL != "", len(c.JWTValidationPubKeys) > 0} {
		if given {
			sources++
		}
	}
	if sources != 1 {
		return nil, errors.New("exactly one of Config.JWTValidationPubKeys, Config.JWKSURL and Config.OIDCDiscoveryURL must be set")
	}
	for _, a := range c.JWTSupportedAlgs {
		if !slices.Contains(algorithms, jose.SignatureAlgorithm(a)) {
			return nil, fmt.Errorf("Config.JWTSupportedAlgs: %q isn't taken: want some of %v", a, algorithms)
		}
		c.algs = append(c.algs, jose.SignatureAlgorithm(a))
	}
	if len(c.algs) == 0 {
		c.algs = algorithms
	}
	for i, text := range c.JWTValidationPubKeys {
		block, _ := pem.Decode([]byte(text))
		if block == nil {
			return nil, fmt.Errorf("Config.JWTValidationPubKeys[%d] isn't PEM", i)
		}
		key, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			cert, certErr := x509.ParseCertificate(block.Bytes)
			if certErr != nil {
				return nil, fmt.Errorf("Config.JWTValidationPubKeys[%d]: %w", i, err)
			}
			key = cert.PublicKey
		}
		c.keys = append(c.keys, key)
	}
	for name, url := range map[string]string{"JWKSURL": c.JWKSURL, "OIDCDiscoveryURL": c.OIDCDiscoveryURL} {
		if url != "" && !strings.HasPrefix(url, "https://") && !strings.HasPrefix(url, "http://127.0.0.1") {
			return nil, fmt.Errorf("Config.%s must begin with https://", name)
		}
	}
	for of, mapping := range map[string]map[string]string{"ClaimMappings": c.ClaimMappings, "ListClaimMappings": c.ListClaimMappings} {
		seen := map[string]bool{}
		for _, to := range mapping {
			if seen[to] {
				return nil, fmt.Errorf("Config.%s maps two claims to %q", of, to)
			}
			seen[to] = true
		}
	}
	return &c, nil
}

// verifyJWT checks signature, time, issuer and audience (RFC 7519), and maps the claims.
func (m *Methods) verifyJWT(ctx context.Context, c *jwtConfig, bearer string) (*rest.Bearer, error) {
	token, err := jwt.ParseSigned(bearer, c.algs)
	if err != nil {
		return nil, errors.New("the bearer token isn't a JWT with a signature that is taken")
	}
	keys, issuer, err := m.keysFor(ctx, c)
	if err != nil {
		return nil, err
	}
	var claims jwt.Claims
	all := map[string]any{}
	verified := false
	for _, key := range keys {
		if k, ok := key.(jose.JSONWebKey); ok && len(token.Headers) > 0 && token.Headers[0].KeyID != "" && k.KeyID != "" && k.KeyID != token.Headers[0].KeyID {
			continue
		}
		if token.Claims(key, &claims, &all) == nil {
			verified = true
			break
		}
	}
	if !verified {
		return nil, errors.New("no key verifies the JWT's signature")
	}
	if err := m.checkTimes(c, &claims); err != nil {
		return nil, err
	}
	want := c.BoundIssuer
	if want == "" {
		want = issuer
	}
	if want != "" && claims.Issuer != want {
		return nil, errors.New("the JWT is of another issuer")
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

// checkTimes wants the token to be of now; one that never ends isn't taken.
func (m *Methods) checkTimes(c *jwtConfig, claims *jwt.Claims) error {
	leeway := func(d time.Duration) time.Duration {
		switch {
		case d < 0:
			return 0
		case d == 0:
			return defaultLeeway
		}
		return d
	}
	skew := c.ClockSkewLeeway
	switch {
	case skew == 0:
		skew = time.Minute
	case skew < 0:
		skew = 0
	}
	now := m.c.Now()
	var end time.Time
	switch {
	case claims.Expiry != nil:
		end = claims.Expiry.Time()
	case claims.IssuedAt != nil:
		end = claims.IssuedAt.Time().Add(leeway(c.ExpirationLeeway))
	default:
		return errors.New("the JWT says neither when it ends nor when it was made")
	}
	if now.After(end.Add(skew)) {
		return errors.New("the JWT's time is over")
	}
	if nbf := claims.NotBefore; nbf != nil && now.Before(nbf.Time().Add(-skew)) {
		return errors.New("the JWT isn't good yet")
	}
	if iat := claims.IssuedAt; iat != nil && now.Before(iat.Time().Add(-skew)) {
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

// keysLife is how long keys that were fetched are used.
const keysLife = 5 * time.Minute

type cachedKeys struct {
	keys   []any
	issuer string
	until  time.Time
}

// keyCache holds the keys of other servers for a while.
type keyCache struct {
	now   func() time.Time
	mu    sync.Mutex
	known map[string]cachedKeys
}

// keysFor gives the keys that sign, and the issuer if the discovery document names one.
func (m *Methods) keysFor(ctx context.Context, c *jwtConfig) ([]any, string, error) {
	if len(c.keys) > 0 {
		return c.keys, "", nil
	}
	source := c.JWKSURL + "\x00" + c.OIDCDiscoveryURL + "\x00" + c.JWKSCACert + "\x00" + c.OIDCDiscoveryCACert
	m.keys.mu.Lock()
	have, ok := m.keys.known[source]
	m.keys.mu.Unlock()
	if ok && m.c.Now().Before(have.until) {
		return have.keys, have.issuer, nil
	}
	got := cachedKeys{until: m.c.Now().Add(keysLife)}
	url, caCert := c.JWKSURL, c.JWKSCACert
	if c.OIDCDiscoveryURL != "" {
		var doc struct {
			Issuer string `json:"issuer"`
			JWKS   string `json:"jwks_uri"`
		}
		if err := ask(ctx, http.MethodGet, strings.TrimSuffix(c.OIDCDiscoveryURL, "/")+"/.well-known/openid-configuration", c.OIDCDiscoveryCACert, "", nil, &doc); err != nil {
			return nil, "", fmt.Errorf("the OIDC discovery document can't be had: %w", err)
		}
		if strings.TrimSuffix(doc.Issuer, "/") != strings.TrimSuffix(c.OIDCDiscoveryURL, "/") {
			return nil, "", errors.New("the OIDC discovery document names another issuer than its own URL")
		}
		url, caCert, got.issuer = doc.JWKS, c.OIDCDiscoveryCACert, doc.Issuer
	}
	var set jose.JSONWebKeySet
	if err := ask(ctx, http.MethodGet, url, caCert, "", nil, &set); err != nil {
		return nil, "", fmt.Errorf("the keys can't be had: %w", err)
	}
	for _, k := range set.Keys {
		if k.Valid() && k.IsPublic() {
			got.keys = append(got.keys, k)
		}
	}
	m.keys.mu.Lock()
	m.keys.known[source] = got
	m.keys.mu.Unlock()
	return got.keys, got.issuer, nil
}
