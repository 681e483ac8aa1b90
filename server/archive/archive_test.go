// SPDX-License-Identifier: Apache-2.0

package archive

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/weftmesh/weft/internal/stormtest"
)

func sample(t testing.TB) []byte {
	t.Helper()
	state := bytes.Repeat([]byte("the state "), 1000)
	var buf bytes.Buffer
	meta := &raft.SnapshotMeta{Version: 1, ID: "2-7", Index: 7, Term: 2, Size: int64(len(state))}
	if err := Write(&buf, meta, bytes.NewReader(state), time.Unix(1e9, 0)); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func TestRoundTrip(t *testing.T) {
	dir := t.TempDir()
	a, err := Read(bytes.NewReader(sample(t)), dir)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(a.State)
	if err != nil || len(data) != 10000 || a.Meta.Index != 7 || a.Meta.Term != 2 {
		t.Errorf("%d bytes, %+v, %v", len(data), a.Meta, err)
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("left over: %v", left)
	}
}

// zeros gives so many, and holds none.
type zeros struct{ left int64 }

func (z *zeros) Read(p []byte) (int, error) {
	if z.left == 0 {
		return 0, io.EOF
	}
	n := min(int64(len(p)), z.left)
	clear(p[:n])
	z.left -= n
	return int(n), nil
}

// What becomes a thousand times as large is refused before the disk is full of it.
func TestC73_Bomb(t *testing.T) {
	const size = mostUnpacked + 64<<20
	in, out := io.Pipe()
	go func() {
		zip := gzip.NewWriter(out)
		pack := tar.NewWriter(zip)
		_ = pack.WriteHeader(&tar.Header{Name: stateName, Mode: 0o600, Size: size})
		_, err := io.Copy(pack, &zeros{left: size})
		_ = out.CloseWithError(errors.Join(err, pack.Close(), zip.Close(), io.EOF))
	}()
	dir := t.TempDir()
	_, err := Read(in, dir)
	_ = in.Close()
	if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "have become more than") {
		t.Errorf("got %v", err)
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("left over: %v", left)
	}
}

// Whatever byte is flipped, and wherever it is cut, the archive is refused and nothing is left on disk.
func TestC123_Damage(t *testing.T) {
	good, dir := sample(t), t.TempDir()
	a, err := Read(bytes.NewReader(good), dir)
	if err != nil {
		t.Fatal(err)
	}
	data, _ := io.ReadAll(a.State)
	_ = a.Close()
	whole := sha256.Sum256(data)
	for i := range good {
		flipped := bytes.Clone(good)
		flipped[i] ^= 0x20
		a, err := Read(bytes.NewReader(flipped), dir)
		if err == nil {
			data, _ := io.ReadAll(a.State) // bits that mean nothing: the time in a header, what fills a byte up
			_ = a.Close()
			if sum := sha256.Sum256(data); sum == whole {
				continue
			}
			t.Fatalf("byte %d flipped: taken", i)
		}
		if !errors.Is(err, ErrDamaged) {
			t.Errorf("byte %d flipped: %v", i, err)
		}
	}
	for n := range good {
		if _, err := Read(bytes.NewReader(good[:n]), dir); !errors.Is(err, ErrDamaged) {
			t.Fatalf("cut after %d bytes: %v", n, err)
		}
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("left over: %v", left)
	}
}

func FuzzRead(f *testing.F) {
	f.Add(sample(f))
	f.Add([]byte("\x1f\x8b"))
	dir := f.TempDir()
	stormtest.Fuzz(f, func(t *testing.T, data []byte) {
		a, err := Read(bytes.NewReader(data), dir)
		if err == nil {
			_ = a.Close()
		}
	})
}
