// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// kvOp does one operation on the rows as they are in this command so far.
func (u *unit) kvOp(op *KVOp) (KVResult, error) {
	scope := op.Scope.Default(u.w.dc)
	key := kvString(scope, op.Key)
	switch op.Verb {
	case KVGetTree:
		return u.kvTree(key), nil
	case KVDeleteTree:
		for _, s := range u.kvUnder(key) {
			s.new = nil
		}
		return KVResult{}, nil
	}
	if op.Key == "" {
		return KVResult{}, invalidf("Missing key name")
	}
	s := u.kv.at(u.w, key)
	switch op.Verb {
	case KVSet, KVCAS, KVLock:
		if err := u.home(scope); err != nil {
			return KVResult{}, err
		}
	}
	switch op.Verb {
	case KVSet:
		return u.kvWrite(s, op, scope, ""), nil
	case KVCAS:
		if ((s.new == nil) != (op.Index == 0) || s.new != nil && s.new.ModifyIndex != op.Index) && !seeded("ignored-check") {
			return failed("failed to set key %q, index is stale", op.Key), nil
		}
		return u.kvWrite(s, op, scope, ""), nil
	case KVLock:
		return u.kvLock(s, op, scope)
	case KVUnlock:
		if op.Session == "" {
			return KVResult{}, invalidf("missing session")
		}
		if s.new == nil || s.new.Session != op.Session {
			return failed("failed to unlock key %q, lock isn't held, or is held by another session", op.Key), nil
		}
		return u.kvWrite(s, op, scope, "-"), nil
	case KVDelete:
		s.new = nil
		return KVResult{}, nil
	case KVDeleteCAS:
		if s.new != nil && s.new.ModifyIndex != op.Index {
			return failed("failed to delete key %q, index is stale", op.Key), nil
		}
		s.new = nil
		return KVResult{}, nil
	}
	return kvCheck(s.new, op)
}

// kvCheck does what only reads.
func kvCheck(row *kvRow, op *KVOp) (KVResult, error) {
	if row == nil {
		switch op.Verb {
		case KVCheckNotExists:
			return KVResult{}, nil
		case KVGetOrEmpty:
			return KVResult{Entries: []*KVEntry{{Scope: op.Scope, Key: op.Key}}}, nil
		case KVGet, KVCheckIndex:
			return failed("key %q doesn't exist", op.Key), nil
		case KVCheckSession:
			return failed("failed session check for key %q, it doesn't exist", op.Key), nil
		}
		return KVResult{}, invalidf("unknown KV verb %q", op.Verb)
	}
	switch op.Verb {
	case KVGet, KVGetOrEmpty:
	case KVCheckNotExists:
		return failed("key %q exists", op.Key), nil
	case KVCheckIndex:
		if row.ModifyIndex != op.Index {
			return failed("failed index check for key %q, current modify index %d != %d", op.Key, row.ModifyIndex, op.Index), nil
		}
	case KVCheckSession:
		if row.Session != op.Session {
			return failed("failed session check for key %q, current session %q != %q", op.Key, row.Session, op.Session), nil
		}
	default:
		return KVResult{}, invalidf("unknown KV verb %q", op.Verb)
	}
	return KVResult{Entries: []*KVEntry{&row.KVEntry}}, nil
}

func failed(format string, args ...any) KVResult {
	return KVResult{Failed: fmt.Sprintf(format, args...)}
}

func (u *unit) kvLock(s *slot[*kvRow], op *KVOp, scope Scope) (KVResult, error) {
	if op.Session == "" {
		return KVResult{}, invalidf("missing session")
	}
	if u.sessions.at(u.w, sessionString(scope, op.Session)).new == nil {
		return KVResult{}, faultf(ErrInvalid, "invalid session %q", op.Session)
	}
	if s.new != nil && s.new.Session != "" && s.new.Session != op.Session {
		return failed("failed to lock key %q, lock is already held", op.Key), nil
	}
	if until := u.delayed(s.key); until > 0 {
		return failed("failed to lock key %q due to lock delay until %s", op.Key, time.UnixMilli(until).UTC().Format(time.RFC3339)), nil
	}
	return u.kvWrite(s, op, scope, op.Session), nil
}

