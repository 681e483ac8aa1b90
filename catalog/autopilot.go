// SPDX-License-Identifier: Apache-2.0

package catalog

import "time"

// AutopilotConfig is how servers are taken into the cluster and out of it, with the field names of Consul's API. It is no
// topic: only servers have it.
type AutopilotConfig struct {
	// CleanupDeadServers takes failed servers out of Raft once another one is there in their place.
	CleanupDeadServers bool
	// LastContactThreshold and MaxTrailingLogs are how far behind a healthy server may be.
	LastContactThreshold time.Duration
	MaxTrailingLogs      uint64
	// MinQuorum is the number of servers below which none is taken out; 0 is no such number.
	MinQuorum uint64
	// ServerStabilizationTime is how long a new server has to be healthy before it votes.
	ServerStabilizationTime time.Duration
	// RedundancyZoneTag is the node metadata that names a server's zone: of each zone one server votes, the others stand by. "" is no zones.
	RedundancyZoneTag string `json:",omitempty"`
	// UpgradeVersionTag is the node metadata that names a server's version: as many stable servers of a newer one take the place of
	// those of older ones that vote, unless DisableUpgradeMigration. "" is no versions: servers are upgraded where they stand.
	UpgradeVersionTag       string `json:",omitempty"`
	DisableUpgradeMigration bool   `json:",omitempty"`
	Indexes
}

// DefaultAutopilot is what holds before anything was said, as in Consul.
func DefaultAutopilot() AutopilotConfig {
	return AutopilotConfig{
		CleanupDeadServers: true, LastContactThreshold: 200 * time.Millisecond, MaxTrailingLogs: 250, ServerStabilizationTime: 10 * time.Second,
	}
}

// Validate finds what can't be.
func (c *AutopilotConfig) Validate() error {
	switch {
	case c.LastContactThreshold < 0:
		return invalidf("LastContactThreshold: %s is negative", c.LastContactThreshold)
	case c.ServerStabilizationTime < 0:
		return invalidf("ServerStabilizationTime: %s is negative", c.ServerStabilizationTime)
	}
	return nil
}

// SetAutopilot replaces the configuration of autopilot. CAS 0 means that there must be none yet, else it is the ModifyIndex that
// it must have. The result's value is a bool: false if the check failed.
type SetAutopilot struct {
	Config AutopilotConfig
	CAS    *uint64 `json:",omitempty"`
}

func (SetAutopilot) commandType() string { return "set-autopilot" }

func (u *unit) setAutopilot(c *SetAutopilot) (any, error) {
	if err := c.Config.Validate(); err != nil {
		return nil, err
	}
	old := first[*AutopilotConfig](u.w.txn, tableAutopilot, "autopilot")
	var have, created uint64
	if old != nil {
		have, created = old.ModifyIndex, old.CreateIndex
	}
	if c.CAS != nil && *c.CAS != have {
		return false, nil
	}
	next := c.Config
	u.stamp(&next.Indexes, created)
	u.autopilot = &next
	return true, nil
}

// Autopilot is the configuration of autopilot; nil before there is one.
func (t *Txn) Autopilot() *AutopilotConfig {
	return first[*AutopilotConfig](t.db, tableAutopilot, "autopilot")
}
