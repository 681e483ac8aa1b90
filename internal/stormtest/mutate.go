// SPDX-License-Identifier: Apache-2.0

package stormtest

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"math/rand/v2"
	"slices"
	"strconv"
)

// mutator makes inputs from others. The n-th follows from the seed, n and the inputs.
type mutator struct {
	seed   uint64
	inputs []input
	others [][]byte // everything in them that is bytes
	tokens [][]byte // what stands between their delimiters, and these
	most   int      // bytes of an argument
	pcg    *rand.PCG
	*rand.Rand
	at    [2][]int // where pieces begin, of this and of another
	taken [4][]byte
}

func newMutator(seed uint64, inputs []input) *mutator {
	pcg := rand.NewPCG(seed, 0)
	m := &mutator{seed: seed, inputs: inputs, most: 4096, pcg: pcg, Rand: rand.New(pcg)}
	seen := map[string]bool{}
	for _, in := range inputs {
		for _, v := range in {
			if !isBytes(v.of) {
				continue
			}
			m.others = append(m.others, v.bytes)
			m.most = max(m.most, 2*len(v.bytes))
			for _, token := range words(v.bytes) {
				if !seen[string(token)] && len(m.tokens) < 10_000 {
					seen[string(token)] = true
					m.tokens = append(m.tokens, token)
				}
			}
		}
	}
	return m
}

// words cuts a text where letters and digits begin and end.
func words(b []byte) (out [][]byte) {
	letter := func(c byte) bool {
		return c|0x20 >= 'a' && c|0x20 <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '_'
	}
	for len(b) > 0 {
		n := 1
		for n < len(b) && letter(b[n]) == letter(b[0]) {
			n++
		}
		if n <= 40 {
			out = append(out, b[:n])
		}
		b = b[n:]
	}
	return out
}

// nth makes the n-th input out of another: the first are those that are given.
func (m *mutator) nth(n uint64, in input) input {
	m.pcg.Seed(m.seed, n)
	from := m.inputs[n%uint64(len(m.inputs))]
	for i := range in {
		in[i].bytes, in[i].number = append(in[i].bytes[:0], from[i].bytes...), from[i].number
	}
	if n < uint64(len(m.inputs)) {
		return in
	}
	for range 1 + bits.TrailingZeros64(m.Uint64()|1<<6) {
		switch v := &in[m.IntN(len(in))]; {
		case !isBytes(v.of):
			v.number = m.number()
		default:
			if v.bytes = m.change(v.bytes, 0); len(v.bytes) > m.most {
				v.bytes = v.bytes[:m.most]
			}
		}
	}
	return in
}

// number is any, more often a small one, or one at an edge.
func (m *mutator) number() uint64 {
	n := m.Uint64() >> m.IntN(64)
	if m.IntN(2) == 0 {
		n = 1<<m.IntN(64) + uint64(m.IntN(5)) - 2
	}
	return n
}

const delimiters = "\r\n\t \x00:;,/%.=&\"'\\{}[]()0\x7f\xff"

// change makes one change.
func (m *mutator) change(b []byte, depth int) []byte {
	if len(b) == 0 {
		return m.insert(b, m.token())
	}
	if m.IntN(3) == 0 {
		if out, ok := m.structured(b, depth); ok {
			return out
		}
	}
	at := m.IntN(len(b))
	n := min(1+m.Uint64()>>1%8, uint64(len(b)-at))
	if m.IntN(8) == 0 {
		n = uint64(1 + m.IntN(len(b)-at))
	}
	end := at + int(n)
	switch m.IntN(12) {
	case 0:
		b[at] ^= 1 << m.IntN(8)
	case 1:
		b[at] = byte(m.Uint32())
	case 2:
		b[at] += byte(m.IntN(21) - 10)
	case 3:
		b[at] = delimiters[m.IntN(len(delimiters))]
	case 4:
		return slices.Delete(b, at, end)
	case 5: // again, elsewhere
		return m.insert(b, b[at:end])
	case 6: // over something else
		copy(b[m.IntN(len(b)):], m.keep(b[at:end], 0))
	case 7:
		return m.insert(b, m.token())
	case 8:
		return m.replace(b, at, min(len(b), at+m.IntN(9)), m.token())
	case 9:
		return m.decimal(b, at)
	case 10:
		m.binary(b[at:])
	case 11:
		other := m.others[m.IntN(len(m.others))]
		if len(other) == 0 {
			return b[:at]
		}
		from := m.IntN(len(other))
		if m.IntN(2) == 0 {
			return append(b[:at], other[from:]...)
		}
		return m.insert(b, other[from:from+1+m.IntN(min(64, len(other)-from))])
	}
	return b
}

func (m *mutator) token() []byte {
	if len(m.tokens) == 0 || m.IntN(8) == 0 {
		return binary.NativeEndian.AppendUint64(m.taken[3][:0], m.Uint64())[:1+m.IntN(8)]
	}
	return m.tokens[m.IntN(len(m.tokens))]
}

// keep is a copy of it, which lasts until the next with this number.
func (m *mutator) keep(b []byte, i int) []byte {
	m.taken[i] = append(m.taken[i][:0], b...)
	return m.taken[i]
}

func (m *mutator) insert(b, what []byte) []byte {
	at := m.IntN(len(b) + 1)
	return m.replace(b, at, at, what)
}

func (m *mutator) replace(b []byte, from, to int, what []byte) []byte {
	return slices.Replace(b, from, to, m.keep(what, 0)...)
}

// decimal changes the number in digits that comes next.
func (m *mutator) decimal(b []byte, at int) []byte {
	from := bytes.IndexAny(b[at:], "0123456789")
	if from < 0 {
		return m.insert(b, strconv.AppendUint(m.taken[1][:0], m.number(), 10))
	}
	from += at
	to := from
	for to < len(b) && b[to] >= '0' && b[to] <= '9' {
		to++
	}
	return m.replace(b, from, to, strconv.AppendUint(m.taken[1][:0], m.number(), 10+6*m.IntN(2)))
}

// binary changes a number of one to eight bytes.
func (m *mutator) binary(b []byte) {
	size := min(1<<m.IntN(4), len(b))
	var n [8]byte
	if binary.LittleEndian.PutUint64(n[:], m.number()); m.IntN(2) == 0 {
		slices.Reverse(n[:size])
	}
	copy(b, n[:size])
}
