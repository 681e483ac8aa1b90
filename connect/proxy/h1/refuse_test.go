// SPDX-License-Identifier: Apache-2.0

package h1

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weftmesh/weft/connect/proxy/calm"
	"github.com/weftmesh/weft/connect/proxy/stream"
)

// Whoever is refused before the whole request was read hears so, and isn't let down with the next request: either the answer says that the connection
// ends, or it goes on.
func TestRefusedBeforeTheEnd(t *testing.T) {
	const much = 300_000
	for name, c := range map[string]struct {
		status int
		head   string
		body   string
		closes bool
	}{
		"little":                   {403, "Content-Length: 3", "abc", false},
		"much":                     {403, "Content-Length: 300000", strings.Repeat("x", much), true},
		"much in chunks":           {503, "Transfer-Encoding: chunked", "493e0\r\n" + strings.Repeat("x", much) + "\r\n0\r\n\r\n", false},
		"much, and no refusal":     {200, "Content-Length: 300000", strings.Repeat("x", much), false},
		"little, too large for it": {413, "Content-Length: 3", "abc", false},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			done := make(chan error, 1)
			go func() {
				conn, err := l.Accept()
				if err != nil {
					done <- err
					return
				}
				done <- Serve(t.Context(), conn, ServerConfig{}, func(x stream.ServerExchange) {
					_ = x.WriteHead(&stream.ResponseHead{Status: c.status, HasLength: true}, true)
				})
			}()
			conn, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			r := bufio.NewReader(conn)
			for again := range 2 {
				if _, err := io.WriteString(conn, "POST / HTTP/1.1\r\nHost: a\r\n"+c.head+"\r\n\r\n"+c.body); err != nil {
					t.Fatal(err)
				}
				resp, err := http.ReadResponse(r, nil)
				if err != nil {
					t.Fatalf("request %d: %v", again, err)
				}
				if resp.StatusCode != c.status || resp.Close != c.closes {
					t.Errorf("request %d: %s, it says that it closes: %v, want %v", again, resp.Status, resp.Close, c.closes)
				}
				if c.closes {
					break
				}
			}
			_ = conn.Close()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
}

// Who is refused for a malformed request waits for its turn.
func TestRefusalsWaitForTheirTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := new(calm.Queue)
		breaks := func() time.Duration {
			a, b := net.Pipe()
			done := make(chan error, 1)
			go func() { done <- Serve(t.Context(), b, ServerConfig{Refusals: q}, echo) }()
			began := time.Now()
			if _, err := io.WriteString(a, "GET / HTTP/1.1\r\n\r\n"); err != nil { // no Host
				t.Fatal(err)
			}
			resp, err := http.ReadResponse(bufio.NewReader(a), nil)
			if err != nil || resp.StatusCode != http.StatusBadRequest {
				t.Fatal(resp, err)
			}
			took := time.Since(began)
			_ = a.Close()
			<-done
			return took
		}
		for i := range 11 {
			if took := breaks(); took != 0 {
				t.Errorf("refusal %d took %s to be told", i, took)
			}
		}
		if took := breaks(); took == 0 || took > 4*refusalCost {
			t.Errorf("one behind eleven others took %s to be told", took)
		}
	})
}
