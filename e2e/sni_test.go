// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math/big"
	"net"
	"testing"
	"time"
)

var sniRows = []Row{{Name: "tls by server name", Run: tlsByName}}

// tlsBackend is an application that ends TLS by itself, with a certificate of its own, and echoes.
func tlsBackend(t *testing.T, names ...string) (*Backend, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: names, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	if c, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(c)
	b := newBackend(names[0])
	l := tls.NewListener(b.listen(t), &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}})
	b.echoes(t, l, "")
	return b, pool
}

// tlsByName: three services behind one port, told apart by the server name that a client asks for. The client's TLS ends at the
// service, whose certificate it sees.
func tlsByName(t *testing.T, w *World) {
	m := w.mesh(t)
	one, oneRoot := tlsBackend(t, "one.example.com")
	two, twoRoot := tlsBackend(t, "a.two.example.com", "b.two.example.com")
	rest := tcpBackend(t)
	for name, b := range map[string]*Backend{"one": one, "two": two, "rest": rest} {
		m.protocol(name, "tcp")
		m.intend("allow", "web", name)
		m.instance(name, name, b.Port)
	}
	web := m.instance("web", "web", mustPort(t), "one")
	port := mustPort(t)
	addr := loopback(port)
	m.put("/v1/agent/service/register", object{
		"ID": web.ID, "Name": web.Name, "Port": web.Port,
		"Connect": object{"SidecarService": object{"Port": web.Public, "Proxy": object{"Upstreams": []object{
			{"DestinationName": m.name("one"), "LocalBindPort": port, "Config": object{"sni": "One.example.com"}},
			{"DestinationName": m.name("two"), "LocalBindPort": port, "Config": object{"sni": []string{"*.two.example.com"}}},
			{"DestinationName": m.name("rest"), "LocalBindPort": port},
		}}}},
	})
	handshake := func(name string, roots *x509.CertPool) error {
		conn, err := tls.DialWithDialer(&net.Dialer{Timeout: callWithin}, "tcp", addr, &tls.Config{ServerName: name, RootCAs: roots})
		if err != nil {
			return err
		}
		defer conn.Close()
		return ping(conn)
	}
	for name, roots := range map[string]*x509.CertPool{"one.example.com": oneRoot, "a.two.example.com": twoRoot, "b.two.example.com": twoRoot} {
		until(t, 15*time.Second, func() error { return handshake(name, roots) })
	}
	if err := handshake("one.example.com", twoRoot); err == nil {
		t.Error("the certificate of one is taken by a client that trusts two alone")
	}
	plain := func() error {
		conn, err := dialTCP(addr)
		if err != nil {
			return err
		}
		defer conn.Close()
		const text = "of five bytes and more" // Envoy doesn't judge by fewer
		got := make([]byte, len(text))
		if _, err := io.WriteString(conn, text); err != nil {
			return err
		}
		if _, err := io.ReadFull(conn, got); err != nil || string(got) != text {
			return fmt.Errorf("got %q back: %w", got, err)
		}
		return nil
	}
	until(t, callWithin, plain) // what is no TLS goes to the one without names
	m.intend("deny", "web", "two")
	until(t, effect+slack, func() error {
		if handshake("a.two.example.com", twoRoot) == nil {
			return fmt.Errorf("two, which is denied, is reached")
		}
		return nil
	})
	if err := handshake("one.example.com", oneRoot); err != nil {
		t.Errorf("one, which is allowed: %v", err)
	}
}
