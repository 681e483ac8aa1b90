// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/weftmesh/weft/connect/proxy/header"
	"github.com/weftmesh/weft/connect/proxy/stream"
)

// Servers drain again and again under load: a request is answered, or its error says that it may be sent again.
func TestDrainLosesNothing(t *testing.T) {
	var served, answered, again atomic.Int64
	fresh := func() (*Server, *Client) {
		a, b := pair(t)
		s, err := NewServer(b, ServerConfig{}, func(x stream.ServerExchange) { served.Add(1); echo(x) })
		if err != nil {
			t.Fatal(err)
		}
		c, err := NewClient(a, ClientConfig{})
		if err != nil {
			t.Fatal(err)
		}
		go func() { _ = s.Run(context.Background()) }()
		go func() { _ = c.Run(context.Background()) }()
		return s, c
	}
	var mu sync.Mutex
	s, c := fresh()
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for range 200 {
				for {
					mu.Lock()
					client := c
					mu.Unlock()
					_, _, _, err := roundTrip(client, reqHead("POST", "/", 4), []byte("body"), nil)
					if err == nil {
						answered.Add(1)
						break
					}
					if !errors.Is(err, stream.ErrNotSent) {
						t.Errorf("lost: %v", err)
						break
					}
					again.Add(1)
				}
			}
		})
	}
	for range 20 {
		for target := answered.Load() + 100; answered.Load() < target && answered.Load() < 3200-16; {
			_ = c.Available()
		}
		old := s
		ns, ncl := fresh()
		mu.Lock()
		s, c = ns, ncl
		mu.Unlock()
		old.Drain()
	}
	wg.Wait()
	if served.Load() != answered.Load() {
		t.Fatalf("served %d, answered %d", served.Load(), answered.Load())
	}
	c.Close()
	t.Logf("answered %d, sent again %d", answered.Load(), again.Load())
}

// Whoever flushes what another goroutine has written, and finds the connection over, isn't told that it failed: it didn't.
func TestFlushOfWhatWasSent(t *testing.T) {
	over := errors.New("over")
	for name, c := range map[string]struct {
		before, after bool // something is put in, and sent; something is put in, and isn't
		broken        bool // the write fails
		want          error
	}{
		"all was sent":     {before: true},
		"nothing was ever": {},
		"some wasn't":      {before: true, after: true, want: over},
		"it couldn't be":   {before: true, broken: true, want: net.ErrClosed},
	} {
		a, b := pair(t)
		if c.broken {
			_ = a.Close()
		}
		var w writer
		w.init(a, 0, new(atomic.Int32), func(error) {}, func(f func()) { f() })
		if c.before {
			w.simple(0xff, 0, 0, []byte("x"))
			_ = w.flush()
		}
		if c.after {
			w.simple(0xff, 0, 0, []byte("y"))
		}
		w.close(over)
		if err := w.flush(); !errors.Is(err, c.want) || (c.want == nil) != (err == nil) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		_ = b.Close()
	}
}

// A websocket by extended CONNECT looks like HTTP/1.1's to both who serve and who ask.
func TestUpgrade(t *testing.T) {
	addr := serveOn(t, ServerConfig{}, func(x stream.ServerExchange) {
		r := x.Request()
		key, _ := r.Fields.Get("sec-websocket-key")
		if r.Method != "GET" || r.Upgrade != "websocket" || key == "" || r.Length != -1 {
			t.Errorf("%+v", r)
		}
		h := &stream.ResponseHead{Status: 101, Upgrade: "websocket"}
		h.Fields.Add("Sec-WebSocket-Accept", acceptKey(key))
		if x.WriteHead(h, false) != nil || x.Flush() != nil {
			return
		}
		b := make([]byte, 10)
		for {
			n, err := x.ReadBody(b)
			if err == io.EOF {
				_ = x.Finish(nil)
				return
			}
			if err != nil || x.WriteBody(b[:n]) != nil || x.Flush() != nil {
				return
			}
		}
	})
	c := clientTo(t, addr, ClientConfig{})
	x, err := c.Open(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	req := reqHead("GET", "/chat", 0)
	req.Upgrade = "websocket"
	req.Fields.Add("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
	if err := x.WriteHead(req, false); err != nil {
		t.Fatal(err)
	}
	if err := x.Flush(); err != nil {
		t.Fatal(err)
	}
	var res stream.ResponseHead
	if err := x.ReadHead(&res); err != nil {
		t.Fatal(err)
	}
	if v, _ := res.Fields.Get("sec-websocket-accept"); res.Status != 101 || res.Upgrade != "websocket" || v != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" {
		t.Fatalf("%+v", res)
	}
	for range 3 {
		if x.WriteBody([]byte("ping")) != nil || x.Flush() != nil {
			t.Fatal("write")
		}
		if b := make([]byte, 4); true {
			if _, err := io.ReadFull(bodyReader{x}, b); err != nil || string(b) != "ping" {
				t.Fatal(string(b), err)
			}
		}
	}
	if err := x.Finish(nil); err != nil {
		t.Fatal(err)
	}
	if _, err := x.ReadBody(make([]byte, 1)); err != io.EOF {
		t.Fatal(err)
	}
}

type bodyReader struct{ stream.Body }

func (r bodyReader) Read(p []byte) (int, error) { return r.ReadBody(p) }

// A small request costs few allocations on both sides together, the test's handler included.
func TestAllocations(t *testing.T) {
	ok := []byte("ok")
	a, b := net.Conn(nil), net.Conn(nil)
	a, b = pair(t)
	var sres stream.ResponseHead
	s, err := NewServer(b, ServerConfig{}, func(x stream.ServerExchange) {
		sres.Status, sres.Length, sres.HasLength = 200, 2, true
		if x.WriteHead(&sres, false) == nil && x.WriteBody(ok) == nil {
			_ = x.Finish(nil)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	c, err := NewClient(a, ClientConfig{})
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = s.Run(context.Background()) }()
	go func() { _ = c.Run(context.Background()) }()
	defer c.Close()
	req := reqHead("GET", "/index", 0)
	req.Fields = header.List{}
	req.Fields.Add("user-agent", "weft")
	req.Fields.Add("accept", "*/*")
	var res stream.ResponseHead
	buf := make([]byte, 64)
	once := func() {
		x, err := c.Open(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if x.WriteHead(req, true) != nil || x.Flush() != nil || x.ReadHead(&res) != nil {
			t.Fatal("no answer")
		}
		for {
			if _, err := x.ReadBody(buf); err != nil {
				break
			}
		}
		x.Close()
	}
	for range 50 {
		once()
	}
	if n := testing.AllocsPerRun(500, once); n > 12 {
		t.Errorf("%.1f allocations per exchange, both sides", n)
	} else {
		t.Logf("%.1f allocations per exchange, both sides", n)
	}
}
