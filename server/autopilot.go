// SPDX-License-Identifier: Apache-2.0

package server

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	autopilot "github.com/hashicorp/raft-autopilot"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/internal/api"
	"github.com/weftmesh/weft/internal/logs"
	weftv1 "github.com/weftmesh/weft/proto/weft/v1"
)

// pilot takes servers into Raft and out of it, as the library decides. It works while this server leads.
type pilot struct {
	s *Server

	mu    sync.Mutex
	lib   *autopilot.Autopilot
	heard map[raft.ServerID]answer // what servers last said
}

type answer struct {
	at     time.Time
	status *weftv1.ServerStatusResponse
}

// nonVoter is the type of servers that never vote.
const nonVoter autopilot.NodeType = "read-replica"

// The intervals between looks at servers and changes of Raft's configuration, and how long a server that gossip takes for failed
// passes for alive since it last answered.
const (
	pilotUpdate    = 2 * time.Second
	pilotReconcile = 10 * time.Second
	answered       = 5 * time.Second
)

func newPilot(s *Server) *pilot { return &pilot{s: s, heard: map[raft.ServerID]answer{}} }

// keep works until leadership ends.
func (p *pilot) keep(ctx context.Context) error {
	lib := autopilot.New(p.s.raft.Load(), p, autopilot.WithLogger(logs.HC(p.s.c.Log.With("part", "autopilot"), "autopilot")),
		autopilot.WithUpdateInterval(pilotUpdate), autopilot.WithReconcileInterval(pilotReconcile), autopilot.WithPromoter(promoter{p.s}))
	p.mu.Lock()
	p.lib = lib
	p.mu.Unlock()
	lib.Start(ctx)
	<-ctx.Done()
	<-lib.Stop()
	p.mu.Lock()
	p.lib = nil
	p.mu.Unlock()
	return nil
}

func (p *pilot) library() *autopilot.Autopilot {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lib
}

// AutopilotSettings is the configuration in force.
func (s *Server) AutopilotSettings() catalog.AutopilotConfig {
	if c := s.store.Read().Autopilot(); c != nil {
		return *c
	}
	return s.c.Autopilot
}

// AutopilotConfig is for the library.
func (p *pilot) AutopilotConfig() *autopilot.Config {
	c := p.s.AutopilotSettings()
	return &autopilot.Config{
		CleanupDeadServers: c.CleanupDeadServers, LastContactThreshold: p.s.contactThreshold(c.LastContactThreshold), MaxTrailingLogs: c.MaxTrailingLogs,
		MinQuorum: uint(c.MinQuorum), ServerStabilizationTime: c.ServerStabilizationTime, Ext: c,
	}
}

// contactThreshold is never below what followers hear of a healthy leader: heartbeats come every tenth of their timeout, but the
// figure is some time on its way.
func (s *Server) contactThreshold(d time.Duration) time.Duration {
	return max(d, heartbeatTimeout/2*time.Duration(max(1, s.c.Tuning.Multiplier)))
}

// NotifyState is for the library.
func (p *pilot) NotifyState(*autopilot.State) {}

// FetchServerStats asks every server what it has.
func (p *pilot) FetchServerStats(ctx context.Context, servers map[raft.ServerID]*autopilot.Server) map[raft.ServerID]*autopilot.ServerStats {
	var mu sync.Mutex
	var work sync.WaitGroup
	out := map[raft.ServerID]*autopilot.ServerStats{}
	for id, srv := range servers {
		work.Go(func() {
			status, err := p.s.statusOf(ctx, string(id), string(srv.Address))
			if err != nil {
				p.s.c.Log.Debug("server doesn't say how it is", "id", string(id), "error", err)
				return
			}
			p.hear(id, status)
			contact := time.Duration(status.GetLastContactMs()) * time.Millisecond
			mu.Lock()
			defer mu.Unlock()
			out[id] = &autopilot.ServerStats{LastContact: contact, LastTerm: status.GetLastTerm(), LastIndex: status.GetLastIndex()}
		})
	}
	work.Wait()
	return out
}

func (s *Server) statusOf(ctx context.Context, id, address string) (*weftv1.ServerStatusResponse, error) {
	if id == s.c.NodeID {
		return s.status()
	}
	other, err := s.peers.servers(address)
	if err != nil {
		return nil, err
	}
	return other.Status(ctx, &weftv1.ServerStatusRequest{})
}

func (p *pilot) hear(id raft.ServerID, status *weftv1.ServerStatusResponse) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.heard[id] = answer{p.s.c.Now(), status}
}

