// SPDX-License-Identifier: Apache-2.0

package mux

import (
	"context"
	"time"
)

// What a peer may hold and have done for nothing. A budget comes back over time and with what is answered; who overdraws it is cut off, and
// who spends much of it is slowed down before, so that it doesn't keep others waiting (as in connect/proxy/h2/guard.go).
const (
	maxStreams  = 512       // at once; further ones are refused
	mostOpened  = 448       // by the opener, which knows of their end sooner
	firstWindow = 64 << 10  // of a stream: what may wait to be read
	maxWindow   = 1 << 20   // of one through which much goes
	maxExtra    = 16 << 20  // by how much all windows together may have grown
	maxUnread   = 256 << 10 // of control frames that we have to send and the peer doesn't read

	wastes          = 1000 // streams at once that were taken back before we had said anything
	wastesPerSecond = 100
	wasteAge        = time.Second // a stream that lived longer than this wasn't wasted
	idles           = 5000        // frames at once that carry nothing
	idlesPerSecond  = 1000

	freeShare = 0.75 // of a budget that is left: nothing is owed
	wasteCost = time.Millisecond
	idleCost  = time.Microsecond
	restAt    = 250 * time.Microsecond
	restTimes = 4 // as long as it worked for nothing the reader rests
	restMost  = 50 * time.Millisecond
)

// budget is one of the reader's.
type budget struct {
	left, burst, perSecond float64
	at                     time.Time
}

func (b *budget) earn(n float64) { b.left = min(b.burst, b.left+n) }

// spend takes one, and says whether it was there, and whether so few are left that it is owed for. The clock is asked only then.
func (b *budget) spend() (ok, owed bool) {
	if b.left < freeShare*b.burst {
		now := time.Now()
		if !b.at.IsZero() {
			b.earn(now.Sub(b.at).Seconds() * b.perSecond)
		}
		b.at = now
	}
	b.left--
	if b.left < 0 {
		b.left = 0
		return false, true
	}
	return true, b.left < freeShare*b.burst
}

// guards are what the reader remembers of its peer.
type guards struct {
	waste, idle budget
	owed        time.Duration
	sent        uint64 // Session.sent at the last look
}

func newGuards() guards {
	return guards{
		waste: budget{left: wastes, burst: wastes, perSecond: wastesPerSecond},
		idle:  budget{left: idles, burst: idles, perSecond: idlesPerSecond},
	}
}

// earn gives back for what was sent since the last look: data frames.
func (g *guards) earn(sent uint64) {
	n := float64(sent - g.sent)
	g.sent = sent
	g.waste.earn(n)
	g.idle.earn(n)
}

// wasted is called for a stream that was opened for nothing.
func (g *guards) wasted() error {
	ok, owed := g.waste.spend()
	if owed {
		g.owed += wasteCost
	}
	if !ok {
		return violates("too many streams that were taken back at once")
	}
	return nil
}

// idled is called for a frame that carries nothing.
func (g *guards) idled() error {
	ok, owed := g.idle.spend()
	if owed {
		g.owed += idleCost
	}
	if !ok {
		return violates("too many frames that carry nothing")
	}
	return nil
}

// rest waits before the next read for as long as is owed.
func (g *guards) rest(ctx context.Context) {
	if g.owed < restAt {
		return
	}
	t := time.NewTimer(min(restTimes*g.owed, restMost))
	defer t.Stop()
	g.owed = 0
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
