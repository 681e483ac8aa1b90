// SPDX-License-Identifier: Apache-2.0

package intake

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"

	"github.com/weftmesh/weft/connect/identity"
	"github.com/weftmesh/weft/connect/proxy/config"
	"github.com/weftmesh/weft/connect/proxy/mux"
)

// sanMatch is a condition on the peer's URI.
type sanMatch = config.StringMatch

// trust is how the peer of a TLS context is checked: which secrets hold our certificate and the roots, and who it may be.
type trust struct {
	s        *secrets
	leaf     string // secret's name
	roots    string
	sans     []sanMatch // any of them; empty: anyone of our trust domain
	use      identity.Use
	required bool
}

// names are the secrets that the context refers to.
func (t *trust) names() []string {
	var n []string
	for _, s := range []string{t.leaf, t.roots} {
		if s != "" {
			n = append(n, s)
		}
	}
	return n
}

// identity changes with the certificate and the roots.
func (t *trust) identity() string {
	id := ""
	for _, n := range t.names() {
		if s := t.s.get(n); s != nil {
			id += s.hash + "/"
		}
	}
	return id
}

// compileContext reads the part of a TLS context that both sides share.
func (w *world) compileContext(m *tlsv3.CommonTlsContext, use identity.Use) (*trust, []string, error) {
	if err := only(m, commonFields); err != nil {
		return nil, nil, fmt.Errorf("common_tls_context: %w", err)
	}
	t := &trust{s: w.secrets, use: use}
	switch {
	case len(m.GetTlsCertificateSdsSecretConfigs()) == 1:
		t.leaf = m.GetTlsCertificateSdsSecretConfigs()[0].GetName()
	case len(m.GetTlsCertificateSdsSecretConfigs()) > 1:
		return nil, nil, errors.New("common_tls_context.tls_certificate_sds_secret_configs: more than one")
	case len(m.GetTlsCertificates()) > 0:
		return nil, nil, errors.New("common_tls_context.tls_certificates: certificates come by SDS")
	}
	switch v := m.GetValidationContextType().(type) {
	case *tlsv3.CommonTlsContext_ValidationContextSdsSecretConfig:
		t.roots = v.ValidationContextSdsSecretConfig.GetName()
	case *tlsv3.CommonTlsContext_CombinedValidationContext:
		t.roots = v.CombinedValidationContext.GetValidationContextSdsSecretConfig().GetName()
		if err := only(v.CombinedValidationContext.GetDefaultValidationContext(), "match_typed_subject_alt_names"); err != nil {
			return nil, nil, fmt.Errorf("default_validation_context: %w", err)
		}
		sans, err := compileSANs(v.CombinedValidationContext.GetDefaultValidationContext())
		if err != nil {
			return nil, nil, err
		}
		t.sans = sans
	case nil:
		return nil, nil, errors.New("common_tls_context.validation_context_type is missing: the peer wouldn't be checked")
	default:
		return nil, nil, fmt.Errorf("common_tls_context.validation_context_type %T: roots come by SDS", v)
	}
	return t, m.GetAlpnProtocols(), nil
}

func compileSANs(m *tlsv3.CertificateValidationContext) ([]sanMatch, error) {
	var out []sanMatch
	for i, s := range m.GetMatchTypedSubjectAltNames() {
		if s.GetSanType() != tlsv3.SubjectAltNameMatcher_URI {
			return nil, fmt.Errorf("match_typed_subject_alt_names[%d]: only URI names are checked", i)
		}
		match, err := compileString(s.GetMatcher())
		if err != nil {
			return nil, fmt.Errorf("match_typed_subject_alt_names[%d]: %w", i, err)
		}
		out = append(out, match)
	}
	return out, nil
}

// ErrNoSecret says that the certificate or the roots aren't there.
var ErrNoSecret = errors.New("the certificate or the roots aren't there yet")

// certificate is our own.
func (t *trust) certificate() (*tls.Certificate, error) {
	s := t.s.get(t.leaf)
	if s == nil || s.cert == nil {
		return nil, ErrNoSecret
	}
	return s.cert, nil
}

// own is the URI in our certificate.
func (t *trust) own() string {
	if s := t.s.get(t.leaf); s != nil && s.own != nil {
		return s.own.String()
	}
	return ""
}

// handshake is for tls.Config.VerifyConnection, which sees the certificates as they were parsed (VerifyPeerCertificate would have to parse
// them again), and no resumed session: there are none.
func (t *trust) handshake(cs tls.ConnectionState) error { return t.verify(cs.PeerCertificates) }

// called is handshake where we are called. The list of certificates is the connection's own, so that what is put into it is what the
// connection keeps; were it a copy one day, nothing but memory would be lost.
func (t *trust) called(cs tls.ConnectionState) error {
	err := t.handshake(cs)
	if err == nil {
		t.s.callers.share(cs.PeerCertificates)
	}
	return err
}

