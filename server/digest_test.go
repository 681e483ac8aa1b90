// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weftmesh/weft/catalog"
)

func TestOdd(t *testing.T) {
	at := func(block uint64, nodes string) []catalog.Checkpoint {
		return []catalog.Checkpoint{{Block: block, Tables: map[string][]byte{"nodes": []byte(nodes), "kv": []byte("k")}}}
	}
	type lists = [][]catalog.Checkpoint
	for name, c := range map[string]struct {
		mine    []catalog.Checkpoint
		others  lists
		servers int
		odd     bool
		differ  bool
	}{
		"alone":                    {at(1, "a"), nil, 1, false, false},
		"all agree":                {at(1, "a"), lists{at(1, "a"), at(1, "a")}, 3, false, false},
		"I am odd":                 {at(1, "a"), lists{at(1, "b"), at(1, "b")}, 3, true, true},
		"another is odd":           {at(1, "a"), lists{at(1, "a"), at(1, "b")}, 3, false, false},
		"two of five agree":        {at(1, "a"), lists{at(1, "b"), at(1, "b")}, 5, false, true},
		"three of five agree":      {at(1, "a"), lists{at(1, "b"), at(1, "b"), at(1, "b")}, 5, true, true},
		"two servers":              {at(1, "a"), lists{at(1, "b")}, 2, false, true},
		"everybody differs":        {at(1, "a"), lists{at(1, "b"), at(1, "c")}, 3, false, true},
		"of another block":         {at(2, "a"), lists{at(1, "b"), at(1, "b")}, 3, false, false},
		"an older one is compared": {append(at(1, "a"), at(2, "x")...), lists{at(1, "b"), at(1, "b")}, 3, true, true},
		"the newest counts":        {append(at(1, "x"), at(2, "a")...), lists{append(at(1, "y"), at(2, "a")...), at(2, "a")}, 3, false, false},
	} {
		v := odd(c.mine, c.others, c.servers)
		if v.odd != c.odd || (v.tables != nil) != c.differ || c.differ && !slices.Equal(v.tables, []string{"nodes"}) {
			t.Errorf("%s: %+v", name, v)
		}
	}
}

// A server whose tables aren't those of the others stops by itself, and says which tables; the others go on.
func TestOddServerStops(t *testing.T) {
	three(t, func(t *testing.T, w *town) {
		leader, other := w.leader(), w.followers()[0]
		leader.want("PUT", "/v1/catalog/register", web, 200, "true")
		if err := leader.barrier(); err != nil {
			t.Fatal(err)
		}
		if err := other.applied.wait(t.Context(), func() bool { return other.store.Position().Index >= leader.store.Position().Index }); err != nil {
			t.Fatal(err)
		}
		other.makeOdd(t)
		if err := leader.barrier(); err != nil { // takes the index of the change that nobody agreed on
			t.Fatal(err)
		}
		work := make(chan error, 8)
		for n := range cap(work) {
			go func() {
				var err error
				for i := 0; i < 200 && err == nil; i++ {
					_, err = leader.Propose(context.Background(), nodeNamed(fmt.Sprintf("n%d-%d", n, i)))
				}
				work <- err
			}()
		}
		for range cap(work) {
			if err := <-work; err != nil {
				t.Fatal(err)
			}
		}
		select {
		case <-other.ended:
		case <-time.After(2 * time.Minute):
			t.Fatal("it goes on")
		}
		err := other.stop()
		if err == nil || !strings.Contains(err.Error(), "its catalog differs") || !strings.Contains(err.Error(), "kv") {
			t.Errorf("it ended with: %v", err)
		}
		other.stop = func() error { return nil }
		leader.want("PUT", "/v1/kv/after", "x", 200, "true")
	})
}

// makeOdd puts a key into this server's tables that no other has.
func (s *citizen) makeOdd(t *testing.T) {
	t.Helper()
	copyTo := func(from, to *catalog.Store) {
		var snap bytes.Buffer
		if _, err := from.Snapshot().WriteTo(&snap); err != nil {
			t.Fatal(err)
		}
		if err := to.Restore(&snap); err != nil {
			t.Fatal(err)
		}
	}
	scratch, err := catalog.New(catalog.Config{Datacenter: "dc1"})
	if err != nil {
		t.Fatal(err)
	}
	copyTo(s.store, scratch)
	data, err := catalog.Encode(&catalog.KVOp{Verb: catalog.KVSet, Key: "odd", Value: []byte("x")})
	if err != nil {
		t.Fatal(err)
	}
	if r := scratch.Apply([]catalog.LogEntry{{Index: scratch.Position().Index + 1, Data: data}}); r[0].Err != nil {
		t.Fatal(r[0].Err)
	}
	copyTo(scratch, s.store)
}
