// SPDX-License-Identifier: Apache-2.0

package intake

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strings"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	jwtv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/jwt_authn/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/weftmesh/weft/connect/proxy/config"
)

const (
	jwtURL         = typePrefix + "extensions.filters.http.jwt_authn.v3.JwtAuthentication"
	jwtFilterName  = "envoy.filters.http.jwt_authn"
	jwtFields      = "providers rules"
	providerFields = "issuer audiences local_jwks remote_jwks forward from_headers from_params from_cookies forward_payload_header " +
		"pad_forward_payload_header payload_in_metadata clock_skew_seconds require_expiration claim_to_headers normalize_payload_in_metadata"
)

// compileTokens reads a filter of the one form that this proxy does: every provider's token is verified if it is there, and
// nothing is refused here.
func compileTokens(a *anypb.Any) ([]*config.TokenProvider, error) {
	m, err := read[*jwtv3.JwtAuthentication](a)
	if err != nil {
		return nil, err
	}
	if err := only(m, jwtFields); err != nil {
		return nil, err
	}
	for i, r := range m.GetRules() {
		if p, ok := r.GetMatch().GetPathSpecifier().(*routev3.RouteMatch_Prefix); !ok || p.Prefix != "/" || !lenient(r.GetRequires(), m.GetProviders()) {
			return nil, fmt.Errorf("rules[%d]: this proxy knows only each provider or allow_missing_or_failed, for every path", i)
		}
	}
	strict := map[string]bool{}
	for _, r := range m.GetRules() {
		refusing(r.GetRequires(), strict)
	}
	var out []*config.TokenProvider
	for _, name := range slices.Sorted(maps.Keys(m.GetProviders())) {
		p, err := tokenProvider(m.GetProviders()[name])
		if err != nil {
			return nil, fmt.Errorf("providers[%s]: %w", name, err)
		}
		p.Refuse = strict[name]
		out = append(out, p)
	}
	return out, nil
}

// refusing finds the providers of whom a wrong token is refused.
func refusing(r *jwtv3.JwtRequirement, out map[string]bool) {
	for _, one := range r.GetRequiresAll().GetRequirements() {
		refusing(one, out)
	}
	list := r.GetRequiresAny().GetRequirements()
	if len(list) == 0 || list[len(list)-1].GetAllowMissing() == nil {
		return
	}
	for _, one := range list[:len(list)-1] {
		out[one.GetProviderName()] = true
	}
}

// lenient says whether a requirement is met by every request, or by every one without a token.
func lenient(r *jwtv3.JwtRequirement, known map[string]*jwtv3.JwtProvider) bool {
	switch t := r.GetRequiresType().(type) {
	case *jwtv3.JwtRequirement_RequiresAll:
		return !slices.ContainsFunc(t.RequiresAll.GetRequirements(), func(one *jwtv3.JwtRequirement) bool { return !lenient(one, known) })
	case *jwtv3.JwtRequirement_RequiresAny:
		list := t.RequiresAny.GetRequirements()
		last := len(list) - 1
		return last > 0 && (list[last].GetAllowMissingOrFailed() != nil || list[last].GetAllowMissing() != nil) && !slices.ContainsFunc(list[:last], func(one *jwtv3.JwtRequirement) bool {
			return known[one.GetProviderName()] == nil
		})
	}
	return false
}

func tokenProvider(m *jwtv3.JwtProvider) (*config.TokenProvider, error) {
	if err := only(m, providerFields); err != nil {
		return nil, err
	}
	p := &config.TokenProvider{
		Key: m.GetPayloadInMetadata(), Issuer: m.GetIssuer(), Audiences: m.GetAudiences(), Params: m.GetFromParams(), Cookies: m.GetFromCookies(),
		Forward: m.GetForward(), PayloadHeader: m.GetForwardPayloadHeader(), Pad: m.GetPadForwardPayloadHeader(),
		Skew: time.Duration(m.GetClockSkewSeconds()) * time.Second, Ends: m.GetRequireExpiration(),
	}
	if err := only(m.GetNormalizePayloadInMetadata(), "space_delimited_claims"); err != nil {
		return nil, fmt.Errorf("normalize_payload_in_metadata: %w", err)
	}
	p.Lists = m.GetNormalizePayloadInMetadata().GetSpaceDelimitedClaims()
	for i, c := range m.GetClaimToHeaders() {
		if err := only(c, "header_name claim_name"); err != nil {
			return nil, fmt.Errorf("claim_to_headers[%d]: %w", i, err)
		}
		p.ClaimHeaders = append(p.ClaimHeaders, config.ClaimHeader{Path: strings.Split(c.GetClaimName(), "."), Header: c.GetHeaderName()})
	}
	if m.GetClockSkewSeconds() == 0 {
		p.Skew = time.Minute
	}
	for _, h := range m.GetFromHeaders() {
		p.Headers = append(p.Headers, config.TokenHeader{Name: h.GetName(), Prefix: h.GetValuePrefix()})
	}
	if r := m.GetRemoteJwks(); r != nil {
		if err := only(r, "http_uri cache_duration async_fetch"); err != nil {
			return nil, fmt.Errorf("remote_jwks: %w", err)
		}
		p.Remote = &config.RemoteKeys{
			URI: r.GetHttpUri().GetUri(), Timeout: r.GetHttpUri().GetTimeout().AsDuration(), CacheFor: r.GetCacheDuration().AsDuration(), Parse: keySet,
		}
		if p.Remote.CacheFor <= 0 {
			p.Remote.CacheFor = 5 * time.Minute
		}
		return p, nil
	}
	set, err := bytesOf(m.GetLocalJwks())
	if err != nil {
		return nil, fmt.Errorf("local_jwks: %w", err)
	}
	p.Keys, err = keySet(set)
	return p, err
}

