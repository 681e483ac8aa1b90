// SPDX-License-Identifier: Apache-2.0

package local

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/weftmesh/weft/catalog"
)

func scripted(t *testing.T, journal string, p ScriptPolicy) *State {
	t.Helper()
	s, err := New(Config{
		Node: catalog.Node{Scope: catalog.Scope{}.Default("dc1"), Node: "n"}, Journal: journal, Scripts: p, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Who may have programs run is asked at every way in: the API, the files, and what the journal kept of both.
func TestC118_ScriptPolicy(t *testing.T) {
	script := CheckDefinition{Name: "s", ScriptArgs: []string{"true"}, Interval: time.Second}
	service := ServiceDefinition{Name: "web", Connect: &ConnectDefinition{SidecarService: &ServiceDefinition{Checks: []CheckDefinition{script}}}}
	for _, c := range []struct {
		policy     ScriptPolicy
		api, files bool
	}{{ScriptPolicy{}, false, false}, {ScriptPolicy{Files: true}, false, true}, {ScriptPolicy{API: true}, true, true}} {
		s := scripted(t, "", c.policy)
		err := s.RegisterCheck(script, "")
		if (err == nil) != c.api || err != nil && !errors.Is(err, ErrInvalid) {
			t.Errorf("%+v: a check by the API: %v", c.policy, err)
		}
		if _, err := s.Register(service, "", false); (err == nil) != c.api {
			t.Errorf("%+v: a sidecar's check by the API: %v", c.policy, err)
		}
		if _, err := s.Configure([]ServiceDefinition{service}, []CheckDefinition{script}, ""); (err == nil) != c.files {
			t.Errorf("%+v: by files: %v", c.policy, err)
		}
	}
}

// What the API registered while scripts were allowed doesn't run any more when they aren't.
func TestScriptPolicyOfJournal(t *testing.T) {
	journal := filepath.Join(t.TempDir(), "journal")
	s := scripted(t, journal, ScriptPolicy{API: true})
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	if err := s.RegisterCheck(CheckDefinition{Name: "s", ScriptArgs: []string{"true"}, Interval: time.Second}, ""); err != nil {
		t.Fatal(err)
	}
	stop()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if w, _ := scripted(t, journal, ScriptPolicy{Files: true}).Wanted(); len(w.Checks) != 0 {
		t.Errorf("%v is kept", w.Checks)
	}
}
