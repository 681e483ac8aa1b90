// SPDX-License-Identifier: Apache-2.0

package h1

import (
	"bytes"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/weftmesh/weft/internal/guard"
	"github.com/weftmesh/weft/internal/nowait"
	"github.com/weftmesh/weft/internal/records"
)

// readSize is one read buffer: room for a usual head. Larger heads get a larger one; bodies pass it by.
const readSize = 4 << 10

// readRooms are the sizes of buffers that are used again, the last one for a head at its usual limit. Who sends one long head after the other, each of
// which is refused, would have 100 MB of garbage made a second.
var (
	readRooms = [...]int{readSize, 16 << 10, 32 << 10, 64<<10 + readSize}
	readPools [len(readRooms)]sync.Pool // of *[]byte
)

// readRoom gives a buffer of at least so many bytes, and what it goes back by; nil: it doesn't.
func readRoom(least int) (buf []byte, back *[]byte) {
	for i, size := range readRooms {
		if size < least {
			continue
		}
		b, ok := readPools[i].Get().(*[]byte)
		if !ok {
			b = new([]byte)
			*b = make([]byte, size)
		}
		return *b, b
	}
	return make([]byte, least), nil
}

func readRoomBack(b *[]byte) {
	if b != nil {
		readPools[slices.Index(readRooms[:], len(*b))].Put(b)
	}
}

// reader is the read side of a connection: a buffer that is borrowed when bytes are there and given back when it is
// empty.
type reader struct {
	conn net.Conn
	buf  []byte  // the borrowed buffer, nil while there is none
	back *[]byte // what it is given back by
	r, w int     // the unread bytes are buf[r:w]
	got  int64   // bytes that were read of the connection

	headTimeout time.Duration // from the first wait inside a head to its end; 0: none
	heads       *Heads        // of requests' heads; nil: they aren't bounded
	headBytes   int64         // what of it this one has

	awaits interface{ Await() error } // a connection that can be waited for without a buffer
	eof    bool                       // the end came together with the last bytes
	one    [1]byte                    // what a waiting connection reads into
	raw    syscall.RawConn            // of a plain socket, which can wait without a buffer and read in the same call
	try    func(fd uintptr) bool
	tryN   int
	tryErr syscall.Errno

	socket *nowait.Socket // of a plain socket, once a body was read past the buffer
	under  *records.Conn  // of a TLS connection: by it several records are read by one call
}

func (r *reader) init(conn net.Conn) {
	r.conn, r.under = conn, records.Of(conn)
	r.awaits, _ = conn.(interface{ Await() error })
	r.initRaw()
}

func (r *reader) buffered() int { return r.w - r.r }

func (r *reader) borrow() {
	if r.buf == nil {
		r.buf, r.back = readRoom(readSize)
	}
}

// release gives the buffer back where nothing is left in it.
func (r *reader) release() {
	if r.r != r.w {
		return
	}
	readRoomBack(r.back)
	r.r, r.w, r.buf, r.back = 0, 0, nil, nil
}

// preload puts bytes that were read before in front.
func (r *reader) preload(p []byte) {
	if len(p) == 0 {
		return
	}
	if r.w == 0 && len(p) <= readSize {
		r.borrow()
		r.w = copy(r.buf, p)
		return
	}
	buf := make([]byte, len(p)+r.buffered())
	n := copy(buf, p)
	n += copy(buf[n:], r.buf[r.r:r.w])
	r.r = r.w
	r.release()
	r.buf, r.w = buf, n
}

