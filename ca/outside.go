// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"cmp"
	"context"
	"crypto"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
	"time"

	"github.com/weftmesh/weft/connect/identity"
)

// What authorities outside of this process give back is checked here, as if strangers had sent it.

// CheckRoot reads the root that an authority elsewhere gave: a certificate of an authority that is in its time.
func CheckRoot(text string, now time.Time) (*x509.Certificate, error) {
	root, err := ParseCert(strings.TrimSpace(text) + "\n")
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: its root: %w", ErrProvider, err)
	case !mayIssue(root):
		return nil, fmt.Errorf("%w: its root isn't the certificate of an authority that may sign", ErrProvider)
	case root.MaxPathLen == 0 && root.MaxPathLenZero:
		return nil, fmt.Errorf("%w: the path length of its root is 0, so it can't have an intermediate", ErrProvider)
	}
	return root, inTime(root, now)
}

// CheckIntermediate reads an intermediate that an authority elsewhere signed for pub (nil: its own key). What lives longer than its
// root, or may have authorities below it, is refused.
func CheckIntermediate(text string, root *x509.Certificate, pub crypto.PublicKey, now time.Time) (*x509.Certificate, error) {
	bad := func(what string) error { return fmt.Errorf("%w: its intermediate %s", ErrProvider, what) }
	inter, err := ParseCert(strings.TrimSpace(text) + "\n")
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: its intermediate: %w", ErrProvider, err)
	case !mayIssue(inter):
		return nil, bad("isn't the certificate of an authority that may sign")
	case inter.CheckSignatureFrom(root) != nil:
		return nil, bad("isn't signed by its root")
	case pub != nil && !equalKeys(inter.PublicKey, pub):
		return nil, bad("is for another key than was asked for")
	case !inter.MaxPathLenZero:
		return nil, bad("may have authorities below it: its path length must be 0")
	case inter.NotAfter.After(root.NotAfter):
		return nil, bad("outlives its root")
	}
	return inter, inTime(inter, now)
}

func mayIssue(c *x509.Certificate) bool {
	return c.IsCA && c.BasicConstraintsValid && c.KeyUsage&x509.KeyUsageCertSign != 0
}

func equalKeys(a, b crypto.PublicKey) bool {
	eq, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && eq.Equal(b)
}

// CheckCross reads a certificate by which an older root vouches for the key of root.
func CheckCross(text string, root *x509.Certificate) (string, error) {
	cert, err := ParseCert(strings.TrimSpace(text) + "\n")
	switch {
	case err != nil:
		return "", fmt.Errorf("%w: its cross-signature: %w", ErrProvider, err)
	case !mayIssue(cert) || !equalKeys(cert.PublicKey, root.PublicKey) || string(cert.RawSubject) != string(root.RawSubject):
		return "", fmt.Errorf("%w: its cross-signature isn't for the new root", ErrProvider)
	}
	return EncodeCert(cert.Raw), nil
}

// NewIssued checks a leaf that an authority elsewhere signed: it has the key and the identity that were asked for and no other name, is
// no authority, is signed by the intermediate and doesn't outlive it. Its chain is the material's.
func NewIssued(req Request, text string, inter *x509.Certificate, m Material, now time.Time) (Issued, error) {
	bad := func(what string) error { return fmt.Errorf("%w: the leaf that it signed %s", ErrProvider, what) }
	cert, err := ParseCert(strings.TrimSpace(text) + "\n")
	if err != nil {
		return Issued{}, fmt.Errorf("%w: the leaf that it signed: %w", ErrProvider, err)
	}
	id, err := identity.FromCertificate(cert)
	switch {
	case err != nil:
		return Issued{}, fmt.Errorf("%w: the leaf that it signed: %w", ErrProvider, err)
	case !identity.Equal(id, req.Identity):
		return Issued{}, bad("is for " + id.String())
	case len(cert.DNSNames)+len(cert.IPAddresses)+len(cert.EmailAddresses) > 0:
		return Issued{}, bad("has other names")
	case !equalKeys(cert.PublicKey, req.PublicKey):
		return Issued{}, bad("is for another key")
	case cert.IsCA || cert.KeyUsage&x509.KeyUsageCertSign != 0:
		return Issued{}, bad("may sign others")
	case inter.CheckSignature(cert.SignatureAlgorithm, cert.RawTBSCertificate, cert.Signature) != nil:
		return Issued{}, fmt.Errorf("%w: the leaf is signed by another one", ErrIntermediate)
	case cert.NotAfter.After(inter.NotAfter):
		return Issued{}, bad("outlives its intermediate")
	}
	if !now.Before(cert.NotAfter) { // a clock there that is ahead by a little is no fault
		return Issued{}, bad("has ended")
	}
	return Issued{
		Identity: req.Identity, SerialNumber: colonHex(cert.SerialNumber.Bytes()), CertPEM: EncodeCert(cert.Raw) + m.chain(now),
		NotBefore: cert.NotBefore, NotAfter: cert.NotAfter,
	}, nil
}

