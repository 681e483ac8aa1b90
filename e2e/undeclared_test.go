// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"io"
	"net"
	"testing"
	"time"
)

var undeclaredRows = []Row{{Name: "undeclared protocol", Run: undeclared, Differs: map[Kind]string{
	Envoy: "it carries bytes: to know more it would have to wait for a client's first ones, where the server may speak first",
}}}

// greeter is an application that speaks first.
func greeter(t *testing.T) *Backend {
	t.Helper()
	b := newBackend("greeter")
	l := b.listen(t)
	b.echoes(t, l, "220 hello\r\n")
	return b
}

func greeted(addr string) error {
	conn, err := net.DialTimeout("tcp", addr, callWithin)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(callWithin)); err != nil {
		return err
	}
	got := make([]byte, len("220 hello\r\n"))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != "220 hello\r\n" {
		return fmt.Errorf("greeted with %q: %w", got, err)
	}
	return ping(conn)
}

// undeclared: nobody says what four services speak, and each is reached: HTTP/1.1, HTTP/2 without TLS and gRPC, a protocol in
// which the server speaks first, and one in which the client does. A denied caller is denied in each.
func undeclared(t *testing.T, w *World) {
	m := w.mesh(t)
	for name, b := range map[string]*Backend{"http": httpBackend(t, "http"), "grpc": grpcBackend(t), "mail": greeter(t), "echo": tcpBackend(t)} {
		m.intend("allow", "web", name)
		m.instance(name, name, b.Port)
	}
	web := m.instance("web", "web", mustPort(t), "http", "grpc", "mail", "echo")
	calls := map[string]func() error{
		"http": func() error { return call("http", web.Up["http"]) }, "http2": func() error { return call("http2", web.Up["http"]) },
		"grpc": func() error { return call("grpc", web.Up["grpc"]) }, "mail": func() error { return greeted(web.Up["mail"]) },
		"echo": func() error { return call("tcp", web.Up["echo"]) },
	}
	for _, c := range calls {
		until(t, 15*time.Second, c)
	}
	for range 5 { // once all is there, nothing fails
		for name, c := range calls {
			if err := c(); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	m.intend("deny", "web", "mail")
	until(t, effect+slack, func() error {
		if greeted(web.Up["mail"]) == nil {
			return fmt.Errorf("mail, which is denied, is reached")
		}
		return nil
	})
}
