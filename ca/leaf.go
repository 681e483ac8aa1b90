// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"time"

	"github.com/weftmesh/weft/connect/identity"
)

// ErrLeaf says that what the authority sent back is not a leaf for the key and identity that were asked for.
var ErrLeaf = errors.New("unusable leaf certificate")

// Leaf is a leaf with its key, in the JSON form of /v1/agent/connect/ca/leaf/<service>.
type Leaf struct {
	// SerialNumber is in hexadecimal bytes with colons between.
	SerialNumber string
	// CertPEM is the leaf, followed by the certificates that lead to a root.
	CertPEM       string
	PrivateKeyPEM string
	// Service and ServiceURI are set for a service or service account, Agent and AgentURI for an agent, ServerURI for
	// servers, Kind and KindURI for a gateway.
	Service    string `json:",omitempty"`
	ServiceURI string `json:",omitempty"`
	Agent      string `json:",omitempty"`
	AgentURI   string `json:",omitempty"`
	ServerURI  string `json:",omitempty"`
	Kind       string `json:",omitempty"`
	KindURI    string `json:",omitempty"`

	ValidAfter  time.Time
	ValidBefore time.Time
	CreateIndex uint64
	ModifyIndex uint64
}

// LogValue shows which leaf it is, without the key.
func (l Leaf) LogValue() slog.Value {
	return slog.GroupValue(slog.String("uri", l.URI()), slog.String("serial_number", l.SerialNumber), slog.Time("valid_before", l.ValidBefore))
}

// String is a short description without the key.
func (l Leaf) String() string {
	return fmt.Sprintf("leaf %s of %s until %s", l.SerialNumber, l.URI(), l.ValidBefore.UTC().Format(time.RFC3339))
}

// GoString is String: the key doesn't show.
func (l Leaf) GoString() string { return l.String() }

// URI gives the identity's SPIFFE URI, whichever field holds it.
func (l Leaf) URI() string {
	for _, u := range []string{l.ServiceURI, l.AgentURI, l.ServerURI, l.KindURI} {
		if u != "" {
			return u
		}
	}
	return ""
}

// CSR makes a PEM certificate request for the identity, with nothing else in it.
func CSR(id identity.Identity, key crypto.Signer, rand io.Reader) (string, error) {
	if err := id.Validate(); err != nil {
		return "", fmt.Errorf("certificate request: %w", err)
	}
	uri, err := url.Parse(id.String())
	if err != nil {
		return "", fmt.Errorf("certificate request: %w", err)
	}
	der, err := x509.CreateCertificateRequest(rand, &x509.CertificateRequest{URIs: []*url.URL{uri}}, key)
	if err != nil {
		return "", fmt.Errorf("certificate request for %s: %w", id, err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: pemRequest, Bytes: der})), nil
}

// NewLeaf joins a signed chain with its key, after checking that the first certificate is for that key and identity, and signed by
// the second, if there is one: nobody has looked at the built-in authority's signature since it was made. It checks neither what leads
// to a root nor the time: those change while a leaf lives. Errors wrap ErrLeaf.
func NewLeaf(id identity.Identity, key *ecdsa.PrivateKey, certPEM string, index uint64) (Leaf, error) {
	cert, by, err := firstTwo(certPEM)
	if err == nil && by != nil {
		err = cert.CheckSignatureFrom(by)
	}
	if err != nil {
		return Leaf{}, fmt.Errorf("%w: %w", ErrLeaf, err)
	}
	if !sameKey(cert.PublicKey, key) {
		return Leaf{}, fmt.Errorf("%w: it is for another key", ErrLeaf)
	}
	got, err := identity.FromCertificate(cert)
	if err != nil {
		return Leaf{}, fmt.Errorf("%w: %w", ErrLeaf, err)
	}
	if !identity.Equal(got, id) {
		return Leaf{}, fmt.Errorf("%w: it is for %s, asked for was %s", ErrLeaf, got, id)
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return Leaf{}, err
	}
	leaf := Leaf{
		SerialNumber: colonHex(cert.SerialNumber.Bytes()), CertPEM: certPEM, PrivateKeyPEM: keyPEM,
		ValidAfter: cert.NotBefore, ValidBefore: cert.NotAfter, CreateIndex: index, ModifyIndex: index,
	}
	uri := got.String()
	switch v := got.(type) {
	case identity.Service:
		leaf.Service, leaf.ServiceURI = v.Service, uri
	case identity.ServiceAccount:
		leaf.Service, leaf.ServiceURI = v.Name, uri
	case identity.Agent:
		leaf.Agent, leaf.AgentURI = v.Node, uri
	case identity.MeshGateway:
		leaf.Kind, leaf.KindURI = string(v.Kind()), uri
	default:
		leaf.ServerURI = uri
	}
	return leaf, nil
}

// firstTwo are a leaf, and the authority's certificate behind it, nil if there is none: a root may have signed it.
func firstTwo(chain string) (leaf, by *x509.Certificate, err error) {
	rest := []byte(chain)
	for _, c := range []**x509.Certificate{&leaf, &by} {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil && leaf != nil {
			break
		}
		if block == nil || block.Type != pemCert {
			return nil, nil, errors.New("no PEM certificate")
		}
		if *c, err = x509.ParseCertificate(block.Bytes); err != nil {
			return nil, nil, err
		}
	}
	return leaf, by, nil
}

// RenewAt is when the leaf should be renewed: a point from 60 to 90 % of its life, for a jitter from 0 to 1. Life counts
// from the signing, so that a leaf of a few seconds isn't due before it is there.
func RenewAt(leaf Leaf, jitter float64) time.Time {
	return renewAt(leaf.ValidAfter, leaf.ValidBefore, jitter)
}

func renewAt(after, before time.Time, jitter float64) time.Time {
	issued := issuedAt(after, before)
	return issued.Add(time.Duration(float64(before.Sub(issued)) * (0.6 + 0.3*clamp01(jitter))))
}

// issuedAt is when a certificate of ours was signed.
func issuedAt(after, before time.Time) time.Time {
	if issued := after.Add(Backdate); issued.Before(before) {
		return issued
	}
	return after
}

// clamp01 also maps NaN to 0.
func clamp01(f float64) float64 {
	if !(f > 0) {
		return 0
	}
	return min(f, 1)
}
