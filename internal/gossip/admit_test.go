// SPDX-License-Identifier: Apache-2.0

package gossip

import (
	"errors"
	"net"
	"testing"

	"github.com/hashicorp/memberlist"
	"github.com/hashicorp/serf/serf"

	"github.com/weftmesh/weft/internal/memnet"
)

// told is how memberlist tells of a node, and how serf does.
func told(t testing.TB, i int, name, id string) (*memberlist.Node, *serf.Member) {
	t.Helper()
	tags := map[string]string{tagRole: roleClient, tagDatacenter: "dc1", tagSegment: "", tagID: id, tagBuild: "0.1.0", tagVersion: "2"}
	meta := []byte{tagsMagic, 0x80 | byte(len(tags))}
	for k, v := range tags {
		meta = append(append(meta, 0xd9, byte(len(k))), k...)
		meta = append(append(meta, 0xd9, byte(len(v))), v...)
	}
	ip := net.IP(addr(i).Addr().AsSlice())
	return &memberlist.Node{Name: name, Addr: ip, Port: 8301, Meta: meta}, &serf.Member{Name: name, Addr: ip, Port: 8301, Tags: tags}
}

func pool(t testing.TB) *Pool {
	t.Helper()
	p, err := New(config(Memory(memnet.New()), 1))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// A member that is told of again is let in without its tags being read, and only as long as it is the same.
func TestAgain(t *testing.T) {
	p := pool(t)
	two, event := told(t, 2, "two", id(2))
	if err := p.NotifyAlive(two); err != nil {
		t.Fatal(err)
	}
	if p.again(two) {
		t.Error("known before serf told of it")
	}
	p.learn(serf.EventMemberJoin, event)
	if err := p.NotifyAlive(two); err != nil || !p.again(two) {
		t.Errorf("it isn't known again: %v", err)
	}
	if n := testing.AllocsPerRun(100, func() { _ = p.NotifyAlive(two) }); n != 0 { // it was let in
		t.Errorf("%v allocations for what was said before", n)
	}
	for what, change := range map[string]func() (*memberlist.Node, error){
		"another ID under its name":   func() (*memberlist.Node, error) { n, _ := told(t, 3, "two", id(3)); return n, ErrNameTaken },
		"its ID under another name":   func() (*memberlist.Node, error) { n, _ := told(t, 3, "three", id(2)); return n, ErrIDTaken },
		"its tags elsewhere, cut off": func() (*memberlist.Node, error) { n := *two; n.Meta = n.Meta[:len(n.Meta)-1]; return &n, ErrForeign },
		"another port":                func() (*memberlist.Node, error) { n := *two; n.Port = 1; return &n, nil },
	} {
		n, want := change()
		if p.again(n) {
			t.Errorf("%s: taken for what was said before", what)
		}
		if err := p.NotifyAlive(n); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", what, err, want)
		}
	}
	if err := p.NotifyAlive(two); err != nil {
		t.Fatal(err)
	}
	for _, gone := range []serf.EventType{serf.EventMemberUpdate, serf.EventMemberFailed, serf.EventMemberReap} {
		p.learn(gone, event)
		if p.again(two) {
			t.Errorf("after %s nobody has looked at its tags", gone)
		}
	}
}

func BenchmarkAlive(b *testing.B) {
	p := pool(b)
	two, event := told(b, 2, "two", id(2))
	p.learn(serf.EventMemberJoin, event)
	b.ReportAllocs()
	for b.Loop() {
		if err := p.NotifyAlive(two); err != nil {
			b.Fatal(err)
		}
	}
}
