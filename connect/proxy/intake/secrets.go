// SPDX-License-Identifier: Apache-2.0

package intake

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"os"
	"strings"
	"sync/atomic"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/weftmesh/weft/connect/identity"
)

// secret is a certificate with its key, or what to trust.
type secret struct {
	cert  *tls.Certificate
	own   identity.Identity // in cert; nil if it names none
	roots *identity.Memory
	sans  []sanMatch
	hash  string // over what was given, to notice a change

	trusted string // over the roots alone
	revoked identity.Revocations
}

// secrets are looked up at each handshake: a rotated certificate touches no connection.
type secrets struct {
	now func() time.Time
	all atomic.Pointer[map[string]*secret] // replaced as a whole, by one goroutine

	callers sharedCerts
}

func newSecrets(now func() time.Time) *secrets {
	s := &secrets{now: now}
	s.all.Store(&map[string]*secret{})
	return s
}

func (s *secrets) get(name string) *secret { return (*s.all.Load())[name] }
func (s *secrets) has(name string) bool    { return s.get(name) != nil }

func (s *secrets) change(f func(map[string]*secret)) {
	next := make(map[string]*secret, len(*s.all.Load())+1)
	for k, v := range *s.all.Load() {
		next[k] = v
	}
	f(next)
	s.all.Store(&next)
}

func (s *secrets) put(name string, v *secret) { s.change(func(m map[string]*secret) { m[name] = v }) }

func (s *secrets) forget(name string) { s.change(func(m map[string]*secret) { delete(m, name) }) }

func compileSecret(m *tlsv3.Secret) (*secret, error) {
	switch t := m.GetType().(type) {
	case *tlsv3.Secret_TlsCertificate:
		return compileCert(t.TlsCertificate)
	case *tlsv3.Secret_ValidationContext:
		return compileRoots(t.ValidationContext)
	}
	return nil, fmt.Errorf("a secret of the form %T: want tls_certificate or validation_context", m.GetType())
}

func bytesOf(d *corev3.DataSource) ([]byte, error) {
	switch s := d.GetSpecifier().(type) {
	case *corev3.DataSource_InlineBytes:
		return s.InlineBytes, nil
	case *corev3.DataSource_InlineString:
		return []byte(s.InlineString), nil
	case *corev3.DataSource_Filename:
		return os.ReadFile(s.Filename)
	}
	return nil, errors.New("a data source without content")
}

func compileCert(m *tlsv3.TlsCertificate) (*secret, error) {
	certPEM, err := bytesOf(m.GetCertificateChain())
	if err != nil {
		return nil, fmt.Errorf("certificate_chain: %w", err)
	}
	keyPEM, err := bytesOf(m.GetPrivateKey())
	if err != nil {
		return nil, fmt.Errorf("private_key: %w", err)
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("certificate_chain and private_key: %w", err)
	}
	s := &secret{cert: &pair, hash: digest(certPEM)}
	if id, err := identity.FromCertificate(pair.Leaf); err == nil {
		s.own = id
	}
	return s, nil
}

func compileRoots(m *tlsv3.CertificateValidationContext) (*secret, error) {
	if err := only(m, validateFields); err != nil {
		return nil, err
	}
	pem, err := bytesOf(m.GetTrustedCa())
	if err != nil {
		return nil, fmt.Errorf("trusted_ca: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, errors.New("trusted_ca: no certificate in it")
	}
	sans, err := compileSANs(m)
	if err != nil {
		return nil, err
	}
	revoked, err := compileRevoked(m.GetCustomValidatorConfig())
	if err != nil {
		return nil, fmt.Errorf("custom_validator_config: %w", err)
	}
	s := &secret{roots: identity.NewMemory(pool), sans: sans, trusted: digest(pem), revoked: revoked}
	s.hash = s.trusted + "/"
	if m.GetCustomValidatorConfig() != nil {
		s.hash += digest(m.GetCustomValidatorConfig().GetTypedConfig().GetValue())
	}
	return s, nil
}

// revokedValidator is the only validator that is known.
const revokedValidator = "weft.revoked"

// compileRevoked reads the certificates that are refused.
func compileRevoked(m *corev3.TypedExtensionConfig) (identity.Revocations, error) {
	var none identity.Revocations
	if m == nil {
		return none, nil
	}
	var doc structpb.Struct
	if m.GetName() != revokedValidator {
		return none, fmt.Errorf("%s isn't known: want %s", m.GetName(), revokedValidator)
	}
	if err := unpack(m.GetTypedConfig(), &doc); err != nil {
		return none, err
	}
	var out identity.Revocations
	for i, v := range doc.GetFields()["revoked"].GetListValue().GetValues() {
		f := v.GetStructValue().GetFields()
		if serial := f["serial"].GetStringValue(); serial != "" {
			n, ok := new(big.Int).SetString(strings.ReplaceAll(serial, ":", ""), 16)
			if !ok {
				return none, fmt.Errorf("revoked[%d].serial: %q isn't hexadecimal", i, serial)
			}
			out.Serial(n)
			continue
		}
		before, err := time.Parse(time.RFC3339, f["before"].GetStringValue())
		if uri := f["uri"].GetStringValue(); err == nil && uri != "" {
			out.URI(uri, before)
			continue
		}
		return none, fmt.Errorf("revoked[%d]: want serial, or uri and before", i)
	}
	return out, nil
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:8])
}

// Certificate is one of the proxy's own certificates.
type Certificate struct {
	Name, URI               string
	ValidAfter, ValidBefore time.Time
}

// Certificates lists the proxy's own certificates.
func (c *Client) Certificates() []Certificate {
	var out []Certificate
	for name, s := range *c.world.secrets.all.Load() {
		if s.cert == nil {
			continue
		}
		cert := Certificate{Name: name, ValidAfter: s.cert.Leaf.NotBefore, ValidBefore: s.cert.Leaf.NotAfter}
		if s.own != nil {
			cert.URI = s.own.String()
		}
		out = append(out, cert)
	}
	return out
}
