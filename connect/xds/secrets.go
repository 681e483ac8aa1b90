// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"crypto/sha256"
	"slices"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/connect/identity"
)

// The names of the two secrets of every proxy.
const (
	LeafSecret  = "leaf"
	RootsSecret = "roots"
)

func inline(s string) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: []byte(s)}}
}

// secrets renders the certificate and the roots.
func (r *renderer) secrets() error {
	if !r.in.Leafless {
		if err := r.add(SecretType, LeafSecret, &tlsv3.Secret{Name: LeafSecret, Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{
			CertificateChain: inline(r.in.Leaf.CertPEM), PrivateKey: inline(r.in.Leaf.KeyPEM),
		}}}); err != nil {
			return err
		}
	}
	var roots strings.Builder
	for _, root := range r.g.CA.Roots {
		roots.WriteString(strings.TrimRight(root.RootCert, "\n") + "\n")
	}
	trusted := &tlsv3.CertificateValidationContext{TrustedCa: inline(roots.String())}
	if err := r.revoked(trusted); err != nil {
		return err
	}
	return r.add(SecretType, RootsSecret, &tlsv3.Secret{Name: RootsSecret, Type: &tlsv3.Secret_ValidationContext{ValidationContext: trusted}})
}

// RevokedValidator is the name under which weft's own proxy is told, beside the roots, which certificates are refused: a
// google.protobuf.Struct with a list "revoked" of objects with serial (hexadecimal), or uri and before (RFC 3339).
const RevokedValidator = "weft.revoked"

// revoked says which certificates are refused: to weft's own proxy all, to Envoy those of which there are revocation lists.
func (r *renderer) revoked(trusted *tlsv3.CertificateValidationContext) error {
	all := r.g.CA.Revoked
	if len(all) == 0 {
		return nil
	}
	if !r.in.Abilities.Weft {
		if len(r.g.CA.CRLs) > 0 {
			trusted.Crl, trusted.OnlyVerifyLeafCertCrl = inline(strings.Join(r.g.CA.CRLs, "")), true
		}
		if byURI := slices.ContainsFunc(all, func(v catalog.Revoked) bool { return v.URI != "" }); byURI || len(r.g.CA.CRLs) == 0 {
			r.warn("certificates were revoked of which this Envoy can't be told: it knows them by serial number alone, and only where the servers hold the issuers' keys")
		}
		return nil
	}
	list := &structpb.ListValue{}
	for _, v := range all {
		fields := map[string]any{"serial": v.Serial}
		if v.URI != "" {
			fields = map[string]any{"uri": v.URI, "before": v.Before.UTC().Format(time.RFC3339)}
		}
		entry, err := structpb.NewStruct(fields)
		if err != nil {
			return err
		}
		list.Values = append(list.Values, structpb.NewStructValue(entry))
	}
	a, err := pack(&structpb.Struct{Fields: map[string]*structpb.Value{"revoked": structpb.NewListValue(list)}})
	trusted.CustomValidatorConfig = &corev3.TypedExtensionConfig{Name: RevokedValidator, TypedConfig: a}
	return err
}

// sinceRevoked marks the filter chain that callers come in by with the revocation lists: Envoy drains a chain that changes, and so looks
// anew at everybody who is connected.
func (r *renderer) sinceRevoked() *corev3.Metadata {
	if r.in.Abilities.Weft || len(r.g.CA.CRLs) == 0 {
		return nil
	}
	sum := sha256.New()
	for _, v := range r.g.CA.Revoked { // not the lists, which are signed anew for other reasons
		if v.Serial != "" {
			sum.Write([]byte(v.Serial + "\n"))
		}
	}
	return &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{RevokedValidator: {Fields: map[string]*structpb.Value{
		"serials": structpb.NewStringValue(short(sum)),
	}}}}
}

// ads is "ask the server that you have this from".
func ads() *corev3.ConfigSource {
	return &corev3.ConfigSource{
		ResourceApiVersion: corev3.ApiVersion_V3, ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}},
	}
}

