// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"errors"
	"io"
	"os"
	"sync"
)

const (
	smallInput = 4 << 10
	largeInput = 32 << 10
	calmReads  = 32 // reads of little in a row, after which the large buffer is given back
	emptyReads = 100
)

var (
	smallInputs = sync.Pool{New: func() any { return new([smallInput]byte) }}
	largeInputs = sync.Pool{New: func() any { return new([largeInput]byte) }}
)

// input is the connection's buffered reader. It calls before each time before it reads from the connection, which may wait:
// what was gathered until then is passed on there. Its buffer is small, and a large one while much comes. Where a deadline ends a wait in
// which nothing has come, late says whether to wait again; nil for no.
type input struct {
	from   io.Reader
	before func()
	late   func() bool
	small  *[smallInput]byte
	large  *[largeInput]byte
	buf    []byte // one of both
	r, w   int
	calm   int // reads of little since the last of much
}

func (in *input) init(from io.Reader, before func()) {
	in.before = before
	in.begin(from)
}

// begin has it read from from, with an empty buffer.
func (in *input) begin(from io.Reader) {
	in.from, in.small = from, smallInputs.Get().(*[smallInput]byte)
	in.buf, in.r, in.w, in.calm = in.small[:], 0, 0, 0
}

// wait is one read, and again where a deadline that wasn't the peer's has ended it.
func (in *input) wait(p []byte) (int, error) {
	for {
		n, err := in.from.Read(p)
		if n > 0 || err == nil || in.late == nil || !errors.Is(err, os.ErrDeadlineExceeded) || !in.late() {
			return n, err
		}
	}
}

// Buffered is how many bytes can be read without waiting.
func (in *input) Buffered() int { return in.w - in.r }

// fill reads once into the empty buffer.
func (in *input) fill() error {
	in.before()
	in.r, in.w = 0, 0
	n, err := in.wait(in.buf)
	for tries := 0; n == 0 && err == nil && tries < emptyReads; tries++ {
		n, err = in.wait(in.buf)
	}
	in.w = n
	switch {
	case n == len(in.buf) && in.large == nil:
		in.grow()
	case n > smallInput:
		in.calm = 0
	case in.large != nil:
		if in.calm++; in.calm >= calmReads {
			in.shrink()
		}
	}
	if n > 0 {
		return nil
	}
	if err == nil {
		return io.ErrNoProgress
	}
	return err
}

// grow changes to the large buffer: the bytes that were read move along.
func (in *input) grow() {
	in.large, in.calm = largeInputs.Get().(*[largeInput]byte), 0
	copy(in.large[:], in.buf[in.r:in.w])
	in.buf, in.r, in.w = in.large[:], 0, in.w-in.r
}

func (in *input) shrink() {
	n := copy(in.small[:], in.buf[in.r:in.w])
	in.buf, in.r, in.w = in.small[:], 0, n
	in.dropLarge()
}

func (in *input) dropLarge() {
	if in.large != nil {
		largeInputs.Put(in.large)
		in.large = nil
	}
}

// drop gives the buffers back; nothing is read after that, unless it begins again.
func (in *input) drop() {
	in.dropLarge()
	if in.small != nil {
		smallInputs.Put(in.small)
	}
	in.from, in.small, in.buf, in.r, in.w = nil, nil, nil, 0, 0
}

func (in *input) Read(p []byte) (int, error) {
	if in.r == in.w {
		if len(p) >= len(in.buf) {
			in.before()
			return in.wait(p)
		}
		if err := in.fill(); err != nil {
			return 0, err
		}
	}
	n := copy(p, in.buf[in.r:in.w])
	in.r += n
	return n, nil
}

// ReadByte implements io.ByteReader.
func (in *input) ReadByte() (byte, error) {
	if in.r == in.w {
		if err := in.fill(); err != nil {
			return 0, err
		}
	}
	in.r++
	return in.buf[in.r-1], nil
}

// Discard drops n bytes.
func (in *input) Discard(n int) error {
	for n > 0 {
		if in.r == in.w {
			if err := in.fill(); err != nil {
				return err
			}
		}
		m := min(n, in.w-in.r)
		in.r += m
		n -= m
	}
	return nil
}
