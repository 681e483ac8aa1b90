// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
)

// A snapshot is the magic, then records, each a length (uint32, big endian) and its CBOR: first a header, then rows by table, and last
// a length of 0 and the SHA-256 of all before it.
const snapshotMagic = "weft-catalog\n\x01\x00\x00"

type snapshotHeader struct {
	Format uint64
	Schema uint64 // the cluster's schema version
	Index  uint64
	Epoch  uint64
	Reaped uint64 `json:",omitempty"`
	// Bootstrap is the index at which the first management token was made.
	Bootstrap uint64 `json:",omitempty"`
	Digest    []byte `json:",omitempty"` // of the tables: see digests
}

func (m metaRow) header(epoch uint64, digest []byte) snapshotHeader {
	return snapshotHeader{Format: 1, Schema: m.schema, Index: m.index, Epoch: epoch, Reaped: m.reaped, Bootstrap: m.bootstrap, Digest: digest}
}

func (h *snapshotHeader) meta() metaRow {
	return metaRow{index: h.Index, schema: h.Schema, reaped: h.Reaped, bootstrap: h.Bootstrap}
}

// snapshotRow is one row of one table; exactly one field is set. The table of names is made anew from the services.
type snapshotRow struct {
	Node    *Node           `json:",omitempty"`
	Check   *Check          `json:",omitempty"`
	Service *snapshotHolder `json:",omitempty"`
	Entry   *EntryBox       `json:",omitempty"`
	CA      *CAState        `json:",omitempty"`
	Topic   *snapshotTopic  `json:",omitempty"`

	Session   *Session       `json:",omitempty"`
	KV        *KVEntry       `json:",omitempty"`
	Tombstone *snapshotKey   `json:",omitempty"`
	Delay     *snapshotKey   `json:",omitempty"`
	Query     *PreparedQuery `json:",omitempty"`
	Peering   *Peering       `json:",omitempty"`
	Import    *Imported      `json:",omitempty"`

	Autopilot  *AutopilotConfig `json:",omitempty"`
	ACL        *ACLObject       `json:",omitempty"`
	Coordinate *NodeCoordinate  `json:",omitempty"`
	Virtual    *VirtualIP       `json:",omitempty"`
}

// snapshotKey is a row about a key of the key-value store, by its row key.
type snapshotKey struct {
	Key   Raw
	Value uint64 // the index of the deletion, or until when the delay is
}

type snapshotHolder struct {
	Service *Service
	Last    uint64
}

type snapshotTopic struct {
	Topic Topic
	Index uint64
}

// Snapshot is the store at one moment.
type Snapshot struct {
	txn    *Txn
	digest []byte
}

// Snapshot takes the store's state as it is now; it costs nothing until it is written.
func (s *Store) Snapshot() *Snapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	sn := &Snapshot{txn: s.Read()}
	if s.digests != nil {
		s.digests.settle()
		sn.digest = s.digests.whole(sn.txn.meta)
	}
	return sn
}

// Index is the last log entry that the snapshot holds.
func (sn *Snapshot) Index() uint64 { return sn.txn.Index() }

// Release lets go of the state. Using the snapshot afterwards is an error.
func (sn *Snapshot) Release() { sn.txn = nil }

// WriteTo writes the snapshot in its one form.
func (sn *Snapshot) WriteTo(w io.Writer) (int64, error) {
	if sn.txn == nil {
		return 0, errors.New("catalog: the snapshot was released")
	}
	sum := sha256.New()
	buf := bufio.NewWriterSize(w, 64<<10)
	out := &snapshotWriter{w: io.MultiWriter(buf, sum)}
	out.write([]byte(snapshotMagic))
	out.record(sn.txn.meta.header(sn.txn.epoch, sn.digest))
	sn.txn.eachRow(func(r snapshotRow) { out.record(r) })
	out.write([]byte{0, 0, 0, 0})
	if out.err != nil {
		return out.n, out.err
	}
	if _, err := buf.Write(sum.Sum(nil)); err != nil {
		return out.n, err
	}
	return out.n + sha256.Size, buf.Flush()
}

type snapshotWriter struct {
	w   io.Writer
	n   int64
	err error
}

func (s *snapshotWriter) write(b []byte) {
	if s.err == nil {
		var n int
		n, s.err = s.w.Write(b)
		s.n += int64(n)
	}
}

func (s *snapshotWriter) record(v any) {
	if s.err != nil {
		return
	}
	data, err := encode(v)
	if err != nil {
		s.err = err
		return
	}
	s.write(binary.BigEndian.AppendUint32(nil, uint32(len(data))))
	s.write(data)
}

// snapshotTables are the tables whose rows a snapshot holds, in its order: services come after the nodes and checks that their
// instances hold. The others are made out of these.
var snapshotTables = []string{
	tableNodes, tableChecks, tableServices, tableEntries, tableCA, tableTopics, tableSessions, tableQueries, tableKV, tableTombstones, tableDelays,
	tableAutopilot, tableACL, tableCoordinates, tablePeerings, tableVirtual, tableImports,
}

