// SPDX-License-Identifier: Apache-2.0

package mux

import (
	"maps"
	"slices"
	"time"
)

// handle does what a frame says. It is the reader's.
func (s *Session) handle(f frame) error {
	switch f.kind {
	case kindOpen:
		return s.opened(f.id)
	case kindLeave:
		return s.peerLeaves()
	case kindPing:
		if !s.w.control(kindPong, 0, 0) {
			return errUnread
		}
		return s.idled()
	case kindPong:
		return s.idled()
	}
	st, err := s.find(f)
	if err != nil || st == nil {
		return err
	}
	switch f.kind {
	case kindData:
		s.g.idle.earn(min(1, float64(len(f.data))/earningData))
		wake, err := st.deliver(f.data)
		if wake {
			s.ready = append(s.ready, st)
		}
		return err
	case kindWindow:
		if err := st.grant(f.n); err != nil {
			return err
		}
		return s.idled()
	case kindReset:
		if f.n != resetUnset {
			st.lose(errCut, true)
			return s.taken(st)
		}
		s.refused(st)
		st.lose(errRefused, false) // what was answered before may be on its way to who reads
		return s.taken(st)
	case kindEnd:
		return st.peerEnds(false)
	}
	if err := st.peerEnds(true); err != nil {
		return err
	}
	return s.taken(st)
}

var errUnread = violates("what is sent to it isn't read")

func (s *Session) idled() error {
	s.g.earn(s.sent.Load())
	return s.g.idled()
}

// taken counts a stream that its opener takes back, if that was before we had said anything.
func (s *Session) taken(st *Stream) error {
	if s.c.Accept == nil || st.spoke.Load() || time.Since(st.born) > wasteAge {
		return nil
	}
	s.g.earn(s.sent.Load())
	return s.g.wasted()
}

// refused notes that the other side has no room for one more stream, unless it has served this one and only wants it no more.
func (s *Session) refused(st *Stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !st.heard {
		s.own.full = time.Now()
	}
}

// answers says whether whoever sent this can't count the stream as wasted any more.
func (f frame) answers() bool {
	return f.kind == kindData || f.kind == kindClose || f.kind == kindReset && f.n != resetUnset
}

// find gives the stream of a frame; nil if it is gone here already.
func (s *Session) find(f frame) (*Stream, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f.id > s.last {
		return nil, violates("a frame for a stream that wasn't opened")
	}
	st := s.streams[f.id]
	switch {
	case st != nil:
		if !st.heard && f.answers() {
			st.heard = true
			s.own.answered(f.kind == kindData)
		}
		return st, nil
	case f.kind == kindData:
		if s.stray -= int64(len(f.data)); s.stray < 0 {
			return nil, violates("more data than the windows for streams that are closed")
		}
		return nil, nil
	}
	return nil, s.idled()
}

// opened begins a stream, or refuses it.
func (s *Session) opened(id uint32) error {
	s.mu.Lock()
	switch {
	case s.c.Accept == nil:
		s.mu.Unlock()
		return violates("a stream opened by the side that accepts them")
	case s.left:
		s.mu.Unlock()
		return violates("a stream opened after it has left")
	case id <= s.last:
		s.mu.Unlock()
		return violates("a stream's number that was used before")
	}
	s.last = id
	s.turn++
	if len(s.streams) >= maxStreams {
		s.stray += firstWindow
		s.mu.Unlock()
		if !s.w.control(kindReset, id, resetUnset) {
			return errUnread
		}
		s.g.earn(s.sent.Load())
		return s.g.wasted()
	}
	st := s.addLocked(id)
	st.born = time.Now()
	s.mu.Unlock()
	s.c.Accept(st)
	return s.refusals()
}

// refusals counts streams that were refused here, of which nothing had been said.
func (s *Session) refusals() error {
	n := s.nones.Swap(0)
	if n > 0 {
		s.g.earn(s.sent.Load())
	}
	for range n {
		if err := s.g.wasted(); err != nil {
			return err
		}
	}
	return nil
}

// peerLeaves notes that no more streams can be opened. Where the accepting side says so again, it parts.
func (s *Session) peerLeaves() error {
	s.mu.Lock()
	again := s.left
	s.left = true
	s.over.Store(true)
	var unseen []*Stream
	if s.c.Accept == nil {
		s.leaveLocked()
		if again {
			unseen = slices.Collect(maps.Values(s.streams)) // also such as are closed from there: lose leaves them as they are
		}
	}
	s.mu.Unlock()
	for _, st := range unseen {
		st.lose(errRefused, false)
	}
	if !again && s.c.Left != nil {
		s.c.Left()
	}
	return s.idled()
}
