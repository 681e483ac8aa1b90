// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"bufio"
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
	db, head, err := readSnapshot(r, datacenter, SchemaVersion)
	if err != nil {
		if errors.Is(err, ErrSchema) {
			return nil, err
		}
		return nil, &CorruptError{Err: fmt.Errorf("snapshot: %w", err)}
	}
	return &Txn{db: db.Txn(false), meta: head.meta()}, nil
}

// InspectSnapshot counts what a snapshot holds, and checks that it is whole.
func InspectSnapshot(r io.Reader) (*SnapshotInfo, error) {
	in := &snapshotReader{r: bufio.NewReaderSize(r, 64<<10), sum: sha256.New()}
	magic := make([]byte, len(snapshotMagic))
	if err := in.full(magic); err != nil {
		return nil, err
	}
	if string(magic) != snapshotMagic {
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
	out := &SnapshotInfo{Index: head.Index, Schema: head.Schema}
	tables := map[string]*SnapshotTable{}
	for {
		data, err := in.next()
		if err != nil {
			return nil, err
		}
		if data == nil {
			break
		}
		var row snapshotRow
		if err := decode(data, &row); err != nil {
			return nil, err
		}
		name := row.table()
		if tables[name] == nil {
			tables[name] = &SnapshotTable{Name: name}
		}
		tables[name].Count++
		tables[name].Size += int64(len(data))
	}
	for _, t := range tables {
		out.Tables = append(out.Tables, *t)
	}
	slices.SortFunc(out.Tables, func(a, b SnapshotTable) int { return cmp.Or(-cmp.Compare(a.Size, b.Size), cmp.Compare(a.Name, b.Name)) })
	return out, in.end()
}

// table is the name of the row's one field.
func (r *snapshotRow) table() string {
	v := reflect.ValueOf(r).Elem()
	for i := range v.NumField() {
		if !v.Field(i).IsNil() {
			return v.Type().Field(i).Name
		}
	}
	return ""
}

// CountKeys counts the keys of the key-value store.
func (t *Txn) CountKeys() int {
	n := 0
	each(t.db, tableKV, "id_prefix", "", func(*kvRow) { n++ })
	return n
}
