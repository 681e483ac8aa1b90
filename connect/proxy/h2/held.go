// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"time"

	"github.com/weftmesh/weft/internal/guard"
)

// A client that has said that it takes nothing, or as good as nothing, of the answers that it asks for has only some of them fetched at once: each
// would take a connection to the service, its buffers and a handshake, and then wait. The further ones begin when it takes one of those, and
// one now and then in any case, since it may want heads alone.
const (
	leastWindow = 1 << 10 // for the body of an answer; less than this is as good as nothing
	fewUntaken  = 4       // answers at once for which there is no more room than that; the connections of as many are made at once, too
	heldFor     = 10 * time.Millisecond
)

// untaking is what a server needs for that. It is guarded by conn.mu.
type untaking struct {
	untaken int           // requests begun whose answers the client had no room for yet
	held    []*serverExch // requests that wait for others of these to be taken
	letting *time.Timer   // lets one of them begin; nil: it isn't set
}

// verdict is what becomes of a request.
type verdict uint8

const (
	begins verdict = iota
	waits
	gone
)

// judgeLocked says what is to become of a request that is about to begin. Who begins is counted.
func (s *Server) judgeLocked(e *serverExch, let bool) verdict {
	switch {
	case e.err != nil:
		return gone
	case s.roomLocked(&e.exch):
	case s.untaken >= fewUntaken && !let && !guard.Off("C66"):
		return waits
	default:
		e.untaken = true
		s.untaken++
	}
	e.begun = true
	return begins
}

// roomLocked says whether the client takes an answer of e.
func (s *Server) roomLocked(e *exch) bool { return min(e.sendWin, s.sendWin) >= leastWindow }

// holdLocked has e wait.
func (s *Server) holdLocked(e *serverExch) {
	s.held = append(s.held, e)
	if s.letting == nil {
		s.letting = time.AfterFunc(heldFor, s.letOne)
	}
}

// roomsLocked is called when the windows of e have grown, or of all streams (nil).
func (s *Server) roomsLocked(e *exch) {
	if s.untaken == 0 {
		return
	}
	if e != nil {
		s.takenLocked(e.srv, s.roomLocked(e))
		return
	}
	for _, e := range s.streams {
		s.takenLocked(e.srv, s.roomLocked(e))
	}
}

// takenLocked notes, where it is so, that the client takes e's answer, or that nobody will write it any more.
func (s *Server) takenLocked(e *serverExch, so bool) {
	if so && e.untaken {
		e.untaken = false
		s.untaken--
	}
}

// letOne begins the request that has waited longest.
func (s *Server) letOne() {
	s.mu.Lock()
	s.letting = nil
	if len(s.held) == 0 {
		s.mu.Unlock()
		return
	}
	e := s.held[0]
	s.held[0] = nil
	if s.held = s.held[1:]; len(s.held) > 0 && s.stopErr == nil {
		s.letting = time.AfterFunc(heldFor, s.letOne)
	}
	s.mu.Unlock()
	s.start(e, true)
}

// letSome begins the requests that need not wait any more, and takes out those that were taken back.
func (s *Server) letSome() {
	s.mu.Lock()
	if len(s.held) == 0 {
		s.mu.Unlock()
		return
	}
	var next []*serverExch
	kept, free := s.held[:0], fewUntaken-s.untaken
	for _, e := range s.held {
		switch {
		case e.err != nil, s.roomLocked(&e.exch):
			next = append(next, e)
		case free > 0:
			free--
			next = append(next, e)
		default:
			kept = append(kept, e)
		}
	}
	clear(s.held[len(kept):])
	s.held = kept
	s.mu.Unlock()
	for _, e := range next {
		s.start(e, false)
	}
}
