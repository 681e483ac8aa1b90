// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"errors"
	"runtime"
	"testing"
	"weak"
)

func TestLegacyIntentions(t *testing.T) {
	s := newStore(t, Config{})
	set := func(dst string, src SourceIntention, mode string) Result {
		return do(t, s, SetIntention{name(dst), src, mode})
	}
	allow := SourceIntention{Name: "web", Action: "allow", LegacyID: "id1"}
	if r := set("db", allow, IntentionCreate); r.Err != nil {
		t.Fatal(r)
	}
	if r := set("api", allow, IntentionUpdate); !errors.Is(r.Err, ErrInvalid) {
		t.Errorf("moved to another destination: %+v", r)
	}
	gone := SourceIntention{Name: "web", Action: "allow", LegacyID: "nope"}
	if r := set("db", gone, IntentionUpdate); !errors.Is(r.Err, ErrNotFound) || r.Err.Error() != "Cannot modify non-existent intention: 'nope'" {
		t.Errorf("%+v", r)
	}
	deny := SourceIntention{Name: "web", Action: "deny"}
	if r := set("db", deny, IntentionUpsert); r.Err != nil {
		t.Fatal(r)
	}
	e, _ := EntryAs[*ServiceIntentions](s.Read(), KindServiceIntentions, name("db"))
	if len(e.Sources) != 1 || e.Sources[0].Action != "deny" || e.Sources[0].LegacyID != "id1" {
		t.Fatalf("%+v", e.Sources)
	}
	if r := do(t, s, DeleteIntention{LegacyID: "nope"}); !errors.Is(r.Err, ErrNotFound) {
		t.Errorf("%+v", r)
	}
	if r := do(t, s, DeleteIntention{LegacyID: "id1"}); r.Value != true {
		t.Errorf("%+v", r)
	}
	if e, _ := s.Read().Entry(KindServiceIntentions, name("db")); e != nil {
		t.Error("the entry is still there without its last source")
	}
	if r := do(t, s, DeleteIntention{Destination: name("db"), Source: name("web")}); r.Value != false {
		t.Errorf("%+v", r)
	}
	set("db", SourceIntention{Name: "x", Action: "allow"}, IntentionUpsert)
	if r := set("db", allow, IntentionCreate); !errors.Is(r.Err, ErrConflict) {
		t.Errorf("a rule with an ID came into an entry that has none: %+v", r)
	}
}

func TestCA(t *testing.T) {
	s := newStore(t, Config{})
	do(t, s, SetCluster{"c1"})
	st := CAState{Roots: []CARoot{{ID: "r1", Active: true}}, PrivateState: []byte("secret")}
	if r := do(t, s, SetCA{State: st}); r.Err != nil {
		t.Fatal(r)
	}
	if r := do(t, s, SetCA{State: st}); !errors.Is(r.Err, ErrConflict) {
		t.Fatal(r)
	}
	ca, _ := s.Read().CA()
	if r := do(t, s, SetCA{State: st, CAS: ca.ModifyIndex}); r.Err != nil {
		t.Fatal(r)
	}
	if ca, _ = s.Read().CA(); ca.TrustDomain() != "c1.consul" || ca.Roots[0].CreateIndex != 2 || ca.PrivateState == nil {
		t.Fatalf("%+v", ca)
	}
	replica := newStore(t, Config{Replica: true})
	items, _ := s.Read().Items(CATopic())
	topics := []Topic{CATopic()}
	if err := replica.ApplyItems(Update{Position: s.Position(), Items: items, Snapshot: topics, Covered: topics}); err != nil {
		t.Fatal(err)
	}
	if ca, _ = replica.Read().CA(); ca == nil || ca.PrivateState != nil || len(ca.Roots) != 1 {
		t.Fatalf("%+v", ca)
	}
}

// TestChangesAreBounded resumes a feed piece by piece, never in the middle of an index, and past the window's end not at all.
func TestChangesAreBounded(t *testing.T) {
	s := newStore(t, Config{Epoch: 3, WindowBytes: 20_000})
	at := s.Position()
	for i := range 5 {
		do(t, s, web("n1", 80+i))
	}
	n := 0
	for at.Index < 5 {
		items, next, ok := s.Changes(at, nil, 1)
		if !ok || next.Index != at.Index+1 {
			t.Fatalf("%v %v", next, ok)
		}
		n += len(items)
		at = next
	}
	whole, _, _ := s.Changes(Position{3, 0}, nil, 0)
	if n != len(whole) || n == 0 {
		t.Errorf("%d items in pieces, %d at once", n, len(whole))
	}
	for i := range 100 {
		do(t, s, web("n1", i))
	}
	if _, _, ok := s.Changes(at, nil, 0); ok {
		t.Error("the window forgot nothing")
	}
	if _, _, ok := s.Changes(Position{2, s.Position().Index}, nil, 0); ok {
		t.Error("took a position of another epoch")
	}
}

// What the window has dropped isn't held by what it keeps.
func TestWindowLetsGo(t *testing.T) {
	topic := CATopic()
	w := window{max: 4 * (*record)(nil).size()}
	changes := make([]*change, 4, 16)
	for i := range changes {
		changes[i] = &change{topic: topic, index: uint64(1 + i)}
	}
	first := weak.Make(changes[0])
	w.add(changes, 4)
	clear(changes)
	w.add([]*change{{topic: topic, index: 5}}, 5)
	runtime.GC()
	if first.Value() != nil {
		t.Error("the oldest change is still there")
	}
	if list, ok := w.of(map[Topic]bool{topic: true}, Position{Index: 1}, 9); !ok || len(list) != 4 {
		t.Errorf("%d changes, %v", len(list), ok)
	}
}
