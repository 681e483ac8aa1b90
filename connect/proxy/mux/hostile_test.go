// SPDX-License-Identifier: Apache-2.0

package mux

import (
	"errors"
	"io"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weftmesh/weft/connect/proxy/calm"
	"github.com/weftmesh/weft/internal/memnet"
)

// TestHostile: what breaks the protocol ends the connection, and its control doesn't.
func TestHostile(t *testing.T) {
	open := func(id uint32) []byte { return appendFrame(nil, kindOpen, id, 0, nil) }
	data := func(id uint32, n int) (b []byte) {
		for ; n > 0; n -= maxData {
			b = appendFrame(b, kindData, id, 0, make([]byte, min(n, maxData)))
		}
		return b
	}
	of := func(k kind, id, n uint32) []byte { return appendFrame(nil, k, id, n, nil) }
	join := func(parts ...[]byte) (b []byte) {
		for _, p := range parts {
			b = append(b, p...)
		}
		return b
	}
	times := func(n int, f func(i int) []byte) (b []byte) {
		for i := range n {
			b = append(b, f(i)...)
		}
		return b
	}
	for name, c := range map[string]struct {
		opens     bool // the session opens streams; else it accepts them
		bad, good []byte
	}{
		"a number used again":     {bad: join(open(1), of(kindClose, 1, 0), open(1)), good: join(open(1), of(kindClose, 1, 0), open(2))},
		"a number that is less":   {bad: join(open(5), open(3)), good: join(open(3), open(5))},
		"never opened":            {bad: data(1, 1), good: join(open(1), data(1, 1))},
		"opened by who accepts":   {opens: true, bad: open(1), good: of(kindPing, 0, 0)},
		"end after the end":       {bad: join(open(1), of(kindEnd, 1, 0), of(kindEnd, 1, 0)), good: join(open(1), of(kindEnd, 1, 0), of(kindClose, 1, 0))},
		"close after the close":   {opens: true, bad: join(of(kindClose, 1, 0), of(kindClose, 1, 0)), good: of(kindClose, 1, 0)},
		"data after the end":      {bad: join(open(1), of(kindEnd, 1, 0), data(1, 1)), good: join(open(1), data(1, 1), of(kindEnd, 1, 0))},
		"past the window":         {opens: true, bad: data(1, firstWindow+1), good: data(1, firstWindow)},
		"a window of nothing":     {bad: join(open(1), of(kindWindow, 1, 0)), good: join(open(1), of(kindWindow, 1, 1))},
		"a window without end":    {bad: join(open(1), of(kindWindow, 1, 1<<30), of(kindWindow, 1, 1<<30)), good: join(open(1), of(kindWindow, 1, 1<<20))},
		"opened after leave":      {bad: join(of(kindLeave, 0, 0), open(1)), good: join(open(1), of(kindLeave, 0, 0))},
		"pings without end":       {bad: times(idles+100, func(int) []byte { return of(kindPing, 0, 0) }), good: times(100, func(int) []byte { return of(kindPing, 0, 0) })},
		"windows without end":     {bad: join(open(1), times(idles+100, func(int) []byte { return of(kindWindow, 1, 1) })), good: join(open(1), times(100, func(int) []byte { return of(kindWindow, 1, 1) }))},
		"windows between bytes":   {bad: join(open(1), times(idles+200, func(int) []byte { return join(of(kindWindow, 1, 1), data(1, 1)) })), good: join(open(1), times(100, func(int) []byte { return join(of(kindWindow, 1, 1), data(1, 1)) }))},
		"streams taken back":      {bad: times(2*wastes, func(i int) []byte { return join(open(uint32(i+1)), of(kindReset, uint32(i+1), 0)) }), good: times(100, func(i int) []byte { return join(open(uint32(i+1)), of(kindReset, uint32(i+1), 0)) })},
		"opened without end":      {bad: times(maxStreams+2*wastes, func(i int) []byte { return open(uint32(i + 1)) }), good: times(maxStreams+10, func(i int) []byte { return open(uint32(i + 1)) })},
		"data for what is closed": {opens: true, bad: join(of(kindClose, 2, 0), data(3, firstWindow), data(3, 1)), good: data(3, firstWindow)},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				for _, bad := range []bool{true, false} {
					h := against(t, !c.opens)
					h.drains()
					for i := range 3 {
						if c.opens {
							st, err := h.s.Open()
							if err != nil {
								t.Fatal(err)
							}
							if i == 2 { // closed here
								_ = st.Close()
							}
						}
					}
					if bad {
						h.frames(c.bad)
						if !h.broke() {
							t.Errorf("it ended with %v", h.err)
						}
						continue
					}
					h.frames(c.good)
					<-time.After(time.Second) // virtual
					select {
					case <-h.over:
						t.Errorf("the control ended with %v", h.err)
					default:
					}
				}
			})
		})
	}
}

// Who doesn't read what is answered can't have answers kept without end.
func TestUnreadAnswers(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := against(t, true)
		for range 400 {
			var b []byte
			for range 100 {
				b = appendFrame(b, kindPing, 0, 0, nil)
			}
			h.frames(b)
			h.s.w.mu.Lock()
			if n := len(h.s.w.buf); n > waitAt+maxData+maxUnread+100 {
				t.Errorf("%d bytes wait to be read", n)
			}
			h.s.w.mu.Unlock()
			<-time.After(100 * time.Millisecond) // virtual: within what a peer may send
		}
		<-h.over
		if h.err == nil {
			t.Error("it ended in order")
		}
	})
}

