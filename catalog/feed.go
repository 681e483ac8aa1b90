// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"fmt"
	"sort"
	"sync"
)

// Item is one thing in a topic that came, changed or went, as a subscriber sees it. It says all that there is to know of the thing.
// An item without ID and record only carries the topic's index.
type Item struct {
	Topic   Topic
	ID      string // opaque; within the topic
	Index   uint64
	Deleted bool
	Record  []byte // CBOR of ItemRecord, shared: not to be written to
}

// ItemRecord is what an item holds; exactly one field is set.
type ItemRecord struct {
	Instance *InstanceRecord `json:",omitempty"`
	Node     *Node           `json:",omitempty"`
	Check    *Check          `json:",omitempty"`
	Name     *NameRecord     `json:",omitempty"`
	Entry    *EntryBox       `json:",omitempty"`
	CA       *CAState        `json:",omitempty"` // without PrivateState
}

// InstanceRecord is an Instance in a feed.
type InstanceRecord struct {
	Node    *Node
	Service *Service
	Checks  []*Check `json:",omitempty"`
}

// NameRecord is a service name with its tags.
type NameRecord struct {
	Key  Key
	Tags []string `json:",omitempty"`
}

// record is a thing that is encoded when the first subscriber wants it, and then for all of them.
type record struct {
	instance *Instance
	node     *Node
	check    *Check
	name     *nameRow
	entry    Entry
	ca       *CAState

	once sync.Once
	data []byte
}

func (r *record) form() ItemRecord {
	switch {
	case r.instance != nil:
		return ItemRecord{Instance: &InstanceRecord{r.instance.Node, r.instance.Service, r.instance.Checks}}
	case r.node != nil:
		return ItemRecord{Node: r.node}
	case r.check != nil:
		return ItemRecord{Check: r.check}
	case r.name != nil:
		return ItemRecord{Name: &NameRecord{r.name.key, r.name.list}}
	case r.entry != nil:
		return ItemRecord{Entry: &EntryBox{r.entry}}
	}
	return ItemRecord{CA: r.ca}
}

// encoded can't fail: what is stored came out of a decoder of the same form.
func (r *record) encoded() []byte {
	r.once.Do(func() { r.data = must(encode(r.form())) })
	return r.data
}

// size is a guess at what keeping the record costs, before anybody wants it encoded.
func (r *record) size() int {
	const head = 200
	switch {
	case r == nil:
		return head
	case r.instance != nil:
		n := 2 * head
		for _, c := range r.instance.Checks {
			n += head + len(c.Output) + len(c.Notes)
		}
		return n + 32*len(r.instance.Service.Tags) + 64*len(r.instance.Service.Meta)
	case r.check != nil:
		return 2*head + len(r.check.Output) + len(r.check.Notes)
	case r.name != nil:
		return head + 24*len(r.name.list)
	case r.ca != nil:
		return head + 4096*len(r.ca.Roots)
	}
	return 3 * head
}

type change struct {
	topic  Topic
	id     string
	index  uint64
	record *record
}

func (c *change) item() Item {
	i := Item{Topic: c.topic, ID: c.id, Index: c.index, Deleted: c.record == nil}
	if c.record != nil {
		i.Record = c.record.encoded()
	}
	return i
}

// window retains the last changes. Those with an index above floor are all there.
type window struct {
	mu    sync.Mutex
	epoch uint64
	max   int
	bytes int
	floor uint64
	last  uint64 // the index that the window reaches to
	list  []*change
}

func (w *window) add(changes []*change, index uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range changes {
		w.bytes += c.record.size()
	}
	w.list = append(w.list, changes...)
	w.last = max(w.last, index)
	drop := 0
	for drop < len(w.list) && w.bytes > w.max {
		at := w.list[drop].index
		for drop < len(w.list) && w.list[drop].index == at { // a whole index goes at once
			w.bytes -= w.list[drop].record.size()
			drop++
		}
		w.floor = at
	}
	w.list = w.list[drop:] // readers may still look at what was dropped: it isn't cleared
}

func (w *window) reset(at Position) {
	w.mu.Lock()
	defer w.mu.Unlock()
	index := at.Index
	w.epoch = at.Epoch
	w.list, w.bytes, w.floor, w.last = nil, 0, index, index
}

