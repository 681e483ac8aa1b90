// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/weftmesh/weft/internal/guard"
)

// unit is one command's changes, held back until all of it has been checked: until flush, the transaction is untouched.
type unit struct {
	w           *write
	nodes       slots[*Node]
	services    slots[*instanceRow] // of the new rows, only Service counts before flush
	checks      slots[*Check]
	entries     slots[*entryRow]
	kv          slots[*kvRow]
	sessions    slots[*Session]
	queries     slots[*PreparedQuery]
	peerings    slots[*Peering]
	imports     slots[*Imported]
	coordinates slots[*NodeCoordinate]
	acl         slots[*aclRow]
	delays      map[string]int64 // lock delays that begin with this command, by row key
	ca          *CAState         // nil: unchanged
	schema      uint64
	autopilot   *AutopilotConfig // nil: unchanged
	virtual     []*VirtualIP     // rows with other manual addresses
	// abandoned: a transaction that failed, with a result that says why.
	abandoned bool
	reap      *uint64

	bootstrapped bool // the ACL system, by this command
	copied       bool // what it writes was validated in the primary datacenter, whose namespaces may be others

	onService map[string][]*slot[*Check] // the checks that this command wrote, by their service
	dirtied   map[string]bool            // nodes all of whose services are marked
}

// slot is a row as it was and as it will be. changed is by identity: what isn't replaced stays.
type slot[T comparable] struct {
	key      string
	old, new T
	dirty    bool // to be written again though not replaced
}

func (s *slot[T]) changed() bool { return s.old != s.new }

type slots[T comparable] struct {
	table string
	list  []*slot[T]
	by    map[string]*slot[T] // nil while the list is short: most commands are about one row or two
}

const shortList = 8

func (s *slots[T]) find(key string) *slot[T] {
	if s.by != nil {
		return s.by[key]
	}
	for _, x := range s.list {
		if x.key == key {
			return x
		}
	}
	return nil
}

func (s *slots[T]) at(w *write, key string) *slot[T] {
	if x := s.find(key); x != nil {
		return x
	}
	return s.add(key, first[T](w.txn, s.table, key))
}

func (s *slots[T]) put(key string, row T) *slot[T] {
	if x := s.find(key); x != nil {
		return x
	}
	return s.add(key, row)
}

func (s *slots[T]) add(key string, row T) *slot[T] {
	x := &slot[T]{key: key, old: row, new: row}
	s.list = append(s.list, x)
	switch {
	case s.by != nil:
		s.by[key] = x
	case len(s.list) > shortList:
		s.by = make(map[string]*slot[T], 2*len(s.list))
		for _, x := range s.list {
			s.by[x.key] = x
		}
	}
	return x
}

func newUnit(w *write) *unit {
	u := &unit{w: w}
	u.nodes.table, u.services.table, u.checks.table, u.entries.table = tableNodes, tableServices, tableChecks, tableEntries
	u.kv.table, u.sessions.table, u.queries.table, u.peerings.table = tableKV, tableSessions, tableQueries, tablePeerings
	u.acl.table, u.imports.table = tableACL, tableImports
	u.coordinates.table = tableCoordinates
	return u
}

