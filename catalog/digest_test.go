// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The sums that are kept up as rows change are those of the rows; checkpoints are the same however entries come in batches.
func TestDigestsAreKeptUp(t *testing.T) {
	for seed := range uint64(8) {
		r := rand.New(rand.NewPCG(seed, 11))
		one, many := newStore(t, Config{DigestEvery: 16}), newStore(t, Config{DigestEvery: 16})
		index := uint64(0)
		var log []LogEntry
		for range 300 {
			index += 1 + r.Uint64N(3) // other entries of Raft's lie between
			body := randomCommand(r)
			if r.IntN(2) == 0 {
				body = randomData(r)
			}
			log = append(log, LogEntry{index, mustEncode(t, body)})
		}
		for _, e := range log {
			one.Apply([]LogEntry{e})
			one.digests.settle()
			fresh := newDigests(16)
			view := one.Read()
			fresh.load(view)
			if d := cmp.Diff(fresh.bytes(view.meta), one.digests.bytes(view.meta)); d != "" {
				t.Fatalf("seed %d, index %d:\n%s", seed, e.Index, d)
			}
		}
		for rest := log; len(rest) > 0; {
			n := min(len(rest), 1+r.IntN(70))
			many.Apply(rest[:n])
			rest = rest[n:]
		}
		if d := cmp.Diff(one.Checkpoints(), many.Checkpoints()); d != "" || len(one.Checkpoints()) != keptCheckpoints {
			t.Fatalf("seed %d: %d checkpoints\n%s", seed, len(one.Checkpoints()), d)
		}
		// One that was restored on the way goes on with the same ones.
		var snap bytes.Buffer
		half := newStore(t, Config{DigestEvery: 16})
		half.Apply(log[:150])
		if _, err := half.Snapshot().WriteTo(&snap); err != nil {
			t.Fatal(err)
		}
		restored := newStore(t, Config{DigestEvery: 16})
		if err := restored.Restore(&snap); err != nil {
			t.Fatal(err)
		}
		restored.Apply(log[150:])
		if d := cmp.Diff(one.Checkpoints(), restored.Checkpoints()); d != "" {
			t.Fatalf("seed %d: restored\n%s", seed, d)
		}
	}
}

// A table that is neither in the snapshot nor made out of others would be lost in a restore, and compared by nobody.
func TestEveryTableIsInTheSnapshot(t *testing.T) {
	for name := range dbSchema().Tables {
		if counts(name) != slices.Contains(snapshotTables, name) {
			t.Errorf("table %s: put it into snapshotTables and rowForm, or say in summed that it doesn't count", name)
		}
	}
}

// Tables that differ are named.
func TestDigestsNameTheTable(t *testing.T) {
	a, b := newStore(t, Config{DigestEvery: 4}), newStore(t, Config{DigestEvery: 4})
	for i := range 9 {
		body := web("n1", 80+i)
		do(t, a, body)
		if i == 2 {
			body.Node.Address = "10.9.9.9"
		}
		do(t, b, body)
	}
	ca, cb := a.Checkpoints(), b.Checkpoints()
	if len(ca) != 2 || ca[0].Block != 1 {
		t.Fatalf("%+v", ca)
	}
	if got := ca[0].Differs(&cb[0]); !cmp.Equal(got, []string{tableNodes, tableTopics}) && !cmp.Equal(got, []string{tableNodes, tableServices, tableTopics}) {
		t.Errorf("differ: %v", got)
	}
	if got := ca[0].Differs(&ca[0]); len(got) != 0 {
		t.Errorf("the same differs: %v", got)
	}
}

// A snapshot whose rows aren't those that the tables had when it was made is refused, however well it is formed.
func TestSnapshotWithoutAField(t *testing.T) {
	s := newStore(t, Config{})
	do(t, s, web("n1", 80))
	var snap bytes.Buffer
	if _, err := s.Snapshot().WriteTo(&snap); err != nil {
		t.Fatal(err)
	}
	data := snap.Bytes()[:snap.Len()-sha256.Size]
	var out []byte
	out, data = append(out, data[:len(snapshotMagic)]...), data[len(snapshotMagic):]
	for len(data) > 4 {
		n := binary.BigEndian.Uint32(data)
		record := data[4 : 4+n]
		data = data[4+n:]
		var row snapshotRow
		if decode(record, &row) == nil && row.Service != nil {
			row.Service.Service.Port = 0 // as a writer that forgets it
			record = must(encode(row))
		}
		out = append(binary.BigEndian.AppendUint32(out, uint32(len(record))), record...)
	}
	out = append(out, 0, 0, 0, 0)
	sum := sha256.Sum256(out)
	var c *CorruptError
	if err := newStore(t, Config{}).Restore(bytes.NewReader(append(out, sum[:]...))); !errors.As(err, &c) {
		t.Errorf("a snapshot that lacks a field was taken: %v", err)
	}
}
