// SPDX-License-Identifier: Apache-2.0

package server

import (
	"fmt"

	"github.com/hashicorp/raft"

	"github.com/weftmesh/weft/internal/api"
)

// watchedLog stops the server when its log can't be written: after an fsync that failed nobody knows what is on disk, and another that
// succeeds says nothing about it. A full disk is no such damage: writes are refused before it is quite full, until there is room.
type watchedLog struct {
	raft.LogStore
	room  *room
	fatal func(error)
}

var _ raft.MonotonicLogStore = (*watchedLog)(nil)

// smallAppend is what is written also where there is little room: a leader that is elected writes an entry without content.
const smallAppend = 4 << 10

func (w *watchedLog) StoreLogs(logs []*raft.Log) error {
	size := 0
	for _, l := range logs {
		size += len(l.Data)
	}
	short := w.room.check()
	if short != nil && size > smallAppend {
		return short
	}
	err := w.LogStore.StoreLogs(logs)
	switch {
	case err == nil:
	case full(err): // filled since room was looked for; nothing was written
		w.room.stale()
		return fmt.Errorf("%w: %w", api.ErrNoRoom, err)
	case short == nil:
		w.fatal(fmt.Errorf("this server stops, since its log can't be written: %w", err))
	}
	return err
}

func (w *watchedLog) StoreLog(l *raft.Log) error { return w.StoreLogs([]*raft.Log{l}) }

// IsMonotonic says what the store inside does.
func (w *watchedLog) IsMonotonic() bool {
	m, ok := w.LogStore.(raft.MonotonicLogStore)
	return ok && m.IsMonotonic()
}
