// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"errors"
	"strings"
	"testing"
)

// A namespace is made, described, and deleted once nothing is in it; the default one is always there. What is written goes into one that
// exists.
func TestNamespaces(t *testing.T) {
	s := newStore(t, Config{})
	red := Scope{Namespace: "red"}
	writes := map[string]Body{
		"service": Register{Node: Node{Node: "n1", Address: "10.0.0.1"}, Services: []Service{{Scope: red, Service: "web"}}},
		"entry":   SetEntry{Entry: EntryBox{&ServiceDefaults{EntryHead: EntryHead{Scope: red, Name: "web"}}}},
		"key":     KVOp{Verb: KVSet, Scope: red, Key: "a"},
		"session": CreateSession{Session: Session{Scope: red, ID: "s", Node: "n1"}},
		"rule":    SetIntention{Destination: red.Name("web"), Source: SourceIntention{Name: "x", Action: "allow"}, Mode: IntentionUpsert},
	}
	mustDo(t, s, Register{Node: Node{Node: "n1", Address: "10.0.0.1"}})
	for what, c := range writes {
		if r := do(t, s, c); !errors.Is(r.Err, ErrNamespace) || !strings.Contains(r.Err.Error(), `"red" doesn't exist`) {
			t.Errorf("%s into a namespace that isn't there: %v", what, r.Err)
		}
	}
	if r := do(t, s, Transaction{Ops: []TransactionOp{{KV: &KVOp{Verb: KVCAS, Scope: red, Key: "a"}}}}); len(r.Value.(TransactionResult).Errors) != 1 {
		t.Errorf("a transaction into it: %v", r.Value)
	}
	sync := do(t, s, Sync{Node: Node{Node: "n1", Address: "10.0.0.1"}, Items: []SyncItem{{Service: &Service{Scope: red, Service: "web"}}, {Service: &Service{Service: "web"}}}})
	if r := sync.Value.([]SyncResult); !errors.Is(r[0].Err, ErrNamespace) || r[1].Err != nil {
		t.Errorf("sync into it: %v", r)
	}
	mustDo(t, s, SetNamespace{Namespace: Namespace{Name: "red"}, Create: true})
	wantErr(t, s, SetNamespace{Namespace: Namespace{Name: "red"}, Create: true}, ErrExists)
	wantErr(t, s, SetNamespace{Namespace: Namespace{Name: DefaultNamespace}}, ErrExists)
	wantErr(t, s, SetNamespace{Namespace: Namespace{Name: "No"}}, ErrInvalid)
	mustDo(t, s, SetNamespace{Namespace: Namespace{Name: "red", Description: "d"}})
	for what, c := range writes {
		if r := do(t, s, c); r.Err != nil {
			t.Errorf("%s: %v", what, r.Err)
		}
		r := do(t, s, DeleteNamespace{Name: "red"})
		if !errors.Is(r.Err, ErrConflict) || !strings.Contains(r.Err.Error(), "isn't empty") {
			t.Errorf("delete with a %s in it: %v", what, r.Err)
		}
	}
	if all, err := s.Read().Namespaces(); err != nil || len(all) != 2 || all[0].Name != DefaultNamespace || all[1].Description != "d" {
		t.Errorf("%v, %v", all, err)
	}
	for _, c := range []Body{
		Deregister{Scope: red, Node: "n1", ServiceID: "web"}, DeleteEntry{Kind: KindServiceDefaults, Key: red.Name("web")},
		DeleteEntry{Kind: KindServiceIntentions, Key: red.Name("web")}, KVOp{Verb: KVDelete, Scope: red, Key: "a"}, DestroySession{Scope: red, ID: "s"},
		DeleteNamespace{Name: "red"},
	} {
		mustDo(t, s, c)
	}
	wantErr(t, s, DeleteNamespace{Name: "red"}, ErrNotFound)
	wantErr(t, s, DeleteNamespace{Name: DefaultNamespace}, ErrConflict)
}

// Some entries are for all namespaces, and one sort is for the destinations of all.
func TestEntriesOfNamespaces(t *testing.T) {
	s := newStore(t, Config{})
	mustDo(t, s, SetNamespace{Namespace: Namespace{Name: "red"}, Create: true})
	in := func(ns, name string) EntryHead { return EntryHead{Scope: Scope{Namespace: ns}, Name: name} }
	for _, c := range []struct {
		e  Entry
		ok bool
	}{
		{&ProxyDefaults{EntryHead: in("red", "global")}, false}, {&Mesh{EntryHead: in("red", "mesh")}, false},
		{&ServiceDefaults{EntryHead: in("*", "web")}, false}, {&ServiceDefaults{EntryHead: in("red", "web")}, true},
		{&ServiceIntentions{EntryHead: in("*", "web")}, false}, {&ServiceIntentions{EntryHead: in("*", "*")}, true},
	} {
		if r := do(t, s, SetEntry{Entry: EntryBox{c.e}}); (r.Err == nil) != c.ok {
			t.Errorf("%s %q in %q: %v", c.e.EntryKind(), c.e.Head().Name, c.e.Head().Namespace, r.Err)
		}
	}
	rules := &ServiceIntentions{EntryHead: in("red", "api"), Sources: []SourceIntention{
		{Name: "*", Namespace: "*", Action: "deny"}, {Name: "*", Action: "allow"}, {Name: "web", Namespace: "default", Action: "deny"},
	}}
	rules.Normalize()
	var order []string
	for _, src := range rules.Sources {
		order = append(order, src.Namespace+"/"+src.Name)
	}
	if got := strings.Join(order, " "); got != "default/web red/* */*" {
		t.Errorf("the order of sources is %s", got)
	}
	rules.Sources[0].Namespace = "*"
	if err := rules.Validate(); err == nil {
		t.Error("*/web is taken")
	}
}
