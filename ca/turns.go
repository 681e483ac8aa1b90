// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"context"
	"sync"
	"time"
)

// maxTurnWait is how long a request waits for its turn before its client is told to come again.
const maxTurnWait = 500 * time.Millisecond

// Turns bounds how many requests are signed at the same time, as CSRMaxConcurrent says: those beyond wait, the first come first. The zero
// value has no bound.
type Turns struct {
	mu    sync.Mutex
	max   int
	taken int
	queue []chan struct{} // closed when its turn has come
}

// Limit sets the bound from now on; zero means none. Turns that are taken stay.
func (t *Turns) Limit(n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.max = n
	t.next()
}

// Take waits for a turn, for half a second at most: then it returns ErrRateLimited. Whoever got one calls Done.
func (t *Turns) Take(ctx context.Context) error {
	t.mu.Lock()
	mine := make(chan struct{})
	t.queue = append(t.queue, mine)
	t.next()
	t.mu.Unlock()
	timer := time.NewTimer(maxTurnWait)
	defer timer.Stop()
	err := error(ErrRateLimited)
	select {
	case <-mine:
		return nil
	case <-timer.C:
	case <-ctx.Done():
		err = ctx.Err()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for i, waits := range t.queue {
		if waits == mine {
			t.queue = append(t.queue[:i], t.queue[i+1:]...)
			return err
		}
	}
	return nil // it came meanwhile
}

// Done gives a turn back.
func (t *Turns) Done() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.taken--
	t.next()
}

// next gives out the turns that there are. The caller holds mu.
func (t *Turns) next() {
	for len(t.queue) > 0 && (t.max <= 0 || t.taken < t.max) {
		close(t.queue[0])
		t.queue = t.queue[1:]
		t.taken++
	}
}
