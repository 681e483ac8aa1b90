// SPDX-License-Identifier: Apache-2.0

package h1

import (
	"net"
	"strconv"
	"sync"

	"github.com/weftmesh/weft/connect/proxy/header"
	"github.com/weftmesh/weft/connect/proxy/normalize"
	"github.com/weftmesh/weft/connect/proxy/stream"
	"github.com/weftmesh/weft/internal/guard"
	"github.com/weftmesh/weft/internal/nowait"
	"github.com/weftmesh/weft/internal/records"
)

// writeSize is one write buffer: a head and the first bytes of a body, and as much as one TLS record holds.
const writeSize = 16 << 10

var writePool = sync.Pool{New: func() any { return new([writeSize]byte) }}

// writer is the write side of a connection. The buffer is borrowed with the first byte and given back by flush.
type writer struct {
	conn     net.Conn
	socket   *nowait.Socket // of a plain connection
	under    *records.Conn  // of a TLS connection: by it several records are written by one call
	gathers  bool           // the connection writes several slices with one call
	arr      *[writeSize]byte
	buf      []byte
	slices   [3][]byte
	gathered net.Buffers
	sent     int64 // bytes that the connection took
	err      error

	kind    bodyKind // of the message being written
	left    int64    // of a stated length
	started bool     // the final head is written
	ended   bool
	muted   bool // the message has no body, whatever the caller writes (HEAD, 304, ...)
}

func (w *writer) init(conn net.Conn) {
	w.conn, w.under = conn, records.Of(conn)
	switch s := socketOf(conn).(type) {
	case *net.TCPConn, *net.UnixConn:
		w.conn, w.gathers = s, true // net.Buffers is written with one call to a socket alone
		w.socket = nowait.Of(s)
	}
}

// begin makes ready for the next message.
func (w *writer) begin() {
	w.kind, w.left = bodyNone, 0
	w.started, w.ended, w.muted = false, false, false
}

func (w *writer) borrow() {
	if w.arr == nil {
		w.arr = writePool.Get().(*[writeSize]byte)
		w.buf = w.arr[:0]
	}
}

func (w *writer) release() {
	if w.arr != nil {
		writePool.Put(w.arr)
		w.arr, w.buf = nil, nil
	}
}

// flush sends what is buffered and gives the buffer back.
func (w *writer) flush() error {
	if w.err == nil && len(w.buf) > 0 {
		var n int
		if w.socket != nil {
			n, w.err = w.socket.Write(w.buf)
		} else {
			n, w.err = w.conn.Write(w.buf)
		}
		w.sent += int64(n)
	}
	w.release()
	return w.err
}

// write buffers p where there is room, and else sends buffer, p and tail together with no copy of p where it is large.
func (w *writer) write(p []byte, tail string) error {
	if w.err != nil {
		return w.err
	}
	if len(w.buf)+len(p)+len(tail) <= writeSize {
		w.borrow()
		w.buf = append(append(w.buf, p...), tail...)
		return nil
	}
	if w.gathers {
		return w.gather(p, tail)
	}
	if w.under != nil {
		w.under.Gather()
	}
	err := w.fullRecords(p, tail)
	if w.under != nil {
		if more := w.under.Flush(); err == nil {
			w.err = more
		}
	}
	return w.err
}

// fullRecords writes to a connection that encrypts, and so copies anyway: full records are what counts.
func (w *writer) fullRecords(p []byte, tail string) error {
	if len(w.buf) > 0 {
		n := min(max(writeSize-len(w.buf), 0), len(p))
		w.buf = append(w.buf, p[:n]...)
		p = p[n:]
		if err := w.flush(); err != nil {
			return err
		}
	}
	if len(p) >= writeSize {
		n, err := w.conn.Write(p)
		w.sent += int64(n)
		if w.err = err; err != nil {
			return err
		}
		p = nil
	}
	w.borrow()
	w.buf = append(append(w.buf, p...), tail...)
	return nil
}

const crlf = "\r\n"

var crlfBytes = []byte(crlf)

