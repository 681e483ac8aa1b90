// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"errors"
	"sync/atomic"
	"time"
)

// Rest is given by Server.Run for a connection on which nothing moves: it is open, no stream is, all that could be given back is, and nothing
// of it has been read that wasn't served. Run may be called again at any time, the sooner after something has come, and at Until at the latest.
type Rest struct {
	Until time.Time // when it may have been idle for as long as it may; zero for never
}

func (*Rest) Error() string { return "the connection rests" }

// errRests is what the reader ends with.
var errRests = errors.New("nothing moves")

// resting is what a server needs to notice that nothing moves. The one who looks ends the reader's wait by a deadline; the reader decides,
// since it alone knows whether it is between two frames.
type resting struct {
	restAfter time.Duration // 0: it doesn't rest
	waiting   atomic.Bool   // the reader waits between two frames

	// Guarded by conn.mu.
	rester *time.Timer // nil between two turns of Run
	seen   uint64      // frames, at the last look
	asked  bool        // the reader's deadline is to have it rest
	asleep bool        // it rests
}

// await waits for the first bytes of a frame.
func (c *conn) await() error {
	s := c.role.(*Server) // a client has no late
	s.waiting.Store(true)
	err := c.br.fill()
	s.waiting.Store(false)
	if err != nil && s.isAsleep() {
		return errRests
	}
	return err
}

func (s *Server) isAsleep() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asleep
}

// emptyLocked says whether nothing is under way.
func (s *Server) emptyLocked() bool {
	return s.stopErr == nil && len(s.streams) == 0 && s.handlers == 0 && !s.draining && !s.drainFirst
}

func (s *Server) lookForRest() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.rester == nil || s.stopErr != nil {
		return
	}
	now := s.frames.Load()
	quiet := now == s.seen && now > 0
	s.seen = now
	if quiet && s.waiting.Load() && s.emptyLocked() {
		s.asked = true
		_ = s.nc.SetReadDeadline(longAgo)
	}
	s.rester.Reset(s.restAfter)
}

// late is called by the reader when a deadline has ended its wait; it says whether to wait again.
func (s *Server) late() bool {
	rests := s.waiting.Load() && s.w.quiet() // without a stream nobody else begins to write, unless it drains
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.asked || s.stopErr != nil {
		return false
	}
	s.asked = false
	if rests && s.emptyLocked() {
		s.asleep = true
		return false
	}
	_ = s.nc.SetReadDeadline(s.until)
	return true
}

// letGo gives back what a resting connection doesn't need. HPACK's table for what comes is the peer's, and stays.
func (s *Server) letGo() *Rest {
	s.wg.Wait() // whoever has served or written is about to end
	s.br.drop()
	s.fr, s.block, s.fresh, s.woken = nil, nil, nil, nil
	s.in = headIn{lim: s.in.lim, dec: s.in.dec}
	s.w.rests()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.streams, s.ctx = nil, nil
	r := &Rest{}
	if s.idle > 0 {
		r.Until = s.idleAt
	}
	return r
}

// rested says whether the connection has rested, which is over.
func (s *Server) rested() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.asleep {
		return false
	}
	s.streams = map[uint32]*exch{}
	return true
}

// goOn is what hello is after a rest.
func (s *Server) goOn() error {
	s.br.begin(s.nc)
	s.startFramer()
	s.w.goesOn()
	s.readBy(time.Time{})
	s.mu.Lock()
	s.asleep = false
	drain := s.drainFirst
	s.mu.Unlock()
	s.startTimers()
	if drain {
		s.Drain()
	}
	return nil
}
