// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/weftmesh/weft/connect/proxy/stream"
)

const (
	frameHeader   = 9
	flushAt       = 32 << 10 // bytes that wait before a body is written without a Flush
	waitAt        = 64 << 10 // bytes that wait before senders of bodies wait too
	vectoredFrom  = 4 << 10  // pieces of a body at least this long are written without a copy, where the connection can
	maxControl    = 1000     // frames that answer the peer and wait for it to read
	flushRounds   = 8        // writes that one stream's goroutine makes before another goroutine takes over
	minFrameSize  = 16 << 10
	maxDataFrame  = 16 << 10 // our DATA frames stay this small for fairness, whatever the peer takes
	maxKeptBuffer = 128 << 10
)

// writer is the way out of a connection: it gathers frames and writes them together.
type writer struct {
	nc       net.Conn
	vectored bool
	open     *atomic.Int32 // streams that are open
	until    time.Time     // the deadline that is set; of the goroutine that writes
	timeout  time.Duration
	fail     func(error)  // called, with mu held, when a write fails
	spawn    func(func()) // starts a goroutine that Run waits for

	mu       sync.Mutex
	room     sync.Cond // buf was taken by the goroutine that writes, or err is set
	buf      []byte
	box      *[]byte // what buf came in from the pool
	busy     bool    // some goroutine writes, and will take buf when it is done
	err      error
	appended uint64 // bytes ever put into buf
	started  uint64 // of these, bytes whose write has begun
	broken   bool   // one of these writes failed
	control  int    // answers in buf
	tail     int    // where the last frame begins in buf if it can still take END_STREAM, else -1
	tailOf   uint32
	maxFrame int // the peer's SETTINGS_MAX_FRAME_SIZE
	enc      *hpack.Encoder
	table    uint32 // how large the peer lets HPACK's table be, within ours
	block    bytes.Buffer
	names    interner // two, as a text may be a name in capitals here and a value there
	values   interner
	digits   [20]byte
	vec      [3][]byte
	bufs     net.Buffers
	head     [frameHeader]byte
}

func (w *writer) init(nc net.Conn, timeout time.Duration, open *atomic.Int32, fail func(error), spawn func(func())) {
	w.nc, w.timeout, w.open, w.fail, w.spawn = nc, timeout, open, fail, spawn
	switch nc.(type) {
	case *net.TCPConn, *net.UnixConn:
		w.vectored = true
	}
	w.room.L = &w.mu
	w.maxFrame = minFrameSize
	w.tail = -1
	w.enc, w.table = hpack.NewEncoder(&w.block), headerTable
}

// quiet says that nothing is being written, or waits for it.
func (w *writer) quiet() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err == nil && !w.busy && len(w.buf) == 0
}

// rests lets go of what only writing needs. HPACK's table goes too: the next head begins with telling the peer to empty its own.
func (w *writer) rests() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.enc, w.block, w.names, w.values = nil, bytes.Buffer{}, interner{}, interner{}
}

func (w *writer) goesOn() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.enc = hpack.NewEncoder(&w.block)
	w.enc.SetMaxDynamicTableSize(0)
	w.enc.SetMaxDynamicTableSize(w.table)
}

// frame begins a frame of n bytes in buf.
func (w *writer) frame(t http2.FrameType, flags http2.Flags, id uint32, n int) {
	if w.buf == nil {
		w.box = writeBuffers.Get().(*[]byte)
		w.buf = *w.box
	}
	w.tail = -1
	w.buf = appendHeader(w.buf, t, flags, id, n)
	w.appended += uint64(frameHeader + n)
}

func appendHeader(b []byte, t http2.FrameType, flags http2.Flags, id uint32, n int) []byte {
	return append(b, byte(n>>16), byte(n>>8), byte(n), byte(t), byte(flags), byte(id>>24), byte(id>>16), byte(id>>8), byte(id))
}

// simple appends a whole frame whose payload is short. It never waits and doesn't flush.
func (w *writer) simple(t http2.FrameType, flags http2.Flags, id uint32, payload []byte) {
	w.mu.Lock()
	w.simpleLocked(t, flags, id, payload)
	w.mu.Unlock()
}

