// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"math"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/weftmesh/weft/connect/proxy/config"
)

// latency is a moving average of how long answers take, that rises at once and falls slowly.
type latency struct {
	cost atomic.Uint64 // bits of a float64, nanoseconds
	at   atomic.Int64  // of the last answer
}

// observe notes an answer's time; a failure counts as much as the penalty at least. Two that come at the same time may lose
// one of them.
func (l *latency) observe(now int64, took time.Duration, bad bool, c *config.EWMA) {
	sample := float64(took)
	if bad {
		sample = max(sample, float64(c.Penalty))
	}
	old, since := math.Float64frombits(l.cost.Load()), float64(now-l.at.Swap(now))
	if sample < old {
		w := math.Exp(-since / float64(c.Decay))
		sample = old*w + sample*(1-w)
	}
	l.cost.Store(math.Float64bits(sample))
}

// load is what the next request to the endpoint is expected to cost.
func (e *endpoint) load(now int64, c *config.EWMA) float64 {
	cost := math.Float64frombits(e.cost.Load())
	if at := e.at.Load(); at != 0 {
		cost *= math.Exp(-float64(now-at) / float64(c.Decay)) // who is left alone is tried again
	}
	return (cost + float64(time.Millisecond)) * float64(e.active.Load()+1) / float64(weight(e.config))
}

// peak draws two endpoints and takes the one of the lower load.
func (t *tier) peak(cfg *config.Cluster, c *choice, pass int) *endpoint {
	var best *endpoint
	lowest := 0.0
	for range 2 {
		e := t.endpoints[rand.IntN(len(t.endpoints))]
		if !c.fit(e, pass) || e == best {
			continue
		}
		if load := e.load(c.nowNano, cfg.EWMA); best == nil || load < lowest {
			best, lowest = e, load
		}
	}
	if best == nil {
		return t.walk(t.turns, rand.Uint64N(uint64(len(t.turns))), c, pass)
	}
	return best
}

// young says whether a new endpoint gives this request up to another: its share grows over the window.
func (e *endpoint) young(now int64, s *config.SlowStart) bool {
	age := float64(now-e.born) / float64(s.Window)
	if age >= 1 {
		return false
	}
	share := max(s.Least, math.Pow(max(age, 0), 1/s.Aggression))
	return rand.Float64() >= share
}
