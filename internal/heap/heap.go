// SPDX-License-Identifier: Apache-2.0

// Package heap suits the garbage collector to a process that is busy for a while and idle for long, with a heap of some megabytes. By
// itself Go collects each time that the heap has doubled: at 10 MB and 150 MB allocated in a second that is fifteen times a second, a
// tenth of the processor time of a server that takes writes. So a busy process may let its heap grow by its room in any case, and one that
// has become idle gives back what it doesn't use. What makes it a busy one is noticed at the collection itself: a burst may be over
// before the next look. Keeper.Run owns its one goroutine.
package heap

import (
	"cmp"
	"context"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// room is how much a busy process may have for garbage, whatever it uses.
const room = 48 << 20

// What a server's room is: a part of the memory there is, within bounds. It holds what feeds go on from, and whatever it holds is looked at
// in each collection: with 32 MB of that and no more garbage than as much, collections were a fifth of what registrations cost.
const (
	serverPart = 64
	serverMost = 128 << 20
)

// ServerRoom is a server's Keeper.Room where the process may have so much memory; 0: nobody knows.
func ServerRoom(memory uint64) uint64 { return min(max(room, memory/serverPart), serverMost) }

// How much a process allocates from look to look that is a busy one, and an idle one: so many times what it uses, as many collections as that would
// be without us; or so much. How many there are says nothing: with room enough, a busy process has one in a second. And for how many looks it
// must have been idle until its memory is given back.
const (
	look      = time.Second
	busyAbove = 3
	busyBytes = 32 << 20
	idleUnder = 1
	calmLooks = 5
	least     = 4 << 20 // Go doesn't collect below
)

// Keeper is what Run keeps between looks. Its zero value is of a process that has just begun.
type Keeper struct {
	// Room is how much a busy process may have for garbage, whatever it uses; 0 is 48 MiB.
	Room uint64

	busy, given bool
	calm        int
}

// action is what a look comes to.
type action struct {
	percent  int // the heap's growth until the next collection; 0: as it was
	giveBack bool
}

// isBusy takes the bytes that were allocated since the last look, and those in use.
func isBusy(allocated, live uint64) bool {
	return allocated > busyBytes || allocated > busyAbove*max(live, least)
}

// decide takes the same.
func (k *Keeper) decide(allocated, live uint64) (a action) {
	switch {
	case isBusy(allocated, live):
		k.busy, k.given, k.calm = true, false, 0
	case allocated <= idleUnder*max(live, least):
		if k.busy {
			k.busy = false
			a.percent = normal
		}
		if k.calm++; k.calm >= calmLooks && !k.given {
			k.given, a.giveBack = true, true
		}
	default:
		k.calm = 0
	}
	if k.busy {
		a.percent = int(min(most, max(normal, cmp.Or(k.Room, room)*100/max(live, 1))))
	}
	return a
}

const normal, most = 100, 1600

// Run looks every second until ctx ends. Where GOGC says how it shall be, it does nothing.
func (k *Keeper) Run(ctx context.Context, getenv func(string) string) error {
	if getenv("GOGC") != "" {
		<-ctx.Done()
		return nil
	}
	samples := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}, {Name: "/gc/heap/live:bytes"}}
	tick := time.NewTicker(look)
	defer tick.Stop()
	collected, stop := collections()
	defer stop()
	metrics.Read(samples)
	last := samples[0].Value.Uint64()
	debug.SetGCPercent(k.decide(busyBytes+1, samples[1].Value.Uint64()).percent) // who begins is busy
	for {
		early := false
		select {
		case <-tick.C:
		case <-collected:
			early = true
		case <-ctx.Done():
			debug.SetGCPercent(normal)
			return nil
		}
		metrics.Read(samples)
		now, live := samples[0].Value.Uint64(), samples[1].Value.Uint64()
		since := now - last
		if early && (k.busy || !isBusy(since, live)) {
			continue
		}
		last = now
		a := k.decide(since, live)
		if a.percent > 0 {
			debug.SetGCPercent(a.percent)
		}
		if a.giveBack {
			debug.FreeOSMemory()
			_ = dropCode() // it stays where it is then
			metrics.Read(samples)
			last = samples[0].Value.Uint64()
		}
	}
}

// collections tells of each collection, until stop is called.
func collections() (c <-chan struct{}, stop func()) {
	told, stopped := make(chan struct{}, 1), make(chan struct{})
	type garbage struct{ _ *garbage } // no tiny one: those have no finalizer of their own
	var next func(*garbage)
	next = func(g *garbage) {
		select {
		case told <- struct{}{}:
		default:
		}
		select {
		case <-stopped:
		default:
			runtime.SetFinalizer(g, next)
		}
	}
	runtime.SetFinalizer(&garbage{}, next)
	return told, func() { close(stopped) }
}
