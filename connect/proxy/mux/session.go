// SPDX-License-Identifier: Apache-2.0

package mux

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weftmesh/weft/connect/proxy/calm"
)

// Config is how a Session behaves. The zero value is the opener's, with the defaults beside each field.
type Config struct {
	// Accept is called by the reader for each stream that the other side opens, and mustn't block; nil on the opener's side, to which nobody
	// opens any.
	Accept func(*Stream)
	// Left is called when no stream can be opened any more, as the other side leaves or is silent; it mustn't block.
	Left func()
	// Silence is how long the other side may take to answer when a stream is opened, or cut here: 5 s. After that the opener leaves.
	Silence time.Duration
	// Idle is how long the accepting side keeps a connection without a stream: 1 h. Leaving is the same when it leaves: 5 s.
	Idle, Leaving time.Duration
	// Held bounds what waits to be read on all sessions that have it, or another share of the same; nil: on each alone.
	Held *Held
	// Yield gives the processor to all others that are ready, or have got something from the network, and returns then; the accepting side calls it
	// where many streams are opened at once. Default: runtime.Gosched, which doesn't look at the network.
	Yield func()
	// Refusals is what a peer waits in that breaks the protocol or asks for too much, before the connection ends; nil: it doesn't wait.
	Refusals *calm.Queue
}

var (
	// ErrGone is given by Open where the connection is over or on its way out: another has to be made.
	ErrGone = errors.New("mux: the connection takes no more streams")
	// ErrFull is given by Open where it has as many streams as it may, or as many were taken back of late.
	ErrFull = errors.New("mux: the connection has as many streams as it may")
)

// Session is a connection that carries others.
type Session struct {
	nc    net.Conn
	c     Config
	w     writer
	in    input
	g     guards        // the reader's
	turn  int           // the reader's: streams that were opened since it has let others have theirs
	ready []*Stream     // the reader's: whom to wake before it waits
	open  atomic.Int32  // streams
	sent  atomic.Uint64 // data frames
	heard atomic.Uint64 // reads
	nones atomic.Int64  // streams that were refused here since the reader's last look
	held  atomic.Int64  // memory in which bytes wait to be read
	over  atomic.Bool   // no more streams can be opened; set under mu
	work  sync.WaitGroup

	mu      sync.Mutex // guards what follows
	streams map[uint32]*Stream
	last    uint32 // stream that was opened
	stray   int64  // bytes that may still come for streams that are gone here
	err     error  // why it is over
	broken  error  // why nothing can be written any more
	halted  bool   // nothing more is to be read
	done    bool   // it is closed as nothing is left of it
	leaves  bool   // we said so
	left    bool   // the other side said so
	asked   *time.Timer
	idle    time.Time // the opener's: since when there is no stream
	own     thrift    // the opener's
}

// New makes a Session of a connection on which nothing was sent yet but a handshake. It does nothing; Run has to be called.
func New(nc net.Conn, c Config) *Session {
	for _, d := range []struct {
		d *time.Duration
		v time.Duration
	}{{&c.Silence, 5 * time.Second}, {&c.Idle, time.Hour}, {&c.Leaving, 5 * time.Second}} {
		if *d.d == 0 {
			*d.d = d.v
		}
	}
	if c.Yield == nil {
		c.Yield = runtime.Gosched
	}
	if c.Held == nil {
		c.Held = new(Held)
	}
	s := &Session{nc: nc, c: c, streams: map[uint32]*Stream{}, g: newGuards(), own: newThrift(), idle: time.Now()}
	s.w.init(nc, &s.open, &s.heard, s.unwritable, s.work.Go)
	return s
}

// Conn is the connection.
func (s *Session) Conn() net.Conn { return s.nc }

