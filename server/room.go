// SPDX-License-Identifier: Apache-2.0

package server

import (
	"errors"
	"fmt"
	"math"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftmesh/weft/internal/api"
)

// A log that meets a full disk in the middle of a new file is broken until the server starts again. So a server stops writing
// while there still is room for a file of its log and some more: what it has can be read, and nothing is half written.
const (
	roomNeeded = 80 << 20
	roomSpare  = 16 << 20 // below it not even a snapshot is begun, which would make room
	roomLook   = 100 * time.Millisecond
)

// room watches how much room there is for the log.
type room struct {
	dir     string // "" has all the room there is
	segment uint64 // how large a file of the log gets, where that is configured
	now     func() time.Time
	free    func(dir string) (uint64, error)

	mu     sync.Mutex
	looked time.Time
	left   uint64
	passed bool // another server was asked to lead since there was room
}

func freeBytes(dir string) (uint64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, err
	}
	return st.Bavail * uint64(st.Bsize), nil
}

// check is nil if there is room for the log, and api.ErrNoRoom if not.
func (r *room) check() error {
	if r == nil {
		return nil
	}
	return r.atLeast(max(roomNeeded, r.segment+roomSpare))
}

// atLeast is nil if so many bytes are free. What can't be found out is no reason to refuse.
func (r *room) atLeast(needed uint64) error {
	if r == nil || r.dir == "" {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	if since := now.Sub(r.looked); since < 0 || since >= roomLook {
		var err error
		if r.left, err = r.free(r.dir); err != nil {
			r.left = math.MaxUint64
		}
		r.looked = now
		r.passed = r.passed && r.left < roomNeeded
	}
	if r.left >= needed {
		return nil
	}
	return fmt.Errorf("%w: %d MiB are free in %s, and at least %d must be: make room; until then what is there can be read", api.ErrNoRoom, r.left>>20, r.dir, roomNeeded>>20)
}

// stale has room looked for the next time that it is asked about.
func (r *room) stale() {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.looked = time.Time{}
}

// handOver says whether another server should be asked to lead: once each time that there is too little room. Where nobody has any,
// leadership so stays where it is in the end, and reads go on.
func (r *room) handOver() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	again := !r.passed
	r.passed = true
	return again
}

// full says whether an error is that of a full disk.
func full(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, api.ErrNoRoom)
}
