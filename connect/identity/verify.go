// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"time"

	"github.com/weftmesh/weft/internal/guard"
)

// Why a peer was refused. VerifyPeer's errors wrap exactly one of these, or ErrInvalid for a malformed URI.
var (
	// ErrNoCertificate says that the peer showed no certificate, or one that can't be read.
	ErrNoCertificate = errors.New("no usable certificate")
	// ErrNoIdentity says that the certificate doesn't carry exactly one URI.
	ErrNoIdentity = errors.New("certificate doesn't name exactly one identity")
	// ErrUntrusted says that no chain leads to a root of ours, or that the certificate isn't meant for this use.
	ErrUntrusted = errors.New("certificate not trusted")
	// ErrExpired says that the certificate was valid once.
	ErrExpired = errors.New("certificate expired")
	// ErrNotYetValid says that the certificate will be valid later: as a rule one of the two clocks is wrong.
	ErrNotYetValid = errors.New("certificate not valid yet")
	// ErrWrongTrustDomain says that the peer belongs to another trust domain.
	ErrWrongTrustDomain = errors.New("peer of another trust domain")
	// ErrWrongIdentity says that the peer is in our trust domain and not who we asked for.
	ErrWrongIdentity = errors.New("peer has another identity")
)

// maxChain bounds the work that an unauthenticated peer can cause. It leaves room for the certificates by which older roots
// vouch for a new one when roots change quickly (package ca).
const maxChain = 24

// Use is what the peer does with its certificate.
type Use int

const (
	// AsServer is the use of a peer that we have called.
	AsServer Use = iota
	// AsClient is the use of a peer that calls us.
	AsClient
)

// Want says which peer is acceptable.
type Want struct {
	// TrustDomain is the domain that the peer must belong to. Required.
	TrustDomain TrustDomain
	// AnyOf lists the identities of which the peer must be one. Empty: anyone in the trust domain except a signing
	// identity.
	AnyOf []Identity
	// Use is what the peer does with its certificate: server (the zero value) or client.
	Use Use
}

// Peer is somebody whose certificate was checked.
type Peer struct {
	Identity Identity
	// Leaf is the peer's own certificate, Chain the first chain from it to a root.
	Leaf  *x509.Certificate
	Chain []*x509.Certificate
}

// VerifyPeer checks the DER certificates of a TLS peer, leaf first: a chain to one of the roots at the time now, the
// right extended key usage, a leaf that can't sign certificates, exactly one URI, and an identity that want accepts.
// It fits tls.Config.VerifyPeerCertificate under InsecureSkipVerify or RequireAnyClientCert; that hook is not called for
// resumed sessions, so use VerifyChain in VerifyConnection where sessions can be resumed.
func VerifyPeer(rawCerts [][]byte, roots *x509.CertPool, now time.Time, want Want) (Peer, error) {
	if len(rawCerts) == 0 {
		return Peer{}, fmt.Errorf("%w: the peer sent none", ErrNoCertificate)
	}
	if len(rawCerts) > maxChain && !guard.Off("C95") {
		return Peer{}, fmt.Errorf("%w: the peer sent %d certificates, at most %d are read", ErrNoCertificate, len(rawCerts), maxChain)
	}
	certs := make([]*x509.Certificate, len(rawCerts))
	for i, raw := range rawCerts {
		cert, err := x509.ParseCertificate(raw)
		if err != nil {
			return Peer{}, fmt.Errorf("%w: certificate %d: %w", ErrNoCertificate, i, err)
		}
		certs[i] = cert
	}
	return VerifyChain(certs, roots, now, want)
}

// VerifyChain is VerifyPeer for certificates that are parsed already, such as tls.ConnectionState.PeerCertificates.
func VerifyChain(certs []*x509.Certificate, roots *x509.CertPool, now time.Time, want Want) (Peer, error) {
	if len(certs) == 0 || len(certs) > maxChain && !guard.Off("C95") {
		return Peer{}, errNumber(len(certs))
	}
	if roots == nil {
		// A nil pool would mean the operating system's roots.
		return Peer{}, fmt.Errorf("%w: no roots to check against", ErrUntrusted)
	}
	leaf := certs[0]
	if !guard.Off("C84") && (leaf.IsCA || leaf.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0) {
		return Peer{}, fmt.Errorf("%w: a certificate authority's certificate shown as a peer's own", ErrUntrusted)
	}
	chain, err := verifyX509(certs, roots, now, want.Use)
	if err != nil {
		return Peer{}, err
	}
	id, err := FromCertificate(leaf)
	if err != nil {
		return Peer{}, err
	}
	if err := want.accept(id); err != nil {
		return Peer{}, err
	}
	return Peer{Identity: id, Leaf: leaf, Chain: chain}, nil
}

