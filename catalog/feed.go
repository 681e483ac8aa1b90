// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"cmp"
	"fmt"
	"slices"
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
	Virtual  *VirtualIP      `json:",omitempty"`
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
	virtual  *VirtualIP

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
	case r.virtual != nil:
		return ItemRecord{Virtual: r.virtual}
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
	seq    uint64 // the window's order
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
	seq   uint64
	list  []*change
	by    map[Topic][]*change // the same, by topic
}

func (w *window) add(changes []*change, index uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.by == nil {
		w.by = map[Topic][]*change{}
	}
	for _, c := range changes {
		w.bytes += c.record.size()
		w.seq++
		c.seq = w.seq
		w.by[c.topic] = append(w.by[c.topic], c)
	}
	w.list = append(w.list, changes...)
	w.last = max(w.last, index)
	drop := 0
	for drop < len(w.list) && w.bytes > w.max {
		at := w.list[drop].index
		for drop < len(w.list) && w.list[drop].index == at { // a whole index goes at once
			w.bytes -= w.list[drop].record.size()
			of := w.by[w.list[drop].topic]
			of[0] = nil // as below
			if len(of) > 1 {
				w.by[w.list[drop].topic] = of[1:]
			} else {
				delete(w.by, w.list[drop].topic)
			}
			drop++
		}
		w.floor = at
	}
	clear(w.list[:drop]) // else it would live on until the list is copied: half of what a server held that takes many registrations
	w.list = w.list[drop:]
}

func (w *window) reset(at Position) {
	w.mu.Lock()
	defer w.mu.Unlock()
	index := at.Index
	w.epoch = at.Epoch
	w.list, w.by, w.bytes, w.floor, w.last = nil, nil, 0, index, index
}

// of gives the changes of some topics above after and not above until, in order; ok is false if some are no longer there.
func (w *window) of(topics map[Topic]bool, pos Position, until uint64) (list []*change, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if pos.Epoch != w.epoch || pos.Index < w.floor {
		return nil, false
	}
	for t := range topics {
		all := w.by[t]
		if len(all) == 0 || all[len(all)-1].index <= pos.Index {
			continue
		}
		lo := sort.Search(len(all), func(i int) bool { return all[i].index > pos.Index })
		hi := sort.Search(len(all), func(i int) bool { return all[i].index > until })
		list = append(list, all[lo:max(lo, hi)]...)
	}
	slices.SortFunc(list, func(a, b *change) int { return cmp.Compare(a.seq, b.seq) })
	return list, true
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
	return slices.Clone(w.list[lo:max(lo, hi)]), true
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

// ChangesOf is Changes for a subscriber who holds these topics (in the form of the constructors), at the cost of their own
// changes alone. Where the window no longer reaches back to the position, renew names the topics that have changed since: those
// have to be sent whole; the others are as they were. ok is false if the position is of another epoch or not yet reached.
func (t *Txn) ChangesOf(topics map[Topic]bool, after Position, maxBytes int) (items []Item, renew []Topic, upTo Position, ok bool) {
	now := t.Position()
	if after.Epoch != now.Epoch || after.Index > now.Index {
		return nil, nil, now, false
	}
	list, retained := t.store.window.of(topics, after, now.Index)
	if !retained {
		for topic := range topics {
			if t.topicIndex(topic) > after.Index {
				renew = append(renew, topic)
			}
		}
		return nil, renew, now, true
	}
	items, upTo = cut(list, now, maxBytes)
	return items, nil, upTo, true
}

// cut encodes changes until there are enough, at the end of an index, and says up to where.
func cut(list []*change, now Position, maxBytes int) (items []Item, upTo Position) {
	bytes := 0
	for i, c := range list {
		if maxBytes > 0 && bytes >= maxBytes && c.index != list[i-1].index {
			return items, Position{now.Epoch, list[i-1].index}
		}
		item := c.item()
		bytes += len(item.Record) + len(item.ID)
		items = append(items, item)
	}
	return items, now
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
		items = append(items, (&change{topic: topic, id: id, index: index, record: rec}).item())
	}
	scope := scopeString(topic.Key.Scope)
	instance := func(r *instanceRow) { add("s"+r.key, r.last, &r.feed) }
	node := func(n *Node) { add("n"+nodeString(n.Scope, n.Node), n.ModifyIndex, &record{node: n}) }
	entry := func(r *entryRow) { add("e"+r.key, r.entry.Head().ModifyIndex, &r.feed) }
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
	case TopicVirtuals:
		each(t.db, tableVirtual, "service_prefix", scope+topic.Key.Namespace+"\x00", func(v *VirtualIP) {
			add("v"+virtualString(v.Number), v.ModifyIndex, &record{virtual: v})
		})
	case TopicCA:
		if ca := first[*CAState](t.db, tableCA, "ca"); ca != nil {
			add("a", ca.ModifyIndex, &record{ca: ca.public()})
		}
	default:
		return nil, fmt.Errorf("%w: unknown kind of topic %q", ErrInvalid, topic.Kind)
	}
	return items, nil
}
