// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/weftmesh/weft/catalog"
)

const (
	// coordinateEvery is how often coordinates are written: nobody waits for them.
	coordinateEvery = 5 * time.Second
	// coordinateBatch is how many stand in one command, and coordinateBatches how many commands are written at once.
	coordinateBatch   = 512
	coordinateBatches = 8
	// coordinatesWaiting bounds how many wait to be written; further ones are left out, their nodes send another soon.
	coordinatesWaiting = 4 * coordinateBatch * coordinateBatches
)

// coordinates are those that nodes have sent to this server since the last time they were written. Only a leader has any.
type coordinates struct {
	s       *Server
	mu      sync.Mutex
	waiting map[coordinateKey]catalog.NodeCoordinate
}

type coordinateKey struct{ node, segment string }

// Stage takes a coordinate to be written with the next batch.
func (c *coordinates) Stage(n catalog.NodeCoordinate) error {
	if err := n.Coord.Validate(); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.waiting == nil {
		c.waiting = map[coordinateKey]catalog.NodeCoordinate{}
	}
	key := coordinateKey{strings.ToLower(n.Node), strings.ToLower(n.Segment)}
	if _, ok := c.waiting[key]; ok || len(c.waiting) < coordinatesWaiting {
		c.waiting[key] = n
	}
	return nil
}

// take gives what waits, in the order of the nodes' names, at most so many as are written at once.
func (c *coordinates) take() []catalog.NodeCoordinate {
	c.mu.Lock()
	defer c.mu.Unlock()
	list := make([]catalog.NodeCoordinate, 0, min(len(c.waiting), coordinateBatch*coordinateBatches))
	for key, n := range c.waiting {
		if len(list) == cap(list) {
			break
		}
		list = append(list, n)
		delete(c.waiting, key)
	}
	slices.SortFunc(list, func(a, b catalog.NodeCoordinate) int {
		return strings.Compare(a.Node+"\x00"+a.Segment, b.Node+"\x00"+b.Segment)
	})
	return list
}

// keep writes what was sent, while this server leads.
func (c *coordinates) keep(ctx context.Context) error {
	ticker := time.NewTicker(coordinateEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
		for batch := range slices.Chunk(c.take(), coordinateBatch) {
			if _, err := c.s.Propose(ctx, catalog.SetCoordinates{Updates: batch}); err != nil && ctx.Err() == nil {
				c.s.c.Log.Warn("coordinates can't be written", "error", err)
			}
		}
	}
}
