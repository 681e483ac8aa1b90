// SPDX-License-Identifier: Apache-2.0

package api

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/weftmesh/weft/catalog"
)

// shop serves the ports of a service's instances, and counts how often it reads.
type shop struct {
	t      *testing.T
	store  *catalog.Store
	shared Shared
	reads  atomic.Int32
	index  uint64
}

func (s *shop) set(service string, port int) {
	s.t.Helper()
	scope := catalog.Scope{}.Default("dc1")
	data, err := catalog.Encode(catalog.Register{
		Node:     catalog.Node{Scope: scope, Node: "n1", Address: "10.0.0.1"},
		Services: []catalog.Service{{Scope: scope, ID: service, Service: service, Port: port}},
	})
	if err != nil {
		s.t.Fatal(err)
	}
	s.index = s.store.Position().Index + 1
	if r := s.store.Apply([]catalog.LogEntry{{Index: s.index, Data: data}})[0]; r.Err != nil {
		s.t.Fatal(r.Err)
	}
}

func (s *shop) get(target string) string {
	s.t.Helper()
	hr := httptest.NewRequest(http.MethodGet, target, nil)
	o, err := parseOptions(hr, "dc1")
	if err != nil {
		s.t.Fatal(err)
	}
	w := httptest.NewRecorder()
	err = AnswerShared(w, &Request{Request: hr, Subject: Open{}, Options: o}, s.store, &s.shared, func(t *catalog.Txn) ([]int, error) {
		s.reads.Add(1)
		all, err := t.Instances(o.Scope.Name(hr.URL.Path[1:]))
		ports := []int{}
		for _, i := range all {
			ports = append(ports, i.Service.Port)
		}
		return ports, err
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return w.Header().Get("X-Consul-Index") + w.Body.String()
}

// An answer is made once for all who ask for it, until something in it changes; whoever asks for something else gets that.
func TestShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, err := catalog.New(catalog.Config{Datacenter: "dc1"})
		if err != nil {
			t.Fatal(err)
		}
		s := &shop{t: t, store: store}
		s.set("web", 80)
		s.set("api", 81)
		for _, c := range []struct {
			target, want string
			reads        int32
		}{
			{"/web", "1[80]", 1}, {"/web", "1[80]", 1}, {"/web?stale&token=x", "1[80]", 1}, {"/web?passing", "1[80]", 2},
			{"/web?ns=other", "1[]", 3}, {"/api", "2[81]", 4}, {"/web", "1[80]", 4}, {"/none", "1[]", 5},
		} {
			if got := s.get(c.target); got != c.want || s.reads.Load() != c.reads {
				t.Errorf("%s: %s after %d reads, want %s after %d", c.target, got, s.reads.Load(), c.want, c.reads)
			}
		}
		s.set("api", 82)
		if got := s.get("/web"); got != "1[80]" || s.reads.Load() != 5 {
			t.Errorf("something else changed: %s, %d reads", got, s.reads.Load())
		}
		answers := make(chan string, 100)
		for range cap(answers) {
			go func() { answers <- s.get("/web?wait=60s&index=1") }()
		}
		synctest.Wait()
		before := s.reads.Load()
		s.set("web", 8080)
		for range cap(answers) {
			if got, want := <-answers, fmt.Sprintf("%d[8080]", s.index); got != want {
				t.Fatalf("woken with %s, want %s", got, want)
			}
		}
		if n := s.reads.Load() - before; n != 1 {
			t.Errorf("%d reads for 100 who waited", n)
		}
	})
}
