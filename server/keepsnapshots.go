// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Snapshots says which snapshots the leader saves by itself.
type Snapshots struct {
	Interval time.Duration // 0: none
	Retain   int           // how many are kept
	Dir      string
}

const snapshotSuffix = ".snap"

// keepSnapshots saves one every interval until leadership ends, and removes the oldest beyond what is kept. A disk that is full
// costs nothing but the snapshot.
func (s *Server) keepSnapshots(ctx context.Context) error {
	if s.c.Snapshots.Interval <= 0 {
		return nil
	}
	tick := time.NewTicker(s.c.Snapshots.Interval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		path, err := s.saveSnapshot()
		if err != nil {
			s.c.Log.Error("the snapshot can't be saved", "error", err)
			continue
		}
		s.c.Log.Info("snapshot saved", "path", path)
	}
}

func (s *Server) saveSnapshot() (string, error) {
	dir := s.c.Snapshots.Dir
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	index, write, err := s.OpenSnapshot()
	if err != nil {
		return "", err
	}
	// Names sort by age.
	name := fmt.Sprintf("%s-%s-%020d%s", s.c.Datacenter, s.c.Now().UTC().Format("20060102T150405"), index, snapshotSuffix)
	file, err := os.CreateTemp(dir, "."+name+"-*")
	if err != nil {
		return "", err
	}
	err = errors.Join(write(file), file.Sync(), file.Close())
	if err == nil {
		err = os.Rename(file.Name(), filepath.Join(dir, name))
	}
	if err != nil {
		return "", errors.Join(err, os.Remove(file.Name()))
	}
	return filepath.Join(dir, name), s.dropSnapshots(dir)
}

func (s *Server) dropSnapshots(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var names []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), s.c.Datacenter+"-") && strings.HasSuffix(e.Name(), snapshotSuffix) {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	var errs []error
	for len(names) > s.c.Snapshots.Retain {
		errs = append(errs, os.Remove(filepath.Join(dir, names[0])))
		names = names[1:]
	}
	return errors.Join(errs...)
}
