// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/weftmesh/weft/catalog"
	weftv1 "github.com/weftmesh/weft/proto/weft/v1"
)

// over sends a message through its encoding.
func over[T proto.Message](t *testing.T, in, out T) T {
	t.Helper()
	b, err := proto.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	if err := proto.Unmarshal(b, out); err != nil {
		t.Fatal(err)
	}
	return out
}

// What is sent arrives, with every part of a key.
func TestRoundTrip(t *testing.T) {
	key := catalog.Scope{Datacenter: "dc1", Partition: "p", Namespace: "ns", Peer: "west"}.Name("web")
	topics := []catalog.Topic{
		{}, {Kind: catalog.TopicService, Key: key}, {Kind: catalog.TopicEntry, Entry: "service-defaults", Key: key}, {Kind: catalog.TopicCA},
	}
	sent := Topics(topics)
	for i, m := range sent {
		sent[i] = over(t, m, &weftv1.Topic{})
	}
	if diff := cmp.Diff(topics, TopicsFrom(sent)); diff != "" {
		t.Error(diff)
	}
	for _, item := range []catalog.Item{
		{Topic: topics[1], ID: "n1/web1", Index: 1 << 60, Record: []byte{1, 2}}, {Topic: topics[2], ID: "x", Index: 2, Deleted: true},
	} {
		if diff := cmp.Diff(item, ItemFrom(over(t, Item(item), &weftv1.Item{}))); diff != "" {
			t.Error(diff)
		}
	}
	p := catalog.Position{Epoch: 3, Index: 1 << 60}
	if got := PositionFrom(over(t, Position(p), &weftv1.Position{})); got != p {
		t.Errorf("%+v", got)
	}
}

// A message that lacks its parts is read as the zero value, without a panic.
func TestAbsent(t *testing.T) {
	if got := ItemFrom(&weftv1.Item{}); got.Topic != (catalog.Topic{}) || got.Record != nil {
		t.Errorf("%+v", got)
	}
	if TopicFrom(nil) != (catalog.Topic{}) || PositionFrom(nil) != (catalog.Position{}) || len(TopicsFrom(nil)) != 0 {
		t.Error("nil isn't the zero value")
	}
}
