// SPDX-License-Identifier: Apache-2.0

// Package archive is the form of a snapshot outside a server: a gzipped tar of meta.json, state.bin and SHA256SUMS, as Consul's. It
// doesn't know what the state means. It owns no goroutine.
package archive

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/hashicorp/raft"

	"github.com/weftmesh/weft/internal/guard"
)

// ErrDamaged is wrapped by the errors of archives that aren't whole.
var ErrDamaged = errors.New("the snapshot is damaged")

const (
	metaName  = "meta.json"
	stateName = "state.bin"
	sumsName  = "SHA256SUMS"

	maxMeta = 1 << 20
)

// Write writes an archive of a state.
func Write(w io.Writer, meta *raft.SnapshotMeta, state io.Reader, now time.Time) error {
	about, err := json.Marshal(meta)
	if err != nil {
		return err
	}
	zip := gzip.NewWriter(w)
	out := tar.NewWriter(zip)
	var sums bytes.Buffer
	put := func(name string, size int64, r io.Reader) error {
		if err := out.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: size, ModTime: now}); err != nil {
			return err
		}
		sum := sha256.New()
		if _, err := io.Copy(io.MultiWriter(out, sum), r); err != nil {
			return err
		}
		fmt.Fprintf(&sums, "%x  %s\n", sum.Sum(nil), name)
		return nil
	}
	if err := put(metaName, int64(len(about)), bytes.NewReader(about)); err != nil {
		return err
	}
	if err := put(stateName, meta.Size, state); err != nil {
		return err
	}
	if err := put(sumsName, int64(sums.Len()), bytes.NewReader(bytes.Clone(sums.Bytes()))); err != nil {
		return err
	}
	return errors.Join(out.Close(), zip.Close())
}

// Archive is one that was read and found whole. Close removes its file.
type Archive struct {
	Meta  *raft.SnapshotMeta
	State *os.File // at its beginning
}

// New is an archive without anything in it yet, with a file under dir ("" is the system's).
func New(dir string) (*Archive, error) {
	file, err := os.CreateTemp(dir, "snapshot-*")
	if err != nil {
		return nil, err
	}
	return &Archive{State: file}, nil
}

// Read takes an archive apart, into a file under dir ("" is the system's), and checks every byte of it.
func Read(r io.Reader, dir string) (*Archive, error) {
	a, err := New(dir)
	if err != nil {
		return nil, err
	}
	if err := a.read(r); err != nil {
		return nil, errors.Join(err, a.Close())
	}
	if _, err := a.State.Seek(0, io.SeekStart); err != nil {
		return nil, errors.Join(err, a.Close())
	}
	return a, nil
}

func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrDamaged, fmt.Errorf(format, args...))
}

func (a *Archive) read(r io.Reader) error {
	packed := &counted{Reader: r}
	zip, err := gzip.NewReader(packed)
	if err != nil {
		return damaged("it isn't gzip: %w", err)
	}
	in := tar.NewReader(zip)
	sums, wanted := map[string]string{}, map[string]string(nil)
	for {
		head, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return damaged("it ends too early, or isn't a tar: %w", err)
		}
		sum := sha256.New()
		body := io.TeeReader(in, sum)
		if _, twice := sums[head.Name]; twice {
			return damaged("it holds %s twice", head.Name)
		}
		switch head.Name {
		case metaName:
			err = a.readMeta(body)
		case stateName:
			err = a.readState(body, packed)
		case sumsName:
			wanted, err = readSums(body)
		default:
			err = damaged("it holds %q, which no snapshot has", head.Name)
		}
		if err != nil {
			return err
		}
		sums[head.Name] = hex.EncodeToString(sum.Sum(nil))
	}
	if _, err := io.Copy(io.Discard, zip); err != nil { // the gzip's own checksum is at its end
		return damaged("%w", err)
	}
	return a.check(sums, wanted)
}

// counted counts what is read through it.
type counted struct {
	io.Reader
	n int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n += int64(n)
	return n, err
}

// A state becomes smaller by a tenth to a fiftieth when it is packed. One that takes far more room than what came is a bomb, which would
// fill the disk.
const (
	mostUnpacked = 256 << 20 // is never too much
	mostTimes    = 400
)

func (a *Archive) readState(r io.Reader, packed *counted) error {
	for unpacked := int64(0); ; {
		n, err := io.CopyN(a.State, r, 1<<20)
		unpacked += n
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return damaged("%s: %w", stateName, err)
		case unpacked > mostUnpacked && unpacked > mostTimes*packed.n && !guard.Off("C73"):
			return damaged("%s: %d bytes that came have become more than %d", stateName, packed.n, unpacked)
		}
	}
}

func (a *Archive) readMeta(r io.Reader) error {
	data, err := io.ReadAll(io.LimitReader(r, maxMeta))
	if err != nil {
		return damaged("%s: %w", metaName, err)
	}
	if err := json.Unmarshal(data, &a.Meta); err != nil {
		return damaged("%s: %w", metaName, err)
	}
	return nil
}

func readSums(r io.Reader) (map[string]string, error) {
	out := map[string]string{}
	lines := bufio.NewScanner(io.LimitReader(r, maxMeta))
	for lines.Scan() {
		sum, name, ok := strings.Cut(lines.Text(), "  ")
		if !ok {
			return nil, damaged("%s: %q isn't a sum and a name", sumsName, lines.Text())
		}
		out[name] = sum
	}
	if err := lines.Err(); err != nil {
		return nil, damaged("%s: %w", sumsName, err)
	}
	return out, nil
}

func (a *Archive) check(sums, wanted map[string]string) error {
	for _, name := range []string{metaName, stateName, sumsName} {
		if _, ok := sums[name]; !ok {
			return damaged("%s is missing", name)
		}
		if name != sumsName && sums[name] != wanted[name] {
			return damaged("the checksum of %s is wrong", name)
		}
	}
	info, err := a.State.Stat()
	if err != nil {
		return err
	}
	if a.Meta == nil || a.Meta.Size != info.Size() {
		return damaged("%s isn't of the size that %s says", stateName, metaName)
	}
	return nil
}

// Close removes the file.
func (a *Archive) Close() error {
	return errors.Join(a.State.Close(), os.Remove(a.State.Name()))
}
