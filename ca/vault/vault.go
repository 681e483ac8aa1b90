// SPDX-License-Identifier: Apache-2.0

// Package vault is a provider whose root and intermediate, with their keys, are in PKI engines of a Vault, or of what answers
// like one (OpenBao). The root's engine signs the intermediate's, and that every leaf: no key of the mesh's authority is in weft.
// What a root or an intermediate becomes there takes effect here only once it has been stored, so a change that fails changes nothing:
// leaves are signed by the issuer that is named, not by the engine's default. It owns no goroutine.
package vault

import (
	"cmp"
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"time"

	"github.com/weftmesh/weft/ca"
	"github.com/weftmesh/weft/connect/identity"
)

// role is the name of the role that leaves are signed by.
const role = "leaf-cert"

// look is how often it is looked whether the intermediate is still there.
const look = time.Hour

// Provider is the provider. Make it with New.
type Provider struct {
	rand io.Reader

	mu  sync.RWMutex // guards what is behind it, which is never changed in place
	cur *authority
}

type authority struct {
	setup       ca.Setup
	client      *client
	root, inter *x509.Certificate // nil before there is material
}

var _ ca.Provider = (*Provider)(nil)

// New makes a provider that draws names from rand. Configure comes next.
func New(rand io.Reader) *Provider { return &Provider{rand: rand} }

// Name is ca.VaultName.
func (p *Provider) Name() string { return ca.VaultName }

