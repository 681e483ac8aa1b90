// SPDX-License-Identifier: Apache-2.0

// Package rate bounds how often something is done. It is handed the time, and owns no goroutine.
package rate

import (
	"sync"
	"time"
)

// Limiter lets so many pass in a second, and so many at once. A nil Limiter lets all pass.
type Limiter struct {
	mu        sync.Mutex
	perSecond float64 // negative: no bound
	burst     float64
	left      float64
	at        time.Time
}

// New makes a limiter. A negative number in a second is no bound; of 0 in a second nothing passes but the first burst.
func New(perSecond float64, burst int) *Limiter {
	l := &Limiter{}
	l.Set(perSecond, burst)
	return l
}

// Set changes the bounds; a whole burst may pass then.
func (l *Limiter) Set(perSecond float64, burst int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.perSecond != perSecond || l.burst != float64(burst) {
		l.perSecond, l.burst, l.left = perSecond, float64(burst), float64(burst)
	}
}

// Allow says whether one more may pass now.
func (l *Limiter) Allow(now time.Time) bool {
	if l == nil {
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.perSecond < 0 {
		return true
	}
	if since := now.Sub(l.at); since > 0 {
		if !l.at.IsZero() {
			l.left = min(l.burst, l.left+since.Seconds()*l.perSecond)
		}
		l.at = now
	}
	if l.left < 1 {
		return false
	}
	l.left--
	return true
}
