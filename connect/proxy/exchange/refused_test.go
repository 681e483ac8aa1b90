// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/weftmesh/weft/connect/proxy/config"
	"github.com/weftmesh/weft/connect/proxy/reason"
	"github.com/weftmesh/weft/internal/listen"
)

// strict is an upstream over TLS whose view of the client's certificate is given.
func strict(t *testing.T, cert tls.Certificate, verdict error) string {
	t.Helper()
	door, err := listen.New(listen.Config{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	conf := &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAnyClientCert, NextProtos: []string{"h2", "http/1.1"},
		VerifyPeerCertificate: func([][]byte, [][]*x509.Certificate) error { return verdict },
	}
	l, err := door.Stream(t.Context(), listen.Spec{Name: "u", Network: "tcp", Address: "127.0.0.1:0", TLS: func() *tls.Config { return conf }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	serveOn(t, l, echo)
	return l.Addr().String()
}

func selfSigned(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// In TLS 1.3 a client hears that its certificate is refused when it has sent its request. That was certainly not processed: it is
// sent to another endpoint, also one that may not be sent twice, and where there is none the answer says what was wrong.
func TestARefusedCertificateLosesNoRequest(t *testing.T) {
	cert := selfSigned(t)
	no := strict(t, cert, errors.New("a root that isn't known here"))
	mutual := func(s *config.Snapshot) {
		c := s.Clusters["api"]
		c.TLS = &config.ClientTLS{Identity: "i", Config: &tls.Config{
			MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, Certificates: []tls.Certificate{cert}, NextProtos: []string{"http/1.1"},
		}}
	}
	post := func(r *rig) *http.Response {
		t.Helper()
		resp, err := client(t, 1).Post(r.url("/"), "text/plain", io.MultiReader(strings.NewReader("once")))
		if err != nil {
			t.Fatal(err)
		}
		_ = body(t, resp)
		return resp
	}
	r := newRig(t, mutual, no, strict(t, cert, nil))
	for i := range 20 {
		if resp := post(r); resp.StatusCode != 200 {
			t.Errorf("request %d: %s %s", i, resp.Status, resp.Header.Get(reason.Header))
		}
	}
	if resp := post(newRig(t, mutual, no)); resp.StatusCode != 503 || resp.Header.Get(reason.Header) != string(reason.UpstreamTLSFailure) {
		t.Errorf("no other endpoint: %s %s", resp.Status, resp.Header.Get(reason.Header))
	}
}
