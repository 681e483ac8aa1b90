// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/weftmesh/weft/internal/memnet"
)

// answerer answers a server's questions with their number plus one, each after a delay, in two pieces.
type answerer struct {
	delay chan time.Duration // -1: it hangs up
	dials int
}

func (a *answerer) dial(context.Context, string, string) (net.Conn, error) {
	a.dials++
	near, far := memnet.Pipe("asker", "asked")
	go func() {
		defer far.Close()
		var head [1]byte
		_, _ = io.ReadFull(far, head[:]) // the questions below tell
		_, _ = io.CopyN(io.Discard, far, int64(head[0]))
		var msg [message]byte
		for {
			if _, err := io.ReadFull(far, msg[:]); err != nil {
				return
			}
			d := <-a.delay
			if d < 0 {
				return
			}
			time.Sleep(d / 2)
			binary.BigEndian.PutUint64(msg[1:], binary.BigEndian.Uint64(msg[1:])+1)
			msg[0] = theAnswer
			_, _ = far.Write(msg[:4])
			time.Sleep(d / 2)
			_, _ = far.Write(msg[4:])
		}
	}()
	return near, nil
}

// An answer that is late is no other question's, keeps others from asking until it is there, and costs no connection.
func TestLateAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &answerer{delay: make(chan time.Duration, 8)}
		l := lines{dial: a.dial, id: "s1", now: time.Now}
		defer l.close()
		ask := func(number uint64, d time.Duration) {
			t.Helper()
			a.delay <- d
			if got, err := l.ask(t.Context(), t.Context(), "s2", askTerm, number); got != number+1 || err != nil {
				t.Errorf("asked %d: %d, %v", number, got, err)
			}
		}
		if _, ok := l.begin("s2", askTerm, 1); ok {
			t.Error("asked without a connection")
		}
		ask(1, 0)
		for i := range uint64(3) { // one that is in time, one of which half is, one that isn't at all
			number := 100 * (i + 1)
			d := time.Duration(i) * 8 * time.Millisecond
			a.delay <- d
			q, ok := l.begin("s2", askTerm, number)
			if !ok {
				t.Fatalf("%d isn't asked", number)
			}
			got, err := q.soon(slowAnswer - time.Duration(i)*4*time.Millisecond)
			if i > 0 {
				if !errors.Is(err, errLater) {
					t.Fatalf("%d: %d, %v", number, got, err)
				}
				if _, ok := l.begin("s2", askTerm, number); ok {
					t.Error("a second question before the first was answered")
				}
				got, err = q.rest(t.Context())
			}
			if got != number+1 || err != nil {
				t.Errorf("asked %d: %d, %v", number, got, err)
			}
			ask(number+7, time.Hour) // a deadline of before is over
		}
		if a.dials != 1 {
			t.Errorf("%d connections", a.dials)
		}
	})
}

// A line that breaks during a question is made anew for the next.
func TestBrokenLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &answerer{delay: make(chan time.Duration, 8)}
		l := lines{dial: a.dial, id: "s1", now: time.Now}
		defer l.close()
		for range 3 {
			a.delay <- 0
			if got, err := l.ask(t.Context(), t.Context(), "s2", askTerm, 5); got != 6 || err != nil {
				t.Fatalf("%d, %v", got, err)
			}
			q, ok := l.begin("s2", askTerm, 6)
			if !ok {
				t.Fatal("not asked")
			}
			a.delay <- -1
			if _, err := q.soon(slowAnswer); err == nil || errors.Is(err, errLater) {
				t.Fatalf("it hung up: %v", err)
			}
			if _, ok := l.begin("s2", askTerm, 6); ok {
				t.Fatal("asked on a connection that is broken")
			}
		}
		if a.dials != 3 {
			t.Errorf("%d connections", a.dials)
		}
	})
}

// Who is late is asked last, and first again once it has answered.
func TestLateIsAskedLast(t *testing.T) {
	var a answering
	order := func() string {
		servers := []raft.Server{{ID: "x"}, {ID: "y"}, {ID: "z"}}
		a.sort(servers)
		got := ""
		for _, s := range servers {
			got += string(s.ID)
		}
		return got
	}
	for _, step := range []struct {
		id   raft.ServerID
		well bool
		want string
	}{{"x", true, "xyz"}, {"x", false, "yzx"}, {"y", true, "yzx"}, {"z", false, "yxz"}, {"z", true, "zxy"}} {
		a.note(step.id, step.well)
		if got := order(); got != step.want {
			t.Errorf("after %s answered %t: %s, want %s", step.id, step.well, got, step.want)
		}
	}
}
