// SPDX-License-Identifier: Apache-2.0

package catalog

// Mark is what a transaction had recorded, for those who keep what they made of it. It keeps nothing of the tables in memory. One
// goroutine at a time uses it.
type Mark struct {
	state  *state
	topics []Topic
	rows   []*topicRow
	commit uint64 // the last at which it held
}

// Mark notes what was recorded so far; nil if it can't be told later whether it still holds (see Still).
func (t *Txn) Mark() *Mark {
	m := &Mark{state: t.state, topics: t.Topics(), commit: t.meta.commit}
	for _, topic := range m.topics {
		if topic.live() {
			return nil
		}
		m.rows = append(m.rows, t.topics.get(topic))
	}
	if t.replica || len(m.topics) == 0 || len(t.over) > 0 {
		return nil
	}
	return m
}

// Still says whether all that was marked is in this view as it was then. If so, it counts as recorded here too.
func (t *Txn) Still(m *Mark) bool {
	if m == nil || m.state != t.state || len(t.over) > 0 {
		return false
	}
	if !t.hasRows(m) {
		return false
	}
	m.commit = max(m.commit, t.meta.commit)
	for _, topic := range m.topics {
		t.note(topic) // a server's store covers everything
	}
	return true
}

// hasRows says whether what was marked is the same here; what the last commits changed says so without a look at the rows.
func (t *Txn) hasRows(m *Mark) bool {
	if yes, known := t.store.recent.changed(t.state, m.topics, m.commit, t.meta.commit); known {
		return !yes
	}
	for i, topic := range m.topics {
		if t.topics.get(topic) != m.rows[i] {
			return false
		}
	}
	return true
}
