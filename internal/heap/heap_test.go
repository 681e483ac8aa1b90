// SPDX-License-Identifier: Apache-2.0

package heap

import (
	"context"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"testing"
	"testing/fstest"
)

// A burst of garbage changes the heap's growth before the next look, and the end of Run changes it back.
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
	var kept []byte
	for tries := 0; percent() == normal; tries++ {
		if tries == 1000 {
			t.Fatal("nothing has changed after a thousand collections")
		}
		kept = make([]byte, busyBytes)
		runtime.GC()
	}
	runtime.KeepAlive(kept)
	cancel()
	if err := <-done; err != nil || percent() != normal {
		t.Errorf("Run gave %v and left %d", err, percent())
	}
}

// What a process comes to that begins, is idle, busy and idle again.
func TestDecide(t *testing.T) {
	var k Keeper
	if got := (&Keeper{Room: 128 << 20}).decide(33<<20, 16<<20); got.percent != 800 {
		t.Errorf("with another room: %+v", got)
	}
	for i, c := range []struct {
		allocated, live uint64 // MiB
		want            action
	}{
		{16, 8, action{}},
		{0, 8, action{}},
		{8, 8, action{}},
		{4, 2, action{}}, // less than Go collects for
		{0, 8, action{}},
		{0, 8, action{giveBack: true}},
		{0, 8, action{}}, // once
		{25, 8, action{percent: 600}},
		{30, 24, action{percent: 200}}, // between both: as it was
		{33, 40, action{percent: 120}}, // little of what it uses, but much
		{33, 1 << 10, action{percent: 100}},
		{13, 0, action{percent: 1600}},
		{8, 8, action{percent: 100}},
		{0, 8, action{}},
		{0, 8, action{}},
		{0, 8, action{}},
		{0, 8, action{giveBack: true}},
	} {
		if got := k.decide(c.allocated<<20, c.live<<20); got != c.want {
			t.Errorf("look %d: %+v, want %+v", i, got, c.want)
		}
	}
}

// A server's room goes by the memory that it may have.
func TestServerRoom(t *testing.T) {
	for memory, want := range map[uint64]uint64{0: 48 << 20, 1 << 30: 48 << 20, 6 << 30: 96 << 20, 64 << 30: 128 << 20} {
		if got := ServerRoom(memory); got != want {
			t.Errorf("%d: %d, want %d", memory, got, want)
		}
	}
	cgroup := fstest.MapFS{
		"proc/meminfo":     {Data: []byte("MemTotal:       2048 kB\nMemFree:  1 kB\n")},
		"proc/self/cgroup": {Data: []byte("0::/a/b\n")},
	}
	if got := memory(cgroup); got != 2<<20 {
		t.Errorf("of the machine: %d", got)
	}
	cgroup["sys/fs/cgroup/a/memory.max"] = &fstest.MapFile{Data: []byte("1048576\n")}
	cgroup["sys/fs/cgroup/a/b/memory.max"] = &fstest.MapFile{Data: []byte("max\n")}
	if got := memory(cgroup); got != 1<<20 {
		t.Errorf("of the group above: %d", got)
	}
	if got := memory(fstest.MapFS{}); got != 0 {
		t.Errorf("unknown: %d", got)
	}
}
