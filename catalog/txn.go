// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/go-memdb"
)

// Txn is a consistent view of a store. What it returns is shared and immutable. Scopes and names that it is asked are filled in
// and folded. In a replica each read needs the topic that it records, and is ErrNotCovered without.
//
// One goroutine at a time may use a Txn that records; others can be shared.
type Txn struct {
	db      *memdb.Txn
	store   *Store
	state   *state
	dc      string
	epoch   uint64
	meta    metaRow
	topics  topicTree
	replica bool
	rec     *recording
	over    map[string]Entry // by row key; nil is deleted
}

type recording struct {
	seen map[Topic]struct{}
	list []Topic
}

// Record makes the Txn remember which topics it is asked for from now on, uncovered ones too.
func (t *Txn) Record() *Txn {
	t.rec = &recording{seen: map[Topic]struct{}{}}
	return t
}

// Topics are those recorded so far, each once, in the order of their first use.
func (t *Txn) Topics() []Topic {
	if t.rec == nil {
		return nil
	}
	return slices.Clone(t.rec.list)
}

// Reading gives the topics that f asks the view for that it is handed, those that were asked for before too. Where t records, it
// records them as ever.
func (t *Txn) Reading(f func(*Txn)) []Topic {
	same := *t
	same.rec = &recording{seen: map[Topic]struct{}{}}
	f(&same)
	for _, topic := range same.rec.list {
		t.note(topic)
	}
	return same.rec.list
}

// ResultIndex is the last change of any of the recorded topics, at least 1. It stays when a topic's last thing goes. A topic
// that nothing was ever in has index 1, so that changes elsewhere never look like a change of it.
func (t *Txn) ResultIndex() uint64 {
	result := uint64(1)
	if t.rec != nil {
		for _, topic := range t.rec.list {
			result = max(result, t.topicIndex(topic))
		}
	}
	return result
}

// ChangedSince gives the recorded topics that changed after an index, with their last change.
func (t *Txn) ChangedSince(after uint64) map[Topic]uint64 {
	out := map[Topic]uint64{}
	for _, topic := range t.Topics() {
		if i := t.topicIndex(topic); i > after {
			out[topic] = i
		}
	}
	return out
}

func (t *Txn) topicIndex(topic Topic) uint64 {
	if t.replica && !t.Covered(topic) {
		return 0
	}
	if topic.live() {
		return t.liveIndex(topic)
	}
	if r := t.topics.get(topic); r != nil {
		return max(r.index, 1)
	}
	return 1
}

// Index is the index of the last log entry that the view holds.
func (t *Txn) Index() uint64 { return t.meta.index }

// Position is the view's place in its store's history.
func (t *Txn) Position() Position { return Position{t.epoch, t.meta.index} }

// Schema is the cluster's schema version.
func (t *Txn) Schema() uint64 { return t.meta.schema }

// Datacenter fills in scopes that name none.
func (t *Txn) Datacenter() string { return t.dc }

// Covered says whether reads that need the topic have an answer here. In a server's store that is always so.
func (t *Txn) Covered(topic Topic) bool {
	if !t.replica {
		return true
	}
	c, err := topic.canonical(t.dc)
	return err == nil && first[*coveredRow](t.db, tableCovered, c.row()) != nil
}

// CoveredTopics are the topics that a replica holds, in a fixed order.
func (t *Txn) CoveredTopics() []Topic {
	var list []Topic
	each(t.db, tableCovered, "id_prefix", "", func(r *coveredRow) { list = append(list, r.topic) })
	return list
}

// note records a topic.
func (t *Txn) note(topic Topic) {
	if t.rec == nil {
		return
	}
	if _, ok := t.rec.seen[topic]; !ok {
		t.rec.seen[topic] = struct{}{}
		t.rec.list = append(t.rec.list, topic)
	}
}

// use records a topic and checks its coverage.
func (t *Txn) use(topic Topic) error {
	t.note(topic)
	if t.replica && first[*coveredRow](t.db, tableCovered, topic.row()) == nil {
		return fmt.Errorf("%w: %s", ErrNotCovered, topic)
	}
	return nil
}

func (t *Txn) key(k Key) Key {
	k.Scope = k.Scope.Default(t.dc)
	return k
}

// Node gives a node's record; nil if there is none.
func (t *Txn) Node(k Key) (*Node, error) {
	k = t.key(k)
	if err := t.use(NodeTopic(k)); err != nil {
		return nil, err
	}
	return first[*Node](t.db, tableNodes, nodeString(k.Scope, k.Name)), nil
}

// Nodes lists the scope's nodes by name.
func (t *Txn) Nodes(s Scope) ([]*Node, error) {
	s = s.Default(t.dc)
	if err := t.use(NodesTopic(s)); err != nil {
		return nil, err
	}
	var out []*Node
	each(t.db, tableNodes, "id_prefix", scopeString(s), func(n *Node) { out = append(out, n) })
	return out, nil
}

// NodeServices lists a node's services, of all namespaces, by namespace and ID.
func (t *Txn) NodeServices(node Key) ([]*Service, error) {
	node = t.key(node)
	if err := t.use(NodeTopic(node)); err != nil {
		return nil, err
	}
	var out []*Service
	each(t.db, tableServices, "id_prefix", nodeString(node.Scope, node.Name), func(r *instanceRow) { out = append(out, r.Service) })
	return out, nil
}

// NodeChecks lists a node's checks, its services' too, by namespace and ID.
func (t *Txn) NodeChecks(node Key) ([]*Check, error) {
	node = t.key(node)
	if err := t.use(NodeTopic(node)); err != nil {
		return nil, err
	}
	var out []*Check
	each(t.db, tableChecks, "id_prefix", nodeString(node.Scope, node.Name), func(c *Check) { out = append(out, c) })
	return out, nil
}

