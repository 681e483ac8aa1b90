// SPDX-License-Identifier: Apache-2.0

package mux

import (
	"fmt"
	"sync/atomic"
	"syscall"
)

const (
	// maxHeld bounds what waits to be read on all sessions of a Held. One alone holds 32 MiB in first windows and 16 MiB of grown ones.
	maxHeld = 48 << 20
	// littleHeld is what a session may hold in any case: a peer that holds little loses nothing by another's doing. It is a request of each stream. But all
	// sessions of a share together hold no more than littleShare in any case: a peer may have thousands.
	littleHeld  = 2 << 20
	littleShare = 8 << 20
)

// Held counts the memory that waits to be read on all sessions that share it, so that a peer can't have more kept by further connections. Where that is
// too much, a stream on which more comes is cut.
type Held struct {
	bytes atomic.Int64
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

// holdsTooMuch says whether what has just come is to be dropped.
func (s *Session) holdsTooMuch() bool {
	all := s.c.Held
	if all == nil {
		return false
	}
	share := int64(0)
	if all.whole != nil {
		share, all = all.bytes.Load(), all.whole
	}
	return all.bytes.Load() > maxHeld && (s.held.Load() > littleHeld || share > littleShare)
}
