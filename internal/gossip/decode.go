// SPDX-License-Identifier: Apache-2.0

package gossip

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// tagsMagic is the first byte of tags in a node's metadata.
const tagsMagic = 255

// maxTags bounds how many tags a node may have.
const maxTags = 64

var errTruncated = errors.New("it ends too early")

// decodeTags reads the tags out of a node's metadata: a MessagePack map of strings. All of it must be read.
func decodeTags(meta []byte) (map[string]string, error) {
	if len(meta) == 0 || meta[0] != tagsMagic {
		return nil, errors.New("no tags")
	}
	r := reader{data: meta[1:]}
	n, err := r.mapLen()
	if err != nil {
		return nil, err
	}
	if n > maxTags {
		return nil, fmt.Errorf("%d tags, at most %d", n, maxTags)
	}
	tags := make(map[string]string, n)
	for range n {
		key, err := r.bytes()
		if err != nil {
			return nil, err
		}
		value, err := r.bytes()
		if err != nil {
			return nil, err
		}
		tags[string(key)] = string(value)
	}
	if len(r.data) > 0 {
		return nil, fmt.Errorf("%d bytes after the tags", len(r.data))
	}
	return tags, nil
}

// reader reads the few forms of MessagePack that weft looks at itself.
type reader struct{ data []byte }

func (r *reader) take(n int) ([]byte, error) {
	if n < 0 || len(r.data) < n {
		return nil, errTruncated
	}
	b := r.data[:n]
	r.data = r.data[n:]
	return b, nil
}

// sized reads a big-endian length of 1, 2 or 4 bytes.
func (r *reader) sized(width int) (int, error) {
	b, err := r.take(width)
	if err != nil {
		return 0, err
	}
	var full [8]byte
	copy(full[8-width:], b)
	return int(binary.BigEndian.Uint64(full[:])), nil
}

func (r *reader) first() (byte, error) {
	b, err := r.take(1)
	if err != nil {
		return 0, err
	}
	return b[0], nil
}

// mapLen reads the head of a map.
func (r *reader) mapLen() (int, error) {
	b, err := r.first()
	switch {
	case err != nil:
		return 0, err
	case b&0xf0 == 0x80:
		return int(b & 0x0f), nil
	case b == 0xde:
		return r.sized(2)
	case b == 0xdf:
		return r.sized(4)
	}
	return 0, fmt.Errorf("byte %#x where a map begins", b)
}

// bytes reads a string or a byte string.
func (r *reader) bytes() ([]byte, error) {
	b, err := r.first()
	if err != nil {
		return nil, err
	}
	var n int
	switch {
	case b&0xe0 == 0xa0:
		n = int(b & 0x1f)
	case b == 0xd9, b == 0xc4:
		n, err = r.sized(1)
	case b == 0xda, b == 0xc5:
		n, err = r.sized(2)
	case b == 0xdb, b == 0xc6:
		n, err = r.sized(4)
	default:
		return nil, fmt.Errorf("byte %#x where a string begins", b)
	}
	if err != nil {
		return nil, err
	}
	return r.take(n)
}

// number reads a whole number that is not negative, or a boolean as 0 or 1.
func (r *reader) number() (uint64, error) {
	b, err := r.first()
	if err != nil {
		return 0, err
	}
	width := 0
	switch {
	case b < 0x80:
		return uint64(b), nil
	case b == 0xc2, b == 0xc3:
		return uint64(b & 1), nil
	case b == 0xcc, b == 0xd0:
		width = 1
	case b == 0xcd, b == 0xd1:
		width = 2
	case b == 0xce, b == 0xd2:
		width = 4
	case b == 0xcf, b == 0xd3:
		width = 8
	default:
		return 0, fmt.Errorf("byte %#x where a number begins", b)
	}
	raw, err := r.take(width)
	if err != nil {
		return 0, err
	}
	if b >= 0xd0 && raw[0]&0x80 != 0 {
		return 0, errors.New("a negative number")
	}
	var full [8]byte
	copy(full[8-width:], raw)
	return binary.BigEndian.Uint64(full[:]), nil
}
