// SPDX-License-Identifier: Apache-2.0

// Package calm is how the proxy's codecs deal with what is of no use to anybody: what comes only to be thrown away, and clients that are refused and
// come back at once. Either costs a sender on another machine nothing, and would have all of a processor here that others' requests wait for.
package calm

import (
	"context"
	"io"
	"math/rand/v2"
	"sync"
	"time"
)

// How what comes is thrown away: so much of it, or by so many reads, and then a rest, in which more may come.
const (
	load  = 64 << 10
	reads = 4 // and more where much may come: one for each
	each  = 128 << 10
	rest  = 2 * time.Millisecond

	little = 1 << 10 // the room in which something is waited for
	piece  = 32 << 10
)

var pieces = sync.Pool{New: func() any { return new([piece]byte) }}

// Discard reads what comes away, behind the first bytes of it, which are free, up to 32 MB a second, until there was as much as most, in bytes, or the
// reader gives an error, io.EOF too. While nothing comes it holds a KB.
func Discard(r io.Reader, free, most int) error {
	var small [little]byte
	var large *[piece]byte
	p := small[:]
	letGo := func() {
		if large != nil {
			pieces.Put(large)
			large, p = nil, small[:]
		}
	}
	defer letGo()
	since, read, mostReads := 0, 0, max(reads, most/each)
	for n := 0; n < most; {
		m, err := r.Read(p[:min(len(p), most-n)])
		if err != nil {
			return err
		}
		n += m
		switch {
		case large == nil && m == little:
			large = pieces.Get().(*[piece]byte)
			p = large[:]
		case m <= little:
			letGo()
		}
		if n <= free {
			continue
		}
		if since, read = since+m, read+1; since >= load || read >= mostReads {
			since, read = 0, 0
			letGo()
			time.Sleep(rest)
		}
	}
	return nil
}

const (
	// times is how long is rested for what a refusal has cost: refusals together have a fifth of a processor, however many connections they are on.
	times = 4
	// most is how long a refusal waits: so many others are under way that a client that meant well would think that nobody is there.
	most = time.Second
	// free is what refusals may cost before the next one waits.
	free = 10 * time.Millisecond
)

// Queue has refusals wait for each other, so that who is refused can't come back at once. All whom a proxy refuses in one direction share one. A nil Queue has nobody wait.
type Queue struct {
	mu   sync.Mutex
	next time.Time // when all that were refused have been rested for
}

// Wait is called before a client is told that it is refused, or its connection closed for what it did. Work is about what that client has cost for
// nothing. It waits until what others have cost has been rested for, a second at the most, or until ctx ends.
func (q *Queue) Wait(ctx context.Context, work time.Duration) {
	if q == nil {
		return
	}
	Pause(ctx, q.reserve(time.Now(), work))
}

// Pause waits for so long, or until ctx ends.
func Pause(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

func (q *Queue) reserve(now time.Time, work time.Duration) (wait time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if earliest := now.Add(-times * free); q.next.Before(earliest) {
		q.next = earliest
	}
	if wait = q.next.Sub(now); wait >= most { // what this one costs isn't added: the line would have no end
		return most/2 + rand.N(most/2) // many may come at one moment, and aren't to go at one
	}
	q.next = q.next.Add(times * work)
	return wait
}
