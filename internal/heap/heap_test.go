// SPDX-License-Identifier: Apache-2.0

package heap

import (
	"context"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"testing"
)

// A burst of collections changes the heap's growth before the next look, and the end of Run changes it back.
func TestBurst(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer debug.SetGCPercent(debug.SetGCPercent(normal))
	percent := func() uint64 {
		s := []metrics.Sample{{Name: "/gc/gogc:percent"}}
		metrics.Read(s)
		return s[0].Value.Uint64()
	}
	done := make(chan error, 1)
	go func() { done <- new(Keeper).Run(ctx, func(string) string { return "" }) }()
	for tries := 0; percent() == normal; tries++ {
		if tries == 1000 {
			t.Fatal("nothing has changed after a thousand collections")
		}
		runtime.GC()
	}
	cancel()
	if err := <-done; err != nil || percent() != normal {
		t.Errorf("Run gave %v and left %d", err, percent())
	}
}

// What a process comes to that begins, is idle, busy and idle again.
func TestDecide(t *testing.T) {
	var k Keeper
	for i, c := range []struct {
		collections, live uint64
		want              action
	}{
		{2, 8 << 20, action{}},
		{0, 8 << 20, action{}},
		{1, 8 << 20, action{}},
		{0, 8 << 20, action{}},
		{0, 8 << 20, action{}},
		{0, 8 << 20, action{giveBack: true}},
		{0, 8 << 20, action{}}, // once
		{4, 8 << 20, action{percent: 400}},
		{2, 24 << 20, action{percent: 200}}, // between both: as it was
		{9, 1 << 30, action{percent: 100}},
		{9, 0, action{percent: 400}},
		{1, 8 << 20, action{percent: 100}},
		{0, 8 << 20, action{}},
		{0, 8 << 20, action{}},
		{0, 8 << 20, action{}},
		{0, 8 << 20, action{giveBack: true}},
	} {
		if got := k.decide(c.collections, c.live); got != c.want {
			t.Errorf("look %d: %+v, want %+v", i, got, c.want)
		}
	}
}
