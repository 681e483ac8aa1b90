// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"context"
	"sync/atomic"
	"time"
)

const (
	// maxMaking is how many connections are made at once for one HTTP/2 connection. With all of its streams at once it would have hundreds
	// of handshakes in front of those that others need.
	maxMaking = 8
	// makeEvery is between the beginnings of two of these, and before the first where a stream of the same client has just got one: a connection costs
	// both sides a millisecond of a processor, and what is answered sooner than that gives its connection back to those who wait.
	makeEvery = 2 * time.Millisecond
)

// makers is who may have connections made of one HTTP/2 connection's streams.
type makers struct {
	next  chan struct{} // has one: whoever takes it is the next
	slots chan struct{} // has one for each that may be made beside those that are
	last  time.Time     // one was begun; next's
	got   atomic.Int64  // when a stream got a connection, as the engine counts; 0: none did
}

func newMakers() *makers {
	m := &makers{next: make(chan struct{}, 1), slots: make(chan struct{}, maxMaking)}
	m.next <- struct{}{}
	for range maxMaking {
		m.slots <- struct{}{}
	}
	return m
}

// slow is the slow way of getting a connection, which is a new one.
type slow struct {
	context   func() context.Context
	makers    *makers // nil: no bound
	leave     int     // idle connections that are left to others at first
	elsewhere bool    // another endpoint is better than to wait until this one may be tried again
}

// got notes that a stream has a connection.
func (w slow) got(e *Engine) {
	if w.makers != nil {
		w.makers.got.Store(e.now())
	}
}

// enter waits until its client may have one more connection made, or for one that is given back meanwhile, which it gives. The last one that
// is idle stays for other clients: they would have to wait behind the handshakes of one that has all of its streams at once. Where it gives none,
// left has to be called when the connection is there.
func (w slow) enter(v *clusterView, ep *endpoint) (*single, error) {
	m, e := w.makers, v.state.engine
	ctx, came := w.context(), e.now()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if s, err := orSpare(ctx, v, ep, m.next); s != nil || err != nil {
		return s, err
	}
	defer func() { m.next <- struct{}{} }()
	if wait := m.wait(came, e.now()); wait > 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		if s, err := orSpare(ctx, v, ep, timer.C); s != nil || err != nil {
			return s, err
		}
	}
	if s, err := orSpare(ctx, v, ep, m.slots); s != nil || err != nil {
		return s, err
	}
	m.last = time.Now()
	return nil, nil
}

func (m *makers) left() { m.slots <- struct{}{} }

// wait is how long a stream that came at a time waits, now, before it has a connection made.
func (m *makers) wait(came, now int64) time.Duration {
	var wait time.Duration
	if got := m.got.Load(); got != 0 {
		wait = time.Duration(min(got, came)-now) + makeEvery
	}
	if !m.last.IsZero() {
		wait = max(wait, makeEvery-time.Since(m.last))
	}
	return wait
}

// orSpare waits until ready gives something, or for a connection that is given back, which it gives.
func orSpare[T any](ctx context.Context, v *clusterView, ep *endpoint, ready <-chan T) (*single, error) {
	select {
	case <-ready:
		return nil, nil
	default:
	}
	for {
		select {
		case <-ready:
			return nil, nil
		case <-ep.spare:
			if s := ep.take(v, 1); s != nil {
				return s, nil
			}
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}
