// SPDX-License-Identifier: Apache-2.0

// Package ca is the mesh's certificate authority: it makes roots and
// intermediates, checks certificate requests, signs leaves, and decides when a
// root or an intermediate must be replaced. It is also the other end: an agent's
// keys, requests and leaves, and the watchdog that says when to renew them.
//
// The decisions are functions of plain data: State and the time in, State and
// actions out. The package does not store anything (server puts State through
// Raft), doesn't know who may ask for which identity (server checks that first),
// reads no clock, and starts no goroutine. Randomness is handed in; only
// signatures take their nonces from the system's source, whatever the reader.
package ca

import (
	"context"
	"crypto/x509"
	"errors"
	"time"

	"github.com/weftmesh/weft/connect/identity"
)

// Backdate is how far before the time of signing a certificate becomes valid, so that hosts whose clocks are a little
// behind can use it at once.
const Backdate = time.Minute

// What can be wrong. Errors of this package wrap one of these, or say what is wrong with an argument.
var (
	// ErrConfig says that a configuration can't be used.
	ErrConfig = errors.New("invalid CA configuration")
	// ErrNotReady says that there is no root to sign with yet.
	ErrNotReady = errors.New("the CA has no root yet")
	// ErrExpired says that the authority's own certificate is outside its time.
	ErrExpired = errors.New("the CA's certificate is outside its time")
	// ErrNoCrossSigning says that the old provider can't sign the new root. Its text is the one that clients know.
	ErrNoCrossSigning = errors.New("The current CA Provider does not support cross-signing. " + //nolint:staticcheck // the text is an interface
		"You can try again with ForceWithoutCrossSigningSet but this may cause disruption - see documentation for more.")
	// ErrProvider says that an authority outside of this process refused, failed or can't be reached, with what it said.
	ErrProvider = errors.New("the CA provider failed")
	// ErrIntermediate says that the authority elsewhere no longer has the intermediate under which leaves are signed: a new one is due.
	ErrIntermediate = errors.New("the CA provider has lost the intermediate")
	// ErrRateLimited says that more requests came than are allowed. Its text is the one that clients know.
	ErrRateLimited = errors.New("Rate limit reached, try again later") //nolint:staticcheck // the text is an interface
)

// Provider makes the certificates of one authority. All methods but Configure may be called at the same time, and none
// but Configure changes what later calls use: what GenerateRoot and Intermediate return takes effect when it has been
// stored and is handed to Configure.
type Provider interface {
	// Name is the provider's name in the configuration, such as "consul".
	Name() string
	// Configure takes the settings, and the material that earlier calls returned (empty on the first start).
	Configure(Setup) error
	// GenerateRoot makes a new root with its first intermediate, or takes the root that the configuration holds.
	GenerateRoot(ctx context.Context, now time.Time) (Material, error)
	// Intermediate makes a new intermediate under the current root, and returns the current material with it.
	Intermediate(ctx context.Context, now time.Time) (Material, error)
	// Sign issues a leaf for a request that CheckCSR accepted.
	Sign(ctx context.Context, req Request, now time.Time) (Issued, error)
	// CrossSign signs another provider's or another generation's root with the current root's key, and returns the PEM
	// certificate. It returns ErrNoCrossSigning if it can't.
	CrossSign(ctx context.Context, root *x509.Certificate, now time.Time) (string, error)
	// SignIntermediate signs the intermediate of another datacenter's authority under the current root, if CheckAuthorityCSR accepts the
	// request, and returns the PEM certificate. It returns ErrNoRootKey if it is such an authority itself.
	SignIntermediate(ctx context.Context, csrPEM string, now time.Time) (string, error)
	// Maintain keeps alive what the provider needs elsewhere (a token), looks whether it could sign, and says when to call again; zero
	// for never.
	Maintain(ctx context.Context, now time.Time) (again time.Time, err error)
}

// Setup is what a provider needs to know.
type Setup struct {
	TrustDomain identity.TrustDomain
	Datacenter  string
	Config      Config
	Material    Material
}

// Material is what an authority consists of. All but Keys is public.
type Material struct {
	// RootCert and IntermediateCert are PEM certificates; the leaves are signed by the intermediate.
	RootCert         string
	IntermediateCert string
	// CrossCerts are PEM certificates of the root's key, signed by roots that were active before.
	CrossCerts []string
	// Handle is what an authority elsewhere calls the intermediate by.
	Handle string `json:",omitempty"`
	// Keys is the secret part, in one field so that it can be sealed as a whole.
	Keys Keys
}

// Keys are PEM (PKCS #8) private keys. They don't show in logs or formatted output.
type Keys struct {
	Root         string
	Intermediate string
}

// String hides the keys.
func (Keys) String() string { return "[private keys]" }

// GoString hides the keys.
func (Keys) GoString() string { return "[private keys]" }

// Issued is a signed leaf.
type Issued struct {
	Identity identity.Identity
	// SerialNumber is in hexadecimal bytes with colons between.
	SerialNumber string
	// CertPEM is the leaf, its intermediate, and the cross-signed certificates, in the order in which each signed the one
	// before.
	CertPEM   string
	NotBefore time.Time
	NotAfter  time.Time
}
