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
	// Rest is called when the process has become quiet after it began or had work, to give back what that took. Nil for nothing.
	Rest func()
}

const (
	look      = 100 * time.Millisecond
	busy      = 0.8 // of the processors' time: one more is wanted
	quiet     = 0.5 // of one processor less: that would be enough
	quietLong = 10 * time.Second

	resting   = 0.05            // of a processor is no work
	restLong  = 2 * time.Second // of no work: it is quiet
	restWork  = 200 * time.Millisecond
	restShare = 5 // times what a rest costs is the least work between two
)

// Governor sets the number of processors.
type Governor struct {
	c Config
	n int
}

// New makes a governor. It sets nothing.
func New(c Config) (*Governor, error) {
	if c.Used == nil || c.Set == nil || c.Most < 1 {
		return nil, errors.New("procs: a governor needs Used, Set and Most")
	}
	return &Governor{c: c, n: 1}, nil
}

// Run begins with one processor, takes one more as long as those that it has are busy, and gives one back when one less would
// have been enough for ten seconds. At the end of ctx all are there. Rest is called after two seconds without work, the first time in
// any case, then if there was any since the last time: a sidecar that had its configuration within 60 ms of processor time, and then
// nothing to do, never gave back what beginning had taken. What counts is the two seconds together: a proxy that did 5 ms of work in each
// of them, all in one look's time, gave nothing back for hours. Rests take a sixth of what the process works at the most.
func (g *Governor) Run(ctx context.Context) error {
	g.c.Set(g.n)
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
		load := float64(u-used) / float64(max(1, now.Sub(at)))
		used, at = u, now
		if g.n == 1 || load > quiet*float64(g.n-1) {
			quietSince = now
		}
		if g.c.Rest != nil && last.quiet(now, u) {
			g.c.Rest()
			last.rested(u, g.c.Used())
		}
		switch {
		case load > busy*float64(g.n) && g.n < g.c.Most:
			g.n++
			g.c.Set(g.n)
		case now.Sub(quietSince) >= quietLong:
			g.n--
			quietSince = now
			g.c.Set(g.n)
		}
	}
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