// wait blocks until bytes have arrived and reads some of them; it holds no buffer meanwhile. Nothing may be buffered.
func (r *reader) wait() error {
	r.release()
	if r.raw != nil {
		return r.waitRaw()
	}
	if r.awaits != nil {
		if err := r.awaits.Await(); err != nil {
			return err
		}
		return r.fill()
	}
	for {
		n, err := r.conn.Read(r.one[:])
		if n == 1 {
			r.borrow()
			r.buf[0], r.w = r.one[0], 1
			r.got++
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// fill reads once more into the buffer, which grows where it is full.
func (r *reader) fill() error {
	r.borrow()
	if r.r == r.w {
		r.r, r.w = 0, 0
	}
	if r.w == len(r.buf) {
		r.makeRoom()
	}
	for {
		n, err := r.conn.Read(r.buf[r.w:])
		r.w += n
		r.got += int64(n)
		if n > 0 {
			r.eof = r.eof || errors.Is(err, io.EOF)
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (r *reader) makeRoom() {
	if r.r > 0 {
		r.w = copy(r.buf, r.buf[r.r:r.w])
		r.r = 0
		return
	}
	buf, back := readRoom(2 * len(r.buf))
	copy(buf, r.buf)
	readRoomBack(r.back)
	r.buf, r.back = buf, back
}

// readInto reads past the buffer.
func (r *reader) readInto(p []byte) (int, error) {
	if r.raw == nil {
		return records.Read(r.conn, r.under, p)
	}
	if r.socket == nil {
		if r.socket = nowait.Of(r.conn); r.socket == nil {
			return r.conn.Read(p)
		}
	}
	return r.socket.Read(p)
}

// read gives buffered bytes, else reads into p with no copy where p is large enough to be worth it.
func (r *reader) read(p []byte, direct int) (int, error) {
	if r.r == r.w {
		if len(p) >= direct {
			r.release()
			for {
				n, err := r.readInto(p)
				if n > 0 {
					r.got += int64(n)
					r.eof = r.eof || errors.Is(err, io.EOF)
					return n, nil
				}
				if err != nil {
					return 0, err
				}
			}
		}
		if err := r.fill(); err != nil {
			return 0, err
		}
	}
	n := copy(p, r.buf[r.r:r.w])
	r.r += n
	return n, nil
}

var (
	errBareLF    = malformed("a line ends in a bare LF, not in CRLF")
	errHeadSlow  = refused(408, "the head did not arrive in time")
	errTargetBig = tooLarge(414, "the first line is longer than a whole head may be")
	errHeadBig   = tooLarge(431, "the head is longer than its limit")
)

// section reads lines up to an empty one and gives them, with their CRLF but without the empty line, as one string.
// With first, there has to be a line before the empty one, and one empty line ahead of it is passed over
// (RFC 9112 §2.2). The bytes are taken out of the buffer.
func (r *reader) section(limit int, first bool) (string, error) {
	s, err := r.lines(limit, first)
	r.waited()
	return s, err
}

func (r *reader) lines(limit int, first bool) (string, error) {
	line, pos := 0, 0 // of the line being looked at, and what has been looked at, from r.r on
	skipped, slow := false, false
	for {
		i := bytes.IndexByte(r.buf[r.r+pos:r.w], '\n')
		if i < 0 {
			pos = r.w - r.r
			if pos > limit {
				return "", tooBig(line)
			}
			if r.w == len(r.buf) { // now, so that what is held is what is counted
				r.makeRoom()
			}
			if first && !r.waits() && !r.here() {
				return "", errHeads
			}
			if !slow && r.headTimeout > 0 && !guard.Off("C69") {
				slow = true
				_ = r.conn.SetReadDeadline(time.Now().Add(r.headTimeout))
			}
			if err := r.fill(); err != nil {
				return "", r.cutShort(err)
			}
			continue
		}
		end := pos + i
		if end == line || r.buf[r.r+end-1] != '\r' {
			return "", errBareLF
		}
		if end+1 > limit+2 {
			return "", tooBig(line)
		}
		if end-1 > line {
			line, pos = end+1, end+1
			continue
		}
		if line > 0 || !first {
			s := string(r.buf[r.r : r.r+line])
			r.r += end + 1
			return s, nil
		}
		if skipped {
			return "", malformed("empty lines where a message should begin")
		}
		skipped = true
		r.r += 2
		pos = 0
	}
}

func tooBig(line int) error {
	if line == 0 {
		return errTargetBig
	}
	return errHeadBig
}

func (r *reader) cutShort(err error) error {
	if errors.Is(err, io.EOF) {
		return truncated("the head")
	}
	if r.headTimeout > 0 && isTimeout(err) {
		return errHeadSlow
	}
	return err
}

// line reads one line of at most limit bytes and takes it out of the buffer, without its CRLF. The result is valid until
// the next call.
func (r *reader) line(limit int) ([]byte, error) {
	pos := 0
	for {
		if i := bytes.IndexByte(r.buf[r.r+pos:r.w], '\n'); i >= 0 {
			end, next := pos+i, pos+i+1
			if end == 0 || r.buf[r.r+end-1] != '\r' {
				if !guard.Off("C46") {
					return nil, errBareLF
				}
				end++
			}
			if end-1 > limit {
				return nil, errLineBig
			}
			l := r.buf[r.r : r.r+end-1]
			r.r += next
			return l, nil
		}
		if pos = r.w - r.r; pos > limit+1 {
			return nil, errLineBig
		}
		if err := r.fill(); err != nil {
			return nil, err
		}
	}
}

var errLineBig = tooLarge(400, "a chunk's size line is longer than its limit")