func (u *unit) run(body Body) (any, error) {
	switch c := body.(type) {
	case *Register:
		return nil, u.register(c)
	case *SetEntries:
		return nil, u.setEntries(c)
	case *Import:
		return nil, u.importService(c)
	case *Deregister:
		return nil, u.deregister(c)
	case *Sync:
		return u.sync(c)
	case *SetEntry:
		return u.setEntry(c.Entry.Entry, c.CAS)
	case *DeleteEntry:
		return u.deleteEntry(c)
	case *SetIntention:
		return u.setIntention(c)
	case *DeleteIntention:
		return u.deleteIntention(c)
	case *KVOp:
		return u.kvOp(c)
	case *Transaction:
		result := u.transaction(c)
		u.abandoned = len(result.Errors) > 0
		return result, nil
	case *CreateSession:
		return u.createSession(c.Session)
	case *DestroySession:
		u.destroySession(sessionString(c.Scope.Default(u.w.dc), c.ID))
		return nil, nil
	case *SetQuery:
		return nil, u.setQuery(c)
	case *DeleteQuery:
		return nil, u.deleteQuery(c.ID)
	case *SetCoordinates:
		u.setCoordinates(c)
		return nil, nil
	case *SetPeering:
		return u.setPeering(c.Peering)
	case *DeletePeering:
		u.peerings.at(u.w, peeringString(c.Partition, c.Name)).new = nil
		return nil, nil
	case *AssignVirtualIPs:
		return u.assignVirtual(c)
	case *Reap:
		u.reap = &c.Tombstones
		return nil, nil
	case *SetACL:
		return u.setACL(c)
	case *DeleteACL:
		return u.deleteACL(c)
	case *BootstrapACL:
		return u.bootstrapACL(c)
	case *UseJoin:
		return u.useJoin(c)
	case *SetNamespace:
		return u.setNamespace(c)
	case *DeleteNamespace:
		return nil, u.deleteNamespace(c)
	case *SetCA:
		return u.setCA(c)
	case *SetAutopilot:
		return u.setAutopilot(c)
	case *SetCluster:
		return u.setCluster(c)
	case *RaiseSchema:
		u.schema = max(c.Version, u.w.meta.schema)
		return u.schema, nil
	}
	if value, err, known := u.runNext(body); known {
		return value, err
	}
	return nil, fmt.Errorf("%w: no such command %T", ErrInvalid, body)
}

func (u *unit) nodeServices(node string) []*slot[*instanceRow] {
	each(u.w.txn, tableServices, "id_prefix", node, func(r *instanceRow) { u.services.put(r.key, r) })
	return onNode(&u.services, node)
}

func (u *unit) nodeChecks(node string) []*slot[*Check] {
	each(u.w.txn, tableChecks, "id_prefix", node, func(c *Check) { u.checks.put(checkString(c), c) })
	return onNode(&u.checks, node)
}

// serviceChecks are a service's checks as they will be.
func (u *unit) serviceChecks(service string) []*slot[*Check] {
	each(u.w.txn, tableChecks, "service", service, func(c *Check) {
		x := u.checks.put(checkString(c), c)
		if u.onService == nil {
			u.onService = map[string][]*slot[*Check]{}
		}
		if !slices.Contains(u.onService[service], x) {
			u.onService[service] = append(u.onService[service], x)
		}
	})
	var out []*slot[*Check]
	for _, x := range u.onService[service] {
		if x.new != nil && onNodeString(x.new.Scope, x.new.Node, x.new.ServiceID) == service && !slices.Contains(out, x) {
			out = append(out, x)
		}
	}
	return out
}

// dirty marks all of a node's services to be put together again.
func (u *unit) dirty(node string) {
	if u.dirtied[node] {
		return
	}
	if u.dirtied == nil {
		u.dirtied = map[string]bool{}
	}
	u.dirtied[node] = true
	for _, s := range u.nodeServices(node) {
		s.dirty = s.new != nil
	}
}

func onNode[T comparable](s *slots[T], node string) []*slot[T] {
	var out []*slot[T]
	for _, x := range s.list {
		if strings.HasPrefix(x.key, node) {
			out = append(out, x)
		}
	}
	return out
}

// stamp sets a new row's indexes.
func (u *unit) stamp(ix *Indexes, create uint64) {
	if create == 0 {
		create = u.w.index
	}
	ix.CreateIndex, ix.ModifyIndex = create, u.w.index
}

// same says whether a new record is equal to the one that is there but for its indexes, which are the other's afterwards. Pointers: a copy of each
// was a fifteenth of what a registration allocated.
func same[T any](old, now *T, ix func(*T) *Indexes) bool {
	*ix(now) = *ix(old)
	return deepEqual(old, now) && !guard.Off("C128")
}

