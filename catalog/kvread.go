// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"slices"
	"strings"
)

// The local topics: they can be read and waited on where the catalog is, and aren't in feeds.
const (
	// TopicKV is one key of the key-value store. Its index is the entry's ModifyIndex, or that of its deletion.
	TopicKV TopicKind = "kv"
	// TopicKVPrefix is the keys that begin with Key.Name. Its index is the highest among them, and of deletions.
	TopicKVPrefix TopicKind = "kv-prefix"
	// TopicKVTable is all keys of a namespace.
	TopicKVTable TopicKind = "kv-table"
	// TopicSession is one session, TopicSessions all of a namespace, TopicNodeSessions those on a node.
	TopicSession      TopicKind = "session"
	TopicSessions     TopicKind = "sessions"
	TopicNodeSessions TopicKind = "node-sessions"
	// TopicAllSessions is the sessions of all namespaces.
	TopicAllSessions TopicKind = "all-sessions"
)

var allSessionsTopic = Topic{Kind: TopicAllSessions}

// KVTopic is one key.
func KVTopic(k Key) Topic { return Topic{Kind: TopicKV, Key: k} }

// KVPrefixTopic is the keys that begin with a name.
func KVPrefixTopic(k Key) Topic { return Topic{Kind: TopicKVPrefix, Key: k} }

func kvTopic(s Scope) Topic { return Topic{Kind: TopicKVTable, Key: Key{Scope: s}} }

// SessionTopic is one session.
func SessionTopic(s Scope, id string) Topic { return Topic{Kind: TopicSession, Key: s.Name(id).Fold()} }

// SessionsTopic is a namespace's sessions.
func SessionsTopic(s Scope) Topic { return Topic{Kind: TopicSessions, Key: Key{Scope: s}} }

// NodeSessionsTopic is the sessions on a node.
func NodeSessionsTopic(s Scope, node string) Topic {
	return Topic{Kind: TopicNodeSessions, Key: s.Name(node).Fold()}
}

// local says whether a topic is in no feed.
func (t Topic) local() bool {
	switch t.Kind {
	case TopicKV, TopicKVPrefix, TopicKVTable, TopicSession, TopicSessions, TopicNodeSessions, TopicAllSessions, TopicQuery, TopicQueries, TopicPeerings, TopicACL, TopicACLChanged, TopicCoordinates, TopicVirtual,
		TopicImports, TopicAbroad, TopicNamespaces:
		return true
	}
	return false
}

// live says whether a topic's index is found in the rows of the topic, not kept beside them.
func (t Topic) live() bool {
	return t.Kind == TopicKV || t.Kind == TopicKVPrefix || t.Kind == TopicSession || t.Kind == TopicQuery
}

// liveIndex is the index of a live topic, at least 1.
func (t *Txn) liveIndex(topic Topic) uint64 {
	k := topic.Key
	switch topic.Kind {
	case TopicKV:
		key := kvString(k.Scope, Raw(k.Name))
		if r := first[*kvRow](t.db, tableKV, key); r != nil {
			return r.ModifyIndex
		}
		if r := first[*tombstone](t.db, tableTombstones, key); r != nil {
			return r.index
		}
	case TopicKVPrefix:
		last := uint64(1)
		key := kvString(k.Scope, Raw(k.Name))
		each(t.db, tableKV, "id_prefix", key, func(r *kvRow) { last = max(last, r.ModifyIndex) })
		each(t.db, tableTombstones, "id_prefix", key, func(r *tombstone) { last = max(last, r.index) })
		return last
	case TopicSession:
		if s := first[*Session](t.db, tableSessions, sessionString(k.Scope, k.Name)); s != nil {
			return s.ModifyIndex
		}
		return t.topicIndex(SessionsTopic(k.Scope))
	case TopicQuery:
		if q := first[*PreparedQuery](t.db, tableQueries, k.Name); q != nil {
			return q.ModifyIndex
		}
		return t.topicIndex(queriesTopic)
	}
	return 1
}

// sameLive says whether a live topic is in now as it was in t.
func (t *Txn) sameLive(now *Txn, topic Topic) bool {
	table := kvTopic(topic.Key.Scope)
	switch topic.Kind {
	case TopicSession:
		table = SessionsTopic(topic.Key.Scope)
	case TopicQuery:
		table = queriesTopic
	}
	if now.topics.get(table) == t.topics.get(table) {
		return true
	}
	return now.liveIndex(topic) == t.liveIndex(topic)
}

