// SPDX-License-Identifier: Apache-2.0

package catalog

import "time"

// CAState is the certificate authority as the catalog holds it. What is secret is in PrivateState alone, which servers share
// and no feed item carries.
type CAState struct {
	// ClusterID is the trust domain without ".consul".
	ClusterID  string
	Datacenter string `json:",omitempty"`
	Provider   string `json:",omitempty"`
	// Config is the provider's configuration without secrets.
	Config Opaque `json:",omitempty"`
	// Roots are the trusted roots, the active one first.
	Roots        []CARoot `json:",omitempty"`
	ActiveRootID string   `json:",omitempty"`
	// IntermediateCert is the PEM certificate that signs leaves now.
	IntermediateCert string `json:",omitempty"`
	// LongestLeafTTL is the longest life that a leaf under the active root may have been given.
	LongestLeafTTL time.Duration `json:",omitempty"`
	// Revoked are the leaves that are refused though they haven't ended, the oldest revocation first.
	Revoked []Revoked `json:",omitempty"`
	// CRLs say the same of serial numbers as PEM revocation lists, one of each issuer of leaves that live; none where an issuer's key isn't
	// the servers'.
	CRLs []string `json:",omitempty"`
	// PrivateState is the authority's whole state, keys included, in the form of the CA's owner, who seals it. It is nil in a replica.
	PrivateState []byte `json:",omitempty"`
	Indexes
}

// Revoked is one leaf that is refused, or all leaves of an identity that were signed until then.
type Revoked struct {
	// Serial is in hexadecimal bytes with colons between, "" where it is by URI.
	Serial string `json:",omitempty"`
	// URI is the SPIFFE ID; leaves of it that became valid at Before or earlier are meant.
	URI    string    `json:",omitempty"`
	Before time.Time `json:",omitzero"`
	Reason string    `json:",omitempty"`
	Time   time.Time
	// Until is when the last certificate that it is about has ended, and it is forgotten.
	Until time.Time
}

// Refuses reports whether it is about a leaf.
func (r Revoked) Refuses(serial, uri string, notBefore time.Time) bool {
	if r.Serial != "" {
		return r.Serial == serial
	}
	return r.URI == uri && !notBefore.After(r.Before)
}

// CARoot is a root with the field names of the HTTP API.
type CARoot struct {
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

// TrustDomain is the cluster's trust domain; "" before the cluster has an ID.
func (c *CAState) TrustDomain() string {
	if c == nil || c.ClusterID == "" {
		return ""
	}
	return c.ClusterID + ".consul"
}

// Sealed are the secrets of the catalog that may be sealed: the authority's state, and the key of the nodes' authority.
func Sealed(t *Txn) [][]byte {
	var out [][]byte
	if state, err := t.CA(); err == nil && state != nil && len(state.PrivateState) > 0 {
		out = append(out, state.PrivateState)
	}
	if o, err := t.ACL(PlaneCAs, PlaneCAID); err == nil && o.PlaneCA != nil {
		out = append(out, []byte(o.PlaneCA.Key))
	}
	methods, err := t.ACLList(ACLAuthMethods)
	if err != nil {
		return out
	}
	for _, o := range methods {
		for _, secret := range o.AuthMethod.Secrets() {
			out = append(out, []byte(secret))
		}
	}
	return out
}

// public is the state without its secrets.
func (c *CAState) public() *CAState {
	p := *c
	p.PrivateState = nil
	return &p
}