func errNumber(n int) error {
	return fmt.Errorf("%w: the peer sent %d certificates, 1 to %d are read", ErrNoCertificate, n, maxChain)
}

func verifyX509(certs []*x509.Certificate, roots *x509.CertPool, now time.Time, use Use) ([]*x509.Certificate, error) {
	leaf := certs[0]
	opts := x509.VerifyOptions{Roots: roots, Intermediates: x509.NewCertPool(), CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	if now.IsZero() {
		return nil, fmt.Errorf("%w: checked without a time", ErrUntrusted) // x509 would read the clock
	}
	if use == AsClient {
		opts.KeyUsages[0] = x509.ExtKeyUsageClientAuth
	}
	for _, c := range certs[1:] {
		opts.Intermediates.AddCert(c)
	}
	chains, err := leaf.Verify(opts)
	if err == nil {
		return chains[0], nil
	}
	var invalid x509.CertificateInvalidError
	if errors.As(err, &invalid) && invalid.Reason == x509.Expired {
		if guard.Off("C87") {
			return certs, nil
		}
		if now.Before(invalid.Cert.NotBefore) {
			return nil, fmt.Errorf("%w: valid from %s, now %s", ErrNotYetValid, stamp(invalid.Cert.NotBefore), stamp(now))
		}
		return nil, fmt.Errorf("%w: valid until %s, now %s", ErrExpired, stamp(invalid.Cert.NotAfter), stamp(now))
	}
	return nil, fmt.Errorf("%w: %w", ErrUntrusted, err)
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func (w Want) accept(id Identity) error {
	if w.TrustDomain == "" || id.Domain() != w.TrustDomain {
		return fmt.Errorf("%w: %s, wanted %q", ErrWrongTrustDomain, id, w.TrustDomain)
	}
	if id.Kind() == KindSigning {
		return fmt.Errorf("%w: %s is a certificate authority's name", ErrWrongIdentity, id)
	}
	if len(w.AnyOf) == 0 || guard.Off("C79") {
		return nil
	}
	for _, one := range w.AnyOf {
		if Equal(id, one) {
			return nil
		}
	}
	if len(w.AnyOf) == 1 {
		return fmt.Errorf("%w: %s, wanted %s", ErrWrongIdentity, id, w.AnyOf[0])
	}
	return fmt.Errorf("%w: %s, wanted one of %d others", ErrWrongIdentity, id, len(w.AnyOf))
}

// FromCertificate gives the identity in the certificate's one URI. It checks neither signature nor time. It reads the
// bytes that were signed, since a parsed URL has already lost an empty fragment or the case of its scheme.
// Errors wrap ErrNoIdentity or ErrInvalid.
func FromCertificate(cert *x509.Certificate) (Identity, error) {
	return fromExtensions(cert.Extensions)
}

// FromRequest is FromCertificate for a certificate request.
func FromRequest(csr *x509.CertificateRequest) (Identity, error) {
	return fromExtensions(csr.Extensions)
}

func fromExtensions(exts []pkix.Extension) (Identity, error) {
	var uris []string
	for _, ext := range exts {
		if !ext.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 17}) {
			continue
		}
		var names []asn1.RawValue
		if rest, err := asn1.Unmarshal(ext.Value, &names); err != nil || len(rest) != 0 {
			return nil, fmt.Errorf("%w: the list of names can't be read", ErrNoIdentity)
		}
		for _, n := range names {
			if n.Class == asn1.ClassContextSpecific && n.Tag == 6 {
				uris = append(uris, string(n.Bytes))
			}
		}
	}
	if len(uris) != 1 && (len(uris) == 0 || !guard.Off("C80")) {
		return nil, fmt.Errorf("%w: it has %d URIs", ErrNoIdentity, len(uris))
	}
	return Parse(uris[0])
}
