// SPDX-License-Identifier: Apache-2.0

package catalog

import "slices"

// Watch is a standing wait for topics, for those who wait again and again: between two waits nothing is missed, and
// adding a topic costs one map entry. One goroutine at a time uses it; Close ends it.
type Watch struct {
	s      *Store
	w      *waiter
	topics map[Topic]struct{}
	only   []Topic // of the last call of Only
}

// Watch begins a wait for nothing; Add says for what.
func (s *Store) Watch() *Watch {
	return &Watch{s: s, w: s.waiters.add([]Topic{}), topics: map[Topic]struct{}{}}
}

// Woken gets a value after one of the topics has changed or the store was restored; several changes are one value. A topic
// counts from when it was added: read the store after that.
func (w *Watch) Woken() <-chan struct{} { return w.w.woken }

// Add waits for a topic too. It says whether it is new here. One that no store knows is none.
func (w *Watch) Add(t Topic) bool {
	t, err := t.canonical(w.s.config.Datacenter)
	if err != nil {
		return false
	}
	if _, ok := w.topics[t]; ok {
		return false
	}
	w.topics[t] = struct{}{}
	w.s.waiters.join(w.w, t)
	return true
}

// Remove waits for a topic no longer.
func (w *Watch) Remove(t Topic) {
	t, err := t.canonical(w.s.config.Datacenter)
	if _, ok := w.topics[t]; err != nil || !ok {
		return
	}
	delete(w.topics, t)
	w.s.waiters.drop(w.w, []Topic{t})
}

// Only waits for these topics alone from now on, and says whether one of them is new here. They are in the form that Txn.Topics gives,
// and the Watch's from now on.
func (w *Watch) Only(topics []Topic) (added bool) {
	if slices.Equal(topics, w.only) {
		return false
	}
	w.only = topics
	wanted := make(map[Topic]struct{}, len(topics))
	for _, t := range topics {
		wanted[t] = struct{}{}
		added = w.Add(t) || added
	}
	for t := range w.topics {
		if _, ok := wanted[t]; !ok {
			w.Remove(t)
		}
	}
	return added
}

// Close waits for nothing any more.
func (w *Watch) Close() {
	for t := range w.topics {
		w.s.waiters.drop(w.w, []Topic{t})
	}
	w.topics = nil
}
