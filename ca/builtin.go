// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"context"
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/weftmesh/weft/connect/identity"
)

// BuiltinName is the built-in provider's name in the configuration.
const BuiltinName = "consul"

// Builtin is the provider that keeps its keys in the State. Make it with NewBuiltin.
type Builtin struct {
	rand io.Reader
	cur  atomic.Pointer[authority]
}

// authority is a Setup, parsed. The certificates are nil before there is material.
type authority struct {
	setup        Setup
	root         *x509.Certificate
	rootKey      crypto.Signer
	inter        *x509.Certificate
	interKey     crypto.Signer
	intermediate string // PEM text
	leaves       *pattern
	crosses      []crossCert
}

var _ Provider = (*Builtin)(nil)

// NewBuiltin makes a provider that draws keys and serial numbers from rand, which must be safe for concurrent use if Sign
// is called concurrently. Configure comes next.
func NewBuiltin(rand io.Reader) *Builtin { return &Builtin{rand: rand} }

// Name is BuiltinName.
func (b *Builtin) Name() string { return BuiltinName }

// Configure checks the setup and uses it from the next call on. On an error the old one stays in use.
func (b *Builtin) Configure(s Setup) error {
	if err := s.TrustDomain.Validate(); err != nil {
		return fmt.Errorf("%w: %w", ErrConfig, err)
	}
	if err := s.Config.Validate(); err != nil {
		return err
	}
	s.Config = s.Config.WithDefaults()
	a := &authority{setup: s}
	if s.Material.RootCert != "" {
		if err := a.load(s.Material); err != nil {
			return fmt.Errorf("%w: %w", ErrConfig, err)
		}
	}
	b.cur.Store(a)
	return nil
}

func (a *authority) load(m Material) error {
	var err error
	if m.Keys.Root == "" { // it is elsewhere: a delegated one's, or the primary datacenter's (see Follow)
		if a.root, err = ParseCert(m.RootCert); err != nil {
			return fmt.Errorf("root: %w", err)
		}
	} else if a.root, a.rootKey, err = pair(m.RootCert, m.Keys.Root); err != nil {
		return fmt.Errorf("root: %w", err)
	}
	if a.inter, a.interKey, err = pair(m.IntermediateCert, m.Keys.Intermediate); err != nil {
		return fmt.Errorf("intermediate: %w", err)
	}
	if err := a.inter.CheckSignatureFrom(a.root); err != nil {
		return fmt.Errorf("the intermediate isn't signed by the root: %w", err)
	}
	if a.leaves, err = newPattern(a.inter, a.interKey); err != nil {
		return fmt.Errorf("the intermediate can't sign leaves: %w", err)
	}
	a.intermediate, a.crosses = m.IntermediateCert, nil
	for _, text := range m.CrossCerts {
		cert, err := ParseCert(text)
		if err != nil {
			return fmt.Errorf("cross-signed certificate: %w", err)
		}
		a.crosses = append(a.crosses, crossCert{text, cert.NotBefore.Add(Backdate)})
	}
	return nil
}

// crossCert is a certificate by which an older root vouches for a newer one.
type crossCert struct {
	text string
	made time.Time
}

// chain is what a leaf carries that is signed now: its intermediate, and what leads to older roots, the newest first.
func (a *authority) chain(now time.Time) string {
	var b strings.Builder
	b.WriteString(a.intermediate)
	for i, c := range a.crosses {
		if i < fewCrossCerts || now.Sub(c.made) < bridgeTime {
			b.WriteString(c.text)
		}
	}
	return b.String()
}

// pair reads a certificate of an authority and its key.
func pair(certPEM, keyPEM string) (*x509.Certificate, crypto.Signer, error) {
	cert, err := ParseCert(certPEM)
	if err != nil {
		return nil, nil, err
	}
	key, err := parseKey(keyPEM)
	if err != nil {
		return nil, nil, err
	}
	if !sameKey(cert.PublicKey, key) {
		return nil, nil, errors.New("the private key doesn't belong to the certificate")
	}
	if !cert.IsCA || !cert.BasicConstraintsValid || cert.KeyUsage&x509.KeyUsageCertSign == 0 {
		return nil, nil, errors.New("the certificate isn't one of an authority that may sign")
	}
	return cert, key, nil
}

