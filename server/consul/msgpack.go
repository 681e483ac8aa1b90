// SPDX-License-Identifier: Apache-2.0

package consul

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"time"
)

// maxDepth bounds how deep values may be nested, maxText how long one string may be: a key's value has a megabyte at most as a rule.
const (
	maxDepth = 64
	maxText  = 256 << 20
)

// unpacker reads MessagePack values: nil, bool, int64, float64, string (text and bytes alike), []any and map[string]any. Times are text
// by RFC 3339.
type unpacker struct{ r *bufio.Reader }

// next is a value, or io.EOF where there is none.
func (u *unpacker) next() (any, error) { return u.value(0) }

func (u *unpacker) value(depth int) (any, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("it is nested more than %d deep", maxDepth)
	}
	b, err := u.r.ReadByte()
	if err != nil {
		return nil, err
	}
	switch {
	case b < 0x80:
		return int64(b), nil
	case b >= 0xe0:
		return int64(int8(b)), nil
	case b < 0x90:
		return u.object(uint64(b&0x0f), depth)
	case b < 0xa0:
		return u.list(uint64(b&0x0f), depth)
	case b < 0xc0:
		return u.text(uint64(b & 0x1f))
	}
	switch b {
	case 0xc0:
		return nil, nil
	case 0xc2, 0xc3:
		return b == 0xc3, nil
	case 0xca:
		n, err := u.number(4)
		return float64(math.Float32frombits(uint32(n))), err
	case 0xcb:
		n, err := u.number(8)
		return math.Float64frombits(n), err
	case 0xcc, 0xcd, 0xce, 0xcf:
		n, err := u.number(1 << (b - 0xcc))
		if err == nil && n > math.MaxInt64 {
			return float64(n), nil
		}
		return int64(n), err
	case 0xd0, 0xd1, 0xd2, 0xd3:
		size := 1 << (b - 0xd0)
		n, err := u.number(size)
		shift := 64 - 8*size
		return int64(n<<shift) >> shift, err
	}
	return u.long(b, depth)
}

// long reads what begins with its length.
func (u *unpacker) long(b byte, depth int) (any, error) {
	sizes := map[byte]int{0xc4: 1, 0xc5: 2, 0xc6: 4, 0xc7: 1, 0xc8: 2, 0xc9: 4, 0xd9: 1, 0xda: 2, 0xdb: 4, 0xdc: 2, 0xdd: 4, 0xde: 2, 0xdf: 4}
	if b >= 0xd4 && b <= 0xd8 {
		return u.extension(1 << (b - 0xd4))
	}
	size, ok := sizes[b]
	if !ok {
		return nil, fmt.Errorf("the byte %#x begins no value", b)
	}
	n, err := u.number(size)
	if err != nil {
		return nil, err
	}
	switch {
	case b >= 0xde:
		return u.object(n, depth)
	case b >= 0xdc:
		return u.list(n, depth)
	case b >= 0xc7 && b <= 0xc9:
		return u.extension(n)
	}
	return u.text(n)
}

func (u *unpacker) number(size int) (uint64, error) {
	var b [8]byte
	_, err := io.ReadFull(u.r, b[8-size:])
	return binary.BigEndian.Uint64(b[:]), cut(err)
}

// cut makes an end within a value an error of its own.
func cut(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

func (u *unpacker) text(n uint64) (string, error) {
	if n > maxText {
		return "", fmt.Errorf("a text of %d bytes is longer than any can be", n)
	}
	var out bytes.Buffer // grows by what is there, not by what is promised
	_, err := io.CopyN(&out, u.r, int64(n))
	return out.String(), cut(err)
}

func (u *unpacker) list(n uint64, depth int) (any, error) {
	out := []any{}
	for range n {
		v, err := u.value(depth + 1)
		if err != nil {
			return nil, cut(err)
		}
		out = append(out, v)
	}
	return out, nil
}

func (u *unpacker) object(n uint64, depth int) (any, error) {
	out := map[string]any{}
	for range n {
		key, err := u.value(depth + 1)
		if err != nil {
			return nil, cut(err)
		}
		name, ok := key.(string)
		if !ok {
			return nil, fmt.Errorf("a field's name is %T, want text", key)
		}
		if out[name], err = u.value(depth + 1); err != nil {
			return nil, cut(err)
		}
	}
	return out, nil
}

// extension reads a typed value; of those there are times alone.
func (u *unpacker) extension(n uint64) (any, error) {
	kind, err := u.r.ReadByte()
	if err != nil {
		return nil, cut(err)
	}
	data, err := u.text(n)
	if err != nil || kind != 0xff {
		return data, err
	}
	b := []byte(data)
	switch len(b) {
	case 4:
		return stamp(int64(binary.BigEndian.Uint32(b)), 0), nil
	case 8:
		v := binary.BigEndian.Uint64(b)
		return stamp(int64(v&(1<<34-1)), int64(v>>34)), nil
	case 12:
		return stamp(int64(binary.BigEndian.Uint64(b[4:])), int64(binary.BigEndian.Uint32(b))), nil
	}
	return nil, fmt.Errorf("a time of %d bytes", len(b))
}

func stamp(seconds, nanos int64) string {
	return time.Unix(seconds, nanos).UTC().Format(time.RFC3339Nano)
}
