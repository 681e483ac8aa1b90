// SPDX-License-Identifier: Apache-2.0

package plane

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/url"
	"strings"
	"time"
)

const requestType = "CERTIFICATE REQUEST"

const (
	// NodeLife is how long a node's certificate is good that an Authority signs. It is renewed from the middle on.
	NodeLife = 30 * 24 * time.Hour
	caLife   = 20 * 365 * 24 * time.Hour
)

// Authority signs nodes' certificates. Servers alone have it.
type Authority struct {
	Cert *x509.Certificate
	key  crypto.Signer
}

// NewAuthority makes one.
func NewAuthority(datacenter string, random io.Reader, now time.Time) (*Authority, error) {
	pub, key, err := ed25519.GenerateKey(random)
	if err != nil {
		return nil, err
	}
	serial, err := newSerial(random)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "weft nodes of " + datacenter}, NotBefore: now.Add(-backdate), NotAfter: now.Add(caLife),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(random, template, template, pub, key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return &Authority{cert, key}, err
}

func newSerial(random io.Reader) (*big.Int, error) {
	serial := make([]byte, 16)
	if _, err := io.ReadFull(random, serial); err != nil {
		return nil, err
	}
	serial[0] &= 0x7f
	return new(big.Int).SetBytes(serial), nil
}

// ParseAuthority reads what PEM gave.
func ParseAuthority(certPEM, keyPEM string) (*Authority, error) {
	cert, err := parseCert([]byte(certPEM))
	if err != nil {
		return nil, err
	}
	key, err := parseKey([]byte(keyPEM))
	if err != nil {
		return nil, err
	}
	if pub, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !pub.Equal(cert.PublicKey) {
		return nil, errors.New("the key isn't the certificate's")
	}
	return &Authority{cert, key}, nil
}

// PEM gives certificate and key.
func (a *Authority) PEM() (cert, key string, err error) {
	der, err := x509.MarshalPKCS8PrivateKey(a.key)
	if err != nil {
		return "", "", err
	}
	return encodeCert(a.Cert.Raw), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), nil
}

// Pin is what a join token knows the authority by: the SHA-256 of its public key, in hex.
func (a *Authority) Pin() string { return pinOf(a.Cert) }

func pinOf(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

// KeyOf checks a request for a certificate, and gives the SHA-256 of its public key, in hex.
func KeyOf(csrPEM string) (string, error) {
	csr, err := parseRequest(csrPEM)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(csr.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:]), nil
}

// parseRequest takes keys of two kinds, those that nodes make.
func parseRequest(csrPEM string) (*x509.CertificateRequest, error) {
	block, rest := pem.Decode([]byte(csrPEM))
	if block == nil || block.Type != requestType || len(rest) > 0 {
		return nil, errors.New("there is no request for a certificate in PEM")
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("the request for a certificate can't be read: %w", err)
	}
	switch key := csr.PublicKey.(type) {
	case ed25519.PublicKey:
	case *ecdsa.PublicKey:
		if key.Curve != elliptic.P256() {
			return nil, errors.New("the request's key is of another curve than P-256")
		}
	default:
		return nil, fmt.Errorf("the request has a %s key: want Ed25519 or ECDSA P-256", csr.PublicKeyAlgorithm)
	}
	return csr, csr.CheckSignature()
}

// Sign makes a node's certificate, as PEM. Of the request only the public key counts: who the node is, says the caller.
func (a *Authority) Sign(csrPEM string, who Peer, domain string, random io.Reader, now time.Time) (string, error) {
	csr, err := parseRequest(csrPEM)
	if err != nil {
		return "", err
	}
	if who.Node == "" || who.Datacenter == "" || strings.ContainsAny(who.Node+who.Datacenter, "/?#%\x00") {
		return "", fmt.Errorf("%q in %q is no name for a node", who.Node, who.Datacenter)
	}
	serial, err := newSerial(random)
	if err != nil {
		return "", err
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: who.Node}, URIs: []*url.URL{who.uri()}, NotBefore: now.Add(-backdate), NotAfter: now.Add(NodeLife),
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	if who.Server {
		template.DNSNames = []string{serverName(who.Datacenter, domain)}
	}
	der, err := x509.CreateCertificate(random, template, a.Cert, csr.PublicKey, a.key)
	if err != nil {
		return "", err
	}
	return encodeCert(der), nil
}

func encodeCert(der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func parseCert(data []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("no certificate in PEM")
	}
	return x509.ParseCertificate(block.Bytes)
}

func parseKey(data []byte) (crypto.Signer, error) {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, errors.New("no private key in PEM")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("a %T can't sign", key)
	}
	return signer, nil
}
