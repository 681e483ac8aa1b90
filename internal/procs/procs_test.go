// SPDX-License-Identifier: Apache-2.0

package procs

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestGovernor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		busy := 0.0 // processors' worth of work
		n := 4
		var mu sync.Mutex // guards what the governor asks for and sets
		var used time.Duration
		var last time.Time
		advance := func() time.Duration {
			mu.Lock()
			defer mu.Unlock()
			if now := time.Now(); !last.IsZero() {
				used += time.Duration(min(busy, float64(n)) * float64(now.Sub(last)))
				last = now
			} else {
				last = begin
			}
			return used
		}
		var set []int
		var rests atomic.Int32
		g, err := New(Config{Used: advance, Most: 4, Rest: func() { rests.Add(1) }, Set: func(to int) {
			mu.Lock()
			defer mu.Unlock()
			n = to
			set = append(set, to)
		}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- g.Run(ctx) }()
		synctest.Wait()
		if !slices.Equal(set, []int{1}) {
			t.Errorf("it began with %v", set)
		}
		for _, phase := range []struct {
			busy float64
			long time.Duration
			want []int
		}{
			{0.1, time.Minute, nil},
			{2.2, 2 * time.Second, []int{2, 3}},
			{2.2, time.Minute, nil},
			{1.4, time.Minute, nil}, // more than half of two
			{0.6, time.Minute, []int{2}},
			{0.1, 11 * time.Second, []int{1}},
			{9, time.Second, []int{2, 3, 4}},
		} {
			mu.Lock()
			set, busy = nil, phase.busy
			mu.Unlock()
			time.Sleep(phase.long)
			synctest.Wait()
			if !slices.Equal(set, phase.want) {
				t.Errorf("with work for %v processors: %v, want %v", phase.busy, set, phase.want)
			}
		}
		if n := rests.Load(); n != 0 {
			t.Errorf("it rested %d times while there was work", n)
		}
		mu.Lock()
		busy = 0
		mu.Unlock()
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := rests.Load(); n != 1 {
			t.Errorf("it rested %d times, want once", n)
		}
		mu.Lock()
		set = nil
		mu.Unlock()
		cancel()
		if err := <-done; err != nil || !slices.Equal(set, []int{4}) {
			t.Errorf("at the end: %v, %v", set, err)
		}
	})
}

// Where much is moved in large pieces one more processor is wanted long before those that there are are busy, and it is kept as long as it is used.
func TestProcessorsForBulk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		var perSecond, n atomic.Uint64
		var moved uint64
		last := begin
		const work = 0.7 // of a processor
		g, err := New(Config{
			Used: func() time.Duration { return time.Duration(work * float64(time.Since(begin))) }, Most: 4, Set: func(to int) { n.Store(uint64(to)) },
			Bulk: func() uint64 {
				moved += uint64(float64(perSecond.Load()) * time.Since(last).Seconds())
				last = time.Now()
				return moved
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- g.Run(ctx) }()
		for _, phase := range []struct {
			perSecond uint64 // MB
			want      uint64
		}{{0, 1}, {200, 1}, {300, 2}, {0, 2}} {
			perSecond.Store(phase.perSecond << 20)
			time.Sleep(time.Minute)
			synctest.Wait()
			if got := n.Load(); got != phase.want {
				t.Errorf("with %d MB/s: %d processors, want %d", phase.perSecond, got, phase.want)
			}
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// What beginning took is given back, though it was little work, and once.
func TestRestAfterBeginning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var rests atomic.Int32
		g, err := New(Config{Used: func() time.Duration { return 60 * time.Millisecond }, Most: 1, Set: func(int) {}, Rest: func() { rests.Add(1) }})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- g.Run(ctx) }()
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := rests.Load(); n != 1 {
			t.Errorf("it rested %d times, want once", n)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// A process that does a little now and then, all in the time of one look, rests as well: the two seconds together count. How often it
// does goes by what a rest costs.
func TestRestsBesideALittleWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		const share, cost = 20 * time.Millisecond, 100 * time.Millisecond
		var rests atomic.Int32
		g, err := New(Config{Most: 1, Set: func(int) {}, Rest: func() { rests.Add(1) }, Used: func() time.Duration {
			return time.Since(begin).Truncate(time.Second)/time.Second*share + time.Duration(rests.Load())*cost
		}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- g.Run(ctx) }()
		for _, c := range []struct {
			after time.Duration
			want  int32
		}{{4 * time.Second, 1}, {20 * time.Second, 1}, {4 * time.Second, 2}, {20 * time.Second, 2}, {8 * time.Second, 3}} {
			time.Sleep(c.after)
			synctest.Wait()
			if n := rests.Load(); n != c.want {
				t.Errorf("after %s it rested %d times, want %d", time.Since(begin), n, c.want)
			}
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// The heap has room while much garbage is made, and not for longer; and no more than what is in use leaves.
func TestRoomForGarbage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex // guards what is below
		var perSecond, live uint64
		var allocated uint64
		last := time.Now()
		var set []int
		g, err := New(Config{
			Used: func() time.Duration { return 0 }, Most: 1, Set: func(int) {}, Percent: 50,
			Heap: func() (uint64, uint64) {
				mu.Lock()
				defer mu.Unlock()
				allocated += uint64(float64(perSecond) * time.Since(last).Seconds())
				last = time.Now()
				return allocated, live
			},
			Grow: func(percent int) {
				mu.Lock()
				defer mu.Unlock()
				set = append(set, percent)
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- g.Run(ctx) }()
		for i, phase := range []struct {
			perSecond, live uint64 // MB
			long            time.Duration
			want            []int
		}{
			{0, 2, time.Second, []int{50}},
			{7, 2, time.Minute, nil},
			{30, 2, time.Minute, []int{100}},
			{30, 9, 3 * time.Second, []int{50}},
			{34, 2, time.Minute, []int{400}},
			{34, 8, 3 * time.Second, []int{200}},
			{34, 64, 3 * time.Second, []int{50}},
			{34, 2, 3 * time.Second, []int{400}},
			{30, 2, time.Second, nil},
			{30, 2, 2 * time.Second, []int{100}},
			{7, 2, 3 * time.Second, []int{50}},
			{30, 2, 300 * time.Millisecond, []int{100}},
			{34, 2, 300 * time.Millisecond, []int{400}}, // at once
			{7, 2, 5 * time.Second, []int{50}},
			{0, 2, time.Minute, nil},
		} {
			mu.Lock()
			set, perSecond, live = nil, phase.perSecond<<20, phase.live<<20
			mu.Unlock()
			time.Sleep(phase.long)
			synctest.Wait()
			mu.Lock()
			if !slices.Equal(set, phase.want) {
				t.Errorf("phase %d: %v, want %v", i, set, phase.want)
			}
			mu.Unlock()
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if _, err := New(Config{Used: func() time.Duration { return 0 }, Most: 1, Set: func(int) {}, Heap: func() (uint64, uint64) { return 0, 0 }}); err == nil {
			t.Error("a Heap without Grow is taken")
		}
	})
}
