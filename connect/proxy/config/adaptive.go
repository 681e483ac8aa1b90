// SPDX-License-Identifier: Apache-2.0

package config

import (
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Adaptive bounds the requests under way by how long they take: with few at a time it measures a baseline, and then the bound
// grows while requests take about as long as that, and falls as they take longer. A new configuration begins anew. Times are
// nanoseconds of whichever clock the caller goes by.
type Adaptive struct {
	most, least float64
	interval    int64
	baseEvery   int64
	baseCount   int

	active atomic.Int64
	bound  atomic.Int64

	mu        sync.Mutex // guards what follows
	samples   []int64
	began     int64 // of the samples
	measuring bool  // the baseline
	base      int64
	baseAt    int64   // when it was measured
	limit     float64 // the bound when the baseline isn't being measured
}

const (
	maxSamples   = 2048 // of an interval: more of them say nothing more
	baselineRoom = 1.25 // how much longer than the baseline is still as good
)

// NewAdaptive makes a bound between least and most.
func NewAdaptive(least, most int, interval, baseEvery time.Duration, baseCount int) *Adaptive {
	a := &Adaptive{
		most: float64(most), least: float64(max(1, least)), interval: int64(interval), baseEvery: int64(baseEvery), baseCount: max(1, baseCount), measuring: true,
	}
	a.limit = a.least
	a.bound.Store(int64(a.least))
	return a
}

// Enter counts a request in; false if as many as may be are under way. Leave must follow where it is true.
func (a *Adaptive) Enter() bool {
	if a.active.Add(1) > a.bound.Load() {
		a.active.Add(-1)
		return false
	}
	return true
}

// Bound is how many may be under way at the moment.
func (a *Adaptive) Bound() int { return int(a.bound.Load()) }

// Leave counts a request out that took so long; answered says that its time tells something.
func (a *Adaptive) Leave(now, took int64, answered bool) {
	a.active.Add(-1)
	if !answered {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.began == 0 {
		a.began = now
	}
	if len(a.samples) < maxSamples {
		a.samples = append(a.samples, took)
	}
	switch {
	case a.measuring:
		if len(a.samples) >= a.baseCount {
			a.base, a.baseAt, a.measuring = max(1, a.take(now)), now, false
			a.bound.Store(int64(a.limit))
		}
	case now-a.began < a.interval:
	case now-a.baseAt >= a.baseEvery:
		a.take(now)
		a.measuring = true
		a.bound.Store(int64(a.least))
	default:
		gradient := min(2, max(0.5, baselineRoom*float64(a.base)/float64(max(1, a.take(now)))))
		a.limit = min(a.most, max(a.least, a.limit*gradient+math.Sqrt(a.limit)))
		a.bound.Store(int64(a.limit))
	}
}

// take gives the median of the samples, and forgets them.
func (a *Adaptive) take(now int64) int64 {
	slices.Sort(a.samples)
	m := a.samples[len(a.samples)/2]
	a.samples, a.began = a.samples[:0], now
	return m
}
