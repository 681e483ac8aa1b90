// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/weftmesh/weft/internal/api"
)

// muteOne has nothing be heard of a server, nor hear it.
func (w *town) muteOne(s *citizen) {
	host, _, _ := net.SplitHostPort(s.c.Address)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mute[host] = true
}

// Who asks the leader is one of the majority, if it votes and is in no later term. Without a majority nothing is confirmed, though the
// leader doesn't know yet that it may be none.
func TestWitness(t *testing.T) {
	three(t, func(t *testing.T, w *town) {
		l := w.leader()
		f := w.followers()[0]
		l.want("PUT", "/v1/kv/a", "1", 200, "true")
		office := l.office.Load()
		if _, err := l.readIndex(t.Context(), "", 0); err != nil {
			t.Errorf("all are there: %v", err)
		}
		w.muteOne(l)
		for _, c := range []struct {
			what, witness string
			term          uint64
			ok            bool
		}{
			{"nobody asks", "", 0, false},
			{"one in a later term asks", f.id, office + 1, false},
			{"one asks that doesn't vote", "id-9", office, false},
			{"the leader itself asks", l.id, office, false},
			{"a follower asks", f.id, office, true},
			{"a follower asks that hasn't heard of this leader's election yet", f.id, office - 1, true},
		} {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond) // less than the leader's lease, all together
			_, err := l.readIndex(ctx, c.witness, c.term)
			cancel()
			if (err == nil) != c.ok || err != nil && !errors.Is(err, api.ErrNoLeader) && !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: %v", c.what, err)
			}
		}
	})
}

// A leader that others have replaced without its knowledge confirms nothing, whoever vouches for it; nor does one that was elected
// again and hasn't taken office since.
func TestDeposedConfirmsNothing(t *testing.T) {
	three(t, func(t *testing.T, w *town) {
		old := w.leader()
		f, g := w.followers()[0], w.followers()[1]
		old.want("PUT", "/v1/kv/a", "1", 200, "true")
		term := old.office.Load()
		w.muteOne(old)
		for { // until one of them leads
			one, other := f.elections.next(), g.elections.next()
			if f.leads() || g.leads() {
				break
			}
			select {
			case <-one:
			case <-other:
			}
		}
		old.office.Store(term) // as if it had been paused all the while
		if _, err := old.readIndex(t.Context(), f.id, term); !errors.Is(err, api.ErrNoLeader) {
			t.Errorf("a deposed leader with an old witness: %v", err)
		}
		if old.decides(old.raft.Load()) {
			t.Error("a deposed leader decides alone")
		}
		old.office.Store(0)
		now := w.leader()
		now.office.Store(term)
		if _, err := now.readIndex(t.Context(), f.id, term); !errors.Is(err, api.ErrNoLeader) {
			t.Errorf("a leader with the office of an earlier term: %v", err)
		}
		now.office.Store(now.raft.Load().CurrentTerm())
	})
}

// Reads at every server go on while one of three is mute, and while it is back.
func TestReadsWithoutOne(t *testing.T) {
	three(t, func(t *testing.T, w *town) {
		l, fs := w.leader(), w.followers()
		l.want("PUT", "/v1/kv/a", "1", 200, "true")
		for _, s := range w.all {
			s.want("GET", "/v1/kv/a", "", 200, "")
		}
		w.muteOne(fs[0])
		for i := range 20 {
			began := time.Now()
			for _, s := range []*citizen{l, fs[1]} {
				s.want("GET", "/v1/kv/a", "", 200, "")
			}
			if d := time.Since(began); d > heartbeatTimeout {
				t.Errorf("read %d took %v", i, d)
			}
		}
		host, _, _ := net.SplitHostPort(fs[0].c.Address)
		w.mu.Lock()
		w.mute[host] = false
		w.mu.Unlock()
		for _, s := range w.all {
			s.want("GET", "/v1/kv/a", "", 200, "")
		}
	})
}
