// SPDX-License-Identifier: Apache-2.0

package seal

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/weftmesh/weft/internal/durable"
)

// Ring is a set of keys, one of which seals, in a file of mode 0600, or in memory alone. Its methods may be called from any goroutine.
type Ring struct {
	path   string // "": nothing is kept
	outer  *Outer
	random io.Reader

	mu   sync.Mutex
	keys []Key // the first seals
}

// Outer is a key from outside that seals the file, and where it came from.
type Outer struct {
	Key    Key
	Source string
}

// ringPurpose is what the file is sealed for.
const ringPurpose = "weft: the cluster's seal keys"

// RingFile is the file's place under data_dir.
func RingFile(dataDir string) string { return filepath.Join(dataDir, "seal", "keys") }

// OpenRing reads the file; one that isn't there has no keys. A file in clear is sealed if there is an outer key now.
func OpenRing(path string, outer *Outer, random io.Reader) (*Ring, error) {
	r := &Ring{path: path, outer: outer, random: random}
	r.mu.Lock()
	defer r.mu.Unlock()
	clear, err := r.readLocked()
	if err == nil && clear && outer != nil {
		err = r.writeLocked()
	}
	return r, err
}

// SealedBy says what seals the ring itself, for people.
func (r *Ring) SealedBy() string {
	switch {
	case r.path == "":
		return "nothing: it is in memory alone"
	case r.outer == nil:
		return "nothing: " + r.path + " is in clear"
	}
	return r.outer.Source
}

// Active gives the key that seals.
func (r *Ring) Active() (Key, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.keys) == 0 {
		return Key{}, false
	}
	return r.keys[0], true
}

// Keys are all keys, the one that seals first.
func (r *Ring) Keys() []Key {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.keys)
}

// Find gives a key by its ID. Before it says no it looks whether somebody has put it into the file.
func (r *Ring) Find(id string) (Key, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if k, ok := r.findLocked(id); ok || r.path == "" {
		return k, ok
	}
	_ = r.againLocked() // what is in memory is good
	return r.findLocked(id)
}

// againLocked reads what another process may have put into the file. A file that has gone takes nothing away.
func (r *Ring) againLocked() error {
	_, err := r.readLocked()
	return err
}

func (r *Ring) findLocked(id string) (Key, bool) {
	for _, k := range r.keys {
		if k.ID() == id {
			return k, true
		}
	}
	return Key{}, false
}

// Add puts keys in that aren't there yet, on disk first. The first key of an empty ring seals.
func (r *Ring) Add(keys ...Key) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.againLocked(); err != nil {
		return err
	}
	had, next := r.keys, slices.Clone(r.keys)
	for _, k := range keys {
		if !slices.Contains(next, k) {
			next = append(next, k)
		}
	}
	return r.keepLocked(had, next)
}

// Use has a key seal from now on.
func (r *Ring) Use(k Key) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.againLocked(); err != nil {
		return err
	}
	next := slices.DeleteFunc(slices.Clone(r.keys), func(other Key) bool { return other == k })
	return r.keepLocked(r.keys, append([]Key{k}, next...))
}

func (r *Ring) keepLocked(had, next []Key) error {
	if slices.Equal(had, next) {
		return nil
	}
	r.keys = next
	if err := r.writeLocked(); err != nil {
		r.keys = had
		return err
	}
	return nil
}

type ringFile struct {
	// Keys are as ParseKey reads them, the one that seals first.
	Keys []string
}

func (r *Ring) readLocked() (clear bool, err error) {
	if r.path == "" {
		return false, nil
	}
	info, err := os.Stat(r.path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return false, fmt.Errorf("%s, with the keys by which the cluster's secrets are sealed, is of mode %04o: others may read it; make it 0600", r.path, mode)
	}
	data, err := os.ReadFile(r.path)
	if err != nil {
		return false, err
	}
	id, sealed := Is(data)
	text, err := Open(func(id string) (Key, bool) {
		if r.outer != nil && r.outer.Key.ID() == id {
			return r.outer.Key, true
		}
		return Key{}, false
	}, ringPurpose, data)
	switch {
	case errors.Is(err, ErrNoKey) && r.outer == nil:
		return false, fmt.Errorf("%s is sealed by the key %s, and none is given: name the file that has it by seal { key_file }, or by systemd's LoadCredential=%s:FILE: %w", r.path, id, Credential, err)
	case errors.Is(err, ErrNoKey):
		return false, fmt.Errorf("%s is sealed by the key %s, and %s has the key %s: give the other one: %w", r.path, id, r.outer.Source, r.outer.Key.ID(), err)
	case err != nil:
		return false, fmt.Errorf("%s: %w", r.path, err)
	}
	var f ringFile
	if err := json.Unmarshal(text, &f); err != nil {
		return false, fmt.Errorf("%s isn't what weft wrote; put back what was there, or remove it: a server gets the keys from another one", r.path) // not with the text
	}
	var keys []Key
	for _, t := range f.Keys {
		k, err := ParseKey(t)
		if err != nil {
			return false, fmt.Errorf("%s: %w", r.path, err)
		}
		keys = append(keys, k)
	}
	r.keys = keys
	return !sealed, nil
}

func (r *Ring) writeLocked() error {
	if r.path == "" {
		return nil
	}
	var f ringFile
	for _, k := range r.keys {
		f.Keys = append(f.Keys, k.Text())
	}
	data, err := json.Marshal(f)
	if err != nil {
		return err
	}
	if r.outer != nil {
		if data, err = r.outer.Key.Seal(ringPurpose, data, r.random); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(filepath.Dir(r.path), 0o700); err != nil {
		return err
	}
	return durable.Replace(r.path, data)
}

// Credential is the name of the systemd credential that has the outer key.
const Credential = "weft-seal-key"

// Outside finds the outer key: in the file that is named, else in the credential that systemd gives (credentials is the value of
// CREDENTIALS_DIRECTORY), else there is none.
func Outside(file, credentials string) (*Outer, error) {
	source := "the file " + file
	if file == "" {
		if credentials == "" {
			return nil, nil
		}
		file = filepath.Join(credentials, Credential)
		source = "systemd's credential " + Credential
		if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
	} else if info, err := os.Stat(file); err == nil && info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("seal: key_file %s is of mode %04o: others may read it; make it 0600 or 0400", file, info.Mode().Perm())
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("seal: the key: %w", err)
	}
	k, err := ParseKey(string(data))
	if err != nil {
		return nil, fmt.Errorf("seal: %s: %w", file, err)
	}
	return &Outer{k, source}, nil
}
