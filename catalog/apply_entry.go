// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"cmp"
	"hash/fnv"
	"slices"
	"strings"
)

// contentHash is over an entry's canonical encoding without indexes and hash.
func contentHash(e Entry) (uint64, error) {
	head := e.Head()
	saved := *head
	head.Hash, head.Indexes = 0, Indexes{}
	data, err := encode(e)
	*head = saved
	if err != nil {
		return 0, invalidf("%s %q: %v", e.EntryKind(), saved.Name, err)
	}
	h := fnv.New64a()
	_, _ = h.Write(data)
	return h.Sum64(), nil
}

func (u *unit) setEntry(e Entry, cas *uint64) (any, error) {
	if e == nil {
		return nil, invalidf("no config entry")
	}
	head := e.Head()
	head.Scope = head.Scope.Default(u.w.dc)
	if err := checkName("Name", head.Name); err != nil {
		return nil, err
	}
	if err := firstError(checkScope(head.Scope), u.homeOf(e)); err != nil {
		return nil, err
	}
	hash, err := contentHash(e)
	if err != nil {
		return nil, err
	}
	slot := u.entries.at(u.w, entryString(e.EntryKind(), head.Key()))
	var created, modified uint64
	if slot.new != nil {
		old := slot.new.entry.Head()
		if old.Hash == hash {
			return true, nil // whatever the check-and-set says: what is wanted is there
		}
		created, modified = old.CreateIndex, old.ModifyIndex
	}
	if cas != nil && *cas != modified {
		return false, nil
	}
	head.Hash = hash
	u.stamp(&head.Indexes, created)
	slot.new = newEntryRow(e, slot.key)
	return true, nil
}

func (u *unit) deleteEntry(c *DeleteEntry) (any, error) {
	key := c.Key
	key.Scope = key.Scope.Default(u.w.dc)
	if _, err := NewEntry(c.Kind); err != nil {
		return nil, err
	}
	slot := u.entries.at(u.w, entryString(c.Kind, key))
	if c.CAS != nil && (slot.new == nil || slot.new.entry.Head().ModifyIndex != *c.CAS) {
		return false, nil
	}
	slot.new = nil
	return true, nil
}

func (u *unit) intentions(destination Key) (*slot[*entryRow], *ServiceIntentions) {
	slot := u.entries.at(u.w, entryString(KindServiceIntentions, destination))
	if slot.new == nil {
		return slot, nil
	}
	e := *slot.new.entry.(*ServiceIntentions)
	e.Sources = slices.Clone(e.Sources)
	return slot, &e
}

// legacy finds the rule with an ID of the API before config entries.
func (u *unit) legacy(id string) (Key, int, bool) {
	var key Key
	at := -1
	each(u.w.txn, tableEntries, "id_prefix", KindServiceIntentions+"\x00", func(r *entryRow) {
		e := r.entry.(*ServiceIntentions)
		if i := slices.IndexFunc(e.Sources, func(s SourceIntention) bool { return s.LegacyID == id }); i >= 0 && at < 0 {
			key, at = e.Key(), i
		}
	})
	return key, at, at >= 0
}

func sameSource(a, b *SourceIntention) bool {
	return strings.EqualFold(a.Name, b.Name) && a.Peer == b.Peer && cmp.Or(a.Type, "consul") == cmp.Or(b.Type, "consul") &&
		cmp.Or(a.Namespace, DefaultNamespace) == cmp.Or(b.Namespace, DefaultNamespace) &&
		cmp.Or(a.Partition, DefaultPartition) == cmp.Or(b.Partition, DefaultPartition)
}

