// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	ucli "github.com/urfave/cli/v2"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/server/archive"
	"github.com/weftmesh/weft/server/consul"
)

// snapshotMeta is what a snapshot says of itself.
type snapshotMeta struct {
	ID          string
	Size        int64
	Index, Term uint64
	Version     int
}

// snapshotInfo is what inspect says.
type snapshotInfo struct {
	Meta      snapshotMeta
	Stats     []catalog.SnapshotTable
	TotalSize int64
	// StatsKV are keys by their beginnings, where these were asked for.
	StatsKV     []catalog.SnapshotTable `json:",omitempty"`
	TotalSizeKV int64                   `json:",omitempty"`
	// Consul is what weft would take of it, where it is Consul's.
	Consul *consul.Report `json:",omitempty"`
}

// snapshotState is the state that a snapshot's file holds.
type snapshotState struct {
	meta   snapshotMeta
	state  io.ReadSeeker
	consul bool // it is Consul's
	close  func() error
}

// openState finds the state in a file: an archive, all of which is checked, or state.bin as a server has it in data_dir, with meta.json beside it.
func openState(file *os.File) (*snapshotState, error) {
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	s := &snapshotState{state: file, close: func() error { return nil }}
	own, theirs, err := whose(file)
	if err != nil {
		return nil, err
	}
	if s.consul = theirs; own || theirs {
		info, err := file.Stat()
		if err != nil {
			return nil, err
		}
		s.meta.Size = info.Size()
		data, err := os.ReadFile(filepath.Join(filepath.Dir(file.Name()), "meta.json"))
		if errors.Is(err, fs.ErrNotExist) {
			return s, nil
		}
		if err == nil {
			err = json.Unmarshal(data, &s.meta)
		}
		if err != nil {
			return nil, fmt.Errorf("meta.json beside it: %w", err)
		}
		return s, nil
	}
	a, err := archive.Read(file, "")
	if err != nil {
		return nil, err
	}
	s.state, s.close = a.State, a.Close
	s.meta = snapshotMeta{a.Meta.ID, a.Meta.Size, a.Meta.Index, a.Meta.Term, int(a.Meta.Version)}
	if _, s.consul, err = whose(a.State); err != nil {
		return nil, errors.Join(err, a.Close())
	}
	return s, nil
}

// whose looks at a state's beginning, and goes back to it.
func whose(state io.ReadSeeker) (own, theirs bool, err error) {
	head := make([]byte, 64)
	n, err := io.ReadFull(state, head)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return false, false, err
	}
	_, err = state.Seek(0, io.SeekStart)
	return catalog.IsSnapshot(head[:n]), consul.Is(head[:n]), err
}

// rows visits what the state holds; of Consul's, what weft takes of it.
func (s *snapshotState) rows(visit func(catalog.SnapshotRow) error) (*consul.Report, error) {
	if !s.consul {
		_, err := catalog.EachSnapshotRow(s.state, visit)
		return nil, err
	}
	store, report, err := consul.Convert(s.state, consul.Config{Schema: catalog.SchemaVersion})
	if err != nil {
		return nil, err
	}
	var taken bytes.Buffer
	if _, err := store.Snapshot().WriteTo(&taken); err != nil {
		return nil, err
	}
	_, err = catalog.EachSnapshotRow(&taken, visit)
	return report, err
}

// counter counts rows by name.
type counter map[string]*catalog.SnapshotTable

func (c counter) add(name string, size int64) {
	if c[name] == nil {
		c[name] = &catalog.SnapshotTable{Name: name}
	}
	c[name].Count++
	c[name].Size += size
}

// largest are the counts, the largest first, and their sum.
func (c counter) largest() (all []catalog.SnapshotTable, sum int64) {
	for _, t := range c {
		all, sum = append(all, *t), sum+t.Size
	}
	slices.SortFunc(all, func(a, b catalog.SnapshotTable) int {
		return cmp.Or(-cmp.Compare(a.Size, b.Size), cmp.Compare(a.Name, b.Name))
	})
	return all, sum
}

// keyCount says how inspect counts keys.
type keyCount struct {
	depth  int
	filter string
}

// beginning is what a key is counted under.
func (k *keyCount) beginning(key string) string {
	parts := strings.Split(key, "/")
	if k.depth > 0 && len(parts) > k.depth {
		parts = parts[:k.depth]
	}
	return strings.Join(parts, "/")
}

