// SPDX-License-Identifier: Apache-2.0

// Package opening says what a connection is by its first bytes: the server name that a TLS client asks for, and whether a
// client speaks HTTP. It takes bytes and gives verdicts: no network, no goroutine, nothing is ever waited for.
package opening

import (
	"bytes"
	"encoding/binary"
)

// MaxHello is how many bytes of a connection are looked at for a ClientHello.
const MaxHello = 16 << 10

const (
	recordHandshake  = 22
	clientHello      = 1
	extServerName    = 0
	maxRecord        = 16 << 10 // RFC 8446 §5.1
	recordHead       = 5
	handshakeHead    = 4
	helloFixed       = 2 + 32 // legacy_version and random
	nameTypeHostName = 0
)

// ServerName is the server name of the ClientHello (RFC 8446 §4.1.2, RFC 6066 §3) that a connection begins with, in lower
// case; "" where it has none, or where the connection begins with something else. With more, that isn't decided yet: the
// bytes are the beginning of a ClientHello, and at most MaxHello of them are looked at.
func ServerName(b []byte) (name string, more bool) {
	if len(b) >= MaxHello {
		b = b[:MaxHello]
		defer func() { more = false }()
	}
	message, whole, ok := handshake(b)
	if !ok {
		return "", false
	}
	if !whole {
		return "", true
	}
	return serverName(message), false
}

// IsTLS says whether a connection begins as TLS does, with a ClientHello's record.
func IsTLS(b []byte) bool {
	_, _, ok := handshake(b)
	return ok && len(b) > 0
}

// handshake gathers the first handshake message out of its records. Not ok says that it is no ClientHello, not whole that
// bytes are missing.
func handshake(b []byte) (message []byte, whole, ok bool) {
	want := handshakeHead
	for {
		// What is there must fit; what isn't there yet is waited for. A record's version means nothing (RFC 8446 §5.1).
		if len(b) > 0 && b[0] != recordHandshake {
			return nil, false, false
		}
		if len(b) < recordHead {
			return nil, false, true
		}
		n := int(binary.BigEndian.Uint16(b[3:]))
		if n == 0 || n > maxRecord {
			return nil, false, false
		}
		b = b[recordHead:]
		have := min(n, len(b))
		if message == nil && have >= want {
			message = b[:have:have] // as a rule it is one record
		} else {
			message = append(message, b[:have]...)
		}
		if len(message) > 0 && message[0] != clientHello {
			return nil, false, false
		}
		if len(message) >= handshakeHead {
			want = handshakeHead + (int(message[1])<<16 | int(message[2])<<8 | int(message[3]))
			if want > MaxHello {
				return nil, false, false
			}
			if len(message) >= want {
				return message[handshakeHead:want], true, true
			}
		}
		if have < n {
			return nil, false, true
		}
		b = b[n:]
	}
}

// cursor reads length-prefixed parts; after the first that is short, everything is empty and bad is set.
type cursor struct {
	b   []byte
	bad bool
}

func (c *cursor) take(n int) []byte {
	if c.bad || n > len(c.b) {
		c.b, c.bad = nil, true
		return nil
	}
	out := c.b[:n]
	c.b = c.b[n:]
	return out
}

func (c *cursor) number(bytes int) int {
	n := 0
	for _, b := range c.take(bytes) {
		n = n<<8 | int(b)
	}
	return n
}

// vector is a part with a length of so many bytes before it.
func (c *cursor) vector(bytes int) cursor {
	n := c.number(bytes)
	return cursor{b: c.take(n), bad: c.bad}
}

func serverName(message []byte) string {
	c := cursor{b: message}
	c.take(helloFixed)
	c.vector(1) // session
	c.vector(2) // cipher suites
	c.vector(1) // compression
	if c.bad || len(c.b) == 0 {
		return ""
	}
	for all := c.vector(2); len(all.b) > 0 && !all.bad; {
		kind := all.number(2)
		ext := all.vector(2)
		if kind != extServerName || all.bad {
			continue
		}
		for names := ext.vector(2); len(names.b) > 0 && !names.bad; {
			kind := names.number(1)
			name := names.vector(2)
			if kind == nameTypeHostName && !names.bad {
				return hostName(name.b)
			}
		}
		return ""
	}
	return ""
}

// hostName is a name as it is compared; "" for what can't be one.
func hostName(b []byte) string {
	if len(b) == 0 || len(b) > 255 {
		return ""
	}
	for _, c := range b {
		if c <= ' ' || c >= 0x7f {
			return ""
		}
	}
	return string(bytes.ToLower(b))
}