func (u *unit) setIntention(c *SetIntention) (any, error) {
	dst, src := c.Destination, c.Source
	dst.Scope = dst.Scope.Default(u.w.dc)
	byID := c.Mode == IntentionUpdate && src.LegacyID != ""
	at := -1
	if byID {
		key, i, ok := u.legacy(src.LegacyID)
		if !ok {
			return nil, faultf(ErrNotFound, "Cannot modify non-existent intention: '%s'", src.LegacyID)
		}
		if nameString(key) != nameString(dst) {
			return nil, invalidf("the destination of intention %s is %q and can't be changed to %q", src.LegacyID, key, dst)
		}
		at = i
	}
	_, e := u.intentions(dst)
	if e == nil {
		e = &ServiceIntentions{EntryHead: EntryHead{Scope: dst.Scope, Name: dst.Name}}
	}
	same := slices.IndexFunc(e.Sources, func(s SourceIntention) bool { return sameSource(&s, &src) })
	switch {
	case byID:
		if same >= 0 && same != at {
			return nil, faultf(ErrExists, "duplicate intention found: %s -> %s", src.Name, dst)
		}
	case c.Mode == IntentionCreate && same >= 0:
		return nil, faultf(ErrExists, "duplicate intention found: %s -> %s", src.Name, dst)
	case c.Mode == IntentionUpdate && same < 0:
		return nil, faultf(ErrNotFound, "Cannot modify non-existent intention: %s -> %s", src.Name, dst)
	case c.Mode != IntentionCreate && c.Mode != IntentionUpsert && c.Mode != IntentionUpdate:
		return nil, invalidf("Mode %q is none of create, upsert, update", c.Mode)
	default:
		at = same
	}
	if c.Mode == IntentionCreate && src.LegacyID != "" &&
		slices.ContainsFunc(e.Sources, func(s SourceIntention) bool { return s.LegacyID == "" }) {
		return nil, faultf(ErrConflict, "the intentions for %q are managed by a service-intentions config entry; change that", dst)
	}
	if at >= 0 {
		if src.LegacyID == "" {
			src.LegacyID = e.Sources[at].LegacyID
		}
		if src.LegacyCreateTime == nil {
			src.LegacyCreateTime = e.Sources[at].LegacyCreateTime
		}
		e.Sources[at] = src
	} else {
		e.Sources = append(e.Sources, src)
	}
	e.Normalize()
	if err := e.Validate(); err != nil {
		return nil, err
	}
	return u.setEntry(e, nil)
}

func (u *unit) deleteIntention(c *DeleteIntention) (any, error) {
	dst := c.Destination
	dst.Scope = dst.Scope.Default(u.w.dc)
	at := -1
	if c.LegacyID != "" {
		key, i, ok := u.legacy(c.LegacyID)
		if !ok {
			return nil, faultf(ErrNotFound, "no intention with ID %s", c.LegacyID)
		}
		dst, at = key, i
	}
	slot, e := u.intentions(dst)
	if e == nil {
		return false, nil
	}
	if at < 0 {
		src := SourceIntention{Name: c.Source.Name, Namespace: c.Source.Namespace, Partition: c.Source.Partition, Peer: c.Source.Peer}
		at = slices.IndexFunc(e.Sources, func(s SourceIntention) bool { return sameSource(&s, &src) })
	}
	if at < 0 {
		return false, nil
	}
	if e.Sources = slices.Delete(e.Sources, at, at+1); len(e.Sources) == 0 {
		slot.new = nil
		return true, nil
	}
	return u.setEntry(e, nil)
}

func (u *unit) currentCA() *CAState {
	if u.ca != nil {
		return u.ca
	}
	return first[*CAState](u.w.txn, tableCA, "ca")
}

func (u *unit) setCA(c *SetCA) (any, error) {
	old, next := u.currentCA(), c.State
	var have, created uint64
	if old != nil {
		// The cluster's ID alone is no CA state yet: its index doesn't count for check-and-set.
		if len(old.Roots) > 0 || old.PrivateState != nil {
			have = old.ModifyIndex
		}
		created = old.CreateIndex
		if next.ClusterID == "" {
			next.ClusterID = old.ClusterID
		}
		if old.ClusterID != "" && next.ClusterID != old.ClusterID {
			return nil, faultf(ErrConflict, "the cluster's ID is %s and can't become %s", old.ClusterID, next.ClusterID)
		}
	}
	if c.CAS != have {
		return nil, faultf(ErrConflict, "the CA's state is at index %d, not at %d", have, c.CAS)
	}
	next.Roots = slices.Clone(next.Roots)
	for i := range next.Roots {
		r := &next.Roots[i]
		r.CreateIndex, r.ModifyIndex = u.w.index, u.w.index
		if old != nil {
			if j := slices.IndexFunc(old.Roots, func(o CARoot) bool { return o.ID == r.ID }); j >= 0 {
				r.CreateIndex = old.Roots[j].CreateIndex
			}
		}
	}
	u.stamp(&next.Indexes, created)
	u.ca = &next
	return true, nil
}

func (u *unit) setCluster(c *SetCluster) (any, error) {
	if err := checkName("cluster ID", c.ID); err != nil {
		return nil, err
	}
	next := CAState{}
	if old := u.currentCA(); old != nil {
		if old.ClusterID == c.ID {
			return c.ID, nil
		}
		if old.ClusterID != "" {
			return nil, faultf(ErrConflict, "the cluster's ID is %s already", old.ClusterID)
		}
		next = *old
	}
	next.ClusterID = c.ID
	u.stamp(&next.Indexes, next.CreateIndex)
	u.ca = &next
	return c.ID, nil
}
