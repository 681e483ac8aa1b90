// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/url"
	"time"
)

// pattern is a leaf of an authority without what differs from leaf to leaf. The standard library makes it, when the authority is
// configured; a leaf is then the pattern with a number, times, a key and a name. x509.CreateCertificate does more for each: it
// encodes all of it anew, and verifies each signature that it has just made, which took longer than signing did. Who asked for a leaf
// verifies it (NewLeaf), and so finds also what went wrong on the way.
type pattern struct {
	algorithm, issuer asn1.RawValue
	hash              crypto.Hash
	extensions        []byte // those before the alternative names, encoded one after the other
	names             pkix.Extension
}

var version3 = asn1.RawValue{FullBytes: []byte{0xa0, 3, 2, 1, 2}}
var noSubject = asn1.RawValue{FullBytes: []byte{0x30, 0}}

// leafTemplate says what a leaf is.
func leafTemplate(serial *big.Int, uri *url.URL, after, before time.Time) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber:          serial,
		URIs:                  []*url.URL{uri},
		NotBefore:             after,
		NotAfter:              before,
		BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment |
			x509.KeyUsageDataEncipherment | x509.KeyUsageKeyAgreement,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
}

// newPattern makes the pattern of an authority's leaves. That it is the authority's, and its key signs, is verified with it.
func newPattern(authority *x509.Certificate, key crypto.Signer) (*pattern, error) {
	tmpl := leafTemplate(big.NewInt(1), &url.URL{Scheme: "spiffe", Host: "pattern"}, authority.NotBefore, authority.NotAfter)
	der, err := x509.CreateCertificate(rand.Reader, tmpl, authority, authority.PublicKey, key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	var outer struct {
		TBS, Algorithm asn1.RawValue
		Signature      asn1.BitString
	}
	if _, err := asn1.Unmarshal(der, &outer); err != nil {
		return nil, err
	}
	p := &pattern{algorithm: asn1.RawValue{FullBytes: outer.Algorithm.FullBytes}, issuer: asn1.RawValue{FullBytes: cert.RawIssuer}}
	switch cert.SignatureAlgorithm {
	case x509.ECDSAWithSHA256, x509.SHA256WithRSA:
		p.hash = crypto.SHA256
	case x509.ECDSAWithSHA384:
		p.hash = crypto.SHA384
	case x509.ECDSAWithSHA512:
		p.hash = crypto.SHA512
	default:
		return nil, fmt.Errorf("leaves would be signed by %s", cert.SignatureAlgorithm)
	}
	for i, ext := range cert.Extensions {
		if i == len(cert.Extensions)-1 {
			p.names = pkix.Extension{Id: ext.Id, Critical: ext.Critical}
			break
		}
		encoded, err := asn1.Marshal(ext)
		if err != nil {
			return nil, err
		}
		p.extensions = append(p.extensions, encoded...)
	}
	if p.names.Id.String() != "2.5.29.17" {
		return nil, errors.New("the standard library puts a leaf's names elsewhere")
	}
	return p, nil
}

// sign makes a leaf.
func (p *pattern) sign(rand io.Reader, key crypto.Signer, serial *big.Int, uri *url.URL, after, before time.Time, pub *ecdsa.PublicKey) ([]byte, error) {
	spki, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, err
	}
	names := p.names
	if names.Value, err = asn1.Marshal([]asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: 6, Bytes: []byte(uri.String())}}); err != nil {
		return nil, err
	}
	last, err := asn1.Marshal(names)
	if err != nil {
		return nil, err
	}
	list, err := asn1.Marshal(asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true, Bytes: append(p.extensions[:len(p.extensions):len(p.extensions)], last...)})
	if err != nil {
		return nil, err
	}
	tbs, err := asn1.Marshal(struct {
		Version   asn1.RawValue
		Serial    *big.Int
		Algorithm asn1.RawValue
		Issuer    asn1.RawValue
		Validity  struct{ NotBefore, NotAfter time.Time }
		Subject   asn1.RawValue
		Key       asn1.RawValue
		More      asn1.RawValue
	}{
		version3, serial, p.algorithm, p.issuer, struct{ NotBefore, NotAfter time.Time }{after, before}, noSubject,
		asn1.RawValue{FullBytes: spki}, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 3, IsCompound: true, Bytes: list},
	})
	if err != nil {
		return nil, err
	}
	h := p.hash.New()
	_, _ = h.Write(tbs) // never fails
	signature, err := key.Sign(rand, h.Sum(nil), p.hash)
	if err != nil {
		return nil, err
	}
	return asn1.Marshal(struct {
		TBS       asn1.RawValue
		Algorithm asn1.RawValue
		Signature asn1.BitString
	}{asn1.RawValue{FullBytes: tbs}, p.algorithm, asn1.BitString{Bytes: signature, BitLength: 8 * len(signature)}})
}
