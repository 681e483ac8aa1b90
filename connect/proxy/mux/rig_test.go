// SPDX-License-Identifier: Apache-2.0

package mux

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weftmesh/weft/internal/memnet"
)

// counted is a connection whose writes are counted, and can be held up.
type counted struct {
	*memnet.Conn
	mu     sync.Mutex
	writes int
	bytes  int
}

func (c *counted) Write(p []byte) (int, error) {
	c.mu.Lock()
	c.writes++
	c.bytes += len(p)
	c.mu.Unlock()
	return c.Conn.Write(p)
}

func (c *counted) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.writes
}

// ends are two sessions on one connection.
type ends struct {
	t              *testing.T
	client, server *Session
	out            *counted // the client's
	accepted       chan *Stream
	left           chan struct{}
	over           [2]chan struct{}
	err            [2]error // of the client and the server, once over is closed
}

func connect(t *testing.T) *ends { return connectHeld(t, nil) }

// connectHeld has what the server holds be of held, and connectBoth also what the client holds.
func connectHeld(t *testing.T, held *Held) *ends { return connectBoth(t, nil, held) }

func connectBoth(t *testing.T, client, server *Held) *ends {
	a, b := memnet.Pipe("a", "b")
	e := &ends{
		t: t, out: &counted{Conn: a}, accepted: make(chan *Stream, 2*maxStreams), left: make(chan struct{}, 1),
		over: [2]chan struct{}{make(chan struct{}), make(chan struct{})},
	}
	e.client = New(e.out, Config{Held: client, Left: func() { e.left <- struct{}{} }})
	e.server = New(b, Config{Held: server, Accept: func(st *Stream) { e.accepted <- st }})
	for i, s := range []*Session{e.client, e.server} {
		go func() {
			defer close(e.over[i])
			e.err[i] = s.Run(t.Context())
		}()
	}
	t.Cleanup(func() {
		e.client.Close()
		e.server.Close()
		<-e.over[0]
		<-e.over[1]
	})
	return e
}

// stream opens one and gives both of its ends.
func (e *ends) stream() (near, far *Stream) {
	e.t.Helper()
	near, err := e.client.Open()
	if err != nil {
		e.t.Fatal(err)
	}
	return near, <-e.accepted
}

func send(t *testing.T, st *Stream, text string) {
	t.Helper()
	if n, err := io.WriteString(st, text); err != nil || n != len(text) {
		t.Fatalf("%d of %d bytes written: %v", n, len(text), err)
	}
}

func receive(t *testing.T, st *Stream, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(st, got); err != nil || string(got) != want {
		t.Fatalf("read %q, want %q: %v", got, want, err)
	}
}

// bubble runs a test in virtual time.
func bubble(t *testing.T, f func(*testing.T)) {
	t.Helper()
	synctest.Test(t, f)
}

// hostile is a peer that writes what it likes to a session that accepts, or opens.
type hostile struct {
	net.Conn
	s    *Session
	over chan struct{}
	err  error
}

func against(t *testing.T, accepts bool) *hostile {
	a, b := memnet.Pipe("a", "b")
	h := &hostile{Conn: a, over: make(chan struct{})}
	c := Config{}
	if accepts {
		c.Accept = func(st *Stream) {
			go func() {
				if _, err := io.Copy(io.Discard, st); err == nil { // it has ended in order: what comes behind that is for a stream that is there
					<-h.over
				}
				_ = st.Close()
			}()
		}
	}
	h.s = New(b, c)
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		defer close(h.over)
		h.err = h.s.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		_ = a.Close()
		<-h.over
	})
	return h
}

func (h *hostile) frames(b []byte) { _, _ = h.Write(b) } // it may have been closed

// broke waits for the session's end and says whether it was for what the peer did.
func (h *hostile) broke() bool {
	<-h.over
	return errors.As(h.err, new(*ProtocolError))
}

// drains reads all that the session says.
func (h *hostile) drains() { go func() { _, _ = io.Copy(io.Discard, h.Conn) }() }

const moment = 10 * time.Millisecond
