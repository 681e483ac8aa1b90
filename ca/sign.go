// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"context"
	"fmt"
	"net/url"
	"time"
)

// Sign implements Provider: a leaf for client and server use, without a subject, that names the identity as its only
// alternative name and doesn't outlive the intermediate.
func (b *Builtin) Sign(_ context.Context, req Request, now time.Time) (Issued, error) {
	a, err := b.ready()
	if err != nil {
		return Issued{}, err
	}
	if err := inTime(a.inter, now); err != nil {
		return Issued{}, err
	}
	// The request was checked against some setup; what is signed must fit this one.
	if err := checkScope(req.Identity, a.setup.TrustDomain, a.setup.Datacenter); err != nil {
		return Issued{}, err
	}
	serial, err := newSerial(b.rand, 128)
	if err != nil {
		return Issued{}, err
	}
	uri, err := url.Parse(req.Identity.String())
	if err != nil {
		return Issued{}, fmt.Errorf("%w: %w", ErrCSR, err)
	}
	after := now.Add(-Backdate).UTC().Truncate(time.Second)
	before := earlier(a.inter.NotAfter, now.Add(a.setup.Config.LeafCertTTL)).UTC().Truncate(time.Second)
	der, err := a.leaves.sign(b.rand, a.interKey, serial, uri, after, before, req.PublicKey)
	if err != nil {
		return Issued{}, fmt.Errorf("sign a leaf for %s: %w", req.Identity, err)
	}
	return Issued{
		Identity:     req.Identity,
		SerialNumber: colonHex(serial.Bytes()),
		CertPEM:      encodeCert(der) + a.chain(now),
		NotBefore:    after,
		NotAfter:     before,
	}, nil
}