// Regressed says whether a reader that saw index may have missed that something which t has read was deleted: the deletion was
// forgotten meanwhile (see Reap), so that the index is lower than it was.
func (t *Txn) Regressed(index uint64) bool {
	if t.rec == nil || index > t.meta.reaped {
		return false
	}
	keys := slices.ContainsFunc(t.rec.list, func(topic Topic) bool { return topic.Kind == TopicKV || topic.Kind == TopicKVPrefix })
	return keys && t.ResultIndex() < index
}

// Reaped is the highest index of a deletion that was forgotten.
func (t *Txn) Reaped() uint64 { return t.meta.reaped }

// KV gives a key's entry; nil if there is none.
func (t *Txn) KV(k Key) (*KVEntry, error) {
	k = t.key(k)
	if err := t.use(KVTopic(k)); err != nil {
		return nil, err
	}
	if r := first[*kvRow](t.db, tableKV, kvString(k.Scope, Raw(k.Name))); r != nil {
		return &r.KVEntry, nil
	}
	return nil, nil
}

// KVList lists the entries whose keys begin with a name, in the order of their bytes.
func (t *Txn) KVList(prefix Key) ([]*KVEntry, error) {
	prefix = t.key(prefix)
	if err := t.use(KVPrefixTopic(prefix)); err != nil {
		return nil, err
	}
	var out []*KVEntry
	each(t.db, tableKV, "id_prefix", kvString(prefix.Scope, Raw(prefix.Name)), func(r *kvRow) { out = append(out, &r.KVEntry) })
	return out, nil
}

// KVKeys lists the keys that begin with a name. With a separator, a key is cut behind the first one after the prefix, and each
// result is there once.
func (t *Txn) KVKeys(prefix Key, separator string) ([]string, error) {
	prefix = t.key(prefix)
	if err := t.use(KVPrefixTopic(prefix)); err != nil {
		return nil, err
	}
	var out []string
	each(t.db, tableKV, "id_prefix", kvString(prefix.Scope, Raw(prefix.Name)), func(r *kvRow) {
		key := string(r.Key)
		if separator != "" {
			if i := strings.Index(key[len(prefix.Name):], separator); i >= 0 {
				key = key[:len(prefix.Name)+i+len(separator)]
				if len(out) > 0 && out[len(out)-1] == key {
					return
				}
			}
		}
		out = append(out, key)
	})
	return out, nil
}

// Session gives a session; nil if there is none.
func (t *Txn) Session(s Scope, id string) (*Session, error) {
	s = s.Default(t.dc)
	if err := t.use(SessionTopic(s, id)); err != nil {
		return nil, err
	}
	return first[*Session](t.db, tableSessions, sessionString(s, id)), nil
}

// Sessions lists the sessions of a namespace by ID.
func (t *Txn) Sessions(s Scope) ([]*Session, error) {
	s = s.Default(t.dc)
	if err := t.use(SessionsTopic(s)); err != nil {
		return nil, err
	}
	var out []*Session
	each(t.db, tableSessions, "id_prefix", nameSpaceString(s), func(x *Session) { out = append(out, x) })
	return out, nil
}

// AllSessions lists the sessions of all namespaces.
func (t *Txn) AllSessions() ([]*Session, error) {
	if err := t.use(allSessionsTopic); err != nil {
		return nil, err
	}
	var out []*Session
	each(t.db, tableSessions, "id_prefix", "", func(x *Session) { out = append(out, x) })
	return out, nil
}

// NodeSessions lists the sessions on a node by ID.
func (t *Txn) NodeSessions(node Key) ([]*Session, error) {
	node = t.key(node)
	if err := t.use(NodeSessionsTopic(node.Scope, node.Name)); err != nil {
		return nil, err
	}
	var out []*Session
	each(t.db, tableSessions, "node", nodeString(node.Scope, node.Name), func(x *Session) {
		if x.Namespace == node.Namespace {
			out = append(out, x)
		}
	})
	slices.SortFunc(out, func(a, b *Session) int { return strings.Compare(a.ID, b.ID) })
	return out, nil
}

// Reapable says whether Reap with this index would forget anything.
func (t *Txn) Reapable(upTo uint64) bool {
	if v, err := t.db.First(tableDelays, "id_prefix", ""); err != nil || v != nil {
		return err == nil
	}
	it, err := t.db.Get(tableTombstones, "id_prefix", "")
	if err != nil {
		panic(err)
	}
	for v := it.Next(); v != nil; v = it.Next() {
		if v.(*tombstone).index <= upTo {
			return true
		}
	}
	return false
}