// givenRoot reads the root in the configuration.
func givenRoot(c Config) (*x509.Certificate, crypto.Signer, error) {
	cert, key, err := pair(c.RootCert, string(c.PrivateKey))
	if err != nil {
		return nil, nil, fmt.Errorf("%w: RootCert and PrivateKey: %w", ErrConfig, err)
	}
	if kind, bits := keyKind(cert.PublicKey); checkKeyKind(kind, bits) != nil {
		return nil, nil, fmt.Errorf("%w: RootCert: its key is %s, must be ec with 256, 384 or 521 bits or rsa with 2048 or 4096", ErrConfig, describeKey(cert.PublicKey))
	}
	if cert.MaxPathLenZero || cert.MaxPathLen == 0 {
		return nil, nil, fmt.Errorf("%w: RootCert: its path length is 0, so it can't have an intermediate", ErrConfig)
	}
	return cert, key, nil
}

func (b *Builtin) current() (*authority, error) {
	a := b.cur.Load()
	if a == nil {
		return nil, fmt.Errorf("%w: it isn't configured", ErrNotReady)
	}
	return a, nil
}

// holding gives the authority if the root's key is here.
func (b *Builtin) holding() (*authority, error) {
	a, err := b.ready()
	if err == nil && a.rootKey == nil {
		err = ErrNoRootKey
	}
	return a, err
}

// ready gives the authority if it can sign leaves.
func (b *Builtin) ready() (*authority, error) {
	a, err := b.current()
	if err == nil && a.root == nil {
		err = ErrNotReady
	}
	return a, err
}

// GenerateRoot implements Provider.
func (b *Builtin) GenerateRoot(_ context.Context, now time.Time) (Material, error) {
	a, err := b.current()
	if err != nil {
		return Material{}, err
	}
	next := &authority{setup: a.setup}
	if cfg := a.setup.Config; cfg.RootCert != "" {
		if next.root, next.rootKey, err = givenRoot(cfg); err == nil {
			err = inTime(next.root, now)
		}
	} else {
		next.root, next.rootKey, err = b.selfSigned(a.setup, now)
	}
	if err != nil {
		return Material{}, err
	}
	return b.withIntermediate(next, now)
}

// Intermediate implements Provider.
func (b *Builtin) Intermediate(_ context.Context, now time.Time) (Material, error) {
	a, err := b.holding()
	if err != nil {
		return Material{}, err
	}
	return b.withIntermediate(a, now)
}

// Maintain implements Provider: there is nothing to do.
func (b *Builtin) Maintain(context.Context, time.Time) (time.Time, error) { return time.Time{}, nil }

// CrossSign implements Provider.
func (b *Builtin) CrossSign(_ context.Context, other *x509.Certificate, now time.Time) (string, error) {
	a, err := b.holding()
	if err != nil {
		return "", err
	}
	if err := inTime(a.root, now); err != nil {
		return "", err
	}
	if !other.IsCA || !other.BasicConstraintsValid {
		return "", errors.New("cross-sign: the certificate isn't one of an authority")
	}
	if n := a.root.MaxPathLen; n == 0 || n == 1 {
		return "", fmt.Errorf("%w (the old root allows %d authorities below it, cross-signing needs two)", ErrNoCrossSigning, n)
	}
	serial, err := newSerial(b.rand, 128)
	if err != nil {
		return "", err
	}
	tmpl := authorityTemplate(serial, pkix.Name{}, a.setup.TrustDomain)
	// Name and key ID must be the same bytes, so that a chain can go through either certificate.
	tmpl.RawSubject, tmpl.SubjectKeyId = other.RawSubject, other.SubjectKeyId
	tmpl.NotBefore, tmpl.NotAfter = now.Add(-Backdate), earlier(a.root.NotAfter, other.NotAfter)
	der, err := x509.CreateCertificate(b.rand, tmpl, a.root, other.PublicKey, a.rootKey)
	if err != nil {
		return "", fmt.Errorf("cross-sign: %w", err)
	}
	return encodeCert(der), nil
}

