// SPDX-License-Identifier: Apache-2.0

package feed

import (
	"fmt"
	"testing"

	weftv1 "github.com/weftmesh/weft/proto/weft/v1"
)

func TestSplit(t *testing.T) {
	whole := &weftv1.SubscribeResponse{Position: &weftv1.Position{Epoch: 1, Index: 7}}
	whole.Items = append(whole.Items, &weftv1.Item{Topic: &weftv1.Topic{Kind: "ca"}, Record: make([]byte, 10)})
	for n := range 5 {
		topic := &weftv1.Topic{Kind: "service", Name: fmt.Sprint(n)}
		whole.Replaced, whole.Covered = append(whole.Replaced, topic), append(whole.Covered, topic)
		for range 2 {
			whole.Items = append(whole.Items, &weftv1.Item{Topic: topic, Record: make([]byte, 400)})
		}
	}
	items, topics := 0, 0
	parts := split(whole, 2500)
	for _, p := range parts {
		items, topics = items+len(p.GetItems()), topics+len(p.GetReplaced())
		if p.GetPosition().GetIndex() != 7 || len(p.GetCovered()) != len(p.GetReplaced()) {
			t.Errorf("part %v", p)
		}
	}
	if len(parts) != 3 || items != len(whole.GetItems()) || topics != 5 {
		t.Errorf("%d parts with %d items of %d topics", len(parts), items, topics)
	}
	whole.Dropped = whole.GetReplaced()[:1]
	if parts = split(whole, 1<<20); len(parts) != 2 || len(parts[0].GetReplaced()) != 0 || len(parts[1].GetDropped()) != 0 {
		t.Errorf("dropped and covered anew: %v", parts)
	}
	if one := split(&weftv1.SubscribeResponse{}, 10); len(one) != 1 {
		t.Errorf("an empty answer is %d messages", len(one))
	}
}
