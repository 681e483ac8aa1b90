// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"crypto/x509"
	"fmt"
	"slices"
	"time"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/connect/identity"
)

// State is all that the authority remembers: plain data, replaced as a whole and never changed in place.
type State struct {
	ClusterID  string
	Datacenter string
	Config     Config
	// Roots are the trusted roots, the active one first. Its indexes are whoever stores it to fill in.
	Roots []catalog.CARoot
	// Retiring says, for each root that isn't active, until when a leaf may depend on it.
	Retiring []Retiring
	// LongestLeafTTL is the longest life that a leaf under the active root may have been given.
	LongestLeafTTL time.Duration
	// Material belongs to the active root.
	Material Material
	// OthersUntil is when the last intermediate ends that was signed for another datacenter.
	OthersUntil time.Time `json:",omitzero"`
	// Issuers are intermediates that sign no more, while leaves of theirs may live: they still sign revocation lists.
	Issuers []Issuer `json:",omitempty"`
	// Revoked are the leaves that are refused though they haven't ended.
	Revoked []catalog.Revoked `json:",omitempty"`
}

// Issuer is an intermediate that signed leaves.
type Issuer struct {
	Cert  string
	Key   Secret // "" where it is elsewhere
	Until time.Time
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
func (s State) Active() (catalog.CARoot, bool) {
	i := slices.IndexFunc(s.Roots, func(r catalog.CARoot) bool { return r.Active })
	if i < 0 {
		return catalog.CARoot{}, false
	}
	return s.Roots[i], true
}

// Pool gives the trusted roots as identity.VerifyPeer takes them. Only roots go in: an intermediate is no anchor.
func Pool(roots []catalog.CARoot) (*x509.CertPool, error) {
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
func newRoot(clusterID string, m Material) (catalog.CARoot, error) {
	root, err := ParseCert(m.RootCert)
	if err != nil {
		return catalog.CARoot{}, fmt.Errorf("root: %w", err)
	}
	inter, err := ParseCert(m.IntermediateCert)
	if err != nil {
		return catalog.CARoot{}, fmt.Errorf("intermediate: %w", err)
	}
	kind, bits := keyKind(root.PublicKey)
	return catalog.CARoot{
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
