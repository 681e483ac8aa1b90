// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"
	"time"
)

// randomACL makes commands on ACL objects, over few names.
func randomACL(r *rand.Rand) Body {
	pick := func(list ...string) string { return list[r.IntN(len(list))] }
	ends := clock
	token := ACLToken{AccessorID: pick("t1", "t2", "t3"), SecretHash: pick("h1", "h2", "h3"), AuthMethod: pick("", "", "m1")}
	if r.IntN(2) == 0 {
		token.ExpirationTime = &ends
	}
	objects := []ACLObject{
		{Token: &token}, {Policy: &ACLPolicy{ID: pick("p1", "p2"), Name: pick("one", "two", "One")}}, {Role: &ACLRole{ID: "r1", Name: pick("one", "two")}},
		{BindingRule: &ACLBindingRule{ID: pick("b1", "b2"), AuthMethod: "m1"}}, {AuthMethod: &ACLAuthMethod{Name: "m1", Config: Opaque{"x": "y"}}},
	}
	switch r.IntN(4) {
	case 0:
		return DeleteACL{Kind: pick(ACLTokens, ACLPolicies, ACLAuthMethods), IDs: []string{pick("t1", "p1", "m1"), pick("t2", "p2")}}
	case 1:
		return BootstrapACL{Token: ACLToken{AccessorID: pick("t1", "t4"), SecretHash: pick("h1", "h4")}}
	}
	return SetACL{Create: r.IntN(3) > 0, Objects: objects[r.IntN(len(objects)):][:1]}
}

func mustDo(t *testing.T, s *Store, b Body) {
	t.Helper()
	if r := do(t, s, b); r.Err != nil {
		t.Fatalf("%T: %v", b, r.Err)
	}
}

func wantErr(t *testing.T, s *Store, b Body, want error) {
	t.Helper()
	r := do(t, s, b)
	if !errors.Is(r.Err, want) {
		t.Errorf("%T: %v, want %v", b, r.Err, want)
	}
}

func TestACLRules(t *testing.T) {
	s := newStore(t, Config{})
	policy := func(id, name string) ACLObject { return ACLObject{Policy: &ACLPolicy{ID: id, Name: name}} }
	token := func(id, hash, method string) ACLObject {
		return ACLObject{Token: &ACLToken{AccessorID: id, SecretHash: hash, AuthMethod: method}}
	}
	mustDo(t, s, SetACL{Create: true, Objects: []ACLObject{policy("p1", "one"), token("t1", "h1", "")}})
	wantErr(t, s, SetACL{Create: true, Objects: []ACLObject{policy("p1", "other")}}, ErrExists)
	wantErr(t, s, SetACL{Create: true, Objects: []ACLObject{policy("p2", "ONE")}}, ErrExists)
	wantErr(t, s, SetACL{Create: true, Objects: []ACLObject{token("t2", "h1", "")}}, ErrExists)
	wantErr(t, s, SetACL{Objects: []ACLObject{policy("p9", "nine")}}, ErrNotFound)
	wantErr(t, s, SetACL{Create: true, Objects: []ACLObject{token("t2", "h2", "nowhere")}}, ErrNotFound)
	wantErr(t, s, SetACL{Create: true, Objects: []ACLObject{{}}}, ErrInvalid)
	// All or nothing, and two of one name in one command are no better than in two.
	wantErr(t, s, SetACL{Create: true, Objects: []ACLObject{policy("p3", "three"), policy("p4", "Three")}}, ErrExists)
	if o, err := s.Read().ACL(ACLPolicies, "p3"); err != nil || o.Policy != nil {
		t.Errorf("half a command was applied: %v %v", o, err)
	}
	// A role may have a policy's name.
	mustDo(t, s, SetACL{Create: true, Objects: []ACLObject{{Role: &ACLRole{ID: "r1", Name: "one"}}}})
	mustDo(t, s, SetACL{Objects: []ACLObject{policy("p1", "renamed")}})
	if o, err := s.Read().ACLUnique(ACLPolicies, "Renamed"); err != nil || o.Policy == nil || o.Policy.CreateIndex >= o.Policy.ModifyIndex {
		t.Errorf("after a change of name: %+v %v", o.Policy, err)
	}
	if o, err := s.Read().ACLUnique(ACLPolicies, "one"); err != nil || o.Policy != nil {
		t.Errorf("the old name still finds it: %+v %v", o.Policy, err)
	}
}

func TestACLMethodTakesItsTokensAlong(t *testing.T) {
	s := newStore(t, Config{})
	mustDo(t, s, SetACL{Create: true, Objects: []ACLObject{
		{AuthMethod: &ACLAuthMethod{Name: "jwt"}}, {BindingRule: &ACLBindingRule{ID: "b", AuthMethod: "jwt"}},
		{Token: &ACLToken{AccessorID: "t", SecretHash: "h", AuthMethod: "JWT"}}, {Token: &ACLToken{AccessorID: "u", SecretHash: "i"}},
	}})
	if r := do(t, s, DeleteACL{Kind: ACLAuthMethods, IDs: []string{"jwt"}}); r.Err != nil || r.Value != 3 {
		t.Fatalf("%v %v, want 3 objects gone", r.Value, r.Err)
	}
	tokens, err := s.Read().ACLList(ACLTokens)
	if err != nil || len(tokens) != 1 || tokens[0].ID() != "u" {
		t.Errorf("%v %v", tokens, err)
	}
}

func TestACLExpiry(t *testing.T) {
	s := newStore(t, Config{})
	early, late := clock, clock.Add(time.Hour)
	mustDo(t, s, SetACL{Create: true, Objects: []ACLObject{
		{Token: &ACLToken{AccessorID: "a", SecretHash: "a", ExpirationTime: &early}}, {Token: &ACLToken{AccessorID: "b", SecretHash: "b", ExpirationTime: &late}},
		{Token: &ACLToken{AccessorID: "c", SecretHash: "c"}},
	}})
	if r := do(t, s, DeleteACL{Kind: ACLTokens, IDs: []string{"a", "b", "c"}, Before: clock.Add(time.Minute)}); r.Err != nil || r.Value != 1 {
		t.Fatalf("%v %v, want one gone", r.Value, r.Err)
	}
}

func TestACLBootstrapOnce(t *testing.T) {
	s := newStore(t, Config{})
	first := BootstrapACL{Token: ACLToken{AccessorID: "a", SecretHash: "a"}}
	second := BootstrapACL{Token: ACLToken{AccessorID: "b", SecretHash: "b"}}
	mustDo(t, s, first)
	at := s.Read().ACLBootstrapped()
	wantErr(t, s, second, ErrConflict)
	second.Reset = at + 1
	wantErr(t, s, second, ErrConflict)
	var snapshot bytes.Buffer
	if _, err := s.Snapshot().WriteTo(&snapshot); err != nil {
		t.Fatal(err)
	}
	if err := s.Restore(&snapshot); err != nil {
		t.Fatal(err)
	}
	wantErr(t, s, BootstrapACL{Token: second.Token}, ErrConflict)
	second.Reset = at
	mustDo(t, s, second)
	if got := s.Read().ACLBootstrapped(); got <= at {
		t.Errorf("bootstrapped at %d, was %d", got, at)
	}
}
