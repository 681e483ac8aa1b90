// SPDX-License-Identifier: Apache-2.0

package gossip

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"

	"github.com/weftmesh/weft/internal/guard"
)

// The kinds of memberlist's messages that the guards know, by their first byte.
const (
	msgIndirectPing = 1
	msgPing         = 0
	msgAck          = 2
	msgPushPull     = 6
	msgCompound     = 7
	msgUser         = 8
	msgCompress     = 9
	msgEncrypt      = 10
	msgCRC          = 12
	msgErr          = 13
	msgLabel        = 244
)

// What a stream may bring, and how many nodes it may announce: memberlist makes room for as many as are announced before it
// has read one.
const (
	maxStreamBytes = 16 << 20
	maxStreamNodes = 64 << 10
)

var (
	errCompressed = errors.New("a compressed message: weft sends none")
	errNested     = errors.New("a message of messages inside another")
	errPlain      = errors.New("it isn't encrypted, and this pool is")
	errEncrypted  = errors.New("it is encrypted, and this pool isn't")
	errTooLong    = errors.New("more bytes than a stream may have")
)

// checkPacket refuses a packet that isn't encrypted and could cost more than its size: what it says is anybody's. A compressed
// message can become thousands of times as large; weft compresses nothing. Messages in a packet are one level deep.
func checkPacket(b []byte) error { return checkMessage(b, true) }

func checkMessage(b []byte, outer bool) error {
	if len(b) == 0 {
		return errTruncated
	}
	switch b[0] {
	case msgCompress:
		if guard.Off("C73") {
			return nil
		}
		return errCompressed
	case msgLabel:
		return fmt.Errorf("message of kind %d", b[0])
	case msgCRC:
		if len(b) < 6 || !outer {
			return errTruncated
		}
		return checkMessage(b[5:], true)
	case msgCompound:
		if !outer {
			return errNested
		}
		return checkCompound(b[1:])
	}
	return nil
}

// checkCompound walks the messages of a compound one: their number, their lengths, then themselves.
func checkCompound(b []byte) error {
	if len(b) < 1 {
		return errTruncated
	}
	n := int(b[0])
	b = b[1:]
	if len(b) < 2*n {
		return errTruncated
	}
	lengths, rest := b[:2*n], b[2*n:]
	for i := range n {
		size := int(binary.BigEndian.Uint16(lengths[2*i:]))
		if size > len(rest) {
			return errTruncated
		}
		if err := checkMessage(rest[:size], false); err != nil {
			return err
		}
		rest = rest[size:]
	}
	return nil
}

// maxPreamble is as long as the head of a stream can be: its kind, and a map of three.
const maxPreamble = 128

// checkPreamble looks at the first bytes of a stream. more says that there aren't enough yet to tell.
func checkPreamble(b []byte, encrypted, acceptPlain bool) (more bool, err error) {
	if len(b) == 0 || guard.Off("C124") {
		return len(b) == 0, nil
	}
	if b[0] == msgEncrypt {
		if !encrypted {
			return false, errEncrypted
		}
		if len(b) < 5 {
			return true, nil
		}
		if n := binary.BigEndian.Uint32(b[1:5]); n > maxStreamBytes {
			return false, fmt.Errorf("%d bytes announced, at most %d", n, maxStreamBytes)
		}
		return false, nil // what follows proves that its sender has the key
	}
	if encrypted && !acceptPlain {
		return false, errPlain
	}
	var limits map[string]uint64
	switch b[0] {
	case msgPushPull:
		limits = map[string]uint64{"Nodes": maxStreamNodes, "UserStateLen": maxStreamBytes, "Join": 1}
	case msgUser:
		limits = map[string]uint64{"UserMsgLen": maxStreamBytes}
	case msgPing, msgAck, msgErr:
		return false, nil
	case msgCompress:
		return false, errCompressed
	default:
		return false, fmt.Errorf("a stream of kind %d", b[0])
	}
	err = checkHead(b[1:], limits)
	if errors.Is(err, errTruncated) && len(b) < maxPreamble {
		return true, nil
	}
	return false, err
}

// checkHead reads a map of numbers and checks each against its limit.
func checkHead(b []byte, limits map[string]uint64) error {
	r := reader{data: b}
	n, err := r.mapLen()
	if err != nil {
		return err
	}
	if n > len(limits) {
		return fmt.Errorf("a head of %d fields", n)
	}
	for range n {
		key, err := r.bytes()
		if err != nil {
			return err
		}
		limit, ok := limits[string(key)]
		if !ok {
			return fmt.Errorf("a head with the field %q", printable(string(key)))
		}
		v, err := r.number()
		if err != nil {
			return err
		}
		if v > limit {
			return fmt.Errorf("%s is %d, at most %d", key, v, limit)
		}
	}
	return nil
}

// guarded is a stream whose head is checked before memberlist sees it, and whose bytes are counted.
type guarded struct {
	net.Conn
	t     *transport
	bound bool // it came from outside: it counts for the cap

	head   []byte // checked, not yet read
	passed bool
	failed error
	left   int64
	closed sync.Once
}

// Read gives what was sent once its head has passed. It is called by one goroutine.
func (g *guarded) Read(b []byte) (int, error) {
	if g.failed != nil {
		return 0, g.failed
	}
	if !g.passed {
		if err := g.preamble(); err != nil {
			g.failed = err
			return 0, err
		}
	}
	if len(g.head) > 0 {
		n := copy(b, g.head)
		g.head = g.head[n:]
		return n, nil
	}
	if g.left <= 0 {
		g.t.refuse(reasonStream)
		g.failed = errTooLong
		return 0, errTooLong
	}
	n, err := g.Conn.Read(b[:min(int64(len(b)), g.left)])
	g.left -= int64(n)
	return n, err
}

func (g *guarded) preamble() error {
	buf := make([]byte, maxPreamble)
	n := 0
	for {
		more, err := checkPreamble(buf[:n], g.t.pool.keyring != nil, g.t.pool.c.AcceptPlain)
		if err != nil {
			g.t.refuse(reasonStream)
			return err
		}
		if !more {
			g.passed, g.head = true, slices.Clone(buf[:n])
			return nil
		}
		read, err := g.Conn.Read(buf[n:])
		n += read
		g.left -= int64(read)
		if err != nil && read == 0 {
			return err
		}
	}
}

// Close closes the stream and gives its place back.
func (g *guarded) Close() error {
	err := net.ErrClosed
	g.closed.Do(func() {
		err = g.Conn.Close()
		g.t.forget(g)
	})
	return err
}
