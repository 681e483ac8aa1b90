// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"context"
	"errors"
	"sync"
	"time"
)

// waiters knows who waits for which topic. A wait costs one channel and one map entry per topic, and is gone when it ends.
type waiters struct {
	mu  sync.Mutex
	by  map[Topic]map[*waiter]struct{}
	any map[*waiter]struct{}

	keys     map[string]map[*waiter]struct{} // of the key-value store, by row key
	prefixes map[string]map[*waiter]struct{} // the same, by the beginning of row keys
	lengths  map[int]int                     // how many prefixes there are of each length
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
	switch t.Kind {
	case TopicKV:
		enter(&ws.keys, kvString(t.Key.Scope, Raw(t.Key.Name)), w)
	case TopicKVPrefix:
		key := kvString(t.Key.Scope, Raw(t.Key.Name))
		if enter(&ws.prefixes, key, w) {
			if ws.lengths == nil {
				ws.lengths = map[int]int{}
			}
			ws.lengths[len(key)]++
		}
	default:
		enter(&ws.by, t, w)
	}
}

// enter puts a waiter in; true if it is the first under this key.
func enter[K comparable](into *map[K]map[*waiter]struct{}, key K, w *waiter) bool {
	if *into == nil {
		*into = map[K]map[*waiter]struct{}{}
	}
	m := (*into)[key]
	isNew := m == nil
	if isNew {
		m = map[*waiter]struct{}{}
		(*into)[key] = m
	}
	m[w] = struct{}{}
	return isNew
}

// leave takes a waiter out; true if it was the last under this key.
func leave[K comparable](from map[K]map[*waiter]struct{}, key K, w *waiter) bool {
	m := from[key]
	if m == nil {
		return false
	}
	delete(m, w)
	if len(m) > 0 {
		return false
	}
	delete(from, key)
	return true
}

func (ws *waiters) drop(w *waiter, topics []Topic) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	delete(ws.any, w)
	for _, t := range topics {
		switch t.Kind {
		case TopicKV:
			leave(ws.keys, kvString(t.Key.Scope, Raw(t.Key.Name)), w)
		case TopicKVPrefix:
			key := kvString(t.Key.Scope, Raw(t.Key.Name))
			if leave(ws.prefixes, key, w) {
				if ws.lengths[len(key)]--; ws.lengths[len(key)] == 0 {
					delete(ws.lengths, len(key))
				}
			}
		default:
			leave(ws.by, t, w)
		}
	}
}

// wakeLive wakes who waits for keys that changed, by their row keys, or what begins them, or for one of the topics.
func (ws *waiters) wakeLive(keys []string, topics []Topic) {
	if len(keys)+len(topics) == 0 {
		return
	}
	ws.mu.Lock()
	defer ws.mu.Unlock()
	for _, key := range keys {
		for w := range ws.keys[key] {
			w.wake()
		}
		for n := range ws.lengths {
			if n <= len(key) {
				for w := range ws.prefixes[key[:n]] {
					w.wake()
				}
			}
		}
	}
	for _, t := range topics {
		for w := range ws.by[t] {
			w.wake()
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
	for _, by := range []map[string]map[*waiter]struct{}{ws.keys, ws.prefixes} {
		for _, m := range by {
			for w := range m {
				w.wake()
			}
		}
	}
	for w := range ws.any {
		w.wake()
	}
}

// Waiting is how many waits there are now, one for each topic or key that somebody waits for.
func (s *Store) Waiting() int {
	ws := &s.waiters
	ws.mu.Lock()
	defer ws.mu.Unlock()
	n := len(ws.any)
	for _, m := range ws.by {
		n += len(m)
	}
	return n
}

// count is the number of topics that somebody waits for, and of those who wait for anything.
func (ws *waiters) count() int {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	return len(ws.by) + len(ws.any) + len(ws.keys) + len(ws.prefixes)
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
	return block(ctx, w, nil)
}

// WaitChange blocks until one of the topics that t has recorded isn't as t saw it: it changed, or a replica's coverage of it
// began or ended; or until the store was restored, or ctx ended (then it returns its cause).
func (s *Store) WaitChange(ctx context.Context, t *Txn) error {
	return s.WaitChangeUntil(ctx, t, nil)
}

// ErrWaited says that what was waited for hasn't changed until the time that was given.
var ErrWaited = errors.New("nothing has changed in the time given")

// WaitChangeUntil is WaitChange until over says something, then it returns ErrWaited. Many wait at once, and of what each costs a context
// with a deadline would be a good part.
func (s *Store) WaitChangeUntil(ctx context.Context, t *Txn, over <-chan time.Time) error {
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
	if now.meta.commit == t.meta.commit {
		return block(ctx, w, over) // nothing was written at all
	}
	for _, topic := range topics {
		if topic.live() {
			if !t.sameLive(now, topic) {
				return nil
			}
			continue
		}
		if now.topics.get(topic) != t.topics.get(topic) {
			return nil
		}
		if !t.replica {
			continue
		}
		if key := topic.row(); first[*coveredRow](now.db, tableCovered, key) != first[*coveredRow](t.db, tableCovered, key) {
			return nil
		}
	}
	return block(ctx, w, over)
}

// WaitAny blocks until the store's index is above after, it was restored, or ctx ended (then it returns its cause).
func (s *Store) WaitAny(ctx context.Context, after uint64) error {
	w := s.waiters.add(nil)
	defer s.waiters.drop(w, nil)
	if s.Read().Index() > after {
		return nil
	}
	return block(ctx, w, nil)
}

func block(ctx context.Context, w *waiter, over <-chan time.Time) error {
	select {
	case <-w.woken:
		return nil
	case <-over:
		return ErrWaited
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
