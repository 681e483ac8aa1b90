// SPDX-License-Identifier: Apache-2.0

package h1

import (
	"bytes"
	"testing"

	"github.com/weftmesh/weft/connect/proxy/header"
	"github.com/weftmesh/weft/connect/proxy/stream"
)

func TestRoundTrips(t *testing.T) {
	conn, _ := serving(t, ServerConfig{}, echo)
	c := NewClient(conn, ClientConfig{})
	for _, tc := range []struct {
		name   string
		length func(n int) int64
		size   int
	}{
		{"no body", func(int) int64 { return 0 }, 0},
		{"length, small", func(n int) int64 { return int64(n) }, 10},
		{"length, large", func(n int) int64 { return int64(n) }, 100_000},
		{"chunked, small", func(int) int64 { return -1 }, 10},
		{"chunked, large", func(int) int64 { return -1 }, 100_000},
	} {
		t.Run(tc.name, func(t *testing.T) {
			body := bytes.Repeat([]byte("0123456789"), tc.size/10)
			q := get("/a?b=c")
			q.Length = tc.length(len(body))
			if len(body) > 0 {
				q.Method = "POST"
			}
			h, got, again := roundTrip(t, c, q, body)
			if h.Status != 200 || !bytes.Equal(got, body) || !again {
				t.Fatalf("got %d, %d bytes, reusable %v", h.Status, len(got), again)
			}
			for name, want := range map[string]string{"x-method": q.Method, "x-authority": "api.test", "x-path": "/a?b=c"} {
				if v, _ := h.Fields.Get(name); v != want {
					t.Errorf("%s: got %q, want %q", name, v, want)
				}
			}
		})
	}
}

func TestTrailersBothWays(t *testing.T) {
	conn, _ := serving(t, ServerConfig{}, echo)
	c := NewClient(conn, ClientConfig{})
	x := c.Exchange()
	q := get("/t")
	q.Method, q.Length = "POST", -1
	if err := x.WriteHead(q, false); err != nil {
		t.Fatal(err)
	}
	if err := x.WriteBody([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	var trailers header.List
	trailers.Add("grpc-status", "0")
	trailers.Add("Content-Length", "9") // never written as a trailer
	if err := x.Finish(&trailers); err != nil {
		t.Fatal(err)
	}
	var h stream.ResponseHead
	if err := x.ReadHead(&h); err != nil {
		t.Fatal(err)
	}
	if got := readAll(t, x); string(got) != "hello" {
		t.Fatalf("body %q", got)
	}
	got := x.Trailers()
	if got == nil || got.Len() != 1 {
		t.Fatalf("trailers %v, want one", got)
	}
	if v, ok := got.Get("grpc-status"); !ok || v != "0" {
		t.Fatalf("grpc-status %q", v)
	}
	if !x.Close() {
		t.Fatal("not reusable")
	}
}
