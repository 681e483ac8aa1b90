// SPDX-License-Identifier: Apache-2.0

//go:build weftnext

package server

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weftmesh/weft/catalog"
)

func newerNode(name string) catalog.Register {
	c := nodeNamed(name)
	c.Node.Next = "x"
	return c
}

// An upgrade, server by server: as long as one is of the version before, what needs the next one is refused and that server named,
// and all else goes on; with the last one upgraded the version is raised, and a server of the version before can't come back.
func TestUpgrade(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTown(t)
		old := func(c *Config) { c.Schema = 1; c.Version = "1.0.0" }
		for n := 1; n <= 3; n++ {
			w.server(n, 3, old)
		}
		w.leader().want("PUT", "/v1/kv/before", "x", 200, "true")
		for i, s := range w.all {
			leader := w.leader()
			time.Sleep(10 * time.Second)
			if leader.c.Schema == 2 {
				_, err := leader.Propose(t.Context(), newerNode("n1"))
				if !errors.Is(err, catalog.ErrSchema) || !strings.Contains(err.Error(), `server "s3" runs weft 1.0.0`) {
					t.Errorf("with %d upgraded: %v", i, err)
				}
			}
			leader.want("PUT", "/v1/kv/during", "x", 200, "true")
			if got := s.store.Read().Schema(); got != 1 {
				t.Fatalf("with %d upgraded the version is %d", i, got)
			}
			if err := s.stop(); err != nil {
				t.Fatal(err)
			}
			s.c.Schema, s.c.Version = 2, "2.0.0"
			s.start()
			time.Sleep(30 * time.Second)
		}
		leader := w.leader()
		time.Sleep(10 * time.Second)
		if _, err := leader.Propose(t.Context(), newerNode("n1")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		for _, s := range w.all {
			if n, err := s.store.Read().Node(catalog.Scope{}.Name("n1")); err != nil || n == nil || n.Next != "x" || s.store.Read().Schema() != 2 {
				t.Errorf("%s: %+v, %v, version %d", s.c.NodeName, n, err, s.store.Read().Schema())
			}
		}
		back := w.followers()[0]
		if err := back.stop(); err != nil {
			t.Fatal(err)
		}
		back.c.Schema = 1
		back.start()
		select {
		case <-back.ended:
		case <-time.After(time.Minute):
			t.Fatal("a server of the version before goes on")
		}
		if err := back.stop(); !errors.Is(err, catalog.ErrSchema) || !strings.Contains(err.Error(), "start a newer one") {
			t.Errorf("a server of the version before: %v", err)
		}
		back.stop = func() error { return nil }
		leader.want("PUT", "/v1/kv/after", "x", 200, "true")
	})
}

// A command that makes weft panic is an error of that command: the server goes on, and after a restart too.
func TestPanicIsOneCommands(t *testing.T) {
	dir := t.TempDir()
	r := start(t, dir)
	for deadline := time.Now().Add(20 * time.Second); r.store.Read().Schema() < 2 && time.Now().Before(deadline); {
		if err := r.store.WaitAny(t.Context(), r.store.Position().Index); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if _, err := r.Propose(t.Context(), catalog.NextFault{Text: "oops"}); err == nil || !strings.Contains(err.Error(), "fault in weft: oops") {
			t.Errorf("a fault: %v", err)
		}
		if _, err := r.Propose(t.Context(), nodeNamed("n1")); err != nil {
			t.Error(err)
		}
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	r = start(t, dir)
	if !r.nodes()["n1"] {
		t.Error("what came after the fault is gone")
	}
}
