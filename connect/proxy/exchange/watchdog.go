// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
	"weak"

	"github.com/weftmesh/weft/connect/proxy/reason"
	"github.com/weftmesh/weft/connect/proxy/stream"
)

// watchdog ends an exchange from outside: when the client goes away, or a time is over. It is part of an exchange's memory
// that is used again, and so is its timer: one that is due early enough is left as it is, so that a usual request sets none.
type watchdog struct {
	moved atomic.Int64 // when a byte last went either way

	mu      sync.Mutex // guards what follows; held while the exchange is reset
	live    bool
	turn    uint64 // counts the exchanges that used this memory
	engine  *Engine
	timer   *time.Timer
	due     int64 // when the timer fires; 0: it isn't set
	idle    int64 // how long nothing may move; 0: for ever
	routeAt int64 // when the whole must be over; 0: no such time
	tryAt   int64 // when the answer to this try must be there
	late    bool  // tryAt was reached
	cause   reason.Code
	spares  bool  // a client's going away leaves the try time to be answered
	cutAt   int64 // when that time is over; 0: it hasn't begun
	answers bool  // the response head is out: cutting means resetting the client's side too
	x       stream.ServerExchange
	y       stream.ClientExchange
	cancel  context.CancelCauseFunc // of the slow way to a connection; context.DeadlineExceeded where a time is over
}

func (w *watchdog) begin(e *Engine, x stream.ServerExchange, now int64) (turn uint64) {
	w.moved.Store(now)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.live, w.engine, w.x = true, e, x
	w.turn++
	return w.turn
}

// end makes the watchdog blind. When it has returned, nothing of the exchange is touched any more.
func (w *watchdog) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cancel != nil {
		w.cancel(nil)
	}
	w.live, w.x, w.y, w.cancel = false, nil, nil, nil
	w.idle, w.routeAt, w.tryAt, w.late, w.cause, w.answers = 0, 0, 0, false, reason.None, false
	w.spares, w.cutAt = false, 0
}

func (w *watchdog) touch() { w.moved.Store(w.engine.now()) }

// limit sets times; zero leaves a time as it is, negative takes it away.
func (w *watchdog) limit(idle, whole, try time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if idle != 0 {
		w.idle = max(0, int64(idle))
	}
	var now int64
	if whole > 0 || try > 0 { // else the clock needn't be asked, which is the dearest of this
		now = w.engine.now()
	}
	for _, t := range []struct {
		at *int64
		d  time.Duration
	}{{&w.routeAt, whole}, {&w.tryAt, try}} {
		switch {
		case t.d > 0:
			*t.at = now + int64(t.d)
		case t.d < 0:
			*t.at = 0
		}
	}
	w.armLocked()
}

// armLocked has the timer fire when the first time is over.
func (w *watchdog) armLocked() {
	first := int64(0)
	earlier := func(at int64) {
		if at != 0 && (first == 0 || at < first) {
			first = at
		}
	}
	earlier(w.routeAt)
	earlier(w.cutAt)
	if !w.late {
		earlier(w.tryAt)
	}
	if w.idle != 0 {
		earlier(w.moved.Load() + w.idle)
	}
	if first == 0 || w.due != 0 && w.due <= first {
		return
	}
	w.due = first
	if d := time.Duration(max(1, first-w.engine.now())); w.timer == nil {
		me := weak.Make(w) // a timer that is left as it is, for minutes, mustn't keep what nobody uses any more
		w.timer = time.AfterFunc(d, func() {
			if w := me.Value(); w != nil {
				w.fire()
			}
		})
	} else {
		w.timer.Reset(d)
	}
}

func (w *watchdog) fire() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.due = 0
	if !w.live {
		return
	}
	now := w.engine.now()
	if w.cause != reason.None {
		switch {
		case w.cutAt != 0 && now >= w.cutAt:
			w.cutAt = 0
			w.cutLocked()
		case w.cutAt != 0:
			w.armLocked()
		}
		return
	}
	switch {
	case w.routeAt != 0 && now >= w.routeAt:
		w.killLocked(reason.UpstreamTimeout)
		return
	case w.idle != 0 && now >= w.moved.Load()+w.idle:
		w.killLocked(reason.StreamIdleTimeout)
		return
	case w.tryAt != 0 && now >= w.tryAt && !w.late:
		w.late = true
		w.cutLocked()
	}
	w.armLocked()
}

// cutLocked ends the try.
func (w *watchdog) cutLocked() {
	if w.cancel != nil {
		w.cancel(w.whyLocked())
	}
	if w.y != nil {
		w.y.Reset(stream.CodeCancel)
	}
}

func (w *watchdog) killLocked(cause reason.Code) {
	if !w.live || w.cause != reason.None {
		return
	}
	w.cause = cause
	if cause == reason.DownstreamReset && w.spares && w.y != nil {
		w.idle, w.routeAt, w.tryAt = 0, 0, 0
		w.cutAt = w.engine.now() + int64(w.engine.spare)
		w.armLocked()
	} else {
		w.cutLocked()
	}
	if w.answers {
		w.x.Reset(stream.CodeCancel)
	}
}

// whyLocked is why a try is cut: for a time that is over, or for something that says nothing about the server.
func (w *watchdog) whyLocked() error {
	if w.late || w.cause == reason.UpstreamTimeout || w.cause == reason.StreamIdleTimeout {
		return context.DeadlineExceeded
	}
	return context.Canceled
}

// spareTime is how long an answer that nobody wants any more may take to come: with it the connection is free again, where cutting it
// costs a handshake for the next request. A server that has long to do is told soon enough.
const spareTime = 100 * time.Millisecond

// spare has the try, whose request goes out as a whole, answered where the client goes away.
func (w *watchdog) spare() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.spares = true
}

// kill ends the exchange, for the first cause that is given.
func (w *watchdog) kill(cause reason.Code) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.killLocked(cause)
}

// Gone is called when an HTTP/2 client reset the stream of a turn or went away, and may come too late.
func (w *watchdog) Gone(turn uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.turn == turn {
		w.killLocked(reason.DownstreamReset)
	}
}

// state is why the exchange was ended, if it was, and whether the try took too long.
func (w *watchdog) state() (cause reason.Code, late bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.cause, w.late
}

// hold gives the watchdog what it has to cut; nil for nothing. Where the exchange was ended before, y is cut at once.
func (w *watchdog) hold(y stream.ClientExchange) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.y = y
	if y != nil && (w.cause != reason.None || w.late) {
		y.Reset(stream.CodeCancel)
	}
}

// answering notes that the response head is about to be written. It gives false where the exchange was ended before.
func (w *watchdog) answering() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cause != reason.None {
		return false
	}
	w.answers = true
	return true
}

// newTry forgets the time of the try before.
func (w *watchdog) newTry() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.y, w.late, w.tryAt, w.spares = nil, false, 0, false
}

// context gives the try's context, which ends when the try is cut. It is made only where a connection isn't at hand.
func (w *watchdog) context(parent context.Context) context.Context {
	ctx, cancel := context.WithCancelCause(parent)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cancel != nil {
		w.cancel(nil)
	}
	w.cancel = cancel
	if w.cause != reason.None || w.late {
		cancel(w.whyLocked())
	}
	return ctx
}
