// SPDX-License-Identifier: Apache-2.0

package mux

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weftmesh/weft/connect/proxy/stream"
	"github.com/weftmesh/weft/internal/memnet"
)

func TestBytesGoBothWaysAndEnd(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := connect(t)
		near, far := e.stream()
		send(t, near, "question")
		receive(t, far, "question")
		send(t, far, "answer")
		receive(t, near, "answer")
		_ = near.CloseWrite()
		if n, err := far.Read(make([]byte, 1)); n != 0 || err != io.EOF {
			t.Errorf("after the end: %d, %v", n, err)
		}
		send(t, far, "more") // the other way goes on
		receive(t, near, "more")
		_ = far.Close()
		if n, err := near.Read(make([]byte, 1)); n != 0 || err != io.EOF {
			t.Errorf("after the close: %d, %v", n, err)
		}
		if _, err := near.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("a write after CloseWrite: %v", err)
		}
		_ = near.Close()
		if len(e.client.streams) != 0 || len(e.server.streams) != 0 {
			t.Error("a stream that is closed is kept")
		}
	})
}

func TestManyAtOnce(t *testing.T) {
	e := connect(t)
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			near, err := e.client.Open()
			if err != nil {
				t.Error(err)
				return
			}
			want := bytes.Repeat(fmt.Appendf(nil, "%d ", i), 1+i*i)
			wg.Go(func() {
				_, err := near.Write(want)
				if err = errors.Join(err, near.CloseWrite()); err != nil {
					t.Error(err)
				}
			})
			got, err := io.ReadAll(near)
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d: %d of %d bytes came back: %v", i, len(got), len(want), err)
			}
			_ = near.Close()
		})
		wg.Go(func() {
			far := <-e.accepted
			if _, err := io.Copy(far, far); err != nil {
				t.Error(err)
			}
			_ = far.Close()
		})
	}
	wg.Wait()
}

// What many have to send at one moment is one write.
func TestWritesGoTogether(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := connect(t)
		var nears, fars []*Stream
		for range 50 {
			near, far := e.stream()
			nears, fars = append(nears, near), append(fars, far)
		}
		before := e.out.count()
		e.client.w.mu.Lock() // so that they come at one moment
		for _, st := range nears {
			go func() { _, _ = io.WriteString(st, "request") }()
		}
		e.client.w.mu.Unlock()
		for _, st := range fars {
			receive(t, st, "request")
		}
		if n := e.out.count() - before; n > 12 { // some come when the first are on their way
			t.Errorf("50 requests went by %d writes", n)
		}
	})
}

// A stream that nobody reads takes no more than its window, and stops no other.
func TestWindow(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := connect(t)
		near, far := e.stream()
		done := make(chan error)
		go func() {
			_, err := near.Write(make([]byte, 3*firstWindow))
			done <- err
		}()
		synctest.Wait()
		if far.unread.n != firstWindow {
			t.Errorf("%d bytes wait to be read", far.unread.n)
		}
		other, heard := e.stream()
		send(t, other, "hello")
		receive(t, heard, "hello")
		if _, err := io.ReadFull(far, make([]byte, 3*firstWindow)); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
		if far.window <= firstWindow {
			t.Error("the window didn't grow, though it was read to its end")
		}
		_ = far.Close()
		if n := e.server.c.Held.grown.Load(); n != 0 {
			t.Errorf("a stream that is gone holds %d bytes of the room for windows", n)
		}
	})
}

func TestWindowsGrowNoFurther(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := connect(t)
		e.server.c.Held.grown.Store(maxGrown)
		near, far := e.stream()
		go func() { _, _ = near.Write(make([]byte, 4*firstWindow)) }()
		if _, err := io.ReadFull(far, make([]byte, 4*firstWindow)); err != nil {
			t.Fatal(err)
		}
		if far.window != firstWindow {
			t.Errorf("the window grew to %d", far.window)
		}
	})
}

