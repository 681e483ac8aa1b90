// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/internal/logs"
)

// dataVersion is the version of the data directory's form. A higher one was written by a newer weft.
const dataVersion = 1

type raftConfig struct {
	dir, node, address string
	store              *catalog.Store
	fatal              func(error)
	log                *slog.Logger
}

// raftNode is Raft with what has to be closed after it.
type raftNode struct {
	*raft.Raft
	closers []io.Closer
	notify  chan bool // leadership, gained or lost
}

// openRaft opens the log and starts Raft. A server without any state makes a cluster of itself alone.
func openRaft(c raftConfig) (*raftNode, error) {
	node := &raftNode{notify: make(chan bool, 16)}
	conf := raft.DefaultConfig()
	conf.LocalID = raft.ServerID(c.node)
	conf.Logger = logs.HC(c.log, "raft")
	conf.NotifyCh = node.notify
	// One server answers to nobody: the timers only decide how soon it elects itself.
	conf.HeartbeatTimeout, conf.ElectionTimeout, conf.LeaderLeaseTimeout = 60*time.Millisecond, 60*time.Millisecond, 60*time.Millisecond
	conf.BatchApplyCh = true
	conf.MaxAppendEntries = 256
	stores, err := openStores(c, node)
	if err != nil {
		return nil, errors.Join(err, node.close())
	}
	addr, transport := raft.NewInmemTransport(raft.ServerAddress(c.address))
	known, err := raft.HasExistingState(stores.log, stores.stable, stores.snapshots)
	if err == nil && !known {
		err = raft.BootstrapCluster(conf, stores.log, stores.stable, stores.snapshots, transport, raft.Configuration{
			Servers: []raft.Server{{ID: conf.LocalID, Address: addr}},
		})
	}
	if err == nil {
		node.Raft, err = raft.NewRaft(conf, &fsm{c.store, c.fatal}, stores.log, stores.stable, stores.snapshots, transport)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("raft: %w", err), node.close())
	}
	return node, nil
}

type raftStores struct {
	log       raft.LogStore
	stable    raft.StableStore
	snapshots raft.SnapshotStore
}

func openStores(c raftConfig, node *raftNode) (raftStores, error) {
	if c.dir == "" {
		mem := raft.NewInmemStore()
		return raftStores{mem, mem, raft.NewInmemSnapshotStore()}, nil
	}
	if err := checkVersion(c.dir); err != nil {
		return raftStores{}, err
	}
	dir := filepath.Join(c.dir, "log")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return raftStores{}, err
	}
	w, err := wal.Open(dir)
	if err != nil {
		return raftStores{}, fmt.Errorf("raft log in %s: %w", dir, err)
	}
	node.closers = append(node.closers, w)
	snapshots, err := raft.NewFileSnapshotStoreWithLogger(c.dir, 2, logs.HC(c.log, "snapshot"))
	if err != nil {
		return raftStores{}, fmt.Errorf("raft snapshots in %s: %w", c.dir, err)
	}
	return raftStores{w, w, snapshots}, nil
}

// checkVersion refuses a data directory of a newer version, and marks a new one with ours.
func checkVersion(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	path := filepath.Join(dir, "VERSION")
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return os.WriteFile(path, []byte(strconv.Itoa(dataVersion)+"\n"), 0o600)
	}
	if err != nil {
		return err
	}
	version, err := strconv.Atoi(strings.TrimSpace(string(data)))
	switch {
	case err != nil:
		return fmt.Errorf("%s isn't a version of weft's: %q; is this the right data_dir?", path, data)
	case version > dataVersion:
		return fmt.Errorf("the data in %s is of version %d, and this weft knows up to %d: start the weft that wrote it, or a newer one",
			dir, version, dataVersion)
	}
	return nil
}

// run waits for ctx, then stops Raft and closes its files.
func (n *raftNode) run(ctx context.Context) error {
	<-ctx.Done()
	err := n.Shutdown().Error()
	return errors.Join(err, n.close())
}

func (n *raftNode) close() error {
	var errs []error
	for _, c := range n.closers {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// fsm applies Raft's entries to the catalog, a batch at a time: one transaction, but a result for each.
type fsm struct {
	store *catalog.Store
	fatal func(error)
}

var _ raft.BatchingFSM = (*fsm)(nil)

func (f *fsm) ApplyBatch(entries []*raft.Log) []any {
	out := make([]any, len(entries))
	batch := make([]catalog.LogEntry, 0, len(entries))
	at := make([]int, 0, len(entries))
	for i, e := range entries {
		if e.Type == raft.LogCommand {
			batch = append(batch, catalog.LogEntry{Index: e.Index, Data: e.Data})
			at = append(at, i)
		}
	}
	for i, r := range f.store.Apply(batch) {
		var corrupt *catalog.CorruptError
		if errors.As(r.Err, &corrupt) {
			f.fatal(fmt.Errorf("this server stops, since what its log says can't be applied: %w", corrupt))
		}
		out[at[i]] = r
	}
	return out
}

func (f *fsm) Apply(e *raft.Log) any { return f.ApplyBatch([]*raft.Log{e})[0] }

func (f *fsm) Snapshot() (raft.FSMSnapshot, error) { return &fsmSnapshot{f.store.Snapshot()}, nil }

func (f *fsm) Restore(r io.ReadCloser) error {
	return errors.Join(f.store.Restore(r), r.Close())
}

type fsmSnapshot struct{ snapshot *catalog.Snapshot }

func (s *fsmSnapshot) Persist(sink raft.SnapshotSink) error {
	if _, err := s.snapshot.WriteTo(sink); err != nil {
		return errors.Join(err, sink.Cancel())
	}
	return sink.Close()
}

func (s *fsmSnapshot) Release() { s.snapshot.Release() }
