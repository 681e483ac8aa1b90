// SPDX-License-Identifier: Apache-2.0

package plane

import (
	"bytes"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/weftmesh/weft/internal/seal"
)

// A node's identity isn't in clear where there is a key from outside, not even one that was written before there was; without the key, or with
// another, it isn't opened, and isn't taken for one that isn't there.
func TestIdentityIsSealed(t *testing.T) {
	outer := func() *seal.Outer {
		k, err := seal.NewKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return &seal.Outer{Key: k, Source: "a test"}
	}
	file, key := filepath.Join(t.TempDir(), "plane", "identity.json"), outer()
	clear := func() bool {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return bytes.Contains(data, []byte("the key"))
	}
	if id, err := ReadIdentity(file, key); id != nil || err != nil {
		t.Error(id, err)
	}
	if err := (&Identity{Key: "the key"}).Write(file, nil); err != nil || !clear() {
		t.Fatal("without a key from outside it is in clear:", err)
	}
	for range 2 {
		if id, err := ReadIdentity(file, key); err != nil || id.Key != "the key" || clear() {
			t.Errorf("%+v, %v, in clear: %v", id, err, clear())
		}
	}
	for _, other := range []*seal.Outer{nil, outer()} {
		if id, err := ReadIdentity(file, other); !errors.Is(err, seal.ErrNoKey) || id != nil {
			t.Errorf("%+v, %v", id, err)
		}
	}
	if err := (&Identity{Key: "the key"}).Write(file, key); err != nil || clear() {
		t.Error(err)
	}
}
