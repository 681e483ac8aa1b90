// SPDX-License-Identifier: Apache-2.0

// Package sealed keeps a copy of what this host's proxies need on disk: the agent's part of the catalog, and the leaf
// certificates with their keys. An agent that starts while no server can be reached serves its proxies from it.
//
// The copy is sealed with AES-256-GCM by a key in a file of its own, readable by the agent's user alone. That keeps the private keys
// out of whatever takes a copy of the copy (a backup, a support bundle), and finds every cut or flipped bit; who may read
// all of data_dir can open it. Keeper.Run is the only goroutine.
package sealed

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/weftmesh/weft/ca"
	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/internal/durable"
)

// ErrRefused marks a file that isn't a copy which this agent has made, whole.
var ErrRefused = errors.New("the sealed copy is refused")

// Copy is what an agent knew at one moment.
type Copy struct {
	Node       string
	Datacenter string
	At         time.Time // until then a server was heard
	Position   catalog.Position
	Topics     []catalog.Topic // what Items hold whole
	Items      []catalog.Item
	RootID     string // that the leaves were signed under
	Leaves     []Leaf
}

// Leaf is a service's certificate with its key.
type Leaf struct {
	Service catalog.Key
	Leaf    ca.Leaf
}

// The file is the header, a nonce, and the sealed canonical form of a Copy; the header is authenticated too.
const (
	magic   = "weft-sealed"
	version = 1
	keySize = 32
)

func header() []byte { return append([]byte(magic), binary.BigEndian.AppendUint32(nil, version)...) }

// seal encrypts a copy.
func seal(key []byte, random io.Reader, c *Copy) ([]byte, error) {
	aead, err := gcm(key)
	if err != nil {
		return nil, err
	}
	plain, err := catalog.Canonical(c)
	if err != nil {
		return nil, err
	}
	nonce := make([]byte, aead.NonceSize())
	if _, err := io.ReadFull(random, nonce); err != nil {
		return nil, err
	}
	head := header()
	return aead.Seal(append(head, nonce...), nonce, plain, head), nil
}

// open decrypts a copy, or refuses it whole.
func open(key, data []byte) (*Copy, error) {
	head := header()
	if len(data) < len(head) || !bytes.HasPrefix(data, []byte(magic)) {
		return nil, fmt.Errorf("%w: it isn't one of weft's", ErrRefused)
	}
	if v := binary.BigEndian.Uint32(data[len(magic):]); v != version {
		return nil, fmt.Errorf("%w: it is of version %d, and this weft knows %d", ErrRefused, v, version)
	}
	aead, err := gcm(key)
	if err != nil {
		return nil, err
	}
	body := data[len(head):]
	if len(body) < aead.NonceSize() {
		return nil, fmt.Errorf("%w: it is cut", ErrRefused)
	}
	plain, err := aead.Open(nil, body[:aead.NonceSize()], body[aead.NonceSize():], head)
	if err != nil {
		return nil, fmt.Errorf("%w: it is damaged, or sealed by another key", ErrRefused)
	}
	var c Copy
	if err := catalog.FromCanonical(plain, &c); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return &c, nil
}

func gcm(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// loadKey reads the key, or makes one. A key that others may read is an error: it would seal nothing.
func loadKey(path string, random io.Reader) ([]byte, error) {
	info, err := os.Stat(path)
	if err == nil {
		if info.Mode().Perm()&0o077 != 0 {
			return nil, fmt.Errorf("%s, by which certificates are sealed, is of mode %04o: others may read it; make it 0600, or remove it for a new one",
				path, info.Mode().Perm())
		}
		key, err := os.ReadFile(path)
		if err == nil && len(key) != keySize {
			err = fmt.Errorf("%s has %d bytes, want %d: remove it for a new key; the sealed copy is made anew from a server", path, len(key), keySize)
		}
		return key, err
	}
	if !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	key := make([]byte, keySize)
	if _, err := io.ReadFull(random, key); err != nil {
		return nil, err
	}
	return key, durable.ReplaceIn(path, key)
}
