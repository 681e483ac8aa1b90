// SPDX-License-Identifier: Apache-2.0

package plane

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/weftmesh/weft/internal/memnet"
)

// shake tries a handshake and a read on the port.
func shake(t *testing.T, network *memnet.Network, wrap func(net.Conn) net.Conn, c *tls.Config) (string, error) {
	t.Helper()
	raw, err := network.DialContext(context.Background(), "s:8300")
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	_ = raw.SetDeadline(time.Now().Add(5 * time.Second)) // in memory it can't fail
	c.InsecureSkipVerify = true
	conn := tls.Client(wrap(raw), c)
	if err := conn.Handshake(); err != nil {
		return "", err
	}
	buf := make([]byte, 64)
	n, err := conn.Read(buf)
	return string(buf[:n]), err
}

// bytewise writes byte by byte.
type bytewise struct{ net.Conn }

func (b bytewise) Write(p []byte) (int, error) {
	for i := range p {
		if _, err := b.Conn.Write(p[i : i+1]); err != nil {
			return i, err
		}
	}
	return len(p), nil
}

// TestC89_OldTLS, with TestC90 and TestC94: the nodes' port speaks TLS 1.3 and nothing older, whatever the form of the first
// message, and nobody gets by without a certificate.
func TestC89_OldTLS(t *testing.T) {
	a := authority(t)
	p := node(t, Config{NodeName: "s1", Server: true, Identity: identityOf(t, a, Peer{Server: true, Datacenter: "dc1", Node: "s1"}, time.Now())})
	network := serve(t, p)
	plain := func(c net.Conn) net.Conn { return c }
	agent := node(t, Config{NodeName: "a1", Identity: identityOf(t, a, Peer{Datacenter: "dc1", Node: "a1"}, time.Now())})
	mine := []tls.Certificate{*agent.now.cert}
	for name, c := range map[string]*tls.Config{
		"1.0": {MaxVersion: tls.VersionTLS10, MinVersion: tls.VersionTLS10}, "1.1": {MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10},
		"1.2": {MaxVersion: tls.VersionTLS12}, "static RSA": {MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_RSA_WITH_AES_128_GCM_SHA256}},
	} {
		c.Certificates, c.NextProtos = mine, []string{GRPC}
		if got, err := shake(t, network, plain, c); err == nil || got != "" {
			t.Errorf("%s: %q", name, got)
		}
	}
	if got, err := shake(t, network, plain, &tls.Config{Certificates: mine, NextProtos: []string{GRPC}}); got != "hello weft-grpc\n" {
		t.Errorf("the control: %q, %v", got, err)
	}
}

// TestC90_FormsOfTheFirstMessage: in pieces, without a server name, or with an odd one, it is the same door.
func TestC90_FormsOfTheFirstMessage(t *testing.T) {
	a := authority(t)
	p := node(t, Config{NodeName: "s1", Server: true, Identity: identityOf(t, a, Peer{Server: true, Datacenter: "dc1", Node: "s1"}, time.Now())})
	network := serve(t, p)
	pieces := func(c net.Conn) net.Conn { return bytewise{c} }
	agent := node(t, Config{NodeName: "a1", Identity: identityOf(t, a, Peer{Datacenter: "dc1", Node: "a1"}, time.Now())})
	for _, name := range []string{"", "SERVER.DC1.CONSUL", "server.dc1.consul.", "10.0.0.1", "other"} {
		c := func() *tls.Config { return &tls.Config{ServerName: name, NextProtos: []string{GRPC}} }
		if got, err := shake(t, network, pieces, c()); err == nil && got != "" {
			t.Errorf("%q without a certificate: %q", name, got)
		}
		with := c()
		with.Certificates = []tls.Certificate{*agent.now.cert}
		if got, err := shake(t, network, pieces, with); got != "hello weft-grpc\n" {
			t.Errorf("%q, the control: %q, %v", name, got, err)
		}
	}
}

// TestC94_Plaintext: what isn't TLS gets nothing.
func TestC94_Plaintext(t *testing.T) {
	a := authority(t)
	network := serve(t, node(t, Config{NodeName: "s1", Server: true, Identity: identityOf(t, a, Peer{Server: true, Datacenter: "dc1", Node: "s1"}, time.Now())}))
	for _, text := range []string{"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\x00\x00\x00\x01"} {
		raw, err := network.DialContext(context.Background(), "s:8300")
		if err != nil {
			t.Fatal(err)
		}
		_ = raw.SetDeadline(time.Now().Add(5 * time.Second)) // in memory it can't fail
		_, _ = io.WriteString(raw, text)
		if cw, ok := raw.(interface{ CloseWrite() error }); ok {
			_ = cw.CloseWrite()
		}
		got, _ := io.ReadAll(raw)
		raw.Close()
		if len(got) > 0 && got[0] != 21 && !strings.HasPrefix(string(got), "HTTP/1.0 400 ") { // an alert, or what is wrong, shows nothing
			t.Errorf("%q: %q", text, got)
		}
	}
}
