// SPDX-License-Identifier: Apache-2.0

package host

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"
)

// The waits between starts of a member that fails.
const (
	restartFirst = 100 * time.Millisecond
	restartMax   = 10 * time.Second
)

// grace is how long a member that isn't wanted any more goes on as before. Its callers hear at about the same time as the
// host proxy that its service is gone; and one that comes back within it, as when a service is restarted, was never away.
const grace = 2 * time.Second

// member is one running proxy.
type member struct {
	what    Member
	started time.Time
	stop    context.CancelFunc
	going   *time.Timer // stops it; nil: it is wanted. Guarded by Host.mu.

	mu     sync.Mutex // guards what follows
	runner Runner
	err    error
}

func (m *member) status() Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := Status{Member: m.what, Runner: m.runner, Err: m.err, Started: m.started}
	s.Ready = m.runner != nil && m.runner.Ready()
	if s.Ready {
		s.Err = nil
	}
	return s
}

func (m *member) set(r Runner, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.runner, m.err = r, err
}

var errEnded = errors.New("the proxy ended by itself")

// keep runs the member until ctx ends, and starts it again when it fails.
func (h *Host) keep(ctx context.Context, m *member) {
	wait := restartFirst
	for {
		began := time.Now()
		err := h.once(ctx, m)
		if ctx.Err() != nil || h.retired() {
			return
		}
		if err == nil {
			err = errEnded
		}
		m.set(nil, err)
		if time.Since(began) > restartMax {
			wait = restartFirst
		}
		h.c.Log.Error("a proxy failed, starting it again", "proxy", m.what, "error", err, "wait", wait)
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-h.c.Retire:
			timer.Stop()
			return
		case <-ctx.Done():
			timer.Stop()
			return
		}
		wait = min(2*wait, restartMax)
	}
}

// once makes and runs the member. A panic of its own goroutine is an error of this member, not the end of the others.
func (h *Host) once(ctx context.Context, m *member) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	runner, err := h.c.New(m.what)
	if err != nil {
		return err
	}
	m.mu.Lock()
	m.runner = runner
	m.mu.Unlock()
	return runner.Run(ctx)
}

// configure makes the members those of the list: what is equal stays untouched, what is changed is drained, and so is what is
// gone, after a grace.
func (h *Host) configure(generation uint64, want []Member) ([]Status, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.group == nil {
		return nil, errStopping
	}
	if h.frozen {
		return nil, errSucceeding
	}
	wanted := make(map[string]Member, len(want))
	for _, w := range want {
		wanted[w.ProxyID] = w
	}
	for id, m := range h.members {
		w, ok := wanted[id]
		switch {
		case ok && w == m.what && m.going == nil:
		case ok && w == m.what && m.going.Stop():
			h.c.Log.Info("a proxy is wanted again", "proxy", m.what)
			m.going = nil
		case ok:
			h.c.Log.Info("draining a proxy", "proxy", m.what, "changed", w != m.what)
			m.stop()
			delete(h.members, id)
		case m.going == nil:
			h.c.Log.Info("a proxy isn't wanted any more", "proxy", m.what)
			m.going = time.AfterFunc(grace, func() { h.remove(id, m) })
		}
	}
	for _, id := range slices.Sorted(maps.Keys(wanted)) {
		if h.members[id] == nil {
			h.startLocked(wanted[id])
		}
	}
	h.generation = generation
	return h.statusLocked(), nil
}

// remove drains a member whose grace is over.
func (h *Host) remove(id string, m *member) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.members[id] == m {
		h.c.Log.Info("draining a proxy", "proxy", m.what, "changed", false)
		m.stop()
		delete(h.members, id)
	}
}

func (h *Host) startLocked(w Member) {
	ctx, stop := context.WithCancel(h.group.Context())
	m := &member{what: w, started: time.Now(), stop: stop}
	h.members[w.ProxyID] = m
	h.c.Log.Info("starting a proxy", "proxy", w)
	h.group.Go("proxy "+w.ProxyID, func(context.Context) error {
		defer stop()
		h.keep(ctx, m)
		return nil
	})
}

func (h *Host) statusLocked() []Status {
	out := make([]Status, 0, len(h.members))
	for _, id := range slices.Sorted(maps.Keys(h.members)) {
		if m := h.members[id]; m.going == nil {
			out = append(out, m.status())
		}
	}
	return out
}
