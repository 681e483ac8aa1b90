// SPDX-License-Identifier: Apache-2.0

package identity_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"math/big"
	"slices"
	"testing"
	"time"

	"github.com/weftmesh/weft/connect/identity"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t testing.TB) authority {
	t.Helper()
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "root"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	return issue(t, tmpl, nil)
}

// issue signs with the parent, or makes a self-signed certificate.
func issue(t testing.TB, tmpl *x509.Certificate, parent *authority) authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	by := authority{cert: tmpl, key: key}
	if parent != nil {
		by = *parent
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, by.cert, key.Public(), by.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return authority{cert: cert, key: key}
}

// sanURIs builds the extension by hand, since x509 refuses or changes some of the spellings under test.
func sanURIs(t testing.TB, uris ...string) []pkix.Extension {
	t.Helper()
	var names []asn1.RawValue
	for _, u := range uris {
		names = append(names, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 6, Bytes: []byte(u)})
	}
	der, err := asn1.Marshal(names)
	if err != nil {
		t.Fatal(err)
	}
	return []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Critical: true, Value: der}}
}

func leafTemplate(t testing.TB, uris ...string) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: now.Add(-time.Minute), NotAfter: now.Add(time.Hour), ExtraExtensions: sanURIs(t, uris...),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
}

func TestC79_C84_C87_VerifyPeer(t *testing.T) {
	web := identity.Service{TrustDomain: td, Partition: "default", Namespace: "default", Datacenter: "dc1", Service: "web"}
	api := web
	api.Service = "api"
	root, stranger := newAuthority(t), newAuthority(t)
	good := leafTemplate(t, web.String())
	with := func(change func(*x509.Certificate)) *x509.Certificate {
		c := *leafTemplate(t, web.String())
		change(&c)
		return &c
	}
	pool := x509.NewCertPool()
	pool.AddCert(root.cert)

	for name, tc := range map[string]struct {
		leaf  *x509.Certificate
		by    authority
		roots *x509.CertPool
		at    time.Time
		want  identity.Want
		err   error
	}{
		"anyone":          {good, root, pool, now, identity.Want{TrustDomain: td}, nil},
		"as client":       {good, root, pool, now, identity.Want{TrustDomain: td, Use: identity.AsClient}, nil},
		"one of two":      {good, root, pool, now, identity.Want{TrustDomain: td, AnyOf: []identity.Identity{api, web}}, nil},
		"unset defaults":  {good, root, pool, now, identity.Want{TrustDomain: td, AnyOf: []identity.Identity{identity.Service{TrustDomain: td, Datacenter: "dc1", Service: "web"}}}, nil},
		"somebody else":   {good, root, pool, now, identity.Want{TrustDomain: td, AnyOf: []identity.Identity{api}}, identity.ErrWrongIdentity},
		"no trust domain": {good, root, pool, now, identity.Want{}, identity.ErrWrongTrustDomain},
		"other domain":    {good, root, pool, now, identity.Want{TrustDomain: "y.consul"}, identity.ErrWrongTrustDomain},
		"other root":      {good, stranger, pool, now, identity.Want{TrustDomain: td}, identity.ErrUntrusted},
		"no roots":        {good, root, nil, now, identity.Want{TrustDomain: td}, identity.ErrUntrusted},
		"no time":         {good, root, pool, time.Time{}, identity.Want{TrustDomain: td}, identity.ErrUntrusted},
		"expired":         {good, root, pool, now.Add(2 * time.Hour), identity.Want{TrustDomain: td}, identity.ErrExpired},
		"too early":       {good, root, pool, now.Add(-2 * time.Minute), identity.Want{TrustDomain: td}, identity.ErrNotYetValid},
		"server only": {
			with(func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[1:] }), root, pool, now,
			identity.Want{TrustDomain: td, Use: identity.AsClient},
			identity.ErrUntrusted,
		},
		"authority as leaf": {
			with(func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true }), root, pool, now,
			identity.Want{TrustDomain: td},
			identity.ErrUntrusted,
		},
		"may sign":       {with(func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign }), root, pool, now, identity.Want{TrustDomain: td}, identity.ErrUntrusted},
		"signing name":   {leafTemplate(t, "spiffe://"+string(td)), root, pool, now, identity.Want{TrustDomain: td}, identity.ErrWrongIdentity},
		"empty fragment": {leafTemplate(t, web.String()+"#"), root, pool, now, identity.Want{TrustDomain: td}, identity.ErrInvalid},
		"scheme in caps": {leafTemplate(t, "SPIFFE"+web.String()[6:]), root, pool, now, identity.Want{TrustDomain: td}, identity.ErrInvalid},
		"two names":      {leafTemplate(t, web.String(), api.String()), root, pool, now, identity.Want{TrustDomain: td}, identity.ErrNoIdentity},
		"same twice":     {leafTemplate(t, web.String(), web.String()), root, pool, now, identity.Want{TrustDomain: td}, identity.ErrNoIdentity},
		"no name":        {with(func(c *x509.Certificate) { c.ExtraExtensions = nil }), root, pool, now, identity.Want{TrustDomain: td}, identity.ErrNoIdentity},
	} {
		t.Run(name, func(t *testing.T) {
			leaf := issue(t, tc.leaf, &tc.by)
			peer, err := identity.VerifyPeer([][]byte{leaf.cert.Raw}, tc.roots, tc.at, tc.want)
			if !errors.Is(err, tc.err) {
				t.Fatalf("got %v, want %v", err, tc.err)
			}
			if err == nil && (peer.Identity != identity.Identity(web) || !peer.Leaf.Equal(leaf.cert) || len(peer.Chain) != 2) {
				t.Fatalf("peer %+v", peer)
			}
		})
	}
}