// Configure implements ca.Provider. It reads the files for TLS, and asks Vault nothing yet.
func (p *Provider) Configure(s ca.Setup) error {
	if err := s.Config.Validate(); err != nil {
		return err
	}
	s.Config = s.Config.WithDefaults()
	a := &authority{setup: s}
	if m := s.Material; m.RootCert != "" {
		var err error
		if a.root, err = ca.ParseCert(m.RootCert); err == nil {
			a.inter, err = ca.ParseCert(m.IntermediateCert)
		}
		if err != nil {
			return fmt.Errorf("%w: %w", ca.ErrConfig, err)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cur != nil && reflect.DeepEqual(p.cur.setup.Config.Vault, s.Config.Vault) {
		a.client = p.cur.client // with its token
	} else {
		var err error
		if a.client, err = newClient(s.Config.Vault); err != nil {
			return err
		}
	}
	p.cur = a
	return nil
}

func (p *Provider) current() (*authority, error) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if p.cur == nil {
		return nil, fmt.Errorf("%w: it isn't configured", ca.ErrNotReady)
	}
	return p.cur, nil
}

func (p *Provider) ready() (*authority, error) {
	a, err := p.current()
	if err == nil && a.root == nil {
		err = ca.ErrNotReady
	}
	return a, err
}

// engine is a mount of the PKI engine.
type engine struct{ namespace, path string }

func (a *authority) roots() engine {
	v := a.setup.Config.Vault
	return engine{cmp.Or(v.RootPKINamespace, v.Namespace), strings.Trim(v.RootPKIPath, "/")}
}

func (a *authority) intermediates() engine {
	v := a.setup.Config.Vault
	return engine{cmp.Or(v.IntermediatePKINamespace, v.Namespace), strings.Trim(v.IntermediatePKIPath, "/")}
}

func (a *authority) post(ctx context.Context, now time.Time, e engine, path string, in, out any) error {
	return a.client.do(ctx, now, http.MethodPost, e.namespace, e.path+"/"+path, in, out)
}

// certificate gives the CA certificate of an engine, "" where it has none yet; mounted says whether there is an engine.
func (a *authority) certificate(ctx context.Context, now time.Time, e engine) (text string, mounted bool, err error) {
	err = a.client.do(ctx, now, http.MethodGet, e.namespace, e.path+"/ca/pem", nil, &text)
	if isStatus(err, http.StatusNotFound) {
		return "", false, nil
	}
	return strings.TrimSpace(text), err == nil, err
}

// mount makes an engine where there is none.
func (a *authority) mount(ctx context.Context, now time.Time, e engine, what string, ttl time.Duration) error {
	return a.client.do(ctx, now, http.MethodPost, e.namespace, "sys/mounts/"+e.path, map[string]any{
		"type": "pki", "description": what + " of a weft mesh", "config": map[string]string{"max_lease_ttl": seconds(ttl)},
	}, nil)
}

func seconds(d time.Duration) string { return fmt.Sprintf("%ds", int64(d/time.Second)) }

// signed is the part of an engine's answers that is used.
type signed struct {
	Data struct {
		Certificate string
		CSR         string
		Mapping     map[string]string // of issuers to keys; older ones have none
	}
}

// GenerateRoot implements ca.Provider: it takes the root that is at RootPKIPath, or has one made there, and a new intermediate.
func (p *Provider) GenerateRoot(ctx context.Context, now time.Time) (ca.Material, error) {
	a, err := p.current()
	if err != nil {
		return ca.Material{}, err
	}
	text, mounted, err := a.certificate(ctx, now, a.roots())
	if err == nil && !mounted {
		err = a.mount(ctx, now, a.roots(), "the root", a.setup.Config.RootCertTTL)
	}
	if err != nil {
		return ca.Material{}, ca.Failed("vault", "look for the root at RootPKIPath", err)
	}
	if text == "" {
		if text, err = p.makeRoot(ctx, a, now); err != nil {
			return ca.Material{}, ca.Failed("vault", "make a root at RootPKIPath", err)
		}
	}
	root, err := ca.CheckRoot(text, now)
	if err != nil {
		return ca.Material{}, err
	}
	return p.intermediate(ctx, a, root, now)
}

func (p *Provider) makeRoot(ctx context.Context, a *authority, now time.Time) (string, error) {
	c := a.setup.Config
	name, err := ca.CommonName("pri", ca.VaultName, a.setup.TrustDomain, p.rand)
	if err != nil {
		return "", err
	}
	var got signed
	err = a.post(ctx, now, a.roots(), "root/generate/internal", map[string]any{
		"common_name": name, "uri_sans": identity.Signing{TrustDomain: a.setup.TrustDomain}.String(), "exclude_cn_from_sans": true,
		"key_type": c.PrivateKeyType, "key_bits": c.PrivateKeyBits, "ttl": seconds(c.RootCertTTL),
	}, &got)
	return got.Data.Certificate, err
}

// Intermediate implements ca.Provider.
func (p *Provider) Intermediate(ctx context.Context, now time.Time) (ca.Material, error) {
	a, err := p.ready()
	if err != nil {
		return ca.Material{}, err
	}
	return p.intermediate(ctx, a, a.root, now)
}

// intermediate has a new intermediate made at IntermediatePKIPath, and signed at RootPKIPath.
func (p *Provider) intermediate(ctx context.Context, a *authority, root *x509.Certificate, now time.Time) (ca.Material, error) {
	text, handle, err := p.makeIntermediate(ctx, a, root, now)
	if err != nil {
		return ca.Material{}, ca.Failed("vault", "make an intermediate", err)
	}
	inter, err := ca.CheckIntermediate(text, root, nil, now)
	if err != nil {
		return ca.Material{}, err
	}
	m := ca.Material{RootCert: ca.EncodeCert(root.Raw), IntermediateCert: ca.EncodeCert(inter.Raw), Handle: handle}
	if a.setup.Material.RootCert == m.RootCert {
		m.CrossCerts = a.setup.Material.CrossCerts
	}
	return m, nil
}

func (p *Provider) makeIntermediate(ctx context.Context, a *authority, root *x509.Certificate, now time.Time) (text, handle string, err error) {
	c, e := a.setup.Config, a.intermediates()
	_, mounted, err := a.certificate(ctx, now, e)
	if err == nil && !mounted {
		err = a.mount(ctx, now, e, "the intermediate", c.IntermediateCertTTL)
	}
	if err != nil {
		return "", "", err
	}
	if err := a.post(ctx, now, e, "roles/"+role, map[string]any{
		"allow_any_name": true, "allowed_uri_sans": "spiffe://*", "key_type": "any", "max_ttl": seconds(c.LeafCertTTL), "no_store": true,
		"require_cn": false, "use_csr_common_name": false, "not_before_duration": seconds(ca.Backdate),
	}, nil); err != nil {
		return "", "", err
	}
	name, err := ca.CommonName("int", ca.VaultName, a.setup.TrustDomain, p.rand)
	if err != nil {
		return "", "", err
	}
	var made, set signed
	uri := identity.Signing{TrustDomain: a.setup.TrustDomain}.String()
	if err := a.post(ctx, now, e, "intermediate/generate/internal", map[string]any{
		"common_name": name, "uri_sans": uri, "exclude_cn_from_sans": true, "key_type": c.PrivateKeyType, "key_bits": c.PrivateKeyBits,
	}, &made); err != nil {
		return "", "", err
	}
	if text, err = a.signIntermediate(ctx, now, root, made.Data.CSR); err != nil {
		return "", "", err
	}
	if err := a.post(ctx, now, e, "intermediate/set-signed", map[string]any{"certificate": text}, &set); err != nil {
		return "", "", err
	}
	for issuer, key := range set.Data.Mapping {
		if key != "" {
			handle = issuer
		}
	}
	return text, handle, nil
}

// Sign implements ca.Provider.
func (p *Provider) Sign(ctx context.Context, req ca.Request, now time.Time) (ca.Issued, error) {
	a, err := p.ready()
	if err != nil {
		return ca.Issued{}, err
	}
	path := "sign/" + role
	if h := a.setup.Material.Handle; h != "" {
		path = "issuer/" + h + "/" + path
	}
	var got signed
	err = a.post(ctx, now, a.intermediates(), path, map[string]any{
		"csr": req.PEM, "format": "pem", "ttl": seconds(min(a.setup.Config.LeafCertTTL, a.inter.NotAfter.Sub(now)-time.Second)),
	}, &got)
	if err != nil {
		return ca.Issued{}, ca.Failed("vault", "sign a leaf for "+req.Identity.String(), err)
	}
	return ca.NewIssued(req, got.Data.Certificate, a.inter, a.setup.Material, now)
}

// CrossSign implements ca.Provider. Its token needs the right to sudo for that path, as Vault has it.
func (p *Provider) CrossSign(ctx context.Context, root *x509.Certificate, now time.Time) (string, error) {
	a, err := p.ready()
	if err != nil {
		return "", err
	}
	var got signed
	err = a.post(ctx, now, a.roots(), "root/sign-self-issued", map[string]any{"certificate": ca.EncodeCert(root.Raw)}, &got)
	if err != nil {
		return "", ca.Failed("vault", "cross-sign", err)
	}
	return ca.CheckCross(got.Data.Certificate, root)
}

// SignIntermediate implements ca.Provider: the root's engine signs.
func (p *Provider) SignIntermediate(ctx context.Context, csrPEM string, now time.Time) (string, error) {
	a, err := p.ready()
	if err != nil {
		return "", err
	}
	csr, err := ca.CheckAuthorityCSR(csrPEM, a.setup.TrustDomain)
	if err != nil {
		return "", err
	}
	text, err := a.signIntermediate(ctx, now, a.root, csrPEM)
	if err != nil {
		return "", ca.Failed("vault", "sign another datacenter's intermediate", err)
	}
	inter, err := ca.CheckIntermediate(text, a.root, csr.PublicKey, now)
	if err != nil {
		return "", err
	}
	return ca.EncodeCert(inter.Raw), nil
}

// signIntermediate has the root's engine sign a request.
func (a *authority) signIntermediate(ctx context.Context, now time.Time, root *x509.Certificate, csrPEM string) (string, error) {
	var got signed
	err := a.post(ctx, now, a.roots(), "root/sign-intermediate", map[string]any{
		"csr": csrPEM, "use_csr_values": true, "format": "pem", "max_path_length": 0,
		"ttl": seconds(min(a.setup.Config.IntermediateCertTTL, root.NotAfter.Sub(now)-time.Second)),
	}, &got)
	return got.Data.Certificate, err
}

// Maintain implements ca.Provider: the token is renewed from half of its life on, and the intermediate is looked for.
func (p *Provider) Maintain(ctx context.Context, now time.Time) (time.Time, error) {
	a, err := p.ready()
	if err != nil {
		return time.Time{}, err
	}
	if _, err := a.client.current(ctx, now); err != nil {
		return time.Time{}, ca.Failed("vault", "keep the token", err)
	}
	path := "ca/pem"
	if h := a.setup.Material.Handle; h != "" {
		path = "issuer/" + h + "/pem"
	}
	var text string
	e := a.intermediates()
	err = a.client.do(ctx, now, http.MethodGet, e.namespace, e.path+"/"+path, nil, &text)
	switch {
	case isStatus(err, http.StatusNotFound) || err == nil && strings.TrimSpace(text) != strings.TrimSpace(a.setup.Material.IntermediateCert):
		return time.Time{}, fmt.Errorf("%w: at %s isn't the one that signs", ca.ErrIntermediate, e.path)
	case err != nil:
		return time.Time{}, ca.Failed("vault", "look at the intermediate", err)
	}
	again := now.Add(look)
	a.client.mu.Lock()
	defer a.client.mu.Unlock()
	if r := a.client.renew; !r.IsZero() && r.Before(again) {
		again = r
	}
	return again, nil
}
