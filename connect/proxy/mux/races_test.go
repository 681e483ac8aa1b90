// SPDX-License-Identifier: Apache-2.0

package mux

import (
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weftmesh/weft/connect/proxy/stream"
)

// quiet has what was sent arrive, and says whether the connection is still there.
func (e *ends) quiet() bool {
	synctest.Wait()
	select {
	case <-e.over[0]:
	case <-e.over[1]:
	default:
		return true
	}
	return false
}

// A stream that another goroutine closes while its data is on the way to the writer breaks no rule: what the others have on the connection stays.
func TestNothingFollowsAClose(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := connect(t)
		near, far := e.stream()
		if n, err := near.roomFor(1); n != 1 || err != nil {
			t.Fatal(n, err)
		}
		_ = near.Close()
		if err := e.client.w.data(near.id, []byte("x"), near.shut.Load); !errors.Is(err, net.ErrClosed) {
			t.Errorf("data of a closed stream: %v", err)
		}
		if err := e.client.w.flush(); err != nil || !e.quiet() {
			t.Errorf("the connection ended: %v, %v", e.err, err)
		}
		_ = far.Close()

		for range 200 { // both want to be the last
			near, far := e.stream()
			done := make(chan struct{})
			go func() {
				defer close(done)
				_ = near.CloseWrite()
			}()
			_ = near.Close()
			<-done
			if !e.quiet() {
				t.Fatalf("the connection ended: %v", e.err)
			}
			_ = far.Close()
		}
	})
}

// What a read was given when its stream was closed leaves no trace: the room of its window was given back.
func TestAReadThatEndsBehindTheClose(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := connect(t)
		_, far := e.stream()
		_ = far.Close()
		far.mu.Lock()
		grant := far.consumeLocked(firstWindow)
		far.mu.Unlock()
		if n := e.server.c.Held.grown.Load(); grant != 0 || n != 0 {
			t.Errorf("a closed stream was granted %d, and holds %d bytes of the room for windows", grant, n)
		}
	})
}

// unwritten is a connection whose peer is gone without a word: what is written to it fails after a while, and nothing comes.
type unwritten struct{ net.Conn }

func (unwritten) Write([]byte) (int, error) { return 0, os.ErrDeadlineExceeded }

// A connection that can't be written to any more ends, though its streams end first.
func TestUnwritableEnds(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := against(t, true)
		h.drains()
		h.s.w.nc = unwritten{h.s.nc}
		began := time.Now()
		h.frames(appendFrame(nil, kindOpen, 1, 0, nil))
		synctest.Wait()
		h.s.mu.Lock()
		st := h.s.streams[1]
		h.s.mu.Unlock()
		if _, err := io.WriteString(st, "answer"); err == nil {
			_, err = io.WriteString(st, "more")
			if err == nil {
				t.Error("nothing is wrong")
			}
		}
		_ = st.Close()
		<-h.over
		if d := time.Since(began); d > time.Second {
			t.Errorf("it ended after %v: %v", d, h.err)
		}
	})
}

// Who closes a stream on which nothing came since its answer says so: the answer arrives whole, what was sent meanwhile may be sent again, and there is
// room for other streams.
func TestRefusedBehindAnAnswer(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := connect(t)
		near, far := e.stream()
		send(t, near, "question")
		receive(t, far, "question")
		send(t, far, "answer")
		far.Refuse()
		if _, err := near.Write([]byte("another")); err != nil && !errors.Is(err, stream.ErrNotSent) { // the refusal may be here already
			t.Error(err)
		}
		synctest.Wait()
		receive(t, near, "answer")
		if _, err := near.Read(make([]byte, 1)); !errors.Is(err, stream.ErrNotSent) {
			t.Errorf("behind the answer: %v", err)
		}
		if _, err := near.Write([]byte("x")); !errors.Is(err, stream.ErrNotSent) {
			t.Errorf("a write: %v", err)
		}
		_ = near.Close()
		if other, err := e.client.Open(); err != nil {
			t.Error(err)
		} else {
			_ = other.Close()
		}
		if !e.quiet() {
			t.Error(e.err)
		}
	})
}

// What the other side has closed in order stays so when the connection ends behind that: who reads later finds the end, not a break.
func TestTheConnectionEndsBehindAClose(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := connect(t)
		near, far := e.stream()
		send(t, near, "the last")
		_ = near.Close()
		e.client.Leave()
		<-e.over[1]
		receive(t, far, "the last")
		if _, err := far.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("behind the last: %v", err)
		}
		_ = far.Close()
	})
}
