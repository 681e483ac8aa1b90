// SPDX-License-Identifier: Apache-2.0

package h2

import "time"

// Floods are the budgets for what is cheap to send and not to serve. A budget is a number of frames or streams at once,
// and comes back over time and with useful work. A peer that overdraws one gets GOAWAY with ENHANCE_YOUR_CALM. The zero
// value means the defaults.
type Floods struct {
	// Resets is how many streams a peer may waste at once: reset within a second of opening them, have refused over the
	// limit of streams, or make us reset by breaking the protocol. 100 come back per second and one with each exchange
	// that ends in order. Default 1000.
	Resets int
	// Control is how many PING, PRIORITY, WINDOW_UPDATE, RST_STREAM, unknown and empty DATA frames may come at once
	// (SETTINGS and GOAWAY count tenfold). 1000 come back per second, one with each 512 bytes of body either way, and
	// eight with each request. Default 5000.
	Control int
}

func (f Floods) withDefaults() Floods {
	if f.Resets <= 0 {
		f.Resets = 1000
	}
	if f.Control <= 0 {
		f.Control = 5000
	}
	return f
}

// Who spends much of a budget is slowed down before it is cut off: what it makes us do for nothing may take a part of a processor, so
// that one connection doesn't keep the others waiting. What each costs is about what it was measured to.
const (
	freeWaste    = 0.75 // of a budget that is left: nothing is owed
	freeControl  = 0.9
	controlCost  = 2 * time.Microsecond
	continueCost = 20 * time.Microsecond // for each CONTINUATION frame behind those that a head at its limit has
	continueFree = 4
	wasteCost    = 50 * time.Microsecond
	blockCost    = 25 * time.Nanosecond // for each byte of a head over its limit
	// What a request costs that was begun and then taken back: with HTTP/1.1 the connection onwards, and a handshake for the next.
	abandonedCost  = time.Millisecond
	abandonedWaste = 4 // further streams wasted
	restAt         = 250 * time.Microsecond
	restTimes      = 4 // as long as it worked for nothing the reader rests
	restMost       = 50 * time.Millisecond
	refusalCost    = 10 * time.Millisecond // of a connection that is ended for what it did
)

const (
	resetsPerSecond  = 100
	controlPerSecond = 1000
	bytesPerControl  = 512
	controlPerHead   = 8
	bytesPerWaste    = 4096        // of a head over its limit count as one wasted stream
	wasteAge         = time.Second // a stream that lived longer than this was not a rapid reset
)

// bucket is a budget. It isn't safe for use by several goroutines.
type bucket struct {
	left, burst, perSecond float64
	free                   float64 // of what is left: nothing is owed
	at                     time.Time
}

func newBucket(burst, perSecond int, freeShare float64) bucket {
	return bucket{left: float64(burst), burst: float64(burst), perSecond: float64(perSecond), free: freeShare * float64(burst)}
}

func (b *bucket) earn(n float64) { b.left = min(b.burst, b.left+n) }

// low says whether so little is left that what comes next is owed for.
func (b *bucket) low() bool { return b.left < b.free }

// spend takes n and says whether they were there. The clock is asked only where the budget is low, or would be.
func (b *bucket) spend(n float64) bool {
	if b.left-n < b.free || b.at.IsZero() {
		now := time.Now()
		if !b.at.IsZero() {
			b.earn(now.Sub(b.at).Seconds() * b.perSecond)
		}
		b.at = now
	}
	b.left -= n
	if b.left < 0 {
		b.left = 0
		return false
	}
	return true
}
