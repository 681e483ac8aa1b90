// SPDX-License-Identifier: Apache-2.0

package vault_test

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weftmesh/weft/ca"
	"github.com/weftmesh/weft/ca/vault"
	"github.com/weftmesh/weft/ca/vaulttest"
	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/connect/identity"
)

const cluster = "11111111-2222-3333-4444-555555555555"

var web = identity.Service{TrustDomain: identity.ForCluster(cluster), Datacenter: "dc1", Service: "web"}

// rig is a mesh's authority beside a Vault.
type rig struct {
	*testing.T
	vault   *vaulttest.Vault
	address string
	clock   atomic.Int64
}

func start(t *testing.T) *rig {
	r := &rig{T: t}
	r.clock.Store(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC).Unix())
	r.vault = vaulttest.New(r.now)
	s := httptest.NewServer(r.vault)
	t.Cleanup(s.Close)
	r.address = s.URL
	return r
}

func (r *rig) now() time.Time       { return time.Unix(r.clock.Load(), 0).UTC() }
func (r *rig) pass(d time.Duration) { r.clock.Add(int64(d / time.Second)) }
func (r *rig) config() ca.Config    { return r.with(ca.VaultConfig{Token: "root"}) }
func (r *rig) need(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}
func (r *rig) with(v ca.VaultConfig) ca.Config {
	v.Address = r.address
	if v.RootPKIPath == "" {
		v.RootPKIPath = "pki"
	}
	v.IntermediatePKIPath = "mesh/pki_int"
	return ca.Config{Provider: ca.VaultName, Vault: v}
}

func (r *rig) provider(s ca.State) ca.Provider {
	r.Helper()
	var p ca.Provider = ca.NewBuiltin(rand.Reader)
	if s.Config.Provider == ca.VaultName {
		p = vault.New(rand.Reader)
	}
	r.need(p.Configure(s.Setup()))
	return p
}

func (r *rig) bootstrap(c ca.Config) ca.State {
	r.Helper()
	s := ca.State{ClusterID: cluster, Datacenter: "dc1", Config: c}
	next, _, _, err := ca.Advance(context.Background(), s, r.provider(s), r.now())
	r.need(err)
	return next
}

func (r *rig) sign(s ca.State, p ca.Provider) (ca.Leaf, error) {
	r.Helper()
	key, err := ca.NewKey(rand.Reader)
	r.need(err)
	csr, err := ca.CSR(web, key, rand.Reader)
	r.need(err)
	req, err := ca.CheckCSR(csr, s.TrustDomain(), "dc1")
	r.need(err)
	got, err := p.Sign(context.Background(), req, r.now())
	if err != nil {
		return ca.Leaf{}, err
	}
	return ca.NewLeaf(web, key, got.CertPEM, 1)
}

// accepted says whether hosts that trust roots take a leaf, in both directions.
func (r *rig) accepted(l ca.Leaf, roots []catalog.CARoot) error {
	r.Helper()
	pool, err := ca.Pool(roots)
	r.need(err)
	var raw [][]byte
	for rest := []byte(l.CertPEM); ; {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			break
		}
		raw = append(raw, b.Bytes)
	}
	for _, use := range []identity.Use{identity.AsServer, identity.AsClient} {
		if _, err := identity.VerifyPeer(raw, pool, r.now(), identity.Want{TrustDomain: web.TrustDomain, Use: use}); err != nil {
			return err
		}
	}
	return nil
}

func TestVault(t *testing.T) {
	r := start(t)
	s := r.bootstrap(r.config())
	p := r.provider(s)
	l, err := r.sign(s, p)
	r.need(err)
	r.need(r.accepted(l, s.Roots))
	if l.ValidBefore.Sub(r.now()) != 72*time.Hour || l.ValidAfter.After(r.now().Add(-ca.Backdate)) {
		t.Errorf("a leaf from %v to %v", l.ValidAfter, l.ValidBefore)
	}
	if s.Material.Keys != (ca.Keys{}) {
		t.Error("weft holds a key of the authority")
	}
	if cn := must(x509.ParseCertificate(der(s.Material.RootCert))).Subject.CommonName; !strings.HasPrefix(cn, "pri-") || !strings.HasSuffix(cn, ".vault.ca.11111111.consul") {
		t.Errorf("the root is called %s", cn)
	}
	// A second start finds what is there, and another intermediate takes the old one's leaves with it.
	again := r.bootstrap(r.config())
	if again.Roots[0].ID != s.Roots[0].ID || again.Material.IntermediateCert == s.Material.IntermediateCert {
		t.Error("a second start should find the root, and make an intermediate")
	}
	r.need(r.accepted(l, again.Roots))
	// Leaves are signed by the issuer that is stored, whatever else the engine has got since.
	l, err = r.sign(s, p)
	r.need(err)
	r.need(r.accepted(l, s.Roots))
	// Half a year later the intermediate is renewed.
	r.pass(183 * 24 * time.Hour)
	next, actions, _, err := ca.Advance(context.Background(), s, r.provider(s), r.now())
	if err != nil || len(actions) != 1 || actions[0].Kind != ca.ActionRenewIntermediate {
		t.Fatal(actions, err)
	}
	l, err = r.sign(next, r.provider(next))
	r.need(err)
	r.need(r.accepted(l, s.Roots))
	// The intermediate of another datacenter's authority is signed by the same root.
	key, csr, err := ca.NewBuiltin(rand.Reader).RequestIntermediate(ca.Config{}, s.TrustDomain())
	r.need(err)
	inter, err := r.provider(next).SignIntermediate(context.Background(), csr, r.now())
	r.need(err)
	second, err := ca.Follow(ca.State{Datacenter: "dc1"}, ca.Primary{ClusterID: cluster, ActiveRootID: next.Roots[0].ID, Roots: next.Roots}, inter, key, r.now())
	r.need(err)
	l, err = r.sign(second, r.provider(second))
	r.need(err)
	r.need(r.accepted(l, s.Roots))
}