func sds(name string) *tlsv3.SdsSecretConfig {
	return &tlsv3.SdsSecretConfig{Name: name, SdsConfig: ads()}
}

// commonTLS is mutual TLS by our certificate and roots, with peers whose URI one of the matchers takes.
func commonTLS(alpn []string, peers ...*matcherv3.StringMatcher) *tlsv3.CommonTlsContext {
	validation := &tlsv3.CertificateValidationContext{}
	for _, p := range peers {
		validation.MatchTypedSubjectAltNames = append(validation.MatchTypedSubjectAltNames, &tlsv3.SubjectAltNameMatcher{
			SanType: tlsv3.SubjectAltNameMatcher_URI, Matcher: p,
		})
	}
	return &tlsv3.CommonTlsContext{
		TlsParams: &tlsv3.TlsParameters{
			TlsMinimumProtocolVersion: tlsv3.TlsParameters_TLSv1_3, TlsMaximumProtocolVersion: tlsv3.TlsParameters_TLSv1_3,
			EcdhCurves: []string{"X25519MLKEM768", "X25519", "P-256"}, // the hybrid group first, as Go has it
		},
		AlpnProtocols:                  alpn,
		TlsCertificateSdsSecretConfigs: []*tlsv3.SdsSecretConfig{sds(LeafSecret)},
		ValidationContextType: &tlsv3.CommonTlsContext_CombinedValidationContext{
			CombinedValidationContext: &tlsv3.CommonTlsContext_CombinedCertificateValidationContext{
				DefaultValidationContext: validation, ValidationContextSdsSecretConfig: sds(RootsSecret),
			},
		},
	}
}

func transportSocket(m validated) (*corev3.TransportSocket, error) {
	a, err := pack(m)
	if err != nil {
		return nil, err
	}
	return &corev3.TransportSocket{Name: "envoy.transport_sockets.tls", ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: a}}, nil
}

// downstreamTLS takes every service of the trust domain; who may do what is for the intentions.
func (r *renderer) downstreamTLS(alpn []string) (*corev3.TransportSocket, error) {
	return transportSocket(&tlsv3.DownstreamTlsContext{
		RequireClientCertificate: wrapperspb.Bool(true),
		CommonTlsContext: commonTLS(alpn, &matcherv3.StringMatcher{
			MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: "spiffe://" + string(r.td) + "/"},
		}),
		// A resumed session would skip the check of who it is.
		SessionTicketKeysType:            &tlsv3.DownstreamTlsContext_DisableStatelessSessionResumption{DisableStatelessSessionResumption: true},
		DisableStatefulSessionResumption: true,
	})
}

// warnTLS says where the mesh entry asks for a version of TLS that isn't spoken.
func (r *renderer) warnTLS() {
	if r.g.Mesh == nil || r.g.Mesh.TLS == nil {
		return
	}
	for where, v := range map[string]*catalog.TLSRange{"Incoming": r.g.Mesh.TLS.Incoming, "Outgoing": r.g.Mesh.TLS.Outgoing} {
		if v != nil && (v.TLSMaxVersion != "" && v.TLSMaxVersion != "TLSv1_3" && v.TLSMaxVersion != "TLS_AUTO") {
			r.warn("mesh: TLS.%s.TLSMaxVersion %s has no effect: sidecars speak TLS 1.3 to each other", where, v.TLSMaxVersion)
		}
	}
}

// upstreamTLS insists on one of the identities.
func upstreamTLS(sni string, alpn []string, ids []identity.Service) (*corev3.TransportSocket, error) {
	var peers []*matcherv3.StringMatcher
	for _, id := range ids {
		peers = append(peers, &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: id.String()}})
	}
	return transportSocket(&tlsv3.UpstreamTlsContext{Sni: sni, CommonTlsContext: commonTLS(alpn, peers...), MaxSessionKeys: wrapperspb.UInt32(0)})
}
