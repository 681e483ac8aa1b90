// SPDX-License-Identifier: Apache-2.0

package h1

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weftmesh/weft/connect/proxy/calm"
	"github.com/weftmesh/weft/connect/proxy/stream"
	"github.com/weftmesh/weft/internal/memnet"
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
		for i := range 6 {
			if took := breaks(); took != 0 {
				t.Errorf("refusal %d took %s to be told", i, took)
			}
		}
		if took := breaks(); took == 0 || took > 4*refusalCost {
			t.Errorf("one behind six others took %s to be told", took)
		}
	})
}

// Who sends all of its body before it reads hears that it was refused before, by however small pieces it sends.
func TestLongBodyBehindARefusal(t *testing.T) {
	known := httptest.NewTLSServer(nil) // of which the certificate is wanted
	known.Close()
	for name, size := range map[string]int{"by 4 KiB": 4 << 10, "by 8 KiB": 8 << 10, "by 64 KiB": 64 << 10} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := memnet.Pipe("a", "b")
				done := make(chan error, 1)
				go func() {
					done <- Serve(t.Context(), tls.Server(b, &tls.Config{Certificates: known.TLS.Certificates}), ServerConfig{}, func(x stream.ServerExchange) {
						_ = x.WriteHead(&stream.ResponseHead{Status: 413, HasLength: true}, true)
					})
				}()
				client := tls.Client(a, &tls.Config{InsecureSkipVerify: true})
				const all = lingerBytes * 9 / 10
				_, err := fmt.Fprintf(client, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n", all)
				for n := 0; n < all && err == nil; n += size {
					_, err = client.Write(make([]byte, size))
				}
				if err != nil {
					t.Errorf("it was cut off: %v", err)
				}
				if resp, err := http.ReadResponse(bufio.NewReader(client), nil); err != nil || resp.StatusCode != 413 {
					t.Errorf("it was answered %v, %v", resp, err)
				}
				_ = client.Close()
				<-done
			})
		})
	}
}

// The request behind one that was answered before its body was there is answered soon, by however small chunks that comes.
func TestRequestBehindAnUnwantedBody(t *testing.T) {
	for _, size := range []int{32, 1000, 8 << 10, 32 << 10} {
		t.Run(strconv.Itoa(size), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client, conn := net.Pipe()
				done := make(chan error, 1)
				go func() {
					done <- Serve(t.Context(), conn, ServerConfig{}, func(x stream.ServerExchange) {
						_ = x.WriteHead(&stream.ResponseHead{Status: 403, HasLength: true}, true)
					})
				}()
				chunk := fmt.Sprintf("%x\r\n%s\r\n", size, strings.Repeat("a", size))
				go func() {
					_, _ = io.WriteString(client, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
					_, _ = io.WriteString(client, strings.Repeat(chunk, discardUnknown*9/10/size))
					_, _ = io.WriteString(client, "0\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n")
				}()
				answers := bufio.NewReader(client)
				if resp, err := http.ReadResponse(answers, nil); err != nil || resp.Close {
					t.Fatal(resp, err)
				}
				began := time.Now()
				if _, err := http.ReadResponse(answers, nil); err != nil {
					t.Error(err)
				}
				if took := time.Since(began); took > time.Second/2 {
					t.Errorf("the next one was answered %s later", took)
				}
				_ = client.Close()
				<-done
			})
		})
	}
}

// What a head that is waited for is counted as isn't less than it holds, also where it fills its room to the last byte.
func TestHeadsAreCountedAsTheyAre(t *testing.T) {
	for _, n := range []int{readSize - 1, readSize, 16 << 10, 32<<10 + 1} {
		synctest.Test(t, func(t *testing.T) {
			a, b := memnet.Pipe("a", "b")
			var heads Heads
			r := reader{heads: &heads}
			r.init(b)
			done := make(chan error, 1)
			go func() {
				_, err := r.section(64<<10, true)
				done <- err
			}()
			const begin = "GET / HTTP/1.1\r\na: "
			if _, err := io.WriteString(a, begin+strings.Repeat("a", n-len(begin))); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if counted, holds := heads.bytes.Load(), int64(len(r.buf)+headCost); counted != holds {
				t.Errorf("%d bytes of a head that isn't there: %d are held, %d counted", n, holds, counted)
			}
			_ = a.Close()
			<-done
		})
	}
}
