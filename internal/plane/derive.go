// SPDX-License-Identifier: Apache-2.0

package plane

import (
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"time"
)

const (
	// ownLife is how long a certificate is good that a node signs itself; it is renewed in the middle.
	ownLife = 30 * 24 * time.Hour
	// backdate is for clocks that are behind.
	backdate = 24 * time.Hour
	// minSecret is the shortest gossip key.
	minSecret = 16
)

// derivedCA is the CA that a gossip key stands for: the same certificate, byte for byte, wherever it is made.
func derivedCA(secret []byte) (*x509.Certificate, ed25519.PrivateKey, error) {
	if len(secret) < minSecret {
		return nil, nil, fmt.Errorf("the gossip key has %d bytes, fewer than %d: make one with \"weft keygen\"", len(secret), minSecret)
	}
	seed, err := hkdf.Key(sha256.New, secret, []byte("weft"), "weft agent plane CA 1", ed25519.SeedSize)
	if err != nil {
		return nil, nil, err
	}
	key := ed25519.NewKeyFromSeed(seed)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "weft agent plane"},
		NotBefore: time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key) // Ed25519 signatures have no randomness
	if err != nil {
		return nil, nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return cert, key, err
}

// derive trusts the CAs of all keys, and signs this node's certificate by the one in use.
func (p *Plane) derive() (*material, error) {
	secrets := p.c.Secrets()
	if len(secrets) == 0 {
		return nil, errors.New("there is no gossip key any more")
	}
	m := &material{roots: x509.NewCertPool(), secrets: secrets, renew: p.c.Now().Add(ownLife / 2)}
	for i, secret := range secrets {
		ca, key, err := derivedCA(secret)
		if err != nil {
			return nil, err
		}
		m.roots.AddCert(ca)
		if i == 0 {
			if m.cert, err = p.sign(ca, key); err != nil {
				return nil, err
			}
		}
	}
	return m, nil
}

// unverified is a certificate that proves nothing, so that there is TLS at all.
func (p *Plane) unverified() (*material, error) {
	cert, err := p.sign(nil, nil)
	return &material{cert: cert, renew: p.c.Now().Add(ownLife / 2)}, err
}

// sign makes a key and this node's certificate, by a CA or by itself.
func (p *Plane) sign(ca *x509.Certificate, caKey ed25519.PrivateKey) (*tls.Certificate, error) {
	pub, key, err := ed25519.GenerateKey(p.c.Rand)
	if err != nil {
		return nil, err
	}
	serial := make([]byte, 16)
	if _, err := p.c.Rand.Read(serial); err != nil {
		return nil, err
	}
	me := Peer{Server: p.c.Server, Datacenter: p.c.Datacenter, Node: p.c.NodeName}
	now := p.c.Now()
	template := &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(serial), Subject: pkix.Name{CommonName: p.c.NodeName}, URIs: []*url.URL{me.uri()},
		NotBefore: now.Add(-backdate), NotAfter: now.Add(ownLife), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	if p.c.Server {
		template.DNSNames = []string{serverName(p.c.Datacenter, p.c.Domain)}
	}
	if ca == nil {
		ca, caKey = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca, pub, caKey)
	if err != nil {
		return nil, fmt.Errorf("sign this node's certificate: %w", err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}
