// SPDX-License-Identifier: Apache-2.0

package server

import (
	"errors"
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/weftmesh/weft/internal/api"
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
		w := &watchedLog{LogStore: failingLog{raft.NewInmemStore(), c.err}, fatal: func(err error) { fatal = err }}
		if err := w.StoreLog(&raft.Log{Index: 1}); !errors.Is(err, c.err) {
			t.Errorf("%v: %v", c.err, err)
		}
		if (fatal != nil) != c.fatal {
			t.Errorf("%v: fatal %v", c.err, fatal)
		}
	}
}

// Where there is too little room for another file of the log, nothing reaches it but what an election needs.
func TestLogWithoutRoom(t *testing.T) {
	now, free := time.Now(), uint64(roomNeeded-1)
	r := &room{dir: "/data", now: func() time.Time { return now }, free: func(string) (uint64, error) { return free, nil }}
	w := &watchedLog{LogStore: raft.NewInmemStore(), room: r, fatal: func(err error) { t.Error(err) }}
	big := &raft.Log{Index: 1, Data: make([]byte, smallAppend+1)}
	if err := w.StoreLog(big); !errors.Is(err, api.ErrNoRoom) {
		t.Errorf("without room: %v", err)
	}
	if err := w.StoreLog(&raft.Log{Index: 1}); err != nil {
		t.Errorf("an entry without content: %v", err)
	}
	w.LogStore = failingLog{raft.NewInmemStore(), errors.New("the file before is sealed, and there is no other")}
	if err := w.StoreLog(&raft.Log{Index: 2}); err == nil {
		t.Error("no error")
	}
	w.LogStore = raft.NewInmemStore()
	f := &fsm{room: r}
	now, free = now.Add(roomLook), roomSpare-1
	if _, err := f.Snapshot(); !errors.Is(err, api.ErrNoRoom) {
		t.Errorf("a snapshot without room: %v", err)
	}
	free = roomNeeded
	if err := w.StoreLog(big); !errors.Is(err, api.ErrNoRoom) {
		t.Errorf("it was looked at again at once: %v", err)
	}
	now = now.Add(roomLook)
	if err := w.StoreLog(big); err != nil {
		t.Errorf("with room: %v", err)
	}
}

// A disk that fills up between two looks: the write is refused as one on a full disk, and the next isn't tried.
func TestDiskFullBetweenLooks(t *testing.T) {
	now, free := time.Now(), uint64(roomNeeded)
	r := &room{dir: "/data", now: func() time.Time { return now }, free: func(string) (uint64, error) { return free, nil }}
	w := &watchedLog{LogStore: failingLog{raft.NewInmemStore(), fmt.Errorf("write: %w", syscall.ENOSPC)}, room: r, fatal: func(err error) { t.Error(err) }}
	if err := r.check(); err != nil {
		t.Fatal(err)
	}
	free = 0
	if err := w.StoreLog(&raft.Log{Index: 1, Data: make([]byte, smallAppend+1)}); !errors.Is(err, api.ErrNoRoom) || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("the write that met it: %v", err)
	}
	if err := r.check(); !errors.Is(err, api.ErrNoRoom) {
		t.Errorf("the next: %v", err)
	}
}
