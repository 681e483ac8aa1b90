// SPDX-License-Identifier: Apache-2.0

package catalog

import "sync"

// recent knows which topics the last commits of a store changed. Whoever has made something of the tables as of one of them learns from it
// that what he read is as it was, without a look at a row: of 200 proxies that one change wakes, each has read some twenty topics.
type recent struct {
	mu   sync.RWMutex
	ring [recentCommits]committed
}

const recentCommits = 64

type committed struct {
	state  *state
	number uint64
	topics map[Topic]uint64 // never changed again
}

// note takes a commit in, before anybody can see it.
func (r *recent) note(of *state, number uint64, topics map[Topic]uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ring[number%recentCommits] = committed{of, number, topics}
}

func (r *recent) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ring = [recentCommits]committed{}
}

// changed says whether one of the topics changed in a commit after the first number, up to the last; not known for commits of long ago.
func (r *recent) changed(of *state, topics []Topic, after, upTo uint64) (yes, known bool) {
	if upTo < after || upTo-after > recentCommits {
		return false, false
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	for n := after + 1; n <= upTo; n++ {
		c := &r.ring[n%recentCommits]
		if c.state != of || c.number != n {
			return false, false
		}
		for _, t := range topics {
			if _, in := c.topics[t]; in {
				return true, true
			}
		}
	}
	return false, true
}

// Moment is when a view was, finer than a Position: in a replica what is covered changes without the index.
type Moment struct {
	state         *state
	commit, index uint64
}

// Moment is the view's own.
func (t *Txn) Moment() Moment { return Moment{t.state, t.meta.commit, t.meta.index} }

// Unchanged says whether topics are as they were to an earlier view: nothing of them has changed, nor whether they are covered. It may
// say no where yes is true, of what was long ago. The topics are in the form that Topics gives; they are recorded as if they were
// asked for once more.
func (t *Txn) Unchanged(topics []Topic, since Moment) bool {
	for _, topic := range topics {
		t.note(topic)
	}
	switch {
	case since.state != t.state || len(t.over) > 0:
		return false
	case since.commit == t.meta.commit:
		return true
	}
	for _, topic := range topics {
		if topic.live() {
			return false
		}
	}
	if yes, known := t.store.recent.changed(t.state, topics, since.commit, t.meta.commit); known {
		return !yes
	}
	for _, topic := range topics {
		if !t.Covered(topic) || t.topicIndex(topic) > since.index {
			return false
		}
	}
	return true
}
