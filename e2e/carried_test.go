// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bufio"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

var carriedRows = []Row{{
	Name: "http connections carried by one", Run: carriedByOne,
	Differs: map[Kind]string{
		Envoy: "it has a connection to the other sidecar for each request under way",
		Host:  "both sidecars are one process, which can't be killed for one of them",
	},
}}

// connectionsTo counts this host's open connections to a port.
func connectionsTo(t *testing.T, port int) (n int) {
	t.Helper()
	for _, file := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		b, err := os.ReadFile(file)
		if err != nil {
			continue // without IPv6
		}
		for line := range strings.Lines(string(b)) {
			f := strings.Fields(line)
			if len(f) > 3 && f[3] == "01" && strings.HasSuffix(f[2], fmt.Sprintf(":%04X", port)) {
				n++
			}
		}
	}
	return n
}

// carriedByOne: 40 requests at once and a websocket go from one sidecar to the other by one connection; it outlives what changes for
// requests alone, and is made anew when the other side was killed.
func carriedByOne(t *testing.T, w *World) {
	p := newPair(t, w, "http")
	ws := p.openWebsocket(t)
	together := func() {
		var wg sync.WaitGroup
		for range 40 {
			wg.Go(func() {
				c, end := h1()
				defer end()
				if err := wantStatus(c, "http://"+p.addr+"/slow", http.StatusOK); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if n := connectionsTo(t, p.api.Public); n != 1 && w.Kind != Envoy {
			t.Errorf("%d connections to the other sidecar", n)
		}
	}
	together()
	ws("before")
	p.intend("deny", "web", "api")
	c, end := h1()
	defer end()
	until(t, effect+slack, func() error { return wantStatus(c, "http://"+p.addr+"/", http.StatusForbidden) })
	p.intend("allow", "web", "api")
	until(t, effect+slack, func() error { return call("http", p.addr) })
	together()
	ws("after")
	if w.Kind != Builtin {
		return
	}
	p.api.sidecar.kill()
	p.api.sidecar = p.runSidecar(w.Kind, p.api)
	until(t, 15*time.Second, func() error { return call("http", p.addr) })
	together()
}

// openWebsocket gives what sends a text by a websocket and wants it back.
func (p *pair) openWebsocket(t *testing.T) (echo func(text string)) {
	t.Helper()
	conn, err := dialTCP(p.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if _, err := fmt.Fprint(conn, "GET /ws HTTP/1.1\r\nHost: api\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("the upgrade: %v, %v", resp, err)
	}
	return func(text string) {
		t.Helper()
		if err := conn.SetDeadline(time.Now().Add(callWithin)); err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Fprint(conn, text); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(text))
		for n := 0; n < len(got); {
			m, err := r.Read(got[n:])
			if n += m; err != nil {
				t.Fatal(err)
			}
		}
		if string(got) != text {
			t.Fatalf("%q came back for %q", got, text)
		}
	}
}
