// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"encoding/base64"
	"fmt"
	"slices"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	jwtv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/jwt_authn/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/weftmesh/weft/catalog"
)

// jwtFilter verifies tokens, before intentions ask what they claim.
const jwtFilter = "envoy.filters.http.jwt_authn"

// payloadKey is under which a provider's verified payload is found.
func payloadKey(provider string) string { return "jwt_payload_" + provider }

// jwt verifies the tokens of the providers that the rules speak of; nil if they speak of none. A token that is missing or
// wrong is no error here: it claims nothing, and the intentions decide.
func (r *renderer) jwt() (*jwtv3.JwtAuthentication, error) {
	if len(r.g.Providers) == 0 {
		return nil, nil
	}
	out := &jwtv3.JwtAuthentication{Providers: map[string]*jwtv3.JwtProvider{}}
	all, strict := &jwtv3.JwtRequirementAndList{}, &jwtv3.JwtRequirementOrList{}
	for _, p := range r.g.Providers {
		either := &jwtv3.JwtRequirementOrList{}
		add := func(name string, provider *jwtv3.JwtProvider, err error) error {
			if err != nil {
				return fmt.Errorf("jwt-provider %s: %w", p.Name, err)
			}
			out.Providers[name] = provider
			either.Requirements = append(either.Requirements, &jwtv3.JwtRequirement{RequiresType: &jwtv3.JwtRequirement_ProviderName{ProviderName: name}})
			return nil
		}
		if set := p.JSONWebKeySet; set.Remote != nil {
			provider := jwtProvider(p)
			if err := add(p.Name, provider, r.fetched(p, provider)); err != nil {
				return nil, err
			}
			if set.Local != nil {
				provider := jwtProvider(p)
				if err := add(p.Name+localKeys, provider, given(p, provider)); err != nil {
					return nil, err
				}
			}
		} else {
			provider := jwtProvider(p)
			if err := add(p.Name, provider, given(p, provider)); err != nil {
				return nil, err
			}
		}
		if p.RefuseInvalid && !r.g.Audit {
			strict.Requirements = append(strict.Requirements, either.Requirements...)
			continue
		}
		either.Requirements = append(either.Requirements, &jwtv3.JwtRequirement{
			RequiresType: &jwtv3.JwtRequirement_AllowMissingOrFailed{AllowMissingOrFailed: &emptypb.Empty{}},
		})
		all.Requirements = append(all.Requirements, &jwtv3.JwtRequirement{RequiresType: &jwtv3.JwtRequirement_RequiresAny{RequiresAny: either}})
	}
	if len(strict.Requirements) > 0 { // of several issuers a token is one's: it has to be right for any of them
		strict.Requirements = append(strict.Requirements, &jwtv3.JwtRequirement{
			RequiresType: &jwtv3.JwtRequirement_AllowMissing{AllowMissing: &emptypb.Empty{}},
		})
		all.Requirements = slices.Insert(all.Requirements, 0, &jwtv3.JwtRequirement{RequiresType: &jwtv3.JwtRequirement_RequiresAny{RequiresAny: strict}})
	}
	need := all.Requirements[0]
	if len(all.Requirements) > 1 {
		need = &jwtv3.JwtRequirement{RequiresType: &jwtv3.JwtRequirement_RequiresAll{RequiresAll: all}}
	}
	out.Rules = []*jwtv3.RequirementRule{{
		Match:           &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
		RequirementType: &jwtv3.RequirementRule_Requires{Requires: need},
	}}
	return out, nil
}

// localKeys is what the provider of an entry's own keys is called after, beside that of the fetched ones.
const localKeys = " local"

// given are keys that stand in the entry.
func given(p *catalog.JWTProvider, out *jwtv3.JwtProvider) error {
	if p.JSONWebKeySet.Local.JWKS == "" {
		return fmt.Errorf("JSONWebKeySet.Local.Filename can't be used yet")
	}
	keys, err := base64.StdEncoding.DecodeString(p.JSONWebKeySet.Local.JWKS)
	if err != nil {
		return fmt.Errorf("JSONWebKeySet.Local.JWKS isn't base64: %w", err)
	}
	out.JwksSourceSpecifier = &jwtv3.JwtProvider_LocalJwks{LocalJwks: &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: string(keys)}}}
	return nil
}