// rowForm is a row's form in a snapshot; ok is false for rows that have none.
func rowForm(row any) (r snapshotRow, ok bool) {
	switch row := row.(type) {
	case *Node:
		r.Node = row
	case *Check:
		r.Check = row
	case *instanceRow:
		r.Service = &snapshotHolder{row.Service, row.last}
	case *entryRow:
		r.Entry = &EntryBox{row.entry}
	case *CAState:
		r.CA = row
	case *topicRow:
		r.Topic = &snapshotTopic{row.topic, row.index}
	case *Session:
		r.Session = row
	case *Peering:
		r.Peering = row
	case *Imported:
		r.Import = row
	case *PreparedQuery:
		r.Query = row
	case *kvRow:
		r.KV = &row.KVEntry
		if seeded("drop-field") {
			short := row.KVEntry
			short.CreateIndex = 0
			r.KV = &short
		}
	case *tombstone:
		r.Tombstone = &snapshotKey{Raw(row.key), row.index}
	case *delayRow:
		r.Delay = &snapshotKey{Raw(row.key), uint64(row.until)}
	case *AutopilotConfig:
		r.Autopilot = row
	case *aclRow:
		r.ACL = &row.ACLObject
	case *NodeCoordinate:
		r.Coordinate = row
	case *VirtualIP:
		r.Virtual = row
	default:
		return r, false
	}
	return r, true
}

// eachTable visits all rows that a snapshot holds, in a fixed order.
func (t *Txn) eachTable(f func(table string, row any)) {
	for _, table := range snapshotTables {
		if table == tableTopics {
			for _, row := range t.topics.rows() {
				f(table, row)
			}
			continue
		}
		each(t.db, table, "id_prefix", "", func(row any) { f(table, row) })
	}
}

// eachRow visits all that a snapshot holds, in a fixed order.
func (t *Txn) eachRow(f func(snapshotRow)) {
	t.eachTable(func(_ string, row any) {
		if r, ok := rowForm(row); ok {
			f(r)
		}
	})
}

// Digest is over all tables and the index: equal for two servers that applied the same log.
func (s *Store) Digest() []byte {
	t := s.Read()
	sum := sha256.New()
	out := &snapshotWriter{w: sum}
	out.record(t.meta.header(0, nil))
	t.eachRow(func(r snapshotRow) { out.record(r) })
	if out.err != nil {
		return nil // what is stored came out of a decoder and always encodes
	}
	return sum.Sum(nil)
}

// Restore replaces the whole store by a snapshot, or leaves it as it is: one that is cut, damaged, or of a newer version is an error
// (a *CorruptError, or ErrSchema) before anything is touched. The store gets a new epoch, and everybody who waits wakes.
func (s *Store) Restore(r io.Reader) error {
	if s.config.Replica {
		return fmt.Errorf("%w: a replica is restored by an update", ErrInvalid)
	}
	loaded, head, err := readSnapshot(r, s.config.Datacenter, s.config.Schema)
	if err != nil {
		if errors.Is(err, ErrSchema) {
			return fmt.Errorf("restore: %w", err)
		}
		return &CorruptError{Err: fmt.Errorf("snapshot: %w", err)}
	}
	// What was written and what was read are held against the sums that were kept while the rows came to be.
	sums := newDigests(s.config.DigestEvery)
	sums.load(loaded.read())
	if len(head.Digest) > 0 && !bytes.Equal(head.Digest, sums.whole(loaded.meta)) {
		return &CorruptError{Err: errors.New("snapshot: its rows aren't those of the tables that it was made of: it was written, or is read, by a faulty weft")}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.digests = sums
	epoch := max(head.Epoch, s.now.Load().state.epoch) + 1
	s.window.reset(Position{epoch, head.Index})
	s.show(&state{db: loaded.db, epoch: epoch}, loaded.meta, loaded.topics)
	s.recent.forget() // the old tables, above all
	s.waiters.wakeAll()
	return nil
}

// readSnapshot loads a snapshot into tables of their own, which belong to no state.
func readSnapshot(r io.Reader, dc string, newest uint64) (v *version, head snapshotHeader, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("loading it panicked: %v", p)
		}
	}()
	in := &snapshotReader{r: bufio.NewReaderSize(r, 64<<10), sum: sha256.New()}
	magic := make([]byte, len(snapshotMagic))
	if err := in.full(magic); err != nil {
		return nil, head, err
	}
	if string(magic) != snapshotMagic {
		return nil, head, errors.New("it is not a snapshot of a weft catalog")
	}
	data, err := in.next()
	if err != nil {
		return nil, head, err
	}
	if err := decode(data, &head); err != nil {
		return nil, head, fmt.Errorf("header: %w", err)
	}
	if head.Format != 1 || head.Schema > newest {
		return nil, head, fmt.Errorf("%w: snapshot format %d, schema %d; this weft knows up to 1 and %d: start a newer one", ErrSchema, head.Format, head.Schema, newest)
	}
	db, err := newDB()
	if err != nil {
		return nil, head, err
	}
	w := &write{txn: db.Txn(true), dc: dc, topics: map[Topic]uint64{}, tree: newTopicTree().edit(), meta: head.meta()}
	w.index = head.Index
	for {
		data, err := in.next()
		if err != nil {
			return nil, head, err
		}
		if data == nil {
			break
		}
		var row snapshotRow
		if err := decode(data, &row); err != nil {
			return nil, head, err
		}
		if err := w.load(&row); err != nil {
			return nil, head, err
		}
	}
	if err := in.end(); err != nil {
		return nil, head, err
	}
	w.topics = nil // the names' counting touched some: their true indexes were in the snapshot
	w.finish()
	w.txn.Commit()
	return &version{db: db, meta: w.meta, topics: w.tree.topicTree}, head, nil
}