func (w *writer) gather(p []byte, tail string) error {
	if len(w.buf) == 0 && tail == "" && w.socket != nil {
		n, err := w.socket.Write(p)
		w.sent += int64(n)
		w.err = err
		w.release()
		return err
	}
	s := w.slices[:0]
	if len(w.buf) > 0 {
		s = append(s, w.buf)
	}
	s = append(s, p)
	if tail != "" {
		s = append(s, crlfBytes) // the one tail there is
	}
	w.gathered = s
	n, err := w.gathered.WriteTo(w.conn)
	w.sent += n
	w.err = err
	clear(w.slices[:])
	w.gathered = nil
	w.release()
	return err
}

// body writes body bytes in the message's framing.
func (w *writer) body(p []byte) error {
	switch {
	case w.err != nil:
		return w.err
	case !w.started || w.ended:
		return errNoBody
	case w.muted || len(p) == 0:
		return nil
	}
	switch w.kind {
	case bodyNone:
		return errNoBody
	case bodyLength:
		if int64(len(p)) > w.left {
			return errBodyLong
		}
		w.left -= int64(len(p))
		return w.write(p, "")
	case bodyChunked:
		w.borrow()
		w.buf = append(strconv.AppendInt(w.buf, int64(len(p)), 16), crlf...)
		return w.write(p, crlf)
	}
	return w.write(p, "")
}

// finish writes the end of the message and flushes.
func (w *writer) finish(trailers *header.List) error {
	switch {
	case w.err != nil:
		return w.err
	case !w.started:
		return errNoHead
	case w.ended:
		return w.flush()
	case w.kind == bodyLength && !w.muted && w.left > 0:
		return errBodyShort
	case w.kind == bodyChunked && !w.muted:
		w.borrow()
		mark := len(w.buf)
		w.buf = append(w.buf, "0\r\n"...)
		if trailers != nil {
			for i := 0; i < trailers.Len(); i++ {
				f := trailers.At(i)
				if forbiddenTrailer(f.Name) {
					continue
				}
				if err := w.field(f.Name, f.Value); err != nil {
					w.buf = w.buf[:mark]
					return err
				}
			}
		}
		w.buf = append(w.buf, crlf...)
	}
	w.ended = true
	return w.flush()
}

var (
	errNoHead     = &usageError{"a body or an end before a head"}
	errNoBody     = &usageError{"body bytes for a message that has none, or has ended"}
	errBodyLong   = &usageError{"more body bytes than the head states"}
	errBodyShort  = &usageError{"fewer body bytes than the head states"}
	errHeadTwice  = &usageError{"a second head"}
	errEndLength  = &usageError{"an end together with a stated length"}
	errWriteName  = malformed("a field name to be written is not a token")
	errWriteValue = malformed("a field value to be written holds a control character")
)

// usageError is a message that the caller can't have written that way.
type usageError struct{ what string }

func (e *usageError) Error() string { return "not written: " + e.what }

// field appends one line. Whatever could be read as more than one line is an error; the caller drops the head then.
func (w *writer) field(name, value string) error {
	if !isToken(name) {
		return errWriteName
	}
	if !isValue(value) && !guard.Off("C50") && !guard.Off("C56") {
		return errWriteValue
	}
	w.buf = append(w.buf, name...)
	w.buf = append(w.buf, ": "...)
	w.buf = append(w.buf, value...)
	w.buf = append(w.buf, crlf...)
	return nil
}

// fields appends all lines but those that the codec writes itself. TE is said to be hop by hop.
func (w *writer) fields(l *header.List) (te bool, err error) {
	for i := 0; i < l.Len(); i++ {
		f := l.At(i)
		switch kindOf(f.Name) {
		case fieldOther:
			if err := w.field(f.Name, f.Value); err != nil {
				return te, err
			}
		case fieldTE:
			te = te || header.EqualFold(f.Value, "trailers")
		}
	}
	return te, nil
}

// length appends the framing field for a body of n bytes and remembers what to hold the caller to.
func (w *writer) length(n int64) {
	w.kind, w.left = bodyLength, n
	w.buf = append(w.buf, "Content-Length: "...)
	w.buf = strconv.AppendInt(w.buf, n, 10)
	w.buf = append(w.buf, crlf...)
}

func (w *writer) chunked() {
	w.kind = bodyChunked
	w.buf = append(w.buf, "Transfer-Encoding: chunked\r\n"...)
}

