// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"crypto/x509"
	"fmt"
	"slices"
	"time"

	"github.com/weftmesh/weft/connect/identity"
)

// Root is a root as the HTTP API shows it, with its field names.
type Root struct {
	// ID is the SHA-1 of the certificate, in hexadecimal bytes with colons between.
	ID           string
	Name         string
	SerialNumber uint64
	// SigningKeyID is the subject key ID of the intermediate that signs leaves, spelled like ID.
	SigningKeyID string
	// ExternalTrustDomain is the cluster's ID: the trust domain without ".consul".
	ExternalTrustDomain string
	NotBefore           time.Time
	NotAfter            time.Time
	// RootCert is PEM text.
	RootCert string
	// IntermediateCerts are PEM certificates: first those by which older roots vouch for this one, last the one that signs
	// leaves.
	IntermediateCerts []string
	// Active marks the one root under which new leaves are signed.
	Active         bool
	PrivateKeyType string
	PrivateKeyBits int
	CreateIndex    uint64
	ModifyIndex    uint64
}

// State is all that the authority remembers: plain data, replaced as a whole and never changed in place.
type State struct {
	ClusterID  string
	Datacenter string
	Config     Config
	// Roots are the trusted roots, the active one first. Its indexes are whoever stores it to fill in.
	Roots []Root
	// Retiring says, for each root that isn't active, until when a leaf may depend on it.
	Retiring []Retiring
	// LongestLeafTTL is the longest life that a leaf under the active root may have been given.
	LongestLeafTTL time.Duration
	// Material belongs to the active root.
	Material Material
}

// Retiring is a root that was active once.
type Retiring struct {
	RootID string
	Since  time.Time
	Until  time.Time
}

// TrustDomain is the cluster's trust domain.
func (s State) TrustDomain() identity.TrustDomain { return identity.ForCluster(s.ClusterID) }

// Setup is what a provider's Configure takes to work with this state.
func (s State) Setup() Setup {
	return Setup{TrustDomain: s.TrustDomain(), Datacenter: s.Datacenter, Config: s.Config, Material: s.Material}
}

// Active gives the root under which leaves are signed.
func (s State) Active() (Root, bool) {
	i := slices.IndexFunc(s.Roots, func(r Root) bool { return r.Active })
	if i < 0 {
		return Root{}, false
	}
	return s.Roots[i], true
}

// Pool gives the trusted roots as identity.VerifyPeer takes them. Only roots go in: an intermediate is no anchor.
func Pool(roots []Root) (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	for _, r := range roots {
		cert, err := ParseCert(r.RootCert)
		if err != nil {
			return nil, fmt.Errorf("root %s: %w", r.ID, err)
		}
		pool.AddCert(cert)
	}
	return pool, nil
}

// newRoot describes the material's root as active.
func newRoot(clusterID string, m Material) (Root, error) {
	root, err := ParseCert(m.RootCert)
	if err != nil {
		return Root{}, fmt.Errorf("root: %w", err)
	}
	inter, err := ParseCert(m.IntermediateCert)
	if err != nil {
		return Root{}, fmt.Errorf("intermediate: %w", err)
	}
	kind, bits := keyKind(root.PublicKey)
	return Root{
		ID: fingerprint(root),
		// A root from elsewhere can have a longer serial number, of which the record keeps the low 64 bits.
		Name: "Weft CA Root Cert", SerialNumber: low64(root.SerialNumber.Bytes()), SigningKeyID: colonHex(inter.SubjectKeyId),
		ExternalTrustDomain: clusterID, NotBefore: root.NotBefore, NotAfter: root.NotAfter,
		RootCert: m.RootCert, IntermediateCerts: append(slices.Clone(m.CrossCerts), m.IntermediateCert),
		Active: true, PrivateKeyType: kind, PrivateKeyBits: bits,
	}, nil
}

func low64(b []byte) uint64 {
	var n uint64
	for _, c := range b[max(0, len(b)-8):] {
		n = n<<8 | uint64(c)
	}
	return n
}
