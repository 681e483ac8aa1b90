// SPDX-License-Identifier: Apache-2.0

package h1

import (
	"errors"
	"io"

	"github.com/weftmesh/weft/connect/proxy/header"
	"github.com/weftmesh/weft/connect/proxy/stream"
	"github.com/weftmesh/weft/internal/guard"
)

type bodyKind uint8

const (
	bodyNone bodyKind = iota
	bodyLength
	bodyChunked
	bodyUntilClose
	bodyRaw // after an upgrade
)

// body reads one message's body off a reader.
type body struct {
	rd     *reader
	limits *stream.Limits

	kind     bodyKind
	done     bool
	err      error // what every further read gives
	left     int64 // of the message, or of the chunk
	inChunk  bool  // a chunk's CRLF is still to come
	ext      int   // bytes of chunk extensions so far
	trailers header.List
	trailed  bool
}

func (b *body) start(kind bodyKind, length int64) {
	b.kind, b.left = kind, length
	b.done = kind == bodyNone || kind == bodyLength && length == 0
	b.err, b.inChunk, b.ext = nil, false, 0
	if b.trailed {
		b.trailers.Reset()
		b.trailed = false
	}
}

// direct is from which size on a read goes past the buffer. A chunk's size line would cost a read of its own, so chunks
// bypass it only where they are large.
const (
	directBody  = 512
	directChunk = readSize
)

// read is stream.Body's ReadBody.
func (b *body) read(p []byte) (int, error) {
	switch {
	case b.err != nil:
		return 0, b.err
	case b.done:
		return 0, io.EOF
	case len(p) == 0:
		return 0, nil
	}
	var n int
	var err error
	switch b.kind {
	case bodyLength:
		n, err = b.readLength(p)
	case bodyChunked:
		n, err = b.readChunked(p)
	default:
		n, err = b.rd.read(p, directBody)
		if errors.Is(err, io.EOF) {
			b.done = true
			return n, io.EOF
		}
	}
	if err != nil && !errors.Is(err, io.EOF) {
		b.err = err
	}
	return n, err
}

func (b *body) readLength(p []byte) (int, error) {
	if int64(len(p)) > b.left {
		p = p[:b.left]
	}
	direct := directBody
	if int64(len(p)) == b.left {
		direct = 1 // the last bytes: a read into the buffer could only give more than is wanted
	}
	n, err := b.rd.read(p, direct)
	b.left -= int64(n)
	if b.left == 0 {
		b.done = true
		b.rd.release()
		return n, nil
	}
	if errors.Is(err, io.EOF) {
		err = truncated("a body of stated length")
	}
	return n, err
}

// readChunked gives what is there of as many chunks as fit, and waits only while it has nothing to give.
func (b *body) readChunked(p []byte) (n int, err error) {
	for n < len(p) {
		if b.left == 0 {
			if n > 0 && !b.sizeBuffered() {
				return n, nil
			}
			if err = b.nextChunk(); err != nil {
				return n, b.chunkError(err)
			}
			if b.done {
				if n == 0 {
					err = io.EOF
				}
				return n, err
			}
		}
		if n > 0 && b.rd.buffered() == 0 {
			return n, nil
		}
		q := p[n:]
		if int64(len(q)) > b.left {
			q = q[:b.left]
		}
		m, err := b.rd.read(q, directChunk)
		n += m
		b.left -= int64(m)
		if err != nil {
			return n, b.chunkError(err)
		}
	}
	return n, nil
}

func (b *body) chunkError(err error) error {
	if errors.Is(err, io.EOF) {
		err = truncated("a chunked body")
	}
	b.err = err
	return err
}

// sizeBuffered says whether the next chunk can be begun without waiting.
func (b *body) sizeBuffered() bool {
	lines := 1
	if b.inChunk {
		lines = 2
	}
	for _, c := range b.rd.buf[b.rd.r:b.rd.w] {
		if c == '\n' {
			if lines--; lines == 0 {
				return true
			}
		}
	}
	return false
}

var (
	errChunkEnd  = malformed("a chunk is longer than its size says")
	errChunkSize = malformed("a chunk size is not a hexadecimal number in range")
	errChunkExt  = malformed("a chunk extension holds a control character")
	errExtBig    = tooLarge(400, "more chunk extensions than the limit")
)

// nextChunk reads on to the next chunk's data, or over the last chunk and the trailers to the end.
func (b *body) nextChunk() error {
	if b.inChunk {
		l, err := b.rd.line(0)
		if errors.Is(err, stream.ErrTooLarge) || err == nil && len(l) != 0 {
			return errChunkEnd
		}
		if err != nil {
			return err
		}
		b.inChunk = false
	}
	l, err := b.rd.line(16 + b.limits.ChunkExtension - b.ext)
	if err != nil {
		return err
	}
	size, ext, err := parseChunkSize(l)
	if err != nil {
		return err
	}
	if b.ext += ext; b.ext > b.limits.ChunkExtension {
		return errExtBig
	}
	b.left, b.inChunk = size, size > 0
	if size == 0 {
		return b.readTrailers()
	}
	return nil
}

// parseChunkSize reads a size line; extensions are checked and dropped. White space before them is refused.
func parseChunkSize(l []byte) (size int64, ext int, err error) {
	i := 0
	for ; i < len(l); i++ {
		d := hexDigit(l[i])
		if d < 0 {
			break
		}
		if i == 15 {
			return 0, 0, errChunkSize
		}
		size = size<<4 | int64(d)
	}
	if (i == 0 || i < len(l) && l[i] != ';') && !guard.Off("C48") {
		return 0, 0, errChunkSize
	}
	for _, c := range l[i:] {
		if charKinds[c]&charValue == 0 && !guard.Off("C47") {
			return 0, 0, errChunkExt
		}
	}
	return size, len(l) - i, nil
}

func hexDigit(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c|0x20 && c|0x20 <= 'f':
		return int(c|0x20-'a') + 10
	}
	return -1
}

func (b *body) readTrailers() error {
	s, err := b.rd.section(b.limits.HeadBytes, false)
	if err != nil {
		return err
	}
	for n := 0; s != ""; n++ {
		if n >= b.limits.Fields {
			return errFields
		}
		name, value, rest, err := nextField(s)
		if err != nil {
			return err
		}
		if forbiddenTrailer(name) {
			return malformed("a trailer that frames, routes or authorises the message")
		}
		b.trailers.Add(name, value)
		b.trailed = true
		s = rest
	}
	b.done = true
	b.rd.release()
	return nil
}

// ended gives the trailers once the body has been read to its end.
func (b *body) ended() *header.List {
	if !b.done || !b.trailed {
		return nil
	}
	return &b.trailers
}

func (b *body) available() int {
	if b.done || b.err != nil {
		return 0 // once the body is done, a watch may be using the reader
	}
	n := b.rd.buffered()
	switch {
	case b.kind == bodyLength || b.kind == bodyChunked:
		return int(min(int64(n), b.left))
	}
	return n
}
