// SPDX-License-Identifier: Apache-2.0

package mux

import "time"

// deadline is one way's. Its timer is set by who waits, and left as it is where that is early enough: a connection whose deadline moves with each
// request sets one a second. It is guarded by its stream's mu.
type deadline struct {
	expired func(*deadline)
	at      time.Time // zero: never
	over    bool
	timer   *time.Timer
	due     time.Time // of the timer; zero: it isn't set
}

// set moves it, and says whether who waits has to look.
func (d *deadline) set(t time.Time) bool {
	d.at = t
	d.over = !t.IsZero() && time.Until(t) <= 0
	return d.over || !t.IsZero() && (d.due.IsZero() || t.Before(d.due))
}

// arm has the timer fire in time.
func (d *deadline) arm() {
	if d.at.IsZero() || !d.due.IsZero() && !d.at.Before(d.due) {
		return
	}
	wait := time.Until(d.at)
	d.due = d.at
	if d.timer == nil {
		d.timer = time.AfterFunc(wait, func() { d.expired(d) })
		return
	}
	d.timer.Reset(wait)
}

// fires is called when the timer fires, and says whether that was the time.
func (d *deadline) fires() bool {
	d.due = time.Time{}
	if d.at.IsZero() || d.over {
		return false
	}
	if d.over = time.Until(d.at) <= 0; !d.over {
		d.arm()
	}
	return d.over
}

func (d *deadline) stop() {
	if d.timer != nil {
		d.timer.Stop()
	}
}
