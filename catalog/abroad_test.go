// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"bytes"
	"errors"
	"testing"
	"time"
)

// away is the sidecar of a service on a node of another datacenter.
func away(node, service string, checks ...*Check) InstanceRecord {
	return InstanceRecord{
		Node: &Node{Node: node, Address: "10.2.0.1", ID: "an-id"},
		Service: &Service{
			ID: service + "-sidecar-proxy", Service: service + "-sidecar-proxy", Kind: KindConnectProxy, Port: 21000, Weights: Weights{Passing: 1, Warning: 1},
			Proxy: &Proxy{DestinationServiceName: service},
		},
		Checks: checks,
	}
}

func abroadKey(service string) Key { return Scope{}.Default("dc2").Name(service) }

// What is imported is there under its datacenter's name alone, whole, and the same again changes nothing.
func TestImport(t *testing.T) {
	s := newStore(t, Config{})
	alive := &Check{CheckID: SerfHealth, Status: HealthPassing}
	bring := func(service string, list ...InstanceRecord) {
		t.Helper()
		if r := do(t, s, Import{Service: abroadKey(service), Instances: list}); r.Err != nil {
			t.Fatal(r.Err)
		}
	}
	has := func(service string, want ...string) {
		t.Helper()
		list, err := s.Read().ConnectInstances(abroadKey(service))
		if err != nil || len(list) != len(want) {
			t.Fatalf("%s: %d instances, %v; want %v", service, len(list), err, want)
		}
		for i, in := range list {
			if got := in.Service.Node + " " + in.Status(); got != want[i] || in.Node.Datacenter != "dc2" {
				t.Errorf("%s: %s in %s, want %s", service, got, in.Node.Datacenter, want[i])
			}
		}
	}
	bring("api", away("n1", "api", alive, &Check{CheckID: "c", ServiceID: "api-sidecar-proxy", Status: HealthWarning}), away("n2", "api", alive))
	bring("db", away("n2", "db", alive))
	has("api", "n1 warning", "n2 passing")
	has("db", "n2 passing")
	if list, _ := s.Read().ConnectInstances(name("api")); len(list) != 0 {
		t.Errorf("they are in dc1 too: %v", list)
	}
	if nodes, _ := s.Read().Nodes(Scope{}); len(nodes) != 0 {
		t.Errorf("nodes of dc1: %v", nodes)
	}
	txn := s.Read().Record()
	if _, err := txn.ConnectInstances(abroadKey("api")); err != nil {
		t.Fatal(err)
	}
	before := txn.ResultIndex()
	bring("API", away("n1", "api", alive, &Check{CheckID: "c", ServiceID: "api-sidecar-proxy", Status: HealthWarning}), away("n2", "api", alive))
	txn = s.Read().Record()
	if _, err := txn.ConnectInstances(abroadKey("api")); err != nil || txn.ResultIndex() != before {
		t.Errorf("the same again is a change: %d after %d, %v", txn.ResultIndex(), before, err)
	}
	bring("api", away("n1", "api", alive))
	has("api", "n1 passing")
	has("db", "n2 passing")
	if r := do(t, s, Import{Service: abroadKey("api"), Fault: "cut", Since: time.Unix(9, 0)}); r.Err != nil {
		t.Fatal(r.Err)
	}
	has("api", "n1 passing")
	if got, err := s.Read().Import(abroadKey("api")); err != nil || got.Fault != "cut" {
		t.Errorf("import %+v, %v", got, err)
	}
	var snap bytes.Buffer
	if _, err := s.Snapshot().WriteTo(&snap); err != nil {
		t.Fatal(err)
	}
	again := newStore(t, Config{})
	if err := again.Restore(&snap); err != nil || !bytes.Equal(again.Digest(), s.Digest()) {
		t.Errorf("restored: %v", err)
	}
	s = again
	has("api", "n1 passing")
	do(t, s, Import{Service: abroadKey("api"), Drop: true})
	has("api")
	do(t, s, Import{Service: abroadKey("db"), Drop: true})
	if nodes, _ := s.Read().Nodes(Scope{Datacenter: "dc2"}); len(nodes) != 0 {
		t.Errorf("nodes that nobody needs: %v", nodes)
	}
	if list, _ := s.Read().Imports(); len(list) != 0 {
		t.Errorf("imports: %v", list)
	}
}

// What isn't of another datacenter, or of another service, is refused, and nothing of it is written.
func TestImportRefused(t *testing.T) {
	s := newStore(t, Config{})
	for _, c := range []Import{
		{Service: name("api"), Instances: []InstanceRecord{away("n1", "api")}},
		{Service: abroadKey(""), Drop: true},
		{Service: abroadKey("api"), Instances: []InstanceRecord{away("n1", "api"), away("n1", "db")}},
		{Service: abroadKey("api"), Instances: []InstanceRecord{away("n1", "api"), {}}},
	} {
		if r := do(t, s, c); !errors.Is(r.Err, ErrInvalid) {
			t.Errorf("%v: %v", c.Service, r.Err)
		}
	}
	if nodes, _ := s.Read().Nodes(Scope{Datacenter: "dc2"}); len(nodes) != 0 {
		t.Errorf("nodes: %v", nodes)
	}
}

// Who asks which datacenters are called is woken by entries, and by sidecars that name one, and by no others.
func TestCallersAbroad(t *testing.T) {
	s := newStore(t, Config{})
	changed := func() uint64 {
		txn := s.Read().Record()
		if _, err := txn.CallersAbroad(); err != nil {
			t.Fatal(err)
		}
		return txn.ResultIndex()
	}
	do(t, s, web("n1", 80))
	if changed() != 1 {
		t.Error("a sidecar without such an upstream counts")
	}
	r := web("n1", 80)
	r.Services[1].Proxy.Upstreams = []Upstream{{DestinationName: "api", Datacenter: "dc2"}}
	do(t, s, r)
	list, _ := s.Read().CallersAbroad()
	if changed() != 2 || len(list) != 1 || list[0].ID != "web1-sidecar-proxy" {
		t.Errorf("index %d, callers %v", changed(), list)
	}
	do(t, s, web("n1", 80))
	if list, _ := s.Read().CallersAbroad(); changed() != 3 || len(list) != 0 {
		t.Errorf("index %d, callers %v", changed(), list)
	}
	do(t, s, SetEntry{Entry: EntryBox{&ServiceResolver{EntryHead: EntryHead{Name: "api"}, Redirect: &ServiceResolverRedirect{Datacenter: "dc2"}}}})
	if list, _ := s.Read().Resolvers(); changed() != 4 || len(list) != 1 {
		t.Errorf("index %d, resolvers %v", changed(), list)
	}
}
