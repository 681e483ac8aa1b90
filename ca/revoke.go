// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"slices"
	"strings"
	"time"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/connect/identity"
)

// ErrRevocation is wrapped by every refusal of a revocation.
var ErrRevocation = errors.New("invalid revocation")

// maxRevoked bounds what every proxy looks through at each handshake.
const maxRevoked = 1000

// ParseSerial reads a serial number in hexadecimal, with colons or without, and gives it in the form that leaves have it in.
func ParseSerial(text string) (string, error) {
	clean := strings.ToLower(strings.ReplaceAll(strings.TrimSpace(text), ":", ""))
	if len(clean)%2 == 1 {
		clean = "0" + clean
	}
	raw, err := hex.DecodeString(clean)
	if err != nil || len(raw) == 0 || len(raw) > 20 {
		return "", fmt.Errorf("%w: serial number %.60q: want up to 20 bytes in hexadecimal", ErrRevocation, text)
	}
	n := new(big.Int).SetBytes(raw)
	if n.Sign() == 0 {
		return "", fmt.Errorf("%w: a serial number isn't 0", ErrRevocation)
	}
	return colonHex(n.Bytes()), nil
}

// Revoke refuses a leaf by its serial number, or all leaves of an identity that were signed until now, until the last of them
// would have ended. Errors wrap ErrRevocation.
func Revoke(s State, r catalog.Revoked, now time.Time) (State, catalog.Revoked, error) {
	bad := func(format string, args ...any) (State, catalog.Revoked, error) {
		return s, r, fmt.Errorf("%w: %s", ErrRevocation, fmt.Sprintf(format, args...))
	}
	if (r.Serial == "") == (r.URI == "") {
		return bad("a serial number or a SPIFFE ID must be given, one of the two")
	}
	var err error
	if r.Serial != "" {
		if r.Serial, err = ParseSerial(r.Serial); err != nil {
			return s, r, err
		}
	} else {
		id, err := identity.Parse(r.URI)
		if err != nil {
			return bad("%v", err)
		}
		if err := checkScope(id, s.TrustDomain(), identity.DatacenterOf(id)); err != nil {
			return bad("%v", err)
		}
		r.URI, r.Before = id.String(), now.Add(-Backdate).UTC().Truncate(time.Second)
	}
	if len(r.Reason) > 500 {
		return bad("the reason has %d bytes, at most 500 are kept", len(r.Reason))
	}
	r.Time, r.Until = now.UTC(), now.Add(max(s.LongestLeafTTL, s.Config.WithDefaults().LeafCertTTL)+Backdate).UTC()
	same := func(o catalog.Revoked) bool { return o.Serial == r.Serial && o.URI == r.URI }
	s.Revoked = append(slices.DeleteFunc(slices.Clone(s.Revoked), same), r)
	if len(s.Revoked) > maxRevoked {
		return bad("there are %d revocations that haven't ended: rotate the root instead, by weft connect ca set-config with Rotate", maxRevoked)
	}
	return s, r, nil
}

// formerIssuers are the intermediates of which leaves may live once m is in force.
func (s State) formerIssuers(m Material, now time.Time) []Issuer {
	old := s.Material
	if old.IntermediateCert == "" || old.IntermediateCert == m.IntermediateCert {
		return s.Issuers
	}
	until := now.Add(max(s.LongestLeafTTL, s.Config.WithDefaults().LeafCertTTL) + Backdate)
	return append(slices.Clone(s.Issuers), Issuer{Cert: old.IntermediateCert, Key: Secret(old.Keys.Intermediate), Until: until})
}

// forget drops what is over of revocations and former issuers.
func forget(s State, actions []Action, wake, now time.Time) (State, []Action, time.Time) {
	over := func(until time.Time) bool {
		if now.Before(until) {
			wake = soonest(wake, until)
			return false
		}
		return true
	}
	revoked := slices.DeleteFunc(slices.Clone(s.Revoked), func(r catalog.Revoked) bool { return over(r.Until) })
	issuers := slices.DeleteFunc(slices.Clone(s.Issuers), func(i Issuer) bool { return over(i.Until) })
	if gone := len(s.Revoked) - len(revoked) + len(s.Issuers) - len(issuers); gone > 0 {
		actions = append(actions, Action{ActionForgot, "", fmt.Sprintf("%d revocations and former intermediates: what they were about has ended", gone)})
		s.Revoked, s.Issuers = revoked, issuers
	}
	return s, actions, wake
}

// CRLs are the revocation lists of all issuers of leaves that live: nil while no serial number is revoked, and where an issuer can't sign one
// here, as those of other datacenters, which complete says. A verifier that knows lists refuses the leaves of an issuer without one, so it is all or none.
func CRLs(s State, now time.Time) (lists []string, complete bool, err error) {
	var entries []x509.RevocationListEntry
	end := now
	for _, r := range s.Revoked {
		if r.Serial == "" {
			continue
		}
		raw, err := hex.DecodeString(strings.ReplaceAll(r.Serial, ":", ""))
		if err != nil {
			return nil, false, fmt.Errorf("revoked %s: %w", r.Serial, err)
		}
		entries = append(entries, x509.RevocationListEntry{SerialNumber: new(big.Int).SetBytes(raw), RevocationTime: r.Time})
		if r.Until.After(end) {
			end = r.Until
		}
	}
	if len(entries) == 0 {
		return nil, true, nil
	}
	if s.Shared(now) {
		return nil, false, nil
	}
	issuers := append(slices.Clone(s.Issuers), Issuer{Cert: s.Material.IntermediateCert, Key: Secret(s.Material.Keys.Intermediate)})
	for _, i := range issuers {
		list, ok, err := crl(rand.Reader, i, entries, now, end.Add(365*24*time.Hour))
		if err != nil || !ok {
			return nil, false, err
		}
		lists = append(lists, list)
	}
	return lists, true, nil
}

func crl(random io.Reader, i Issuer, entries []x509.RevocationListEntry, now, next time.Time) (string, bool, error) {
	if i.Key == "" {
		return "", false, nil
	}
	cert, key, err := pair(i.Cert, string(i.Key))
	if err != nil {
		return "", false, fmt.Errorf("sign a revocation list: %w", err)
	}
	if cert.KeyUsage&x509.KeyUsageCRLSign == 0 || len(cert.SubjectKeyId) == 0 {
		return "", false, nil
	}
	der, err := x509.CreateRevocationList(random, &x509.RevocationList{
		RevokedCertificateEntries: entries, Number: big.NewInt(now.UnixMilli()), ThisUpdate: now.Add(-Backdate), NextUpdate: next,
	}, cert, key)
	if err != nil {
		return "", false, fmt.Errorf("sign a revocation list: %w", err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der})), true, nil
}
