// SPDX-License-Identifier: Apache-2.0

package intake

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/weftmesh/weft/ca"
	"github.com/weftmesh/weft/connect/identity"
)

func inlineBytes(text string) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: []byte(text)}}
}

// opened is the authority of a state.
func opened(t *testing.T, s ca.State) *ca.Builtin {
	t.Helper()
	b := ca.NewBuiltin(rand.Reader)
	if err := b.Configure(s.Setup()); err != nil {
		t.Fatal(err)
	}
	return b
}

// aLeaf is an authority and a leaf of web's by it.
func aLeaf(t *testing.T, now time.Time) (ca.State, identity.Service, ca.Leaf, []*x509.Certificate) {
	t.Helper()
	ctx := context.Background()
	state := ca.State{ClusterID: "11111111-2222-3333-4444-555555555555", Datacenter: "dc1"}
	state, _, _, err := ca.Advance(ctx, state, opened(t, state), now)
	if err != nil {
		t.Fatal(err)
	}
	id := identity.Service{TrustDomain: state.TrustDomain(), Datacenter: "dc1", Service: "web"}
	key, _ := ca.NewKey(rand.Reader)
	csr, _ := ca.CSR(id, key, rand.Reader)
	req, err := ca.CheckCSR(csr, state.TrustDomain(), "dc1")
	if err != nil {
		t.Fatal(err)
	}
	issued, err := opened(t, state).Sign(ctx, req, now)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := ca.NewLeaf(id, key, issued.CertPEM, 1)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair([]byte(leaf.CertPEM), []byte(leaf.PrivateKeyPEM))
	if err != nil {
		t.Fatal(err)
	}
	var certs []*x509.Certificate
	for _, raw := range pair.Certificate {
		c, err := x509.ParseCertificate(raw)
		if err != nil {
			t.Fatal(err)
		}
		certs = append(certs, c)
	}
	return state, id, leaf, certs
}

// TestC97_C88_PeersThatAreLetInNoMore: a certificate that is revoked, by number or with all of its service, and one whose root is removed,
// are refused at the handshake and found among those that are connected; others aren't.
func TestC97_C88_PeersThatAreLetInNoMore(t *testing.T) {
	now := time.Now()
	state, id, leaf, certs := aLeaf(t, now)
	w := newWorld(time.Now)
	put := func(root string, revoked ...map[string]any) {
		t.Helper()
		trusted := &tlsv3.CertificateValidationContext{TrustedCa: inlineBytes(root)}
		if len(revoked) > 0 {
			var list []any
			for _, r := range revoked {
				list = append(list, r)
			}
			doc, err := structpb.NewStruct(map[string]any{"revoked": list})
			if err != nil {
				t.Fatal(err)
			}
			trusted.CustomValidatorConfig = &corev3.TypedExtensionConfig{Name: revokedValidator, TypedConfig: pack(t, doc)}
		}
		if err := update(t, w, secretType, "roots", &tlsv3.Secret{Name: "roots", Type: &tlsv3.Secret_ValidationContext{ValidationContext: trusted}}); err != nil {
			t.Fatal(err)
		}
	}
	own := &tlsv3.Secret{Name: "leaf", Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{
		CertificateChain: inlineBytes(leaf.CertPEM), PrivateKey: inlineBytes(leaf.PrivateKeyPEM),
	}}}
	if err := update(t, w, secretType, "leaf", own); err != nil {
		t.Fatal(err)
	}
	peer := &trust{s: w.secrets, leaf: "leaf", roots: "roots", use: identity.AsClient, required: true}
	root := state.Roots[0].RootCert
	put(root)
	_, since := peer.gone(certs, "") // connected
	refused := func(what string, want error) {
		t.Helper()
		if err := peer.verify(certs); !errors.Is(err, want) || (err == nil) != (want == nil) {
			t.Errorf("%s: a handshake gives %v, want %v", what, err, want)
		}
		if gone, _ := peer.gone(certs, since); gone != (want != nil) {
			t.Errorf("%s: who is connected is to go: %v", what, gone)
		}
	}
	refused("the control", nil)
	before := certs[0].NotBefore
	put(root, map[string]any{"serial": "0a:0b"}, map[string]any{"uri": id.String(), "before": before.Add(-time.Second).Format(time.RFC3339)},
		map[string]any{"uri": id.String() + "2", "before": before.Format(time.RFC3339)})
	refused("others are revoked", nil)
	put(root, map[string]any{"serial": leaf.SerialNumber})
	refused("its number is revoked", identity.ErrRevoked)
	put(root, map[string]any{"uri": id.String(), "before": before.Format(time.RFC3339)})
	refused("its service's are revoked", identity.ErrRevoked)

	fresh := ca.State{ClusterID: state.ClusterID, Datacenter: "dc1"}
	next, err := ca.Rotate(context.Background(), state, opened(t, state), opened(t, fresh), now, false)
	if err != nil {
		t.Fatal(err)
	}
	put(next.Roots[0].RootCert + next.Roots[1].RootCert)
	refused("both roots", nil)
	put(next.Roots[0].RootCert)
	refused("its root is removed", identity.ErrUntrusted)

	// What can't be read refuses the whole secret: nobody may be let in for a list that was lost.
	for _, bad := range []map[string]any{{"serial": "xyz"}, {"uri": "a"}, {}} {
		doc, err := structpb.NewStruct(map[string]any{"revoked": []any{bad}})
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{revokedValidator, "other"} {
			s := &tlsv3.Secret{Name: "roots", Type: &tlsv3.Secret_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{
				TrustedCa: inlineBytes(root), CustomValidatorConfig: &corev3.TypedExtensionConfig{Name: name, TypedConfig: pack(t, doc)},
			}}}
			if update(t, w, secretType, "roots", s) == nil {
				t.Errorf("%s %v is taken", name, bad)
			}
		}
	}
}
