// SPDX-License-Identifier: Apache-2.0

package config

import "sync/atomic"

// RateLimit bounds requests by the second: all of a route's, and those of some callers.
type RateLimit struct {
	All     *Bucket
	Callers []CallerLimit
}

// CallerLimit is a limit for requests whose headers match.
type CallerLimit struct {
	Headers []HeaderMatch
	Bucket  *Bucket
}

// Bucket lets so many requests through in a second, and so many at once. Its state is the one thing of a configuration that
// changes; a new configuration begins with a full bucket.
type Bucket struct {
	interval, room int64        // nanoseconds: of one request, and by how much the schedule may be ahead
	next           atomic.Int64 // when the next request is due if all come evenly
}

// NewBucket makes a bucket; a rate of 0 or one that is out of all reach is no limit.
func NewBucket(perSecond, burst uint32) *Bucket {
	if perSecond == 0 || perSecond >= 1<<30 {
		return &Bucket{}
	}
	interval := int64(1e9) / int64(perSecond)
	return &Bucket{interval: interval, room: interval * (int64(max(1, burst)) - 1)}
}

// Take takes a request's part at a time in nanoseconds. It takes no lock.
func (b *Bucket) Take(now int64) bool {
	if b.interval == 0 {
		return true
	}
	for {
		next := b.next.Load()
		at := max(next, now)
		if at-now > b.room {
			return false
		}
		if b.next.CompareAndSwap(next, at+b.interval) {
			return true
		}
	}
}
