// SPDX-License-Identifier: Apache-2.0

package ca_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/weftmesh/weft/ca"
	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/connect/identity"
	"github.com/weftmesh/weft/internal/stormtest"
)

const cluster = "11111111-2222-3333-4444-555555555555"

var (
	start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	web   = identity.Service{TrustDomain: identity.ForCluster(cluster), Datacenter: "dc1", Service: "web"}
)

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func provider(t testing.TB, s ca.State) *ca.Builtin {
	t.Helper()
	p := ca.NewBuiltin(rand.Reader)
	if err := p.Configure(s.Setup()); err != nil {
		t.Fatal(err)
	}
	return p
}

// advance carries out what is due, as a server does.
func advance(t testing.TB, s ca.State, now time.Time) (ca.State, time.Time) {
	t.Helper()
	next, _, wake, err := ca.Advance(context.Background(), s, provider(t, s), now)
	if err != nil {
		t.Fatal(err)
	}
	if !wake.After(now) {
		t.Fatalf("at %s asked to wake at %s", now, wake)
	}
	return next, wake
}

func bootstrap(t testing.TB, cfg ca.Config) ca.State {
	s, _ := advance(t, ca.State{ClusterID: cluster, Datacenter: "dc1", Config: cfg}, start)
	return s
}

func issue(t testing.TB, s ca.State, id identity.Identity, now time.Time) ca.Leaf {
	t.Helper()
	key := must(ca.NewKey(rand.Reader))(t)
	csr := must(ca.CSR(id, key, rand.Reader))(t)
	req := must(ca.CheckCSR(csr, s.TrustDomain(), s.Datacenter))(t)
	got := must(provider(t, s).Sign(context.Background(), req, now))(t)
	return must(ca.NewLeaf(id, key, got.CertPEM, 7))(t)
}

func chainOf(t testing.TB, text string) (raw [][]byte) {
	t.Helper()
	for rest := []byte(text); ; {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			return raw
		}
		raw = append(raw, b.Bytes)
	}
}

func verify(t testing.TB, l ca.Leaf, roots []catalog.CARoot, now time.Time) error {
	t.Helper()
	for _, use := range []identity.Use{identity.AsServer, identity.AsClient} {
		want := identity.Want{TrustDomain: web.TrustDomain, Use: use}
		if _, err := identity.VerifyPeer(chainOf(t, l.CertPEM), must(ca.Pool(roots))(t), now, want); err != nil {
			return err
		}
	}
	return nil
}

func TestLeaf(t *testing.T) {
	s := bootstrap(t, ca.Config{})
	l := issue(t, s, web, start)
	if err := verify(t, l, s.Roots, start); err != nil {
		t.Fatal(err)
	}
	cert := must(x509.ParseCertificate(chainOf(t, l.CertPEM)[0]))(t)
	if cert.Subject.String() != "" || len(cert.DNSNames)+len(cert.IPAddresses)+len(cert.EmailAddresses) != 0 || cert.IsCA {
		t.Errorf("subject %q, names %v", cert.Subject, cert.DNSNames)
	}
	if ku := x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment | x509.KeyUsageDataEncipherment | x509.KeyUsageKeyAgreement; cert.KeyUsage != ku {
		t.Errorf("key usage %b, want %b", cert.KeyUsage, ku)
	}
	if !l.ValidAfter.Equal(start.Add(-time.Minute)) || !l.ValidBefore.Equal(start.Add(72*time.Hour)) {
		t.Errorf("valid %s to %s", l.ValidAfter, l.ValidBefore)
	}
	if l.Service != "web" || l.ServiceURI != web.String() || l.ModifyIndex != 7 || cert.SerialNumber.BitLen() < 64 {
		t.Errorf("leaf %s, serial %s", l, l.SerialNumber)
	}
	for _, shown := range []string{fmt.Sprintf("%v %+v %#v", l, l, l), fmt.Sprintf("%v %+v %#v", s, s, s)} {
		if strings.Contains(shown, "PRIVATE KEY") {
			t.Error("a private key shows in formatted output")
		}
	}
	other := must(ca.NewKey(rand.Reader))(t)
	if _, err := ca.NewLeaf(web, other, l.CertPEM, 1); !errors.Is(err, ca.ErrLeaf) {
		t.Errorf("leaf for another key: %v", err)
	}
	var again ca.State
	if err := json.Unmarshal(must(json.Marshal(s))(t), &again); err != nil || verify(t, issue(t, again, web, start), s.Roots, start) != nil {
		t.Errorf("a stored state doesn't sign: %v", err)
	}
}

