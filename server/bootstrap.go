// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/raft"

	weftv1 "github.com/weftmesh/weft/proto/weft/v1"
)

const (
	// bootstrapLook is how often servers that don't belong to a cluster yet are counted, beside at each change.
	bootstrapLook = time.Second
	// bootstrapTime bounds the asking for promises: well below promiseLife.
	bootstrapTime = 4 * time.Second
)

// bootstrap founds a cluster once bootstrap_expect servers are seen that all have no state: the one with the lowest ID
// collects the promise of each other not to found one, and then does. It returns when this server belongs to a cluster.
func (s *Server) bootstrap(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		change := s.changed()
		known, err := s.raft.Load().hasState()
		if err != nil || known {
			return err
		}
		if err := s.tryBootstrap(ctx); err != nil {
			s.c.Log.Info("no cluster yet", "reason", err)
		}
		timer.Reset(bootstrapLook)
		select {
		case <-change:
		case <-timer.C:
		case <-ctx.Done():
			return nil
		}
	}
}

func (s *Server) tryBootstrap(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, bootstrapTime)
	defer cancel()
	var founders []Member
	for _, m := range s.servers() {
		switch {
		case m.Status != Alive || m.NonVoter:
		case m.Expect == 0: // it waits to be taken into a cluster
		case m.Expect != s.c.Expect:
			return fmt.Errorf("%s has bootstrap_expect %d, this server %d: give all servers the same", m.Name, m.Expect, s.c.Expect)
		default:
			founders = append(founders, m)
		}
	}
	if s.c.Expect == 0 || len(founders) < s.c.Expect {
		return fmt.Errorf("%d of bootstrap_expect %d servers are here", len(founders), s.c.Expect)
	}
	slices.SortFunc(founders, func(a, b Member) int {
		if a.ID < b.ID {
			return -1
		}
		return 1
	})
	if founders[0].ID != s.c.NodeID {
		return fmt.Errorf("%s founds the cluster", founders[0].Name)
	}
	var servers []raft.Server
	for _, m := range founders {
		if err := s.askPromise(ctx, m); err != nil {
			return err
		}
		servers = append(servers, raft.Server{ID: raft.ServerID(m.ID), Address: raft.ServerAddress(m.address())})
	}
	if ctx.Err() != nil {
		return ctx.Err() // too late: a promise may be over
	}
	s.c.Log.Info("founding the cluster", "servers", len(servers))
	return s.raft.Load().BootstrapCluster(raft.Configuration{Servers: servers}).Error()
}

func (s *Server) askPromise(ctx context.Context, m Member) error {
	if m.ID == s.c.NodeID {
		if !s.others.promise(s.c.NodeID) {
			return fmt.Errorf("another server founds the cluster")
		}
		return nil
	}
	other, err := s.peers.servers(m.address())
	if err != nil {
		return err
	}
	resp, err := other.Promise(ctx, &weftv1.PromiseRequest{Candidate: s.c.NodeID})
	switch {
	case err != nil:
		return fmt.Errorf("ask %s at %s: %w", m.Name, m.address(), err)
	case resp.GetHasState():
		return fmt.Errorf("%s belongs to a cluster already: waiting to be taken in", m.Name)
	case !resp.GetGranted():
		return fmt.Errorf("%s waits for another server's founding", m.Name)
	}
	return nil
}
