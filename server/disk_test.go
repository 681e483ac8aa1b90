// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/internal/seal"
)

func newTestServer(t *testing.T, dir string) *Server {
	t.Helper()
	s, err := New(Config{DataDir: dir, Datacenter: "dc1", NodeName: "s1", Closure: readsUpstreams})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func nodeNamed(name string) catalog.Register {
	return catalog.Register{Node: catalog.Node{Scope: catalog.Scope{}.Default("dc1"), Node: name, Address: "10.0.0.1"}}
}

// nodes are the names of the nodes that a running server knows.
func (r *running) nodes() map[string]bool {
	r.t.Helper()
	all, err := r.store.Read().Nodes(catalog.Scope{})
	if err != nil {
		r.t.Fatal(err)
	}
	names := map[string]bool{}
	for _, n := range all {
		names[n.Node] = true
	}
	return names
}

// A server that is killed while it writes has, when it starts again, all that it had acknowledged. The child is this test's own
// binary.
func TestKilledWhileWriting(t *testing.T) {
	if dir := os.Getenv("WEFT_TEST_KILLED"); dir != "" {
		writeForever(t, dir, os.Getenv("WEFT_TEST_ROUND"))
		return
	}
	dir := t.TempDir()
	acked := map[string]bool{}
	for round := range 6 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestKilledWhileWriting$")
		cmd.Env = append(os.Environ(), "WEFT_TEST_KILLED="+dir, fmt.Sprintf("WEFT_TEST_ROUND=%d", round))
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); n++ {
			if name, ok := strings.CutPrefix(lines.Text(), "acknowledged "); ok {
				acked[name] = true
			}
			if n == 20+37*round {
				_ = cmd.Process.Kill() // and read what it still managed to say
			}
		}
		_ = cmd.Wait() // killed
	}
	if len(acked) < 100 {
		t.Fatalf("only %d writes were acknowledged", len(acked))
	}
	r := start(t, dir)
	has := r.nodes()
	for name := range acked {
		if !has[name] {
			t.Errorf("%s was acknowledged and is gone", name)
		}
	}
}

func writeForever(t *testing.T, dir, round string) {
	r := start(t, dir)
	acked := make(chan string)
	for w := range 8 {
		go func() {
			for i := 0; ; i++ {
				name := fmt.Sprintf("r%s-w%d-%d", round, w, i)
				if _, err := r.Propose(context.Background(), nodeNamed(name)); err == nil {
					acked <- name
				}
			}
		}()
	}
	for name := range acked {
		if _, err := fmt.Println("acknowledged " + name); err != nil {
			return
		}
	}
}

// written is a data directory in which nodes n0 to n19 were registered; snapshot says whether one was made of the first ten.
func written(t *testing.T, snapshot bool) string {
	t.Helper()
	dir := t.TempDir()
	r := start(t, dir)
	for i := range 20 {
		if _, err := r.Propose(t.Context(), nodeNamed(fmt.Sprintf("n%d", i))); err != nil {
			t.Fatal(err)
		}
		if snapshot && i == 9 {
			if err := r.raft.Load().Snapshot().Error(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	return dir
}

func copyOf(t *testing.T, dir string) string {
	t.Helper()
	to := t.TempDir()
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if keys := seal.RingFile(to); os.Chmod(keys, 0o600) != nil { // CopyFS gives everybody what the umask lets
		t.Logf("there is no %s", keys)
	}
	return to
}

// one is the one file that matches.
func one(t *testing.T, parts ...string) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(parts...))
	if err != nil || len(found) != 1 {
		t.Fatalf("%q: %v, %v", parts, found, err)
	}
	return found[0]
}

func change(t *testing.T, file string, f func([]byte) []byte) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, f(data), 0o600); err != nil {
		t.Fatal(err)
	}
}

