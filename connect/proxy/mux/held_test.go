// SPDX-License-Identifier: Apache-2.0

package mux

import (
	"bytes"
	"io"
	"testing"
	"testing/synctest"
	"time"
)

// All windows of a Held together grow by so much and no more, those of one share by half of it, and what is closed makes room.
func TestWindowsOfAllSessionsGrowTogether(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var held Held
		shares := []*Held{held.Share(), held.Share(), held.Share()}
		var fars []*Stream
		for i, share := range shares {
			for range 2 {
				e := connectHeld(t, share)
				for range 8 {
					near, far := e.stream()
					done := make(chan struct{})
					go func() {
						defer close(done)
						send(t, near, string(make([]byte, maxWindow)))
					}()
					if _, err := io.ReadFull(far, make([]byte, maxWindow)); err != nil {
						t.Fatal(err)
					}
					<-done
					fars = append(fars, far)
				}
			}
			n, of := held.grown.Load(), share.grown.Load()
			if most := min(int64(i+1)*maxGrown/2, maxGrown); n > most || n < most-maxWindow || of > maxGrown/2 {
				t.Errorf("windows have grown by %d, %d of it those of share %d", n, of, i)
			}
		}
		for _, far := range fars {
			_ = far.Close()
		}
		for i, h := range append(shares, &held) {
			if n := h.grown.Load(); n != 0 {
				t.Errorf("when all is closed %d bytes of %d are taken", n, i)
			}
		}
	})
}

// Where much waits to be read on all sessions, the windows of streams that are read slowly shrink, on both sides; those that are read at once stay, and none grows.
// Nothing is lost by that, and when memory is there again windows grow.
func TestWindowsShrinkWhereMemoryIsTight(t *testing.T) {
	for _, side := range []string{"accepts", "opens"} {
		t.Run(side, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				var held Held
				e := connectBoth(t, held.Share(), held.Share())
				ends := func() (out, in *Stream) {
					near, far := e.stream()
					if side == "opens" {
						return far, near
					}
					return near, far
				}
				moves := func(out, in *Stream, size, atOnce int) {
					t.Helper()
					want := bytes.Repeat([]byte("0123456789"), size/10)
					go func() { _, _ = out.Write(want) }() // what is missing is found
					got := make([]byte, len(want))
					for n := 0; n < len(got); {
						synctest.Wait()
						m, err := in.Read(got[n:min(n+atOnce, len(got))])
						if err != nil {
							t.Fatal(err)
						}
						n += m
					}
					if !bytes.Equal(got, want) {
						t.Error("other bytes came than were sent")
					}
				}
				out, in := ends()
				moves(out, in, 4*maxWindow, maxWindow)
				if in.window != maxWindow {
					t.Errorf("a window of %d is to shrink", in.window)
				}
				held.bytes.Add(tightForAll + 1)
				quickOut, quick := ends()
				moves(quickOut, quick, 10*firstWindow, maxWindow)
				if quick.window != firstWindow {
					t.Errorf("a stream that is read at once has a window of %d", quick.window)
				}
				moves(out, in, 4*maxWindow, leastWindow/2)
				if in.window != leastWindow || in.unread.kept > 2*leastWindow {
					t.Errorf("a stream that is read slowly has a window of %d", in.window)
				}
				if n := held.grown.Load(); n != 0 {
					t.Errorf("windows have grown by %d", n)
				}
				held.bytes.Add(-tightForAll - 1)
				moves(out, in, 4*maxWindow, maxWindow)
				if in.window != maxWindow {
					t.Errorf("a window of %d has grown again", in.window)
				}
			})
		})
	}
}

// Who holds much has less at a time before others do.
func TestWindowsOfOneShrinkFirst(t *testing.T) {
	var held Held
	much, little := held.Share(), held.Share()
	for _, c := range []struct {
		much, little               int64
		tightForMuch, tightForLess bool
	}{
		{tightHeld - 1, 0, false, false},
		{tightHeld, 1, true, false},
		{littleShare, tightHeld, false, true},
		{tightForAll, 1, true, true},
	} {
		much.bytes.Store(c.much)
		little.bytes.Store(c.little)
		held.bytes.Store(c.much + c.little)
		if a, b := much.tight(), little.tight(); a != c.tightForMuch || b != c.tightForLess {
			t.Errorf("with %d and %d bytes memory is tight for one: %v, the other: %v", c.much, c.little, a, b)
		}
	}
}

// What needs no large window takes none from others: neither messages far from each other, nor what was fast once and is slow now.
func TestWindowsGrowByNeed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var held Held
		e := connectHeld(t, &held)
		near, far := e.stream()
		message := func(n int) {
			t.Helper()
			go func() { _, _ = near.Write(make([]byte, n)) }() // what is missing is found
			if _, err := io.ReadFull(far, make([]byte, n)); err != nil {
				t.Fatal(err)
			}
		}
		for range 1000 {
			message(1 << 10)
			time.Sleep(time.Second)
		}
		if far.window != firstWindow || held.grown.Load() != 0 {
			t.Errorf("a KB a second has a window of %d", far.window)
		}
		message(4 * maxWindow)
		if far.window != maxWindow {
			t.Errorf("what is sent at once has a window of %d", far.window)
		}
		for range 1500 {
			message(1 << 10)
			time.Sleep(time.Second)
		}
		if far.window != firstWindow || held.grown.Load() != 0 {
			t.Errorf("a KB a second behind that has a window of %d, and %d bytes have grown", far.window, held.grown.Load())
		}
	})
}

// What one client of the opener's doesn't read costs no other's stream, however much that is.
func TestTheOpenerCutsNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var held Held
		held.bytes.Store(2 * maxHeld)
		e := connectBoth(t, held.Share(), nil)
		var nears []*Stream
		for range littleShare/firstWindow + 10 {
			near, far := e.stream()
			send(t, far, string(make([]byte, firstWindow)))
			nears = append(nears, near)
		}
		synctest.Wait()
		for _, near := range nears {
			if _, err := io.ReadFull(near, make([]byte, firstWindow)); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// Who has many streams that are read slowly loses none where memory is tight, as long as they don't all stand still at once.
func TestSlowStreamsAreNotCut(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const streams, size, room = 250, 4 * firstWindow, littleShare * 3 / 2
		var held Held
		held.bytes.Store(maxHeld - room) // others'
		e := connectHeld(t, held.Share())
		read := make(chan error, streams)
		for range streams {
			near, far := e.stream()
			go func() { _, _ = near.Write(make([]byte, size)) }()
			go func() {
				for n := 0; n < size; {
					time.Sleep(5 * time.Millisecond)
					m, err := far.Read(make([]byte, 4<<10))
					if err != nil {
						read <- err
						return
					}
					n += m
				}
				read <- nil
			}()
			time.Sleep(time.Millisecond)
		}
		for range streams {
			if err := <-read; err != nil {
				t.Error(err)
			}
		}
	})
}
