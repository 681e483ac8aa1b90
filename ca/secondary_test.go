// SPDX-License-Identifier: Apache-2.0

package ca_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"testing"
	"time"

	"github.com/weftmesh/weft/ca"
	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/connect/identity"
)

// followed is a secondary's state after it was told what the primary has now.
func followed(t testing.TB, s, primary ca.State, now time.Time) (ca.State, string) {
	t.Helper()
	active, _ := primary.Active()
	p := ca.Primary{ClusterID: primary.ClusterID, ActiveRootID: active.ID, Roots: primary.Roots}
	reason, _ := ca.Behind(s, p, now)
	var cert, key string
	if reason != "" {
		var csr string
		var err error
		if key, csr, err = ca.NewBuiltin(rand.Reader).RequestIntermediate(s.Config, primary.TrustDomain()); err != nil {
			t.Fatal(err)
		}
		cert = must(provider(t, primary).SignIntermediate(context.Background(), csr, now))(t)
	}
	return must(ca.Follow(s, p, cert, key, now))(t), reason
}

// Leaves of a secondary are trusted in the primary and the other way round, over a rotation of the root and in time for the end of
// the intermediate.
func TestSecondary(t *testing.T) {
	primary := bootstrap(t, ca.Config{})
	far := identity.Service{TrustDomain: identity.ForCluster(cluster), Datacenter: "dc2", Service: "api"}
	second, reason := followed(t, ca.State{Datacenter: "dc2"}, primary, start)
	if reason == "" || second.Material.Keys.Root != "" {
		t.Fatalf("the first time: %q", reason)
	}
	both := func(now time.Time) {
		t.Helper()
		if err := verify(t, issue(t, second, far, now), primary.Roots, now); err != nil {
			t.Errorf("the secondary's leaf in the primary: %v", err)
		}
		if err := verify(t, issue(t, primary, web, now), second.Roots, now); err != nil {
			t.Errorf("the primary's leaf in the secondary: %v", err)
		}
	}
	both(start)
	if again, reason := followed(t, second, primary, start.Add(time.Hour)); reason != "" || again.Material.IntermediateCert != second.Material.IntermediateCert {
		t.Errorf("another intermediate though nothing has changed: %q", reason)
	}
	before := second
	now := start.Add(2 * time.Hour)
	fresh := provider(t, primary)
	rotated := must(ca.Rotate(context.Background(), primary, fresh, fresh, now, false))(t)
	primary = rotated
	if err := verify(t, issue(t, before, far, now), primary.Roots, now); err != nil {
		t.Errorf("a leaf from before the rotation: %v", err)
	}
	if second, reason = followed(t, second, primary, now); reason == "" || len(second.Roots) != 2 {
		t.Errorf("after a rotation: %q, %d roots", reason, len(second.Roots))
	}
	both(now)
	// No lists: whoever knows one refuses the leaves of other issuers, and the other datacenter's aren't here.
	if len(second.Issuers) != 1 || second.Issuers[0].Cert != before.Material.IntermediateCert {
		t.Errorf("%d former issuers", len(second.Issuers))
	}
	revoked, _, err := ca.Revoke(second, catalog.Revoked{URI: web.String()}, now)
	if err != nil || len(revoked.Revoked) != 1 {
		t.Errorf("another datacenter's identity: %v", err)
	}
	revoked, _, err = ca.Revoke(second, catalog.Revoked{Serial: "0a"}, now)
	if lists, complete, lerr := ca.CRLs(revoked, now); err != nil || lerr != nil || complete || lists != nil {
		t.Errorf("a secondary's lists: %d, %v, %v, %v", len(lists), complete, err, lerr)
	}
	if err := verify(t, issue(t, second, far, now), before.Roots, now); err != nil {
		t.Errorf("to a host that hasn't heard of the new root: %v", err)
	}
	_, due := ca.Behind(second, ca.Primary{ActiveRootID: second.Roots[0].ID}, now)
	if reason, _ := ca.Behind(second, ca.Primary{ActiveRootID: second.Roots[0].ID}, due); reason == "" {
		t.Error("the intermediate isn't renewed at half of its life")
	}
	// It makes no roots, and signs nobody's intermediate.
	if _, err := provider(t, second).SignIntermediate(context.Background(), "", now); !errors.Is(err, ca.ErrNoRootKey) {
		t.Errorf("a secondary signs an intermediate: %v", err)
	}
	if _, err := ca.RenewIntermediate(context.Background(), second, provider(t, second), now); !errors.Is(err, ca.ErrNoRootKey) {
		t.Errorf("a secondary renews by itself: %v", err)
	}
	if _, err := ca.Rotate(context.Background(), second, provider(t, second), provider(t, primary), now, false); !errors.Is(err, ca.ErrNoRootKey) {
		t.Errorf("a secondary cross-signs: %v", err)
	}
}

// A request for an intermediate has a key that authorities may have, and is signed by it.
func TestSignIntermediateRefuses(t *testing.T) {
	p := provider(t, bootstrap(t, ca.Config{}))
	weak := must(rsa.GenerateKey(rand.Reader, 1024))(t)
	der := must(x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, weak))(t)
	for what, csr := range map[string]string{
		"nothing": "", "a weak key": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})),
	} {
		if _, err := p.SignIntermediate(context.Background(), csr, start); !errors.Is(err, ca.ErrCSR) {
			t.Errorf("%s: %v", what, err)
		}
	}
	_, other, err := ca.NewBuiltin(rand.Reader).RequestIntermediate(ca.Config{}, "other.consul")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.SignIntermediate(context.Background(), other, start); !errors.Is(err, ca.ErrCSR) {
		t.Errorf("another trust domain: %v", err)
	}
	_, csr, err := ca.NewBuiltin(rand.Reader).RequestIntermediate(ca.Config{}, identity.ForCluster(cluster))
	if err != nil {
		t.Fatal(err)
	}
	inter := must(ca.ParseCert(must(p.SignIntermediate(context.Background(), csr, start))(t)))(t)
	if !inter.MaxPathLenZero || !inter.IsCA || inter.URIs[0].Host != cluster+".consul" {
		t.Errorf("intermediate: %+v", inter.URIs)
	}
}
