// SPDX-License-Identifier: Apache-2.0

// Package durable writes small files that have to outlive a crash and a loss of power. It reads none, and owns no goroutine.
package durable

import (
	"errors"
	"os"
	"path/filepath"
)

// Replace writes a file of mode 0600 whole or not at all: under another name beside it, synced, then moved into place, the folder
// synced. What a crash left under that name is written over, never followed: others may be able to write into the folder. Two at a
// time for one path are the caller's to avoid; one of them gets an error.
func Replace(path string, data []byte) error {
	temp := path + ".new"
	if err := os.Remove(temp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(temp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if _, err = f.Write(data); err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// ReplaceIn is Replace into a folder that is made where it isn't there, for its owner alone.
func ReplaceIn(path string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return Replace(path, data)
}