// load puts a row in. Services come after the nodes and checks that their instances hold.
func (w *write) load(row *snapshotRow) error {
	switch {
	case row.Node != nil:
		insert(w.txn, tableNodes, row.Node)
	case row.Check != nil:
		insert(w.txn, tableChecks, row.Check)
	case row.Service != nil && row.Service.Service != nil:
		u := newUnit(w)
		in := u.assemble(row.Service.Service)
		if in.Node == nil {
			return fmt.Errorf("service %q is on node %q, which isn't there", in.Service.ID, in.Service.Node)
		}
		r := newInstanceRow(in, serviceString(in.Service), row.Service.Last)
		insert(w.txn, tableServices, r)
		u.count(in.Service, 1)
		w.changes = nil
	case row.Entry != nil && row.Entry.Entry != nil:
		e := row.Entry.Entry
		insert(w.txn, tableEntries, newEntryRow(e, entryString(e.EntryKind(), e.Head().Key())))
	case row.CA != nil:
		insert(w.txn, tableCA, row.CA)
	case row.Topic != nil:
		w.tree.put(newTopicRow(row.Topic.Topic, row.Topic.Index))
	case row.Session != nil:
		insert(w.txn, tableSessions, row.Session)
	case row.Query != nil:
		insert(w.txn, tableQueries, row.Query)
	case row.Coordinate != nil:
		insert(w.txn, tableCoordinates, row.Coordinate)
	case row.Virtual != nil:
		insert(w.txn, tableVirtual, row.Virtual)
	case row.Peering != nil:
		insert(w.txn, tablePeerings, row.Peering)
	case row.Import != nil:
		insert(w.txn, tableImports, row.Import)
	case row.KV != nil:
		insert(w.txn, tableKV, newKVRow(*row.KV, kvString(row.KV.Scope, row.KV.Key)))
	case row.Tombstone != nil:
		insert(w.txn, tableTombstones, &tombstone{string(row.Tombstone.Key), row.Tombstone.Value})
	case row.Delay != nil:
		insert(w.txn, tableDelays, &delayRow{string(row.Delay.Key), int64(row.Delay.Value)})
	case row.Autopilot != nil:
		insert(w.txn, tableAutopilot, row.Autopilot)
	case row.ACL != nil && row.ACL.Kind() != "":
		insert(w.txn, tableACL, &aclRow{*row.ACL})
	default:
		return errors.New("a record of no table")
	}
	return nil
}

type snapshotReader struct {
	r   *bufio.Reader
	sum hash.Hash
}

func (s *snapshotReader) full(b []byte) error {
	if _, err := io.ReadFull(s.r, b); err != nil {
		return fmt.Errorf("it ends too early: %w", err)
	}
	_, _ = s.sum.Write(b)
	return nil
}

// next gives a record; nil at the end mark.
func (s *snapshotReader) next() ([]byte, error) {
	var size [4]byte
	if err := s.full(size[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(size[:])
	if n == 0 {
		return nil, nil
	}
	if n > MaxCommandBytes {
		return nil, fmt.Errorf("a record of %d bytes, more than %d", n, MaxCommandBytes)
	}
	var data bytes.Buffer // grows with what really comes
	if _, err := io.CopyN(&data, s.r, int64(n)); err != nil {
		return nil, fmt.Errorf("it ends too early: %w", err)
	}
	_, _ = s.sum.Write(data.Bytes())
	return data.Bytes(), nil
}

func (s *snapshotReader) end() error {
	want := s.sum.Sum(nil)
	got := make([]byte, sha256.Size)
	if _, err := io.ReadFull(s.r, got); err != nil {
		return fmt.Errorf("it ends too early: %w", err)
	}
	if !bytes.Equal(want, got) {
		return errors.New("its checksum is wrong")
	}
	if _, err := s.r.ReadByte(); err != io.EOF {
		return errors.New("there is more after its end")
	}
	return nil
}