// chain is what a leaf of this material carries beside itself.
func (m Material) chain(now time.Time) string {
	a := authority{intermediate: m.IntermediateCert}
	for _, text := range m.CrossCerts {
		if cert, err := ParseCert(text); err == nil {
			a.crosses = append(a.crosses, crossCert{text, cert.NotBefore.Add(Backdate)})
		}
	}
	return a.chain(now)
}

// EncodeCert is a certificate as PEM text.
func EncodeCert(der []byte) string { return encodeCert(der) }

// CommonName gives the name of a provider's root ("pri") or intermediate ("int"): "<role>-<8 random>.<provider>.ca.<8 of the trust
// domain>.consul".
func CommonName(role, provider string, td identity.TrustDomain, rand io.Reader) (string, error) {
	var id [4]byte
	if _, err := io.ReadFull(rand, id[:]); err != nil {
		return "", fmt.Errorf("make a name: %w", err)
	}
	return fmt.Sprintf("%s-%s.%s.ca.%s.consul", role, hex.EncodeToString(id[:]), provider, string(td)[:min(8, len(td))]), nil
}

// RootSigner is an authority elsewhere that holds a root, and signs intermediates whose keys are made here. Its errors wrap
// ErrProvider.
type RootSigner interface {
	// Root gives the root as PEM text.
	Root(ctx context.Context, s Setup) (string, error)
	// SignIntermediate signs a request for an authority of path length 0, as PEM text, for that long.
	SignIntermediate(ctx context.Context, s Setup, csrPEM string, ttl time.Duration) (string, error)
	// CrossSign signs another root, or says ErrNoCrossSigning.
	CrossSign(ctx context.Context, s Setup, rootPEM string) (string, error)
}

// Delegated is a provider whose root is elsewhere: a RootSigner signs an intermediate now and then, and leaves are signed here, so that an
// authority that is away for a day is missed by nobody.
type Delegated struct {
	Builtin
	name   string
	signer RootSigner
}

var _ Provider = (*Delegated)(nil)

// NewDelegated makes a provider of that name over a signer. Configure comes next.
func NewDelegated(name string, signer RootSigner, rand io.Reader) *Delegated {
	return &Delegated{Builtin: Builtin{rand: rand}, name: name, signer: signer}
}

// Name is the provider's name in the configuration.
func (d *Delegated) Name() string { return d.name }

// GenerateRoot implements Provider: it takes the signer's root.
func (d *Delegated) GenerateRoot(ctx context.Context, now time.Time) (Material, error) {
	a, err := d.current()
	if err != nil {
		return Material{}, err
	}
	text, err := d.signer.Root(ctx, a.setup)
	if err != nil {
		return Material{}, err
	}
	root, err := CheckRoot(text, now)
	if err != nil {
		return Material{}, err
	}
	return d.signed(ctx, a.setup, root, now)
}

// Intermediate implements Provider.
func (d *Delegated) Intermediate(ctx context.Context, now time.Time) (Material, error) {
	a, err := d.ready()
	if err != nil {
		return Material{}, err
	}
	return d.signed(ctx, a.setup, a.root, now)
}

// signed gives the root with a new intermediate.
func (d *Delegated) signed(ctx context.Context, s Setup, root *x509.Certificate, now time.Time) (Material, error) {
	key, err := newAuthorityKey(s.Config, d.rand)
	if err != nil {
		return Material{}, err
	}
	name, err := CommonName("int", d.name, s.TrustDomain, d.rand)
	if err != nil {
		return Material{}, err
	}
	tmpl := &x509.CertificateRequest{URIs: []*url.URL{{Scheme: "spiffe", Host: string(s.TrustDomain)}}}
	tmpl.Subject.CommonName = name
	der, err := x509.CreateCertificateRequest(d.rand, tmpl, key)
	if err != nil {
		return Material{}, fmt.Errorf("request an intermediate: %w", err)
	}
	ttl := min(s.Config.IntermediateCertTTL, root.NotAfter.Sub(now))
	text, err := d.signer.SignIntermediate(ctx, s, string(pem.EncodeToMemory(&pem.Block{Type: pemRequest, Bytes: der})), ttl)
	if err != nil {
		return Material{}, err
	}
	inter, err := CheckIntermediate(text, root, key.Public(), now)
	if err != nil {
		return Material{}, err
	}
	m := Material{RootCert: encodeCert(root.Raw), IntermediateCert: encodeCert(inter.Raw)}
	if s.Material.RootCert == m.RootCert {
		m.CrossCerts = s.Material.CrossCerts
	}
	m.Keys.Intermediate, err = encodeKey(key)
	return m, err
}

// CrossSign implements Provider.
func (d *Delegated) CrossSign(ctx context.Context, other *x509.Certificate, _ time.Time) (string, error) {
	a, err := d.ready()
	if err != nil {
		return "", err
	}
	text, err := d.signer.CrossSign(ctx, a.setup, encodeCert(other.Raw))
	if err != nil {
		return "", err
	}
	return CheckCross(text, other)
}

// Failed is an ErrProvider that names who failed, at what, and why.
func Failed(who, what string, err error) error {
	return fmt.Errorf("%w: %s: %s: %w", ErrProvider, who, what, cmp.Or(err, errors.New("no reason given")))
}