// digestOf is over all files under dir, for "nothing was touched".
func digestOf(t *testing.T, dir string) string {
	t.Helper()
	sum := sha256.New()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		fmt.Fprintf(sum, "%s %d\n", path, len(data))
		sum.Write(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// An entry that can't be what a server wrote stops the server, which says which one it is, and how it was found.
func TestC130_CorruptLogEntry(t *testing.T) {
	whole := written(t, false)
	garbage := copyOf(t, whole)
	w, err := wal.Open(filepath.Join(garbage, "server", "log"))
	if err != nil {
		t.Fatal(err)
	}
	last, err := w.LastIndex()
	if err != nil {
		t.Fatal(err)
	}
	var e raft.Log
	if err := w.GetLog(last, &e); err != nil {
		t.Fatal(err)
	}
	e.Index, e.Type, e.Data = last+1, raft.LogCommand, []byte("not a command")
	if err := errors.Join(w.StoreLog(&e), w.Close()); err != nil {
		t.Fatal(err)
	}
	flipped := copyOf(t, whole)
	change(t, one(t, flipped, "server", "log", "*.wal"), func(data []byte) []byte {
		at := bytes.Index(data, []byte("bn15")) // the name of a node, in the middle of the log
		if at < 0 {
			at = bytes.Index(data, []byte("n15"))
		}
		data[at+1] ^= 1
		return data
	})
	for name, c := range map[string]struct{ dir, want string }{
		"garbage": {garbage, fmt.Sprintf("corrupt log entry %d: ", last+1)},
		"a bit":   {flipped, "its checksum is wrong"},
	} {
		s := newTestServer(t, c.dir)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second) // a server that takes it goes on
		err := s.Run(ctx)
		cancel()
		var corrupt *catalog.CorruptError
		if !errors.As(err, &corrupt) || !strings.Contains(err.Error(), c.want) || corrupt.Index == 0 {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := s.store.Position().Index; got >= corrupt.Index {
			t.Errorf("%s: applied up to %d", name, got)
		}
	}
}

// A log whose end was only half written, as after a loss of power, is a log without that end.
func TestC130_TornTail(t *testing.T) {
	whole := written(t, false)
	data, err := os.ReadFile(one(t, whole, "server", "log", "*.wal"))
	if err != nil {
		t.Fatal(err)
	}
	end := len(bytes.TrimRight(data, "\x00"))
	for _, torn := range []int{1, 3, 9, 40, 150, 333} {
		dir := copyOf(t, whole)
		change(t, one(t, dir, "server", "log", "*.wal"), func(data []byte) []byte {
			clear(data[end-torn : end])
			return data
		})
		r := start(t, dir)
		has := r.nodes()
		n := 0
		for has[fmt.Sprintf("n%d", n)] {
			n++
		}
		if len(has) != n || n < 15 {
			t.Errorf("%d bytes torn off: %d nodes, the first %d of them", torn, len(has), n)
		}
		if _, err := r.Propose(t.Context(), nodeNamed("after")); err != nil {
			t.Errorf("%d bytes torn off: a write afterwards: %v", torn, err)
		}
		if err := r.stop(); err != nil {
			t.Error(err)
		}
		if again := start(t, dir); !again.nodes()["after"] {
			t.Errorf("%d bytes torn off: a write afterwards is gone", torn)
		}
	}
}

// A snapshot that was cut or in which a bit was flipped is refused: the server doesn't start with half of it, and touches nothing.
func TestC130_DamagedSnapshotOnDisk(t *testing.T) {
	whole := written(t, true)
	for name, damage := range map[string]func([]byte) []byte{
		"cut":     func(data []byte) []byte { return data[:len(data)*2/3] },
		"empty":   func([]byte) []byte { return nil },
		"flipped": func(data []byte) []byte { data[len(data)/2] ^= 4; return data },
	} {
		dir := copyOf(t, whole)
		change(t, one(t, dir, "server", "snapshots", "*", "state.bin"), damage)
		before := digestOf(t, filepath.Join(dir, "server", "snapshots"))
		s := newTestServer(t, dir)
		err := s.Run(t.Context())
		if err == nil || !strings.Contains(err.Error(), "snapshot") {
			t.Errorf("%s: %v", name, err)
		}
		if nodes, _ := s.store.Read().Nodes(catalog.Scope{}); len(nodes) > 0 || s.store.Position().Index > 0 {
			t.Errorf("%s: the store holds something", name)
		}
		if digestOf(t, filepath.Join(dir, "server", "snapshots")) != before {
			t.Errorf("%s: the files were touched", name)
		}
	}
}

// A log that doesn't go on where the snapshot before it ends, since the newest one is damaged, is an error, also where the server's ID is looked
// for in it first.
func TestC130_GapBeforeLog(t *testing.T) {
	whole := written(t, false)
	w, err := wal.Open(filepath.Join(whole, "server", "log"))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.DeleteRange(1, 5), w.Close()); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"", "an-id"} {
		s := newTestServer(t, copyOf(t, whole))
		if id != "" {
			s.c.NodeID = id
		}
		if err := s.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "its log can't be read") {
			t.Errorf("%q: %v", id, err)
		}
	}
}

// A snapshot that was never finished, because the server was killed or its disk full, doesn't stay for ever.
func TestHalfSnapshotIsRemoved(t *testing.T) {
	dir := written(t, true)
	half := filepath.Join(dir, "server", "snapshots", "2-1-1.tmp")
	if err := os.MkdirAll(half, 0o700); err != nil {
		t.Fatal(err)
	}
	whole := one(t, dir, "server", "snapshots", "*[0-9]")
	r := start(t, dir)
	if _, err := os.Stat(half); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it is still there: %v", err)
	}
	if one(t, dir, "server", "snapshots", "*[0-9]") != whole || len(r.nodes()) < 20 {
		t.Error("the snapshot that is whole is gone")
	}
}

// A configuration that says another datacenter than the data is refused, with both names, and nothing is touched.
func TestOtherDatacentersData(t *testing.T) {
	dir := written(t, false)
	before := digestOf(t, dir)
	s, err := New(Config{DataDir: dir, Datacenter: "dc2", NodeName: "s1", Closure: readsUpstreams})
	if err != nil {
		t.Fatal(err)
	}
	err = s.Run(t.Context())
	if err == nil || !strings.Contains(err.Error(), `of datacenter "dc1", and the configuration says "dc2"`) {
		t.Errorf("%v", err)
	}
	if digestOf(t, dir) != before {
		t.Error("the files were touched")
	}
	if r := start(t, dir); len(r.nodes()) < 20 {
		t.Error("with the right configuration it isn't there any more")
	}
}
