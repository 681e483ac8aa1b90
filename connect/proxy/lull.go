// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// errLull ends both ways of a tunnel that is to rest.
var errLull = errors.New("nothing moves")

// lull notices that neither way of a tunnel has moved for a while, and has both stop to read then, or neither: one alone must not
// stop, since the other may be about to write, and wait for what its reader says.
type lull struct {
	conns  [2]net.Conn
	period time.Duration    // 0: it notices nothing
	reads  [2]atomic.Uint32 // of each way: odd while it reads, another each time
	asked  atomic.Bool      // reads that end have to be answered for
	timer  *time.Timer

	mu      sync.Mutex // guards what follows
	changed sync.Cond
	seen    [2]uint32 // reads, at the last look
	asking  bool      // both are asked to stop
	stopped int       // of them
	both    bool      // have stopped
	ended   bool      // the tunnel is to end for good
}

// start looks each period, until finish.
func (l *lull) start() {
	if l.period == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.timer = time.AfterFunc(l.period, l.look)
}

// finish is called when both ways have ended; it says whether they did so to rest.
func (l *lull) finish() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	rest := l.both && !l.ended
	l.ended = true
	if l.timer != nil {
		l.timer.Stop()
	}
	return rest
}

func (l *lull) look() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended || l.asking {
		return
	}
	now := [2]uint32{l.reads[0].Load(), l.reads[1].Load()}
	quiet := now == l.seen && now[0]%2 == 1 && now[1]%2 == 1
	l.seen = now
	if !quiet {
		l.timer.Reset(l.period)
		return
	}
	l.asking, l.stopped = true, 0
	l.asked.Store(true)
	for _, c := range l.conns {
		_ = c.SetReadDeadline(past)
	}
}

// verdict is what a way does whose read has ended while it was asked to stop.
type verdict uint8

const (
	lullNone verdict = iota // go on
	lullBoth                // stop: the other has as well
	lullOver                // the tunnel is to end; what the read gave holds
)

// answer is called by a way whose read has ended; quiet says that it gave nothing. It waits for the other's answer.
func (l *lull) answer(quiet bool) verdict {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.ended:
		return lullOver
	case !l.asking:
		return lullNone
	case !quiet: // something came after all: neither stops
		l.asking = false
		l.asked.Store(false)
		for _, c := range l.conns {
			_ = c.SetReadDeadline(time.Time{})
		}
		l.changed.Broadcast()
		l.timer.Reset(l.period)
		return lullNone
	}
	if l.stopped++; l.stopped == 2 {
		l.both = true
		l.changed.Broadcast()
	}
	for l.asking && !l.both && !l.ended {
		l.changed.Wait()
	}
	switch {
	case l.both:
		return lullBoth
	case l.ended:
		return lullOver
	}
	return lullNone
}

// end has both ways end, whatever they do.
func (l *lull) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
	for _, c := range l.conns {
		_ = c.SetDeadline(past)
	}
	l.changed.Broadcast()
}
