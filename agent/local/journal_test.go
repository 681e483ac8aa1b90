// SPDX-License-Identifier: Apache-2.0

package local

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// live opens the journal's state, runs it while f does its work, and closes it.
func live(t *testing.T, path string, f func(s *State)) {
	t.Helper()
	s := newState(t, path)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	f(s)
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func names(s *State) string {
	w, _ := s.Wanted()
	all := slices.Collect(maps.Keys(w.Services))
	for id := range w.Checks {
		all = append(all, "check "+id)
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}

// What is registered when an agent ends is registered when it starts again, however often it does.
func TestRestartKeeps(t *testing.T) {
	path := filepath.Join(t.TempDir(), "deep", "journal")
	ttl := func(id string) CheckDefinition { return CheckDefinition{ID: id, Name: id, TTL: time.Minute} }
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var want string
	live(t, path, func(s *State) {
		register(t, s, ServiceDefinition{Name: "web", Port: 80, Token: "secret", Connect: &ConnectDefinition{SidecarService: &ServiceDefinition{}}})
		register(t, s, ServiceDefinition{Name: "gone"})
		must(s.Deregister("gone"))
		must(s.RegisterCheck(ttl("node1"), ""))
		must(s.RegisterCheck(ttl("node2"), ""))
		must(s.DeregisterCheck("node2"))
		register(t, s, ServiceDefinition{Name: "kept", Checks: []CheckDefinition{ttl("k1"), ttl("k2")}})
		_, err := s.Register(ServiceDefinition{Name: "kept"}, "", true) // k1 and k2 stay
		must(err)
		must(s.DeregisterCheck("k2"))
		register(t, s, ServiceDefinition{Name: "less", Checks: []CheckDefinition{ttl("l1"), ttl("l2")}})
		must(s.DeregisterCheck("l2"))
		register(t, s, ServiceDefinition{Name: "back", Checks: []CheckDefinition{ttl("b1"), ttl("b2")}})
		must(s.DeregisterCheck("b1"))
		register(t, s, ServiceDefinition{Name: "back", Checks: []CheckDefinition{ttl("b1")}})
		want = names(s)
	})
	const listed = "back, check b1, check k1, check l1, check node1, check service:web-sidecar-proxy:1, check service:web-sidecar-proxy:2, " +
		"kept, less, web, web-sidecar-proxy"
	if want != listed {
		t.Errorf("before:\n%s\nwant\n%s", want, listed)
	}
	for range 3 {
		live(t, path, func(s *State) {
			if got := names(s); got != want {
				t.Errorf("after a restart:\n%s\nwant\n%s", got, want)
			}
			w, _ := s.Wanted()
			if w.Services["web"].Token != "secret" || w.Services["web-sidecar-proxy"].Record.Port != 21000 {
				t.Errorf("token or port is lost: %+v", w.Services["web"])
			}
		})
	}
	info, err := os.Stat(path)
	must(err)
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v: the journal holds tokens", info.Mode())
	}
}

// Registering the same again and again leaves one record.
func TestJournalDoesntGrow(t *testing.T) {
	var all []record
	for range 50_000 {
		all = append(all, record{Service: &ServiceDefinition{Name: "web"}}, record{Check: &CheckDefinition{ID: "c", ServiceID: "web", TTL: 1}})
	}
	if got := compact(all); len(got) != 2 {
		t.Errorf("%d records", len(got))
	}
}

func written(t *testing.T) (path string, data []byte) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "journal")
	live(t, path, func(s *State) {
		register(t, s, ServiceDefinition{Name: "a"})
		register(t, s, ServiceDefinition{Name: "b"})
	})
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return path, data
}

// A crash can cut the last line anywhere: it was never acknowledged.
func TestCutLastLine(t *testing.T) {
	path, data := written(t)
	last := bytes.LastIndexByte(data[:len(data)-1], '\n') + 1
	for cut := range len(data) {
		if err := os.WriteFile(path, data[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		want := ""
		if cut >= last {
			want = "a"
		}
		if got := names(newState(t, path)); got != want {
			t.Errorf("cut at %d: %q, want %q", cut, got, want)
		}
	}
}

func TestDamage(t *testing.T) {
	path, data := written(t)
	second := bytes.IndexByte(data, '\n') + 1
	for at := second; at < len(data)-1; at++ {
		bad := bytes.Clone(data)
		bad[at] ^= 1
		if bad[at] == '\n' || data[at] == '\n' {
			continue
		}
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		line := 1 + bytes.Count(data[:at], []byte("\n"))
		_, err := New(testConfig(path))
		if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("%s, line %d: ", path, line)) {
			t.Fatalf("byte %d flipped: %v", at, err)
		}
	}
	for head, want := range map[string]string{
		"weft-local 2\n": "version 2, and this weft knows up to 1", "something\n": `isn't one of weft's: its first line is "something\n"`,
		"weft-local \n": "isn't one of weft's",
	} {
		if err := os.WriteFile(path, []byte(head), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := New(testConfig(path)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", head, err)
		}
		if left, _ := os.ReadFile(path); string(left) != head {
			t.Errorf("%q: a refused journal is written over: %q", head, left)
		}
	}
}

// Registrations that arrive together share a sync; each is on disk when it is answered.
func TestGroupAppend(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	live(t, path, func(s *State) {
		var g sync.WaitGroup
		for i := range 200 {
			g.Go(func() {
				name := fmt.Sprintf("s%03d", i)
				if _, err := s.Register(ServiceDefinition{Name: name}, "", false); err != nil {
					t.Error(err)
				}
				if data, err := os.ReadFile(path); err != nil || !bytes.Contains(data, []byte(name)) {
					t.Errorf("%s is answered before it is on disk (%v)", name, err)
				}
			})
		}
		g.Wait()
	})
	live(t, path, func(s *State) {
		if w, _ := s.Wanted(); len(w.Services) != 200 {
			t.Errorf("%d services", len(w.Services))
		}
	})
}

// When the journal has ended, a registration fails instead of hanging.
func TestRegisterAfterTheEnd(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	var kept *State
	live(t, path, func(s *State) { kept = s })
	if _, err := kept.Register(ServiceDefinition{Name: "late"}, "", false); err == nil {
		t.Error("taken")
	}
}

// TestSidecarPortsOutlastARestart frees a port before the restart: the sidecars that stay must not move into the gap.
func TestSidecarPortsOutlastARestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "registrations")
	mesh := func(name string) ServiceDefinition {
		return ServiceDefinition{Name: name, Port: 80, Connect: &ConnectDefinition{SidecarService: &ServiceDefinition{}}}
	}
	port := func(s *State, name string) int {
		w, _ := s.Wanted()
		return w.Services[SidecarID(name)].Record.Port
	}
	live(t, path, func(s *State) {
		for _, name := range []string{"a", "b", "c"} {
			register(t, s, mesh(name))
		}
		if err := s.Deregister("a"); err != nil {
			t.Fatal(err)
		}
	})
	live(t, path, func(s *State) {
		register(t, s, mesh("d"))
		if b, c, d := port(s, "b"), port(s, "c"), port(s, "d"); b != 21001 || c != 21002 || d != 21000 {
			t.Errorf("ports b %d, c %d, d %d; want 21001, 21002, 21000", b, c, d)
		}
	})
}
