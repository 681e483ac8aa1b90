// SPDX-License-Identifier: Apache-2.0

package config

import (
	"testing"
	"time"
)

// The bound grows while requests take as long as the baseline, and falls when they take longer.
func TestAdaptiveFollowsLatency(t *testing.T) {
	a := NewAdaptive(3, 200, 100*time.Millisecond, time.Hour, 10)
	now := int64(1)
	run := func(d time.Duration, requests int) {
		for range requests {
			if !a.Enter() {
				t.Fatal("a lone request is refused")
			}
			now += int64(10 * time.Millisecond)
			a.Leave(now, int64(d), true)
		}
	}
	run(20*time.Millisecond, 10)
	if a.Bound() != 3 {
		t.Errorf("%d at the beginning, want 3", a.Bound())
	}
	run(20*time.Millisecond, 300)
	high := a.Bound()
	if high < 100 {
		t.Errorf("%d after three seconds as fast as the baseline", high)
	}
	run(200*time.Millisecond, 300)
	if low := a.Bound(); low > high/4 {
		t.Errorf("%d after three seconds ten times as slow, from %d", low, high)
	}
	// Every so often the baseline is measured anew, with few at a time.
	a.baseEvery = int64(time.Second)
	run(200*time.Millisecond, 12)
	if a.Bound() != 3 {
		t.Errorf("%d while the baseline is measured, want 3", a.Bound())
	}
	run(200*time.Millisecond, 90)
	if a.Bound() < 20 {
		t.Errorf("%d with the new baseline", a.Bound())
	}
}

func TestAdaptiveCountsWhoIsIn(t *testing.T) {
	a := NewAdaptive(2, 10, time.Second, time.Hour, 5)
	if !a.Enter() || !a.Enter() || a.Enter() {
		t.Error("want two at a time")
	}
	a.Leave(1, 1, false)
	if !a.Enter() {
		t.Error("who left still counts")
	}
}