func (p *pilot) lastHeard(id raft.ServerID) (answer, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	a, ok := p.heard[id]
	return a, ok
}

func (p *pilot) lastIndex(id string) uint64 {
	if id == p.s.c.NodeID {
		return p.s.raft.Load().LastIndex()
	}
	a, _ := p.lastHeard(raft.ServerID(id))
	return a.status.GetLastIndex()
}

// KnownServers are the servers that gossip knows. One that is taken for failed but has just answered is alive.
func (p *pilot) KnownServers() map[raft.ServerID]*autopilot.Server {
	out := map[raft.ServerID]*autopilot.Server{}
	leader, _ := p.s.leader()
	for id, m := range p.s.servers() {
		srv := &autopilot.Server{
			ID: raft.ServerID(id), Name: m.Name, Address: raft.ServerAddress(m.address()), Version: m.Version, RaftVersion: 3,
			NodeType: autopilot.NodeVoter, NodeStatus: autopilot.NodeFailed, IsLeader: id == leader, Meta: m.Meta,
		}
		heard, ok := p.lastHeard(srv.ID)
		switch {
		case m.Status == Alive, m.Status == Leaving, m.Status == Failed && ok && p.s.c.Now().Sub(heard.at) < answered:
			srv.NodeStatus = autopilot.NodeAlive
		case m.Status == Left:
			srv.NodeStatus = autopilot.NodeLeft
		}
		if m.NonVoter {
			srv.NodeType = nonVoter
		}
		if ok {
			srv.Meta = heard.status.GetMeta()
		}
		out[srv.ID] = srv
	}
	return out
}

// RemoveFailedServer has gossip forget a server; that it left takes it out of Raft.
func (p *pilot) RemoveFailedServer(srv *autopilot.Server) {
	p.s.c.Log.Warn("a failed server is given up", "id", string(srv.ID), "node", srv.Name)
	go func() { // the library wants it so; it ends with gossip's own timeout
		if err := p.s.c.Members.ForceLeave(srv.Name); err != nil {
			p.s.c.Log.Warn("gossip doesn't forget the failed server", "node", srv.Name, "error", err)
		}
	}()
}

// ClusterHealth is what autopilot knows; nil where it doesn't work yet.
func (s *Server) ClusterHealth() *api.ClusterHealth {
	if s.c.Alone {
		return s.ownHealth()
	}
	lib := s.pilot.library()
	if lib == nil {
		return nil
	}
	state := lib.GetState()
	if state == nil {
		return nil
	}
	zones := s.AutopilotSettings().RedundancyZoneTag
	out := &api.ClusterHealth{Healthy: state.Healthy, FailureTolerance: state.FailureTolerance, Leader: string(state.Leader), Voters: []string{}}
	for _, id := range state.Voters {
		out.Voters = append(out.Voters, string(id))
	}
	for id, srv := range state.Servers {
		h := api.ServerHealth{
			ID: string(id), Name: srv.Server.Name, Address: string(srv.Server.Address), NodeStatus: string(srv.Server.NodeStatus),
			Version: srv.Server.Version, Status: string(srv.State), Meta: srv.Server.Meta, NonVoter: srv.Server.NodeType == nonVoter,
			LastContact: srv.Stats.LastContact, LastTerm: srv.Stats.LastTerm, LastIndex: srv.Stats.LastIndex,
			Healthy: srv.Health.Healthy, StableSince: srv.Health.StableSince,
		}
		if zones != "" {
			h.Zone = srv.Server.Meta[zones]
		}
		out.Servers = append(out.Servers, h)
	}
	slices.SortFunc(out.Servers, func(a, b api.ServerHealth) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

// ownHealth is that of a server which is the cluster by itself, without the library; nil while it doesn't lead.
func (s *Server) ownHealth() *api.ClusterHealth {
	select {
	case <-s.ready:
	default:
		return nil
	}
	status, err := s.status()
	if err != nil || !s.leads() {
		return nil
	}
	return &api.ClusterHealth{Healthy: true, Leader: s.c.NodeID, Voters: []string{s.c.NodeID}, Servers: []api.ServerHealth{{
		ID: s.c.NodeID, Name: s.c.NodeName, Address: s.c.Address, NodeStatus: string(autopilot.NodeAlive), Version: s.c.Version,
		Status: string(autopilot.RaftLeader), Meta: s.c.Meta, LastTerm: status.GetLastTerm(), LastIndex: status.GetLastIndex(), Healthy: true,
		StableSince: s.readyAt,
	}}}
}
