// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// sameRows says whether the topics' rows are those that were marked.
func sameRows(t *Txn, m *Mark) bool {
	for i, topic := range m.topics {
		if t.state != m.state || t.topics.get(topic) != m.rows[i] {
			return false
		}
	}
	return true
}

// What Unchanged and Still say without a look at the rows is what the rows say, however long ago the view was, and across a restore.
func TestUnchangedIsWhatTheRowsSay(t *testing.T) {
	s, r := newStore(t, Config{}), rand.New(rand.NewPCG(5, 6))
	type view struct {
		mark *Mark
		at   Moment
	}
	var views []view
	yes, no := 0, 0
	for step := range 600 {
		service := fmt.Sprint("s", r.IntN(40))
		if res := do(t, s, Register{Node: Node{Node: "n1", Address: "10.0.0.1"}, Services: []Service{{ID: service, Service: service, Port: 1 + r.IntN(3)}}}); res.Err != nil {
			t.Fatal(res.Err)
		}
		if step == 400 {
			var b bytes.Buffer
			if _, err := s.Snapshot().WriteTo(&b); err != nil {
				t.Fatal(err)
			}
			if err := s.Restore(&b); err != nil {
				t.Fatal(err)
			}
		}
		now := s.Read().Record()
		if _, err := now.Instances(name(fmt.Sprint("s", r.IntN(40)))); err != nil {
			t.Fatal(err)
		}
		views = append(views, view{now.Mark(), now.Moment()})
		for range 20 {
			v := views[r.IntN(len(views))]
			if r.IntN(2) == 0 {
				v = views[max(0, len(views)-1-r.IntN(4))] // most look soon after
			}
			look := s.Read().Record()
			want, got := sameRows(look, v.mark), look.Unchanged(v.mark.topics, v.at)
			if still := look.Still(v.mark); got != want || still != want {
				t.Fatalf("step %d: unchanged since commit %d of %d: %t, still %t, want %t", step, v.at.commit, look.meta.commit, got, still, want)
			}
			if !slices.Equal(look.Topics(), v.mark.topics) {
				t.Fatalf("recorded: %v", look.Topics())
			}
			if got {
				yes++
			} else {
				no++
			}
		}
	}
	if yes < 1000 || no < 1000 {
		t.Fatalf("%d times unchanged, %d times not: this tells little", yes, no)
	}
}

// In a replica a topic that becomes covered, or is covered no more, has changed, though no index has.
func TestCoverageIsAChange(t *testing.T) {
	server, replica := newStore(t, Config{}), newStore(t, Config{Replica: true})
	do(t, server, web("n1", 80))
	topic := []Topic{ServiceTopic(name("web"))}
	items, err := server.Read().Items(topic[0])
	if err != nil {
		t.Fatal(err)
	}
	begin := func() Moment {
		t.Helper()
		at := replica.Read().Moment()
		if !replica.Read().Unchanged(topic, at) {
			t.Fatal("nothing has happened")
		}
		return at
	}
	apply := func(u Update) {
		t.Helper()
		u.Position = server.Position()
		if err := replica.ApplyItems(u); err != nil {
			t.Fatal(err)
		}
	}
	apply(Update{})
	for _, u := range []Update{{Items: items, Snapshot: topic, Covered: topic}, {Dropped: topic}, {Items: items, Snapshot: topic, Covered: topic}} {
		at := begin()
		apply(u)
		if replica.Read().Unchanged(topic, at) {
			t.Errorf("after %+v: unchanged", u)
		}
	}
	at := begin()
	apply(Update{})
	if !replica.Read().Unchanged(topic, at) {
		t.Error("an update of nothing changes a topic")
	}
}

func TestWatchOnly(t *testing.T) {
	s := newStore(t, Config{})
	w := s.Watch()
	put := func(service string) {
		t.Helper()
		if r := do(t, s, Register{Node: Node{Node: "n1", Address: "10.0.0.1"}, Services: []Service{{ID: service, Service: service, Port: int(s.Position().Index) + 1}}}); r.Err != nil {
			t.Fatal(r.Err)
		}
	}
	woken := func() bool {
		select {
		case <-w.Woken():
			return true
		default:
			return false
		}
	}
	a, b := ServiceTopic(name("a")), ServiceTopic(name("b"))
	for _, c := range []struct {
		only       []Topic
		added      bool
		wakes, not string
	}{{[]Topic{a}, true, "a", "b"}, {[]Topic{a}, false, "a", "b"}, {[]Topic{b, a}, true, "b", "c"}, {[]Topic{b}, false, "b", "a"}, {[]Topic{a}, true, "a", "b"}} {
		if added := w.Only(c.only); added != c.added {
			t.Errorf("only %v: added %t", c.only, added)
		}
		if put(c.not); woken() {
			t.Errorf("only %v: woken by %s", c.only, c.not)
		}
		if put(c.wakes); !woken() {
			t.Errorf("only %v: not woken by %s", c.only, c.wakes)
		}
	}
	w.Close()
	if n := s.Waiting(); n != 0 {
		t.Errorf("%d wait after the end", n)
	}
}
