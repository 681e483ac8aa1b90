// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/internal/api"
)

// sessionKeeper ends the sessions whose time to live is over. Only the leader does, by its own clock: a renewal isn't ordered,
// and a new leader gives every session its whole time again. As in Consul a session lives for twice its time to live: clients
// that were written for Consul count on it.
type sessionKeeper struct {
	s *Server

	mu    sync.Mutex
	leads bool
	ends  map[string]time.Time // by sessionKey
}

// lifeFactor is how many times its time to live a session is left alone.
const lifeFactor = 2

// sessionsSettle is the least time between two looks at all sessions.
const sessionsSettle = 100 * time.Millisecond

func newSessionKeeper(s *Server) *sessionKeeper {
	return &sessionKeeper{s: s, ends: map[string]time.Time{}}
}

func sessionKey(s *catalog.Session) string {
	return s.Partition + "\x00" + s.Namespace + "\x00" + strings.ToLower(s.ID)
}

// RenewSession gives a session its whole time to live again. Only the leader can.
func (s *Server) RenewSession(session *catalog.Session) error {
	k := s.sessions
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.leads {
		return api.ErrNoLeader
	}
	if life := session.Life(); life > 0 {
		k.ends[sessionKey(session)] = s.c.Now().Add(lifeFactor * life)
	}
	return nil
}

// keep ends sessions until leadership ends.
func (k *sessionKeeper) keep(ctx context.Context) error {
	k.lead(true)
	defer k.lead(false)
	for {
		txn := k.s.store.Read().Record()
		all, err := txn.AllSessions()
		if err != nil {
			return err
		}
		over, next := k.look(all)
		for _, s := range over {
			k.s.c.Log.Info("session ended, it wasn't renewed", "session", s.ID, "name", s.Name, "node", s.Node)
			if _, err := k.s.Propose(ctx, catalog.DestroySession{Scope: s.Scope, ID: s.ID}); err != nil && ctx.Err() == nil {
				k.s.c.Log.Warn("session can't be ended", "session", s.ID, "error", err)
				next = leadRetry
			}
		}
		wctx, cancel := ctx, context.CancelFunc(func() {})
		if next > 0 {
			wctx, cancel = context.WithTimeout(ctx, next)
		}
		_ = k.s.store.WaitChange(wctx, txn) // fails only with its context
		cancel()
		timer := time.NewTimer(sessionsSettle)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil
		}
	}
}

func (k *sessionKeeper) lead(leads bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.leads, k.ends = leads, map[string]time.Time{}
}

// look finds the sessions that are over, and when the next one will be (0: none).
func (k *sessionKeeper) look(all []*catalog.Session) (over []*catalog.Session, next time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.s.c.Now()
	ends := make(map[string]time.Time, len(all))
	for _, s := range all {
		life := s.Life()
		if life <= 0 {
			continue
		}
		key := sessionKey(s)
		end, known := k.ends[key]
		if !known {
			end = now.Add(lifeFactor * life)
		}
		ends[key] = end
		left := end.Sub(now)
		if left <= 0 {
			over = append(over, s)
			left = leadRetry
		}
		if next == 0 || left < next {
			next = left
		}
	}
	k.ends = ends
	return over, next
}