func TestDeadlines(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := connect(t)
		near, far := e.stream()
		began := time.Now()
		_ = near.SetReadDeadline(began.Add(time.Second))
		for range 2 { // it stays over
			if _, err := near.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) != time.Second {
				t.Errorf("%v after %v", err, time.Since(began))
			}
		}
		_ = near.SetReadDeadline(began.Add(time.Hour))
		go func() {
			time.Sleep(time.Second) // virtual
			_ = near.SetReadDeadline(began.Add(2 * time.Second))
		}()
		if _, err := near.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) != 2*time.Second {
			t.Errorf("a deadline that was brought forward: %v after %v", err, time.Since(began))
		}
		_ = near.SetReadDeadline(time.Time{})
		send(t, far, "x")
		receive(t, near, "x")
		_ = near.SetWriteDeadline(time.Now().Add(time.Second))
		if _, err := near.Write(make([]byte, 2*firstWindow)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a write past the window: %v", err)
		}
	})
}

func TestReset(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := connect(t)
		near, far := e.stream()
		send(t, near, "lost")
		synctest.Wait()
		_ = near.SetLinger(0)
		_ = near.Close()
		synctest.Wait()
		if _, err := far.Read(make([]byte, 10)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("read after a reset: %v", err)
		}
		if _, err := far.Write([]byte("x")); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("written after a reset: %v", err)
		}
		if _, err := near.Read(make([]byte, 10)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("read after Close: %v", err)
		}
		_ = far.Close()
	})
}

func TestCloseWakes(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := connect(t)
		near, far := e.stream()
		errs := make(chan error, 2)
		go func() {
			_, err := near.Read(make([]byte, 1))
			errs <- err
		}()
		go func() {
			_, err := near.Write(make([]byte, 2*firstWindow))
			errs <- err
		}()
		synctest.Wait()
		_ = near.Close()
		for range 2 {
			if err := <-errs; !errors.Is(err, net.ErrClosed) {
				t.Errorf("%v", err)
			}
		}
		if _, err := io.Copy(io.Discard, far); err != nil { // what was written before has arrived
			t.Error(err)
		}
	})
}

// When the connection ends, what has come can still be read, and then all know.
func TestConnectionEnds(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := connect(t)
		near, far := e.stream()
		send(t, far, "arrived")
		synctest.Wait()
		e.server.Close()
		<-e.over[0]
		receive(t, near, "arrived")
		if _, err := near.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("read: %v", err)
		}
		if n, err := near.Write([]byte("x")); n != 0 || !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("written: %d, %v", n, err)
		}
		if near.Quiet() {
			t.Error("it could be used again")
		}
		if _, err := e.client.Open(); !errors.Is(err, ErrGone) {
			t.Errorf("opened: %v", err)
		}
		if e.err[0] == nil {
			t.Error("the end with an open stream counts as one in order")
		}
	})
}

// Who accepts leaves: streams go on, none is opened, and the opener closes the connection when the last is gone.
func TestLeave(t *testing.T) {
	for _, side := range []string{"accepts", "opens"} {
		t.Run(side, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				e := connect(t)
				near, far := e.stream()
				if side == "accepts" {
					e.server.Leave()
				} else {
					e.client.Leave()
				}
				synctest.Wait()
				if _, err := e.client.Open(); !errors.Is(err, ErrGone) {
					t.Errorf("opened: %v", err)
				}
				if side == "accepts" {
					<-e.left
				}
				if near.Quiet() {
					t.Error("what is idle would be used again")
				}
				send(t, near, "on")
				receive(t, far, "on")
				send(t, far, "and on")
				receive(t, near, "and on")
				_ = far.Close()
				_ = near.Close()
				<-e.over[0]
				<-e.over[1]
				if e.err[0] != nil || e.err[1] != nil {
					t.Errorf("the ends: %v, %v", e.err[0], e.err[1])
				}
			})
		})
	}
}

// A stream that is opened while the other side says that it leaves is served.
func TestOpenCrossesLeave(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := connect(t)
		e.server.mu.Lock() // its reader doesn't get to the open
		near, err := e.client.Open()
		if err != nil {
			t.Fatal(err)
		}
		e.server.leaveLocked()
		e.server.mu.Unlock()
		send(t, near, "late")
		far := <-e.accepted
		receive(t, far, "late")
		_ = far.Close()
		_ = near.Close()
		<-e.over[1]
		if e.err[1] != nil {
			t.Error(e.err[1])
		}
	})
}