// What is signed is what the standard library would sign, under each kind of authority's key and for each kind of leaf's.
func TestLeafAsTheStandardLibrarys(t *testing.T) {
	for _, of := range []ca.Config{
		{}, {PrivateKeyType: "ec", PrivateKeyBits: 384}, {PrivateKeyType: "ec", PrivateKeyBits: 521}, {PrivateKeyType: "rsa", PrivateKeyBits: 2048},
	} {
		s := bootstrap(t, of)
		m := s.Setup().Material
		authority := must(ca.ParseCert(m.IntermediateCert))(t)
		block, _ := pem.Decode([]byte(m.Keys.Intermediate))
		authorityKey := must(x509.ParsePKCS8PrivateKey(block.Bytes))(t)
		for _, curve := range []elliptic.Curve{elliptic.P256(), elliptic.P384(), elliptic.P521()} {
			for _, now := range []time.Time{start, start.AddDate(0, 0, 300)} {
				key := must(ecdsa.GenerateKey(curve, rand.Reader))(t)
				req := must(ca.CheckCSR(must(ca.CSR(web, key, rand.Reader))(t), s.TrustDomain(), s.Datacenter))(t)
				leaf := must(ca.NewLeaf(web, key, must(provider(t, s).Sign(t.Context(), req, now))(t).CertPEM, 1))(t)
				got := must(x509.ParseCertificate(chainOf(t, leaf.CertPEM)[0]))(t)
				want := must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, &x509.Certificate{
					SerialNumber: got.SerialNumber, URIs: got.URIs, NotBefore: now.Add(-ca.Backdate), NotAfter: got.NotAfter, BasicConstraintsValid: true,
					KeyUsage: got.KeyUsage, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
				}, authority, &key.PublicKey, authorityKey))(t)))(t)
				if !bytes.Equal(got.RawTBSCertificate, want.RawTBSCertificate) || got.SignatureAlgorithm != want.SignatureAlgorithm {
					t.Errorf("%+v, leaf on %s: %x, want %x", of, curve.Params().Name, got.RawTBSCertificate, want.RawTBSCertificate)
				}
			}
		}
	}
}

// A signature that went wrong is found by who asked for it.
func TestLeafSignedWrongly(t *testing.T) {
	s := bootstrap(t, ca.Config{})
	key := must(ca.NewKey(rand.Reader))(t)
	req := must(ca.CheckCSR(must(ca.CSR(web, key, rand.Reader))(t), s.TrustDomain(), s.Datacenter))(t)
	chain := must(provider(t, s).Sign(t.Context(), req, start))(t).CertPEM
	der := chainOf(t, chain)
	leaf := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der[0]})
	der[0][len(der[0])-1] ^= 1
	wrong := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der[0]})) + strings.TrimPrefix(chain, string(leaf))
	if _, err := ca.NewLeaf(web, key, wrong, 1); !errors.Is(err, ca.ErrLeaf) {
		t.Errorf("a wrong signature: %v", err)
	}
}

