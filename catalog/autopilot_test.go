// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"bytes"
	"errors"
	"testing"
	"time"
)

func TestAutopilot(t *testing.T) {
	s := newStore(t, Config{})
	if s.Read().Autopilot() != nil {
		t.Error("there is a configuration before one was set")
	}
	c := DefaultAutopilot()
	zero, odd := uint64(0), uint64(77)
	if r := do(t, s, SetAutopilot{Config: c, CAS: &odd}); r.Err != nil || r.Value != false {
		t.Errorf("%+v", r)
	}
	if r := do(t, s, SetAutopilot{Config: c, CAS: &zero}); r.Err != nil || r.Value != true {
		t.Errorf("%+v", r)
	}
	first := s.Read().Autopilot()
	c.MinQuorum = 3
	if r := do(t, s, SetAutopilot{Config: c, CAS: &first.ModifyIndex}); r.Value != true {
		t.Errorf("%+v", r)
	}
	if r := do(t, s, SetAutopilot{Config: AutopilotConfig{LastContactThreshold: -time.Second}}); !errors.Is(r.Err, ErrInvalid) {
		t.Errorf("%+v", r)
	}
	got := s.Read().Autopilot()
	if got.MinQuorum != 3 || got.CreateIndex != first.CreateIndex || got.ModifyIndex <= first.ModifyIndex {
		t.Errorf("%+v", got)
	}
	var buf bytes.Buffer
	if _, err := s.Snapshot().WriteTo(&buf); err != nil {
		t.Fatal(err)
	}
	again := newStore(t, Config{})
	if err := again.Restore(&buf); err != nil {
		t.Fatal(err)
	}
	if x := again.Read().Autopilot(); x == nil || *x != *got || !bytes.Equal(again.Digest(), s.Digest()) {
		t.Errorf("restored: %+v", x)
	}
}
