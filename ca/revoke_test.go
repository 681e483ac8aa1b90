// SPDX-License-Identifier: Apache-2.0

package ca_test

import (
	"context"
	"encoding/pem"
	"errors"
	"strings"
	"testing"
	"time"

	"crypto/x509"

	"github.com/weftmesh/weft/ca"
	"github.com/weftmesh/weft/catalog"
)

func TestRevoke(t *testing.T) {
	s := bootstrap(t, ca.Config{})
	l := issue(t, s, web, start)
	first := s.Material.IntermediateCert
	if lists, complete, err := ca.CRLs(s, start); lists != nil || !complete || err != nil {
		t.Errorf("with nothing revoked: %d lists, %v, %v", len(lists), complete, err)
	}
	for name, r := range map[string]catalog.Revoked{
		"nothing": {}, "both": {Serial: "0a", URI: web.String()}, "no hex": {Serial: "xyz"}, "long": {Serial: strings.Repeat("0a", 21)}, "zero": {Serial: "00"},
		"no ID": {URI: "spiffe://x"}, "other domain": {URI: strings.Replace(web.String(), "1111", "2222", 1)}, "reason": {Serial: "0a", Reason: strings.Repeat("x", 501)},
	} {
		if _, _, err := ca.Revoke(s, r, start); !errors.Is(err, ca.ErrRevocation) {
			t.Errorf("%s: %v", name, err)
		}
	}
	s, done, err := ca.Revoke(s, catalog.Revoked{Serial: strings.ToUpper(strings.ReplaceAll(l.SerialNumber, ":", ""))}, start)
	if err != nil || done.Serial != l.SerialNumber || done.Until.Before(l.ValidBefore) || !done.Refuses(l.SerialNumber, "", time.Time{}) {
		t.Fatalf("%+v, %v", done, err)
	}
	s, byURI, err := ca.Revoke(s, catalog.Revoked{URI: web.String()}, start.Add(time.Hour))
	if err != nil || !byURI.Refuses("other", web.String(), l.ValidAfter) {
		t.Fatalf("%+v, %v", byURI, err)
	}
	later := issue(t, s, web, start.Add(time.Hour+time.Second))
	if byURI.Refuses(later.SerialNumber, web.String(), later.ValidAfter) {
		t.Error("a leaf that was signed later is refused too")
	}

	// A new intermediate, and a new root: the former ones go on signing lists, as long as leaves of theirs may live.
	now := start.Add(2 * time.Hour)
	s = must(ca.RenewIntermediate(context.Background(), s, provider(t, s), now))(t)
	s = must(ca.Rotate(context.Background(), s, provider(t, s), provider(t, ca.State{ClusterID: cluster, Datacenter: "dc1", Config: s.Config}), now, false))(t)
	lists, complete, err := ca.CRLs(s, now)
	if err != nil || !complete || len(lists) != 3 {
		t.Fatalf("%d lists, %v, %v", len(lists), complete, err)
	}
	issuers := []string{first, s.Issuers[1].Cert, s.Material.IntermediateCert}
	for i, text := range lists {
		block, _ := pem.Decode([]byte(text))
		list := must(x509.ParseRevocationList(block.Bytes))(t)
		if err := list.CheckSignatureFrom(must(ca.ParseCert(issuers[i]))(t)); err != nil || len(list.RevokedCertificateEntries) != 1 || list.NextUpdate.Before(done.Until) {
			t.Errorf("list %d: %v, %d entries until %s", i, err, len(list.RevokedCertificateEntries), list.NextUpdate)
		}
	}
	// Where one issuer's key is elsewhere there are no lists at all.
	away := s
	away.Material.Keys = ca.Keys{}
	if lists, complete, err := ca.CRLs(away, now); lists != nil || complete || err != nil {
		t.Errorf("without a key: %d lists, %v, %v", len(lists), complete, err)
	}

	// All is forgotten when it has ended, and not before.
	before, _, wake := ca.Next(s, done.Until.Add(-time.Second))
	if len(before.Revoked) != 2 || !wake.Equal(done.Until) {
		t.Errorf("%d are left a second before the end, wake %s", len(before.Revoked), wake)
	}
	after, _, _ := ca.Next(s, now.Add(80*time.Hour))
	if len(after.Revoked) != 0 || len(after.Issuers) != 0 {
		t.Errorf("%d revocations and %d issuers are left", len(after.Revoked), len(after.Issuers))
	}
}
