// SPDX-License-Identifier: Apache-2.0

package intake

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"runtime"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

func certificate(t *testing.T, serial int64) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// Equal certificates are one as long as somebody has it; others stay what they are; nothing is kept for itself.
func TestSharedCertificates(t *testing.T) {
	a, b := certificate(t, 1), certificate(t, 2)
	s := &sharedCerts{}
	connect := func() []*x509.Certificate {
		var certs []*x509.Certificate
		for _, der := range [][]byte{a, b} {
			c, err := x509.ParseCertificate(der)
			if err != nil {
				t.Fatal(err)
			}
			certs = append(certs, c)
		}
		s.share(certs)
		return certs
	}
	first, second := connect(), connect()
	if first[0] != second[0] || first[1] != second[1] || first[0] == first[1] {
		t.Error("equal certificates are two, or different ones one")
	}
	if first[0].SerialNumber.Int64() != 1 || first[1].SerialNumber.Int64() != 2 {
		t.Error("a certificate became another")
	}
	runtime.KeepAlive(first)
	runtime.KeepAlive(second)
	deadline := time.After(10 * time.Second)
	for tick := time.NewTicker(time.Millisecond); ; {
		runtime.GC()
		s.mu.Lock()
		n := len(s.all)
		s.mu.Unlock()
		if n == 0 {
			break
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%d are kept though nobody has them", n)
		}
	}
}

// Two connections of one caller keep one certificate, as they come out of the handshake.
func TestConnectionsShareTheirCallersCertificate(t *testing.T) {
	state, _, leaf, _ := aLeaf(t, time.Now())
	w := newWorld(time.Now)
	for name, s := range map[string]*tlsv3.Secret{
		"leaf": {Name: "leaf", Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{
			CertificateChain: inlineBytes(leaf.CertPEM), PrivateKey: inlineBytes(leaf.PrivateKeyPEM),
		}}},
		"roots": {Name: "roots", Type: &tlsv3.Secret_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{
			TrustedCa: inlineBytes(state.Roots[0].RootCert),
		}}},
	} {
		if err := update(t, w, secretType, name, s); err != nil {
			t.Fatal(err)
		}
	}
	common := &tlsv3.CommonTlsContext{
		TlsCertificateSdsSecretConfigs: []*tlsv3.SdsSecretConfig{{Name: "leaf"}},
		ValidationContextType:          &tlsv3.CommonTlsContext_ValidationContextSdsSecretConfig{ValidationContextSdsSecretConfig: &tlsv3.SdsSecretConfig{Name: "roots"}},
	}
	server, _, err := w.serverTLS(&corev3.TransportSocket{Name: "tls", ConfigType: &corev3.TransportSocket_TypedConfig{
		TypedConfig: pack(t, &tlsv3.DownstreamTlsContext{CommonTlsContext: common, RequireClientCertificate: wrapperspb.Bool(true)}),
	}})
	if err != nil {
		t.Fatal(err)
	}
	client, _, err := w.clientTLS(&corev3.TransportSocket{Name: "tls", ConfigType: &corev3.TransportSocket_TypedConfig{
		TypedConfig: pack(t, &tlsv3.UpstreamTlsContext{CommonTlsContext: common}),
	}})
	if err != nil {
		t.Fatal(err)
	}
	connect := func() *x509.Certificate {
		a, b := net.Pipe()
		t.Cleanup(func() { _, _ = a.Close(), b.Close() })
		went := make(chan error, 1)
		go func() { went <- tls.Client(a, client.Config).HandshakeContext(t.Context()) }()
		c := tls.Server(b, server.Config)
		if err := c.HandshakeContext(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := <-went; err != nil {
			t.Fatal(err)
		}
		return c.ConnectionState().PeerCertificates[0]
	}
	if first, second := connect(), connect(); first != second {
		t.Error("each has its own")
	}
}
