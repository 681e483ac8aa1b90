// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// sidecarOf is a node with a sidecar of a service.
func sidecarOf(service, node string) Register {
	return Register{Node: Node{Node: node, Address: "10.0.0.1"}, Services: []Service{{
		ID: service + "-proxy", Service: service + "-proxy", Kind: KindConnectProxy, Port: 21000, Proxy: &Proxy{DestinationServiceName: service},
	}}}
}

// virtualOf is a service's address, "" for none, and is what its instances say.
func virtualOf(t *testing.T, s *Store, service string) string {
	t.Helper()
	view := s.Read()
	v, err := view.VirtualIP(name(service))
	if err != nil {
		t.Fatal(err)
	}
	address := ""
	if v != nil {
		address = v.Address()
	}
	list, _ := view.ConnectInstances(name(service))
	for _, in := range list {
		if in.Service.VirtualIP != address {
			t.Errorf("%s says %q, %s has %q", in.Service.ID, in.Service.VirtualIP, service, address)
		}
	}
	return address
}

func TestVirtualIPs(t *testing.T) {
	s := newStore(t, Config{})
	want := func(when string, addresses ...string) {
		t.Helper()
		var got []string
		for _, service := range []string{"a", "b", "c", "plain", "native"} {
			got = append(got, virtualOf(t, s, service))
		}
		if d := cmp.Diff(addresses, got); d != "" {
			t.Errorf("%s:\n%s", when, d)
		}
	}
	native := Register{Node: Node{Node: "n1", Address: "10.0.0.1"}, Services: []Service{
		{Service: "plain", VirtualIP: "240.9.9.9"}, {Service: "native", Connect: &Connect{Native: true}, VirtualIP: "240.9.9.9"},
	}}
	do(t, s, sidecarOf("a", "n1"))
	do(t, s, sidecarOf("A", "n2"))
	do(t, s, sidecarOf("b", "n1"))
	do(t, s, native)
	want("in order", "240.0.0.1", "240.0.0.2", "", "", "240.0.0.3")
	before := s.Position().Index
	do(t, s, sidecarOf("b", "n1"))
	if list, _ := s.Read().ConnectInstances(name("b")); list[0].Service.ModifyIndex > before {
		t.Error("the same again is a change")
	}
	do(t, s, Deregister{Node: "n1", ServiceID: "a-proxy"})
	want("another instance is left", "240.0.0.1", "240.0.0.2", "", "", "240.0.0.3")
	do(t, s, Deregister{Node: "n2"})
	want("the last is gone", "", "240.0.0.2", "", "", "240.0.0.3")

	var snap bytes.Buffer
	if _, err := s.Snapshot().WriteTo(&snap); err != nil {
		t.Fatal(err)
	}
	s = newStore(t, Config{})
	if err := s.Restore(&snap); err != nil {
		t.Fatal(err)
	}
	want("restored", "", "240.0.0.2", "", "", "240.0.0.3")
	do(t, s, sidecarOf("c", "n1"))
	do(t, s, sidecarOf("a", "n1"))
	want("a free one first", "240.0.0.4", "240.0.0.2", "240.0.0.1", "", "240.0.0.3")

	// A proxy that becomes another service's: in the same command the old address isn't given anew.
	moved := sidecarOf("b", "n1")
	moved.Services[0].Proxy.DestinationServiceName = "plain"
	do(t, s, moved)
	want("moved", "240.0.0.4", "", "240.0.0.1", "240.0.0.5", "240.0.0.3")
	do(t, s, Deregister{Node: "n1"})
	want("all gone", "", "", "", "", "")
	do(t, s, sidecarOf("b", "n1"))
	want("the lowest", "", "240.0.0.1", "", "", "")
}

func TestManualVirtualIPs(t *testing.T) {
	s := newStore(t, Config{})
	do(t, s, sidecarOf("a", "n1"))
	do(t, s, sidecarOf("b", "n1"))
	assign := func(service string, addresses ...string) Result {
		return do(t, s, AssignVirtualIPs{name(service), addresses})
	}
	manual := func(service string) []string {
		v, _ := s.Read().VirtualIP(name(service))
		return v.Manual
	}
	if r := assign("none", "10.1.0.1"); r.Err != nil || r.Value.(VirtualIPsResult).Found {
		t.Errorf("%+v", r)
	}
	if r := assign("a", "10.1.0.1", "10.1.0.2"); r.Err != nil || !r.Value.(VirtualIPsResult).Found || len(r.Value.(VirtualIPsResult).From) != 0 {
		t.Errorf("%+v", r)
	}
	view := s.Read().Record()
	if _, err := view.VirtualIP(name("a")); err != nil {
		t.Fatal(err)
	}
	index := view.ResultIndex()
	assign("a", "10.1.0.1", "10.1.0.2")
	r := assign("b", "10.1.0.2", "fd00::1")
	if d := cmp.Diff([]Key{name("a")}, r.Value.(VirtualIPsResult).From); d != "" || r.Err != nil {
		t.Errorf("%v\n%s", r.Err, d)
	}
	if !slices.Equal(manual("a"), []string{"10.1.0.1"}) || !slices.Equal(manual("b"), []string{"10.1.0.2", "fd00::1"}) {
		t.Errorf("a %v, b %v", manual("a"), manual("b"))
	}
	view = s.Read().Record()
	_, _ = view.VirtualIP(name("a"))
	if got := view.ResultIndex(); got != index+2 {
		t.Errorf("index %d, want %d: who lost one is woken, and the same again wakes nobody", got, index+2)
	}
	for _, bad := range [][]string{{"x"}, {"10.1.0.1", "10.1.0.1"}, {"240.0.0.9"}, {"010.1.0.1"}, {"fe80::1%eth0"}, slices.Repeat([]string{"10.1.0.1"}, 9)} {
		if r := assign("a", bad...); !errors.Is(r.Err, ErrInvalid) {
			t.Errorf("%v: %+v", bad, r)
		}
	}
	do(t, s, Deregister{Node: "n1", ServiceID: "b-proxy"})
	do(t, s, sidecarOf("b", "n1"))
	if got := manual("b"); len(got) != 0 {
		t.Errorf("an address by hand outlives its service: %v", got)
	}
}

// However instances come and go, no address is two services' at a time, and none is left to a service without instances.
func TestVirtualIPsAreUnique(t *testing.T) {
	s := newStore(t, Config{})
	services := 40
	for i := range 400 {
		service, node := fmt.Sprint("s", i*7%services), fmt.Sprint("n", i%3)
		if i%5 < 2 {
			do(t, s, Deregister{Node: node, ServiceID: service + "-proxy"})
		} else {
			do(t, s, sidecarOf(service, node))
		}
		of := map[string]string{}
		for j := range services {
			service := fmt.Sprint("s", j)
			list, _ := s.Read().ConnectInstances(name(service))
			a := virtualOf(t, s, service)
			if (a != "") != (len(list) > 0) {
				t.Fatalf("step %d: %s has %d instances and %q", i, service, len(list), a)
			}
			if a != "" && of[a] != "" {
				t.Fatalf("step %d: %s is that of %s and %s", i, a, of[a], service)
			}
			of[a] = service
		}
	}
}
