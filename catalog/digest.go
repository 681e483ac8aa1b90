// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"maps"
	"slices"

	"github.com/hashicorp/go-memdb"
)

// Servers that applied the same log have the same rows. So that they can tell cheaply whether they do, each table has a sum over
// the hashes of its rows, which is kept up as rows change, and every so many log entries, at the same place on all servers,
// the sums are noted: a checkpoint. Between checkpoints only the rows that changed are remembered; a row that changed a hundred
// times is hashed once.

// Checkpoint is the state of the tables before the first log entry whose index is above Block times the store's DigestEvery.
type Checkpoint struct {
	Block  uint64
	Tables map[string][]byte // by table, and "meta" for what there is one of
}

// Differs names the tables that aren't the same in both.
func (c *Checkpoint) Differs(other *Checkpoint) []string {
	names := map[string]bool{}
	for t := range c.Tables {
		names[t] = true
	}
	for t := range other.Tables {
		names[t] = true
	}
	return slices.DeleteFunc(slices.Sorted(maps.Keys(names)), func(t string) bool {
		return bytes.Equal(c.Tables[t], other.Tables[t])
	})
}

// keptCheckpoints bounds how many are remembered.
const keptCheckpoints = 8

// sum is over the hashes of a table's rows, in any order: each half is added by itself.
type sum [2]uint64

func (s *sum) add(h sum) { s[0] += h[0]; s[1] += h[1] }
func (s *sum) sub(h sum) { s[0] -= h[0]; s[1] -= h[1] }

// digests are a store's sums; its writers own them.
type digests struct {
	every   uint64
	tables  map[string]*sum
	pending map[pendingRow]any // changed rows as they are now → as they were when the sums were right; nil: there was none
	gone    []pendingRow       // rows that the sums have, and the tables don't any more
	list    []Checkpoint
}

// pendingRow is a row that is, or was, in a table.
type pendingRow struct {
	table string
	row   any
}

func newDigests(every uint64) *digests {
	return &digests{every: every, tables: map[string]*sum{}, pending: map[pendingRow]any{}}
}

func (d *digests) block(index uint64) uint64 {
	if index == 0 {
		return 0
	}
	return (index - 1) / d.every
}

// segment is how many of the entries come before the next checkpoint, and whether there is one before the first of them.
func (d *digests) segment(last uint64, batch []LogEntry) (n int, before bool) {
	at := d.block(batch[0].Index)
	for n < len(batch) && d.block(batch[n].Index) == at {
		n++
	}
	return n, at > d.block(last)
}

// note remembers what a transaction changed.
func (d *digests) note(changes memdb.Changes) {
	for _, c := range changes {
		if counts(c.Table) {
			d.change(c.Table, c.Before, c.After)
		}
	}
}

// noteTopic is note for a topic.
func (d *digests) noteTopic(c topicChange) {
	var before any // no row, and not a row that is nil
	if c.before != nil {
		before = c.before
	}
	d.change(tableTopics, before, c.after)
}

func (d *digests) change(table string, before, after any) {
	if before != nil {
		key := pendingRow{table, before}
		if was, ok := d.pending[key]; ok {
			delete(d.pending, key)
			before = was
		}
	}
	switch {
	case after != nil:
		d.pending[pendingRow{table, after}] = before
	case before != nil:
		d.gone = append(d.gone, pendingRow{table, before})
	}
}

// settle brings the sums up to date.
func (d *digests) settle() {
	of := func(table string) *sum {
		s := d.tables[table]
		if s == nil {
			s = &sum{}
			d.tables[table] = s
		}
		return s
	}
	for p, before := range d.pending {
		s := of(p.table)
		s.add(sumOf(p.row))
		if before != nil {
			s.sub(sumOf(before))
		}
	}
	for _, g := range d.gone {
		of(g.table).sub(sumOf(g.row))
	}
	clear(d.pending)
	d.gone = nil
}

// checkpoint notes the sums as those of a block.
func (d *digests) checkpoint(block uint64, meta metaRow) {
	d.settle()
	c := Checkpoint{Block: block, Tables: d.bytes(meta)}
	if len(d.list) >= keptCheckpoints {
		d.list = slices.Clone(d.list[1:])
	}
	d.list = append(d.list, c)
}

// bytes are the settled sums. A table without rows has none, whether it ever had some or not.
func (d *digests) bytes(meta metaRow) map[string][]byte {
	meta.index = 0 // between checkpoints, others may have entries that the tables don't get to see
	out := map[string][]byte{"meta": must(encode(meta.header(0, nil)))}
	for t, s := range d.tables {
		if *s != (sum{}) {
			out[t] = binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, s[0]), s[1])
		}
	}
	return out
}

// whole is one digest over all tables.
func (d *digests) whole(meta metaRow) []byte {
	h := sha256.New()
	tables := d.bytes(meta)
	for _, t := range slices.Sorted(maps.Keys(tables)) {
		_, _ = h.Write([]byte(t))
		_, _ = h.Write(tables[t])
	}
	return h.Sum(nil)
}

// load takes the sums of all rows of a view.
func (d *digests) load(t *Txn) {
	t.eachTable(func(table string, row any) {
		s := d.tables[table]
		if s == nil {
			s = &sum{}
			d.tables[table] = s
		}
		s.add(hashRow(row))
	})
}

// summed is in the rows that change often: a row that comes into the sums goes out of them again, with the same hash. It is the writers',
// as the sums are.
type summed struct {
	hash   sum
	hashed bool
}

func (s *summed) kept() *summed { return s }

// sumOf is hashRow, worked out once where the row keeps it.
func sumOf(row any) sum {
	k, ok := row.(interface{ kept() *summed })
	if !ok {
		return hashRow(row)
	}
	s := k.kept()
	if !s.hashed {
		s.hash, s.hashed = hashRow(row), true
	}
	return s.hash
}

// counts says whether a table counts: those made out of others don't.
func counts(table string) bool {
	return table != tableNames && table != tableCovered
}

func hashRow(row any) sum {
	var h [sha256.Size]byte
	if t, ok := row.(*topicRow); ok { // much the most frequent: without an encoding
		h = sha256.Sum256(binary.BigEndian.AppendUint64([]byte(t.topic.row()), t.index))
	} else {
		form, _ := rowForm(row)
		if err := inScratch(&form, func(data []byte) { h = sha256.Sum256(data) }); err != nil {
			panic(err) // what is stored came out of a decoder of the same form
		}
	}
	return sum{binary.BigEndian.Uint64(h[:8]), binary.BigEndian.Uint64(h[8:16])}
}

// Checkpoints are the last ones, oldest first.
func (s *Store) Checkpoints() []Checkpoint {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.digests.list
}
