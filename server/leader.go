// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/internal/run"
	"github.com/weftmesh/weft/internal/uuid"
)

// errDeposed is the cause with which a leader's context ends when another leads.
var errDeposed = errors.New("leadership lost")

// followLeadership runs the leader's work while this server leads, under a context that ends with its leadership.
func (s *Server) followLeadership(ctx context.Context) error {
	stop := func() {}
	defer func() {
		s.leave()
		stop()
	}()
	for {
		select {
		case leads := <-s.raft.Load().notify:
			s.leave()
			stop()
			stop = func() {}
			if leads {
				stop = s.startLeading(ctx)
			} else {
				s.raft.Load().pipelines.cut()
			}
		case done := <-s.anew:
			if s.raft.Load().State() == raft.Leader {
				s.leave()
				stop()
				stop = s.startLeading(ctx)
			}
			close(done)
		case <-ctx.Done():
			return nil
		}
	}
}

// startLeading begins the leader's work; the returned function ends it and waits until it has.
func (s *Server) startLeading(ctx context.Context) (stop func()) {
	lctx, depose := context.WithCancelCause(ctx)
	g := run.New(lctx)
	g.Go("lead", s.lead)
	return func() {
		depose(errDeposed)
		if err := g.Wait(); err != nil {
			s.c.Log.Warn("leader's work ended", "error", err)
		}
	}
}

// leadRetry is how long a leader waits before it tries again to take office.
const leadRetry = time.Second

// lead takes office: it catches up with what was agreed before, sees to it that the cluster has a name, a schema version,
// an authority and its first config entries, and then keeps the authority, sessions and deletions.
func (s *Server) lead(ctx context.Context) error {
	for {
		err := s.takeOffice(ctx)
		if err == nil {
			s.readyOnce.Do(func() {
				s.readyAt = s.c.Now()
				close(s.ready)
			})
			s.c.Log.Info("leading", "index", s.store.Position().Index)
			g := run.New(ctx)
			g.Go("certificate authority", s.ca.keep)
			g.Go("sessions", s.sessions.keep)
			g.Go("coordinates", s.coordinates.keep)
			g.Go("deletions", s.reap)
			g.Go("schema version", s.keepSchema)
			if !s.c.Alone {
				g.Go("autopilot", s.pilot.keep)
			}
			g.Go("members", s.reconcile)
			g.Go("snapshots", s.keepSnapshots)
			g.Go("tokens", s.reapTokens)
			g.Go("other datacenters", s.followAbroad)
			if s.secondary() {
				g.Go("config entries of the primary", s.followEntries)
			}
			return g.Wait()
		}
		if ctx.Err() != nil {
			return nil
		}
		s.c.Log.Error("can't take office", "error", err)
		timer := time.NewTimer(leadRetry)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil
		}
	}
}

// leave ends the time in which this server answers as the leader.
func (s *Server) leave() {
	s.office.Store(0)
	s.elections.send()
}

func (s *Server) takeOffice(ctx context.Context) error {
	term := s.raft.Load().CurrentTerm()
	if err := s.barrier(); err != nil {
		return fmt.Errorf("catch up: %w", err)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if !s.raft.Load().leadsIn(term) {
		return errDeposed
	}
	s.office.Store(term) // from here on reads see all that was agreed before, and writes find what they check
	s.elections.send()
	txn := s.store.Read()
	if txn.Schema() == 0 { // every server knows the first; keepSchema goes on from there
		if _, err := s.Propose(ctx, catalog.RaiseSchema{Version: 1}); err != nil {
			return fmt.Errorf("raise the schema version: %w", err)
		}
	}
	state, err := txn.CA()
	if err != nil {
		return err
	}
	if (state == nil || state.ClusterID == "") && !s.secondary() { // a secondary has the primary's: see authority.followPrimary
		id, err := uuid.New(s.c.Rand)
		if err != nil {
			return err
		}
		if _, err := s.Propose(ctx, catalog.SetCluster{ID: id}); err != nil {
			return fmt.Errorf("name the cluster: %w", err)
		}
	}
	for _, e := range s.firstEntries() {
		absent := uint64(0)
		if _, err := s.Propose(ctx, catalog.SetEntry{Entry: catalog.EntryBox{Entry: e}, CAS: &absent}); err != nil {
			return fmt.Errorf("config entry %s/%s: %w", e.EntryKind(), e.Head().Name, err)
		}
	}
	if err := errors.Join(s.ensureACL(ctx), s.ensureJoin(ctx), s.sealPlane(ctx), s.sealMethods(ctx)); err != nil {
		return err
	}
	return s.ca.open(ctx)
}
