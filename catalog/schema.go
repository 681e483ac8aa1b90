// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"fmt"
	"strings"

	"github.com/hashicorp/go-memdb"
)

// The tables. Rows are immutable: a change inserts a new one.
const (
	tableNodes     = "nodes"     // *Node
	tableServices  = "services"  // *instanceRow
	tableChecks    = "checks"    // *Check
	tableEntries   = "entries"   // *entryRow
	tableNames     = "names"     // *nameRow, derived from services
	tableTopics    = "topics"    // *topicRow, in a topicTree
	tableCA        = "ca"        // *CAState, one
	tableAutopilot = "autopilot" // *AutopilotConfig, one
	tableCovered   = "covered"   // *coveredRow, in a replica

	tableKV         = "kv"         // *kvRow
	tableTombstones = "tombstones" // *tombstone
	tableSessions   = "sessions"   // *Session
	tableDelays     = "delays"     // *delayRow

	tableACL = "acl" // *aclRow
)

// instanceRow is a service with what counts for it, so that a read by name copies nothing.
type instanceRow struct {
	Instance
	key  string
	last uint64 // the last change of anything in it
	feed record // encoded once, for all feeds that send it as a change or as part of a topic

	id, name, connect rowID
	summed
}

func newInstanceRow(in Instance, key string, last uint64) *instanceRow {
	r := &instanceRow{Instance: in, key: key, last: last, id: rowID(key), name: rowID(nameString(in.Service.Name()))}
	if k, ok := in.Service.Destination(); ok {
		r.connect = rowID(nameString(k))
	}
	r.feed.instance = &r.Instance
	return r
}

// rowID is what a row goes by in an index, made once: memdb asks a row for each of them several times, when it comes and when it goes. It
// isn't written to.
type rowID []byte

type entryRow struct {
	entry Entry
	key   string
	feed  record // as an instanceRow's
}

func newEntryRow(e Entry, key string) *entryRow {
	return &entryRow{entry: e, key: key, feed: record{entry: e}}
}

// nameRow counts, in a server's store, the instances of a name and of each tag of it.
type nameRow struct {
	key   Key
	count int
	tags  map[string]int
	list  []string // the tags, sorted
}

// topicRow holds a topic's last change. It stays after the last thing in the topic is gone.
type topicRow struct {
	topic Topic
	index uint64
	summed
}

func newTopicRow(t Topic, index uint64) *topicRow { return &topicRow{topic: t, index: index} }

// metaRow is what there is one of. It is in no table.
type metaRow struct {
	index  uint64
	schema uint64
	reaped uint64 // the highest index of a tombstone that was forgotten
	// bootstrap is the index at which the first management token was made, 0 if it wasn't.
	bootstrap uint64
	// commit counts this store's commits since it began or was restored: it is of this process alone.
	commit uint64
}

type coveredRow struct{ topic Topic }

// Keys are the parts joined by NUL, which no name may contain: see checkName.
func join(parts ...string) string {
	n := len(parts)
	for _, p := range parts {
		n += len(p)
	}
	var b strings.Builder
	b.Grow(n)
	for _, p := range parts {
		b.WriteString(p)
		b.WriteByte(0)
	}
	return b.String()
}

func scopeString(s Scope) string { return join(s.Datacenter, s.Partition, s.Peer) }

// nodeString is the key of a node, and the prefix of the keys of what is on it.
func nodeString(s Scope, node string) string {
	return join(s.Datacenter, s.Partition, s.Peer, strings.ToLower(node))
}

// onNodeString is the key of a service or check.
func onNodeString(s Scope, node, id string) string {
	return join(s.Datacenter, s.Partition, s.Peer, strings.ToLower(node), s.Namespace, strings.ToLower(id))
}

func nameString(k Key) string {
	return join(k.Datacenter, k.Partition, k.Peer, k.Namespace, strings.ToLower(k.Name))
}

func entryString(kind string, k Key) string { return kind + "\x00" + nameString(k) }

func (t Topic) row() string { return string(t.Kind) + "\x00" + t.Entry + "\x00" + nameString(t.Key) }

