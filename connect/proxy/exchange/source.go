// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weftmesh/weft/connect/proxy/header"
	"github.com/weftmesh/weft/connect/proxy/reason"
	"github.com/weftmesh/weft/connect/proxy/stream"
	"github.com/weftmesh/weft/internal/guard"
	"github.com/weftmesh/weft/internal/records"
)

// maxReplay is how much of a request's body is kept until the response begins, so that the request can be sent again.
const maxReplay = 64 << 10

// source is a request's body on its way to one try after the other.
type source struct {
	ex   *exchange
	x    stream.ServerExchange
	size int64 // as stated, -1 for unknown
	done chan struct{}
	run  func() // pump; made once
	room scratch

	keeping atomic.Bool // replay holds all that was read, and is still wanted
	copying bool        // a mirror wants what was read, also once the response has begun
	limit   int         // bytes of the body that are kept

	mu       sync.Mutex // held also while a piece is written to a try, so not to be taken where a response is awaited
	to       stream.ClientExchange
	replay   []byte
	read     int64
	ended    bool
	trailers *header.List
	running  bool
	told     bool // that the request was sent as a whole
}

// begin takes a request. A body that is small and wholly there already is read at once, so that it needs no goroutine.
func (s *source) begin(ex *exchange, x stream.ServerExchange, size int64) {
	s.ex, s.x, s.size = ex, x, size
	s.keeping.Store(true)
	s.limit = maxReplay
	if r := ex.route.Forward.Retry; r != nil && r.MaxBody > 0 {
		s.limit = r.MaxBody
	}
	s.to, s.replay, s.read, s.ended, s.trailers, s.running, s.told = nil, s.replay[:0], 0, size == 0, nil, false, false
	if s.done == nil {
		s.done = make(chan struct{}, 1)
	}
	if size != 0 && ex.d.multied {
		size = -1
		if w, ok := x.(whole); ok {
			if n, all := w.Whole(); all {
				size = int64(n)
			}
		}
	}
	if size < 0 || s.ended || int64(x.Buffered()) < size {
		return
	}
	s.gather(size)
}

// gather reads a body that is wholly there, if it is small.
func (s *source) gather(size int64) {
	if size > muchBody {
		return
	}
	x := s.x
	if int64(cap(s.replay)) < size {
		s.replay = make([]byte, 0, size)
	}
	for s.read < size {
		n, err := x.ReadBody(s.replay[s.read:size])
		if err != nil {
			return // read again, and reported, by the pump
		}
		s.read += int64(n)
		s.replay = s.replay[:s.read]
	}
	if _, err := x.ReadBody(s.room.small[:1]); err == io.EOF {
		s.ended = true
		s.trailers = x.Trailers()
	}
}

// whole is an exchange that knows whether its body is here with its end, and how long it is.
type whole interface {
	Whole() (int, bool)
}

// awaited is one that can wait for that, or for as much of it.
type awaited interface {
	Await(d time.Duration, most int) (int, bool)
}

func await(x stream.ServerExchange, d time.Duration, most int) (n int, all bool) {
	if a, ok := x.(awaited); ok {
		return a.Await(d, most)
	}
	return x.Buffered(), false
}

// muchBody is as much of a body as is read at once, where all of it is there.
const muchBody = smallBuffer * 8

// there says whether the request has come as a whole, or much of it, so that its client would take back something dear.
// Where it is being read, what is found is the other goroutine's.
func (s *source) there() bool {
	return s.ex.req.Upgrade == "" && (s.running || s.ended || s.x.Buffered() >= muchBody)
}

// comes waits for that as long as the next connection would be waited for. An upgrade never comes to it: its connection isn't used again.
func (s *source) comes() bool {
	if s.ex.req.Upgrade != "" {
		return false
	}
	n, all := await(s.x, makeEvery, muchBody)
	if _, plain := s.x.(whole); all && plain {
		s.gather(s.read + int64(n))
	}
	return all || n >= muchBody
}

// replayable says whether the request can be sent once more.
func (s *source) replayable() bool { return s.keeping.Load() }

var errSpent = errors.New("the request's body can't be sent again")

