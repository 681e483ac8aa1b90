// SPDX-License-Identifier: Apache-2.0

package local

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/weftmesh/weft/catalog"
)

func statuses(s *State) map[string]string {
	w, _ := s.Wanted()
	m := map[string]string{}
	for id, c := range w.Checks {
		m[id] = c.Record.Status
	}
	return m
}

// A service registered anew keeps its checks' results; checks that it doesn't name any more go, or stay if asked to.
func TestReplaceAndKeepChecks(t *testing.T) {
	s := newState(t, "")
	ttl := func(id string) CheckDefinition { return CheckDefinition{ID: id, TTL: time.Minute} }
	register(t, s, ServiceDefinition{Name: "web", Checks: []CheckDefinition{ttl("a"), ttl("b")}})
	for _, id := range []string{"a", "b"} {
		if err := s.SetCheck(id, catalog.HealthPassing, "well"); err != nil {
			t.Fatal(err)
		}
	}
	again := ServiceDefinition{Name: "web", Tags: []string{"new"}, Checks: []CheckDefinition{ttl("a")}}
	if _, err := s.Register(again, "", true); err != nil {
		t.Fatal(err)
	}
	if got := statuses(s); got["a"] != catalog.HealthPassing || got["b"] != catalog.HealthPassing {
		t.Errorf("kept: %v", got)
	}
	w, _ := s.Wanted()
	if got := w.Checks["b"].Record.ServiceTags; len(got) != 1 || got[0] != "new" {
		t.Errorf("the kept check has the old tags: %v", got)
	}
	if _, err := s.Register(again, "", false); err != nil {
		t.Fatal(err)
	}
	if got := statuses(s); len(got) != 1 || got["a"] != catalog.HealthPassing {
		t.Errorf("replaced: %v", got)
	}
}

// A registration without a sidecar takes the old one's sidecar away; removing a service removes both.
func TestSidecarGoesWithItsService(t *testing.T) {
	s := newState(t, "")
	mesh := ServiceDefinition{Name: "web", Port: 80, Connect: &ConnectDefinition{SidecarService: &ServiceDefinition{}}}
	register(t, s, mesh)
	if err := s.Deregister("web-sidecar-proxy"); !errors.Is(err, ErrInvalid) {
		t.Errorf("a generated sidecar is removed alone: %v", err)
	}
	register(t, s, ServiceDefinition{Name: "web", Port: 80})
	if w, _ := s.Wanted(); len(w.Services) != 1 || len(w.Checks) != 0 {
		t.Errorf("left: %d services, %d checks", len(w.Services), len(w.Checks))
	}
	register(t, s, mesh)
	if err := s.Deregister("web"); err != nil {
		t.Fatal(err)
	}
	if w, _ := s.Wanted(); len(w.Services) != 0 || len(w.Checks) != 0 {
		t.Errorf("left: %d services, %d checks", len(w.Services), len(w.Checks))
	}
	if err := s.Deregister("web"); !errors.Is(err, ErrUnknown) {
		t.Errorf("removed twice: %v", err)
	}
}

func TestMaintenance(t *testing.T) {
	s := newState(t, "")
	register(t, s, ServiceDefinition{Name: "web"})
	if err := s.SetMaintenance("none", true, ""); !errors.Is(err, ErrUnknown) {
		t.Errorf("a service that isn't there: %v", err)
	}
	for _, service := range []string{"", "web"} {
		if err := s.SetMaintenance(service, true, "moving"); err != nil {
			t.Fatal(err)
		}
		register(t, s, ServiceDefinition{Name: "web"}) // maintenance outlasts a registration
		w, _ := s.Wanted()
		if c := w.ChecksOf(service); len(c) != 1 || c[0].Record.Status != catalog.HealthCritical || c[0].Record.Notes != "moving" {
			t.Errorf("%q: %+v", service, c)
		}
		if err := s.SetMaintenance(service, false, ""); err != nil {
			t.Fatal(err)
		}
		if w, _ := s.Wanted(); len(w.Checks) != 0 {
			t.Errorf("%q: maintenance doesn't end", service)
		}
	}
}

// A result wakes who waits only if it changes something, and its output is bounded.
func TestResults(t *testing.T) {
	s := newState(t, "")
	if err := s.RegisterCheck(CheckDefinition{Name: "disk", TTL: time.Minute, OutputMaxSize: 4}, ""); err != nil {
		t.Fatal(err)
	}
	_, changed := s.Wanted()
	if err := s.SetCheck("disk", catalog.HealthPassing, "12é4"); err != nil {
		t.Fatal(err)
	}
	select {
	case <-changed:
	default:
		t.Error("a change wakes nobody")
	}
	w, changed := s.Wanted()
	if got := w.Checks["disk"].Record.Output; got != "12é ... (captured 4 of 5 bytes)" {
		t.Errorf("output %q", got)
	}
	if err := s.SetCheck("disk", catalog.HealthPassing, "12é4"); err != nil {
		t.Fatal(err)
	}
	select {
	case <-changed:
		t.Error("the same result wakes")
	default:
	}
	if err := s.SetCheck("disk", "fine", ""); !errors.Is(err, ErrInvalid) {
		t.Errorf("status fine: %v", err)
	}
	if err := s.SetCheck("none", catalog.HealthPassing, ""); !errors.Is(err, ErrUnknown) {
		t.Errorf("no such check: %v", err)
	}
	if err := s.RegisterCheck(CheckDefinition{Name: "c", ServiceID: "none", TTL: 1}, ""); !errors.Is(err, ErrUnknown) {
		t.Errorf("a check of no service: %v", err)
	}
}

func TestSidecarsOf(t *testing.T) {
	s := newState(t, "")
	for _, id := range []string{"web1", "web2"} {
		register(t, s, ServiceDefinition{ID: id, Name: "web", Port: 80, Connect: &ConnectDefinition{SidecarService: &ServiceDefinition{}}})
	}
	register(t, s, ServiceDefinition{ID: "own", Name: "own", Kind: catalog.KindConnectProxy, Port: 1, Proxy: &catalog.Proxy{DestinationServiceName: "api"}})
	w, _ := s.Wanted()
	for service, want := range map[string]string{"web1": "web1-sidecar-proxy", "web2": "web2-sidecar-proxy", "api": "own", "none": ""} {
		var got []string
		for _, sc := range w.Sidecars(service) {
			got = append(got, sc.Record.ID)
		}
		if strings.Join(got, ",") != want {
			t.Errorf("%s: %v, want %q", service, got, want)
		}
	}
}