func TestC95_VerifyPeerBoundsItsInput(t *testing.T) {
	for name, raw := range map[string][][]byte{
		"none": nil, "rubbish": {[]byte("x")}, "empty": {nil}, "many": make([][]byte, 1000),
	} {
		if _, err := identity.VerifyPeer(raw, x509.NewCertPool(), now, identity.Want{TrustDomain: td}); !errors.Is(err, identity.ErrNoCertificate) {
			t.Errorf("%s: %v", name, err)
		}
	}
	root := newAuthority(t)
	many := slices.Repeat([][]byte{root.cert.Raw}, 25)
	if _, err := identity.VerifyPeer(many, x509.NewCertPool(), now, identity.Want{TrustDomain: td}); !errors.Is(err, identity.ErrNoCertificate) {
		t.Errorf("many good ones: %v", err)
	}
	// The control: as many certificates as may be, all in order, are refused for another reason.
	if _, err := identity.VerifyPeer([][]byte{root.cert.Raw}, x509.NewCertPool(), now, identity.Want{TrustDomain: td}); err == nil || errors.Is(err, identity.ErrNoCertificate) {
		t.Errorf("the control: %v", err)
	}
}

func BenchmarkVerifyPeer(b *testing.B) {
	root := newAuthority(b)
	web := identity.Service{TrustDomain: td, Datacenter: "dc1", Service: "web"}
	leaf := issue(b, leafTemplate(b, web.String()), &root)
	pool := x509.NewCertPool()
	pool.AddCert(root.cert)
	for b.Loop() {
		if _, err := identity.VerifyPeer([][]byte{leaf.cert.Raw}, pool, now, identity.Want{TrustDomain: td}); err != nil {
			b.Fatal(err)
		}
	}
}

// TestC85_NamesWithNULAndCommas: a name that some reader would end, or cut in two, is no identity.
func TestC85_NamesWithNULAndCommas(t *testing.T) {
	const td = "spiffe://11111111-2222-3333-4444-555555555555.consul/ns/default/dc/dc1/svc/"
	root := newAuthority(t)
	pool := x509.NewCertPool()
	pool.AddCert(root.cert)
	show := func(uri string) error {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		der, err := x509.CreateCertificate(rand.Reader, leafTemplate(t, uri), root.cert, key.Public(), root.key)
		if err != nil {
			t.Fatal(err)
		}
		_, err = identity.VerifyPeer([][]byte{der}, pool, now, identity.Want{TrustDomain: "11111111-2222-3333-4444-555555555555.consul", Use: identity.AsClient})
		return err
	}
	for _, name := range []string{"web\x00", "web\x00.evil", "web,db", "web," + td + "db", "web;db", "web db", "web\r\ndb", "web%00", "web%2cdb", "\x00web", "web\u202edb"} {
		if err := show(td + name); err == nil {
			t.Errorf("%q is an identity", name)
		}
	}
	if err := show(td + "web"); err != nil {
		t.Errorf("the control: %v", err)
	}
}
