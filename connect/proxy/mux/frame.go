// SPDX-License-Identifier: Apache-2.0

package mux

import "encoding/binary"

// ALPN is the name of the protocol in a TLS handshake.
const ALPN = "weft-mux/1"

type kind uint8

const (
	kindNone kind = iota
	kindOpen
	kindData
	kindWindow
	kindEnd
	kindClose
	kindReset
	kindLeave
	kindPing
	kindPong
	kinds
)

const (
	headSize   = 8
	maxData    = 16<<10 - headSize // so that a whole frame is one TLS record
	resetCut   = 0
	resetUnset = 1 // refused: nothing of the stream was looked at, or nothing behind what was answered
)

// sizes are how much follows each kind's head, but data's.
var sizes = [kinds]int{kindWindow: 4, kindReset: 1}

// ProtocolError is why a connection was closed whose peer doesn't keep to the protocol.
type ProtocolError struct{ What string }

func (e *ProtocolError) Error() string { return "mux: the other sidecar broke the protocol: " + e.What }

func violates(what string) error { return &ProtocolError{what} }

// frame is a frame, or a piece of a data frame.
type frame struct {
	kind kind // kindNone: there is no whole one yet
	id   uint32
	data []byte // of data; valid as long as what it was read from
	n    uint32 // of window and reset
}

// decoder takes frames out of what was received.
type decoder struct {
	id   uint32 // of the data frame that is being received
	left int    // bytes of it that are to come
}

// next gives the first frame of b, or the piece of it that is there, and how many bytes of b that took.
func (d *decoder) next(b []byte) (f frame, n int, err error) {
	if d.left == 0 {
		if len(b) < headSize {
			return frame{}, 0, nil
		}
		k, size, id := kind(b[0]), int(b[1])<<16|int(b[2])<<8|int(b[3]), binary.BigEndian.Uint32(b[4:])
		if err := check(k, size, id); err != nil {
			return frame{}, 0, err
		}
		if k != kindData {
			if len(b) < headSize+size {
				return frame{}, 0, nil
			}
			f = frame{kind: k, id: id}
			for _, c := range b[headSize : headSize+size] {
				f.n = f.n<<8 | uint32(c)
			}
			return f, headSize + size, nil
		}
		d.id, d.left, n = id, size, headSize
	}
	p := b[n:min(n+d.left, len(b))]
	if len(p) == 0 {
		return frame{}, n, nil
	}
	d.left -= len(p)
	return frame{kind: kindData, id: d.id, data: p}, n + len(p), nil
}

// check looks at a frame's head.
func check(k kind, size int, id uint32) error {
	switch {
	case k == kindNone || k >= kinds:
		return violates("a frame of an unknown kind")
	case k == kindData && (size == 0 || size > maxData), k != kindData && size != sizes[k]:
		return violates("a frame of a wrong length")
	case (id == 0) != (k >= kindLeave):
		return violates("a frame for a wrong stream")
	}
	return nil
}

// appendFrame appends a frame: of window and reset with n, of data with p.
func appendFrame(b []byte, k kind, id, n uint32, p []byte) []byte {
	size := sizes[k] + len(p)
	b = binary.BigEndian.AppendUint32(append(b, byte(k), byte(size>>16), byte(size>>8), byte(size)), id)
	switch k {
	case kindWindow:
		b = binary.BigEndian.AppendUint32(b, n)
	case kindReset:
		b = append(b, byte(n))
	}
	return append(b, p...)
}
