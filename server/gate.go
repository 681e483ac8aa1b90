// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"sync"
	"time"

	"github.com/weftmesh/weft/internal/api"
)

// gate makes reads linearizable on every server: before a read, the leader confirms that it leads (see confirm.go), and this server's
// catalog catches up with what was agreed until then. Reads that come while a confirmation is under way share the next one.
type gate struct {
	s    *Server
	wake chan struct{}

	mu    sync.Mutex
	next  *round
	ended bool // nobody confirms any more
}

// round is one confirmation; err is set when done is closed. It is given up when the first who waits for it has waited long enough.
type round struct {
	done  chan struct{}
	began time.Time
	err   error
}

func (r *round) finish(err error) {
	r.err = err
	close(r.done)
}

func newGate(s *Server) *gate { return &gate{s: s, wake: make(chan struct{}, 1)} }

// pass waits until a read that begins now sees all that was agreed before.
func (g *gate) pass(ctx context.Context) error {
	node := g.s.raft.Load()
	if node == nil {
		return api.ErrNoLeader
	}
	if g.s.decides(node) {
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx) // the select below would choose, where a round is over as soon
	}
	g.mu.Lock()
	if g.ended {
		g.mu.Unlock()
		return api.ErrNoLeader
	}
	if g.next == nil {
		g.next = &round{done: make(chan struct{}), began: g.s.c.Now()}
		select {
		case g.wake <- struct{}{}:
		default:
		}
	}
	r := g.next
	g.mu.Unlock()
	select {
	case <-r.done:
		return r.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// run confirms, a round at a time, until ctx ends. A round isn't held back so that more reads share it: up to 1 ms of that took a tenth of the rate, since
// processors had nothing to do meanwhile, and next to nothing off what a read costs more than a stale one. That is its part of the question to the leader,
// 4 µs at the side that answers where eight share one.
func (g *gate) run(ctx context.Context) error {
	defer g.s.asked.Wait()
	defer context.AfterFunc(ctx, g.s.lines.close)()
	for {
		select {
		case <-g.wake:
			runtime.Gosched() // who is about to come is in this round, not in the next
			if r := g.take(false); r != nil {
				r.finish(g.round(ctx, r))
			}
		case <-ctx.Done():
			if r := g.take(true); r != nil {
				r.finish(api.ErrNoLeader)
			}
			return nil
		}
	}
}

// take closes the next round to those who come later.
func (g *gate) take(end bool) *round {
	g.mu.Lock()
	defer g.mu.Unlock()
	r := g.next
	g.ended = end
	g.next = nil
	return r
}

// round is as a rule over with its first try, which makes no context or timer as long as nothing takes long.
func (g *gate) round(ctx context.Context, r *round) error {
	if g.try(ctx) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, g.s.c.Hold-g.s.c.Now().Sub(r.began))
	defer cancel()
	why := api.ErrNoLeader
	err := g.s.atLeader(ctx, func(id, address string) (bool, error) {
		err := g.confirm(ctx, id, address)
		if errors.Is(err, errBehind) {
			why = fmt.Errorf("%w: %w", api.ErrNoLeader, err)
		}
		return true, err
	})
	if err != nil && ctx.Err() != nil {
		return why
	}
	return err
}

const (
	// confirmTimeout bounds one try to have leadership confirmed.
	confirmTimeout = 2 * time.Second
	// leaderSoon is how long a leader's answer is waited for before anything is made ready to give up: it is missed only later.
	leaderSoon = heartbeatTimeout / 5
)

// try has the leader confirm, if there is one with a connection to it.
func (g *gate) try(ctx context.Context) bool {
	s := g.s
	id, address := s.leaderToAsk()
	switch {
	case id == "":
		return false
	case id == s.c.NodeID:
		_, err := s.readIndex(ctx, "", 0)
		return err == nil
	}
	q, ok := s.lines.begin(address, askIndex, s.raft.Load().CurrentTerm())
	if !ok {
		return false
	}
	index, err := q.soon(leaderSoon)
	if err == nil && s.store.Position().Index >= index {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, confirmTimeout)
	defer cancel()
	ctx, stop := s.reigns.during(ctx, id, false)
	defer stop()
	if errors.Is(err, errLater) {
		index, err = q.rest(ctx)
	}
	return err == nil && g.follow(ctx, index) == nil
}

func (g *gate) confirm(ctx context.Context, id, address string) error {
	ctx, cancel := context.WithTimeout(ctx, confirmTimeout)
	defer cancel()
	if address == "" {
		_, err := g.s.readIndex(ctx, "", 0)
		return err
	}
	ctx, stop := g.s.reigns.during(ctx, id, false)
	defer stop()
	index, err := g.s.lines.ask(ctx, ctx, address, askIndex, g.s.raft.Load().CurrentTerm())
	if err != nil {
		return err
	}
	return g.follow(ctx, index)
}

// follow waits until this server's catalog has come to an index.
func (g *gate) follow(ctx context.Context, index uint64) error {
	if err := g.s.applied.wait(ctx, func() bool { return g.s.store.Position().Index >= index }); err != nil {
		return fmt.Errorf("%w: this server has index %d, and its leader %d: %w", errBehind, g.s.store.Position().Index, index, err)
	}
	return nil
}

// barrier waits until all that was agreed is applied here.
func (s *Server) barrier() error {
	future := s.raft.Load().Barrier(proposeTimeout)
	if err := future.Error(); err != nil {
		return err
	}
	if at, ok := future.(interface{ Index() uint64 }); ok {
		s.applied.advance(at.Index())
	}
	return nil
}

// progress is how far this server has applied Raft's log.
type progress struct {
	mu    sync.Mutex
	index uint64
	moved broadcast
}

// advance says that all up to index is applied.
func (p *progress) advance(index uint64) {
	p.mu.Lock()
	p.index = max(p.index, index)
	p.mu.Unlock()
	p.moved.send()
}

func (p *progress) reached(index uint64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.index >= index
}

// wait returns when ok holds; it is asked after every move.
func (p *progress) wait(ctx context.Context, ok func() bool) error {
	for !ok() {
		moved := p.moved.next()
		if ok() {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// before is the API's gate: it has a read wait for what its consistency demands.
func (s *Server) before(r *api.Request) error {
	r.Options.Freshness = s.freshness
	if err := s.c.Requests.allow(r.Request, s.c.Now(), s.c.Log); err != nil {
		return err
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead || api.Ungated[r.Route().Name()] {
		return nil
	}
	if o := r.Options; o.Stale {
		_, contact := s.freshness()
		if o.MaxStale == 0 || contact <= o.MaxStale {
			return nil
		}
		r.Options.Stale = false // as Consul: once more, and this time not stale
	}
	return s.reads.pass(r.Context())
}

// Confirm waits until a read that begins now sees all that was agreed before.
func (s *Server) Confirm(ctx context.Context) error { return s.reads.pass(ctx) }

// freshness says whether there is a leader, and how long ago this server heard from it.
func (s *Server) freshness() (known bool, contact time.Duration) {
	node := s.raft.Load()
	if node == nil {
		return false, 0
	}
	id, _ := s.raftLeader()
	if id == s.c.NodeID {
		return true, 0
	}
	last := node.LastContact()
	if last.IsZero() {
		return id != "", neverHeard
	}
	return id != "", max(0, s.c.Now().Sub(last))
}

// neverHeard stands for "no leader was ever heard of".
const neverHeard = time.Hour