// from gives the changes above after and not above until; ok is false if some are no longer there.
func (w *window) from(pos Position, until uint64) (list []*change, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	after := pos.Index
	if pos.Epoch != w.epoch || after < w.floor {
		return nil, false
	}
	lo := sort.Search(len(w.list), func(i int) bool { return w.list[i].index > after })
	hi := sort.Search(len(w.list), func(i int) bool { return w.list[i].index > until })
	return w.list[lo:max(lo, hi):max(lo, hi)], true
}

// Changes gives what happened after a position, to the topics that the function accepts (nil: all), in order and up to a position that
// it returns: now, or earlier if the records have more than maxBytes (0: no bound; the changes of one index are never
// torn apart). ok false says that the position is of another epoch or that the window no longer reaches back to it: then the
// subscriber needs snapshots (Txn.Items).
func (s *Store) Changes(after Position, topics func(Topic) bool, maxBytes int) (items []Item, upTo Position, ok bool) {
	return s.Read().Changes(after, topics, maxBytes)
}

// Changes is Store.Changes up to this view's index. To give a subscriber a new topic: take a view, send the other topics' Changes up
// to the view's Position (all of them: maxBytes 0) and the new topic's Items of the same view, as one Update.
func (t *Txn) Changes(after Position, topics func(Topic) bool, maxBytes int) (items []Item, upTo Position, ok bool) {
	now := t.Position()
	if after.Epoch != now.Epoch || after.Index > now.Index {
		return nil, now, false
	}
	list, ok := t.store.window.from(after, now.Index)
	if !ok {
		return nil, now, false
	}
	bytes := 0
	for i, c := range list {
		if maxBytes > 0 && bytes >= maxBytes && c.index != list[i-1].index {
			return items, Position{now.Epoch, list[i-1].index}, true
		}
		if topics == nil || topics(c.topic) {
			item := c.item()
			bytes += len(item.Record) + len(item.ID)
			items = append(items, item)
		}
	}
	return items, now, true
}

// Items gives a topic's content now: first an item that carries the topic's index, then the things in it.
func (t *Txn) Items(topic Topic) ([]Item, error) {
	topic, err := topic.canonical(t.dc)
	if err != nil {
		return nil, err
	}
	if err := t.use(topic); err != nil {
		return nil, err
	}
	items := []Item{{Topic: topic, Index: t.topicIndex(topic)}}
	add := func(id string, index uint64, rec *record) {
		items = append(items, (&change{topic, id, index, rec}).item())
	}
	scope := scopeString(topic.Key.Scope)
	instance := func(r *instanceRow) { add("s"+r.key, r.last, &record{instance: &r.Instance}) }
	node := func(n *Node) { add("n"+nodeString(n.Scope, n.Node), n.ModifyIndex, &record{node: n}) }
	entry := func(r *entryRow) { add("e"+r.key, r.entry.Head().ModifyIndex, &record{entry: r.entry}) }
	switch topic.Kind {
	case TopicNodes:
		each(t.db, tableNodes, "id_prefix", scope, node)
	case TopicNode:
		key := nodeString(topic.Key.Scope, topic.Key.Name)
		each(t.db, tableNodes, "id", key, node)
		each(t.db, tableServices, "id_prefix", key, instance)
		each(t.db, tableChecks, "id_prefix", key, func(c *Check) { add("c"+checkString(c), c.ModifyIndex, &record{check: c}) })
	case TopicServices:
		each(t.db, tableNames, "id_prefix", scope+topic.Key.Namespace+"\x00", func(r *nameRow) {
			add("m"+nameString(r.key), items[0].Index, &record{name: r})
		})
	case TopicService:
		each(t.db, tableServices, "name", nameString(topic.Key), instance)
	case TopicConnect:
		each(t.db, tableServices, "connect", nameString(topic.Key), instance)
	case TopicEntry:
		each(t.db, tableEntries, "id", entryString(topic.Entry, topic.Key), entry)
	case TopicEntries:
		for _, kind := range EntryKinds() {
			if topic.Entry == "" || topic.Entry == kind {
				each(t.db, tableEntries, "id_prefix", kind+"\x00"+scope+topic.Key.Namespace+"\x00", entry)
			}
		}
	case TopicCA:
		if ca := first[*CAState](t.db, tableCA, "ca"); ca != nil {
			add("a", ca.ModifyIndex, &record{ca: ca.public()})
		}
	default:
		return nil, fmt.Errorf("%w: unknown kind of topic %q", ErrInvalid, topic.Kind)
	}
	return items, nil
}