// The accepting side says leave again when it closes the connection: what it hasn't closed by then was never looked at, and what it has closed stays as it
// is. A connection that ends without that word, as with a sidecar of before, says nothing of the sort.
func TestThePartingWord(t *testing.T) {
	for name, parts := range map[string]bool{"it parts": true, "it ends": false} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				h := against(t, false)
				h.drains()
				var streams []*Stream
				for range 3 {
					st, err := h.s.Open()
					if err != nil {
						t.Fatal(err)
					}
					send(t, st, "once")
					streams = append(streams, st)
				}
				b := appendFrame(nil, kindData, 1, 0, []byte("answer"))
				b = appendFrame(b, kindClose, 1, 0, nil)
				b = appendFrame(b, kindReset, 2, resetCut, nil)
				b = appendFrame(b, kindLeave, 0, 0, nil)
				if parts {
					b = appendFrame(b, kindLeave, 0, 0, nil)
				}
				h.frames(b)
				_ = h.Close()
				<-h.over
				receive(t, streams[0], "answer")
				for i, want := range []error{io.EOF, syscall.ECONNRESET, stream.ErrNotSent} {
					if i == 2 && !parts {
						want = syscall.ECONNRESET
					}
					if _, err := streams[i].Read(make([]byte, 1)); !errors.Is(err, want) || errors.Is(err, stream.ErrNotSent) != (i == 2 && parts) {
						t.Errorf("stream %d: %v", i, err)
					}
				}
			})
		})
	}
}

// held is a connection of which nothing is read before a time.
type held struct {
	net.Conn
	until time.Time
}

func (c held) Read(p []byte) (int, error) {
	time.Sleep(time.Until(c.until)) // virtual
	return c.Conn.Read(p)
}

// The accepting side parts also at the end of its context, with what has come and wasn't read.
func TestPartingWhenTheTimeIsOver(t *testing.T) {
	bubble(t, func(t *testing.T) {
		a, b := memnet.Pipe("a", "b")
		near := New(a, Config{})
		far := New(held{b, time.Now().Add(time.Minute)}, Config{Accept: func(*Stream) { t.Error("a stream was looked at") }})
		ctx, cancel := context.WithCancel(t.Context())
		over := make(chan error, 2)
		go func() { over <- far.Run(ctx) }()
		go func() { _ = near.Run(t.Context()); over <- nil }()
		st, err := near.Open()
		if err != nil {
			t.Fatal(err)
		}
		send(t, st, "once")
		synctest.Wait()
		cancel()
		if _, err := st.Read(make([]byte, 1)); !errors.Is(err, stream.ErrNotSent) {
			t.Errorf("read: %v", err)
		}
		_ = st.Close()
		for range 2 {
			if err := <-over; err != nil {
				t.Error(err)
			}
		}
	})
}

// Where its last word can't be said, as nobody reads at the other end, it ends all the same, and soon.
func TestPartingFromWhoDoesNotRead(t *testing.T) {
	bubble(t, func(t *testing.T) {
		a, b := memnet.Pipe("a", "b")
		defer a.Close()
		closed := make(chan struct{})
		far := New(b, Config{Accept: func(st *Stream) {
			go func() {
				send(t, st, string(make([]byte, firstWindow))) // a little less than that has room on the way
				_ = st.Close()
				close(closed)
			}()
		}})
		ctx, cancel := context.WithCancel(t.Context())
		over := make(chan error, 1)
		go func() { over <- far.Run(ctx) }()
		if _, err := a.Write(appendFrame(nil, kindOpen, 1, 0, nil)); err != nil {
			t.Fatal(err)
		}
		<-closed
		synctest.Wait()
		began := time.Now()
		cancel()
		<-over
		if took := time.Since(began); took != lastWords {
			t.Errorf("it took %s", took)
		}
	})
}

func TestIdle(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := connect(t)
		began := time.Now()
		near, far := e.stream()
		time.Sleep(3 * time.Hour) // virtual: a stream keeps it open
		_ = near.Close()
		_ = far.Close()
		<-e.over[1]
		if d := time.Since(began).Round(time.Second); d != 4*time.Hour || e.err[1] != nil {
			t.Errorf("it ended after %v: %v", d, e.err[1])
		}
	})
}

