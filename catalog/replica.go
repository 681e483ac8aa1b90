// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"fmt"

	"github.com/hashicorp/go-memdb"
)

// Update brings a replica from one position to the next, in one transaction.
type Update struct {
	Position Position
	// Items are applied in their order, those of the topics in Snapshot after all others.
	Items []Item
	// Snapshot names topics that Items holds whole, as of Position: what a replica has of them and Items hasn't is gone.
	Snapshot []Topic
	// Covered are topics that the replica can answer from now on. Their content must come in this update (see Snapshot).
	Covered []Topic
	// Dropped are topics that it can't any more. Rows that no covered topic needs go.
	Dropped []Topic
}

// ApplyItems applies an update, or nothing of it if an item can't be read. Fields that a newer server added are skipped. An update of
// another epoch than the replica's must bring all that is covered as snapshots: what it doesn't, is dropped.
func (s *Store) ApplyItems(u Update) error {
	if !s.config.Replica {
		return fmt.Errorf("%w: only a replica takes items", ErrInvalid)
	}
	snapshot, err := s.topicSet(u.Snapshot)
	if err != nil {
		return err
	}
	covered, err := s.topicSet(u.Covered)
	if err != nil {
		return err
	}
	dropped, err := s.topicSet(u.Dropped)
	if err != nil {
		return err
	}
	rows := make([]any, len(u.Items))
	for i := range u.Items {
		if rows[i], err = readItem(&u.Items[i]); err != nil {
			return fmt.Errorf("item %d (%s): %w", i, u.Items[i].Topic, err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.now.Load().state
	r := &replicaWrite{w: newWrite(s), covered: map[Topic]bool{}}
	each(r.w.txn, tableCovered, "id_prefix", "", func(c *coveredRow) { r.covered[c.topic] = true })
	if u.Position.Epoch != st.epoch {
		for t := range r.covered {
			if !snapshot[t] {
				dropped[t] = true
			}
		}
	} else if u.Position.Index < r.w.meta.index {
		r.w.txn.Abort()
		return fmt.Errorf("%w: an update to index %d, but the replica is at %d", ErrInvalid, u.Position.Index, r.w.meta.index)
	}
	r.apply(u.Items, rows, snapshot, covered, dropped)
	r.w.advanced = u.Position != Position{st.epoch, r.w.meta.index}
	r.w.meta.index = u.Position.Index
	r.w.meta.commit++
	s.commit(r.w)
	if u.Position.Epoch != st.epoch {
		s.show(&state{db: st.db, epoch: u.Position.Epoch}, r.w.meta, r.w.tree.topicTree)
		s.waiters.wakeAll()
		return nil
	}
	s.waiters.wake(r.w.topics, r.w.advanced)
	return nil
}

func (s *Store) topicSet(list []Topic) (map[Topic]bool, error) {
	set := make(map[Topic]bool, len(list))
	for _, t := range list {
		c, err := t.canonical(s.config.Datacenter)
		if err != nil {
			return nil, err
		}
		set[c] = true
	}
	return set, nil
}

// readItem decodes an item's row; nil for a deletion or an index alone.
func readItem(it *Item) (any, error) {
	if it.Deleted || it.ID == "" {
		return nil, nil
	}
	var rec ItemRecord
	if err := laxMode.Unmarshal(it.Record, &rec); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	switch id, rest := it.ID[0], it.ID[1:]; {
	case id == 's' && rec.Instance != nil && rec.Instance.Service != nil && rec.Instance.Node != nil:
		in := rec.Instance
		return newInstanceRow(Instance{Node: in.Node, Service: in.Service, Checks: in.Checks}, rest, it.Index), nil
	case id == 'n' && rec.Node != nil:
		return rec.Node, nil
	case id == 'c' && rec.Check != nil:
		return rec.Check, nil
	case id == 'm' && rec.Name != nil:
		return &nameRow{key: rec.Name.Key, list: rec.Name.Tags}, nil
	case id == 'e' && rec.Entry != nil && rec.Entry.Entry != nil:
		return newEntryRow(rec.Entry.Entry, rest), nil
	case id == 'v' && rec.Virtual != nil && virtualString(rec.Virtual.Number) == rest:
		return rec.Virtual, nil
	case id == 'a' && rec.CA != nil:
		return rec.CA.public(), nil
	}
	return nil, fmt.Errorf("%w: its record isn't what its ID %q says", ErrInvalid, it.ID)
}

type replicaWrite struct {
	w       *write
	covered map[Topic]bool
}

func (r *replicaWrite) apply(items []Item, rows []any, snapshot, covered, dropped map[Topic]bool) {
	for t := range dropped {
		if r.covered[t] {
			delete(r.covered, t)
			remove(r.w.txn, tableCovered, &coveredRow{t})
			r.forgetTopic(t)
		}
	}
	for t := range covered {
		if !r.covered[t] {
			r.covered[t] = true
			insert(r.w.txn, tableCovered, &coveredRow{t})
			r.w.topics[t] = 0
		}
	}
	kept := map[string]bool{}
	for i := range items {
		if !snapshot[items[i].Topic] {
			r.item(&items[i], rows[i])
		} else if rows[i] != nil {
			kept[items[i].ID] = true
		}
	}
	for t := range snapshot {
		r.w.topics[t] = 0
		r.eachIn(t, func(id, table string, row any) {
			if !kept[id] {
				remove(r.w.txn, table, row)
			}
		})
		// A snapshot's index holds even if it is lower than what was there: it may be of another epoch.
		r.w.tree.remove(t)
	}
	for i := range items {
		if snapshot[items[i].Topic] {
			r.item(&items[i], rows[i])
		}
	}
}

// forgetTopic drops a topic's index, and the rows of it that nobody else needs.
func (r *replicaWrite) forgetTopic(t Topic) {
	r.w.topics[t] = 0
	r.w.tree.remove(t)
	r.eachIn(t, func(_, table string, row any) {
		for _, other := range rowTopics(row) {
			if r.covered[other] {
				return
			}
		}
		remove(r.w.txn, table, row)
	})
}

func (r *replicaWrite) item(it *Item, row any) {
	topic := it.Topic
	if c, err := topic.canonical(r.w.dc); err == nil {
		topic = c
	}
	if !r.covered[topic] {
		return
	}
	if old := r.w.tree.get(topic); old == nil || it.Index > old.index {
		r.w.tree.put(newTopicRow(topic, it.Index))
	}
	r.w.topics[topic] = it.Index
	table, have := lookup(r.w.txn, it.ID)
	switch {
	case table == "":
	case row != nil:
		insert(r.w.txn, table, row)
	case have != nil:
		for _, t := range rowTopics(have) { // it may be another topic's by now
			if t == topic {
				remove(r.w.txn, table, have)
				break
			}
		}
	}
}

// lookup finds the row that an item's ID names. have is nil if there is none.
func lookup(txn *memdb.Txn, id string) (table string, have any) {
	if id == "" {
		return "", nil
	}
	switch id[0] {
	case 'n':
		table = tableNodes
	case 's':
		table = tableServices
	case 'c':
		table = tableChecks
	case 'm':
		table = tableNames
	case 'e':
		table = tableEntries
	case 'v':
		table = tableVirtual
	case 'a':
		return tableCA, first[any](txn, tableCA, "ca")
	default:
		return "", nil
	}
	return table, first[any](txn, table, id[1:])
}

// rowTopics are all the topics that a row is in.
func rowTopics(row any) []Topic {
	switch row := row.(type) {
	case *Node:
		return []Topic{NodesTopic(row.Scope), NodeTopic(row.Key())}
	case *instanceRow:
		return instanceTopics(nil, row)
	case *Check:
		return []Topic{NodeTopic(row.NodeKey())}
	case *nameRow:
		return []Topic{ServicesTopic(row.key.Scope)}
	case *entryRow:
		return entryTopics(row.entry)
	case *VirtualIP:
		return []Topic{VirtualsTopic(row.Service.Scope)}
	case *CAState:
		return []Topic{CATopic()}
	}
	return nil
}

// eachIn calls f for the rows that are in a topic; f may remove them.
func (r *replicaWrite) eachIn(t Topic, f func(id, table string, row any)) {
	type found struct {
		id, table string
		row       any
	}
	var list []found
	scan := func(letter, table, index, key string, id func(any) string) {
		each(r.w.txn, table, index, key, func(row any) { list = append(list, found{letter + id(row), table, row}) })
	}
	scope := scopeString(t.Key.Scope)
	nodeID := func(row any) string { n := row.(*Node); return nodeString(n.Scope, n.Node) }
	instanceID := func(row any) string { return row.(*instanceRow).key }
	entryID := func(row any) string { return row.(*entryRow).key }
	switch t.Kind {
	case TopicNodes:
		scan("n", tableNodes, "id_prefix", scope, nodeID)
	case TopicNode:
		key := nodeString(t.Key.Scope, t.Key.Name)
		scan("n", tableNodes, "id", key, nodeID)
		scan("s", tableServices, "id_prefix", key, instanceID)
		scan("c", tableChecks, "id_prefix", key, func(row any) string { return checkString(row.(*Check)) })
	case TopicServices:
		scan("m", tableNames, "id_prefix", scope+t.Key.Namespace+"\x00", func(row any) string { return nameString(row.(*nameRow).key) })
	case TopicService:
		scan("s", tableServices, "name", nameString(t.Key), instanceID)
	case TopicConnect:
		scan("s", tableServices, "connect", nameString(t.Key), instanceID)
	case TopicEntry:
		scan("e", tableEntries, "id", entryString(t.Entry, t.Key), entryID)
	case TopicEntries:
		for _, kind := range EntryKinds() {
			if t.Entry == "" || t.Entry == kind {
				scan("e", tableEntries, "id_prefix", kind+"\x00"+scope+t.Key.Namespace+"\x00", entryID)
			}
		}
	case TopicVirtuals:
		scan("v", tableVirtual, "service_prefix", scope+t.Key.Namespace+"\x00", func(row any) string { return virtualString(row.(*VirtualIP).Number) })
	case TopicCA:
		scan("a", tableCA, "id", "ca", func(any) string { return "" })
	}
	for _, x := range list {
		f(x.id, x.table, x.row)
	}
}
