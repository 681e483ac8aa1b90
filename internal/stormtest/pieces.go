// SPDX-License-Identifier: Apache-2.0

package stormtest

import (
	"bytes"
	"encoding/binary"
	"slices"
)

// form is how bytes are made of pieces: of a head, which may tell the length, and a body.
type form struct {
	cut  func(b []byte) (head, size int)            // the first piece; size is 0 where there is none
	join func(out, head []byte, body []byte) []byte // a piece with this head, made right for the body
}

var forms = []form{
	{ // lines
		cut: func(b []byte) (head, size int) {
			if i := bytes.IndexByte(b, '\n'); i >= 0 {
				return 0, i + 1
			}
			return 0, len(b)
		},
		join: func(out, _, body []byte) []byte { return append(out, body...) },
	},
	{ // HTTP/2's frames
		cut: func(b []byte) (head, size int) {
			if len(b) < 9 {
				return 0, 0
			}
			return 9, 9 + int(b[0])<<16 + int(b[1])<<8 + int(b[2])
		},
		join: func(out, head, body []byte) []byte {
			out = append(out, byte(len(body)>>16), byte(len(body)>>8), byte(len(body)))
			return append(append(out, head[3:]...), body...)
		},
	},
	{ // protobuf's fields
		cut: func(b []byte) (head, size int) {
			tag, n := binary.Uvarint(b)
			if n <= 0 || tag < 8 {
				return 0, 0
			}
			switch tag & 7 {
			case 0:
				_, v := binary.Uvarint(b[n:])
				if v <= 0 {
					return 0, 0
				}
				return n, n + v
			case 1:
				return n, n + 8
			case 5:
				return n, n + 4
			case 2:
				length, v := binary.Uvarint(b[n:])
				if v <= 0 || length > uint64(len(b)) {
					return 0, 0
				}
				return n + v, n + v + int(length)
			}
			return 0, 0
		},
		join: func(out, head, body []byte) []byte {
			tag, n := binary.Uvarint(head)
			out = append(out, head[:n]...)
			if tag&7 == 2 {
				out = binary.AppendUvarint(out, uint64(len(body)))
			}
			return append(out, body...)
		},
	},
	{ // TLS's records
		cut: func(b []byte) (head, size int) {
			if len(b) < 5 || b[1] != 3 {
				return 0, 0
			}
			return 5, 5 + int(b[3])<<8 + int(b[4])
		},
		join: func(out, head, body []byte) []byte {
			out = append(out, head[0], head[1], head[2], byte(len(body)>>8), byte(len(body)))
			return append(out, body...)
		},
	},
}

// begins gives where the pieces begin, and the end behind them; ok is false where the bytes aren't of this form.
func (f form) begins(at []int, b []byte) (_ []int, ok bool) {
	at = append(at[:0], 0)
	for end := 0; end < len(b); {
		_, size := f.cut(b[end:])
		if end += size; size <= 0 || end > len(b) || len(at) > 1000 {
			return at, false
		}
		at = append(at, end)
	}
	return at, len(at) > 1
}

// structured changes the order of the pieces, or what is inside of one, so that its length stays right.
func (m *mutator) structured(b []byte, depth int) ([]byte, bool) {
	f := forms[m.IntN(len(forms))]
	at, ok := f.begins(m.at[0], b)
	if m.at[0] = at; !ok {
		return b, false
	}
	pieces := len(at) - 1
	one := m.IntN(pieces)
	from, to := at[one], at[one+1]
	to2 := at[m.IntN(pieces+1)]
	switch m.IntN(6) {
	case 0:
		return slices.Delete(b, from, to), true
	case 1: // again
		return m.replace(b, to2, to2, b[from:to]), true
	case 2: // moved
		piece := m.keep(b[from:to], 1)
		if b = slices.Delete(b, from, to); to2 >= to {
			to2 -= to - from
		}
		if to2 > from && to2 < to {
			to2 = from
		}
		return m.replace(b, to2, to2, piece), true
	case 3: // from another
		other := m.others[m.IntN(len(m.others))]
		theirs, ok := f.begins(m.at[1], other)
		if m.at[1] = theirs; !ok {
			return b, false
		}
		i := m.IntN(len(theirs) - 1)
		piece := other[theirs[i]:theirs[i+1]]
		if m.IntN(2) == 0 {
			return m.replace(b, from, to, piece), true
		}
		return m.replace(b, to2, to2, piece), true
	}
	if depth > 4 {
		return b, false
	}
	head, _ := f.cut(b[from:])
	body := bytes.Clone(b[from+head : to])
	changed := f.join(nil, b[from:from+head], m.change(body, depth+1))
	return m.replace(b, from, to, changed), true
}
