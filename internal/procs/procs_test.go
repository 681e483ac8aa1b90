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
