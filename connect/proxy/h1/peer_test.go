// SPDX-License-Identifier: Apache-2.0

package h1

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/weftmesh/weft/connect/proxy/stream"
)

// tcpPair is a connection over loopback, so that half closes and resets are real ones.
func tcpPair(t testing.TB) (client, server net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if client, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if server, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close(); server.Close() })
	_ = client.SetDeadline(time.Now().Add(20 * time.Second))
	return client, server
}

// serving runs Serve and gives the client's side and what Serve returned.
func serving(t testing.TB, config ServerConfig, handler stream.Handler) (net.Conn, <-chan error) {
	t.Helper()
	client, server := tcpPair(t)
	_ = client.SetDeadline(time.Now().Add(20 * time.Second))
	done := make(chan error, 1)
	go func() { done <- Serve(context.Background(), server, config, handler) }()
	return client, done
}

// echo answers with what it got: method, authority and path as fields, the body and the trailers as they came.
func echo(x stream.ServerExchange) {
	q := x.Request()
	h := &stream.ResponseHead{Status: 200, Length: q.Length, HasLength: q.Length >= 0}
	h.Fields.Add("x-method", q.Method)
	h.Fields.Add("x-authority", q.Authority)
	h.Fields.Add("x-path", q.Path)
	if x.WriteHead(h, false) != nil {
		return
	}
	if err := copyBody(x, x); err != nil {
		return
	}
	_ = x.Finish(x.Trailers())
}

// writer is what both kinds of exchange write a body with.
type bodyWriter interface {
	WriteBody([]byte) error
	Flush() error
}

func copyBody(to bodyWriter, from stream.Body) error {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.ReadBody(buf)
		if n > 0 {
			if werr := to.WriteBody(buf[:n]); werr != nil {
				return werr
			}
			if from.Buffered() == 0 {
				if werr := to.Flush(); werr != nil {
					return werr
				}
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func readAll(t testing.TB, b stream.Body) []byte {
	t.Helper()
	var out bytes.Buffer
	buf := make([]byte, 4096)
	for {
		n, err := b.ReadBody(buf)
		out.Write(buf[:n])
		if errors.Is(err, io.EOF) {
			return out.Bytes()
		}
		if err != nil {
			t.Fatalf("reading a body after %d bytes: %v", out.Len(), err)
		}
	}
}

// roundTrip sends one request over c and gives head and body of its response.
func roundTrip(t testing.TB, c *Client, q *stream.RequestHead, body []byte) (*stream.ResponseHead, []byte, bool) {
	t.Helper()
	x := c.Exchange()
	if err := x.WriteHead(q, len(body) == 0); err != nil {
		t.Fatal(err)
	}
	if len(body) > 0 {
		if err := x.WriteBody(body); err != nil {
			t.Fatal(err)
		}
		if err := x.Finish(nil); err != nil {
			t.Fatal(err)
		}
	}
	var h stream.ResponseHead
	if err := x.ReadHead(&h); err != nil {
		t.Fatal(err)
	}
	got := readAll(t, x)
	return &h, got, x.Close()
}

func get(path string) *stream.RequestHead {
	return &stream.RequestHead{Proto: stream.HTTP11, Method: "GET", Scheme: "http", Authority: "api.test", Path: path}
}
