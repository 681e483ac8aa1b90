// SPDX-License-Identifier: Apache-2.0

package server

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/raft"
	autopilot "github.com/hashicorp/raft-autopilot"

	"github.com/weftmesh/weft/catalog"
)

// migration is the change from servers of an older version to as many of a newer one that stand beside them: the new ones get no
// vote until they are as many as the old ones that vote; then they all do, the old ones lose theirs, and one of the new leads.
//
// The version is what node_meta says under UpgradeVersionTag. Without a tag nothing is held back or moved: weft's own version says
// nothing of how it was put there, and servers that are upgraded where they stand must keep their votes.
type migration struct {
	newest string
	of     map[raft.ServerID]string // versions, of the servers that say one
	moved  bool                     // the new ones are enough
}

// planMigration is nil where there is nothing to migrate.
func planMigration(settings *catalog.AutopilotConfig, state *autopilot.State, stable func(*autopilot.ServerState) bool) *migration {
	if settings.UpgradeVersionTag == "" || settings.DisableUpgradeMigration {
		return nil
	}
	m := &migration{of: map[raft.ServerID]string{}}
	for id, srv := range state.Servers {
		if v := srv.Server.Meta[settings.UpgradeVersionTag]; v != "" && srv.Server.NodeType != nonVoter {
			m.of[id] = v
			if compareVersions(v, m.newest) > 0 {
				m.newest = v
			}
		}
	}
	newer, older := map[string]bool{}, 0
	for id, v := range m.of {
		srv := state.Servers[id]
		switch {
		case compareVersions(v, m.newest) < 0:
			if srv.HasVotingRights() {
				older++
			}
		case stable(srv) || srv.HasVotingRights() && srv.Health.Healthy:
			seat := string(id) // of a zone one votes
			if z := zoneOf(settings, srv); z != "" {
				seat = "zone " + z
			}
			newer[seat] = true
		}
	}
	m.moved = len(newer) > 0 && len(newer) >= older
	return m
}

// held says whether a server is to have no new vote.
func (m *migration) held(id raft.ServerID) bool {
	if m == nil || m.of[id] == "" {
		return false
	}
	return (compareVersions(m.of[id], m.newest) < 0) == m.moved
}

// finish takes the votes of the old ones and leadership to the new ones, once those vote.
func (m *migration) finish(state *autopilot.State, out *autopilot.RaftChanges) {
	if m == nil || !m.moved || len(out.Promotions) > 0 {
		return
	}
	var heirs []raft.ServerID
	for id, v := range m.of {
		srv := state.Servers[id]
		old := compareVersions(v, m.newest) < 0
		switch {
		case !old && srv.HasVotingRights() && srv.Health.Healthy:
			heirs = append(heirs, id)
		case old && srv.HasVotingRights() && srv.State != autopilot.RaftLeader && !slices.Contains(out.Demotions, id):
			out.Demotions = append(out.Demotions, id)
		}
	}
	if v, ok := m.of[state.Leader]; ok && compareVersions(v, m.newest) < 0 && len(heirs) > 0 {
		out.Leader = slices.Min(heirs) // when nothing else is left to be done
	}
}

func zoneOf(settings *catalog.AutopilotConfig, srv *autopilot.ServerState) string {
	if settings.RedundancyZoneTag == "" {
		return ""
	}
	return srv.Server.Meta[settings.RedundancyZoneTag]
}

// compareVersions goes by the numbers and words between dots and dashes, from the left; a word is less than a number, so that
// 1.2-rc1 comes before 1.2.0.
func compareVersions(a, b string) int {
	split := func(s string) []string {
		return strings.FieldsFunc(strings.TrimPrefix(s, "v"), func(r rune) bool { return r == '.' || r == '-' || r == '+' })
	}
	x, y := split(a), split(b)
	for i := range max(len(x), len(y)) {
		if i >= len(x) {
			return -after(y[i])
		}
		if i >= len(y) {
			return after(x[i])
		}
		n, err1 := strconv.ParseUint(x[i], 10, 64)
		k, err2 := strconv.ParseUint(y[i], 10, 64)
		c := cmp.Compare(x[i], y[i])
		switch {
		case err1 == nil && err2 == nil:
			c = cmp.Compare(n, k)
		case err1 == nil:
			c = 1
		case err2 == nil:
			c = -1
		}
		if c != 0 {
			return c
		}
	}
	return 0
}

// after is what a longer version is to one that ends before this piece: 1.2.0 is more than 1.2, 1.2-rc1 less.
func after(piece string) int {
	if _, err := strconv.ParseUint(piece, 10, 64); err != nil {
		return -1
	}
	return 1
}
