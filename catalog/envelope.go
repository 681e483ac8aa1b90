// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"bytes"
	"encoding/binary"
	"math"
	"sync"
	"unicode/utf8"
)

// The outer form of a log entry is written and read without the library: what it is about is in Body, and the library looked at all of that once
// for Body and once more for what is in it, and copied it each time.

// scratches are where bodies are encoded before it is known how long they are.
var scratches = sync.Pool{New: func() any { return new([]byte) }}

// largeScratch isn't kept.
const largeScratch = 64 << 10

// inScratch writes a value as encode does, and hands over the bytes, which are good until use returns.
func inScratch(v any, use func(data []byte)) error {
	scratch := scratches.Get().(*[]byte)
	data, err := appendValue((*scratch)[:0], v)
	if err == nil {
		use(data)
	}
	if cap(data) <= largeScratch {
		*scratch = data[:0]
		scratches.Put(scratch)
	}
	return err
}

// encodeCommand gives the same bytes as the encoder of everything else gives for a Command, with room for the checksum: a map of its fields,
// shorter names first.
func encodeCommand(kind string, at int64, body any) (data []byte, err error) {
	err = inScratch(body, func(encoded []byte) { data = envelope(kind, at, encoded) })
	return data, err
}

func envelope(kind string, at int64, body []byte) []byte {
	data := make([]byte, 0, len(body)+len(kind)+40)
	fields := byte(2)
	if at != 0 {
		fields = 3
	}
	data = append(data, cborMap|fields)
	if at != 0 {
		data = append(data, nameAt...)
		if at > 0 {
			data = cborHead(data, cborUint, uint64(at))
		} else {
			data = cborHead(data, cborNegative, uint64(-1-at))
		}
	}
	data = append(append(append(data, nameBody...), body...), nameType...)
	return append(cborHead(data, cborText, uint64(len(kind))), kind...)
}

// openCommand reads the outer form. What isn't quite as encodeCommand writes it goes to the decoder of everything else.
func openCommand(data []byte) (c Command, err error) {
	if c, ok := openQuickly(data); ok {
		return c, nil
	}
	err = decode(data, &c)
	return c, err
}

// openQuickly reads what encodeCommand wrote; Body is a part of data. Whether Body is one value, and a good one, is left to who decodes it.
func openQuickly(data []byte) (c Command, ok bool) {
	if len(data) == 0 || len(data) > MaxCommandBytes {
		return c, false
	}
	fields, rest := data[0], data[1:]
	switch fields {
	case cborMap | 2:
	case cborMap | 3:
		if rest, ok = bytes.CutPrefix(rest, nameAt); !ok {
			return c, false
		}
		if c.At, rest, ok = cutTime(rest); !ok {
			return c, false
		}
	default:
		return c, false
	}
	if rest, ok = bytes.CutPrefix(rest, nameBody); !ok {
		return c, false
	}
	// The kind is at the end. Its length is in the byte before it, and no kind has in it what stands before that: the shortest that fits is it.
	for n := 1; n < 24 && n+1+len(nameType) < len(rest); n++ {
		at := len(rest) - n
		before, fits := bytes.CutSuffix(rest[:at-1], nameType)
		if rest[at-1] == cborText|byte(n) && fits {
			c.Body, c.Type = before, string(rest[at:])
			return c, utf8.ValidString(c.Type)
		}
	}
	return c, false
}

// cutTime reads a number of eight bytes, as times are since 2^32 milliseconds, in February 1970.
func cutTime(data []byte) (at int64, rest []byte, ok bool) {
	if len(data) < 9 || data[0] != cborUint|27 {
		return 0, nil, false
	}
	n := binary.BigEndian.Uint64(data[1:9])
	return int64(n), data[9:], n > math.MaxUint32 && n <= math.MaxInt64
}

// The fields' names, with their heads.
var (
	nameAt   = []byte{cborText | 2, 'A', 't'}
	nameBody = []byte{cborText | 4, 'B', 'o', 'd', 'y'}
	nameType = []byte{cborText | 4, 'T', 'y', 'p', 'e'}
)

// Major types of CBOR (RFC 8949, 3.1).
const (
	cborUint     = 0 << 5
	cborNegative = 1 << 5
	cborBytes    = 2 << 5
	cborText     = 3 << 5
	cborArray    = 4 << 5
	cborMap      = 5 << 5
	cborSimple   = 7 << 5
)

// Simple values.
const (
	cborFalse = cborSimple | 20
	cborTrue  = cborSimple | 21
	cborNull  = cborSimple | 22
)

// cborHead appends the shortest head of a type with a number.
func cborHead(data []byte, major byte, n uint64) []byte {
	switch {
	case n < 24:
		return append(data, major|byte(n))
	case n <= math.MaxUint8:
		return append(data, major|24, byte(n))
	case n <= math.MaxUint16:
		return binary.BigEndian.AppendUint16(append(data, major|25), uint16(n))
	case n <= math.MaxUint32:
		return binary.BigEndian.AppendUint32(append(data, major|26), uint32(n))
	}
	return binary.BigEndian.AppendUint64(append(data, major|27), n)
}