// NodeService gives one of a node's services, by its namespace and ID; nil if there is none.
func (t *Txn) NodeService(node Key, namespace, id string) (*Service, error) {
	node = t.key(node)
	if err := t.use(NodeTopic(node)); err != nil {
		return nil, err
	}
	node.Namespace = cmp.Or(namespace, DefaultNamespace)
	if r := first[*instanceRow](t.db, tableServices, onNodeString(node.Scope, node.Name, id)); r != nil {
		return r.Service, nil
	}
	return nil, nil
}

// NodeCheck gives one of a node's checks, by its namespace (that of its service) and ID; nil if there is none.
func (t *Txn) NodeCheck(node Key, namespace, id string) (*Check, error) {
	node = t.key(node)
	if err := t.use(NodeTopic(node)); err != nil {
		return nil, err
	}
	node.Namespace = cmp.Or(namespace, DefaultNamespace)
	return first[*Check](t.db, tableChecks, onNodeString(node.Scope, node.Name, id)), nil
}

// ServiceNames gives the names of the scope's services with all tags of their instances, sorted.
func (t *Txn) ServiceNames(s Scope) (map[string][]string, error) {
	s = s.Default(t.dc)
	if err := t.use(ServicesTopic(s)); err != nil {
		return nil, err
	}
	out := map[string][]string{}
	each(t.db, tableNames, "id_prefix", scopeString(s)+s.Namespace+"\x00", func(r *nameRow) { out[r.key.Name] = r.list })
	return out, nil
}

// Instances lists the instances of a service name, by node and ID.
func (t *Txn) Instances(service Key) ([]*Instance, error) {
	service = t.key(service)
	if err := t.use(ServiceTopic(service)); err != nil {
		return nil, err
	}
	return t.instances("name", service), nil
}

// ConnectInstances lists the instances that can be dialled over mutual TLS for a service name: sidecars of it, and native ones.
func (t *Txn) ConnectInstances(service Key) ([]*Instance, error) {
	service = t.key(service)
	if err := t.use(ConnectTopic(service)); err != nil {
		return nil, err
	}
	return t.instances("connect", service), nil
}

func (t *Txn) instances(index string, service Key) []*Instance {
	var out []*Instance
	each(t.db, tableServices, index, nameString(service), func(r *instanceRow) { out = append(out, &r.Instance) })
	return out
}

// Entry gives a config entry; nil if there is none.
func (t *Txn) Entry(kind string, k Key) (Entry, error) {
	k = t.key(k)
	if err := t.use(EntryTopic(kind, k)); err != nil {
		return nil, err
	}
	key := entryString(kind, k)
	if e, ok := t.over[key]; ok {
		return e, nil
	}
	if r := first[*entryRow](t.db, tableEntries, key); r != nil {
		return r.entry, nil
	}
	return nil, nil
}

// EntryAs is Entry with the kind's own type; its zero value (nil) if there is none.
func EntryAs[T Entry](t *Txn, kind string, k Key) (T, error) {
	var none T
	e, err := t.Entry(kind, k)
	if err != nil || e == nil {
		return none, err
	}
	v, ok := e.(T)
	if !ok {
		return none, fmt.Errorf("%w: a %s is no %T", ErrInvalid, kind, none)
	}
	return v, nil
}

// Entries lists the config entries of a kind ("" for all kinds) in a scope, by kind and name.
func (t *Txn) Entries(kind string, s Scope) ([]Entry, error) {
	s = s.Default(t.dc)
	if err := t.use(EntriesTopic(kind, s)); err != nil {
		return nil, err
	}
	kinds := EntryKinds()
	slices.Sort(kinds)
	if kind != "" {
		kinds = []string{kind}
	}
	var out []Entry
	for _, k := range kinds {
		out = append(out, t.entriesOf(k, s)...)
	}
	return out, nil
}

func (t *Txn) entriesOf(kind string, s Scope) []Entry {
	return t.entriesUnder(kind + "\x00" + scopeString(s) + s.Namespace + "\x00")
}

func (t *Txn) entriesUnder(prefix string) []Entry {
	var out []Entry
	each(t.db, tableEntries, "id_prefix", prefix, func(r *entryRow) {
		if _, ok := t.over[r.key]; !ok {
			out = append(out, r.entry)
		}
	})
	if len(t.over) == 0 {
		return out
	}
	for key, e := range t.over {
		if e != nil && strings.HasPrefix(key, prefix) {
			out = append(out, e)
		}
	}
	slices.SortFunc(out, func(a, b Entry) int { return strings.Compare(nameString(a.Head().Key()), nameString(b.Head().Key())) })
	return out
}

// CA gives the certificate authority's state; nil before there is any. In a replica it has no private part.
func (t *Txn) CA() (*CAState, error) {
	if err := t.use(CATopic()); err != nil {
		return nil, err
	}
	return first[*CAState](t.db, tableCA, "ca"), nil
}

// With gives a view in which the entries are as if they had been written. It records into the same list as t.
func (t *Txn) With(entries ...Entry) *Txn {
	n := t.overlay()
	for _, e := range entries {
		n.over[entryString(e.EntryKind(), t.key(e.Head().Key()))] = e
	}
	return n
}

// Without gives a view in which the entry is as if it had been deleted. It records into the same list as t.
func (t *Txn) Without(kind string, k Key) *Txn {
	n := t.overlay()
	n.over[entryString(kind, t.key(k))] = nil
	return n
}

func (t *Txn) overlay() *Txn {
	n := *t
	n.over = make(map[string]Entry, len(t.over)+1)
	for k, e := range t.over {
		n.over[k] = e
	}
	return &n
}
