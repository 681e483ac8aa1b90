// SPDX-License-Identifier: Apache-2.0

package seal

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/weftmesh/weft/internal/durable"
)

// File is a file of mode 0600 with a secret of one node, sealed where there is a key from outside.
type File struct {
	Path, Purpose string
	Outer         *Outer // nil: in clear
	Random        io.Reader
}

// Read gives the secret, nil where there is no file. clear says that it lies in clear though there is a key: write it again.
func (f File) Read() (secret []byte, clear bool, err error) {
	data, err := os.ReadFile(f.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	_, sealed := Is(data)
	secret, err = Open(func(id string) (Key, bool) {
		if f.Outer == nil || f.Outer.Key.ID() != id {
			return Key{}, false
		}
		return f.Outer.Key, true
	}, f.Purpose, data)
	if err != nil {
		return nil, false, fmt.Errorf("%s: %w; give it by seal { key_file }, or by systemd's LoadCredential=%s:FILE", f.Path, err, Credential)
	}
	return secret, !sealed && f.Outer != nil, nil
}

// Write writes it, whole or not at all, and makes its folder.
func (f File) Write(secret []byte) error {
	if f.Outer != nil {
		var err error
		if secret, err = f.Outer.Key.Seal(f.Purpose, secret, f.Random); err != nil {
			return err
		}
	}
	return durable.ReplaceIn(f.Path, secret)
}
