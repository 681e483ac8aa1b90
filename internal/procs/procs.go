// SPDX-License-Identifier: Apache-2.0

// Package procs gives a process as many processors, and as much memory, as it has work for. Go's scheduler on more of them than that spends time on
// waking threads that find nothing, and on memory for each. It starts no goroutine: Run works in its caller's.
package procs

import (
	"context"
	"errors"
	"time"
)

// Config is what a Governor is made of.
type Config struct {
	// Used is the processor time that the process has taken so far.
	Used func() time.Duration
	// Set has the process run on n processors from now on.
	Set func(n int)
	// Most is as many as there are.
	Most int
	// Bulk is how many bytes the process has moved so far in large pieces. Nil for none.
	Bulk func() uint64
	// Rest is called when the process has become quiet after it began or had work, to give back what that took. Nil for nothing.
	Rest func()
	// Heap is how many bytes the process has allocated so far, and how many were in use when they were last collected; Grow has the heap grow by
	// so much per cent before it is collected again, as a rule Percent. Heap may be nil: the heap grows as it did.
	Heap    func() (allocated, live uint64)
	Grow    func(percent int)
	Percent int
}

const (
	look      = 100 * time.Millisecond
	busy      = 0.8       // of the processors' time: one more is wanted
	busyBulk  = 0.6       // the same while there is much bulk
	muchBulk  = 256 << 20 // bytes a second
	quiet     = 0.5       // of one processor less: that would be enough
	quietLong = 10 * time.Second

	resting   = 0.05            // of a processor is no work
	restLong  = 2 * time.Second // of no work: it is quiet
	restWork  = 200 * time.Millisecond
	restShare = 5 // times what a rest costs is the least work between two

	garbageLong = 2 * time.Second // without as much garbage: it is over
	leastHeap   = 4 << 20         // that is collected by 100 per cent
)

// garbage is how much of it, in bytes a second, has a small heap collected half a dozen or a dozen times in a second, and the room for it, whatever is in use.
var garbage = [...]struct{ perSecond, room uint64 }{{8 << 20, 4 << 20}, {32 << 20, 16 << 20}}

// Governor sets the number of processors, and how far the heap may grow.
type Governor struct {
	c Config
	n int

	moved     uint64 // in bulk, at the last look
	allocated uint64
	percent   int
	muchAt    [len(garbage)]time.Time // when there was as much garbage last
	grewAt    time.Time               // when the heap's growth was set
}

// New makes a governor. It sets nothing.
func New(c Config) (*Governor, error) {
	if c.Used == nil || c.Set == nil || c.Most < 1 {
		return nil, errors.New("procs: a governor needs Used, Set and Most")
	}
	if c.Heap != nil && (c.Grow == nil || c.Percent < 1) {
		return nil, errors.New("procs: a governor with Heap needs Grow and Percent")
	}
	return &Governor{c: c, n: 1}, nil
}

// Run begins with one processor, takes one more as long as those that it has are busy, sooner while there is much bulk, and gives one back when
// one less would have been enough for ten seconds. At the end of ctx all are there. The heap has room while much garbage is made. Rest is called after two
// seconds without work, the first time in any case, then if there was any since the last time: a sidecar that had its configuration within 60 ms
// of processor time, and then nothing to do, never gave back what beginning had taken. What counts is the two seconds together: a proxy that did
// 5 ms of work in each of them, all in one look's time, gave nothing back for hours. Rests take a sixth of what the process works at the most.
func (g *Governor) Run(ctx context.Context) error {
	g.c.Set(g.n)
	g.begin()
	tick := time.NewTicker(look)
	defer tick.Stop()
	used, at, quietSince := g.c.Used(), time.Now(), time.Now()
	last := lately{from: -restWork, work: restWork} // to begin was work, however little time it took
	for {
		select {
		case <-ctx.Done():
			g.c.Set(g.c.Most)
			return nil
		case <-tick.C:
		}
		now := time.Now()
		u := g.c.Used()
		g.collect(now, now.Sub(at))
		load := float64(u-used) / float64(max(1, now.Sub(at)))
		enough := g.enough(now.Sub(at))
		used, at = u, now
		if g.n == 1 || load > quiet*float64(g.n-1) {
			quietSince = now
		}
		if g.c.Rest != nil && last.quiet(now, u) {
			g.c.Rest()
			last.rested(u, g.c.Used())
		}
		switch {
		case load > enough*float64(g.n) && g.n < g.c.Most:
			g.n++
			g.c.Set(g.n)
		case now.Sub(quietSince) >= quietLong:
			g.n--
			quietSince = now
			g.c.Set(g.n)
		}
	}
}

// enough is how much of the processors' time may be in use before one more is wanted. Requests are cheaper on few processors, where those that
// wait go on together. A piece of bulk isn't, and holds up those behind it while it is encrypted, though another processor has nothing to do.
func (g *Governor) enough(since time.Duration) float64 {
	if g.c.Bulk == nil {
		return busy
	}
	before := g.moved
	if g.moved = g.c.Bulk(); float64(g.moved-before) < muchBulk*since.Seconds() {
		return busy
	}
	return busyBulk
}

// lately is what a process worked in the last looks, and since it rested.
type lately struct {
	looks [restLong / look]struct {
		at   time.Time
		used time.Duration
	}
	next int
	from time.Duration // the processor time at the last rest
	work time.Duration // the least since then for another
}

// quiet takes a look, and says whether the process is to rest: it had no work for restLong, and enough before.
func (l *lately) quiet(now time.Time, used time.Duration) bool {
	before := l.looks[l.next]
	l.looks[l.next].at, l.looks[l.next].used = now, used
	l.next = (l.next + 1) % len(l.looks)
	if before.at.IsZero() || used-l.from < l.work {
		return false
	}
	return float64(used-before.used) <= resting*float64(now.Sub(before.at))
}

// rested notes a rest that began and ended at these processor times.
func (l *lately) rested(began, ended time.Duration) {
	l.from, l.work = ended, max(restWork, restShare*(ended-began))
	for i := range l.looks {
		l.looks[i].at = time.Time{} // what the rest took is no work
	}
}

func (g *Governor) begin() {
	if g.c.Heap == nil {
		return
	}
	g.allocated, _ = g.c.Heap()
	g.percent = g.c.Percent
	g.c.Grow(g.percent)
}

// collect gives the heap room while much garbage is made, as by many new connections, each of which makes 80 KB on either side: then a heap of
// some megabytes is collected so often that it is a tenth of the work. For 20,000 requests a second, each with some 700 bytes, it was a twentieth.
func (g *Governor) collect(now time.Time, since time.Duration) {
	if g.c.Heap == nil {
		return
	}
	allocated, live := g.c.Heap()
	made := float64(allocated - g.allocated)
	g.allocated = allocated
	percent, much := g.c.Percent, false
	for i, some := range garbage {
		if made >= float64(some.perSecond)*since.Seconds() {
			g.muchAt[i] = now
		}
		if at := g.muchAt[i]; !at.IsZero() && now.Sub(at) < garbageLong {
			percent, much = max(percent, int(some.room*100/max(live, leastHeap))), true
		}
	}
	if percent == g.percent || much && percent < 2*g.percent && now.Sub(g.grewAt) < garbageLong { // to set it stops all that runs for a moment
		return
	}
	g.percent, g.grewAt = percent, now
	g.c.Grow(percent)
}
