// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"
	"weak"
)

// A tree is as a map from topics, whose names are the same in any case, to rows; those that were there before an edit stay as they were.
func TestTopicTree(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	topic := func() Topic {
		k := name(fmt.Sprint("Svc", r.IntN(3000)))
		if r.IntN(2) == 0 {
			k.Name = strings.ToLower(k.Name)
		}
		return Topic{Kind: []TopicKind{TopicService, TopicConnect}[r.IntN(2)], Key: k}
	}
	type version struct {
		tree topicTree
		want map[string]*topicRow
	}
	now := version{newTopicTree(), map[string]*topicRow{}}
	old := []version{now}
	for step := range 400 {
		edit, want := now.tree.edit(), maps.Clone(now.want)
		for range r.IntN(50) {
			topic := topic()
			if r.IntN(4) == 0 {
				if got := edit.remove(topic); got != want[topic.row()] {
					t.Fatalf("step %d: removed %v, want %v", step, got, want[topic.row()])
				}
				delete(want, topic.row())
				continue
			}
			row := newTopicRow(topic, uint64(step))
			if got := edit.put(row); got != want[topic.row()] {
				t.Fatalf("step %d: in the place of %v, want %v", step, got, want[topic.row()])
			}
			want[topic.row()] = row
		}
		now = version{edit.topicTree, want}
		old = append(old, now)
	}
	for i := 0; i < len(old); i += 40 {
		v := old[i]
		var want []*topicRow
		for _, key := range slices.Sorted(maps.Keys(v.want)) {
			want = append(want, v.want[key])
		}
		if got := v.tree.rows(); !slices.Equal(got, want) {
			t.Fatalf("version %d has %d rows, want %d, in the order of their keys", i, len(got), len(want))
		}
		for range 1000 {
			if topic := topic(); v.tree.get(topic) != v.want[topic.row()] {
				t.Fatalf("version %d has %v of %v, want %v", i, v.tree.get(topic), topic, v.want[topic.row()])
			}
		}
	}
}

// What an edit replaced is nobody's once the trees that had it are gone, though the nodes that came with it are still in use.
func TestTopicTreeForgets(t *testing.T) {
	tree := newTopicTree()
	var old []weak.Pointer[topicRow]
	for round := range uint64(20) {
		e := tree.edit()
		for i := range 100 { // the same few again and again, beside others that stay
			k := name(fmt.Sprint("s", i))
			if i >= 10 {
				k = name(fmt.Sprint("s", round, "-", i))
			}
			row := newTopicRow(ServiceTopic(k), round)
			if i < 10 && round < 19 {
				old = append(old, weak.Make(row))
			}
			e.put(row)
		}
		tree = e.topicTree
	}
	runtime.GC()
	for i, w := range old {
		if w.Value() != nil {
			t.Fatalf("row %d of %d that left the tree is still kept", i, len(old))
		}
	}
	if n := len(tree.rows()); n != 10+20*90 {
		t.Errorf("%d rows", n)
	}
}

// Topics of one hash are told apart by others.
func TestTopicsOfOneHash(t *testing.T) {
	e := newTopicTree().edit()
	differ := 0
	a, b := ServiceTopic(name("a")), ServiceTopic(name("b"))
	for level := range 3 * topicLevels {
		if e.digit(a, 7, level) != e.digit(b, 7, level) {
			if level < topicLevels {
				t.Fatalf("level %d: of one hash, and apart", level)
			}
			differ++
		}
	}
	if differ < topicLevels {
		t.Errorf("apart at %d of %d levels after the first hash", differ, 2*topicLevels)
	}
}

// BenchmarkTopics is one commit's: four topics of 4,000.
func BenchmarkTopics(b *testing.B) {
	var topics []Topic
	tree := newTopicTree()
	e := tree.edit()
	for i := range 4000 {
		topics = append(topics, ServiceTopic(name(fmt.Sprint("s", i))))
		e.put(newTopicRow(topics[i], 1))
	}
	tree = e.topicTree
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		e := tree.edit()
		for range 4 {
			i += 977
			e.put(newTopicRow(topics[i%len(topics)], uint64(i)))
		}
		tree = e.topicTree
	}
}
