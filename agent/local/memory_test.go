// SPDX-License-Identifier: Apache-2.0

package local

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/weftmesh/weft/catalog"
)

// A healthy service stays healthy while its agent starts anew, and a drained one drained.
func TestRestartRecalls(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	web := ServiceDefinition{Name: "web", Port: 80, Check: &CheckDefinition{TTL: time.Minute}}
	configured := ServiceDefinition{Name: "conf", Port: 81, Check: &CheckDefinition{TTL: time.Minute}}
	set := func(s *State, check string) {
		t.Helper()
		if err := s.SetCheck(check, catalog.HealthPassing, "well"); err != nil {
			t.Fatal(err)
		}
	}
	status := func(s *State, check string) string {
		w, _ := s.Wanted()
		if c, ok := w.Checks[check]; ok {
			return c.Record.Status
		}
		return "none"
	}
	maintain := func(s *State, on bool) {
		t.Helper()
		if err := s.SetMaintenance("web", on, "repairs"); err != nil {
			t.Fatal(err)
		}
	}
	live(t, path, func(s *State) {
		register(t, s, web)
		register(t, s, configured)
		set(s, "service:web")
		set(s, "service:conf")
		maintain(s, true)
		for wait := time.Now().Add(5 * time.Second); ; {
			if data, err := os.ReadFile(memoryOf(path)); err == nil && len(data) > 0 && string(data) == `{"service:conf":"passing","service:web":"passing"}` {
				break
			}
			if time.Now().After(wait) {
				t.Fatal("the statuses aren't kept")
			}
			_, changed := s.Wanted()
			select {
			case <-changed:
			case <-time.After(rememberAfter):
			}
		}
	})
	live(t, path, func(s *State) {
		if got := status(s, "service:web"); got != catalog.HealthPassing {
			t.Errorf("web is %s after a restart, want passing", got)
		}
		if got := status(s, "_service_maintenance:web"); got != catalog.HealthCritical {
			t.Errorf("web's maintenance is %s after a restart, want critical", got)
		}
		maintain(s, false)
	})
	if err := os.WriteFile(memoryOf(path), []byte("{half"), 0o600); err != nil {
		t.Fatal(err)
	}
	live(t, path, func(s *State) {
		if got := status(s, "service:web"); got != catalog.HealthCritical {
			t.Errorf("web is %s though nothing is known, want critical", got)
		}
		if got := status(s, "_service_maintenance:web"); got != "none" {
			t.Errorf("web's maintenance is %s, though it has ended", got)
		}
	})
}

// What checks of services said that only the configuration's files name is recalled when these are registered.
func TestRecallsConfigured(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	if err := os.WriteFile(memoryOf(path), []byte(`{"service:conf":"passing"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	live(t, path, func(s *State) {
		register(t, s, ServiceDefinition{Name: "conf", Port: 81, Check: &CheckDefinition{TTL: time.Minute}})
		w, _ := s.Wanted()
		if got := w.Checks["service:conf"].Record.Status; got != catalog.HealthPassing {
			t.Errorf("it is %s, want passing", got)
		}
	})
}
