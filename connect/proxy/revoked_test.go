// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weftmesh/weft/connect/proxy/config"
)

// shown is a certificate with a name of the mesh.
func shown(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	uri, err := url.Parse("spiffe://11111111-2222-3333-4444-555555555555.consul/ns/default/dc/dc1/svc/web")
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(7), URIs: []*url.URL{uri}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// TestC88_AConnectionEndsWithItsCertificate: who is connected when the certificate is revoked is cut, caller or called, and others aren't.
func TestC88_AConnectionEndsWithItsCertificate(t *testing.T) {
	cert := shown(t)
	var callerGone, serverGone atomic.Bool
	gone := func(b *atomic.Bool) config.Gone {
		return func([]*x509.Certificate, string) (bool, string) { return b.Load(), "x" }
	}
	server := &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAnyClientCert, MinVersion: tls.VersionTLS13}
	client := &tls.Config{Certificates: []tls.Certificate{cert}, InsecureSkipVerify: true, MinVersion: tls.VersionTLS13}
	b := newBench(t, func(l *config.Listener) {
		l.Direction, l.TLS = config.Inbound, &config.ServerTLS{Config: server, Require: true, Gone: gone(&callerGone)}
		l.TCP = &config.TCP{Cluster: "local"}
	})
	b.upstream("local", func(c net.Conn) {
		s := tls.Server(c, server)
		_, _ = io.Copy(s, s) // until it is cut
	})
	local := *b.s.Clusters["local"]
	local.TLS = &config.ClientTLS{Config: client, Gone: gone(&serverGone)}
	b.s = &config.Snapshot{Listeners: b.s.Listeners, Clusters: map[string]*config.Cluster{"local": &local}, Routes: b.s.Routes}
	b.p.apply(b.s)
	connect := func() net.Conn {
		t.Helper()
		c := tls.Client(b.dialTLS(server), client)
		if _, err := io.WriteString(c, "hello"); err != nil {
			t.Fatal(err)
		}
		var got [5]byte
		if _, err := io.ReadFull(c, got[:]); err != nil || string(got[:]) != "hello" {
			t.Fatalf("%q, %v", got, err)
		}
		return c
	}
	for name, revoke := range map[string]*atomic.Bool{"caller": &callerGone, "server": &serverGone} {
		c := connect()
		b.p.apply(b.s)
		if _, err := io.WriteString(c, "again"); err != nil {
			t.Errorf("%s: the control: %v", name, err)
		}
		var got [5]byte
		if _, err := io.ReadFull(c, got[:]); err != nil {
			t.Errorf("%s: the control: %v", name, err)
		}
		revoke.Store(true)
		b.p.apply(b.s)
		if _, err := c.Read(got[:]); err == nil {
			t.Errorf("%s: the connection goes on", name)
		} else if ne, ok := err.(net.Error); ok && ne.Timeout() { //nolint:errorlint // as it comes from the socket
			t.Errorf("%s: the connection stays open", name)
		}
		revoke.Store(false)
	}
}
