// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"errors"
	"fmt"
	"runtime"

	"github.com/hashicorp/go-memdb"
)

// write is one write transaction: what was changed, and which topics that touched.
type write struct {
	store    *Store
	txn      *memdb.Txn
	dc       string
	meta     metaRow
	index    uint64 // of the command at hand
	advanced bool   // the store's index moved
	topics   map[Topic]uint64
	tree     *topicEdit
	rows     []topicChange // of the topics, once it is finished
	changes  []*change
	at       int64    // when the command at hand was ordered, Unix milliseconds
	keys     []string // the row keys of the key-value store that were changed
	woken    []Topic  // live topics beside them that changed
}

func newWrite(s *Store) *write {
	v := s.now.Load()
	return &write{
		store: s, txn: v.state.db.Txn(true), dc: s.config.Datacenter, topics: make(map[Topic]uint64, s.touched), tree: v.topics.edit(),
		meta: v.meta, index: v.meta.index,
	}
}

// applyAll runs the commands but for those that panicked before; false means that one more did.
func (w *write) applyAll(batch []LogEntry, bodies []timed, results []Result, panicked map[int]error) bool {
	for i, e := range batch {
		if e.Index <= w.meta.index {
			err := fmt.Errorf("its index is not above %d, the last one applied", w.meta.index)
			results[i] = Result{Index: e.Index, Err: &CorruptError{Index: e.Index, Err: err}}
			continue
		}
		w.meta.index, w.index, w.advanced = e.Index, e.Index, true
		if err := panicked[i]; err != nil {
			results[i] = Result{Index: e.Index, Err: err}
			continue
		}
		w.at = bodies[i].at
		value, err := w.applyOne(bodies[i].body)
		if p := (*panicError)(nil); errors.As(err, &p) {
			panicked[i] = p
			return false
		}
		results[i] = Result{Index: e.Index, Value: value, Err: err}
	}
	return true
}

// panicError is a command that panicked. Its text is the same on every server.
type panicError struct{ value string }

func (e *panicError) Error() string {
	return "the command could not be applied because of a fault in weft: " + e.value
}

func (w *write) applyOne(body Body) (value any, err error) {
	defer func() {
		if r := recover(); r != nil {
			text := fmt.Sprint(r)
			if _, ok := r.(runtime.Error); ok {
				text = "runtime error" // its text can hold addresses
			}
			value, err = nil, &panicError{text}
		}
	}()
	if _, raise := body.(*RaiseSchema); !raise {
		if need, what := Needs(body); need > max(w.meta.schema, 1) {
			return nil, faultf(ErrSchema, "%v: %s needs version %d, and it is %d", ErrSchema, what, need, max(w.meta.schema, 1))
		}
	}
	u := newUnit(w)
	if value, err = u.run(body); err != nil {
		return nil, err
	}
	if !u.abandoned {
		u.settle()
		u.flush()
	}
	return value, nil
}

// touch says that a topic changed at the index at hand.
func (w *write) touch(t Topic) { w.topics[t] = w.index }

// emit touches a topic and records the change for feeds. A nil record says that the thing is no longer in the topic.
func (w *write) emit(t Topic, id string, rec *record) {
	w.touch(t)
	w.changes = append(w.changes, &change{topic: t, id: id, index: w.index, record: rec})
}

// topicChange is a topic's row before, if there was one, and after a transaction.
type topicChange struct{ before, after *topicRow }

// finish writes the topics' indexes and counts the commit.
func (w *write) finish() {
	w.rows = make([]topicChange, 0, len(w.topics))
	for t, i := range w.topics {
		row := newTopicRow(t, i)
		w.rows = append(w.rows, topicChange{w.tree.put(row), row})
	}
	w.meta.commit++
}

// commit makes a transaction's changes visible, which is finished. The caller holds mu.
func (s *Store) commit(w *write) {
	st := s.now.Load().state
	s.recent.note(st, w.meta.commit, w.topics)
	w.txn.Commit()
	s.show(st, w.meta, w.tree.topicTree)
}
