// SPDX-License-Identifier: Apache-2.0

//go:build unix

package listen

import (
	"crypto/tls"
	"io"
	"net"
	"sync/atomic"
	"testing"
)

// The first byte decides between TLS and plain text, and is still there afterwards; where plain text isn't taken, it isn't.
func TestPlain(t *testing.T) {
	cert, pool := certificate(t, "spiffe://x/a")
	var now atomic.Uint32
	set := func(p Plain) { now.Store(uint32(p)) }
	set(PlainToo)
	l, err := newDoor(t).Stream(t.Context(), Spec{
		Name: "p", Network: "tcp", Address: "127.0.0.1:0", Plain: func() Plain { return Plain(now.Load()) },
		TLS: func() *tls.Config { return &tls.Config{Certificates: []tls.Certificate{cert}} },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dial := func() net.Conn {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	accepted := func() (secure bool, said string) {
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		b := make([]byte, 5)
		if _, err := io.ReadFull(c, b); err != nil {
			t.Fatal(err)
		}
		_, secure = c.(*tls.Conn)
		return secure, string(b)
	}
	byTLS := func() {
		c := tls.Client(dial(), &tls.Config{RootCAs: pool, ServerName: "server"})
		go io.WriteString(c, "hello") //nolint:errcheck // the other side sees it
	}
	byTLS()
	if secure, said := accepted(); !secure || said != "hello" {
		t.Errorf("by TLS: %t %q", secure, said)
	}
	_, _ = io.WriteString(dial(), "hello")
	if secure, said := accepted(); secure || said != "hello" {
		t.Errorf("plain: %t %q", secure, said)
	}
	set(PlainNever)
	bare := dial()
	_, _ = io.WriteString(bare, "hello")
	if n, err := bare.Read(make([]byte, 1)); err == nil && n == 1 {
		t.Log("an alert came") // which is as good as an end
	}
	byTLS()
	if secure, _ := accepted(); !secure {
		t.Error("plain text was taken where only TLS is")
	}
	set(PlainOnly)
	_, _ = io.WriteString(dial(), "hello")
	if secure, said := accepted(); secure || said != "hello" {
		t.Errorf("plain alone: %t %q", secure, said)
	}
}
