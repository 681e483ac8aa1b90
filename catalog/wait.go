// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"context"
	"sync"
)

// waiters knows who waits for which topic. A wait costs one channel and one map entry per topic, and is gone when it ends.
type waiters struct {
	mu  sync.Mutex
	by  map[Topic]map[*waiter]struct{}
	any map[*waiter]struct{}
}

type waiter struct{ woken chan struct{} } // holds one

func (w *waiter) wake() {
	select {
	case w.woken <- struct{}{}:
	default:
	}
}

func (ws *waiters) add(topics []Topic) *waiter {
	w := &waiter{make(chan struct{}, 1)}
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if topics == nil {
		if ws.any == nil {
			ws.any = map[*waiter]struct{}{}
		}
		ws.any[w] = struct{}{}
		return w
	}
	for _, t := range topics {
		ws.joinLocked(w, t)
	}
	return w
}

// join makes a waiter wait for one more topic.
func (ws *waiters) join(w *waiter, t Topic) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	ws.joinLocked(w, t)
}

func (ws *waiters) joinLocked(w *waiter, t Topic) {
	if ws.by == nil {
		ws.by = map[Topic]map[*waiter]struct{}{}
	}
	m := ws.by[t]
	if m == nil {
		m = map[*waiter]struct{}{}
		ws.by[t] = m
	}
	m[w] = struct{}{}
}

func (ws *waiters) drop(w *waiter, topics []Topic) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	delete(ws.any, w)
	for _, t := range topics {
		if m := ws.by[t]; m != nil {
			if delete(m, w); len(m) == 0 {
				delete(ws.by, t)
			}
		}
	}
}

// wake wakes who waits for one of the topics, and, if the index advanced, who waits for anything.
func (ws *waiters) wake(topics map[Topic]uint64, advanced bool) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if len(ws.by) > 0 {
		for t := range topics {
			for w := range ws.by[t] {
				w.wake()
			}
		}
	}
	if advanced {
		for w := range ws.any {
			w.wake()
		}
	}
}

func (ws *waiters) wakeAll() {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	for _, m := range ws.by {
		for w := range m {
			w.wake()
		}
	}
	for w := range ws.any {
		w.wake()
	}
}

// count is the number of topics that somebody waits for, and of those who wait for anything.
func (ws *waiters) count() int {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	return len(ws.by) + len(ws.any)
}

// Wait blocks until one of the topics has changed after the index, the store was restored, or ctx ended (then it returns its
// cause). Nothing else ends it: a change of other topics doesn't. Topics that nothing was ever in count as changed at
// index 1.
//
// In a replica the index of a topic that becomes covered can be lower than after: wait with WaitChange there.
func (s *Store) Wait(ctx context.Context, topics []Topic, after uint64) error {
	canon := make([]Topic, 0, len(topics))
	for _, t := range topics {
		c, err := t.canonical(s.config.Datacenter)
		if err != nil {
			return err
		}
		canon = append(canon, c)
	}
	w := s.waiters.add(canon)
	defer s.waiters.drop(w, canon)
	t := s.Read()
	for _, topic := range canon {
		if t.topicIndex(topic) > after {
			return nil
		}
	}
	return block(ctx, w)
}

// WaitChange blocks until one of the topics that t has recorded isn't as t saw it: it changed, or a replica's coverage of it
// began or ended; or until the store was restored, or ctx ended (then it returns its cause).
func (s *Store) WaitChange(ctx context.Context, t *Txn) error {
	topics := t.Topics()
	if topics == nil {
		topics = []Topic{}
	}
	w := s.waiters.add(topics)
	defer s.waiters.drop(w, topics)
	now := s.Read()
	if now.state != t.state {
		return nil
	}
	for _, topic := range topics {
		key := topic.row()
		if first[*topicRow](now.db, tableTopics, key) != first[*topicRow](t.db, tableTopics, key) ||
			first[*coveredRow](now.db, tableCovered, key) != first[*coveredRow](t.db, tableCovered, key) {
			return nil
		}
	}
	return block(ctx, w)
}

// WaitAny blocks until the store's index is above after, it was restored, or ctx ended (then it returns its cause).
func (s *Store) WaitAny(ctx context.Context, after uint64) error {
	w := s.waiters.add(nil)
	defer s.waiters.drop(w, nil)
	if s.Read().Index() > after {
		return nil
	}
	return block(ctx, w)
}

func block(ctx context.Context, w *waiter) error {
	select {
	case <-w.woken:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
