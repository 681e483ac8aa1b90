// SPDX-License-Identifier: Apache-2.0

// Package heap suits the garbage collector to a process that is busy for a while and idle for long, with a heap of some megabytes. By
// itself Go collects each time that the heap has doubled: at 10 MB and 150 MB allocated in a second that is fifteen times a second, a
// tenth of the processor time of a server that takes writes. So a busy process may let its heap grow by Room in any case, and one that
// has become idle gives back what it doesn't use. What makes it a busy one is noticed at the collection itself: a burst may be over
// before the next look. Keeper.Run owns its one goroutine.
package heap

import (
	"context"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// Room is how much a busy process may have for garbage, whatever it uses.
const Room = 48 << 20

// The frequency of collections that makes a process a busy one, and an idle one; and for how many looks it must have been idle until
// its memory is given back.
const (
	look      = time.Second
	busyAbove = 3
	idleUnder = 1
	calmLooks = 5
)

// Keeper is what Run keeps between looks. Its zero value is of a process that has just begun.
type Keeper struct {
	busy, given bool
	calm        int
}

// action is what a look comes to.
type action struct {
	percent  int // the heap's growth until the next collection; 0: as it was
	giveBack bool
}

// decide takes the number of collections since the last look, and the bytes in use.
func (k *Keeper) decide(collections, live uint64) (a action) {
	switch {
	case collections > busyAbove:
		k.busy, k.given, k.calm = true, false, 0
	case collections <= idleUnder:
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
		a.percent = int(min(most, max(normal, Room*100/max(live, 1))))
	}
	return a
}

const normal, most = 100, 400

// Run looks every second until ctx ends. Where GOGC says how it shall be, it does nothing.
func (k *Keeper) Run(ctx context.Context, getenv func(string) string) error {
	if getenv("GOGC") != "" {
		<-ctx.Done()
		return nil
	}
	samples := []metrics.Sample{{Name: "/gc/cycles/total:gc-cycles"}, {Name: "/gc/heap/live:bytes"}}
	tick := time.NewTicker(look)
	defer tick.Stop()
	collected, stop := collections()
	defer stop()
	metrics.Read(samples)
	last := samples[0].Value.Uint64()
	debug.SetGCPercent(k.decide(busyAbove+1, samples[1].Value.Uint64()).percent) // who begins is busy
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
		cycles := samples[0].Value.Uint64()
		since := cycles - last
		if early && (k.busy || since <= busyAbove) {
			continue
		}
		last = cycles
		a := k.decide(since, samples[1].Value.Uint64())
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
