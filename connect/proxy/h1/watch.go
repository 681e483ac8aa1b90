// SPDX-License-Identifier: Apache-2.0

package h1

import (
	"context"
	"sync"
	"time"
)

// watchAfter is how long an exchange lasts before its connection is watched for a client that hangs up. Shorter ones,
// nearly all, cost a timer that never fires instead of a goroutine each.
const watchAfter = 10 * time.Millisecond

// Context is stream.ServerExchange's. It ends when the client is known to have closed its side, also only half of it,
// when the exchange is reset, and when the connection is over. While the client sends a body, ReadBody tells instead.
func (s *serverConn) Context() context.Context {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx == nil {
		s.ctx, s.cancel = context.WithCancelCause(s.base)
		if s.lost != nil {
			s.cancel(s.lost)
		}
	}
	if !s.watched {
		s.watched = true
		s.armLocked()
	}
	return s.ctx
}

// lose tells the context that the peer is gone.
func (s *serverConn) lose(why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.loseLocked(why)
}

func (s *serverConn) loseLocked(why error) {
	if s.lost == nil {
		s.lost = why
	}
	if s.cancel != nil {
		s.cancel(why)
	}
}

// armLocked has the watch begin later, where nothing else reads and the client hasn't sent its next request already.
func (s *serverConn) armLocked() {
	if !s.watched || !s.bodyDone || s.armed || s.lost != nil || s.rd.buffered() > 0 {
		return
	}
	s.armed = true
	if s.timer == nil {
		s.watchEnd = sync.NewCond(&s.mu)
		s.timer = time.AfterFunc(watchAfter, s.watch)
		return
	}
	s.timer.Reset(watchAfter)
}

// watch reads one byte. What comes is either the next request's first, which is kept, or the end of the connection; or the end of the wait, by
// stopWatch or by who ends the waits for the request's body, which says nothing of the client.
func (s *serverConn) watch() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.armed || s.watching {
		return
	}
	s.watching = true
	_ = s.conn.SetReadDeadline(time.Time{}) // stopWatch sets it under the same lock, later
	s.mu.Unlock()
	n, err := s.conn.Read(s.rd.one[:])
	s.mu.Lock()
	s.watching = false
	switch {
	case n > 0:
		s.armed = false
		s.rd.preload(s.rd.one[:n])
	case isTimeout(err):
		s.armed = false
	case err != nil:
		s.armed = false
		s.loseLocked(errGone)
	}
	s.watchEnd.Broadcast()
}

// stopWatch ends the watch and waits until it has let go of the reader.
func (s *serverConn) stopWatch() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.armed {
		s.armed = false
		s.timer.Stop()
	}
	for s.watching {
		_ = s.conn.SetReadDeadline(past)
		if s.watchEnd.Wait(); !s.watching {
			_ = s.conn.SetReadDeadline(time.Time{})
		}
	}
}