// selfSigned makes a root. Its serial number fits the 64 bits that the record has for it.
func (b *Builtin) selfSigned(s Setup, now time.Time) (*x509.Certificate, crypto.Signer, error) {
	key, err := newAuthorityKey(s.Config, b.rand)
	if err != nil {
		return nil, nil, err
	}
	serial, err := newSerial(b.rand, 64)
	if err != nil {
		return nil, nil, err
	}
	name, err := b.commonName("pri", s.TrustDomain)
	if err != nil {
		return nil, nil, err
	}
	tmpl := authorityTemplate(serial, name, s.TrustDomain)
	tmpl.NotBefore, tmpl.NotAfter = now.Add(-Backdate), now.Add(s.Config.RootCertTTL)
	cert, err := b.create(tmpl, tmpl, key.Public(), key)
	if err != nil {
		return nil, nil, fmt.Errorf("make a root: %w", err)
	}
	return cert, key, nil
}

// withIntermediate gives the authority's material with a new intermediate, which doesn't outlive the root.
func (b *Builtin) withIntermediate(a *authority, now time.Time) (Material, error) {
	key, err := newAuthorityKey(a.setup.Config, b.rand)
	if err != nil {
		return Material{}, err
	}
	cert, err := b.intermediateFor(a, key.Public(), now)
	if err != nil {
		return Material{}, err
	}
	m := Material{RootCert: encodeCert(a.root.Raw), IntermediateCert: encodeCert(cert.Raw), CrossCerts: a.setup.Material.CrossCerts}
	if a.setup.Material.RootCert != m.RootCert {
		m.CrossCerts = nil // they certify another key
	}
	if m.Keys.Root, err = encodeKey(a.rootKey); err != nil {
		return Material{}, err
	}
	if m.Keys.Intermediate, err = encodeKey(key); err != nil {
		return Material{}, err
	}
	return m, nil
}

// intermediateFor makes the certificate of an intermediate that has the key.
func (b *Builtin) intermediateFor(a *authority, key crypto.PublicKey, now time.Time) (*x509.Certificate, error) {
	if err := inTime(a.root, now); err != nil {
		return nil, err
	}
	serial, err := newSerial(b.rand, 128)
	if err != nil {
		return nil, err
	}
	name, err := b.commonName("int", a.setup.TrustDomain)
	if err != nil {
		return nil, err
	}
	tmpl := authorityTemplate(serial, name, a.setup.TrustDomain)
	tmpl.NotBefore, tmpl.NotAfter = now.Add(-Backdate), earlier(a.root.NotAfter, now.Add(a.setup.Config.IntermediateCertTTL))
	tmpl.MaxPathLenZero = true
	cert, err := b.create(tmpl, a.root, key, a.rootKey)
	if err != nil {
		return nil, fmt.Errorf("make an intermediate: %w", err)
	}
	return cert, nil
}

func (b *Builtin) create(tmpl, parent *x509.Certificate, pub crypto.PublicKey, by crypto.Signer) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(b.rand, tmpl, parent, pub, by)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

func (b *Builtin) commonName(role string, td identity.TrustDomain) (pkix.Name, error) {
	name, err := CommonName(role, BuiltinName, td, b.rand)
	return pkix.Name{CommonName: name}, err
}

func authorityTemplate(serial *big.Int, subject pkix.Name, td identity.TrustDomain) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber:          serial,
		Subject:               subject,
		URIs:                  []*url.URL{{Scheme: "spiffe", Host: string(td)}},
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature,
	}
}

// inTime checks that the authority's certificate is valid at now.
func inTime(cert *x509.Certificate, now time.Time) error {
	if now.Before(cert.NotBefore) || !now.Before(cert.NotAfter) {
		return fmt.Errorf("%w: %s is valid from %s to %s, now is %s", ErrExpired, cert.Subject.CommonName,
			cert.NotBefore.UTC().Format(time.RFC3339), cert.NotAfter.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	return nil
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
