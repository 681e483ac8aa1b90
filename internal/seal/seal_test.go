// SPDX-License-Identifier: Apache-2.0

package seal

import (
	"bytes"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func newKey(t *testing.T) Key {
	t.Helper()
	k, err := NewKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func finds(keys ...Key) func(string) (Key, bool) {
	return func(id string) (Key, bool) {
		for _, k := range keys {
			if k.ID() == id {
				return k, true
			}
		}
		return Key{}, false
	}
}

// What is sealed opens by its key for its purpose, unchanged in every byte, and not else.
func TestSeal(t *testing.T) {
	k, other := newKey(t), newKey(t)
	data, err := k.Seal("a", []byte("secret"), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(data, []byte("secret")) {
		t.Error("it is in clear")
	}
	if got, err := Open(finds(other, k), "a", data); string(got) != "secret" || err != nil {
		t.Fatalf("%q, %v", got, err)
	}
	if _, err := Open(finds(k), "b", data); !errors.Is(err, ErrDamaged) {
		t.Errorf("for another purpose: %v", err)
	}
	var missing *MissingKey
	if _, err := Open(finds(other), "a", data); !errors.As(err, &missing) || missing.ID != k.ID() || !errors.Is(err, ErrNoKey) {
		t.Errorf("without the key: %v", err)
	}
	for i := range data {
		bad := bytes.Clone(data)
		bad[i] ^= 1
		if got, err := Open(finds(k), "a", bad); err == nil && string(got) == "secret" {
			t.Errorf("byte %d changed: %q", i, got)
		}
	}
	for n := len(magic) + idSize; n < len(data); n++ {
		if _, err := Open(finds(k), "a", data[:n]); !errors.Is(err, ErrDamaged) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
	if got, err := Open(finds(), "a", []byte(`{"clear":1}`)); string(got) != `{"clear":1}` || err != nil {
		t.Errorf("what was never sealed: %q, %v", got, err)
	}
}

func TestKeysAreNotPrinted(t *testing.T) {
	k := newKey(t)
	if got, err := ParseKey(" " + k.Text() + "\n"); got != k || err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"", "x", k.Text()[:20]} {
		if _, err := ParseKey(bad); err == nil || bad != "" && strings.Contains(err.Error(), bad) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if k.String() != k.ID() || k.GoString() != k.ID() || strings.Contains(k.Text(), k.ID()) {
		t.Error(k.ID())
	}
}

func TestRing(t *testing.T) {
	path := RingFile(t.TempDir())
	one, two := newKey(t), newKey(t)
	open := func(outer *Outer) *Ring {
		t.Helper()
		r, err := OpenRing(path, outer, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	r := open(nil)
	if _, ok := r.Active(); ok {
		t.Error("a key from nowhere")
	}
	if err := r.Add(one); err != nil {
		t.Fatal(err)
	}
	if err := open(nil).Add(two); err != nil { // another process
		t.Fatal(err)
	}
	if k, ok := r.Find(two.ID()); !ok || k != two {
		t.Error("what was put into the file isn't found")
	}
	if k, _ := r.Active(); k != one {
		t.Error("another key seals")
	}
	if err := r.Use(two); err != nil {
		t.Fatal(err)
	}
	if k, _ := open(nil).Active(); k != two {
		t.Error("another key seals after a restart")
	}
	// A key from outside seals the file, and then nothing opens it but that.
	outer := &Outer{newKey(t), "a file"}
	if data, _ := os.ReadFile(path); !bytes.Contains(data, []byte(one.Text())) {
		t.Error("the control: the file isn't in clear")
	}
	if keys := open(outer).Keys(); len(keys) != 2 {
		t.Error(keys)
	}
	if data, _ := os.ReadFile(path); bytes.Contains(data, []byte(one.Text())) {
		t.Error("the file is in clear")
	}
	if keys := open(outer).Keys(); len(keys) != 2 {
		t.Error(keys)
	}
	for _, wrong := range []*Outer{nil, {newKey(t), "another file"}} {
		if _, err := OpenRing(path, wrong, rand.Reader); !errors.Is(err, ErrNoKey) {
			t.Errorf("%v: %v", wrong, err)
		}
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenRing(path, outer, rand.Reader); err == nil {
		t.Error("a file that others may read is taken")
	}
	for _, bad := range []string{"", "{", `{"Keys":["x"]}`} {
		if err := errors.Join(os.Remove(path), os.WriteFile(path, []byte(bad), 0o600)); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenRing(path, nil, rand.Reader); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func TestOutside(t *testing.T) {
	dir := t.TempDir()
	k := newKey(t)
	file, credential := filepath.Join(dir, "key"), filepath.Join(dir, Credential)
	if o, err := Outside("", ""); o != nil || err != nil {
		t.Error(o, err)
	}
	if o, err := Outside("", dir); o != nil || err != nil {
		t.Error(o, err)
	}
	for _, path := range []string{file, credential} {
		if err := os.WriteFile(path, []byte(k.Text()+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if o, err := Outside(file, ""); err != nil || o.Key != k {
		t.Error(o, err)
	}
	if o, err := Outside("", dir); err != nil || o.Key != k || !strings.Contains(o.Source, Credential) {
		t.Error(o, err)
	}
	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Outside(file, ""); err == nil {
		t.Error("a file that others may read is taken")
	}
	if _, err := Outside(filepath.Join(dir, "none"), ""); err == nil {
		t.Error("a file that isn't there is taken")
	}
}
