// SPDX-License-Identifier: Apache-2.0

package tokens

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/weftmesh/weft/internal/durable"
	"github.com/weftmesh/weft/internal/seal"
)

// File keeps tokens in a file of mode 0600 (acl.enable_token_persistence), sealed where there is a key from outside.
type File struct {
	Path string
	Seal *seal.Outer // nil: in clear
}

const sealedFor = "weft: the agent's tokens"

func (f File) find(id string) (seal.Key, bool) {
	if f.Seal == nil || f.Seal.Key.ID() != id {
		return seal.Key{}, false
	}
	return f.Seal.Key, true
}

// Load reads the file; one that isn't there holds nothing.
func (f File) Load() (map[Kind]string, error) {
	data, err := os.ReadFile(f.Path)
	if errors.Is(err, os.ErrNotExist) {
		return map[Kind]string{}, nil
	}
	if err != nil {
		return nil, err
	}
	data, err = seal.Open(f.find, sealedFor, data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w; give it by seal { key_file }, or remove the file and set the tokens anew", f.Path, err)
	}
	var m map[Kind]string
	if err := json.Unmarshal(data, &m); err != nil {
		return nil, fmt.Errorf("%s isn't what weft wrote: %w; remove it and set the tokens anew", f.Path, err)
	}
	return m, nil
}

// Save writes it, whole or not at all.
func (f File) Save(m map[Kind]string) error {
	data, err := json.Marshal(m)
	if err == nil && f.Seal != nil {
		data, err = f.Seal.Key.Seal(sealedFor, data, rand.Reader)
	}
	if err != nil {
		return err
	}
	return durable.ReplaceIn(f.Path, data)
}