// Run reads until the connection is over, and has closed it then, and all streams. It gives nil where that was in order. The end of ctx
// closes it at once, but for a last word (see part).
func (s *Session) Run(ctx context.Context) error {
	defer context.AfterFunc(ctx, func() { s.halt(context.Cause(ctx)) })()
	if s.c.Accept != nil {
		s.mu.Lock()
		s.restLocked()
		s.mu.Unlock()
	}
	s.in.begin(s.nc)
	err := s.read(ctx)
	s.in.end()
	if bad := new(ProtocolError); errors.As(err, &bad) {
		s.c.Refusals.Wait(ctx, refusalCost)
	}
	s.mu.Lock()
	ended := errors.Is(err, io.EOF) || errors.Is(err, os.ErrDeadlineExceeded)
	parts := s.c.Accept != nil && errors.Is(err, os.ErrDeadlineExceeded) && s.broken == nil && len(s.streams) == 0
	switch {
	case s.done || ended && (s.broken == nil || s.left) && len(s.streams) == 0:
		err = ErrGone // in order: what the opener didn't wait for was that a stream is closed which it had closed
	case ended && s.broken != nil:
		err = s.broken
	}
	s.mu.Unlock()
	if parts {
		s.part()
	}
	s.fail(err)
	s.work.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	if errors.Is(s.err, ErrGone) {
		return nil
	}
	return s.err
}

// halt ends it as Run's context has ended: by the reader, where it can part.
func (s *Session) halt(err error) {
	s.mu.Lock()
	s.halted = s.c.Accept != nil && len(s.streams) == 0 && s.broken == nil && s.err == nil
	if s.halted {
		_ = s.nc.SetReadDeadline(time.Now()) // if it fails, the reader has
		s.mu.Unlock()
		return
	}
	s.mu.Unlock()
	s.fail(err)
}

// part is the accepting side's last word, where its opener doesn't close the connection in time. No stream is left here, and nothing is read any
// more: so a stream that its opener has, and that wasn't closed from here, is one that nobody looked at. An opener that stood still may have opened some.
func (s *Session) part() {
	defer time.AfterFunc(lastWords, s.Close).Stop() // if it can't be said
	s.mu.Lock()
	s.leaveLocked()
	s.mu.Unlock()
	s.w.control(kindLeave, 0, 0)
	s.w.last()
}

// fail ends the connection and all streams.
func (s *Session) fail(err error) {
	s.mu.Lock()
	if s.err != nil {
		s.mu.Unlock()
		return
	}
	s.err = err
	s.over.Store(true)
	if s.asked != nil {
		s.asked.Stop()
	}
	all := make([]*Stream, 0, len(s.streams))
	for _, st := range s.streams {
		all = append(all, st)
	}
	s.mu.Unlock()
	s.w.stop(err)
	_ = s.nc.Close() // it is over
	for _, st := range all {
		st.lose(fmt.Errorf("%w: %w", errLost, err), false)
	}
}

// unwritable is called when a write has failed. The other side may have said why before it closed, so the reader has a moment to find that.
func (s *Session) unwritable(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.broken = err
	s.over.Store(true)
	s.w.stop(err)
	_ = s.nc.SetReadDeadline(time.Now().Add(lastWords))
}

const lastWords = 200 * time.Millisecond

// Close ends the connection at once.
func (s *Session) Close() { s.fail(net.ErrClosed) }

// Open opens a stream.
func (s *Session) Open() (*Stream, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.err != nil:
		return nil, fmt.Errorf("%w: %w", ErrGone, s.err)
	case s.broken != nil || s.leaves || s.left || s.last == 1<<32-1:
		return nil, ErrGone
	case len(s.streams) >= mostOpened:
		return nil, ErrFull
	case !s.own.allows(s.heard.Load()):
		s.askLocked() // the answer is what it recovers by
		s.w.kick()
		return nil, ErrFull
	}
	s.last++
	st := s.addLocked(s.last)
	s.w.control(kindOpen, st.id, 0)
	s.askLocked()
	s.w.kick()
	return st, nil
}

// askLocked finds out whether the other side is there.
func (s *Session) askLocked() {
	if s.asked != nil {
		return
	}
	s.w.control(kindPing, 0, 0)
	heard := s.heard.Load()
	s.asked = time.AfterFunc(s.c.Silence, func() { s.silent(heard) })
}

