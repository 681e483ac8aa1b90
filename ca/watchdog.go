// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"cmp"
	"errors"
	"slices"
	"time"
)

// AttemptTimeout is how long a renewal may take before the Watchdog asks for it again. Bound the attempt by it.
const AttemptTimeout = 30 * time.Second

const (
	firstRetry = time.Second
	longRetry  = 5 * time.Minute
	lateRetry  = 10 * time.Second // once the leaf is past its time
)

// errTimedOut is the cause of a failure that nobody reported.
var errTimedOut = errors.New("no answer within " + AttemptTimeout.String())

// Watchdog decides which leaves to renew, and when. It renews nothing, reads no clock, and starts nothing: its one owner
// calls Next, attempts what it returns, tells it of failures with Failed, and calls Next again when something changed or
// at wake. The next Next sees the new leaf of an attempt that succeeded; Done tells of it too, as that leaf may be gone again by then.
//
// A leaf is first due at a random point from 60 to 90 % of its life. After a failure it is due again after a second, then
// two, and so on up to five minutes, but never later than a tenth of the time that it has left: the nearer the end, the
// faster the attempts, and they don't stop at the end. It is not safe for concurrent use.
type Watchdog[K cmp.Ordered] struct {
	// Jitter gives numbers from 0 to 1, such as (*rand/v2.Rand).Float64. Nil means always 0.
	Jitter func() float64

	tracks map[K]*track
}

// track is what is remembered of one leaf.
type track struct {
	serial   string // of the leaf that the rest is about
	until    time.Time
	due      time.Time
	started  time.Time // when the running attempt began, zero if none runs
	failures int
	since    time.Time // of the first failure
	cause    error
}

// Next says which leaves to renew now, most urgent first, and when to call again at the latest (zero if there are no
// leaves). Leaves are all that are wanted; one that isn't there yet has the zero Leaf, and is due at once. A key that has
// gone is forgotten. An attempt that Next has asked for counts as running until the leaf changes, Failed is called, or
// AttemptTimeout passes.
func (w *Watchdog[K]) Next(now time.Time, leaves map[K]Leaf) (renew []K, wake time.Time) {
	if w.tracks == nil {
		w.tracks = make(map[K]*track, len(leaves))
	}
	for key := range w.tracks {
		if _, ok := leaves[key]; !ok {
			delete(w.tracks, key)
		}
	}
	keys := make([]K, 0, len(leaves))
	for key := range leaves {
		keys = append(keys, key)
	}
	slices.Sort(keys) // so that the same input takes the same jitter
	for _, key := range keys {
		t := w.follow(key, leaves[key], now)
		if !t.started.IsZero() {
			if end := t.started.Add(AttemptTimeout); now.Before(end) {
				wake = soonest(wake, end)
				continue
			}
			w.fail(t, now, errTimedOut)
		}
		if now.Before(t.due) {
			wake = soonest(wake, t.due)
			continue
		}
		t.started = now
		renew = append(renew, key)
		wake = soonest(wake, now.Add(AttemptTimeout))
	}
	slices.SortStableFunc(renew, func(a, b K) int { return w.tracks[a].until.Compare(w.tracks[b].until) })
	return renew, wake
}

// follow finds the key's track, and starts it anew if there is another leaf.
func (w *Watchdog[K]) follow(key K, leaf Leaf, now time.Time) *track {
	t := w.tracks[key]
	if t != nil && t.serial == leaf.SerialNumber && t.until.Equal(leaf.ValidBefore) {
		return t
	}
	t = &track{serial: leaf.SerialNumber, until: leaf.ValidBefore, due: now}
	if leaf.SerialNumber != "" {
		t.due = RenewAt(leaf, w.jitter())
	}
	w.tracks[key] = t
	return t
}

// Done says that the attempt for key has given a leaf. The next Next goes by the leaf that there is then, also if that is none.
func (w *Watchdog[K]) Done(key K) { delete(w.tracks, key) }

// Failed says that the attempt for key has failed, and why.
func (w *Watchdog[K]) Failed(key K, now time.Time, cause error) {
	if t := w.tracks[key]; t != nil && !t.started.IsZero() {
		w.fail(t, now, cause)
	}
}

func (w *Watchdog[K]) fail(t *track, now time.Time, cause error) {
	if t.failures == 0 {
		t.since = now
	}
	t.failures++
	t.started, t.cause = time.Time{}, cause
	delay := retryDelay(t.failures, t.until.Sub(now))
	// Spread over the second half, so that hosts that failed together don't return together.
	t.due = now.Add(delay/2 + time.Duration(w.jitter()*float64(delay/2)))
}

// retryDelay is the longest wait after so many failures with so much life left.
func retryDelay(failures int, left time.Duration) time.Duration {
	delay := longRetry
	if failures < 10 {
		delay = min(longRetry, firstRetry<<(failures-1))
	}
	if left <= 0 {
		return min(delay, lateRetry)
	}
	return min(delay, max(firstRetry, left/10))
}

// RootsChanged makes every leaf due within the spread, since a new root signs now. Leaves that are due sooner stay so.
func (w *Watchdog[K]) RootsChanged(now time.Time, spread time.Duration) {
	keys := make([]K, 0, len(w.tracks))
	for key := range w.tracks {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	for _, key := range keys {
		t := w.tracks[key]
		t.due = earlier(t.due, now.Add(time.Duration(w.jitter()*float64(spread))))
	}
}

// Trouble is a leaf that should have been renewed and isn't.
type Trouble[K cmp.Ordered] struct {
	Key K
	// Left is the time until the leaf ends, negative once it has, zero if there never was one.
	Left time.Duration
	// Failures counts the attempts in a row that failed, Since is the time of the first, Cause that of the last.
	Failures int
	Since    time.Time
	Cause    error
}

// Troubles lists the leaves whose last attempt failed, the one that ends first in front: for logs, metrics and health.
func (w *Watchdog[K]) Troubles(now time.Time) []Trouble[K] {
	var out []Trouble[K]
	for key, t := range w.tracks {
		if t.failures > 0 {
			var left time.Duration
			if t.serial != "" {
				left = t.until.Sub(now)
			}
			out = append(out, Trouble[K]{Key: key, Left: left, Failures: t.failures, Since: t.since, Cause: t.cause})
		}
	}
	slices.SortFunc(out, func(a, b Trouble[K]) int {
		return cmp.Or(cmp.Compare(a.Left, b.Left), cmp.Compare(a.Key, b.Key))
	})
	return out
}

func (w *Watchdog[K]) jitter() float64 {
	if w.Jitter == nil {
		return 0
	}
	return clamp01(w.Jitter())
}
