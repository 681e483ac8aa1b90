// SPDX-License-Identifier: Apache-2.0

package feed

import (
	"context"
	"sync"
	"time"
)

// pace bounds how many streams are sent whole topics at the same time: those that are encoded and on their way are in memory.
type pace struct{ slots chan struct{} }

func newPace(n int) pace { return pace{make(chan struct{}, n)} }

// slotHold is how long a subscriber that takes a piece slowly keeps others waiting.
const slotHold = 250 * time.Millisecond

// enter waits for its turn. The slot is free again when leave is called, or after slotHold.
func (p pace) enter(ctx context.Context) (leave func(), err error) {
	select {
	case p.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	release := sync.OnceFunc(func() { <-p.slots })
	timer := time.AfterFunc(slotHold, release)
	return func() {
		timer.Stop()
		release()
	}, nil
}

// strikes remembers which agents were too slow lately: the first time is forgiven, each further one doubles the wait.
type strikes struct {
	now func() time.Time

	mu sync.Mutex // guards what follows
	by map[string]strike
}

type strike struct {
	n         int
	at, until time.Time
}

const (
	strikeTime = 5 * time.Minute // after which a node is forgiven
	strikeWait = time.Second     // of the second strike
	strikeMost = time.Minute
)

// note counts one more.
func (s *strikes) note(node string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	for other, k := range s.by {
		if now.Sub(k.at) > strikeTime {
			delete(s.by, other)
		}
	}
	k := s.by[node]
	k.n, k.at, k.until = k.n+1, now, now
	if k.n > 1 {
		k.until = now.Add(min(strikeWait<<min(k.n-2, 10), strikeMost))
	}
	s.by[node] = k
}

// wait is how long the node has to wait now.
func (s *strikes) wait(node string) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.by[node].until.Sub(s.now())
}
