// SPDX-License-Identifier: Apache-2.0

package mux

import (
	"context"
	"time"

	"github.com/weftmesh/weft/connect/proxy/calm"
)

// What a peer may hold and have done for nothing. A budget comes back over time and with what is answered; who overdraws it is cut off, and
// who spends much of it is slowed down before, so that it doesn't keep others waiting (as in connect/proxy/h2/guard.go).
const (
	maxStreams  = 512              // at once; further ones are refused
	mostOpened  = 448              // by the opener, which knows of their end sooner
	firstWindow = 64 << 10         // of a stream: what may wait to be read
	maxWindow   = 1 << 20          // of one through which much goes
	leastWindow = 16 << 10         // of one that isn't read as fast as it is sent, where memory is tight
	growWithin  = time.Second      // half a window that takes longer to come isn't held up by the window
	shrinkAfter = 10 * time.Second // half a window that takes longer needs less
	maxUnread   = 256 << 10        // of control frames that we have to send and the peer doesn't read

	wastes          = 2000 // streams at once that were taken back, or refused, before we had said anything
	wastesPerSecond = 100
	wasteAge        = time.Second // a stream that lived longer than this wasn't wasted
	idles           = 5000        // frames at once that carry nothing
	idlesPerSecond  = 1000
	earningData     = 64 // bytes that earn a frame which carries nothing: bytes alone don't

	freeShare   = 0.75 // of a budget that is left: nothing is owed
	wasteCost   = time.Millisecond
	idleCost    = 2 * time.Microsecond
	restAt      = 250 * time.Microsecond
	restTimes   = 4 // as long as it worked for nothing the reader rests
	restMost    = 50 * time.Millisecond
	refusalCost = 50 * time.Millisecond // of a connection that is ended for what it did: above all the next one's handshake

	turnLength = 16 // streams that are opened, after which others have their turn
)

// What the opener allows itself, whose streams are taken back by clients that it can't keep from it: less than what is owed for. So who keeps to
// this is neither cut off nor slowed down, and whoever wants more streams has to make another connection, as where this one is full.
const (
	ownWastes          = mostOpened
	ownWastesPerSecond = 0.9 * wastesPerSecond
	refusedFor         = time.Second // after a stream was refused none is opened: the other side still has some that are gone here
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

// thrift is the opener's own account of the streams that the other side may count as wasted. It is guarded by Session.mu.
type thrift struct {
	budget
	unheard int    // streams that are open, of which nothing has come yet
	heard   uint64 // reads of the connection at the last look
	full    time.Time
}

func newThrift() thrift {
	return thrift{budget: budget{left: ownWastes, burst: ownWastes, perSecond: ownWastesPerSecond}}
}

// recovers adds what has come back over time, where the other side has been heard meanwhile: else it may find all at once.
func (t *thrift) recovers(heard uint64) {
	if heard == t.heard && !t.at.IsZero() {
		return
	}
	now := time.Now()
	if !t.at.IsZero() {
		t.earn(now.Sub(t.at).Seconds() * t.perSecond)
	}
	t.at, t.heard = now, heard
}

// allows says whether one more stream may be opened: each that is may be taken back.
func (t *thrift) allows(heard uint64) bool {
	if !t.full.IsZero() {
		if time.Since(t.full) < refusedFor {
			return false
		}
		t.full = time.Time{}
	}
	if t.left < t.burst {
		t.recovers(heard)
	}
	return t.left >= float64(t.unheard+1)
}

// answered is called for the first that comes of a stream, which earns where it is data.
func (t *thrift) answered(data bool) {
	t.unheard--
	if data {
		t.earn(1)
	}
}

// lost is called for a stream that ends, of which nothing has come.
func (t *thrift) lost(heard uint64) {
	t.unheard--
	t.recovers(heard)
	t.left--
}

// guards are what the reader remembers of its peer.
type guards struct {
	waste, idle budget
	owed        time.Duration
	sent        uint64 // Session.sent at the last look
}

func newGuards() guards {
	now := time.Now() // what is spent before the clock is asked comes back too
	return guards{
		waste: budget{left: wastes, burst: wastes, perSecond: wastesPerSecond, at: now},
		idle:  budget{left: idles, burst: idles, perSecond: idlesPerSecond, at: now},
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

// owes says whether so much is owed that the reader has to rest.
func (g *guards) owes() bool { return g.owed >= restAt }

// rest waits for as long as is owed.
func (g *guards) rest(ctx context.Context) {
	if !g.owes() {
		return
	}
	calm.Pause(ctx, min(restTimes*g.owed, restMost))
	g.owed = 0
}
