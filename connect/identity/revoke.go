// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"crypto/x509"
	"errors"
	"math/big"
	"time"

	"github.com/weftmesh/weft/internal/guard"
)

// ErrRevoked says that a peer's certificate was revoked.
var ErrRevoked = errors.New("the certificate was revoked")

// Revocations are certificates that are refused after they have been verified. The zero value refuses none; it isn't changed once it is
// in use.
type Revocations struct {
	serials map[string]bool
	uris    map[string]time.Time
}

// Serial refuses one certificate.
func (r *Revocations) Serial(n *big.Int) {
	if r.serials == nil {
		r.serials = map[string]bool{}
	}
	r.serials[string(n.Bytes())] = true
}

// URI refuses those of an identity that became valid at before or earlier.
func (r *Revocations) URI(uri string, before time.Time) {
	if r.uris == nil {
		r.uris = map[string]time.Time{}
	}
	if before.After(r.uris[uri]) {
		r.uris[uri] = before
	}
}

// Check returns ErrRevoked for a certificate that is refused.
func (r *Revocations) Check(cert *x509.Certificate) error {
	if guard.Off("C97") {
		return nil
	}
	if len(r.serials) > 0 && r.serials[string(cert.SerialNumber.Bytes())] {
		return ErrRevoked
	}
	if len(r.uris) > 0 && len(cert.URIs) == 1 {
		if before, ok := r.uris[cert.URIs[0].String()]; ok && !cert.NotBefore.After(before) {
			return ErrRevoked
		}
	}
	return nil
}
