// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"

	"github.com/weftmesh/weft/connect/proxy/config"
)

// tier is endpoints of equal standing: all of one priority that are healthy, or, last, all that aren't. Draining ones are
// in none.
type tier struct {
	endpoints []*endpoint
	turns     []uint32 // a round of weighted turns
	next      atomic.Uint64
	equal     bool // of one weight

	once   sync.Once // makes the hash table at its first use
	ring   *ring
	maglev []uint32
}

// tiers orders a cluster's endpoints: healthy ones by priority, then unhealthy ones by priority.
func tiers(eps []*endpoint) []*tier {
	var out []*tier
	for _, sick := range []bool{false, true} {
		left := map[uint32][]*endpoint{}
		for _, e := range eps {
			if !e.config.Draining && e.config.Healthy != sick {
				left[e.config.Priority] = append(left[e.config.Priority], e)
			}
		}
		for len(left) > 0 {
			first := ^uint32(0)
			for p := range left {
				first = min(first, p)
			}
			out = append(out, makeTier(left[first]))
			delete(left, first)
		}
	}
	return out
}

func makeTier(eps []*endpoint) *tier {
	t := &tier{endpoints: eps, turns: sequence(eps), equal: true}
	for _, e := range eps {
		t.equal = t.equal && weight(e.config) == weight(eps[0].config)
	}
	t.next.Store(rand.Uint64N(uint64(len(t.turns)))) // proxies that start together don't begin with the same endpoint
	return t
}

// choice is what a pick goes by.
type choice struct {
	want    string // the address that a session is bound to
	strict  bool   // no other is taken
	panic   bool   // ejections don't count
	hash    uint64
	hashed  bool
	avoid   []*endpoint // tried before, by this exchange
	nowNano int64
}

func (c *choice) avoids(e *endpoint) bool {
	for _, a := range c.avoid {
		if a == e {
			return true
		}
	}
	return false
}

// pick chooses an endpoint: of the first tier that has one which is neither ejected nor tried before, else any that isn't
// ejected. It gives nil where there is none.
func (v *clusterView) pick(c *choice) *endpoint {
	if c.want != "" {
		if e := v.bound(c); e != nil || c.strict {
			return e
		}
	}
	for pass := range 2 {
		for _, t := range v.tiers {
			c.panic = v.config.Panic > 0 && t.panics(v.config.Panic, c.nowNano)
			if e := t.old(v.config, c, pass); e != nil {
				return e
			}
		}
		if len(c.avoid) == 0 {
			return nil
		}
	}
	return nil
}

// fit says whether e may be chosen: at pass 0 neither ejected nor tried, at 1 not ejected.
func (c *choice) fit(e *endpoint, pass int) bool {
	return (c.panic || !e.ejected(c.nowNano) && !(e.trial.Load() && e.probing.Load())) && (pass > 0 || len(c.avoid) == 0 || !c.avoids(e))
}

// panics says whether so many are ejected that ejections don't count.
func (t *tier) panics(threshold float64, now int64) bool {
	good := 0
	for _, e := range t.endpoints {
		if !e.ejected(now) {
			good++
		}
	}
	return float64(good)*100 < threshold*float64(len(t.endpoints))
}

// old is pick, with less for the endpoints that are new: one of these gives way with a chance that falls with its age.
func (t *tier) old(cfg *config.Cluster, c *choice, pass int) *endpoint {
	e := t.pick(cfg, c, pass)
	if cfg.SlowStart == nil {
		return e
	}
	for range 8 * len(t.endpoints) {
		if e == nil || !e.young(c.nowNano, cfg.SlowStart) {
			break
		}
		e = t.pick(cfg, c, pass)
	}
	return e
}

func (t *tier) pick(cfg *config.Cluster, c *choice, pass int) *endpoint {
	switch {
	case len(t.endpoints) == 1:
		if e := t.endpoints[0]; c.fit(e, pass) {
			return e
		}
		return nil
	case cfg.Balance == config.PeakEWMA:
		return t.peak(cfg, c, pass)
	case cfg.Balance == config.LeastRequest:
		return t.least(max(2, cfg.ChoiceCount), c, pass)
	case cfg.Balance == config.RingHash && c.hashed:
		t.once.Do(func() { t.ring = makeRing(t.endpoints) })
		at := t.ring.at(c.hash)
		for i := range t.ring.points {
			if e := t.endpoints[t.ring.points[(at+i)%len(t.ring.points)].who]; c.fit(e, pass) {
				return e
			}
		}
		return nil
	case cfg.Balance == config.Maglev && c.hashed:
		t.once.Do(func() { t.maglev = makeMaglev(t.endpoints, cfg.MaglevSize) })
		return t.walk(t.maglev, c.hash%uint64(len(t.maglev)), c, pass)
	case cfg.Balance == config.RoundRobin:
		return t.walk(t.turns, t.next.Add(1)%uint64(len(t.turns)), c, pass)
	}
	return t.walk(t.turns, rand.Uint64N(uint64(len(t.turns))), c, pass)
}

// walk takes the first fitting endpoint of the table from at on.
func (t *tier) walk(table []uint32, at uint64, c *choice, pass int) *endpoint {
	for i := range uint64(len(table)) {
		if e := t.endpoints[table[(at+i)%uint64(len(table))]]; c.fit(e, pass) {
			return e
		}
	}
	return nil
}

// least draws n endpoints and takes the one with the fewest requests for its weight.
func (t *tier) least(n int, c *choice, pass int) *endpoint {
	var best *endpoint
	for range n {
		var e *endpoint
		if t.equal {
			e = t.endpoints[rand.IntN(len(t.endpoints))]
		} else {
			e = t.endpoints[t.turns[rand.IntN(len(t.turns))]]
		}
		if c.fit(e, pass) && (best == nil || e.active.Load() < best.active.Load()) {
			best = e
		}
	}
	if best == nil {
		return t.walk(t.turns, rand.Uint64N(uint64(len(t.turns))), c, pass)
	}
	return best
}