// flush writes all, and names the topics that this touched. Nothing in it can fail.
func (u *unit) flush() {
	w := u.w
	for _, gone := range []bool{true, false} { // a node that goes first gives up its ID
		for _, n := range u.nodes.list {
			if n.changed() && (n.new == nil) == gone {
				u.flushNode(n)
			}
		}
	}
	for _, c := range u.checks.list {
		if c.changed() {
			u.flushCheck(c)
		}
	}
	for _, s := range u.services.list {
		if s.changed() || s.dirty {
			u.flushService(s)
		}
	}
	u.flushVirtual()
	for _, e := range u.entries.list {
		if e.changed() {
			u.flushEntry(e)
		}
	}
	for _, s := range u.sessions.list {
		if s.changed() {
			u.flushSession(s)
		}
	}
	for _, s := range u.peerings.list {
		if s.changed() {
			u.flushPeering(s)
		}
	}
	for _, s := range u.imports.list {
		if s.changed() {
			u.flushImport(s)
		}
	}
	for _, s := range u.queries.list {
		if s.changed() {
			u.flushQuery(s)
		}
	}
	for _, s := range u.coordinates.list {
		if s.changed() {
			u.flushCoordinate(s)
		}
	}
	for _, s := range u.kv.list {
		if s.changed() {
			u.flushKV(s)
		}
	}
	for _, s := range u.acl.list {
		if s.changed() {
			u.flushACL(s)
		}
	}
	if u.bootstrapped {
		w.meta.bootstrap = w.index
	}
	for _, key := range sorted(u.delays) {
		insert(w.txn, tableDelays, &delayRow{key, u.delays[key]})
	}
	if u.reap != nil {
		u.reapNow(*u.reap)
	}
	if u.ca != nil {
		insert(w.txn, tableCA, u.ca)
		w.emit(CATopic(), "a", &record{ca: u.ca.public()})
	}
	if u.autopilot != nil {
		insert(w.txn, tableAutopilot, u.autopilot)
	}
	if u.schema != 0 {
		w.meta.schema = u.schema
	}
}

func (u *unit) flushNode(n *slot[*Node]) {
	w := u.w
	row := cmpOr(n.new, n.old)
	topics := []Topic{NodesTopic(row.Scope), NodeTopic(row.Key())}
	var rec *record
	if n.new != nil {
		insert(w.txn, tableNodes, n.new)
		rec = &record{node: n.new}
	} else {
		remove(w.txn, tableNodes, n.old)
	}
	for _, t := range topics {
		w.emit(t, "n"+n.key, rec)
	}
	u.dirty(n.key)
}

func (u *unit) flushCheck(c *slot[*Check]) {
	w := u.w
	row := cmpOr(c.new, c.old)
	var rec *record
	if c.new != nil {
		insert(w.txn, tableChecks, c.new)
		rec = &record{check: c.new}
	} else {
		remove(w.txn, tableChecks, c.old)
	}
	w.emit(NodeTopic(row.NodeKey()), "c"+c.key, rec)
	for _, x := range []*Check{c.old, c.new} {
		switch {
		case x == nil:
		case x.ServiceID == "":
			u.dirty(nodeString(x.Scope, x.Node))
		default:
			s := u.services.at(w, onNodeString(x.Scope, x.Node, x.ServiceID))
			s.dirty = s.new != nil
		}
	}
}

