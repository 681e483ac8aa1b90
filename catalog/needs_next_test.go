// SPDX-License-Identifier: Apache-2.0

//go:build weftnext

package catalog

import (
	"bytes"
	"errors"
	"testing"
)

// Until the version is raised, what needs it is an error of its command alone, on every server; raised, a server of the version
// before can't follow, and says so, whether it meets the log or a snapshot.
func TestNextVersion(t *testing.T) {
	s, old := newStore(t, Config{}), newStore(t, Config{Schema: 1})
	do(t, s, RaiseSchema{1})
	body := web("n1", 80)
	body.Node.Next = "x"
	if need, what := Needs(&body); need != 2 || what != "the field Next of NextNode" {
		t.Errorf("needs %d: %s", need, what)
	}
	if r := do(t, s, body); !errors.Is(r.Err, ErrSchema) {
		t.Errorf("too early: %v", r.Err)
	}
	if r := do(t, s, NextFault{"x"}); !errors.Is(r.Err, ErrSchema) {
		t.Errorf("too early: %v", r.Err)
	}
	do(t, s, RaiseSchema{2})
	if r := do(t, s, body); r.Err != nil {
		t.Error(r.Err)
	}
	var p *panicError
	if r := do(t, s, NextFault{"oops"}); !errors.As(r.Err, &p) {
		t.Errorf("a fault: %v", r.Err)
	}
	if r := do(t, s, web("n2", 80)); r.Err != nil {
		t.Error(r.Err)
	}
	var c *CorruptError
	if r := do(t, old, body); !errors.As(r.Err, &c) || !errors.Is(r.Err, ErrSchema) {
		t.Errorf("an older server took it: %v", r.Err)
	}
	var snap bytes.Buffer
	if _, err := s.Snapshot().WriteTo(&snap); err != nil {
		t.Fatal(err)
	}
	if err := old.Restore(bytes.NewReader(snap.Bytes())); !errors.Is(err, ErrSchema) {
		t.Errorf("an older server took the snapshot: %v", err)
	}
	again := newStore(t, Config{})
	if err := again.Restore(&snap); err != nil {
		t.Fatal(err)
	}
	if n, _ := again.Read().Node(name("n1")); n == nil || n.Next != "x" {
		t.Errorf("restored: %+v", n)
	}
}