// keySet reads a JWK set. A key that can't be used for signatures here is left out: no token is verified by it.
func keySet(data []byte) ([]config.TokenKey, error) {
	var set struct {
		Keys []struct{ Kty, Kid, Alg, Use, Crv, N, E, X, Y string }
	}
	if err := json.Unmarshal(data, &set); err != nil {
		return nil, fmt.Errorf("local_jwks: %w", err)
	}
	number := func(s string) *big.Int {
		b, err := base64.RawURLEncoding.DecodeString(s)
		if err != nil || len(b) == 0 {
			return nil
		}
		return new(big.Int).SetBytes(b)
	}
	var out []config.TokenKey
	for _, k := range set.Keys {
		var public crypto.PublicKey
		switch {
		case k.Use != "" && k.Use != "sig":
			continue
		case k.Kty == "RSA":
			if n, e := number(k.N), number(k.E); n != nil && e != nil && e.IsInt64() && n.BitLen() >= 2048 {
				public = &rsa.PublicKey{N: n, E: int(e.Int64())}
			}
		case k.Kty == "EC":
			curve := map[string]elliptic.Curve{"P-256": elliptic.P256(), "P-384": elliptic.P384(), "P-521": elliptic.P521()}[k.Crv]
			x, errX := base64.RawURLEncoding.DecodeString(k.X)
			y, errY := base64.RawURLEncoding.DecodeString(k.Y)
			if curve != nil && errX == nil && errY == nil {
				if key, err := ecdsa.ParseUncompressedPublicKey(curve, point(curve, x, y)); err == nil {
					public = key
				}
			}
		case k.Kty == "OKP" && k.Crv == "Ed25519":
			if x, err := base64.RawURLEncoding.DecodeString(k.X); err == nil && len(x) == ed25519.PublicKeySize {
				public = ed25519.PublicKey(x)
			}
		}
		if public != nil {
			out = append(out, config.TokenKey{ID: k.Kid, Algorithm: k.Alg, Public: public})
		}
	}
	if len(out) == 0 {
		return nil, errors.New("local_jwks: no key is one of RSA (2048 bits or more), EC or Ed25519 for signatures")
	}
	return out, nil
}

// point is the uncompressed form (SEC 1, §2.3.3).
func point(c elliptic.Curve, x, y []byte) []byte {
	size := (c.Params().BitSize + 7) / 8
	out := make([]byte, 1+2*size)
	out[0] = 4
	if len(x) <= size && len(y) <= size {
		copy(out[1+size-len(x):], x)
		copy(out[1+2*size-len(y):], y)
	}
	return out
}

// claimRule reads a condition on a verified token.
func claimRule(m *matcherv3.MetadataMatcher) (config.Rule, error) {
	if m.GetFilter() != jwtFilterName || m.GetInvert() {
		return config.Rule{}, fmt.Errorf("metadata of %s isn't known to this proxy", m.GetFilter())
	}
	var path []string
	for _, p := range m.GetPath() {
		path = append(path, p.GetKey())
	}
	return valueRule(path, m.GetValue())
}

func valueRule(path []string, m *matcherv3.ValueMatcher) (config.Rule, error) {
	switch v := m.GetMatchPattern().(type) {
	case *matcherv3.ValueMatcher_PresentMatch:
		if v.PresentMatch {
			return config.Rule{Kind: config.ClaimIs, Path: path, String: config.StringMatch{Kind: config.MatchAny}}, nil
		}
	case *matcherv3.ValueMatcher_StringMatch:
		s, err := compileString(v.StringMatch)
		return config.Rule{Kind: config.ClaimIs, Path: path, String: s}, err
	case *matcherv3.ValueMatcher_ListMatch: // a list is looked through in any case
		return valueRule(path, v.ListMatch.GetOneOf())
	case *matcherv3.ValueMatcher_OrMatch:
		return several(config.Or, v.OrMatch.GetValueMatchers(), func(m *matcherv3.ValueMatcher) (config.Rule, error) { return valueRule(path, m) })
	}
	return config.Rule{}, fmt.Errorf("metadata value %T isn't known to this proxy", m.GetMatchPattern())
}