func (u *unit) flushService(s *slot[*instanceRow]) {
	w, id := u.w, "s"+s.key
	var rec *record
	if s.new != nil {
		if k, ok := s.new.Service.Destination(); ok && s.changed() && k.Datacenter == w.dc && s.new.Service.VirtualIP == "" {
			s.new.Service.VirtualIP = u.giveVirtual(k)
		}
		in := Instance{Service: s.new.Service}
		if s.old != nil && !s.dirty { // neither node nor checks have changed
			in.Node, in.Checks = s.old.Node, s.old.Checks
		} else {
			in = u.assemble(s.new.Service)
		}
		s.new = newInstanceRow(in, s.key, w.index)
		insert(w.txn, tableServices, s.new)
		rec = &s.new.feed
	} else {
		remove(w.txn, tableServices, s.old)
	}
	var rooms [2][3]Topic
	before, after := instanceTopics(rooms[0][:0], s.old), instanceTopics(rooms[1][:0], s.new)
	for _, t := range before {
		if !slices.Contains(after, t) {
			w.emit(t, id, nil)
		}
	}
	for _, t := range after {
		w.emit(t, id, rec)
	}
	if s.old.callsAbroad() || s.new.callsAbroad() {
		w.touch(abroadTopic)
	}
	u.recount(s.old, s.new)
}

// assemble puts an instance together from the tables.
func (u *unit) assemble(svc *Service) Instance {
	in := Instance{Service: svc, Node: first[*Node](u.w.txn, tableNodes, nodeString(svc.Scope, svc.Node))}
	add := func(c *Check) { in.Checks = append(in.Checks, c) }
	own := svc.NodeKey().Scope
	each(u.w.txn, tableChecks, "service", onNodeString(own, svc.Node, ""), add)
	each(u.w.txn, tableChecks, "service", serviceString(svc), add)
	return in
}

// instanceTopics appends the topics that an instance is in.
func instanceTopics(topics []Topic, r *instanceRow) []Topic {
	if r == nil {
		return topics
	}
	topics = append(topics, NodeTopic(r.Service.NodeKey()), ServiceTopic(r.Service.Name()))
	if k, ok := r.Service.Destination(); ok {
		topics = append(topics, ConnectTopic(k))
	}
	return topics
}

// recount keeps the table of names. Its topic changes only if what a reader sees does.
func (u *unit) recount(old, now *instanceRow) {
	if old != nil && now != nil && nameString(old.Service.Name()) == nameString(now.Service.Name()) &&
		slices.Equal(old.Service.Tags, now.Service.Tags) {
		return
	}
	if old != nil {
		u.count(old.Service, -1)
	}
	if now != nil {
		u.count(now.Service, 1)
	}
}

func (u *unit) count(s *Service, by int) {
	w, key := u.w, s.Name()
	k := nameString(key)
	old := first[*nameRow](w.txn, tableNames, k)
	row := &nameRow{key: key, tags: map[string]int{}}
	if old != nil {
		row.key, row.count = old.key, old.count
		maps.Copy(row.tags, old.tags)
	}
	row.count += by
	for _, tag := range s.Tags {
		if row.tags[tag] += by; row.tags[tag] <= 0 {
			delete(row.tags, tag)
		}
	}
	topic := ServicesTopic(key.Scope)
	if row.count <= 0 {
		remove(w.txn, tableNames, old)
		w.emit(topic, "m"+k, nil)
		return
	}
	row.list = slices.Sorted(maps.Keys(row.tags))
	insert(w.txn, tableNames, row)
	if old == nil || !slices.Equal(old.list, row.list) {
		w.emit(topic, "m"+k, &record{name: row})
	}
}

func (u *unit) flushEntry(e *slot[*entryRow]) {
	w := u.w
	row := cmpOr(e.new, e.old)
	var rec *record
	if e.new != nil {
		insert(w.txn, tableEntries, e.new)
		rec = &e.new.feed
	} else {
		remove(w.txn, tableEntries, e.old)
	}
	w.touch(abroadTopic)
	for _, t := range entryTopics(row.entry) {
		w.emit(t, "e"+e.key, rec)
	}
}

func entryTopics(e Entry) []Topic {
	kind, head := e.EntryKind(), e.Head()
	return []Topic{EntryTopic(kind, head.Key()), EntriesTopic(kind, head.Scope), EntriesTopic("", head.Scope)}
}

func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

func cmpOr[T comparable](a, b T) T {
	var zero T
	if a != zero {
		return a
	}
	return b
}
