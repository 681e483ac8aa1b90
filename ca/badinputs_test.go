// SPDX-License-Identifier: Apache-2.0

package ca_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"net"
	"net/url"
	"strings"
	"testing"

	"github.com/weftmesh/weft/ca"
)

// request makes a request as somebody with bad intentions would.
func request(t *testing.T, key crypto.Signer, change func(*x509.CertificateRequest)) string {
	t.Helper()
	u, err := url.Parse(web.String())
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.CertificateRequest{URIs: []*url.URL{u}}
	if change != nil {
		change(template)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

func p256(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func refusedCSR(t *testing.T, name, csr string) {
	t.Helper()
	if _, err := ca.CheckCSR(csr, web.TrustDomain, "dc1"); !errors.Is(err, ca.ErrCSR) {
		t.Errorf("%s: %v", name, err)
	}
}

// TestC80_TwoNames: a request with a second URI is refused, whichever comes first.
func TestC80_TwoNames(t *testing.T) {
	key := p256(t)
	other := strings.Replace(web.String(), "/svc/web", "/svc/db", 1)
	second, err := url.Parse(other)
	if err != nil {
		t.Fatal(err)
	}
	refusedCSR(t, "behind", request(t, key, func(r *x509.CertificateRequest) { r.URIs = append(r.URIs, second) }))
	refusedCSR(t, "before", request(t, key, func(r *x509.CertificateRequest) { r.URIs = []*url.URL{second, r.URIs[0]} }))
	refusedCSR(t, "twice", request(t, key, func(r *x509.CertificateRequest) { r.URIs = append(r.URIs, r.URIs[0]) }))
	if _, err := ca.CheckCSR(request(t, key, nil), web.TrustDomain, "dc1"); err != nil {
		t.Errorf("the control: %v", err)
	}
}

// TestC82_MoreThanALeaf: requests for an authority, for other names, or with keys that aren't the mesh's.
func TestC82_MoreThanALeaf(t *testing.T) {
	key := p256(t)
	extension := func(id asn1.ObjectIdentifier, value any) func(*x509.CertificateRequest) {
		return func(r *x509.CertificateRequest) {
			der, err := asn1.Marshal(value)
			if err != nil {
				t.Fatal(err)
			}
			r.ExtraExtensions = append(r.ExtraExtensions, pkix.Extension{Id: id, Value: der})
		}
	}
	for name, change := range map[string]func(*x509.CertificateRequest){
		"DNS name": func(r *x509.CertificateRequest) { r.DNSNames = []string{"web"} },
		"address":  func(r *x509.CertificateRequest) { r.IPAddresses = []net.IP{{10, 0, 0, 1}} },
		"email":    func(r *x509.CertificateRequest) { r.EmailAddresses = []string{"a@b"} },
		"CA":       extension(asn1.ObjectIdentifier{2, 5, 29, 19}, struct{ CA bool }{true}),
		"signing":  extension(asn1.ObjectIdentifier{2, 5, 29, 15}, asn1.BitString{Bytes: []byte{0x04}, BitLength: 6}),
		"code":     extension(asn1.ObjectIdentifier{2, 5, 29, 37}, []asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 3}}),
	} {
		refusedCSR(t, name, request(t, key, change))
	}
	small, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, k := range map[string]crypto.Signer{"RSA": small, "P-224": p224, "Ed25519": ed} {
		refusedCSR(t, name, request(t, k, nil))
	}
	if _, err := ca.CheckCSR(request(t, key, nil), web.TrustDomain, "dc1"); err != nil {
		t.Errorf("the control: %v", err)
	}
}