// silent leaves if nothing has come since it was asked for: whoever wants one more makes a connection, or finds that none can be made. What
// is under way has its own times.
func (s *Session) silent(since uint64) {
	s.mu.Lock()
	s.asked = nil
	gone := s.heard.Load() == since
	if gone {
		s.leaveLocked()
	}
	s.mu.Unlock()
	if gone && s.c.Left != nil {
		s.c.Left()
	}
}

func (s *Session) addLocked(id uint32) *Stream {
	st := newStream(s, id)
	s.streams[id] = st
	s.own.unheard++
	s.open.Store(int32(len(s.streams)))
	return st
}

// Leave has no more streams opened: those that are open go on, and then the connection ends.
func (s *Session) Leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leaveLocked()
}

func (s *Session) leaveLocked() {
	if s.leaves || s.err != nil {
		return
	}
	s.leaves = true
	s.over.Store(true)
	s.w.control(kindLeave, 0, 0)
	s.w.kick()
	if len(s.streams) == 0 {
		s.emptyLocked()
	}
}

// emptyLocked is called when there is no stream.
func (s *Session) emptyLocked() {
	switch {
	case s.c.Accept != nil:
		s.restLocked()
	case s.leaves:
		s.done = true
		s.w.finish()
	default:
		s.idle = time.Now()
	}
}

// restLocked bounds how long the accepting side waits for a stream, unless that is settled.
func (s *Session) restLocked() {
	if s.broken != nil || s.halted {
		return
	}
	wait := s.c.Idle
	if s.leaves {
		wait = s.c.Leaving
	}
	_ = s.nc.SetReadDeadline(time.Now().Add(wait))
}

// Leaving says whether no more streams can be opened.
func (s *Session) Leaving() bool { return s.over.Load() }

// IdleSince says since when the opener has had no stream; false if it has one.
func (s *Session) IdleSince() (time.Time, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.idle, len(s.streams) == 0
}

// forget lets go of a stream that is closed here. The other side may not know yet, and send as much as its window was. cut: it was none too well.
func (s *Session) forget(st *Stream, room int64, cut bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.streams[st.id] != st {
		return
	}
	delete(s.streams, st.id)
	if !st.heard {
		s.own.lost(s.heard.Load())
	}
	s.open.Store(int32(len(s.streams)))
	s.stray += room
	if cut && s.c.Accept == nil && s.err == nil && !s.leaves {
		s.askLocked()
	}
	if len(s.streams) == 0 {
		s.emptyLocked()
	}
}

// read takes frames until the connection ends.
func (s *Session) read(ctx context.Context) error {
	var d decoder
	for {
		f, n, err := d.next(s.in.unread())
		if err != nil {
			return err
		}
		s.in.take(n)
		if f.kind != kindNone {
			if err := s.handle(f); err != nil {
				return err
			}
			if s.g.owes() || s.turn >= turnLength { // hundreds of streams may be in one read
				s.pause(ctx)
				s.c.Yield()
			}
			continue
		}
		if n > 0 {
			continue
		}
		s.pause(ctx)
		if err := s.in.fill(); err != nil && !s.goesOn(err) {
			return err
		}
		s.heard.Add(1)
	}
}

// pause ends the reader's turn: it tells everybody what came for them, and rests for as long as is owed.
func (s *Session) pause(ctx context.Context) {
	s.turn = 0
	s.wake()
	s.w.kick()
	s.g.rest(ctx)
}

// goesOn says whether to read on after an error: a deadline was for a connection without a stream.
func (s *Session) goesOn(err error) bool {
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.streams) == 0 || s.broken != nil || s.halted {
		return false
	}
	_ = s.nc.SetReadDeadline(time.Time{})
	return true
}

// wake tells the owners of streams what has come.
func (s *Session) wake() {
	for i, st := range s.ready {
		s.ready[i] = nil
		st.wake()
	}
	s.ready = s.ready[:0]
}
