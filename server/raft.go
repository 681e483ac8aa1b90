// SPDX-License-Identifier: Apache-2.0

package server

import (
	"cmp"
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
	"github.com/weftmesh/weft/internal/failpoint"
	"github.com/weftmesh/weft/internal/logs"
)

// dataVersion is the version of the data directory's form. A higher one was written by a newer weft.
const dataVersion = 1

type raftConfig struct {
	dir, id, name, address string
	datacenter             string
	alone                  bool // no other server will ever be there
	tuning                 Tuning
	streams                *streams // nil: in memory
	addresses              raft.ServerAddressProvider
	store                  *catalog.Store
	applied                *progress
	elections              *broadcast
	room                   *room
	fatal                  func(error)
	log                    *slog.Logger
}

// Tuning is what can be said about Raft. The zero value is good.
type Tuning struct {
	// Multiplier makes the timers longer, for slow networks and machines: Consul's raft_multiplier. 0 is 1.
	Multiplier int
	// SnapshotThreshold is how many log entries make a snapshot worth it, looked at every SnapshotInterval; TrailingLogs are kept
	// behind one, for followers that are a little behind. 0 are 16384, 30 s and 10240.
	SnapshotThreshold uint64
	SnapshotInterval  time.Duration
	TrailingLogs      uint64
	// NoPreVote lets a server that was cut off disturb the others when it comes back.
	NoPreVote bool
	// SegmentSize is how large a file of the log gets, in bytes; 0 is 64 MiB. Files that are there stay as they are.
	SegmentSize int
}

// The timers. A leader that was killed is missed after one to two heartbeatTimeouts; below this, a server that waits for its
// processor would be taken for dead. One server alone answers to nobody: its timers only decide how soon it elects itself.
const (
	heartbeatTimeout = 250 * time.Millisecond
	aloneTimeout     = 60 * time.Millisecond
	// transportTimeout bounds a message between servers; snapshots get more by their size.
	transportTimeout = 10 * time.Second
	transportPool    = 3
	maxAppendEntries = 256
)

func (c raftConfig) raft(notify chan<- bool) *raft.Config {
	conf := raft.DefaultConfig()
	conf.LocalID = raft.ServerID(c.id)
	conf.Logger = logs.HC(c.log, "raft")
	conf.NotifyCh = notify
	timeout := aloneTimeout
	if !c.alone {
		timeout = heartbeatTimeout * time.Duration(max(1, c.tuning.Multiplier))
	}
	conf.HeartbeatTimeout, conf.ElectionTimeout, conf.LeaderLeaseTimeout = timeout, timeout, timeout
	conf.CommitTimeout = min(conf.CommitTimeout, timeout/6)
	conf.BatchApplyCh = true
	conf.MaxAppendEntries = maxAppendEntries
	conf.PreVoteDisabled = c.tuning.NoPreVote
	conf.SnapshotThreshold, conf.SnapshotInterval, conf.TrailingLogs = 16384, 30*time.Second, 10240
	if c.tuning.SnapshotThreshold > 0 {
		conf.SnapshotThreshold = c.tuning.SnapshotThreshold
	}
	if c.tuning.SnapshotInterval > 0 {
		conf.SnapshotInterval = c.tuning.SnapshotInterval
	}
	if c.tuning.TrailingLogs > 0 {
		conf.TrailingLogs = c.tuning.TrailingLogs
	}
	return conf
}

// raftNode is Raft with what has to be closed after it.
type raftNode struct {
	*raft.Raft
	raftStores
	id        raft.ServerID
	closers   []io.Closer
	pipelines *pipelines // nil: in memory
	notify    chan bool  // leadership, gained or lost
	observed  chan raft.Observation
	observer  *raft.Observer
}

