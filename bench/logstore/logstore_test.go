// SPDX-License-Identifier: Apache-2.0

// Package logstore measures the stores that hashicorp/raft's log may lie in, under what weft's servers do to one: make logstore.
package logstore

import (
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	boltdb "github.com/hashicorp/raft-boltdb/v2"
	wal "github.com/hashicorp/raft-wal"
	"go.etcd.io/bbolt"
)

// store is a log that is open.
type store interface {
	raft.LogStore
	raft.StableStore
	io.Closer
}

// stores are the contenders, each with an fsync for each StoreLogs. bbolt may leave its list of free pages unwritten, and searches the
// file for them when it is opened instead.
var stores = []struct {
	name string
	open func(dir string) (store, error)
}{
	{"raft-wal", func(dir string) (store, error) { return wal.Open(dir) }},
	{"raft-boltdb", func(dir string) (store, error) { return openBolt(dir, &bbolt.Options{}) }},
	{"raft-boltdb-best", func(dir string) (store, error) {
		return openBolt(dir, &bbolt.Options{NoFreelistSync: true, FreelistType: bbolt.FreelistMapType})
	}},
}

func openBolt(dir string, o *bbolt.Options) (store, error) {
	return boltdb.New(boltdb.Options{Path: filepath.Join(dir, "raft.db"), BoltOptions: o})
}

// What weft's servers do: see server/raft.go.
const (
	entryBytes        = 300
	snapshotThreshold = 16384 // entries between two compactions
	trailingLogs      = 10240 // entries that one leaves
)

// writer appends batches, as a leader's Raft does, and compacts as after a snapshot.
type writer struct {
	log  store
	data []byte
	last uint64
}

func (w *writer) append(n int) error {
	batch := make([]*raft.Log, n)
	for i := range batch {
		w.last++
		batch[i] = &raft.Log{Index: w.last, Term: 1, Type: raft.LogCommand, Data: w.data, AppendedAt: time.Unix(0, 0)}
	}
	return w.log.StoreLogs(batch)
}

// compact forgets all but the trailing entries.
func (w *writer) compact() error {
	first, err := w.log.FirstIndex()
	if err != nil || w.last < first+trailingLogs {
		return err
	}
	return w.log.DeleteRange(first, w.last-trailingLogs)
}

func newWriter(b *testing.B, open func(string) (store, error), dir string) *writer {
	b.Helper()
	log, err := open(dir)
	if err != nil {
		b.Fatal(err)
	}
	data := make([]byte, entryBytes)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range data {
		data[i] = byte(r.Uint32())
	}
	return &writer{log: log, data: data}
}

// cpu is the processor time of this process, the kernel's part included.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// written is what this process has had written to disks.
func written(b *testing.B) (n float64) {
	b.Helper()
	data, err := os.ReadFile("/proc/self/io")
	if err != nil {
		b.Fatal(err)
	}
	var ignored [6]float64
	if _, err := fmt.Sscanf(string(data), "rchar: %g\nwchar: %g\nsyscr: %g\nsyscw: %g\nread_bytes: %g\nwrite_bytes: %g",
		&ignored[0], &ignored[1], &ignored[2], &ignored[3], &ignored[4], &n); err != nil {
		b.Fatal(err)
	}
	return n
}

// onDisk is what a folder's files occupy.
func onDisk(b *testing.B, dir string) (n float64) {
	b.Helper()
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil && !d.IsDir() {
			n += float64(info.Sys().(*syscall.Stat_t).Blocks * 512)
		}
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	return n
}

// BenchmarkAppend is one batch of entries, durable: its time, the middle and the tail of that, its processor time, what goes to the disk
// for it. The log has been compacted before and is on the way.
func BenchmarkAppend(b *testing.B) {
	for _, s := range stores {
		for _, n := range []int{1, 8, 64} {
			b.Run(fmt.Sprintf("%s/%d", s.name, n), func(b *testing.B) {
				w := newWriter(b, s.open, b.TempDir())
				for w.last < 2*snapshotThreshold {
					must(b, w.append(256))
				}
				must(b, w.compact())
				compacted := w.last
				took := make([]time.Duration, 0, b.N)
				used, wrote := cpu(b), written(b)
				b.ResetTimer()
				for range b.N {
					begin := time.Now()
					must(b, w.append(n))
					took = append(took, time.Since(begin))
					if w.last-compacted >= snapshotThreshold {
						must(b, w.compact())
						compacted = w.last
					}
				}
				b.StopTimer()
				slices.Sort(took)
				per := float64(b.N)
				b.ReportMetric(float64(took[len(took)/2].Nanoseconds())/1000, "p50-µs")
				b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds())/1000, "p99-µs")
				b.ReportMetric(float64((cpu(b)-used).Nanoseconds())/1000/per, "cpu-µs/op")
				b.ReportMetric((written(b)-wrote)/1024/per, "written-KB/op")
				must(b, w.log.Close())
			})
		}
	}
}

// BenchmarkStart is a server that starts with 100,000 entries, which Raft reads one by one; then they are compacted, and it starts again.
func BenchmarkStart(b *testing.B) {
	const entries = 100_000
	for _, s := range stores {
		b.Run(s.name, func(b *testing.B) {
			var opened, read, compacted, again time.Duration
			var fresh, before, after float64
			for range b.N {
				dir := b.TempDir()
				w := newWriter(b, s.open, dir)
				must(b, w.append(1))
				fresh += onDisk(b, dir)
				for w.last < entries {
					must(b, w.append(min(32, int(entries-w.last))))
				}
				must(b, w.log.Close())
				before += onDisk(b, dir)

				opened += timed(func() { w = newWriter(b, s.open, dir) })
				read += timed(func() {
					var e raft.Log
					for i := range uint64(entries) {
						must(b, w.log.GetLog(i+1, &e))
					}
				})
				w.last = entries
				compacted += timed(func() { must(b, w.compact()) })
				must(b, w.log.Close())
				after += onDisk(b, dir)
				again += timed(func() { w = newWriter(b, s.open, dir) })
				must(b, w.log.Close())
			}
			per := float64(b.N)
			for what, d := range map[string]time.Duration{"open-ms": opened, "read-ms": read, "compact-ms": compacted, "reopen-ms": again} {
				b.ReportMetric(float64(d.Microseconds())/1000/per, what)
			}
			b.ReportMetric(fresh/per/(1<<20), "disk-new-MB")
			b.ReportMetric(before/per/(1<<20), "disk-MB")
			b.ReportMetric(after/per/(1<<20), "disk-compacted-MB")
		})
	}
}

// BenchmarkVote is what an election writes: a term, and a vote in it.
func BenchmarkVote(b *testing.B) {
	for _, s := range stores {
		b.Run(s.name, func(b *testing.B) {
			w := newWriter(b, s.open, b.TempDir())
			must(b, w.append(1))
			term := uint64(0)
			for b.Loop() {
				term++
				must(b, w.log.SetUint64([]byte("CurrentTerm"), term))
				must(b, w.log.SetUint64([]byte("LastVoteTerm"), term))
				must(b, w.log.Set([]byte("LastVoteCand"), []byte("127.0.0.1:8300")))
			}
			must(b, w.log.Close())
		})
	}
}

func timed(do func()) time.Duration {
	begin := time.Now()
	do()
	return time.Since(begin)
}

func must(b *testing.B, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}
