// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"cmp"
	"hash/maphash"
	"slices"
	"strings"
)

// topicTree holds the last change of every topic. Like memdb's trees it never changes: an edit gives another, which shares what is as it was. Most
// writes are about one thing and touch four topics: as a table of memdb these took a fifth of what a registration allocated, for nodes with
// all the beginnings of their keys and a list of which of them are new. Here a node is eight pointers, reached by the topic's hash.
type topicTree struct {
	seed maphash.Seed
	root *topicNode // nil: there are none
}

// topicNode is one place of the tree: for each three bits of the hash there is nothing, a row, or a node that tells more rows apart.
type topicNode struct {
	owner *topicOwner // the edit that made it, which may change it
	kids  [1 << topicBits]topicKid
}

type topicKid struct {
	row *topicRow
	sub *topicNode
}

const (
	topicBits   = 3
	topicLevels = 64 / topicBits // that one hash is enough for
)

func newTopicTree() topicTree { return topicTree{seed: maphash.MakeSeed()} }

// key is the topic as rows go by it: see row.
func (t Topic) key() Topic {
	t.Key.Name = strings.ToLower(t.Key.Name)
	return t
}

func (t topicTree) hash(key Topic) uint64 { return maphash.Comparable(t.seed, key) }

// digit is where a topic goes at a level. Should two topics have the same hash, others are made.
func (t topicTree) digit(key Topic, hash uint64, level int) uint64 {
	if level >= topicLevels {
		hash = maphash.Comparable(t.seed, struct {
			Topic
			int
		}{key, level / topicLevels})
	}
	return hash >> (level % topicLevels * topicBits) & (1<<topicBits - 1)
}

// get gives a topic's row; nil if nothing was ever in it.
func (t topicTree) get(topic Topic) *topicRow {
	key := topic.key()
	hash := t.hash(key)
	for n, level := t.root, 0; n != nil; level++ {
		kid := &n.kids[t.digit(key, hash, level)]
		if kid.row != nil {
			if kid.row.topic.key() == key {
				return kid.row
			}
			return nil
		}
		n = kid.sub
	}
	return nil
}

// rows are all there are, in the order of their keys.
func (t topicTree) rows() []*topicRow {
	type keyed struct {
		key string
		row *topicRow
	}
	var list []keyed
	t.root.each(func(r *topicRow) { list = append(list, keyed{r.topic.row(), r}) })
	slices.SortFunc(list, func(a, b keyed) int { return cmp.Compare(a.key, b.key) })
	out := make([]*topicRow, len(list))
	for i, k := range list {
		out[i] = k.row
	}
	return out
}

func (n *topicNode) each(f func(*topicRow)) {
	if n == nil {
		return
	}
	for i := range n.kids {
		if r := n.kids[i].row; r != nil {
			f(r)
		}
		n.kids[i].sub.each(f)
	}
}

// topicEdit changes a tree; its tree is another one then. Who made it uses it alone, and not after the tree was shown to others.
type topicEdit struct {
	topicTree
	owner *topicOwner
}

// topicOwner is what nodes know an edit by. It holds nothing: nodes outlive their tree, and would keep it, with all that has left it since.
type topicOwner struct{ _ byte }

func (t topicTree) edit() *topicEdit { return &topicEdit{t, &topicOwner{}} }

// own gives a node that may be changed for one that is there.
func (e *topicEdit) own(n *topicNode) *topicNode {
	switch {
	case n == nil:
		return &topicNode{owner: e.owner}
	case n.owner == e.owner:
		return n
	}
	return &topicNode{owner: e.owner, kids: n.kids}
}

// put puts a row in, and gives the one that was there.
func (e *topicEdit) put(row *topicRow) (old *topicRow) {
	key := row.topic.key()
	hash := e.hash(key)
	e.root = e.own(e.root)
	for n, level := e.root, 0; ; level++ {
		kid := &n.kids[e.digit(key, hash, level)]
		if r := kid.row; r != nil && r.topic.key() != key {
			k := r.topic.key()
			sub := e.own(nil)
			sub.kids[e.digit(k, e.hash(k), level+1)].row = r
			kid.row, kid.sub = nil, sub
		}
		if kid.sub == nil {
			old, kid.row = kid.row, row
			return old
		}
		kid.sub = e.own(kid.sub)
		n = kid.sub
	}
}

// remove takes a topic's row out, and gives it.
func (e *topicEdit) remove(topic Topic) (old *topicRow) {
	if e.get(topic) == nil {
		return nil
	}
	key := topic.key()
	hash := e.hash(key)
	e.root = e.own(e.root)
	for n, level := e.root, 0; ; level++ {
		kid := &n.kids[e.digit(key, hash, level)]
		if kid.row != nil {
			old, kid.row = kid.row, nil
			return old
		}
		kid.sub = e.own(kid.sub)
		n = kid.sub
	}
}