// inspectArchive reads a file from its beginning and checks all of it.
func inspectArchive(file *os.File, keys *keyCount) (*snapshotInfo, error) {
	s, err := openState(file)
	if err != nil {
		return nil, err
	}
	tables, begin := counter{}, counter{}
	out := &snapshotInfo{Meta: s.meta}
	out.Consul, err = s.rows(func(r catalog.SnapshotRow) error {
		tables.add(r.Table, r.Size)
		if e, ok := r.Row.(*catalog.KVEntry); ok && keys != nil && strings.HasPrefix(string(e.Key), keys.filter) {
			begin.add(keys.beginning(string(e.Key)), r.Size)
		}
		return nil
	})
	if err = errors.Join(err, s.close()); err != nil {
		return nil, err
	}
	if out.Consul == nil { // of Consul's the report says what was taken
		out.Stats, out.TotalSize = tables.largest()
	}
	out.StatsKV, out.TotalSizeKV = begin.largest()
	return out, nil
}

func snapshotInspect(c *ucli.Context, env Env) error {
	asJSON, err := asJSON(c)
	if err != nil {
		return err
	}
	if c.NArg() != 1 {
		return usage("This command takes one argument: the file to look into")
	}
	var keys *keyCount
	switch {
	case c.Bool("kvdetails"):
		keys = &keyCount{c.Int("kvdepth"), c.String("kvfilter")}
		if keys.depth < 0 {
			return usage("-kvdepth %d: want 0 or more", keys.depth)
		}
	case c.IsSet("kvdepth"), c.IsSet("kvfilter"):
		return usage("-kvdepth and -kvfilter say how -kvdetails counts: give that too")
	}
	file, err := os.Open(c.Args().First())
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := inspectArchive(file, keys)
	if err != nil {
		return fmt.Errorf("Error reading snapshot: %w", err) //nolint:staticcheck // Consul's text
	}
	if asJSON {
		return printJSON(env.Stdout, info)
	}
	m := info.Meta
	fmt.Fprintf(env.Stdout, " ID           %s\n Size         %d\n Index        %d\n Term         %d\n Version      %d\n\n", m.ID, m.Size, m.Index, m.Term, m.Version)
	if info.Consul != nil {
		err = printReport(env.Stdout, info.Consul)
	} else {
		err = printCounts(env.Stdout, "Type", info.Stats, info.TotalSize)
	}
	if err != nil || keys == nil {
		return err
	}
	fmt.Fprintln(env.Stdout)
	return printCounts(env.Stdout, "Key Name", info.StatsKV, info.TotalSizeKV)
}

func printCounts(w io.Writer, what string, all []catalog.SnapshotTable, total int64) error {
	var rows [][]string
	for _, t := range all {
		rows = append(rows, []string{t.Name, strconv.Itoa(t.Count), size(t.Size)})
	}
	return table(w, []string{what, "Count", "Size"}, append(rows, []string{"Total", "", size(total)}))
}

// snapshotDecode prints each row as it is read: whether the file is whole is known at its end.
func snapshotDecode(c *ucli.Context, env Env) error {
	if c.NArg() != 1 {
		return usage("This command takes one argument: the file to decode, or - for standard input")
	}
	file, err := fileOrInput(env, c.Args().First())
	if err != nil {
		return err
	}
	defer file.Close()
	s, err := openState(file)
	if err != nil {
		return fmt.Errorf("Error reading snapshot: %w", err) //nolint:staticcheck // Consul's text
	}
	enc := json.NewEncoder(env.Stdout)
	enc.SetEscapeHTML(false)
	_, err = s.rows(func(r catalog.SnapshotRow) error {
		line := struct {
			Type string
			Kind string `json:",omitempty"` // of a config entry
			Data any
		}{Type: r.Table, Data: r.Row}
		if e, ok := r.Row.(*catalog.EntryBox); ok {
			line.Kind, line.Data = e.Entry.EntryKind(), e.Entry
		}
		return enc.Encode(line)
	})
	if err = errors.Join(err, s.close()); err != nil {
		return fmt.Errorf("Error reading snapshot: %w", err) //nolint:staticcheck // Consul's text
	}
	return nil
}

// fileOrInput opens a file, or keeps standard input in one that goes away when it is closed.
func fileOrInput(env Env, path string) (*os.File, error) {
	if path != "-" {
		return os.Open(path)
	}
	file, err := os.CreateTemp("", "weft-snapshot-*")
	if err != nil {
		return nil, err
	}
	if err = os.Remove(file.Name()); err == nil {
		_, err = io.Copy(file, env.Stdin)
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

func size(n int64) string {
	switch {
	case n >= 1<<20:
		return fmt.Sprintf("%.1fMB", float64(n)/(1<<20))
	case n >= 1<<10:
		return fmt.Sprintf("%.1fKB", float64(n)/(1<<10))
	}
	return fmt.Sprintf("%dB", n)
}
