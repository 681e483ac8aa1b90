// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"sync"
	"time"
)

// lateAnswer is how long an answer is waited for of a server that doesn't lead any more, or can't be heard: one that hands over answers
// within it.
const lateAnswer = 500 * time.Millisecond

// reigns tell those who wait for a leader's answer that it is over: a leader that is paused, or behind a link that was cut, would
// never say so itself.
type reigns struct {
	leader func() string // the ID of the leader now, "" for none

	mu   sync.Mutex
	id   string
	over context.Context // ends with the reign; nil: there was none yet
	end  context.CancelFunc
	late context.Context // ends when no answer is to be expected any more
}

// look notes who leads.
func (r *reigns) look() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lookLocked()
}

func (r *reigns) lookLocked() {
	id := r.leader()
	if r.over != nil {
		if id == r.id {
			return
		}
		r.end()
	}
	var late context.CancelFunc
	r.id = id
	r.over, r.end = context.WithCancel(context.Background())
	r.late, late = context.WithCancel(context.Background())
	context.AfterFunc(r.over, func() { r.endLate(id, late) })
}

// endLate ends what waits for a leader of the past, unless it is the leader again.
func (r *reigns) endLate(id string, end context.CancelFunc) {
	time.AfterFunc(lateAnswer, func() {
		r.mu.Lock()
		again := r.id == id
		r.mu.Unlock()
		if again {
			r.endLate(id, end)
			return
		}
		end()
	})
}

// during gives a context that ends with the reign of a server or, with late, when no answer of it is to be expected any more.
func (r *reigns) during(ctx context.Context, id string, late bool) (context.Context, context.CancelFunc) {
	r.mu.Lock()
	r.lookLocked()
	end, over := r.over, id != r.id
	if late {
		end = r.late
	}
	r.mu.Unlock()
	ctx, cancel := context.WithCancelCause(ctx)
	if over {
		cancel(errDeposed)
	}
	stop := context.AfterFunc(end, func() { cancel(errDeposed) })
	return ctx, func() {
		stop()
		cancel(context.Canceled)
	}
}
