// SPDX-License-Identifier: Apache-2.0

package feed

import (
	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/internal/wire"
	weftv1 "github.com/weftmesh/weft/proto/weft/v1"
)

// maxMessage is about how much is put into one message; gRPC's own bound for a receiver is 4 MiB if it isn't told otherwise.
const maxMessage = 2 << 20

// split parts an answer into messages of about max bytes. Changes of what is covered already stay together in the first one,
// since they are one step; a topic that is sent whole is never torn apart. The position holds with each part, for what it
// covers; what is dropped and sent anew is dropped first, so that nothing stale counts as covered. An agent that loses the stream in between asks for the rest as for something new.
func split(whole *weftv1.SubscribeResponse, max int) []*weftv1.SubscribeResponse {
	replaced := map[catalog.Topic]bool{}
	for _, t := range whole.GetReplaced() {
		replaced[wire.TopicFrom(t)] = true
	}
	first := &weftv1.SubscribeResponse{Position: whole.GetPosition(), Dropped: whole.GetDropped(), Errors: whole.GetErrors()}
	content, bytes := map[catalog.Topic][]*weftv1.Item{}, 0
	for _, i := range whole.GetItems() {
		if t := wire.TopicFrom(i.GetTopic()); replaced[t] {
			content[t] = append(content[t], i)
			continue
		}
		first.Items = append(first.Items, i)
		bytes += size(i)
	}
	parts := []*weftv1.SubscribeResponse{first}
	for _, t := range whole.GetDropped() {
		if replaced[wire.TopicFrom(t)] { // dropped first, and covered anew after that
			parts, bytes = append(parts, &weftv1.SubscribeResponse{Position: whole.GetPosition()}), 0
			break
		}
	}
	for _, t := range whole.GetReplaced() {
		items, n := content[wire.TopicFrom(t)], 0
		for _, i := range items {
			n += size(i)
		}
		if bytes > 0 && bytes+n > max {
			parts, bytes = append(parts, &weftv1.SubscribeResponse{Position: whole.GetPosition()}), 0
		}
		last := parts[len(parts)-1]
		last.Items, last.Replaced, last.Covered = append(last.Items, items...), append(last.Replaced, t), append(last.Covered, t)
		bytes += n
	}
	return parts
}

// size is about what an item takes in a message.
func size(i *weftv1.Item) int { return len(i.GetRecord()) + len(i.GetId()) + 100 }