func (w *writer) simpleLocked(t http2.FrameType, flags http2.Flags, id uint32, payload []byte) {
	if w.err != nil {
		return
	}
	w.frame(t, flags, id, len(payload))
	w.buf = append(w.buf, payload...)
}

// answer appends a frame that the peer provoked; false means that it doesn't read its answers.
func (w *writer) answer(t http2.FrameType, flags http2.Flags, id uint32, payload []byte) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.simpleLocked(t, flags, id, payload)
	w.control++
	return w.control <= maxControl
}

// settings appends a SETTINGS frame.
func (w *writer) settings(list ...http2.Setting) {
	p := make([]byte, 0, 6*len(list))
	for _, s := range list {
		p = binary.BigEndian.AppendUint16(p, uint16(s.ID))
		p = binary.BigEndian.AppendUint32(p, s.Val)
	}
	w.simple(http2.FrameSettings, 0, 0, p)
}

// preface appends the client's first bytes, in front of every frame.
func (w *writer) preface() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.box = writeBuffers.Get().(*[]byte)
	w.buf = append(*w.box, preface...)
	w.appended += uint64(len(preface))
}

func (w *writer) windowUpdate(id uint32, n int) {
	var p [4]byte
	binary.BigEndian.PutUint32(p[:], uint32(n))
	w.simple(http2.FrameWindowUpdate, 0, id, p[:])
}

// reset appends RST_STREAM unless nothing of the stream was written or all was; no frame of that stream follows.
func (w *writer) reset(e *exch, code stream.Code) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if e.id == 0 || e.cut {
		return
	}
	e.cut = true
	var p [4]byte
	binary.BigEndian.PutUint32(p[:], uint32(code))
	w.simpleLocked(http2.FrameRSTStream, 0, e.id, p[:])
}

func (w *writer) goAway(last uint32, code stream.Code, reason string) {
	p := make([]byte, 8, 8+len(reason))
	binary.BigEndian.PutUint32(p, last)
	binary.BigEndian.PutUint32(p[4:], uint32(code))
	w.simple(http2.FrameGoAway, 0, 0, append(p, reason...))
}

// data writes one DATA frame of e; the caller took n bytes of both windows. It waits while too much is unwritten.
func (w *writer) data(e *exch, p []byte) error {
	w.mu.Lock()
	for w.err == nil && !e.cut && len(w.buf) >= waitAt {
		if !w.busy {
			w.busy = true
			w.writeAll(nil, flushRounds)
			continue
		}
		w.room.Wait()
	}
	if err := w.stopped(e); err != nil {
		w.mu.Unlock()
		return err
	}
	if w.vectored && !w.busy && len(p) >= vectoredFrom {
		w.busy = true
		w.head = [frameHeader]byte(appendHeader(w.head[:0], http2.FrameData, 0, e.id, len(p)))
		w.appended += uint64(frameHeader + len(p))
		return w.writeAndUnlock(p)
	}
	w.frame(http2.FrameData, 0, e.id, len(p))
	w.tail, w.tailOf = len(w.buf)-frameHeader, e.id
	w.buf = append(w.buf, p...)
	if len(w.buf) < flushAt || w.busy {
		w.mu.Unlock()
		return nil
	}
	w.busy = true
	return w.writeAndUnlock(nil)
}

func (w *writer) stopped(e *exch) error {
	if w.err != nil {
		return w.err
	}
	if e.cut {
		return errCut
	}
	return nil
}

var errCut = errors.New("the stream was reset")

// end ends our direction of e: on its last frame if that still waits, else with an empty DATA frame.
func (w *writer) end(e *exch) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.stopped(e); err != nil {
		return err
	}
	if w.tail >= 0 && w.tailOf == e.id {
		w.buf[w.tail+4] |= byte(http2.FlagDataEndStream)
		w.tail = -1
		return nil
	}
	w.frame(http2.FrameData, http2.FlagDataEndStream, e.id, 0)
	return nil
}

