// SPDX-License-Identifier: Apache-2.0

package gossip

import (
	"bytes"
	"encoding/base64"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weftmesh/weft/internal/memnet"
	"github.com/weftmesh/weft/internal/seal"
)

// Where there is a key from outside, the file with the gossip keys is never in clear: not when it is first written, not when keys are changed over the
// cluster, and not when it was before. Changed keys are there after a restart.
func TestKeyringIsSealed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		random := rand.NewChaCha8([32]byte{1})
		key, err := seal.NewKey(random)
		if err != nil {
			t.Fatal(err)
		}
		outer := &seal.Outer{Key: key, Source: "a test"}
		first := make([]byte, 32)
		next, err := NewKey(random)
		if err != nil {
			t.Fatal(err)
		}
		c := config(Memory(memnet.New()), 1)
		c.Keys, c.KeyringFile, c.Seal = [][]byte{first}, filepath.Join(t.TempDir(), "serf", "local.keyring"), outer
		kept := func(want int) {
			t.Helper()
			data, err := os.ReadFile(c.KeyringFile)
			if err != nil {
				t.Fatal(err)
			}
			for _, text := range []string{next, base64.StdEncoding.EncodeToString(first)} {
				if bytes.Contains(data, []byte(text)) {
					t.Error("a key is in clear")
				}
			}
			if keys, err := ReadKeyring(c.KeyringFile, outer); err != nil || len(keys) != want {
				t.Errorf("%d keys, %v, want %d", len(keys), err, want)
			}
			if _, err := ReadKeyring(c.KeyringFile, nil); err == nil {
				t.Error("it opens without the key")
			}
		}
		if err := WriteKeyring(c.KeyringFile, c.Keys, nil); err != nil {
			t.Fatal(err)
		}
		if keys, err := ReadKeyring(c.KeyringFile, outer); err != nil || len(keys) != 1 {
			t.Fatal(keys, err)
		}
		kept(1)
		p := start(t, c)
		for _, op := range []KeyOp{InstallKey, UseKey} {
			if _, err := p.Keyring(t.Context(), op, next, 0); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(2 * keyringLook)
		kept(2)
		if _, err := p.Keyring(t.Context(), RemoveKey, base64.StdEncoding.EncodeToString(first), 0); err != nil {
			t.Fatal(err)
		}
		p.stop(t)
		kept(1)
	})
}