func jwtProvider(p *catalog.JWTProvider) *jwtv3.JwtProvider {
	out := &jwtv3.JwtProvider{
		Issuer: p.Issuer, Audiences: p.Audiences, PayloadInMetadata: payloadKey(p.Name), ClockSkewSeconds: uint32(p.ClockSkewSeconds),
		RequireExpiration: true, // a token that never ends couldn't be taken back
	}
	for _, l := range p.Locations {
		switch {
		case l.Header != nil:
			out.FromHeaders = append(out.FromHeaders, &jwtv3.JwtHeader{Name: l.Header.Name, ValuePrefix: l.Header.ValuePrefix})
			out.Forward = out.Forward || l.Header.Forward
		case l.QueryParam != nil:
			out.FromParams = append(out.FromParams, l.QueryParam.Name)
		case l.Cookie != nil:
			out.FromCookies = append(out.FromCookies, l.Cookie.Name)
		}
	}
	if f := p.Forwarding; f != nil {
		out.ForwardPayloadHeader, out.PadForwardPayloadHeader = f.HeaderName, f.PadForwardPayloadHeader
	}
	for _, c := range p.ClaimHeaders {
		out.ClaimToHeaders = append(out.ClaimToHeaders, &jwtv3.JwtClaimToHeader{ClaimName: c.Claim, HeaderName: c.Header})
	}
	if len(p.SpaceDelimitedClaims) > 0 {
		out.NormalizePayloadInMetadata = &jwtv3.JwtProvider_NormalizePayload{SpaceDelimitedClaims: p.SpaceDelimitedClaims}
	}
	return out
}

// refusesInvalid says whether a wrong token is refused by itself.
func (r *renderer) refusesInvalid() bool {
	return !r.g.Audit && slices.ContainsFunc(r.g.Providers, func(p *catalog.JWTProvider) bool { return p.RefuseInvalid })
}

// jwtPermission asks what verified tokens claim; nil where nothing is required.
func jwtPermission(r *catalog.JWTRequirement) *rbacv3.Permission {
	if r == nil {
		return nil
	}
	var any []*rbacv3.Permission
	for _, p := range r.Providers {
		one := []*rbacv3.Permission{claim(p.Name, nil, &matcherv3.ValueMatcher{MatchPattern: &matcherv3.ValueMatcher_PresentMatch{PresentMatch: true}})}
		for _, c := range p.VerifyClaims {
			text := &matcherv3.ValueMatcher{MatchPattern: &matcherv3.ValueMatcher_StringMatch{StringMatch: stringMatcher(catalog.StringMatch{Exact: c.Value})}}
			list := &matcherv3.ValueMatcher{MatchPattern: &matcherv3.ValueMatcher_ListMatch{ListMatch: &matcherv3.ListMatcher{
				MatchPattern: &matcherv3.ListMatcher_OneOf{OneOf: text},
			}}}
			one = append(one, claim(p.Name, c.Path, &matcherv3.ValueMatcher{MatchPattern: &matcherv3.ValueMatcher_OrMatch{
				OrMatch: &matcherv3.OrMatcher{ValueMatchers: []*matcherv3.ValueMatcher{text, list}},
			}}))
		}
		any = append(any, &rbacv3.Permission{Rule: &rbacv3.Permission_AndRules{AndRules: &rbacv3.Permission_Set{Rules: one}}})
	}
	return &rbacv3.Permission{Rule: &rbacv3.Permission_OrRules{OrRules: &rbacv3.Permission_Set{Rules: any}}}
}

func claim(provider string, path []string, value *matcherv3.ValueMatcher) *rbacv3.Permission {
	m := &matcherv3.MetadataMatcher{Filter: jwtFilter, Value: value}
	for _, key := range append([]string{payloadKey(provider)}, path...) {
		m.Path = append(m.Path, &matcherv3.MetadataMatcher_PathSegment{Segment: &matcherv3.MetadataMatcher_PathSegment_Key{Key: key}})
	}
	return &rbacv3.Permission{Rule: &rbacv3.Permission_Metadata{Metadata: m}}
}

// both is a permission that also demands a token.
func both(p *rbacv3.Permission, r *catalog.JWTRequirement) *rbacv3.Permission {
	token := jwtPermission(r)
	if token == nil {
		return p
	}
	return &rbacv3.Permission{Rule: &rbacv3.Permission_AndRules{AndRules: &rbacv3.Permission_Set{Rules: []*rbacv3.Permission{p, token}}}}
}