// delayed is until when a key can't be locked, 0 if it can. A delay that ends later than any can was set by a clock that was wrong.
func (u *unit) delayed(key string) int64 {
	until, ok := u.delays[key]
	if !ok {
		if row := first[*delayRow](u.w.txn, tableDelays, key); row != nil {
			until = row.until
		}
	}
	if left := until - u.w.at; u.w.at == 0 || left <= 0 || left > MaxLockDelay.Milliseconds() {
		return 0
	}
	return until
}

// kvWrite sets value and flags; session "" leaves the lock as it is, "-" gives it up, another takes it.
func (u *unit) kvWrite(s *slot[*kvRow], op *KVOp, scope Scope, session string) KVResult {
	row := newKVRow(KVEntry{Scope: scope, Key: op.Key, Value: op.Value, Flags: op.Flags}, s.key)
	if old := s.new; old != nil {
		row.CreateIndex, row.LockIndex, row.Session, row.FencingIndex = old.CreateIndex, old.LockIndex, old.Session, old.FencingIndex
	}
	switch session {
	case "":
	case "-":
		row.Session, row.FencingIndex = "", 0
	case row.Session:
	default:
		row.Session, row.FencingIndex = session, u.w.index
		row.LockIndex++
	}
	if old := s.new; old != nil && old.Flags == row.Flags && old.Session == row.Session && bytes.Equal(old.Value, row.Value) {
		return KVResult{Entries: []*KVEntry{&old.KVEntry}}
	}
	u.stamp(&row.Indexes, row.CreateIndex)
	s.new = row
	return KVResult{Entries: []*KVEntry{&row.KVEntry}}
}

// kvUnder are the rows that begin with a key, as they are in this command so far.
func (u *unit) kvUnder(prefix string) []*slot[*kvRow] {
	each(u.w.txn, tableKV, "id_prefix", prefix, func(r *kvRow) { u.kv.put(r.key, r) })
	var out []*slot[*kvRow]
	for _, s := range u.kv.list {
		if s.new != nil && strings.HasPrefix(s.key, prefix) {
			out = append(out, s)
		}
	}
	return out
}

func (u *unit) kvTree(prefix string) KVResult {
	rows := u.kvUnder(prefix)
	slices.SortFunc(rows, func(a, b *slot[*kvRow]) int { return cmp.Compare(a.key, b.key) })
	out := KVResult{Entries: make([]*KVEntry, 0, len(rows))}
	for _, s := range rows {
		out.Entries = append(out.Entries, &s.new.KVEntry)
	}
	return out
}

func (u *unit) flushKV(s *slot[*kvRow]) {
	w := u.w
	scope := cmpOr(s.new, s.old).Scope
	if s.new != nil {
		insert(w.txn, tableKV, s.new)
		if t := first[*tombstone](w.txn, tableTombstones, s.key); t != nil {
			remove(w.txn, tableTombstones, t)
		}
	} else {
		remove(w.txn, tableKV, s.old)
		insert(w.txn, tableTombstones, &tombstone{s.key, w.index})
	}
	w.touch(kvTopic(scope))
	w.keys = append(w.keys, s.key)
}

// reapNow forgets tombstones and lock delays.
func (u *unit) reapNow(upTo uint64) {
	w := u.w
	var old []*tombstone
	each(w.txn, tableTombstones, "id_prefix", "", func(t *tombstone) {
		if t.index <= upTo {
			old = append(old, t)
		}
	})
	for _, t := range old {
		remove(w.txn, tableTombstones, t)
		w.meta.reaped = max(w.meta.reaped, t.index)
	}
	var over []*delayRow
	each(w.txn, tableDelays, "id_prefix", "", func(d *delayRow) {
		if left := d.until - w.at; left <= 0 || left > MaxLockDelay.Milliseconds() {
			over = append(over, d)
		}
	})
	for _, d := range over {
		remove(w.txn, tableDelays, d)
	}
}
