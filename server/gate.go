// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/weftmesh/weft/internal/api"
	"github.com/weftmesh/weft/internal/failpoint"
	weftv1 "github.com/weftmesh/weft/proto/weft/v1"
)

// gate makes reads linearizable on every server: before a read, the leader confirms that it leads, and this server's catalog
// catches up with what was agreed until then. Reads that come while a confirmation is under way share the next one.
type gate struct {
	s    *Server
	wake chan struct{}

	mu   sync.Mutex
	next *round
}

// round is one confirmation; err is set when done is closed.
type round struct {
	done chan struct{}
	err  error
}

func newGate(s *Server) *gate { return &gate{s: s, wake: make(chan struct{}, 1)} }

// pass waits until a read that begins now sees all that was agreed before.
func (g *gate) pass(ctx context.Context) error {
	if g.s.raft.Load() == nil {
		return api.ErrNoLeader
	}
	g.mu.Lock()
	if g.next == nil {
		g.next = &round{done: make(chan struct{})}
		select {
		case g.wake <- struct{}{}:
		default:
		}
	}
	r := g.next
	g.mu.Unlock()
	timer := time.NewTimer(g.s.c.Hold)
	defer timer.Stop()
	select {
	case <-r.done:
		return r.err
	case <-timer.C:
		return api.ErrNoLeader
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// run confirms, a round at a time, until ctx ends.
func (g *gate) run(ctx context.Context) error {
	for {
		select {
		case <-g.wake:
		case <-ctx.Done():
			g.finish(api.ErrNoLeader)
			return nil
		}
		g.mu.Lock()
		r := g.next
		g.next = nil
		g.mu.Unlock()
		if r == nil {
			continue
		}
		r.err = g.s.atLeader(ctx, func(id, address string) (bool, error) { return true, g.confirm(ctx, id, address) })
		if ctx.Err() != nil {
			r.err = api.ErrNoLeader
		}
		close(r.done)
	}
}

func (g *gate) finish(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.next != nil {
		g.next.err = err
		close(g.next.done)
		g.next = nil
	}
}

// confirmTimeout bounds one try to have leadership confirmed.
const confirmTimeout = 2 * time.Second

func (g *gate) confirm(ctx context.Context, id, address string) error {
	ctx, cancel := context.WithTimeout(ctx, confirmTimeout)
	defer cancel()
	ctx, stop := g.s.reigns.during(ctx, id, false)
	defer stop()
	if address == "" {
		_, err := g.s.readIndex(ctx)
		return err
	}
	other, err := g.s.peers.servers(address)
	if err != nil {
		return err
	}
	resp, err := other.ReadIndex(ctx, &weftv1.ReadIndexRequest{})
	if err != nil {
		return err
	}
	return g.s.applied.wait(ctx, func() bool { return g.s.store.Position().Index >= resp.GetIndex() })
}

// errBehind is a confirmation that came before this leader had applied what it is about.
var errBehind = errors.New("not caught up yet")

// readIndex confirms leadership and gives the index of the last command that was agreed on before, applied here.
func (s *Server) readIndex(ctx context.Context) (uint64, error) {
	node := s.raft.Load()
	if node == nil || !s.leads() {
		return 0, api.ErrNoLeader
	}
	agreed := node.CommitIndex()
	if !failpoint.Bug(failpoint.Unchecked) {
		if err := node.VerifyLeader().Error(); err != nil {
			return 0, errors.Join(api.ErrNoLeader, err)
		}
	}
	if s.applied.reached(agreed) {
		return s.store.Position().Index, nil
	}
	wctx, cancel := context.WithTimeout(ctx, confirmTimeout/4)
	defer cancel()
	if s.applied.wait(wctx, func() bool { return s.applied.reached(agreed) }) != nil {
		// The last entry may be one that no catalog gets to see: behind a barrier everything is applied.
		if err := s.barrier(); err != nil {
			return 0, errors.Join(api.ErrNoLeader, err)
		}
	}
	if !s.applied.reached(agreed) {
		return 0, errBehind
	}
	return s.store.Position().Index, nil
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
	for {
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
	id, _ := s.leader()
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
