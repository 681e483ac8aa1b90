// SPDX-License-Identifier: Apache-2.0

// Package seal keeps secrets sealed where they lie on disk: by AES-256-GCM, with the key's ID in front, so that whoever lacks the
// key learns which one to bring. A Ring is the file with a cluster's keys, which may itself be sealed by a key from outside. The package starts
// no goroutine.
package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Key seals and opens.
type Key [32]byte

// The errors of this package.
var (
	// ErrNoKey says that something is sealed by a key that isn't there.
	ErrNoKey = errors.New("the key that it is sealed by isn't here")
	// ErrDamaged says that what is sealed was changed, or is sealed for another purpose.
	ErrDamaged = errors.New("what is sealed can't be opened: it is damaged, or was put in another's place")
)

// MissingKey is ErrNoKey with the key's ID.
type MissingKey struct{ ID string }

func (e *MissingKey) Error() string { return fmt.Sprintf("%v: %s", ErrNoKey, e.ID) }

// Unwrap gives ErrNoKey.
func (e *MissingKey) Unwrap() error { return ErrNoKey }

// NewKey makes a key.
func NewKey(random io.Reader) (Key, error) {
	var k Key
	_, err := io.ReadFull(random, k[:])
	return k, err
}

// ParseKey reads a key as it is written for people: 32 bytes in base64, as `weft keygen` makes them.
func ParseKey(text string) (Key, error) {
	var k Key
	data, err := base64.StdEncoding.DecodeString(strings.TrimSpace(text))
	if err != nil || len(data) != len(k) {
		return k, fmt.Errorf("a seal key is %d bytes in base64, as `weft keygen` makes one", len(k)) // the text may be a secret
	}
	copy(k[:], data)
	return k, nil
}

// For is another key, of a purpose that strangers have things sealed for as often as they like: what they learn of it, they learn of nothing else.
func (k Key) For(purpose string) Key {
	h := hmac.New(sha256.New, k[:])
	_, _ = h.Write([]byte(purpose))
	return Key(h.Sum(nil))
}

// Text is the key as ParseKey reads it.
func (k Key) Text() string { return base64.StdEncoding.EncodeToString(k[:]) }

// ID names the key without telling anything of it.
func (k Key) ID() string {
	id := k.id()
	return hex.EncodeToString(id[:])
}

// String is the ID: a key in a log by mistake shows no more.
func (k Key) String() string { return k.ID() }

// GoString is String.
func (k Key) GoString() string { return k.ID() }

func (k Key) id() (id [idSize]byte) {
	sum := sha256.Sum256(append([]byte("weft seal key\x00"), k[:]...))
	copy(id[:], sum[:])
	return id
}

const (
	// magic begins all that is sealed; no PEM, JSON or CBOR begins so.
	magic     = "\x00weft-seal\x01"
	idSize    = 8
	nonceSize = 12
)

// Seal seals for a purpose: what is sealed for one opens for no other.
func (k Key) Seal(purpose string, secret []byte, random io.Reader) ([]byte, error) {
	out := make([]byte, len(magic)+idSize+nonceSize, len(magic)+idSize+nonceSize+len(secret)+16)
	id := k.id()
	copy(out, magic)
	copy(out[len(magic):], id[:])
	nonce := out[len(magic)+idSize:]
	if _, err := io.ReadFull(random, nonce); err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	return k.aead().Seal(out, nonce, secret, about(purpose, out[:len(magic)+idSize])), nil
}

// Is reports whether data is sealed, and the ID of the key.
func Is(data []byte) (id string, sealed bool) {
	if len(data) < len(magic)+idSize || string(data[:len(magic)]) != magic {
		return "", false
	}
	return hex.EncodeToString(data[len(magic) : len(magic)+idSize]), true
}

// Open gives what was sealed for a purpose by a key that find knows. Data that isn't sealed is given as it is.
func Open(find func(id string) (Key, bool), purpose string, data []byte) ([]byte, error) {
	id, sealed := Is(data)
	if !sealed {
		return data, nil
	}
	k, ok := find(id)
	if !ok {
		return nil, &MissingKey{id}
	}
	rest := data[len(magic)+idSize:]
	if len(rest) < nonceSize {
		return nil, ErrDamaged
	}
	secret, err := k.aead().Open(nil, rest[:nonceSize], rest[nonceSize:], about(purpose, data[:len(magic)+idSize]))
	if err != nil {
		return nil, ErrDamaged
	}
	return secret, nil
}

func about(purpose string, head []byte) []byte { return append(append([]byte{}, head...), purpose...) }

func (k Key) aead() cipher.AEAD {
	block, err := aes.NewCipher(k[:])
	if err != nil {
		panic("seal: " + err.Error()) // the key has the right size
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic("seal: " + err.Error()) // the block too
	}
	return aead
}