// openRaft opens the log and starts Raft. A server that is alone and has no state makes a cluster of itself.
func openRaft(c raftConfig) (*raftNode, error) {
	node := &raftNode{id: raft.ServerID(c.id), notify: make(chan bool, 16)}
	var err error
	if node.raftStores, err = openStores(c, node); err != nil {
		return nil, errors.Join(err, node.close())
	}
	transport := c.transport()
	node.pipelines, _ = transport.(*pipelines)
	if t, ok := transport.(io.Closer); ok {
		node.closers = append([]io.Closer{t}, node.closers...)
	}
	conf := c.raft(node.notify)
	machine := &fsm{store: c.store, applied: c.applied, room: c.room, fatal: c.fatal}
	err = node.rename(c, conf, transport)
	if err == nil {
		err = node.recover(c, conf, transport)
	}
	known := false
	if err == nil {
		known, err = node.hasState()
	}
	if err == nil && !known && c.alone {
		err = raft.BootstrapCluster(conf, node.log, node.stable, node.snapshots, transport, raft.Configuration{
			Servers: []raft.Server{{ID: conf.LocalID, Address: raft.ServerAddress(c.address)}},
		})
	}
	if err == nil {
		node.Raft, err = newRaft(conf, machine, node.log, node.stable, node.snapshots, transport)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("raft: %w", err), node.close())
	}
	node.observed = make(chan raft.Observation, 16)
	node.observer = raft.NewObserver(node.observed, false, func(o *raft.Observation) bool {
		_, ok := o.Data.(raft.LeaderObservation)
		return ok
	})
	node.RegisterObserver(node.observer)
	return node, nil
}

func (c raftConfig) transport() raft.Transport {
	if c.streams == nil {
		_, t := raft.NewInmemTransport(raft.ServerAddress(c.address))
		return t
	}
	return &pipelines{NetworkTransport: raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream: c.streams, MaxPool: transportPool, Timeout: transportTimeout, ServerAddressProvider: c.addresses, Logger: logs.HC(c.log, "transport"),
	})}
}

// hasState says whether this server belongs to a cluster.
func (n *raftNode) hasState() (bool, error) {
	return raft.HasExistingState(n.log, n.stable, n.snapshots)
}

// newRaft is raft.NewRaft, which reads the whole log.
func newRaft(c *raft.Config, f raft.FSM, l raft.LogStore, st raft.StableStore, sn raft.SnapshotStore, t raft.Transport) (r *raft.Raft, err error) {
	defer unreadable(&err)
	return raft.NewRaft(c, f, l, st, sn, t)
}

// unreadable is deferred where Raft panics when it can't read the log, or the log doesn't go on where the newest sound snapshot ends: here
// that is an error.
func unreadable(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("its log can't be read, or a snapshot before it is damaged: empty its data_dir and let it join anew: %v", p)
	}
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
	if err := checkDatacenter(c.dir, c.datacenter); err != nil {
		return raftStores{}, err
	}
	dir := filepath.Join(c.dir, "log")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return raftStores{}, err
	}
	w, err := openWAL(dir, cmp.Or(c.tuning.SegmentSize, wal.DefaultSegmentSize))
	if err != nil {
		return raftStores{}, fmt.Errorf("raft log in %s: %w", dir, err)
	}
	node.closers = append(node.closers, w)
	if err := removeHalfSnapshots(c.dir); err != nil {
		return raftStores{}, err
	}
	snapshots, err := raft.NewFileSnapshotStoreWithLogger(c.dir, 2, logs.HC(c.log, "snapshot"))
	if err != nil {
		return raftStores{}, fmt.Errorf("raft snapshots in %s: %w", c.dir, err)
	}
	stores := failing(raftStores{w, w, snapshots})
	stores.log = &watchedLog{stores.log, c.room, c.fatal}
	return stores, nil
}

// checkDatacenter refuses data of another datacenter, and marks new data with ours: names in it would mean something else. "" is who
// doesn't care.
func checkDatacenter(dir, datacenter string) error {
	if datacenter == "" {
		return nil
	}
	path := filepath.Join(dir, "DATACENTER")
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return os.WriteFile(path, []byte(datacenter+"\n"), 0o600)
	}
	if err != nil {
		return err
	}
	if has := strings.TrimSpace(string(data)); has != datacenter {
		return fmt.Errorf("the data in %s is of datacenter %q, and the configuration says %q: set datacenter = %q, or give this server an empty data_dir",
			dir, has, datacenter, has)
	}
	return nil
}

