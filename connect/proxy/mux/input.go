// SPDX-License-Identifier: Apache-2.0

package mux

import (
	"io"
	"sync"
)

const (
	smallInput = 4 << 10
	largeInput = 32 << 10
	calmReads  = 32  // reads of little in a row, after which the large buffer is given back
	emptyReads = 100 // reads of nothing in a row, after which the connection counts as broken
)

var (
	smallInputs = sync.Pool{New: func() any { return new([smallInput]byte) }}
	largeInputs = sync.Pool{New: func() any { return new([largeInput]byte) }}
)

// input is what was read of the connection. Its buffer is small, and a large one while much comes.
type input struct {
	from  io.Reader
	small *[smallInput]byte
	large *[largeInput]byte
	buf   []byte // one of both
	r, w  int
	calm  int
}

func (in *input) begin(from io.Reader) {
	in.from, in.small = from, smallInputs.Get().(*[smallInput]byte)
	in.buf = in.small[:]
}

func (in *input) end() {
	if in.large != nil {
		largeInputs.Put(in.large)
	}
	smallInputs.Put(in.small)
	*in = input{}
}

func (in *input) unread() []byte { return in.buf[in.r:in.w] }

func (in *input) take(n int) { in.r += n }

// fill reads once, behind what is unread, which is less than a frame's head with what follows it.
func (in *input) fill() error {
	in.w = copy(in.buf, in.buf[in.r:in.w])
	in.r = 0
	had := in.w
	for range emptyReads {
		n, err := in.from.Read(in.buf[in.w:])
		in.w += n
		if n > 0 {
			in.fit(in.w - had)
			return nil
		}
		if err != nil {
			return err
		}
	}
	return io.ErrNoProgress
}

// fit chooses the buffer by what was read.
func (in *input) fit(n int) {
	switch {
	case in.w == len(in.buf) && in.large == nil:
		in.large, in.calm = largeInputs.Get().(*[largeInput]byte), 0
		copy(in.large[:], in.buf[:in.w])
		in.buf = in.large[:]
	case in.large == nil:
	case n > smallInput/2:
		in.calm = 0
	default:
		if in.calm++; in.calm >= calmReads && in.w <= smallInput {
			copy(in.small[:], in.buf[:in.w])
			largeInputs.Put(in.large)
			in.large, in.buf = nil, in.small[:]
		}
	}
}