// attach sends the head and what was read of the body to a try, and has the rest go there.
func (s *source) attach(y stream.ClientExchange, h *stream.RequestHead) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.keeping.Load() {
		return errSpent
	}
	empty := s.ended && s.read == 0 && s.trailers == nil
	if err := y.WriteHead(h, empty); err != nil {
		return err
	}
	if len(s.replay) > 0 {
		if err := y.WriteBody(s.replay); err != nil {
			return err
		}
	}
	if s.ended {
		s.tellDone()
		if empty {
			return y.Flush()
		}
		return y.Finish(s.trailers)
	}
	s.to = y
	if !s.running {
		s.running = true
		if s.run == nil {
			s.run = s.pump
		}
		s.ex.e.workers.do(s.run)
	}
	return y.Flush()
}

// detach stops sending to the try that failed. It was reset before, so that nobody waits in it.
func (s *source) detach() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.to = nil
}

// committed forgets what was kept: the response has begun.
func (s *source) committed() { s.keeping.Store(false) }

func (s *source) pump() {
	defer func() { s.done <- struct{}{} }()
	for {
		p := s.room.get(s.x.Buffered())
		n, err := s.x.ReadBody(p)
		if n > 0 {
			s.ex.watch.touch()
			if !s.pass(p[:n]) {
				s.room.drop()
				return
			}
		}
		if err != nil {
			s.room.drop()
			s.over(err)
			return
		}
		s.room.settle(n, s.x)
	}
}

// pass sends a piece on, and keeps it where it may be wanted again. False: nobody wants more.
func (s *source) pass(p []byte) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.read += int64(len(p))
	if s.keeping.Load() || s.copying {
		if len(s.replay)+len(p) <= s.limit {
			s.replay = append(s.replay, p...)
		} else {
			s.keeping.Store(false)
			s.copying = false
		}
	}
	if !s.keeping.Load() && !s.copying && cap(s.replay) > smallBuffer*8 {
		s.replay = nil
	}
	if s.to != nil {
		err := s.to.WriteBody(p)
		if err == nil && s.read != s.size && s.x.Buffered() == 0 {
			err = s.to.Flush()
		}
		if err != nil {
			s.to = nil
		}
	}
	return s.to != nil || s.keeping.Load()
}

// over ends the body.
func (s *source) over(err error) {
	if err != io.EOF {
		cause := reason.DownstreamReset
		if errors.Is(err, stream.ErrMalformed) || errors.Is(err, stream.ErrTooLarge) {
			cause = reason.BadRequest
		}
		s.ex.watch.kill(cause)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended, s.trailers = true, s.x.Trailers()
	s.tellDone()
	if s.to != nil && s.to.Finish(s.trailers) != nil {
		s.to = nil
	}
}

// tellDone starts the route's timeout, once.
func (s *source) tellDone() {
	if !s.told {
		s.told = true
		s.ex.requestDone()
	}
}

// grace is how long a request's body may still go on after its response has ended.
const grace = 20 * time.Millisecond

// idle says whether the whole request has been passed on, or nobody passes it on any more.
func (s *source) idle() bool {
	if s.running {
		select {
		case <-s.done:
			s.running = false
		default:
		}
	}
	return !s.running
}

// stop ends the pump: regularly where the body ends by itself in a moment; else y and the reading are cut.
func (s *source) stop(y stream.ClientExchange, finished bool) {
	if s.idle() {
		return
	}
	s.running = false
	if finished {
		wait := time.NewTimer(grace)
		defer wait.Stop()
		select {
		case <-s.done:
			return
		case <-wait.C:
		}
	}
	if y != nil && !guard.Off("C58") {
		y.Reset(stream.CodeCancel)
	}
	s.ex.interrupt(finished)
	<-s.done
}

const (
	smallBuffer = 2 << 10
	bigBuffer   = records.Batch
)

var bigBuffers = sync.Pool{New: func() any { return new([bigBuffer]byte) }}

// scratch is room for one direction's pieces: little while nothing is there, more while much comes.
type scratch struct {
	small [smallBuffer]byte
	big   *[bigBuffer]byte
}

func (s *scratch) get(buffered int) []byte {
	if s.big == nil && buffered > smallBuffer {
		s.big = bigBuffers.Get().(*[bigBuffer]byte)
	}
	if s.big != nil {
		return s.big[:]
	}
	return s.small[:]
}

// settle grows after a read of n that filled what there was, and shrinks before a wait.
func (s *scratch) settle(n int, from stream.Body) {
	switch {
	case s.big == nil && n == smallBuffer:
		s.big = bigBuffers.Get().(*[bigBuffer]byte)
	case s.big != nil && n < smallBuffer && from.Buffered() == 0:
		s.drop()
	}
}

func (s *scratch) drop() {
	if s.big != nil {
		bigBuffers.Put(s.big)
		s.big = nil
	}
}