// Where nothing comes back when a stream is opened, the opener takes no more; what there is has its own times.
func TestSilence(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := against(t, false)
		st, err := h.s.Open()
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(5*time.Second - moment) // virtual
		if h.s.Leaving() {
			t.Error("it left too early")
		}
		time.Sleep(2 * moment) // virtual
		if _, err := h.s.Open(); !errors.Is(err, ErrGone) {
			t.Errorf("opened: %v", err)
		}
		h.frames(appendFrame(nil, kindData, 1, 0, []byte("late")))
		receive(t, st, "late")

		alive := connect(t)
		near, _ := alive.stream()
		time.Sleep(time.Minute) // virtual
		if alive.client.Leaving() {
			t.Error("it left though the other side answers")
		}
		_ = near.Close()
	})
}

// A stream that is cut, as its request's time is over, asks too: who takes one idle stream after the other opens none.
func TestSilenceAfterACut(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := against(t, false)
		h.drains()
		var streams []*Stream
		for range 3 {
			st, err := h.s.Open()
			if err != nil {
				t.Fatal(err)
			}
			streams = append(streams, st)
		}
		h.frames(appendFrame(nil, kindPong, 0, 0, nil))
		time.Sleep(time.Minute) // virtual
		_ = streams[0].Close()  // in order, as one that was idle for long
		time.Sleep(time.Minute) // virtual
		if h.s.Leaving() {
			t.Error("it left though nothing was asked")
		}
		_ = streams[1].SetLinger(0)
		_ = streams[1].Close()
		time.Sleep(5*time.Second + moment) // virtual
		if !h.s.Leaving() || streams[2].Quiet() {
			t.Error("what is idle would be used again, though the other side is silent")
		}
	})
}

func TestFull(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := connect(t)
		for range mostOpened {
			e.stream()
		}
		if _, err := e.client.Open(); !errors.Is(err, ErrFull) {
			t.Errorf("%v", err)
		}
		e.client.mu.Lock()
		var last *Stream
		for range maxStreams - mostOpened + 1 { // as if it had forgotten some
			e.client.last++
			last = e.client.addLocked(e.client.last)
			e.client.w.control(kindOpen, last.id, 0)
		}
		e.client.mu.Unlock()
		_, _ = last.Write([]byte("x"))
		if _, err := last.Read(make([]byte, 1)); !errors.Is(err, stream.ErrNotSent) {
			t.Errorf("a refused stream: %v", err)
		}
	})
}

func TestRest(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := connect(t)
		near, far := e.stream()
		resumed := make(chan time.Time, 1)
		rest := func(until time.Time) bool { return far.Rest(until, func() { resumed <- time.Now() }) }
		began := time.Now()
		for name, end := range map[string]func(){
			"data":  func() { send(t, near, "x"); synctest.Wait(); receive(t, far, "x") },
			"wake":  far.Wake,
			"until": func() { time.Sleep(time.Hour) }, // virtual
		} {
			began = time.Now()
			if !rest(began.Add(time.Minute)) {
				t.Fatal("it doesn't rest")
			}
			end()
			at := <-resumed
			if name == "until" && at.Sub(began) != time.Minute {
				t.Errorf("resumed after %v", at.Sub(began))
			}
		}
		if !rest(time.Time{}) {
			t.Fatal("it doesn't rest")
		}
		_ = near.Close()
		<-resumed
		if rest(time.Time{}) {
			t.Error("it rests though it has ended")
		}
	})
}

// Where the other side has stopped, no write outlives its stream: that goroutine has a client to answer.
func TestCloseEndsAWriteThatWaitsForRoom(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := against(t, false) // it reads nothing
		var streams []*Stream
		errs := make(chan error, 100)
		for range 10 {
			st, err := h.s.Open()
			if err != nil {
				t.Fatal(err)
			}
			streams = append(streams, st)
		}
		synctest.Wait() // that they are opened is written by others
		for _, st := range streams {
			go func() {
				_, err := st.Write(make([]byte, firstWindow))
				errs <- err
			}()
			synctest.Wait()
		}
		for _, st := range streams {
			_ = st.Close()
		}
		synctest.Wait()
		if len(errs) < 10 {
			t.Errorf("only %d writes ended", len(errs))
		}
		_ = h.Conn.Close()
	})
}
