// SPDX-License-Identifier: Apache-2.0

// Package wire turns the feed's messages into the catalog's values and back, for both ends of the feed. Records inside stay
// as they are, canonical CBOR. It owns no goroutine.
package wire

import (
	"github.com/weftmesh/weft/catalog"
	weftv1 "github.com/weftmesh/weft/proto/weft/v1"
)

// Topic is a topic as a message.
func Topic(t catalog.Topic) *weftv1.Topic {
	return &weftv1.Topic{
		Kind: string(t.Kind), Entry: t.Entry, Datacenter: t.Key.Datacenter, Partition: t.Key.Partition,
		Namespace: t.Key.Namespace, Peer: t.Key.Peer, Name: t.Key.Name,
	}
}

// TopicFrom reads a topic; nil is the zero topic, which no catalog knows.
func TopicFrom(m *weftv1.Topic) catalog.Topic {
	scope := catalog.Scope{Datacenter: m.GetDatacenter(), Partition: m.GetPartition(), Namespace: m.GetNamespace(), Peer: m.GetPeer()}
	return catalog.Topic{Kind: catalog.TopicKind(m.GetKind()), Entry: m.GetEntry(), Key: scope.Name(m.GetName())}
}

// Topics are topics as messages.
func Topics(ts []catalog.Topic) []*weftv1.Topic {
	out := make([]*weftv1.Topic, len(ts))
	for i, t := range ts {
		out[i] = Topic(t)
	}
	return out
}

// TopicsFrom reads topics.
func TopicsFrom(ms []*weftv1.Topic) []catalog.Topic {
	out := make([]catalog.Topic, len(ms))
	for i, m := range ms {
		out[i] = TopicFrom(m)
	}
	return out
}

// Position is a feed position as a message.
func Position(p catalog.Position) *weftv1.Position {
	return &weftv1.Position{Epoch: p.Epoch, Index: p.Index}
}

// PositionFrom reads a feed position; nil is the zero position.
func PositionFrom(m *weftv1.Position) catalog.Position {
	return catalog.Position{Epoch: m.GetEpoch(), Index: m.GetIndex()}
}

// Item is a feed item as a message; the record's bytes are shared.
func Item(i catalog.Item) *weftv1.Item {
	return &weftv1.Item{Topic: Topic(i.Topic), Id: i.ID, Index: i.Index, Deleted: i.Deleted, Record: i.Record}
}

// ItemFrom reads a feed item; the record's bytes are shared.
func ItemFrom(m *weftv1.Item) catalog.Item {
	return catalog.Item{
		Topic: TopicFrom(m.GetTopic()), ID: m.GetId(), Index: m.GetIndex(), Deleted: m.GetDeleted(), Record: m.GetRecord(),
	}
}
