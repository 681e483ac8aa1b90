// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"context"
	"crypto/x509"
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
	tmpl := &x509.Certificate{
		SerialNumber:          serial,
		URIs:                  []*url.URL{uri},
		NotBefore:             now.Add(-Backdate).UTC().Truncate(time.Second),
		NotAfter:              earlier(a.inter.NotAfter, now.Add(a.setup.Config.LeafCertTTL)).UTC().Truncate(time.Second),
		BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment |
			x509.KeyUsageDataEncipherment | x509.KeyUsageKeyAgreement,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(b.rand, tmpl, a.inter, req.PublicKey, a.interKey)
	if err != nil {
		return Issued{}, fmt.Errorf("sign a leaf for %s: %w", req.Identity, err)
	}
	return Issued{
		Identity:     req.Identity,
		SerialNumber: colonHex(serial.Bytes()),
		CertPEM:      encodeCert(der) + a.chain(now),
		NotBefore:    tmpl.NotBefore,
		NotAfter:     tmpl.NotAfter,
	}, nil
}
