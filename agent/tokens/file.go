// SPDX-License-Identifier: Apache-2.0

package tokens

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/weftmesh/weft/internal/durable"
)

// File keeps tokens in a file of mode 0600 (acl.enable_token_persistence).
type File struct{ Path string }

// Load reads the file; one that isn't there holds nothing.
func (f File) Load() (map[Kind]string, error) {
	data, err := os.ReadFile(f.Path)
	if errors.Is(err, os.ErrNotExist) {
		return map[Kind]string{}, nil
	}
	if err != nil {
		return nil, err
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
	if err != nil {
		return err
	}
	return durable.ReplaceIn(f.Path, data)
}
