// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"time"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/connect/identity"
)

// Datacenters that trust each other have one root, the primary's. A secondary's authority has no root key: its intermediate is
// signed by the primary's root, and it trusts the roots that the primary does.

// ErrNoRootKey says that the root belongs to another datacenter's authority.
var ErrNoRootKey = errors.New("the root's key is the primary datacenter's")

// Primary is what the primary's authority tells a secondary's.
type Primary struct {
	ClusterID    string
	ActiveRootID string
	Roots        []catalog.CARoot
}

// CheckAuthorityCSR reads the request of another datacenter's authority: for a key of a kind that authorities have, signed by it, for
// the trust domain's name and no other. Errors wrap ErrCSR.
func CheckAuthorityCSR(text string, td identity.TrustDomain) (*x509.CertificateRequest, error) {
	csr, err := parseCSR(text)
	if err != nil {
		return nil, err
	}
	if kind, bits := keyKind(csr.PublicKey); checkKeyKind(kind, bits) != nil {
		return nil, fmt.Errorf("%w: an authority's key must be ec with 256, 384 or 521 bits or rsa with 2048 or 4096, it is %s", ErrCSR, describeKey(csr.PublicKey))
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("%w: it isn't signed by its own key", ErrCSR)
	}
	name := identity.Signing{TrustDomain: td}.String()
	if len(csr.DNSNames)+len(csr.IPAddresses)+len(csr.EmailAddresses) > 0 || len(csr.URIs) != 1 || csr.URIs[0].String() != name {
		return nil, fmt.Errorf("%w: it must be for %s and nothing else", ErrCSR, name)
	}
	return csr, nil
}

// SignIntermediate implements Provider.
func (b *Builtin) SignIntermediate(_ context.Context, csrPEM string, now time.Time) (string, error) {
	a, err := b.holding()
	if err != nil {
		return "", err
	}
	csr, err := CheckAuthorityCSR(csrPEM, a.setup.TrustDomain)
	if err != nil {
		return "", err
	}
	cert, err := b.intermediateFor(a, csr.PublicKey, now)
	if err != nil {
		return "", err
	}
	return encodeCert(cert.Raw), nil
}

// SignIntermediate implements Provider: the signer is asked.
func (d *Delegated) SignIntermediate(ctx context.Context, csrPEM string, now time.Time) (string, error) {
	a, err := d.ready()
	if err != nil {
		return "", err
	}
	csr, err := CheckAuthorityCSR(csrPEM, a.setup.TrustDomain)
	if err != nil {
		return "", err
	}
	text, err := d.signer.SignIntermediate(ctx, a.setup, csrPEM, min(a.setup.Config.IntermediateCertTTL, a.root.NotAfter.Sub(now)))
	if err != nil {
		return "", err
	}
	inter, err := CheckIntermediate(text, a.root, csr.PublicKey, now)
	if err != nil {
		return "", err
	}
	return encodeCert(inter.Raw), nil
}

// RequestIntermediate makes the key of a secondary's next intermediate, and the request for it.
func (b *Builtin) RequestIntermediate(c Config, td identity.TrustDomain) (keyPEM, csrPEM string, err error) {
	key, err := newAuthorityKey(c.WithDefaults(), b.rand)
	if err != nil {
		return "", "", err
	}
	name, err := b.commonName("int", td)
	if err != nil {
		return "", "", err
	}
	der, err := x509.CreateCertificateRequest(b.rand, &x509.CertificateRequest{
		Subject: name, URIs: []*url.URL{{Scheme: "spiffe", Host: string(td)}},
	}, key)
	if err != nil {
		return "", "", fmt.Errorf("make a request for an intermediate: %w", err)
	}
	keyPEM, err = encodeKey(key)
	return keyPEM, string(pem.EncodeToMemory(&pem.Block{Type: pemRequest, Bytes: der})), err
}

// Follows says whether a state is a secondary's: the root's key is in another datacenter.
func (s State) Follows() bool {
	return len(s.Roots) > 0 && s.Config.WithDefaults().Provider == BuiltinName && s.Material.Keys.Root == ""
}

// Shared says whether another datacenter's authority signs under the same root: leaves come from issuers whose keys aren't here.
func (s State) Shared(now time.Time) bool { return s.Follows() || now.Before(s.OthersUntil) }

// Behind says why a secondary needs another intermediate, "" if it doesn't; then due is when half of its life is over.
func Behind(s State, p Primary, now time.Time) (reason string, due time.Time) {
	active, ok := s.Active()
	if !ok {
		return "there is none", due
	}
	if active.ID != p.ActiveRootID {
		return "the primary has another root", due
	}
	due, err := intermediateDue(s.Material)
	switch {
	case err != nil:
		return "the intermediate can't be read: " + err.Error(), due
	case !now.Before(due):
		return "half of the intermediate's life is over", due
	}
	return "", due
}

// Follow is the secondary's state by what the primary has, with an intermediate that the primary signed, or "" for the one that
// it has. The same again gives an equal state.
func Follow(s State, p Primary, intermediate, key string, now time.Time) (State, error) {
	at := slices.IndexFunc(p.Roots, func(r catalog.CARoot) bool { return r.ID == p.ActiveRootID })
	if at < 0 {
		return s, fmt.Errorf("the primary's active root %q isn't among its roots", p.ActiveRootID)
	}
	if intermediate == "" {
		intermediate, key = s.Material.IntermediateCert, s.Material.Keys.Intermediate
	}
	root := p.Roots[at]
	var crosses []string // the last one is what signs in the primary
	if n := len(root.IntermediateCerts); n > 1 {
		crosses = slices.Clone(root.IntermediateCerts[:n-1])
	}
	s, _, _ = forget(s, nil, time.Time{}, now)
	s.ClusterID = p.ClusterID
	m := Material{RootCert: root.RootCert, IntermediateCert: intermediate, CrossCerts: crosses, Keys: Keys{Intermediate: key}}
	s.Issuers = s.formerIssuers(m, now)
	s.Material = m
	s.Retiring, s.LongestLeafTTL = nil, s.Config.WithDefaults().LeafCertTTL
	described, err := newRoot(s.ClusterID, s.Material)
	if err != nil {
		return s, err
	}
	s.Roots = slices.Clone(p.Roots)
	for i := range s.Roots {
		s.Roots[i].Active, s.Roots[i].CreateIndex, s.Roots[i].ModifyIndex = false, 0, 0
	}
	s.Roots = slices.Insert(slices.Delete(s.Roots, at, at+1), 0, described)
	return s, nil
}
