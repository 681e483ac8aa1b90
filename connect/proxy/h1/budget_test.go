// SPDX-License-Identifier: Apache-2.0

package h1

import (
	"context"
	"errors"
	"io"
	"testing"

	"github.com/weftmesh/weft/connect/proxy/stream"
)

// exchangePair gives a function that does one small exchange over a kept connection, with all its work on both sides.
func exchangePair(tb testing.TB) func() {
	client, server := tcpPair(tb)
	answer := &stream.ResponseHead{Status: 200, Length: 5, HasLength: true}
	answer.Fields.Add("content-type", "text/plain")
	hello := []byte("hello")
	go func() {
		_ = Serve(context.Background(), server, ServerConfig{}, func(x stream.ServerExchange) {
			x.Context()
			_ = x.WriteHead(answer, false)
			_ = x.WriteBody(hello)
			_ = x.Finish(nil)
		})
	}()
	c := NewClient(client, ClientConfig{})
	q := get("/api/v1/users/42")
	q.Fields.Add("user-agent", "bench")
	q.Fields.Add("accept", "*/*")
	var h stream.ResponseHead
	buf := make([]byte, 1024)
	return func() {
		x := c.Exchange()
		if err := x.WriteHead(q, true); err != nil {
			tb.Fatal(err)
		}
		if err := x.ReadHead(&h); err != nil {
			tb.Fatal(err)
		}
		for {
			if _, err := x.ReadBody(buf); err != nil {
				if !errors.Is(err, io.EOF) {
					tb.Fatal(err)
				}
				break
			}
		}
		if !x.Close() {
			tb.Fatal("not reusable")
		}
	}
}

// One string for each head read is the whole budget, and both sides together have two: each side is at one of the two
// that it may take.
func TestAllocationsPerExchange(t *testing.T) {
	if underRace {
		t.Skip("the race detector has sync.Pool drop buffers at random")
	}
	once := exchangePair(t)
	once()
	if n := testing.AllocsPerRun(500, once); n > 2 {
		t.Fatalf("%v allocations in both sides of an exchange, want at most 2", n)
	}
}

func BenchmarkExchange(b *testing.B) {
	once := exchangePair(b)
	b.ReportAllocs()
	for b.Loop() {
		once()
	}
}