// As much as a peer can have kept: each window full, and nobody reads.
func TestMemoryOfFullWindows(t *testing.T) {
	if testing.Short() {
		t.Skip("some 40 MB")
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	e := connect(t)
	var nears []*Stream
	for range mostOpened {
		near, _ := e.stream()
		nears = append(nears, near)
	}
	chunk := make([]byte, firstWindow)
	for _, st := range nears {
		if _, err := st.Write(chunk); err != nil {
			t.Fatal(err)
		}
	}
	probe, err := e.client.Open()
	if err == nil {
		_ = probe.Close()
		t.Fatal("there was room for one more")
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 48<<20 {
		t.Errorf("%d MB are kept", grown>>20)
	}
}

// More connections don't have more kept: where all hold too much, streams are cut, and one whose connection holds little isn't.
func TestHeldOfAll(t *testing.T) {
	if testing.Short() {
		t.Skip("some 50 MB")
	}
	bubble(t, func(t *testing.T) {
		var held Held
		small := connectHeld(t, &held)
		near, far := small.stream()
		chunk := make([]byte, firstWindow)
		cut := 0
		for range 3 {
			e := connectHeld(t, &held)
			for range mostOpened {
				st, _ := e.stream()
				_, _ = st.Write(chunk) // it may have been cut
			}
			synctest.Wait() // all has come
			send(t, near, "a word")
			receive(t, far, "a word")
			e.server.mu.Lock()
			for _, st := range e.server.streams {
				st.mu.Lock()
				if errors.Is(st.dead, errHeld) {
					cut++
				}
				st.mu.Unlock()
			}
			e.server.mu.Unlock()
		}
		if n := held.bytes.Load(); n > maxHeld+4*littleHeld || cut == 0 {
			t.Errorf("%d bytes are kept of all, %d streams were cut", n, cut)
		}
		send(t, near, "another")
		receive(t, far, "another")
	})
}

// A peer that has little kept on each of many connections has no more kept than others: what is little in any case is so of all of one peer's together.
func TestHeldOfOnePeer(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var held Held
		held.bytes.Store(maxHeld + 1)
		peer, other := held.Share(), held.Share()
		for range littleShare/littleHeld + 4 {
			e := connectHeld(t, peer)
			for range 300 { // a byte of each takes a buffer
				near, _ := e.stream()
				send(t, near, "x")
			}
			synctest.Wait()
		}
		if n := peer.bytes.Load(); n > littleShare+smallPiece {
			t.Errorf("%d bytes are kept of one peer", n)
		}
		e := connectHeld(t, other)
		near, far := e.stream()
		send(t, near, "a word")
		receive(t, far, "a word")
		e.client.Close()
		<-e.over[1]
		_ = far.Close()
		if n := other.bytes.Load(); n != 0 {
			t.Errorf("%d bytes of what is gone count", n)
		}
	})
}

// Streams that have to be refused, as what they bring can't be kept, are no cheaper to their opener than those it takes back.
func TestRefusedWithoutEnd(t *testing.T) {
	bubble(t, func(t *testing.T) {
		a, b := memnet.Pipe("a", "b")
		s := New(b, Config{Accept: func(st *Stream) { st.Refuse() }})
		over := make(chan error, 1)
		go func() { over <- s.Run(t.Context()) }()
		go func() { _, _ = io.Copy(io.Discard, a) }() // until it ends
		for id := range uint32(2 * wastes) {
			if _, err := a.Write(appendFrame(nil, kindOpen, id+1, 0, nil)); err != nil {
				break // it has ended
			}
		}
		select {
		case err := <-over:
			if !errors.As(err, new(*ProtocolError)) {
				t.Errorf("it ended with %v", err)
			}
		case <-time.After(time.Minute): // virtual: it rests
			t.Error("it goes on")
			s.Close()
			<-over
		}
		_ = a.Close()
	})
}

// Streams that are opened all at once let others have their turn between, and who breaks the protocol isn't cut off before its own.
func TestTurnsOfWhatIsOpened(t *testing.T) {
	bubble(t, func(t *testing.T) {
		a, b := memnet.Pipe("a", "b")
		yields, q := 0, new(calm.Queue)
		s := New(b, Config{Accept: func(*Stream) {}, Yield: func() { yields++ }, Refusals: q})
		over := make(chan error, 1)
		go func() { over <- s.Run(t.Context()) }()
		go func() { _, _ = io.Copy(io.Discard, a) }() // until it ends
		var all []byte
		for id := range uint32(10 * turnLength) {
			all = appendFrame(all, kindOpen, id+1, 0, nil)
		}
		if _, err := a.Write(all); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if yields != 10 {
			t.Errorf("%d streams were opened in %d turns, want 10", 10*turnLength, yields)
		}
		q.Wait(t.Context(), refusalCost) // another's
		began := time.Now()
		if _, err := a.Write(appendFrame(nil, kindOpen, 1, 0, nil)); err != nil { // again
			t.Fatal(err)
		}
		if err := <-over; !errors.As(err, new(*ProtocolError)) {
			t.Errorf("it ended with %v", err)
		}
		if took := time.Since(began); took == 0 || took > restTimes*refusalCost {
			t.Errorf("it was cut off after %s", took)
		}
		_ = a.Close()
	})
}
