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
	// littleHeld is what a session may hold in any case: a peer that holds little loses nothing by another's doing.
	littleHeld = 256 << 10
)

// Held counts what waits to be read on all sessions that share it, so that a peer can't have more kept by further connections. Where that is too
// much, a stream on which more comes is cut.
type Held struct{ bytes atomic.Int64 }

var errHeld = fmt.Errorf("%w: more waited to be read than is kept", syscall.ECONNRESET)

// hold notes that n more bytes wait to be read; n is negative for fewer.
func (s *Session) hold(n int) {
	if s.c.Held != nil && n != 0 {
		s.held.Add(int64(n))
		s.c.Held.bytes.Add(int64(n))
	}
}

// holdsTooMuch says whether what has just come is to be dropped.
func (s *Session) holdsTooMuch() bool {
	return s.c.Held != nil && s.c.Held.bytes.Load() > maxHeld && s.held.Load() > littleHeld
}