// index makes a memdb index out of a function from a row to its key; ok false leaves the row out.
type index func(row any) (key string, ok bool)

func (f index) FromObject(row any) (bool, []byte, error) {
	key, ok := f(row)
	return ok, []byte(key), nil
}

func (index) FromArgs(args ...any) ([]byte, error) {
	if len(args) == 1 {
		if s, ok := args[0].(string); ok {
			return []byte(s), nil
		}
	}
	return nil, fmt.Errorf("catalog: an index takes one key, got %v", args)
}

func (f index) PrefixFromArgs(args ...any) ([]byte, error) { return f.FromArgs(args...) }

func rowIndex[T any](f func(T) (string, bool)) index {
	return func(row any) (string, bool) { return f(row.(T)) }
}

func rowKey[T any](f func(T) string) index {
	return func(row any) (string, bool) { return f(row.(T)), true }
}

// keptIndex is an index by what rows hold already; nil leaves a row out.
type keptIndex func(row any) rowID

func (f keptIndex) FromObject(row any) (bool, []byte, error) {
	id := f(row)
	return id != nil, id[:len(id):len(id)], nil
}

func (keptIndex) FromArgs(args ...any) ([]byte, error) { return index(nil).FromArgs(args...) }

func (f keptIndex) PrefixFromArgs(args ...any) ([]byte, error) { return f.FromArgs(args...) }

func keptID[T any](f func(T) rowID) keptIndex {
	return func(row any) rowID { return f(row.(T)) }
}

// manyIndex is an index by which a row has several keys.
type manyIndex func(row any) []string

func (f manyIndex) FromObject(row any) (bool, [][]byte, error) {
	var keys [][]byte
	for _, k := range f(row) {
		keys = append(keys, []byte(k))
	}
	return len(keys) > 0, keys, nil
}

func (manyIndex) FromArgs(args ...any) ([]byte, error) { return index(nil).FromArgs(args...) }

func table(name string, id memdb.Indexer, more ...*memdb.IndexSchema) *memdb.TableSchema {
	t := &memdb.TableSchema{Name: name, Indexes: map[string]*memdb.IndexSchema{
		"id": {Name: "id", Unique: true, Indexer: id},
	}}
	for _, ix := range more {
		t.Indexes[ix.Name] = ix
	}
	return t
}

