// SPDX-License-Identifier: Apache-2.0

package mux

import (
	"fmt"
	"sync/atomic"
	"syscall"
)

const (
	// maxHeld bounds what waits to be read on all sessions of a Held: 32 MiB in first windows, of 512 streams, and maxGrown.
	maxHeld = 48 << 20
	// littleHeld is what a session may hold in any case: a peer that holds little loses nothing by another's doing. It is a request of each stream. But all
	// sessions of a share together hold no more than littleShare in any case: a peer may have thousands.
	littleHeld  = 2 << 20
	littleShare = 8 << 20
	// maxGrown is by how much all windows of a Held together may have grown; those of one share by the half.
	maxGrown = 16 << 20
	// From tightHeld on windows don't grow, and those of streams that aren't read as fast as they are sent shrink: so what was held is given up before a
	// stream is to be cut.
	tightHeld = maxHeld / 2
	// tightForAll is from where on that is so for those too that hold little.
	tightForAll = maxHeld / 4 * 3
)

// Held counts the memory that waits to be read on all sessions that share it, so that a peer can't have more kept by further connections, and by how much
// their windows have grown. Where too much waits, the accepting side cuts a stream on which more comes. Windows alone can't prevent that: the first 64 KiB
// of each stream are the protocol's and may be sent before the stream is known here; an identity may have 20,000 streams, and more than 512 that stand
// still at the same time hold too much, though each keeps to its window. Not to read their connection for a while would stop the others on it, and the
// windows that this side waits for. The opener cuts none: it has as many streams as its clients' requests need.
type Held struct {
	bytes atomic.Int64
	grown atomic.Int64
	whole *Held // of which it is a share; nil: of none
}

// Share is a part of what is held, for the sessions of one peer.
func (h *Held) Share() *Held { return &Held{whole: h} }

var errHeld = fmt.Errorf("%w: more waited to be read than is kept", syscall.ECONNRESET)

// hold notes that n more bytes wait to be read; n is negative for fewer.
func (s *Session) hold(n int) {
	if n == 0 {
		return
	}
	for h := s.c.Held; h != nil; h = h.whole {
		h.bytes.Add(int64(n))
	}
	s.held.Add(int64(n))
}

// tight says whether so much waits to be read that slow streams are to have smaller windows: on all sessions, and on those of the share, as long as there
// is room enough for who holds little.
func (h *Held) tight() bool {
	share, all := h.bytes.Load(), h
	if h.whole != nil {
		all = h.whole
	}
	whole := all.bytes.Load()
	return whole > tightForAll || whole > tightHeld && share > littleShare
}

// grow notes that a window is to grow by n, which is negative for less, unless there is no room.
func (h *Held) grow(n int64) bool {
	most := int64(maxGrown)
	if h.whole != nil {
		if !h.whole.grow(n) {
			return false
		}
		most /= 2
	}
	if h.grown.Add(n) <= most || n <= 0 {
		return true
	}
	for ; h != nil; h = h.whole {
		h.grown.Add(-n)
	}
	return false
}

// holdsTooMuch says whether what has just come is to be dropped.
func (s *Session) holdsTooMuch() bool {
	if s.c.Accept == nil {
		return false
	}
	share, all := int64(0), s.c.Held
	if all.whole != nil {
		share, all = all.bytes.Load(), all.whole
	}
	return all.bytes.Load() > maxHeld && (s.held.Load() > littleHeld || share > littleShare)
}
