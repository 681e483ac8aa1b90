// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
)

// SnapshotInfo is what a snapshot holds.
type SnapshotInfo struct {
	Index  uint64
	Schema uint64
	Tables []SnapshotTable // the largest first
}

// SnapshotTable is one sort of rows.
type SnapshotTable struct {
	Name  string
	Count int
	Size  int64
}

// CheckSnapshot loads a snapshot aside: nil if Restore would take it.
func CheckSnapshot(r io.Reader, datacenter string) error {
	_, err := ReadSnapshot(r, datacenter)
	return err
}

// ReadSnapshot loads a snapshot aside, to be looked into. What Restore wouldn't take is an error.
func ReadSnapshot(r io.Reader, datacenter string) (*Txn, error) {
	v, _, err := readSnapshot(r, datacenter, SchemaVersion)
	if err != nil {
		if errors.Is(err, ErrSchema) {
			return nil, err
		}
		return nil, &CorruptError{Err: fmt.Errorf("snapshot: %w", err)}
	}
	return v.read(), nil
}

// SnapshotRow is a row of a snapshot as it is stored.
type SnapshotRow struct {
	Table string
	Row   any
	Size  int64 // in the snapshot, in bytes
}

// InspectSnapshot counts what a snapshot holds, and checks that it is whole.
func InspectSnapshot(r io.Reader) (*SnapshotInfo, error) {
	tables := map[string]*SnapshotTable{}
	out, err := EachSnapshotRow(r, func(row SnapshotRow) error {
		if tables[row.Table] == nil {
			tables[row.Table] = &SnapshotTable{Name: row.Table}
		}
		tables[row.Table].Count++
		tables[row.Table].Size += row.Size
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, t := range tables {
		out.Tables = append(out.Tables, *t)
	}
	slices.SortFunc(out.Tables, func(a, b SnapshotTable) int { return cmp.Or(-cmp.Compare(a.Size, b.Size), cmp.Compare(a.Name, b.Name)) })
	return out, nil
}

// IsSnapshot says whether a state that begins so is weft's.
func IsSnapshot(head []byte) bool { return bytes.HasPrefix(head, []byte(snapshotMagic)) }

// EachSnapshotRow visits a snapshot's rows in their order. That the snapshot is whole is known only when it returns no error. The info is
// without tables.
func EachSnapshotRow(r io.Reader, visit func(SnapshotRow) error) (*SnapshotInfo, error) {
	in := &snapshotReader{r: bufio.NewReaderSize(r, 64<<10), sum: sha256.New()}
	magic := make([]byte, len(snapshotMagic))
	if err := in.full(magic); err != nil {
		return nil, err
	}
	if !IsSnapshot(magic) {
		return nil, errors.New("it is not a snapshot of a weft catalog")
	}
	var head snapshotHeader
	data, err := in.next()
	if err == nil {
		err = decode(data, &head)
	}
	if err != nil {
		return nil, fmt.Errorf("header: %w", err)
	}
	for {
		data, err := in.next()
		if err != nil {
			return nil, err
		}
		if data == nil {
			return &SnapshotInfo{Index: head.Index, Schema: head.Schema}, in.end()
		}
		var row snapshotRow
		if err := decode(data, &row); err != nil {
			return nil, err
		}
		name, v := row.field()
		if err := visit(SnapshotRow{name, v, int64(len(data))}); err != nil {
			return nil, err
		}
	}
}

// field is the row's one field, with its name.
func (r *snapshotRow) field() (string, any) {
	v := reflect.ValueOf(r).Elem()
	for i := range v.NumField() {
		if !v.Field(i).IsNil() {
			return v.Type().Field(i).Name, v.Field(i).Interface()
		}
	}
	return "", nil
}

// CountKeys counts the keys of the key-value store.
func (t *Txn) CountKeys() int {
	n := 0
	each(t.db, tableKV, "id_prefix", "", func(*kvRow) { n++ })
	return n
}
