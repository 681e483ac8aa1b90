// SPDX-License-Identifier: Apache-2.0

package gossip

import (
	"bytes"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/weftmesh/weft/internal/memnet"
)

// Whoever sees many fail says anew that it is there while it is cut off, so that the other side knows better at once when the
// cut heals. One that fails alone is no partition: nobody says anything.
func TestRaise(t *testing.T) {
	t.Parallel()
	const size = 8
	bubble(t, func(t *testing.T) {
		var border atomic.Int64 // nodes below it are cut off from the others
		side := func(a netip.AddrPort) bool { return int64(a.Addr().As4()[3]) < border.Load() }
		var mu sync.Mutex
		said := map[string]bool{} // who was said to be there
		network := &lossy{
			Network: Memory(memnet.New()),
			cut:     func(from, to netip.AddrPort) bool { return side(from) != side(to) },
			hear: func(m []byte) {
				mu.Lock()
				defer mu.Unlock()
				for i := range size {
					name := fmt.Sprintf("n%d", i)
					if m[0] == msgAlive && bytes.Contains(m, append([]byte("\xa4Node\xa2"), name...)) {
						said[name] = true
					}
				}
			},
		}
		heard := func() (there int) {
			mu.Lock()
			defer mu.Unlock()
			there = len(said)
			clear(said)
			return there
		}
		nodes := make([]*node, size)
		gather(t, network, nodes)
		sees := func(others ...int) bool {
			for i, n := range nodes {
				if int(testutil.ToFloat64(n.metrics.members)) != others[i%len(others)] {
					return false
				}
			}
			return true
		}
		pass(time.Minute)
		heard()
		border.Store(size / 2)
		pass(time.Minute)
		if there := heard(); there != size || !sees(size/2) {
			t.Errorf("%d of %d said anew that they are there while they were cut off", there, size)
		}
		border.Store(0)
		pass(10 * time.Second)
		if !sees(size) {
			t.Error("no one view 10 s after the cut")
		}
		pass(time.Minute)
		heard()
		last := nodes[size-1]
		nodes = nodes[:size-1]
		last.stop(t)
		pass(time.Minute)
		if there := heard(); there != 0 || !sees(size-1) {
			t.Errorf("%d said that they are there when one had failed", there)
		}
	})
}

// Who fails soon after others returned is asked for, as it may have been suspected since the cut; at any other time one that fails is just dead.
func TestFailsAfterReturns(t *testing.T) {
	t.Parallel()
	begin := time.Unix(1000, 0)
	for _, c := range []struct {
		what    string
		returns int
		after   time.Duration
		woken   bool
	}{
		{"after two returned", 2, healQuiet, true},
		{"long after two returned", 2, healQuiet + 1, false},
		{"after one returned", 1, time.Second, false},
		{"by itself", 0, 0, false},
	} {
		p := &Pool{known: make(map[string]known), returns: returns{more: make(chan struct{}, 1)}, losses: losses{more: make(chan struct{}, 1)}}
		for range c.returns {
			p.backLocked(begin)
		}
		select {
		case <-p.returns.more:
		default:
		}
		p.lostLocked(begin.Add(c.after))
		if woken := len(p.returns.more) == 1; woken != c.woken {
			t.Errorf("%s: woken %v, want %v", c.what, woken, c.woken)
		}
	}
}

// Whatever the moment of the heal, one view comes soon: who asks for members just before it doesn't wait for them for long after it.
func TestHealSoon(t *testing.T) {
	t.Parallel()
	const size = 8
	bubble(t, func(t *testing.T) {
		var border atomic.Int64 // nodes below it are cut off from the others
		side := func(a netip.AddrPort) bool { return int64(a.Addr().As4()[3]) < border.Load() }
		network := &lossy{Network: Memory(memnet.New()), cut: func(from, to netip.AddrPort) bool { return side(from) != side(to) }}
		nodes := make([]*node, size)
		gather(t, network, nodes)
		pass(time.Minute)
		for long := 50 * time.Second; long < 62*time.Second; long += 3 * time.Second {
			border.Store(size / 2)
			pass(long)
			border.Store(0)
			pass(6 * time.Second)
			for _, n := range nodes {
				if got := int(testutil.ToFloat64(n.metrics.members)); got != size {
					t.Errorf("%s sees %d 6 s after a cut of %v, want %d", n.c.Self.Name, got, long, size)
				}
			}
			pass(time.Minute)
		}
	})
}