// headers appends the encoded block as HEADERS and, where it is long, CONTINUATION frames.
func (w *writer) headers(id uint32, end bool) {
	b := w.block.Bytes()
	flags := http2.Flags(0)
	if end {
		flags = http2.FlagHeadersEndStream
	}
	t, whole := http2.FrameHeaders, len(b) <= w.maxFrame
	for {
		n := min(len(b), w.maxFrame)
		if n == len(b) {
			flags |= http2.FlagHeadersEndHeaders
		}
		w.frame(t, flags, id, n)
		at := len(w.buf) - frameHeader
		w.buf = append(w.buf, b[:n]...)
		if b = b[n:]; len(b) == 0 {
			if whole && !end {
				w.tail, w.tailOf = at, id
			}
			break
		}
		t, flags = http2.FrameContinuation, 0
	}
	w.block.Reset()
}

// flush writes what waits, unless another goroutine is at it and will take it along. That the connection has ended is no error to who has nothing
// waiting: it may have been answered already, and that by a server whose last request it was.
func (w *writer) flush() error {
	w.mu.Lock()
	if w.err != nil || w.busy || len(w.buf) == 0 {
		err := w.err
		if w.started == w.appended && !w.broken {
			err = nil
		}
		w.mu.Unlock()
		return err
	}
	w.busy = true
	if w.open.Load() > 1 { // others are about to send too: one write takes all of theirs along
		w.mu.Unlock()
		runtime.Gosched()
		w.mu.Lock()
	}
	return w.writeAndUnlock(nil)
}

// kick is flush for the reader: it never waits for the peer.
func (w *writer) kick() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil || w.busy || len(w.buf) == 0 {
		return
	}
	w.busy = true
	w.spawn(w.rest)
}

func (w *writer) rest() {
	w.mu.Lock()
	w.writeAll(nil, 1<<30)
	w.mu.Unlock()
}

// writeAndUnlock is writeAll for callers that hold mu and set busy; body is written after buf with the header in w.head.
func (w *writer) writeAndUnlock(body []byte) error {
	w.writeAll(body, flushRounds)
	err := w.err
	w.mu.Unlock()
	return err
}

// writeAll writes buf, and body, and what others add meanwhile; after some rounds another goroutine goes on with that.
// It is called with mu held and busy set by the caller.
func (w *writer) writeAll(body []byte, rounds int) {
	for ; w.err == nil && (len(w.buf) > 0 || body != nil); rounds-- {
		if rounds <= 0 {
			w.spawn(w.rest)
			return
		}
		out, box := w.buf, w.box
		w.buf, w.box, w.tail, w.control = nil, nil, -1, 0
		w.started = w.appended
		w.room.Broadcast()
		timeout := w.timeout
		w.mu.Unlock()
		err := w.write(out, body, timeout)
		body = nil
		if box != nil && cap(out) <= maxKeptBuffer {
			*box = out[:0]
			writeBuffers.Put(box)
		}
		w.mu.Lock()
		w.broken = w.broken || err != nil
		if err != nil && w.err == nil {
			w.err = fmt.Errorf("write: %w", err)
			w.fail(w.err)
		}
	}
	w.busy = false
	w.room.Broadcast()
}

func (w *writer) write(out, body []byte, timeout time.Duration) error {
	if timeout > 0 {
		if now := time.Now(); w.until.Sub(now) < timeout { // setting it costs more than asking the clock
			w.until = now.Add(timeout + timeout/2)
			if err := w.nc.SetWriteDeadline(w.until); err != nil {
				return err
			}
		}
	}
	if body == nil {
		_, err := w.nc.Write(out)
		return err
	}
	w.vec = [3][]byte{out, w.head[:], body}
	w.bufs = w.vec[:]
	if len(out) == 0 {
		w.bufs = w.vec[1:]
	}
	_, err := w.bufs.WriteTo(w.nc)
	w.vec = [3][]byte{}
	return err
}

// drain writes what waits, for at most d.
func (w *writer) drain(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timeout = 0
	if w.nc.SetWriteDeadline(time.Now().Add(d)) != nil {
		return
	}
	for w.err == nil && (w.busy || len(w.buf) > 0) {
		if w.busy {
			w.room.Wait()
			continue
		}
		w.busy = true
		w.writeAll(nil, flushRounds)
	}
}

// close makes every later write fail with err. Of what was appended, bytes from started on never reach the connection.
func (w *writer) close(err error) (started uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = err
	}
	w.buf, w.box = nil, nil
	w.room.Broadcast()
	return w.started
}