func TestCheckCSR(t *testing.T) {
	key := must(ca.NewKey(rand.Reader))(t)
	for name, tc := range map[string]struct {
		id   identity.Identity
		err  error
		text string
	}{
		"other datacenter": {
			identity.Service{TrustDomain: web.TrustDomain, Datacenter: "a", Service: "web"},
			ca.ErrOtherDatacenter,
			"SPIFFE ID in CSR from a different datacenter: a, we are dc1",
		},
		"other domain": {identity.Service{TrustDomain: "y.consul", Datacenter: "dc1", Service: "web"}, ca.ErrOtherTrustDomain, "y.consul"},
		"the CA":       {identity.Signing{TrustDomain: web.TrustDomain}, ca.ErrCSR, "certificate authority"},
		"agent":        {identity.Agent{TrustDomain: web.TrustDomain, Datacenter: "dc1", Node: "n"}, nil, ""},
		"account":      {identity.ServiceAccount{TrustDomain: web.TrustDomain, Name: "n"}, nil, ""},
	} {
		csr := must(ca.CSR(tc.id, key, rand.Reader))(t)
		_, err := ca.CheckCSR(csr, web.TrustDomain, "dc1")
		if !errors.Is(err, tc.err) || err != nil && !strings.Contains(err.Error(), tc.text) {
			t.Errorf("%s: %v", name, err)
		}
		broken := strings.Replace(csr, "-----\n", "-----\nAAAA", 1)
		if _, err := ca.CheckCSR(broken, web.TrustDomain, "dc1"); !errors.Is(err, ca.ErrCSR) {
			t.Errorf("%s, broken: %v", name, err)
		}
	}
	good := must(ca.CSR(web, key, rand.Reader))(t)
	for name, text := range map[string]string{"empty": "", "twice": good + good, "long": good + strings.Repeat(" ", 1<<20)} {
		if _, err := ca.CheckCSR(text, web.TrustDomain, "dc1"); !errors.Is(err, ca.ErrCSR) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestConfig(t *testing.T) {
	for name, tc := range map[string]struct {
		c  ca.Config
		ok bool
	}{
		"defaults":      {ca.Config{}, true},
		"leaf of 30m":   {ca.Config{LeafCertTTL: 30 * time.Minute}, false},
		"with a floor":  {ca.Config{LeafCertTTL: 10 * time.Second, MinLeafCertTTL: time.Second}, true},
		"leaf of years": {ca.Config{LeafCertTTL: 9000 * time.Hour, IntermediateCertTTL: 50000 * time.Hour}, false},
		"intermediate":  {ca.Config{IntermediateCertTTL: 3 * time.Hour}, false},
		"root":          {ca.Config{RootCertTTL: time.Hour}, false},
		"P-384":         {ca.Config{PrivateKeyBits: 384}, true},
		"P-224":         {ca.Config{PrivateKeyBits: 224}, false},
		"dsa":           {ca.Config{PrivateKeyType: "dsa"}, false},
		"half a root":   {ca.Config{RootCert: "x"}, false},
	} {
		if err := tc.c.Validate(); (err == nil) != tc.ok || err != nil && !errors.Is(err, ca.ErrConfig) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestRotation walks through two quick rotations: every live leaf is accepted by hosts with the first roots and by hosts
// with the newest, until the old roots are pruned.
func TestRotation(t *testing.T) {
	first := bootstrap(t, ca.Config{})
	s, now := first, start
	old := issue(t, s, web, now)
	for bits := range 2 {
		now = now.Add(time.Hour)
		next, rotate, err := ca.Reconfigure(s, ca.Config{PrivateKeyBits: []int{384, 256}[bits]})
		if err != nil || !rotate {
			t.Fatal(rotate, err)
		}
		s = must(ca.Rotate(context.Background(), next, provider(t, s), provider(t, ca.State{ClusterID: cluster, Datacenter: "dc1", Config: next.Config}), now, false))(t)
		fresh := issue(t, s, web, now)
		for _, roots := range [][]catalog.CARoot{first.Roots, s.Roots} {
			for name, l := range map[string]ca.Leaf{"old": old, "fresh": fresh} {
				if err := verify(t, l, roots, now); err != nil {
					t.Fatalf("%s leaf with %d roots: %v", name, len(roots), err)
				}
			}
		}
	}
	if active, _ := s.Active(); len(s.Roots) != 3 || s.Roots[0].ID != active.ID || active.ID == first.Roots[0].ID {
		t.Fatalf("%d roots", len(s.Roots))
	}
	if got, rotate, err := ca.Reconfigure(s, s.Config); err != nil || rotate || got.LongestLeafTTL != s.LongestLeafTTL {
		t.Error("the same configuration isn't a no-op")
	}
	if kept, _ := advance(t, s, old.ValidBefore); len(kept.Roots) != 3 {
		t.Error("a root was pruned while its leaves could live")
	}
	s, _ = advance(t, s, now.Add(145*time.Hour))
	if len(s.Roots) != 1 || len(s.Retiring) != 0 || len(s.Roots[0].IntermediateCerts) != 1 || len(s.Material.CrossCerts) != 0 {
		t.Errorf("after pruning: %d roots, %d retiring", len(s.Roots), len(s.Retiring))
	}
}

// TestQuickRotations: a host that hears nothing while roots change again and again goes on being able to call and be called,
// for as many changes as the chain has room for.
func TestQuickRotations(t *testing.T) {
	first := bootstrap(t, ca.Config{})
	s, now := first, start
	for n := range 21 {
		now = now.Add(300 * time.Millisecond)
		s = must(ca.Rotate(context.Background(), s, provider(t, s), provider(t, ca.State{ClusterID: cluster, Datacenter: "dc1", Config: s.Config}), now, false))(t)
		err := verify(t, issue(t, s, web, now), first.Roots, now)
		if n < 20 && err != nil {
			t.Fatalf("after %d rotations: %v", n+1, err)
		}
		if n == 20 && err == nil {
			t.Error("the chain has no end")
		}
	}
	for after, want := range map[time.Duration]int{0: 22, 2 * time.Hour: 6} { // with the leaf and its intermediate
		l := issue(t, s, web, now.Add(after))
		if err := verify(t, l, s.Roots, now.Add(after)); err != nil {
			t.Error(err)
		}
		if n := len(chainOf(t, l.CertPEM)); n != want {
			t.Errorf("%v after the last rotation a leaf carries %d certificates, want %d", after, n, want)
		}
	}
}

// TestYears lets twelve years pass, waking only when asked to: at each point a new leaf can be signed, and is accepted.
func TestYears(t *testing.T) {
	s := bootstrap(t, ca.Config{})
	rotations, now := 0, start
	for steps := 0; now.Before(start.AddDate(12, 0, 0)); steps++ {
		if steps > 200 {
			t.Fatal("it wakes too often")
		}
		was := s.Roots[0].ID
		var wake time.Time
		s, wake = advance(t, s, now)
		if s.Roots[0].ID != was {
			rotations++
		}
		if err := verify(t, issue(t, s, web, now), s.Roots, now); err != nil {
			t.Fatal(now, err)
		}
		now = wake
	}
	if rotations != 1 {
		t.Errorf("%d rotations of the root in twelve years, want 1", rotations)
	}
}

func TestRenewAt(t *testing.T) {
	l := ca.Leaf{ValidAfter: start.Add(-ca.Backdate), ValidBefore: start.Add(100 * time.Second)}
	for jitter, want := range map[float64]time.Duration{0: 60 * time.Second, 1: 90 * time.Second, -4: 60 * time.Second, 9: 90 * time.Second} {
		if got := ca.RenewAt(l, jitter).Sub(start).Round(time.Millisecond); got != want {
			t.Errorf("jitter %v: %s, want %s", jitter, got, want)
		}
	}
}

// TestWatchdogUrgency lets every attempt fail: the pauses are bounded by what is left, and attempts go on past the end.
func TestWatchdogUrgency(t *testing.T) {
	var w ca.Watchdog[string]
	l := ca.Leaf{SerialNumber: "01", ValidAfter: start.Add(-ca.Backdate), ValidBefore: start.Add(time.Hour)}
	leaves, cause := map[string]ca.Leaf{"web": l}, errors.New("no server")
	var last time.Time
	afterEnd := 0
	for now := start; now.Before(start.Add(70 * time.Minute)); {
		renew, wake := w.Next(now, leaves)
		if len(renew) == 1 {
			if gap := now.Sub(last); !last.IsZero() && gap > max(10*time.Second, l.ValidBefore.Sub(last)/10) {
				t.Fatalf("%s without an attempt at %s", gap, now.Sub(start))
			}
			if last = now; now.After(l.ValidBefore) {
				afterEnd++
			}
			w.Failed("web", now, cause)
			_, wake = w.Next(now, leaves)
		}
		if !wake.After(now) {
			t.Fatalf("wake %s at %s", wake, now)
		}
		now = wake
	}
	if tr := w.Troubles(start.Add(70 * time.Minute)); afterEnd < 30 || len(tr) != 1 || tr[0].Left >= 0 || !errors.Is(tr[0].Cause, cause) {
		t.Errorf("%d attempts after the end, troubles %+v", afterEnd, tr)
	}
	leaves["web"] = ca.Leaf{SerialNumber: "02", ValidAfter: start.Add(time.Hour), ValidBefore: start.Add(9 * time.Hour)}
	if renew, _ := w.Next(start.Add(70*time.Minute), leaves); len(renew) != 0 || len(w.Troubles(start)) != 0 {
		t.Error("a success isn't noticed")
	}
}

func TestWatchdogMissingAndHangingAndRoots(t *testing.T) {
	var w ca.Watchdog[string]
	leaves := map[string]ca.Leaf{"new": {}, "web": {SerialNumber: "01", ValidAfter: start, ValidBefore: start.Add(time.Hour)}}
	if renew, wake := w.Next(start, leaves); len(renew) != 1 || renew[0] != "new" || !wake.Equal(start.Add(ca.AttemptTimeout)) {
		t.Fatal(renew, wake)
	}
	if renew, _ := w.Next(start.Add(time.Second), leaves); len(renew) != 0 {
		t.Error("asked again for an attempt that runs")
	}
	w.Next(start.Add(ca.AttemptTimeout), leaves)
	if tr := w.Troubles(start.Add(ca.AttemptTimeout)); len(tr) != 1 || tr[0].Failures != 1 {
		t.Errorf("a hanging attempt isn't a failure: %+v", tr)
	}
	w.RootsChanged(start.Add(time.Minute), 0)
	if renew, _ := w.Next(start.Add(time.Minute), leaves); len(renew) != 2 {
		t.Errorf("after a change of roots: %v", renew)
	}
	if _, wake := w.Next(start.Add(time.Hour), nil); !wake.IsZero() || len(w.Troubles(start)) != 0 {
		t.Error("leaves that are gone aren't forgotten")
	}
}

func TestLimiter(t *testing.T) {
	l := ca.Limiter{PerSecond: 2}
	got := []error{l.Allow(start), l.Allow(start), l.Allow(start), l.Allow(start.Add(-time.Hour)), l.Allow(start.Add(500 * time.Millisecond))}
	if got[0] != nil || got[1] != nil || !errors.Is(got[2], ca.ErrRateLimited) || !errors.Is(got[3], ca.ErrRateLimited) || got[4] != nil {
		t.Error(got)
	}
}

func FuzzCheckCSR(f *testing.F) {
	key := must(ca.NewKey(rand.Reader))(f)
	block, _ := pem.Decode([]byte(must(ca.CSR(web, key, rand.Reader))(f)))
	f.Add(block.Bytes)
	stormtest.Fuzz(f, func(t *testing.T, der []byte) {
		text := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
		req, err := ca.CheckCSR(text, web.TrustDomain, "dc1")
		if err == nil && (req.Identity.Domain() != web.TrustDomain || req.PublicKey == nil || req.Identity.Kind() == identity.KindSigning) {
			t.Fatalf("accepted %v", req)
		}
	})
}

// BenchmarkSign is what a server does per leaf: check the request and sign.
func BenchmarkSign(b *testing.B) {
	s := bootstrap(b, ca.Config{})
	p := provider(b, s)
	csr := must(ca.CSR(web, must(ca.NewKey(rand.Reader))(b), rand.Reader))(b)
	for b.Loop() {
		req, err := ca.CheckCSR(csr, s.TrustDomain(), s.Datacenter)
		if err == nil {
			_, err = p.Sign(context.Background(), req, start)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "leaves/s")
}

// A leaf that comes and goes between two looks is asked for again at once.
func TestWatchdogOfALeafThatWentAgain(t *testing.T) {
	w, now := ca.Watchdog[string]{}, time.Unix(1000, 0)
	none := map[string]ca.Leaf{"web": {}}
	if renew, _ := w.Next(now, none); len(renew) != 1 {
		t.Fatalf("due: %v", renew)
	}
	if renew, _ := w.Next(now, none); len(renew) != 0 {
		t.Fatalf("due while an attempt runs: %v", renew)
	}
	w.Done("web") // it came, and was revoked
	if renew, _ := w.Next(now.Add(time.Millisecond), none); len(renew) != 1 {
		t.Errorf("due: %v, want it at once", renew)
	}
}
