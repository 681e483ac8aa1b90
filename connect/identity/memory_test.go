// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"testing"
	"time"
)

const remembered = TrustDomain("11111111-2222-3333-4444-555555555555.consul")

// issuer makes certificates for the tests of Memory.
type issuer struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func (by *issuer) issue(t testing.TB, c x509.Certificate) *issuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if by == nil {
		by = &issuer{&c, key}
	}
	der, err := x509.CreateCertificate(rand.Reader, &c, by.cert, key.Public(), by.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &issuer{cert, key}
}

var at = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// authority is a certificate that may sign, valid until some time after at.
func authority(n int64, valid time.Duration) x509.Certificate {
	return x509.Certificate{
		SerialNumber: big.NewInt(n), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		NotBefore: at.Add(-time.Hour), NotAfter: at.Add(valid), SubjectKeyId: []byte{byte(n)},
	}
}

func leafOf(service string, uses ...x509.ExtKeyUsage) x509.Certificate {
	u := &url.URL{Scheme: "spiffe", Host: string(remembered), Path: "/ns/default/dc/dc1/svc/" + service}
	return x509.Certificate{
		SerialNumber: big.NewInt(9), URIs: []*url.URL{u}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: uses,
		NotBefore: at.Add(-time.Minute), NotAfter: at.Add(time.Hour),
	}
}

// What is remembered is what would be found anew: whatever is asked in whichever order, both say the same.
func TestMemorySaysWhatAFreshLookSays(t *testing.T) {
	root, stranger := (*issuer)(nil).issue(t, authority(1, 24*time.Hour)), (*issuer)(nil).issue(t, authority(1, 24*time.Hour))
	soon := root.issue(t, authority(2, 10*time.Minute)) // ends before the leaf does
	longer := soon.cert                                 // the same key, signed to last longer
	{
		c := authority(2, 2*time.Hour)
		der, err := x509.CreateCertificate(rand.Reader, &c, root.cert, soon.key.Public(), root.key)
		if err != nil {
			t.Fatal(err)
		}
		if longer, err = x509.ParseCertificate(der); err != nil {
			t.Fatal(err)
		}
	}
	both := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}
	web, api := soon.issue(t, leafOf("web", both...)).cert, soon.issue(t, leafOf("api", both...)).cert
	client := soon.issue(t, leafOf("web", x509.ExtKeyUsageClientAuth)).cert
	forged := stranger.issue(t, leafOf("web", both...)).cert
	chains := map[string][]*x509.Certificate{
		"none": nil, "web": {web, soon.cert}, "web, longer": {web, longer}, "web, both": {web, soon.cert, longer}, "web alone": {web},
		"api": {api, soon.cert}, "client": {client, soon.cert}, "forged": {forged, stranger.cert}, "forged, by the right one": {forged, soon.cert},
		"an authority": {soon.cert, root.cert}, "too many": make([]*x509.Certificate, maxChain+1),
	}
	for i := range chains["too many"] {
		chains["too many"][i] = web
	}
	times := []time.Time{{}, at.Add(-2 * time.Hour), at.Add(-2 * time.Minute), at.Add(-time.Minute), at, at.Add(10 * time.Minute), at.Add(10*time.Minute + 1), at.Add(time.Hour), at.Add(time.Hour + 1)}
	wants := []Want{
		{TrustDomain: remembered}, {TrustDomain: remembered, Use: AsClient}, {TrustDomain: "other.consul"},
		{TrustDomain: remembered, AnyOf: []Identity{Service{TrustDomain: remembered, Partition: Default, Namespace: Default, Datacenter: "dc1", Service: "api"}}},
	}
	pool := x509.NewCertPool()
	pool.AddCert(root.cert)
	m := NewMemory(pool)
	var good, bad int
	for round := range 2 {
		for name, certs := range chains {
			for _, now := range times {
				for i, want := range wants {
					fresh, err := VerifyChain(certs, pool, now, want)
					got, gotErr := m.VerifyChain(certs, now, want)
					what := fmt.Sprintf("round %d: %s at %s for %d", round, name, now, i)
					if (err == nil) != (gotErr == nil) || err != nil && err.Error() != gotErr.Error() {
						t.Errorf("%s: remembered %v, fresh %v", what, gotErr, err)
					}
					if err == nil && got != fresh.Identity {
						t.Errorf("%s: remembered %s, fresh %s", what, got, fresh.Identity)
					}
					if err == nil {
						good++
					} else {
						bad++
					}
				}
			}
		}
	}
	if good < 50 || bad < 50 || len(m.good) < 5 {
		t.Errorf("%d were good, %d bad, %d are remembered: it says little", good, bad, len(m.good))
	}
}

// The signatures are looked at once: a chain that is known needs none of the roots.
func TestMemoryLooksOnce(t *testing.T) {
	root := (*issuer)(nil).issue(t, authority(1, 24*time.Hour))
	certs := []*x509.Certificate{root.issue(t, leafOf("web", x509.ExtKeyUsageServerAuth)).cert}
	pool := x509.NewCertPool()
	pool.AddCert(root.cert)
	m := NewMemory(pool)
	if _, err := m.VerifyChain(certs, at, Want{TrustDomain: remembered}); err != nil {
		t.Fatal(err)
	}
	m.roots = x509.NewCertPool()
	if _, err := m.VerifyChain(certs, at, Want{TrustDomain: remembered}); err != nil {
		t.Errorf("it isn't remembered: %v", err)
	}
	if _, err := m.VerifyChain(certs, at.Add(2*time.Hour), Want{TrustDomain: remembered}); !errors.Is(err, ErrUntrusted) && !errors.Is(err, ErrExpired) {
		t.Errorf("at another time: %v", err)
	}
}

// However many there are, no more are kept than so many.
func TestMemoryIsBounded(t *testing.T) {
	m := NewMemory(x509.NewCertPool())
	for i := range 3 * maxProven {
		m.keep([32]byte{byte(i), byte(i >> 8)}, Peer{Leaf: &x509.Certificate{}})
	}
	if len(m.good) != maxProven {
		t.Errorf("%d are kept, want %d", len(m.good), maxProven)
	}
}

func BenchmarkMemory(b *testing.B) {
	root := (*issuer)(nil).issue(b, authority(1, 24*time.Hour))
	mid := root.issue(b, authority(2, 24*time.Hour))
	certs := []*x509.Certificate{mid.issue(b, leafOf("web", x509.ExtKeyUsageServerAuth)).cert, mid.cert}
	pool := x509.NewCertPool()
	pool.AddCert(root.cert)
	m := NewMemory(pool)
	for name, f := range map[string]func() error{
		"remembered": func() error { _, err := m.VerifyChain(certs, at, Want{TrustDomain: remembered}); return err },
		"fresh":      func() error { _, err := VerifyChain(certs, pool, at, Want{TrustDomain: remembered}); return err },
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if err := f(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
