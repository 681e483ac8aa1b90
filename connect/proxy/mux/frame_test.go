// SPDX-License-Identifier: Apache-2.0

package mux

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"github.com/weftmesh/weft/internal/stormtest"
)

func TestFrames(t *testing.T) {
	frames := []frame{
		{kind: kindOpen, id: 1}, {kind: kindData, id: 1, data: []byte("hello")}, {kind: kindWindow, id: 1, n: 1 << 20}, {kind: kindEnd, id: 1},
		{kind: kindClose, id: 1<<32 - 1}, {kind: kindReset, id: 2, n: resetUnset}, {kind: kindLeave}, {kind: kindPing}, {kind: kindPong},
		{kind: kindData, id: 7, data: bytes.Repeat([]byte("x"), maxData)},
	}
	var all []byte
	for _, f := range frames {
		all = appendFrame(all, f.kind, f.id, f.n, f.data)
	}
	for _, step := range []int{1, 7, 8, 9, 100, len(all)} { // received in such pieces
		var d decoder
		var got []frame
		r := 0
		for w := min(step, len(all)); ; w = min(w+step, len(all)) {
			for {
				f, n, err := d.next(all[r:w])
				if err != nil {
					t.Fatal(err)
				}
				r += n
				if f.kind == kindNone && n == 0 {
					break
				}
				last := len(got) - 1
				switch {
				case f.kind == kindNone:
				case f.kind == kindData && last >= 0 && got[last].kind == kindData && got[last].id == f.id:
					got[last].data = append(got[last].data, f.data...)
				default:
					f.data = bytes.Clone(f.data)
					got = append(got, f)
				}
			}
			if w == len(all) {
				break
			}
		}
		if len(got) != len(frames) {
			t.Fatalf("in pieces of %d: %d frames, want %d", step, len(got), len(frames))
		}
		for i, f := range frames {
			if g := got[i]; g.kind != f.kind || g.id != f.id || g.n != f.n || !bytes.Equal(g.data, f.data) {
				t.Errorf("in pieces of %d: frame %d is %d of %d, want %d of %d", step, i, g.kind, g.id, f.kind, f.id)
			}
		}
	}
}

func TestBadFrames(t *testing.T) {
	for name, b := range map[string][]byte{
		"unknown kind":        {byte(kinds), 0, 0, 0, 0, 0, 0, 1},
		"kind 0":              {0, 0, 0, 0, 0, 0, 0, 1},
		"no data":             {byte(kindData), 0, 0, 0, 0, 0, 0, 1},
		"too much data":       {byte(kindData), 0, 0x40, 0, 0, 0, 0, 1},
		"open with something": {byte(kindOpen), 0, 0, 1, 0, 0, 0, 1, 0},
		"window too short":    {byte(kindWindow), 0, 0, 3, 0, 0, 0, 1},
		"window too long":     {byte(kindWindow), 0xff, 0xff, 0xff, 0, 0, 0, 1},
		"data of stream 0":    {byte(kindData), 0, 0, 1, 0, 0, 0, 0},
		"ping of a stream":    {byte(kindPing), 0, 0, 0, 0, 0, 0, 1},
	} {
		var d decoder
		if _, _, err := d.next(b); !errors.As(err, new(*ProtocolError)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzSession feeds a side that accepts, and one that has opened three streams. Whatever comes, each stream gets no more than its window, and
// there are no more streams than there may be.
func FuzzSession(f *testing.F) {
	seed := appendFrame(nil, kindOpen, 1, 0, nil)
	seed = appendFrame(seed, kindData, 1, 0, []byte("GET / HTTP/1.1\r\n\r\n"))
	seed = appendFrame(seed, kindOpen, 3, 0, nil)
	seed = appendFrame(seed, kindWindow, 3, 1000, nil)
	seed = appendFrame(seed, kindPing, 0, 0, nil)
	seed = appendFrame(seed, kindEnd, 3, 0, nil)
	seed = appendFrame(seed, kindClose, 3, 0, nil)
	seed = appendFrame(seed, kindReset, 1, 0, nil)
	seed = appendFrame(seed, kindLeave, 0, 0, nil)
	for _, n := range []int{len(seed), 30, 0} {
		f.Add(seed[:n], uint8(0))
		f.Add(seed[:n], uint8(9))
	}
	stormtest.Fuzz(f, func(t *testing.T, in []byte, step uint8) {
		var streams []*Stream
		nc := stormtest.Conn(in, 1+int(step))
		server := New(nc, Config{Accept: func(st *Stream) { streams = append(streams, st) }})
		_ = server.Run(context.Background())
		if len(streams) > maxStreams {
			t.Fatalf("%d streams at once", len(streams))
		}
		client := New(stormtest.Conn(in, 1+int(step)), Config{})
		for range 3 {
			st, err := client.Open()
			if err != nil {
				t.Fatal(err)
			}
			streams = append(streams, st)
		}
		_ = client.Run(context.Background())
		for _, st := range streams {
			if st.unread.n > firstWindow || st.unread.n < 0 {
				t.Fatalf("%d bytes are held of a stream", st.unread.n)
			}
			_ = st.Close()
		}
		if n := len(server.streams) + len(client.streams); n != 0 {
			t.Fatalf("%d streams are kept", n)
		}
	})
}
