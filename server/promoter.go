// SPDX-License-Identifier: Apache-2.0

package server

import (
	"slices"

	"github.com/hashicorp/raft"
	autopilot "github.com/hashicorp/raft-autopilot"

	"github.com/weftmesh/weft/catalog"
)

// promoter decides which servers vote: all that are stable, but never those that are told not to, with redundancy zones one of
// each zone, the others standing by, and of an older version none once there are enough of the newer one (migration).
type promoter struct{ s *Server }

var _ autopilot.Promoter = promoter{}

func (promoter) GetServerExt(*autopilot.Config, *autopilot.ServerState) any { return nil }

func (promoter) GetStateExt(*autopilot.Config, *autopilot.State) any { return nil }

func (promoter) GetNodeTypes(_ *autopilot.Config, state *autopilot.State) map[raft.ServerID]autopilot.NodeType {
	types := map[raft.ServerID]autopilot.NodeType{}
	for id, srv := range state.Servers {
		types[id] = srv.Server.NodeType
	}
	return types
}

func (promoter) FilterFailedServerRemovals(_ *autopilot.Config, _ *autopilot.State, failed *autopilot.FailedServers) *autopilot.FailedServers {
	return failed
}

func (promoter) IsPotentialVoter(t autopilot.NodeType) bool { return t == autopilot.NodeVoter }

// CalculatePromotionsAndDemotions says who gets a vote, and who loses it.
func (p promoter) CalculatePromotionsAndDemotions(c *autopilot.Config, state *autopilot.State) autopilot.RaftChanges {
	var out autopilot.RaftChanges
	settings, _ := c.Ext.(catalog.AutopilotConfig)
	zones := map[string][]*autopilot.ServerState{}
	ids := make([]raft.ServerID, 0, len(state.Servers))
	for id := range state.Servers {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	stable := func(srv *autopilot.ServerState) bool {
		return srv.Health.IsStable(p.s.c.Now(), state.ServerStabilizationTime(c))
	}
	migration := planMigration(&settings, state, stable)
	for _, id := range ids {
		srv := state.Servers[id]
		zone := zoneOf(&settings, srv)
		switch {
		case srv.Server.NodeType == nonVoter:
			if srv.HasVotingRights() {
				out.Demotions = append(out.Demotions, id)
			}
		case zone != "":
			zones[zone] = append(zones[zone], srv)
		case !srv.HasVotingRights() && stable(srv) && !migration.held(id):
			out.Promotions = append(out.Promotions, id)
		}
	}
	for _, zone := range zones {
		elected := electZone(slices.DeleteFunc(slices.Clone(zone), func(srv *autopilot.ServerState) bool {
			return migration.held(srv.Server.ID) && (migration.moved || !srv.HasVotingRights())
		}), stable)
		for _, srv := range zone {
			switch {
			case srv == elected && !srv.HasVotingRights():
				out.Promotions = append(out.Promotions, srv.Server.ID)
			case elected != nil && srv != elected && srv.HasVotingRights():
				out.Demotions = append(out.Demotions, srv.Server.ID)
			}
		}
	}
	migration.finish(state, &out)
	slices.Sort(out.Promotions)
	slices.Sort(out.Demotions)
	return out
}

// electZone picks the one of a zone that votes: the leader, else a healthy one that votes, else the first that is stable; nil
// leaves the zone as it is.
func electZone(zone []*autopilot.ServerState, stable func(*autopilot.ServerState) bool) *autopilot.ServerState {
	for _, ok := range []func(*autopilot.ServerState) bool{
		func(s *autopilot.ServerState) bool { return s.State == autopilot.RaftLeader },
		func(s *autopilot.ServerState) bool { return s.HasVotingRights() && s.Health.Healthy },
		stable,
	} {
		if i := slices.IndexFunc(zone, ok); i >= 0 {
			return zone[i]
		}
	}
	return nil
}
