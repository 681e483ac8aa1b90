// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"encoding/hex"
	"math/rand/v2"
)

// Context is what of a trace goes from one to the next (W3C Trace Context §3.2).
type Context struct {
	Trace   [16]byte
	Span    [8]byte
	Sampled bool
}

const (
	contextLength = 55
	flagsAt       = 53
	sampledFlag   = 1
)

// Parse reads a traceparent. A version that isn't known yet is read as far as it is like the first; false: it is none.
func Parse(s string) (c Context, ok bool) {
	if len(s) < contextLength || s[2] != '-' || s[35] != '-' || s[52] != '-' || s[:2] == "ff" {
		return c, false
	}
	if s[:2] == "00" && len(s) != contextLength || len(s) > contextLength && s[contextLength] != '-' {
		return c, false
	}
	var version, flags [1]byte
	for _, part := range [...]struct {
		to   []byte
		text string
	}{{version[:], s[:2]}, {c.Trace[:], s[3:35]}, {c.Span[:], s[36:52]}, {flags[:], s[flagsAt:contextLength]}} {
		if !read(part.to, part.text) {
			return c, false
		}
	}
	c.Sampled = flags[0]&sampledFlag != 0
	return c, c.Trace != [16]byte{} && c.Span != [8]byte{}
}

// read decodes hexadecimal digits, small ones only.
func read(to []byte, text string) bool {
	for i := range to {
		a, b := digits[text[2*i]], digits[text[2*i+1]]
		if a > 15 || b > 15 {
			return false
		}
		to[i] = a<<4 | b
	}
	return true
}

// digits are what characters mean; more than 15 for those that are no digits.
var digits = func() (t [256]byte) {
	for i := range t {
		t[i] = 16
	}
	for i, c := range "0123456789abcdef" {
		t[c] = byte(i)
	}
	return t
}()

// Begin is the context of a new trace.
func Begin(sampled bool) Context {
	c := Context{Sampled: sampled}
	fill(c.Trace[:])
	fill(c.Span[:])
	return c
}

// Child is the context of a span below c.
func (c Context) Child() Context {
	fill(c.Span[:])
	return c
}

// fill sets random bytes, never all zeros.
func fill(b []byte) {
	for i := 0; i < len(b); i += 8 {
		v := rand.Uint64()
		for k := range 8 {
			b[i+k] = byte(v)
			v >>= 8
		}
	}
	b[0] |= 1
}

// String is c as a traceparent.
func (c Context) String() string {
	var b [contextLength]byte
	copy(b[:], "00-")
	hex.Encode(b[3:], c.Trace[:])
	b[35] = '-'
	hex.Encode(b[36:], c.Span[:])
	copy(b[52:], "-00")
	if c.Sampled {
		b[54] = '1'
	}
	return string(b[:])
}
