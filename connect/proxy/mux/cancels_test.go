// SPDX-License-Identifier: Apache-2.0

package mux

import (
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"
)

// serves is another sidecar whose program answers nothing: each stream is read until it is over.
func (e *ends) serves() {
	go func() {
		for {
			select {
			case far := <-e.accepted:
				go func() {
					_, _ = io.Copy(io.Discard, far)
					_ = far.Close()
				}()
			case <-e.over[1]:
				return
			}
		}
	}()
}

// Clients that take back what they asked for, as they hedge or the program hangs, are none of the sidecar's fault: the connection of all of its clients
// is neither cut nor slowed for it. What is more than it carries goes by others.
func TestClientsThatLeaveCutNobodyElse(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := connect(t)
		near, far := e.stream()
		send(t, near, "question")
		receive(t, far, "question")
		e.serves()
		elsewhere, slowest := 0, time.Duration(0)
		for i := range 20 * 500 { // 20 s of 500 a second
			st, err := e.client.Open()
			switch {
			case errors.Is(err, ErrFull):
				elsewhere++
			case err != nil:
				t.Fatalf("after %d: %v, %v", i, err, e.err)
			default:
				go func() {
					_, _ = io.WriteString(st, "request")
					time.Sleep(200 * time.Millisecond) // virtual
					_ = st.SetLinger(0)
					_ = st.Close()
				}()
			}
			time.Sleep(2 * time.Millisecond) // virtual
			if i%100 == 0 {
				began := time.Now()
				send(t, near, "x")
				receive(t, far, "x")
				slowest = max(slowest, time.Since(began))
			}
		}
		synctest.Wait()
		if !e.quiet() || slowest > moment || elsewhere > 20*500*9/10 {
			t.Errorf("%v; what others sent came after up to %v; %d of %d went by other connections", e.err, slowest, elsewhere, 20*500)
		}
		time.Sleep(time.Minute) // virtual
		_ = near.Close()
	})
}

// Where what is sent to a peer comes to it at once, after it had stopped, it finds no more than it takes.
func TestClientsThatLeaveWhileThePeerStops(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := connect(t)
		near, far := e.stream()
		e.serves()
		for range 3 {
			e.server.mu.Lock() // it stops
			for range 20 * 100 {
				if st, err := e.client.Open(); err == nil {
					_ = st.Close()
				}
			}
			e.server.mu.Unlock()
			time.Sleep(4 * time.Second) // virtual
			send(t, near, "x")
			began := time.Now()
			receive(t, far, "x")
			if d := time.Since(began); d > moment {
				t.Errorf("what others sent came after %v", d)
			}
		}
		if !e.quiet() {
			t.Error(e.err)
		}
		_ = near.Close()
	})
}

// A stream that was refused, as the other side still has some that are gone here, shows that there is no room for a while.
func TestRefusedIsFull(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := against(t, false)
		h.drains()
		if _, err := h.s.Open(); err != nil {
			t.Fatal(err)
		}
		h.frames(appendFrame(nil, kindReset, 1, resetUnset, nil))
		synctest.Wait()
		if _, err := h.s.Open(); !errors.Is(err, ErrFull) {
			t.Errorf("opened: %v", err)
		}
		h.frames(appendFrame(nil, kindPong, 0, 0, nil))
		time.Sleep(refusedFor) // virtual
		if _, err := h.s.Open(); err != nil {
			t.Error(err)
		}
	})
}

// A sidecar that lets no more connections in closes each stream at once, however many there are: neither that nor what the opener answers is a fault.
func TestStreamsThatAreClosedAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e := connect(t)
		for range idles + 1000 {
			near, far := e.stream()
			send(t, near, "request")
			_ = far.Close()
			if _, err := near.Read(make([]byte, 1)); err != io.EOF {
				t.Fatal(err)
			}
			_ = near.SetLinger(0)
			_ = near.Close()
			synctest.Wait()
		}
		if !e.quiet() {
			t.Error(e.err)
		}
	})
}
