// SPDX-License-Identifier: Apache-2.0

package gossip

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/hashicorp/serf/serf"

	"github.com/weftmesh/weft/internal/seal"
)

// ErrNotEncrypted is the error of a keyring's operation in a pool without keys.
var ErrNotEncrypted = errors.New("gossip isn't encrypted: there is no keyring")

// CheckKey says whether a key has a length that AES knows.
func CheckKey(key []byte) error {
	switch len(key) {
	case 16, 24, 32:
		return nil
	}
	return fmt.Errorf("a gossip key has 16, 24 or 32 bytes, this one has %d; make one with: weft keygen", len(key))
}

// ParseKey reads a key as the configuration has it, in base64.
func ParseKey(text string) ([]byte, error) {
	key, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, errors.New("a gossip key is 16, 24 or 32 bytes in base64; make one with: weft keygen")
	}
	return key, CheckKey(key)
}

// NewKey makes a key of 32 bytes, in base64.
func NewKey(r io.Reader) (string, error) {
	key := make([]byte, 32)
	if _, err := io.ReadFull(r, key); err != nil {
		return "", err
	}
	return base64.StdEncoding.EncodeToString(key), nil
}

// maxKeys bounds a keyring: the answer to a list of keys is one packet.
const maxKeys = 40

func keyringIn(path string, outer *seal.Outer) seal.File {
	return seal.File{Path: path, Purpose: "weft: gossip keys", Outer: outer, Random: rand.Reader}
}

// ReadKeyring reads the keys of a keyring's file, the one that encrypts first. A file that isn't there is no keys. It may be sealed by a key from
// outside; one in clear is sealed if there is a key now.
func ReadKeyring(path string, outer *seal.Outer) ([][]byte, error) {
	data, clear, err := keyringIn(path, outer).Read()
	if data == nil || err != nil {
		return nil, err
	}
	keys, err := parseKeyring(data)
	if clear && err == nil {
		err = WriteKeyring(path, keys, outer)
	}
	if err != nil {
		return nil, fmt.Errorf("keyring %s: %w; restore it from another node, or remove it and set encrypt to the cluster's key", path, err)
	}
	return keys, nil
}

func parseKeyring(data []byte) ([][]byte, error) {
	var texts []string
	if err := json.Unmarshal(data, &texts); err != nil {
		return nil, fmt.Errorf("not a JSON list of keys: %w", err)
	}
	if len(texts) == 0 || len(texts) > maxKeys {
		return nil, fmt.Errorf("%d keys, want 1 to %d", len(texts), maxKeys)
	}
	keys := make([][]byte, 0, len(texts))
	for i, text := range texts {
		key, err := ParseKey(text)
		if err != nil {
			return nil, fmt.Errorf("key %d: %w", i+1, err)
		}
		keys = append(keys, key)
	}
	return keys, nil
}

// WriteKeyring writes a keyring's file, whole or not at all, sealed where there is a key from outside.
func WriteKeyring(path string, keys [][]byte, outer *seal.Outer) error {
	texts := make([]string, 0, len(keys))
	for _, k := range keys {
		texts = append(texts, base64.StdEncoding.EncodeToString(k))
	}
	data, err := json.MarshalIndent(texts, "", "  ")
	if err != nil {
		return err
	}
	return keyringIn(path, outer).Write(data)
}

// keyringLook is how often a sealed keyring is looked at for changes: serf writes a file in clear, and tells nobody.
const keyringLook = time.Second

// keepKeyring writes a keyring's file that is sealed, when keys were changed, and at the end.
func (p *Pool) keepKeyring(ctx context.Context) error {
	have := p.Keys()
	keep := func() {
		now := p.Keys()
		if slices.EqualFunc(have, now, bytes.Equal) {
			return
		}
		if err := WriteKeyring(p.c.KeyringFile, now, p.c.Seal); err != nil {
			p.log.Error("the changed gossip keys can't be kept: after a restart this node has the old ones", "error", err)
			return
		}
		have = now
	}
	tick := time.NewTicker(keyringLook)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			keep()
		case <-ctx.Done():
			keep()
			return nil
		}
	}
}

// KeyAnswer is what the members said to an operation of the keyring.
type KeyAnswer struct {
	Messages    map[string]string // by member, from those that had something to say
	Keys        map[string]int    // by key in base64: how many members have it
	PrimaryKeys map[string]int    // by key in base64: how many members encrypt with it
	NumNodes    int
	NumResp     int
	NumErr      int
}

// KeyOp is an operation of the keyring.
type KeyOp int

// The operations of the keyring. Each is done by every member.
const (
	ListKeys   KeyOp = iota
	InstallKey       // take it for decryption
	UseKey           // encrypt with it
	RemoveKey        // take it no more; not the one that encrypts
)

// Encrypted says whether the pool has keys.
func (p *Pool) Encrypted() bool { return p.keyring != nil }

// Keys are the keys now, the one that encrypts first; none where the pool isn't encrypted.
func (p *Pool) Keys() [][]byte {
	if p.keyring == nil {
		return nil
	}
	return slices.Clone(p.keyring.GetKeys())
}

// Keyring has an operation done by all members and gathers their answers. relay, up to 5, has each answer come by so many
// other members too. Where some members failed or didn't answer, the answer is there beside the error.
func (p *Pool) Keyring(ctx context.Context, op KeyOp, key string, relay int) (KeyAnswer, error) {
	s, err := p.running()
	if err != nil {
		return KeyAnswer{}, err
	}
	if p.keyring == nil {
		return KeyAnswer{}, ErrNotEncrypted
	}
	if op != ListKeys {
		if _, err := ParseKey(key); err != nil {
			return KeyAnswer{}, err
		}
	}
	if relay < 0 || relay > maxRelay {
		return KeyAnswer{}, fmt.Errorf("relay factor %d: want 0 to %d", relay, maxRelay)
	}
	type result struct {
		r   *serf.KeyResponse
		err error
	}
	done := make(chan result, 1)
	go func() { // serf bounds it
		opts := &serf.KeyRequestOptions{RelayFactor: uint8(relay)}
		var r result
		switch m := s.KeyManager(); op {
		case ListKeys:
			r.r, r.err = m.ListKeysWithOptions(opts)
		case InstallKey:
			r.r, r.err = m.InstallKeyWithOptions(key, opts)
		case UseKey:
			r.r, r.err = m.UseKeyWithOptions(key, opts)
		case RemoveKey:
			r.r, r.err = m.RemoveKeyWithOptions(key, opts)
		}
		done <- r
	}()
	select {
	case r := <-done:
		if r.r == nil {
			return KeyAnswer{}, r.err
		}
		return KeyAnswer{
			Messages: r.r.Messages, Keys: r.r.Keys, PrimaryKeys: r.r.PrimaryKeys,
			NumNodes: r.r.NumNodes, NumResp: r.r.NumResp, NumErr: r.r.NumErr,
		}, r.err
	case <-ctx.Done():
		return KeyAnswer{}, context.Cause(ctx)
	}
}

const maxRelay = 5
