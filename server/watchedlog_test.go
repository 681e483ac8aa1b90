// SPDX-License-Identifier: Apache-2.0

package server

import (
	"errors"
	"fmt"
	"syscall"
	"testing"

	"github.com/hashicorp/raft"
)

type failingLog struct {
	raft.LogStore
	err error
}

func (f failingLog) StoreLogs([]*raft.Log) error { return f.err }

// An fsync that fails ends the server; a full disk only fails the write.
func TestLogCantBeWritten(t *testing.T) {
	for _, c := range []struct {
		err   error
		fatal bool
	}{
		{nil, false},
		{fmt.Errorf("write: %w", syscall.ENOSPC), false},
		{fmt.Errorf("fsync: %w", syscall.EIO), true},
		{errors.New("corrupt"), true},
	} {
		var fatal error
		w := &watchedLog{failingLog{raft.NewInmemStore(), c.err}, func(err error) { fatal = err }}
		if err := w.StoreLog(&raft.Log{Index: 1}); !errors.Is(err, c.err) {
			t.Errorf("%v: %v", c.err, err)
		}
		if (fatal != nil) != c.fatal {
			t.Errorf("%v: fatal %v", c.err, fatal)
		}
	}
}