func der(text string) []byte {
	b, _ := pem.Decode([]byte(text))
	return b.Bytes
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// TestSwitch goes from the built-in provider to Vault, to another engine of it, and back: each time hosts with the old roots and hosts
// with the new ones take each other's leaves.
func TestSwitch(t *testing.T) {
	r := start(t)
	s := r.bootstrap(ca.Config{})
	for i, c := range []ca.Config{r.config(), r.with(ca.VaultConfig{Token: "root", RootPKIPath: "pki2"}), {}} {
		old := r.provider(s)
		before, err := r.sign(s, old)
		r.need(err)
		next, rotate, err := ca.Reconfigure(s, c)
		if err != nil || !rotate {
			t.Fatal(i, rotate, err)
		}
		fresh := r.provider(ca.State{ClusterID: cluster, Datacenter: "dc1", Config: next.Config})
		now, err := ca.Rotate(context.Background(), next, old, fresh, r.now(), false)
		r.need(err)
		after, err := r.sign(now, r.provider(now))
		r.need(err)
		for name, l := range map[string]ca.Leaf{"before": before, "after": after} {
			for _, roots := range [][]catalog.CARoot{s.Roots, now.Roots} {
				if err := r.accepted(l, roots); err != nil {
					t.Errorf("step %d: the leaf of %s: %v", i, name, err)
				}
			}
		}
		s = now
	}
	if len(s.Roots) != 4 {
		t.Errorf("%d roots", len(s.Roots))
	}
}

// TestTokens: a token is renewed in time, a login's is got anew when it ends, and what can't be got is named.
func TestTokens(t *testing.T) {
	r := start(t)
	dir := t.TempDir()
	secret, jwt := filepath.Join(dir, "secret"), filepath.Join(dir, "jwt")
	r.need(os.WriteFile(secret, []byte("s3\n"), 0o600))
	r.need(os.WriteFile(jwt, []byte("a.b.c"), 0o600))
	r.vault.AppRole("r1", "s3")
	r.vault.Kubernetes("a.b.c", "mesh")
	for name, v := range map[string]ca.VaultConfig{
		"token":      {Token: "short"},
		"approle":    {AuthMethod: ca.VaultAuth{Type: "approle", Params: map[string]ca.Secret{"role_id": "r1", "secret_id_file_path": ca.Secret(secret)}}},
		"kubernetes": {AuthMethod: ca.VaultAuth{Type: "kubernetes", Params: map[string]ca.Secret{"role": "mesh", "token_path": ca.Secret(jwt)}}},
	} {
		t.Run(name, func(t *testing.T) {
			r.vault.AddToken("short", time.Hour) // for as long from now, in whatever order these run
			s := r.bootstrap(r.with(v))
			p := r.provider(s)
			for range 5 { // hours, with nothing else asked
				again, err := p.Maintain(context.Background(), r.now())
				r.need(err)
				if wait := again.Sub(r.now()); wait <= 0 || wait > 31*time.Minute {
					t.Fatalf("maintained again in %v, the token lives an hour", wait)
				}
				r.clock.Store(again.Unix())
			}
			_, err := r.sign(s, p)
			r.need(err)
			r.vault.RevokeTokens()
			_, err = r.sign(s, p)
			if (err == nil) != (v.Token == "") {
				t.Errorf("after all tokens were revoked: %v", err)
			}
			if v.Token != "" && (!errors.Is(err, ca.ErrProvider) || !strings.Contains(err.Error(), "403: permission denied")) {
				t.Errorf("refused with %v", err)
			}
		})
	}
	bad := r.with(ca.VaultConfig{AuthMethod: ca.VaultAuth{Type: "approle", Params: map[string]ca.Secret{"role_id": "r1", "secret_id": "canary-wrong"}}})
	_, err := r.provider(ca.State{ClusterID: cluster, Config: bad}).GenerateRoot(context.Background(), r.now())
	if !errors.Is(err, ca.ErrProvider) || !strings.Contains(err.Error(), "invalid role or secret ID") || strings.Contains(err.Error(), "canary") {
		t.Errorf("a wrong secret: %v", err)
	}
}

// TestWhatVaultGivesIsChecked: the intermediate is missed where it has gone, and failures name the request.
func TestWhatVaultGivesIsChecked(t *testing.T) {
	r := start(t)
	s := r.bootstrap(r.config())
	p := r.provider(s)
	if _, err := p.Maintain(context.Background(), r.now()); err != nil {
		t.Fatal(err)
	}
	r.vault.Refuse("mesh/pki_int/issuer/", "storage is gone")
	if _, err := r.sign(s, p); !errors.Is(err, ca.ErrProvider) || !strings.Contains(err.Error(), "storage is gone") {
		t.Errorf("refused with %v", err)
	}
	r.vault.Refuse("mesh/pki_int/issuer/", "")
	r.vault.Unmount("mesh/pki_int")
	if _, err := p.Maintain(context.Background(), r.now()); !errors.Is(err, ca.ErrIntermediate) {
		t.Errorf("without the engine: %v", err)
	}
	next, err := ca.RenewIntermediate(context.Background(), s, p, r.now())
	r.need(err)
	l, err := r.sign(next, r.provider(next))
	r.need(err)
	r.need(r.accepted(l, s.Roots))
}