// verify checks the peer's certificates, at the time now, against the roots of now: chain, trust domain, and who it may be.
func (t *trust) verify(certs []*x509.Certificate) error {
	if len(certs) == 0 && !t.required {
		return nil
	}
	leaf, roots := t.s.get(t.leaf), t.s.get(t.roots)
	if leaf == nil || leaf.own == nil || roots == nil || roots.roots == nil {
		return ErrNoSecret
	}
	peer, err := roots.roots.VerifyChain(certs, t.s.now(), identity.Want{TrustDomain: leaf.own.Domain(), Use: t.use})
	if err != nil {
		return err
	}
	if err := roots.revoked.Check(certs[0]); err != nil {
		return err
	}
	sans := append(append([]sanMatch(nil), t.sans...), roots.sans...)
	if len(sans) == 0 {
		return nil
	}
	uri := peer.String()
	for i := range sans {
		if sans[i].Matches(uri) {
			return nil
		}
	}
	return fmt.Errorf("%w: %s isn't one that is called or may call here", identity.ErrWrongIdentity, uri)
}

// gone says whether a peer that was let in is to be let in no more: its certificate was revoked, or leads to no root that is trusted now. Its
// own end is none: connections outlive certificates. See config.Gone.
func (t *trust) gone(certs []*x509.Certificate, since string) (gone bool, now string) {
	own, roots := t.s.get(t.leaf), t.s.get(t.roots)
	if len(certs) == 0 || roots == nil || own == nil || own.own == nil || since == roots.hash {
		return false, since
	}
	if roots.revoked.Check(certs[0]) != nil {
		return true, since
	}
	if since == "" || strings.HasPrefix(since, roots.trusted+"/") {
		return false, roots.hash
	}
	at := t.s.now()
	if at.After(certs[0].NotAfter) {
		at = certs[0].NotAfter
	}
	_, err := roots.roots.VerifyChain(certs, at, identity.Want{TrustDomain: own.own.Domain(), Use: t.use})
	return err != nil, roots.hash
}

func (w *world) serverTLS(ts *corev3.TransportSocket) (*config.ServerTLS, []string, error) {
	m, err := read[*tlsv3.DownstreamTlsContext](ts.GetTypedConfig())
	if err != nil {
		return nil, nil, fmt.Errorf("transport_socket: %w", err)
	}
	if err := only(m, serverFields); err != nil {
		return nil, nil, fmt.Errorf("transport_socket: %w", err)
	}
	t, alpn, err := w.compileContext(m.GetCommonTlsContext(), identity.AsClient)
	if err != nil {
		return nil, nil, fmt.Errorf("transport_socket: %w", err)
	}
	t.required = m.GetRequireClientCertificate().GetValue()
	if !t.required {
		return nil, nil, errors.New("transport_socket.require_client_certificate: must be true, only mutual TLS is served")
	}
	if t.leaf == "" {
		return nil, nil, errors.New("transport_socket: no certificate to show")
	}
	if slices.Contains(alpn, "http/1.1") {
		alpn = append([]string{mux.ALPN}, alpn...) // what others than us don't ask for
	}
	conf := &tls.Config{
		DynamicRecordSizingDisabled: true, // small records for the first bytes gain nothing between hosts of one network
		MinVersion:                  tls.VersionTLS13, NextProtos: alpn, ClientAuth: tls.RequireAnyClientCert,
		GetCertificate:   func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return t.certificate() },
		VerifyConnection: t.called,
		// A resumed session would skip the check of the identity.
		SessionTicketsDisabled: true,
	}
	return &config.ServerTLS{Config: conf, Own: t.own, Require: true, Gone: t.gone}, t.names(), nil
}

func (w *world) clientTLS(ts *corev3.TransportSocket) (*config.ClientTLS, *trust, error) {
	m, err := read[*tlsv3.UpstreamTlsContext](ts.GetTypedConfig())
	if err != nil {
		return nil, nil, fmt.Errorf("transport_socket: %w", err)
	}
	if err := only(m, clientFields); err != nil {
		return nil, nil, fmt.Errorf("transport_socket: %w", err)
	}
	t, alpn, err := w.compileContext(m.GetCommonTlsContext(), identity.AsServer)
	if err != nil {
		return nil, nil, fmt.Errorf("transport_socket: %w", err)
	}
	t.required = true
	conf := &tls.Config{
		DynamicRecordSizingDisabled: true, // as above

		MinVersion: tls.VersionTLS13, NextProtos: alpn, ServerName: m.GetSni(),
		InsecureSkipVerify: true, //nolint:gosec // verify checks chain, time and identity; names of hosts mean nothing in the mesh
		VerifyConnection:   t.handshake,
	}
	if t.leaf != "" {
		conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return t.certificate() }
	}
	return &config.ClientTLS{Config: conf, Gone: t.gone}, t, nil
}
