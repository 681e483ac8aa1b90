// SPDX-License-Identifier: Apache-2.0

package ca

import "time"

// Limiter bounds the requests that are signed per second, as CSRMaxPerSecond says. It is a value without a lock: one
// owner calls it, or guards it. The zero value allows everything.
type Limiter struct {
	// PerSecond is the bound; zero or less means none. A second's worth may come at once.
	PerSecond float64

	tokens float64
	last   time.Time
}

// Allow takes one request at the time now, or returns ErrRateLimited.
func (l *Limiter) Allow(now time.Time) error {
	if l.PerSecond <= 0 {
		return nil
	}
	burst := max(1, l.PerSecond)
	switch {
	case l.last.IsZero():
		l.tokens, l.last = burst, now
	case now.After(l.last): // a clock that steps back gives nothing and takes nothing
		l.tokens = min(burst, l.tokens+l.PerSecond*now.Sub(l.last).Seconds())
		l.last = now
	}
	if l.tokens < 1 {
		return ErrRateLimited
	}
	l.tokens--
	return nil
}
