// SPDX-License-Identifier: Apache-2.0

//go:build weftfail

package server

import (
	"io"
	"os"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"
	"github.com/hashicorp/raft-wal/fs"
	"github.com/hashicorp/raft-wal/segment"
	"github.com/hashicorp/raft-wal/types"

	"github.com/weftmesh/weft/internal/failpoint"
)

// Storage that fails where tests want it to. internal/failpoint has the places.

func openWAL(dir string, size int) (*wal.WAL, error) {
	files := &failFiles{VFS: fs.New(), power: os.Getenv("WEFT_FAIL_POWER") != ""}
	return wal.Open(dir, wal.WithSegmentFiler(segment.NewFiler(dir, files)), wal.WithSegmentSize(size))
}

func failing(s raftStores) raftStores {
	return raftStores{&failLog{s.log}, &failStable{s.stable}, &failSnapshots{s.snapshots}}
}

type failFiles struct {
	types.VFS
	power bool // what isn't synced is kept from the disk
}

func (f *failFiles) Create(dir, name string, size uint64) (types.WritableFile, error) {
	if err := failpoint.Hit(failpoint.SegmentBefore); err != nil {
		return nil, err
	}
	file, err := f.VFS.Create(dir, name, size)
	if err != nil {
		return nil, err
	}
	return &failFile{WritableFile: file, power: f.power}, failpoint.Hit(failpoint.SegmentAfter)
}

func (f *failFiles) OpenWriter(dir, name string) (types.WritableFile, error) {
	file, err := f.VFS.OpenWriter(dir, name)
	if err != nil {
		return nil, err
	}
	return &failFile{WritableFile: file, power: f.power}, nil
}

type failFile struct {
	types.WritableFile
	power bool

	mu    sync.Mutex
	ahead []piece // written and not synced
}

type piece struct {
	at   int64
	data []byte
}

func (f *failFile) WriteAt(p []byte, at int64) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if failpoint.Ahead(failpoint.WriteHalf) {
		if n, err := f.WritableFile.WriteAt(p[:len(p)/2], at); err != nil {
			return n, err
		}
		if err := failpoint.Hit(failpoint.WriteHalf); err != nil {
			return len(p) / 2, err
		}
	}
	if !f.power {
		return f.WritableFile.WriteAt(p, at)
	}
	f.ahead = append(f.ahead, piece{at, append([]byte(nil), p...)})
	return len(p), nil
}

func (f *failFile) ReadAt(p []byte, at int64) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.WritableFile.ReadAt(p, at)
	for _, w := range f.ahead {
		begin, end := max(at, w.at), min(at+int64(len(p)), w.at+int64(len(w.data)))
		if begin < end {
			copy(p[begin-at:], w.data[begin-w.at:end-w.at])
			n = max(n, int(end-at))
		}
	}
	if n == len(p) {
		err = nil
	}
	return n, err
}

func (f *failFile) Sync() error {
	if err := failpoint.Hit(failpoint.SyncBefore); err != nil {
		return err
	}
	if failpoint.Bug(failpoint.AckEarly) {
		time.AfterFunc(200*time.Millisecond, func() { _ = f.sync() }) // the bug
		return nil
	}
	if err := f.sync(); err != nil {
		return err
	}
	return failpoint.Hit(failpoint.SyncAfter)
}

func (f *failFile) sync() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.flush(); err != nil {
		return err
	}
	return f.WritableFile.Sync()
}

func (f *failFile) flush() error {
	for _, w := range f.ahead {
		if _, err := f.WritableFile.WriteAt(w.data, w.at); err != nil {
			return err
		}
	}
	f.ahead = nil
	return nil
}

func (f *failFile) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.flush(); err != nil {
		return err
	}
	return f.WritableFile.Close()
}

type failLog struct{ raft.LogStore }

func (l *failLog) IsMonotonic() bool {
	m, ok := l.LogStore.(raft.MonotonicLogStore)
	return ok && m.IsMonotonic()
}

func (l *failLog) StoreLog(e *raft.Log) error { return l.StoreLogs([]*raft.Log{e}) }

func (l *failLog) StoreLogs(entries []*raft.Log) error {
	if err := failpoint.Hit(failpoint.AppendBefore); err != nil {
		return err
	}
	if half := len(entries) / 2; half > 0 && failpoint.Ahead(failpoint.AppendHalf) {
		if err := l.LogStore.StoreLogs(entries[:half]); err != nil {
			return err
		}
		if err := failpoint.Hit(failpoint.AppendHalf); err != nil {
			return err
		}
		entries = entries[half:]
	}
	if err := l.LogStore.StoreLogs(entries); err != nil {
		return err
	}
	return failpoint.Hit(failpoint.AppendAfter)
}

func (l *failLog) DeleteRange(from, to uint64) error {
	if err := failpoint.Hit(failpoint.CompactBefore); err != nil {
		return err
	}
	if err := l.LogStore.DeleteRange(from, to); err != nil {
		return err
	}
	return failpoint.Hit(failpoint.CompactAfter)
}

type failStable struct{ raft.StableStore }

func (s *failStable) Set(key, value []byte) error {
	return around(failpoint.VoteBefore, failpoint.VoteAfter, func() error { return s.StableStore.Set(key, value) })
}

func (s *failStable) SetUint64(key []byte, value uint64) error {
	return around(failpoint.VoteBefore, failpoint.VoteAfter, func() error { return s.StableStore.SetUint64(key, value) })
}

func around(before, after failpoint.Point, f func() error) error {
	if err := failpoint.Hit(before); err != nil {
		return err
	}
	if err := f(); err != nil {
		return err
	}
	return failpoint.Hit(after)
}

type failSnapshots struct{ raft.SnapshotStore }

func (s *failSnapshots) Create(v raft.SnapshotVersion, index, term uint64, conf raft.Configuration, confIndex uint64, t raft.Transport) (raft.SnapshotSink, error) {
	if err := failpoint.Hit(failpoint.SnapshotCreate); err != nil {
		return nil, err
	}
	sink, err := s.SnapshotStore.Create(v, index, term, conf, confIndex, t)
	if err != nil {
		return nil, err
	}
	return &failSink{sink}, nil
}

type failSink struct{ raft.SnapshotSink }

var _ io.Writer = (*failSink)(nil)

func (s *failSink) Write(p []byte) (int, error) {
	if failpoint.Ahead(failpoint.SnapshotHalf) {
		if n, err := s.SnapshotSink.Write(p[:len(p)/2]); err != nil {
			return n, err
		}
		if err := failpoint.Hit(failpoint.SnapshotHalf); err != nil {
			return len(p) / 2, err
		}
		n, err := s.SnapshotSink.Write(p[len(p)/2:])
		return n + len(p)/2, err
	}
	return s.SnapshotSink.Write(p)
}

func (s *failSink) Close() error {
	return around(failpoint.SnapshotRename, failpoint.SnapshotAfter, s.SnapshotSink.Close)
}