// connection appends the Connection field, and Upgrade where there is one.
func (w *writer) connection(option, upgrade string) error {
	if upgrade != "" {
		if !isProtocol(upgrade) {
			return errWriteValue
		}
		w.buf = append(w.buf, "Upgrade: "...)
		w.buf = append(w.buf, upgrade...)
		w.buf = append(w.buf, crlf...)
	}
	if option == "" {
		return nil
	}
	w.buf = append(w.buf, "Connection: "...)
	w.buf = append(w.buf, option...)
	w.buf = append(w.buf, crlf...)
	return nil
}

// drop takes everything after mark out of the buffer again.
func (w *writer) drop(mark int, err error) error {
	w.buf = w.buf[:mark]
	w.kind = bodyNone
	if mark == 0 {
		w.release()
	}
	return err
}

// responseHead appends a response head to a request of the given method and version. option is for Connection.
func (w *writer) responseHead(h *stream.ResponseHead, q *exchangeFacts, end bool, option string) error {
	w.borrow()
	mark := len(w.buf)
	upgrade := ""
	if h.Status == 101 {
		upgrade, option = h.Upgrade, "upgrade"
	}
	w.statusLine(h.Status)
	if _, err := w.fields(&h.Fields); err != nil {
		return w.drop(mark, err)
	}
	bodyless := h.Status < 200 || h.Status == 204 || q.connect && h.Status < 300
	w.muted = q.head || h.Status == 304 || bodyless
	switch {
	case bodyless:
	case w.muted:
		if h.HasLength || h.Length > 0 {
			w.length(h.Length)
		}
	case end && h.Length > 0:
		return w.drop(mark, errEndLength)
	case end:
		w.length(0)
	case h.Length > 0 || h.Length == 0 && h.HasLength:
		w.length(h.Length)
	case q.http10:
		w.kind = bodyUntilClose
	default:
		w.chunked()
	}
	if err := w.connection(option, upgrade); err != nil {
		return w.drop(mark, err)
	}
	w.buf = append(w.buf, crlf...)
	return nil
}

// requestHead appends a request head.
func (w *writer) requestHead(h *stream.RequestHead, end bool) error {
	w.borrow()
	mark := len(w.buf)
	target := h.Path
	if h.Method == "CONNECT" {
		target = h.Authority
	}
	if err := checkRequest(h, target, end); err != nil {
		return w.drop(mark, err)
	}
	w.buf = append(w.buf, h.Method...)
	w.buf = append(w.buf, ' ')
	w.buf = append(w.buf, target...)
	w.buf = append(w.buf, " HTTP/1.1\r\nHost: "...)
	w.buf = append(w.buf, h.Authority...)
	w.buf = append(w.buf, crlf...)
	te, err := w.fields(&h.Fields)
	if err != nil {
		return w.drop(mark, err)
	}
	w.requestFraming(h, end)
	if h.ExpectContinue && !end && h.Length != 0 {
		w.buf = append(w.buf, "Expect: 100-continue\r\n"...)
	}
	option := ""
	switch {
	case te:
		w.buf = append(w.buf, "TE: trailers\r\n"...)
		if option = "te"; h.Upgrade != "" {
			option = "te, upgrade"
		}
	case h.Upgrade != "":
		option = "upgrade"
	}
	if err := w.connection(option, h.Upgrade); err != nil {
		return w.drop(mark, err)
	}
	w.buf = append(w.buf, crlf...)
	return nil
}

func (w *writer) requestFraming(h *stream.RequestHead, end bool) {
	switch {
	case !end && h.Length > 0:
		w.length(h.Length)
	case !end && h.Length < 0:
		w.chunked()
	case h.Method == "POST" || h.Method == "PUT" || h.Method == "PATCH":
		w.length(0) // RFC 9110 §8.6: where a body would mean something
	}
}

var (
	errWriteMethod    = malformed("a method to be written is not a token")
	errWriteTarget    = malformed("a target to be written is not a path")
	errWriteAuthority = malformed("an authority to be written is not a host with an optional port")
)

func checkRequest(h *stream.RequestHead, target string, end bool) error {
	switch {
	case !isToken(h.Method):
		return errWriteMethod
	case target == "" || !allOf(target, charTarget):
		return errWriteTarget
	case h.Method != "CONNECT" && target[0] != '/' && (target != "*" || h.Method != "OPTIONS"):
		return errWriteTarget
	case h.Authority != "" && !normalize.ValidAuthority(h.Authority):
		return errWriteAuthority
	case end && h.Length > 0:
		return errEndLength
	}
	return nil
}
