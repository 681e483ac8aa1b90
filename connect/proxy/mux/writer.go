// SPDX-License-Identifier: Apache-2.0

package mux

import (
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weftmesh/weft/internal/records"
)

const (
	waitAt       = 64 << 10         // bytes that wait before senders wait too
	flushRounds  = 8                // writes that one stream's goroutine makes before Run's own goes on with them
	writeTimeout = 10 * time.Second // the other side reads always
	surelyTaken  = 64 << 10         // bytes since something was heard that a socket takes though the other side has stopped
	maxKept      = 128 << 10
)

var writeBuffers = sync.Pool{New: func() any { return new([]byte) }}

// writer is the way out: it gathers frames and writes them together.
type writer struct {
	nc    net.Conn
	under *records.Conn // nil where several records can't go by one call
	open  *atomic.Int32 // streams
	heard *atomic.Uint64
	fail  func(error)  // called, without mu, when a write fails; it calls stop
	spawn func(func()) // starts a goroutine that Run waits for
	until time.Time    // the deadline that is set; of who writes

	mu       sync.Mutex
	room     sync.Cond // buf was taken by who writes, or err is set, or a stream was closed
	buf      []byte
	box      *[]byte // what buf came in from the pool
	busy     bool    // somebody writes, and takes buf when it is done
	at       uint64  // heard, when
	since    int     // so much had been written
	finished bool    // the connection is closed when all is written
	err      error
}

func (w *writer) init(nc net.Conn, open *atomic.Int32, heard *atomic.Uint64, fail func(error), spawn func(func())) {
	w.nc, w.under, w.open, w.heard, w.fail, w.spawn = nc, records.Of(nc), open, heard, fail, spawn
	w.room.L = &w.mu
}

func (w *writer) appendLocked(k kind, id, n uint32, p []byte) {
	if w.buf == nil {
		w.box = writeBuffers.Get().(*[]byte)
		w.buf = (*w.box)[:0]
	}
	w.buf = appendFrame(w.buf, k, id, n, p)
}

// control appends a frame without data. It never waits, and false means that the peer doesn't read.
func (w *writer) control(k kind, id, n uint32) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.appendLocked(k, id, n, nil)
	}
	return len(w.buf) <= waitAt+maxData+maxUnread
}

// data appends a piece of a stream's data. It waits while too much is unwritten. over says that the stream is closed, which is asked where its close
// can't come between: nothing may follow that.
func (w *writer) data(id uint32, p []byte, over func() bool) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.err == nil && !over() && len(w.buf) >= waitAt {
		if w.busy {
			w.room.Wait()
			continue
		}
		w.busy = true
		w.writeOrSpawn()
	}
	switch {
	case w.err != nil:
		return w.err
	case over():
		return net.ErrClosed
	}
	w.appendLocked(kindData, id, 0, p)
	return nil
}

// flush writes what waits, unless somebody is at it and takes it along.
func (w *writer) flush() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil || w.busy || len(w.buf) == 0 {
		return w.err
	}
	w.busy = true
	if w.open.Load() > 1 { // others are about to send too: one write takes all of theirs along
		w.mu.Unlock()
		runtime.Gosched()
		w.mu.Lock()
	}
	w.writeOrSpawn()
	return w.err
}

// writeOrSpawn is writeAll for a stream's goroutine. A write can't be called off where its request is: so one that may have to wait for the other side
// is another goroutine's.
func (w *writer) writeOrSpawn() {
	if w.err == nil && w.mayWait() {
		w.spawn(w.rest)
		return
	}
	w.writeAll(flushRounds)
}

func (w *writer) mayWait() bool {
	if heard := w.heard.Load(); heard != w.at {
		w.at, w.since = heard, 0
	}
	return w.since+len(w.buf) > surelyTaken
}

// kick is flush for who mustn't wait for the peer.
func (w *writer) kick() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil && !w.busy && len(w.buf) > 0 {
		w.busy = true
		w.spawn(w.rest)
	}
}

// last writes what waits, or waits until somebody has. Nothing may be added any more.
func (w *writer) last() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.busy {
		w.room.Wait()
	}
	if w.err == nil && len(w.buf) > 0 {
		w.busy = true
		w.writeAll(allRounds)
	}
}

func (w *writer) rest() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.writeAll(allRounds)
}

const allRounds = 1 << 30

// writeAll writes buf, and what others add meanwhile; after some rounds another goroutine goes on. It is called with mu held and busy set.
func (w *writer) writeAll(rounds int) {
	for first := rounds; w.err == nil && len(w.buf) > 0; rounds-- {
		if rounds <= 0 || rounds < first && first != allRounds && w.mayWait() {
			w.spawn(w.rest)
			return
		}
		out, box := w.buf, w.box
		w.buf, w.box = nil, nil
		w.since += len(out)
		w.room.Broadcast()
		w.mu.Unlock()
		err := w.write(out)
		if cap(out) <= maxKept {
			*box = out[:0]
			writeBuffers.Put(box)
		}
		if err != nil {
			w.fail(err)
		}
		w.mu.Lock()
	}
	w.busy = false
	w.room.Broadcast()
	w.closeLocked()
}

// write writes by one call where it can.
func (w *writer) write(out []byte) error {
	if now := time.Now(); w.until.Sub(now) < writeTimeout { // setting it costs more than asking the clock
		w.until = now.Add(writeTimeout + writeTimeout/2)
		if err := w.nc.SetWriteDeadline(w.until); err != nil {
			return err
		}
	}
	_, err := records.Write(w.nc, w.under, out)
	return err
}

// finish closes the connection when all is written.
func (w *writer) finish() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.finished = true
	w.closeLocked()
}

func (w *writer) closeLocked() {
	if w.finished && !w.busy && len(w.buf) == 0 && w.err == nil {
		w.err = ErrGone
		w.spawn(func() { _ = w.nc.Close() }) // it tells the peer, which may take a moment
	}
}

// stop makes every later write fail.
func (w *writer) stop(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = err
	}
	w.buf, w.box = nil, nil
	w.room.Broadcast()
}

// nudge has senders that wait look whether their streams are closed.
func (w *writer) nudge() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.room.Broadcast()
}
