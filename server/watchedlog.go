// SPDX-License-Identifier: Apache-2.0

package server

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/hashicorp/raft"
)

// watchedLog stops the server when its log can't be written: after an fsync that failed nobody knows what is on disk, and another that
// succeeds says nothing about it. A full disk is no such damage: writes fail until there is room.
type watchedLog struct {
	raft.LogStore
	fatal func(error)
}

var _ raft.MonotonicLogStore = (*watchedLog)(nil)

func (w *watchedLog) StoreLogs(logs []*raft.Log) error {
	err := w.LogStore.StoreLogs(logs)
	if err != nil && !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, syscall.EDQUOT) {
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