func dbSchema() *memdb.DBSchema {
	tables := []*memdb.TableSchema{
		table(tableNodes, rowKey(func(n *Node) string { return nodeString(n.Scope, n.Node) }),
			&memdb.IndexSchema{Name: "uuid", AllowMissing: true, Unique: true, Indexer: rowIndex(func(n *Node) (string, bool) {
				return uuidString(n.Scope, n.ID), n.ID != ""
			})}),
		table(tableServices, keptID(func(r *instanceRow) rowID { return r.id }),
			&memdb.IndexSchema{Name: "name", Indexer: keptID(func(r *instanceRow) rowID { return r.name })},
			&memdb.IndexSchema{Name: "connect", AllowMissing: true, Indexer: keptID(func(r *instanceRow) rowID { return r.connect })},
			&memdb.IndexSchema{Name: "abroad", AllowMissing: true, Indexer: rowIndex(func(r *instanceRow) (string, bool) { return r.key, r.callsAbroad() })}),
		table(tableChecks, rowKey(checkString),
			&memdb.IndexSchema{Name: "service", Indexer: rowKey(func(c *Check) string {
				return onNodeString(c.Scope, c.Node, c.ServiceID)
			})}),
		table(tableEntries, rowKey(func(r *entryRow) string { return r.key })),
		table(tableNames, rowKey(func(r *nameRow) string { return nameString(r.key) })),
		table(tableCA, rowKey(func(*CAState) string { return "ca" })),
		table(tableAutopilot, rowKey(func(*AutopilotConfig) string { return "autopilot" })),
		table(tableKV, keptID(func(r *kvRow) rowID { return r.id }),
			&memdb.IndexSchema{Name: "session", AllowMissing: true, Indexer: rowIndex(func(r *kvRow) (string, bool) {
				return join(sessionString(r.Scope, r.Session)), r.Session != ""
			})}),
		table(tableACL, rowKey((*aclRow).key),
			&memdb.IndexSchema{Name: "unique", AllowMissing: true, Indexer: rowIndex(func(r *aclRow) (string, bool) {
				return join(r.Kind(), r.unique()), r.unique() != ""
			})},
			&memdb.IndexSchema{Name: "method", AllowMissing: true, Indexer: rowIndex(func(r *aclRow) (string, bool) {
				return join(strings.ToLower(r.method())), r.method() != ""
			})}),
		table(tableTombstones, rowKey(func(r *tombstone) string { return r.key })),
		table(tableDelays, rowKey(func(r *delayRow) string { return r.key })),
		table(tableSessions, rowKey(func(s *Session) string { return sessionString(s.Scope, s.ID) }),
			&memdb.IndexSchema{Name: "node", Indexer: rowKey(func(s *Session) string { return nodeString(s.Scope, s.Node) })},
			&memdb.IndexSchema{Name: "check", AllowMissing: true, Indexer: manyIndex(func(row any) []string { return row.(*Session).checkKeys() })}),
		table(tableQueries, rowKey(func(q *PreparedQuery) string { return strings.ToLower(q.ID) }),
			&memdb.IndexSchema{Name: "name", AllowMissing: true, Indexer: rowIndex(func(q *PreparedQuery) (string, bool) {
				return queryName(q), q.Name != "" || q.Template.Type != ""
			})},
			&memdb.IndexSchema{Name: "session", AllowMissing: true, Indexer: rowIndex(func(q *PreparedQuery) (string, bool) {
				return join(strings.ToLower(q.Session)), q.Session != ""
			})}),
		table(tableCoordinates, rowKey(coordinateString)),
		table(tableImports, rowKey(func(r *Imported) string { return nameString(r.Service) })),
		table(tablePeerings, rowKey(func(p *Peering) string { return peeringString(p.Partition, p.Name) })),
		virtualTable(),
		table(tableCovered, rowKey(func(r *coveredRow) string { return r.topic.row() })),
	}
	s := &memdb.DBSchema{Tables: make(map[string]*memdb.TableSchema, len(tables))}
	for _, t := range tables {
		s.Tables[t.Name] = t
	}
	return s
}

func uuidString(s Scope, id string) string { return scopeString(s) + strings.ToLower(id) + "\x00" }

func checkString(c *Check) string { return onNodeString(c.Scope, c.Node, c.CheckID) }

func serviceString(s *Service) string { return onNodeString(s.Scope, s.Node, s.ID) }

// newDB makes empty tables. They are a memdb snapshot, because only a primary memdb keeps track of watch channels, of which
// this package has no use (see waiters).
func newDB() (*memdb.MemDB, error) {
	db, err := memdb.NewMemDB(dbSchema())
	if err != nil {
		return nil, fmt.Errorf("catalog: %w", err)
	}
	return db.Snapshot(), nil
}

// The helpers below panic on memdb's errors: these only say that a table or index doesn't exist, or that a row has no key.

func first[T any](txn *memdb.Txn, table, key string) (row T) {
	v, err := txn.First(table, "id", key)
	if err != nil {
		panic(err)
	}
	if v != nil {
		row = v.(T)
	}
	return row
}

// each calls f for the rows whose key in the index equals key, or begins with it ("id_prefix"), in the order of their keys.
func each[T any](txn *memdb.Txn, table, index, key string, f func(T)) {
	it, err := txn.Get(table, index, key)
	if err != nil {
		panic(err)
	}
	for v := it.Next(); v != nil; v = it.Next() {
		f(v.(T))
	}
}

func insert(txn *memdb.Txn, table string, row any) {
	if err := txn.Insert(table, row); err != nil {
		panic(err)
	}
}

func remove(txn *memdb.Txn, table string, row any) {
	if err := txn.Delete(table, row); err != nil && err != memdb.ErrNotFound {
		panic(err)
	}
}
