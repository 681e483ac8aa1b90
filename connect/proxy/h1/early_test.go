// SPDX-License-Identifier: Apache-2.0

package h1

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weftmesh/weft/connect/proxy/stream"
)

// A handler may end a ReadBody that waits by a deadline that is over, when the answer is there. The rest of the body is read away nonetheless
// while it comes: the client, which was told that the connection goes on, may have sent its next request behind it. Where nothing comes for a
// second, or a bit now and then, the connection ends.
func TestABodyThatNobodyWaitsForIsReadAway(t *testing.T) {
	const begin = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n0123"
	for _, c := range []struct {
		name   string
		pieces []string
		each   time.Duration // before each of them
		kept   bool
	}{
		{"at once", []string{"4\r\n0\r\n\r\n"}, time.Millisecond, true},
		{"in pieces", []string{"4", "\r\n1\r\n0", "\r\n1\r\n0", "\r\n0\r\n\r\n"}, 700 * time.Millisecond, true},
		{"not at all", nil, time.Second, false},
		{"too late", []string{"4\r\n0\r\n\r\n"}, 1100 * time.Millisecond, false},
		{"now and then", []string{"4\r\n", "1\r\n0\r\n", "1\r\n0\r\n", "1\r\n0\r\n", "1\r\n0\r\n", "1\r\n0\r\n", "1\r\n0\r\n", "1\r\n0\r\n", "0\r\n\r\n"}, 900 * time.Millisecond, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client, conn := net.Pipe()
				defer client.Close()
				served, done := 0, make(chan error, 1)
				go func() {
					done <- Serve(t.Context(), conn, ServerConfig{}, func(x stream.ServerExchange) {
						if served++; served == 1 {
							interrupted(t, conn, x)
						}
						_ = x.WriteHead(&stream.ResponseHead{Status: 403}, true) // told by what the client reads
					})
				}()
				var wg sync.WaitGroup
				wg.Go(func() {
					for _, piece := range append([]string{begin}, c.pieces...) {
						_, _ = io.WriteString(client, piece)
						<-time.After(c.each)
					}
					_, _ = io.WriteString(client, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
				})
				in := bufio.NewReader(client)
				resp, err := http.ReadResponse(in, nil)
				if err != nil || resp.Close {
					t.Fatalf("%+v, %v", resp, err)
				}
				_, err = http.ReadResponse(in, nil)
				if (err == nil) != c.kept {
					t.Errorf("the next answer: %v", err)
				}
				_ = client.Close()
				<-done
				wg.Wait()
			})
		})
	}
}

// interrupted reads the body until the deadline that is over ends it.
func interrupted(t *testing.T, conn net.Conn, x stream.ServerExchange) {
	ended := make(chan error, 1)
	go func() { _, err := io.Copy(io.Discard, bodyReader{x}); ended <- err }()
	synctest.Wait()
	if err := x.WriteHead(&stream.ResponseHead{Status: 403}, true); err != nil {
		t.Error(err)
	}
	_ = conn.SetReadDeadline(past)
	if err := <-ended; !isTimeout(err) {
		t.Error(err)
	}
}

// A read deadline that is over, when the body was read already and the connection is watched for a client that hangs up, says nothing of the
// client: its next request has a context that lasts.
func TestTheEndOfAWaitIsNotTheClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, conn := net.Pipe()
		defer client.Close()
		done := make(chan error, 1)
		go func() {
			done <- Serve(t.Context(), conn, ServerConfig{}, func(x stream.ServerExchange) {
				ctx := x.Context()
				if _, err := io.Copy(io.Discard, bodyReader{x}); err != nil {
					t.Error(err)
				}
				<-time.After(2 * watchAfter)
				_ = conn.SetReadDeadline(past)
				<-time.After(2 * watchAfter)
				if ctx.Err() != nil {
					t.Error(context.Cause(ctx))
				}
				_ = x.WriteHead(&stream.ResponseHead{Status: 403}, true) // told by what the client reads
			})
		}()
		in := bufio.NewReader(client)
		for range 2 {
			if _, err := io.WriteString(client, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi"); err != nil {
				t.Fatal(err)
			}
			if _, err := http.ReadResponse(in, nil); err != nil {
				t.Fatal(err)
			}
		}
		_ = client.Close()
		<-done
	})
}
