// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/weftmesh/weft/catalog"
)

// What a server's own part of requests costs, without a network: b.N requests one after the other, with -cpuprofile to see where.

// nobody takes an answer and keeps nothing of it.
type nobody struct {
	header http.Header
	code   int
}

func (n *nobody) Header() http.Header         { return n.header }
func (n *nobody) Write(p []byte) (int, error) { return len(p), nil }
func (n *nobody) WriteHeader(code int)        { n.code = code }

func benchServer(b *testing.B, dir string) *Server {
	b.Helper()
	s, err := New(Config{DataDir: dir, Datacenter: "dc1", NodeName: "s1", Closure: readsUpstreams})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	b.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			b.Error(err)
		}
	})
	<-s.Ready()
	return s
}

func (s *Server) bench(b *testing.B, method, path, body string) http.Header {
	w := &nobody{header: http.Header{}, code: 200}
	s.Handler().ServeHTTP(w, httptest.NewRequest(method, path, strings.NewReader(body)))
	if w.code != 200 {
		b.Fatalf("%s %s: %d", method, path, w.code)
	}
	return w.header
}

func fill(b *testing.B, s *Server, instances int) {
	b.Helper()
	for i := range instances {
		s.bench(b, "PUT", "/v1/catalog/register", fmt.Sprintf(`{"Node":"n%d","Address":"10.0.0.%d","Service":{"ID":"web","Service":"web","Port":80,"Tags":["a"]},
			"Checks":[{"CheckID":"serfHealth","Name":"alive","Status":"passing"},{"CheckID":"web","Name":"web","Status":"passing","ServiceID":"web"}]}`, i, i))
	}
}

func BenchmarkKVPut(b *testing.B) {
	for _, dir := range []string{"memory", "disk"} {
		b.Run(dir, func(b *testing.B) {
			at := ""
			if dir == "disk" {
				at = b.TempDir()
			}
			s := benchServer(b, at)
			value := strings.Repeat("x", 100)
			b.ReportAllocs()
			b.SetParallelism(16) // 32 clients on two processors
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for i := 0; pb.Next(); i++ {
					s.bench(b, "PUT", fmt.Sprintf("/v1/kv/key-%d", i%1000), value)
				}
			})
		})
	}
}

func BenchmarkKVGet(b *testing.B) {
	s := benchServer(b, "")
	s.bench(b, "PUT", "/v1/kv/key", strings.Repeat("x", 100))
	b.ReportAllocs()
	for b.Loop() {
		s.bench(b, "GET", "/v1/kv/key", "")
	}
}

func BenchmarkRegister(b *testing.B) {
	s := benchServer(b, "")
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		i++
		s.bench(b, "PUT", "/v1/catalog/register", fmt.Sprintf(`{"Node":"n%d","Address":"10.0.0.1","Service":{"ID":"s%d","Service":"s%d","Port":%d}}`, i%100, i%1000, i%1000, 1+i%60000))
	}
}

func BenchmarkHealth30(b *testing.B) {
	b.Run("unchanged", func(b *testing.B) {
		s := benchServer(b, "")
		fill(b, s, 30)
		b.ReportAllocs()
		for b.Loop() {
			s.bench(b, "GET", "/v1/health/service/web", "")
		}
	})
	b.Run("with a write between", func(b *testing.B) {
		s := benchServer(b, "")
		fill(b, s, 30)
		b.ReportAllocs()
		i := 0
		for b.Loop() {
			i++
			b.StopTimer()
			if _, err := s.Propose(b.Context(), catalog.Register{
				Node:     catalog.Node{Scope: catalog.Scope{}.Default("dc1"), Node: "n1", Address: "10.0.0.1"},
				Services: []catalog.Service{{Scope: catalog.Scope{}.Default("dc1"), ID: "web", Service: "web", Port: 1 + i%60000}},
			}); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
			s.bench(b, "GET", "/v1/health/service/web", "")
		}
	})
}

// BenchmarkWatchers1000 is one change that 1,000 blocking queries wait for, until the last is answered.
func BenchmarkWatchers1000(b *testing.B) {
	s := benchServer(b, "")
	fill(b, s, 30)
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		index := s.bench(b, "GET", "/v1/health/service/web", "").Get("X-Consul-Index")
		var all sync.WaitGroup
		for range 1000 {
			all.Go(func() { s.bench(b, "GET", "/v1/health/service/web?wait=60s&index="+index, "") })
		}
		for s.store.Waiting() < 1000 {
			runtime.Gosched() // until all of them wait
		}
		port := s.store.Position().Index
		b.StartTimer()
		s.bench(b, "PUT", "/v1/catalog/register", fmt.Sprintf(`{"Node":"n1","Address":"10.0.0.1","Service":{"ID":"web","Service":"web","Port":%d}}`, 1+port%60000))
		all.Wait()
	}
}
