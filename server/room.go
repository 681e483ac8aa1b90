// SPDX-License-Identifier: Apache-2.0

package server

import (
	"errors"
	"fmt"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftmesh/weft/internal/api"
)

// A log that meets a full disk in the middle of a new file is broken until the server starts again. So a server stops writing
// while there still is room for a file of its log and some more: what it has can be read, and nothing is half written.
const (
	roomNeeded  = 80 << 20
	roomLook    = 100 * time.Millisecond
	handOverFor = 15 * time.Second // between attempts to have a server lead that may have room
)

// room watches how much room there is for the log.
type room struct {
	dir  string // "" has all the room there is
	now  func() time.Time
	free func(dir string) (uint64, error)

	mu     sync.Mutex
	looked time.Time
	err    error
	passed time.Time // when another server was asked to lead
}

func freeBytes(dir string) (uint64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, err
	}
	return st.Bavail * uint64(st.Bsize), nil
}

// check is nil if there is room; api.ErrNoRoom if not. What can't be found out is no reason to refuse.
func (r *room) check() error {
	if r == nil || r.dir == "" {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	if since := now.Sub(r.looked); since >= 0 && since < roomLook {
		return r.err
	}
	r.looked, r.err = now, nil
	if free, err := r.free(r.dir); err == nil && free < roomNeeded {
		r.err = fmt.Errorf("%w: %d MiB are free in %s, and at least %d must be: make room; until then what is there can be read", api.ErrNoRoom, free>>20, r.dir, roomNeeded>>20)
	}
	return r.err
}

// handOver says whether it is time to have another server lead.
func (r *room) handOver() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	if since := now.Sub(r.passed); since >= 0 && since < handOverFor {
		return false
	}
	r.passed = now
	return true
}

// full says whether an error is that of a full disk.
func full(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, api.ErrNoRoom)
}