// removeHalfSnapshots removes those that were never finished: nothing else does.
func removeHalfSnapshots(dir string) error {
	half, err := filepath.Glob(filepath.Join(dir, "snapshots", "*.tmp"))
	for _, path := range half {
		err = errors.Join(err, os.RemoveAll(path))
	}
	return err
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

// run tells of elections until ctx ends. Then another server is asked to lead, if this one does, Raft is stopped and its files
// are closed.
func (n *raftNode) run(ctx context.Context, elections *broadcast, reigns *reigns) error {
	for {
		select {
		case <-n.observed:
			reigns.look()
			elections.send()
			continue
		case <-ctx.Done():
		}
		break
	}
	n.DeregisterObserver(n.observer)
	n.handOver()
	return errors.Join(n.stop(), n.close())
}

// stopAgain is how often pipelines are cut while Raft stops.
const stopAgain = 50 * time.Millisecond

// stop stops Raft, and lets go of who waits in a pipeline meanwhile.
func (n *raftNode) stop() error {
	stopped := n.Shutdown()
	done := make(chan error, 1)
	go func() { done <- stopped.Error() }() // ends with Raft, which is waited for here
	for {
		n.pipelines.cut()
		timer := time.NewTimer(stopAgain)
		select {
		case err := <-done:
			timer.Stop()
			return err
		case <-timer.C:
		}
	}
}

// handOver has another server lead, if this one does.
func (n *raftNode) handOver() {
	if n.State() == raft.Leader && n.others() > 0 && failpoint.Hit(failpoint.TransferPending) == nil {
		_ = n.LeadershipTransfer().Error() // the others elect one anyhow
	}
}

// others counts the other voters.
func (n *raftNode) others() int {
	future := n.GetConfiguration()
	if err := future.Error(); err != nil {
		return 0
	}
	count := 0
	for _, p := range future.Configuration().Servers {
		if p.Suffrage == raft.Voter && p.ID != n.id {
			count++
		}
	}
	return count
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
	broken  error // what couldn't be applied; Raft's goroutine owns it
	store   *catalog.Store
	applied *progress
	room    *room
	fatal   func(error)
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
	if f.broken != nil { // until the server has stopped, nothing more is applied
		for i, e := range batch {
			out[at[i]] = catalog.Result{Index: e.Index, Err: f.broken}
		}
		return out
	}
	if err := failpoint.Hit(failpoint.ApplyBefore); err != nil {
		f.fatal(err)
	}
	if len(batch) > 1 && failpoint.Bug(failpoint.SkipOne) {
		batch, at = skipOne(batch, at, out)
	}
	for i, r := range f.store.Apply(batch) {
		var corrupt *catalog.CorruptError
		if errors.As(r.Err, &corrupt) {
			f.broken = fmt.Errorf("this server stops, since what its log says can't be applied: %w", corrupt)
			f.fatal(f.broken)
		}
		out[at[i]] = r
	}
	if f.broken != nil {
		return out
	}
	f.applied.advance(entries[len(entries)-1].Index)
	if err := failpoint.Hit(failpoint.ApplyAfter); err != nil {
		f.fatal(err)
	}
	return out
}

func (f *fsm) Apply(e *raft.Log) any { return f.ApplyBatch([]*raft.Log{e})[0] }

func (f *fsm) Snapshot() (raft.FSMSnapshot, error) {
	if f.broken != nil {
		return nil, f.broken
	}
	if err := f.room.atLeast(roomSpare); err != nil { // half a snapshot would take the rest
		return nil, err
	}
	return &fsmSnapshot{f.store.Snapshot()}, nil
}

func (f *fsm) Restore(r io.ReadCloser) error {
	if err := failpoint.Hit(failpoint.RestoreBefore); err != nil {
		return errors.Join(err, r.Close())
	}
	err := errors.Join(f.store.Restore(r), r.Close())
	if errors.Is(err, catalog.ErrSchema) {
		f.fatal(err) // the leader would send it again and again
	}
	if err == nil {
		f.applied.advance(f.store.Position().Index)
		err = failpoint.Hit(failpoint.RestoreAfter)
	}
	return err
}

type fsmSnapshot struct{ snapshot *catalog.Snapshot }

func (s *fsmSnapshot) Persist(sink raft.SnapshotSink) error {
	if _, err := s.snapshot.WriteTo(sink); err != nil {
		return errors.Join(err, sink.Cancel())
	}
	return sink.Close()
}

func (s *fsmSnapshot) Release() { s.snapshot.Release() }
