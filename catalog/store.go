// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/go-memdb"
)

// Config says what a store is. The zero value is a server's store without a datacenter.
type Config struct {
	// Datacenter fills in scopes that name none.
	Datacenter string
	// Replica is a store that holds some topics only, brought by ApplyItems.
	Replica bool
	// Epoch is where this store's positions begin. A server that starts with an empty store must take one that it has never
	// used, so that feeds don't take its positions for older ones.
	Epoch uint64
	// WindowBytes bounds the retained changes that feeds resume from; 0 means 16 MiB: a collector of garbage looks at all of it.
	WindowBytes int
	// DigestEvery is after how many log entries the tables' digest is noted, 0 for 1024; the same on all servers.
	DigestEvery uint64
	// Schema is the newest schema version that this store knows; 0 is SchemaVersion. Lower: it is as one of an older weft.
	Schema uint64
}

// Position is a place in a store's history. Positions of different epochs have no order.
type Position struct{ Epoch, Index uint64 }

// LogEntry is a command at its place in the log; indexes only rise.
type LogEntry struct {
	Index uint64
	Data  []byte // see Encode
}

// Result is what became of a log entry. What Value is, the commands say. An Err that is a *CorruptError must stop the server;
// any other is an answer to whoever sent the command.
type Result struct {
	Index uint64
	Value any
	Err   error
}

// Store holds the tables. All methods may be called at the same time; writers (Apply, ApplyItems, Restore) take turns, and
// readers never wait for them.
type Store struct {
	config Config

	mu  sync.Mutex // one writer at a time
	now atomic.Pointer[version]

	digests *digests // the writers'; nil in a replica
	touched int      // how many topics the last of them changed

	waiters waiters
	recent  recent
	window  window
}

// state is swapped as a whole by Restore.
type state struct {
	db    *memdb.MemDB // the writers'
	epoch uint64
}

// version is all that a commit leaves, which readers take as a whole: the tables, and what isn't in them because every commit changes it.
type version struct {
	state  *state
	db     *memdb.MemDB // the state's as it was then
	meta   metaRow
	topics topicTree
}

// read is a view that belongs to no store.
func (v *version) read() *Txn { return &Txn{db: v.db.Txn(false), meta: v.meta, topics: v.topics} }

// show makes tables that were committed visible, with what belongs to them.
func (s *Store) show(st *state, meta metaRow, topics topicTree) {
	s.now.Store(&version{st, st.db.Snapshot(), meta, topics})
}

// New makes an empty store.
func New(c Config) (*Store, error) {
	if c.WindowBytes < 0 {
		return nil, fmt.Errorf("%w: WindowBytes %d is negative", ErrInvalid, c.WindowBytes)
	}
	if c.WindowBytes == 0 {
		c.WindowBytes = 16 << 20
	}
	db, err := newDB()
	if err != nil {
		return nil, err
	}
	if c.Schema == 0 {
		c.Schema = SchemaVersion
	}
	if c.DigestEvery == 0 {
		c.DigestEvery = 1024
	}
	s := &Store{config: c}
	if !c.Replica {
		s.digests = newDigests(c.DigestEvery)
	}
	s.window.max, s.window.epoch = c.WindowBytes, c.Epoch
	s.show(&state{db: db, epoch: c.Epoch}, metaRow{}, newTopicTree())
	return s, nil
}

// Position is the store's place now. A server's has its own epoch, a replica's that of the server which it last heard.
func (s *Store) Position() Position {
	v := s.now.Load()
	return Position{v.state.epoch, v.meta.index}
}

// Datacenter fills in scopes that name none.
func (s *Store) Datacenter() string { return s.config.Datacenter }

// Read gives a consistent view of the tables as they are now. It costs next to nothing and needs no end, but keeps what it
// sees in memory while it is referenced.
func (s *Store) Read() *Txn {
	v := s.now.Load()
	return &Txn{
		db: v.db.Txn(false), store: s, state: v.state, dc: s.config.Datacenter, replica: s.config.Replica, epoch: v.state.epoch, meta: v.meta, topics: v.topics,
	}
}

// Apply runs a batch of log entries in one transaction (two, where the tables' digest is due in between) and publishes it. Each has its own index and result, in order, and
// all is as if they had come one by one. A command that fails changes nothing. One that panics is an error of that command
// alone. If an entry is corrupt, it and those after it are not applied and have a *CorruptError.
//
// A replica has no log: there Apply returns errors.
func (s *Store) Apply(batch []LogEntry) []Result {
	results := make([]Result, len(batch))
	if s.config.Replica {
		for i, e := range batch {
			results[i] = Result{Index: e.Index, Err: fmt.Errorf("%w: a replica takes no commands", ErrInvalid)}
		}
		return results
	}
	bodies, bad := s.decodeBatch(batch, results)
	s.mu.Lock()
	defer s.mu.Unlock()
	for from := 0; from < bad; {
		meta := s.now.Load().meta
		n, before := s.digests.segment(meta.index, batch[from:bad])
		if before {
			s.digests.checkpoint(s.digests.block(batch[from].Index), meta)
		}
		s.applyLocked(batch[from:from+n], bodies[from:from+n], results[from:from+n])
		from += n
	}
	return results
}

// applyLocked runs entries in one transaction.
func (s *Store) applyLocked(batch []LogEntry, bodies []timed, results []Result) {
	panicked := map[int]error{}
	for {
		b := newWrite(s)
		b.txn.TrackChanges()
		if b.applyAll(batch, bodies, results, panicked) {
			s.publish(b)
			return
		}
		b.txn.Abort() // once more without the command that panicked
	}
}

// decodeBatch decodes outside the lock; bad is the number of entries before the first corrupt one.
func (s *Store) decodeBatch(batch []LogEntry, results []Result) (bodies []timed, bad int) {
	bodies = make([]timed, len(batch))
	for i, e := range batch {
		body, err := decodeSafely(e.Data)
		if err == nil {
			err = checkSchema(body.body, s.config.Schema)
		}
		if err != nil {
			for j := i; j < len(batch); j++ {
				results[j] = Result{Index: batch[j].Index, Err: &CorruptError{Index: e.Index, Err: err}}
			}
			return bodies, i
		}
		bodies[i] = body
	}
	return bodies, len(batch)
}

// timed is a command's body and when it was ordered.
type timed struct {
	body Body
	at   int64
}

func decodeSafely(data []byte) (c timed, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("decoding panicked: %v", r)
		}
	}()
	c.body, c.at, err = decodeAt(data)
	return c, err
}

// publish makes a transaction visible, then wakes whom it concerns.
func (s *Store) publish(w *write) {
	w.finish()
	s.touched = len(w.topics)
	s.window.add(w.changes, w.index)
	if s.digests != nil {
		s.digests.note(w.txn.Changes())
		for _, c := range w.rows {
			s.digests.noteTopic(c)
		}
	}
	s.commit(w)
	s.waiters.wake(w.topics, w.advanced)
	s.waiters.wakeLive(w.keys, w.woken)
}
