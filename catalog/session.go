// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"cmp"
	"slices"
	"strings"
	"time"
)

// What becomes of the keys that a session holds when it ends.
const (
	SessionRelease = "release"
	SessionDelete  = "delete"
)

// The bounds of sessions.
const (
	MaxLockDelay     = 60 * time.Second
	DefaultLockDelay = 15 * time.Second
	MinSessionTTL    = 10 * time.Second
	MaxSessionTTL    = 24 * time.Hour
)

// Session is a contract that ends with what it depends on: its node, its checks, its time to live. Its key is Scope and ID.
type Session struct {
	Scope
	ID            string
	Name          string
	Node          string
	LockDelay     time.Duration
	Behavior      string         // SessionRelease or SessionDelete
	TTL           string         // as it was given; "" for none
	NodeChecks    []string       `json:",omitempty"`
	ServiceChecks []ServiceCheck `json:",omitempty"`
	Indexes
}

// ServiceCheck names a check of a service on a session's node.
type ServiceCheck struct {
	ID        string
	Namespace string `json:",omitempty"`
}

// NodeKey is the key of the session's node.
func (s *Session) NodeKey() Key { return nodeKey(s.Scope, s.Node) }

// Life is the session's time to live; 0 is for ever.
func (s *Session) Life() time.Duration {
	d, err := time.ParseDuration(s.TTL)
	if err != nil {
		return 0
	}
	return d
}

// checkKeys are the row keys of the checks that the session depends on.
func (s *Session) checkKeys() []string {
	var out []string
	node := s.NodeKey().Scope
	for _, id := range s.NodeChecks {
		out = append(out, onNodeString(node, s.Node, id))
	}
	for _, c := range s.ServiceChecks {
		scope := node
		scope.Namespace = cmp.Or(c.Namespace, DefaultNamespace)
		out = append(out, onNodeString(scope, s.Node, c.ID))
	}
	return out
}

// CreateSession makes a session, which was completed and validated before. Its node and checks must exist, and no check may be
// critical. The result's value is the ID.
type CreateSession struct{ Session Session }

// DestroySession ends a session. One that isn't there is no error. The result has no value.
type DestroySession struct {
	Scope Scope `json:",omitzero"`
	ID    string
}

func (CreateSession) commandType() string  { return "create-session" }
func (DestroySession) commandType() string { return "destroy-session" }

func sessionString(s Scope, id string) string { return nameSpaceString(s) + strings.ToLower(id) }

func (u *unit) createSession(s Session) (any, error) {
	s.Scope = s.Scope.Default(u.w.dc)
	if err := firstError(checkName("session ID", s.ID), checkScope(s.Scope), u.home(s.Scope)); err != nil {
		return nil, err
	}
	switch s.Behavior = cmp.Or(s.Behavior, SessionRelease); s.Behavior {
	case SessionRelease, SessionDelete:
	default:
		return nil, invalidf("Invalid Behavior setting '%s'", s.Behavior)
	}
	slot := u.sessions.at(u.w, sessionString(s.Scope, s.ID))
	if slot.new != nil {
		return nil, faultf(ErrExists, "session %s exists", s.ID)
	}
	node := s.NodeKey()
	if s.Node == "" || u.nodes.at(u.w, nodeString(node.Scope, s.Node)).new == nil {
		return nil, invalidf("Missing node registration")
	}
	ids := slices.Clone(s.NodeChecks)
	for _, c := range s.ServiceChecks {
		ids = append(ids, c.ID)
	}
	for i, key := range s.checkKeys() { // in the order of the IDs
		switch c := u.checks.at(u.w, key).new; {
		case c == nil:
			return nil, invalidf("Missing check '%s' registration", ids[i])
		case c.Status == HealthCritical:
			return nil, invalidf("Check '%s' is in critical state", c.CheckID)
		}
	}
	u.stamp(&s.Indexes, 0)
	slot.new = &s
	return s.ID, nil
}

func (u *unit) destroySession(key string) {
	slot := u.sessions.at(u.w, key)
	s := slot.new
	if s == nil {
		return
	}
	slot.new = nil
	u.endQueries(s.ID)
	each(u.w.txn, tableKV, "session", join(key), func(r *kvRow) { u.kv.put(r.key, r) })
	for _, k := range u.kv.list {
		if k.new == nil || k.new.Session == "" || sessionString(k.new.Scope, k.new.Session) != key {
			continue
		}
		if s.LockDelay > 0 && u.w.at > 0 {
			if u.delays == nil {
				u.delays = map[string]int64{}
			}
			u.delays[k.key] = u.w.at + min(s.LockDelay, MaxLockDelay).Milliseconds()
		}
		if s.Behavior == SessionDelete {
			k.new = nil
			continue
		}
		row := newKVRow(k.new.KVEntry, k.key)
		row.Session, row.FencingIndex = "", 0
		u.stamp(&row.Indexes, row.CreateIndex)
		k.new = row
	}
}

// settle ends the sessions whose node is gone, or whose checks are gone or critical, and forgets where nodes were that are gone.
func (u *unit) settle() {
	u.forgetCoordinates()
	end := map[string]bool{}
	gather := func(index, key string) {
		each(u.w.txn, tableSessions, index, key, func(s *Session) { end[sessionString(s.Scope, s.ID)] = true })
	}
	for _, n := range u.nodes.list {
		if n.old != nil && n.new == nil {
			gather("node", n.key)
		}
	}
	for _, c := range u.checks.list {
		if c.changed() && (c.new == nil || c.new.Status == HealthCritical) {
			gather("check", c.key)
		}
	}
	for _, key := range sorted(end) {
		u.destroySession(key)
	}
}

func (u *unit) flushSession(s *slot[*Session]) {
	w := u.w
	row := cmpOr(s.new, s.old)
	if s.new != nil {
		insert(w.txn, tableSessions, s.new)
	} else {
		remove(w.txn, tableSessions, s.old)
	}
	for _, t := range []Topic{SessionsTopic(row.Scope), NodeSessionsTopic(row.Scope, row.Node), allSessionsTopic} {
		w.touch(t)
	}
	w.woken = append(w.woken, SessionTopic(row.Scope, row.ID))
}
