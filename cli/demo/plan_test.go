// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"encoding/json"
	"io"
	"log/slog"
	"testing"

	agentlocal "github.com/weftmesh/weft/agent/local"
	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/internal/decode"
)

// No port is used twice, and all of them move.
func TestPorts(t *testing.T) {
	still := NewPorts(0)
	for _, offset := range []int{0, 1000, 40000} {
		p := NewPorts(offset)
		if len(p.All()) != 10+2*len(instances) {
			t.Errorf("offset %d: %d ports, some are used twice: %v", offset, len(p.All()), p.All())
		}
		for port, what := range still.All() {
			if p.All()[port+offset] != what {
				t.Errorf("offset %d: %s isn't at %d", offset, what, port+offset)
			}
		}
		for port := range p.All() {
			if port > 65535 {
				t.Errorf("offset %d: port %d", offset, port)
			}
		}
	}
	for _, offset := range []int{-1, 40001} {
		if _, err := New(Config{Offset: offset, Out: io.Discard}); err == nil {
			t.Errorf("offset %d is taken", offset)
		}
	}
}

// An agent takes every registration of the demo, without a warning, and gives each sidecar a port that the demo announces.
func TestRegistrations(t *testing.T) {
	p := NewPorts(0)
	s, err := agentlocal.New(agentlocal.Config{
		Node: catalog.Node{Scope: catalog.Scope{}.Default("dc1"), Node: "demo"}, SidecarMin: p.SidecarMin, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range p.registrations() {
		body, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		var d agentlocal.ServiceDefinition
		if err := decode.JSON(body, &d); err != nil {
			t.Fatal(err)
		}
		if warnings, err := s.Register(d, "", false); err != nil || len(warnings) > 0 {
			t.Errorf("%s: %v, %v", d.Name, err, warnings)
		}
	}
	w, _ := s.Wanted()
	for _, id := range instances {
		side, ok := w.Services[sidecarID(id)]
		if !ok {
			t.Errorf("%s has no sidecar", id)
			continue
		}
		if p.All()[side.Record.Port] != "a sidecar" {
			t.Errorf("the sidecar of %s is at %d", id, side.Record.Port)
		}
	}
}
