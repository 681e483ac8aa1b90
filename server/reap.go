// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"time"

	"github.com/weftmesh/weft/catalog"
)

// How long it is remembered that a key was deleted, and how exactly.
const (
	tombstoneLife = 15 * time.Minute
	tombstoneStep = 30 * time.Second
)

// reap has old deletions forgotten while this server leads. A new leader begins to count anew.
func (s *Server) reap(ctx context.Context) error {
	var past []uint64 // the store's index at each step
	tick := time.NewTicker(tombstoneStep)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		txn := s.store.Read()
		past = append(past, txn.Index())
		if len(past) <= int(tombstoneLife/tombstoneStep) {
			continue
		}
		upTo := past[0]
		past = past[1:]
		if !txn.Reapable(upTo) {
			continue
		}
		if _, err := s.Propose(ctx, catalog.Reap{Tombstones: upTo}); err != nil && ctx.Err() == nil {
			s.c.Log.Warn("old deletions can't be forgotten", "error", err)
		}
	}
}
