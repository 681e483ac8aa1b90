// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"bytes"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// kinds are an entry of each kind that is only kept, and what makes it invalid.
func keptKinds() []struct {
	good  Entry
	spoil func(Entry)
} {
	head := EntryHead{Name: "x"}
	return []struct {
		good  Entry
		spoil func(Entry)
	}{
		{
			&IngressGateway{EntryHead: head, Listeners: []IngressListener{{Port: 80, Protocol: "HTTP", Services: []IngressService{{Name: "web", Hosts: []string{"a"}}}}}},
			func(e Entry) { e.(*IngressGateway).Listeners[0].Protocol = "tcp" },
		},
		{
			&TerminatingGateway{EntryHead: head, Services: []LinkedService{{Name: "db", CAFile: "ca"}}},
			func(e Entry) { e.(*TerminatingGateway).Services[0].CertFile = "c" },
		},
		{
			&APIGateway{EntryHead: head, Listeners: []APIGatewayListener{{Name: "a", Port: 80, Protocol: "http"}, {Name: "b", Port: 80, Protocol: "http"}}},
			func(e Entry) { e.(*APIGateway).Listeners[1].Hostname = "h" },
		},
		{
			&HTTPRoute{EntryHead: head, Parents: []ResourceRef{{Name: "g"}}, Rules: []HTTPRouteRule{{Services: []HTTPRouteService{{Name: "web"}}}}},
			func(e Entry) { e.(*HTTPRoute).Hostnames = []string{"*.x"} },
		},
		{
			&TCPRoute{EntryHead: head, Parents: []ResourceRef{{Name: "g"}}, Services: []TCPRouteService{{Name: "web"}}},
			func(e Entry) { e.(*TCPRoute).Parents[0].Kind = "mesh" },
		},
		{
			&FileCertificate{Certificate{EntryHead: head, Certificate: "/a", PrivateKey: "/b"}},
			func(e Entry) { e.(*FileCertificate).PrivateKey = "" },
		},
		{
			&JWTProvider{EntryHead: head, JSONWebKeySet: &JSONWebKeySet{Remote: &RemoteJWKS{URI: "https://a"}}},
			func(e Entry) { e.(*JWTProvider).JSONWebKeySet.Remote.URI = "ftp://a" },
		},
		{
			&ExportedServices{Services: []ExportedService{{Name: "*", Consumers: []ServiceConsumer{{Peer: "p"}}}}},
			func(e Entry) { e.(*ExportedServices).Services[0].Consumers[0].Partition = "q" },
		},
		{
			&SamenessGroup{EntryHead: head, Members: []SamenessMember{{Peer: "p"}}},
			func(e Entry) { e.(*SamenessGroup).Members[0].Partition = "q" },
		},
		{
			&RequestLimit{EntryHead: head, Mode: "enforcing", ReadRate: 5, KV: &RequestRates{ReadRate: 1}},
			func(e Entry) { e.(*RequestLimit).Mode = "odd" },
		},
	}
}

// Entries that are only kept are normalised, validated, stored and restored as all others.
func TestKeptKinds(t *testing.T) {
	s := newStore(t, Config{})
	for _, k := range keptKinds() {
		e := k.good
		e.Normalize()
		if err := e.Validate(); err != nil || Inert(e.EntryKind()) == (e.EntryKind() == KindJWTProvider) {
			t.Fatalf("%s: %v", e.EntryKind(), err)
		}
		if r := do(t, s, SetEntry{Entry: EntryBox{e}}); r.Value != true {
			t.Fatalf("%s: %+v", e.EntryKind(), r)
		}
		got, err := s.Read().Entry(e.EntryKind(), name(e.Head().Name))
		if err != nil || got == nil || got.EntryKind() != e.EntryKind() {
			t.Fatalf("%s: %+v %v", e.EntryKind(), got, err)
		}
		k.spoil(e)
		if err := e.Validate(); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", e.EntryKind(), err)
		}
	}
	var snap bytes.Buffer
	if _, err := s.Snapshot().WriteTo(&snap); err != nil {
		t.Fatal(err)
	}
	restored := newStore(t, Config{})
	if err := restored.Restore(&snap); err != nil {
		t.Fatal(err)
	}
	all, _ := s.Read().Entries("", Scope{})
	again, _ := restored.Read().Entries("", Scope{})
	if d := cmp.Diff(all, again); d != "" || len(all) != len(keptKinds()) {
		t.Error(len(all), d)
	}
	for _, kind := range EntryKinds() {
		if _, err := NewEntry(kind); err != nil {
			t.Error(err)
		}
	}
	if err := (&BoundAPIGateway{}).Validate(); err == nil {
		t.Error("a kind that servers write was taken")
	}
	if err := (&InlineCertificate{Certificate{EntryHead: EntryHead{Name: "x", Scope: Scope{}.Default("dc1")}, Certificate: "x"}}).Validate(); err == nil {
		t.Error("a certificate that is none was taken")
	}
}
