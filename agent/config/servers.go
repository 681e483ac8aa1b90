// SPDX-License-Identifier: Apache-2.0

package config

import "time"

// Servers is what concerns the servers and how they agree.
type Servers struct {
	Performance Performance
	// Autopilot is what holds until somebody says otherwise by the API.
	Autopilot Autopilot
	// RaftSnapshotThreshold is how many log entries make a snapshot worth it, looked at every RaftSnapshotInterval;
	// RaftTrailingLogs are kept behind one. 0 is the default.
	RaftSnapshotThreshold int
	RaftSnapshotInterval  time.Duration
	RaftTrailingLogs      int
	RaftPrevoteDisabled   bool
	RaftLogstore          RaftLogstore
	// ReadReplica keeps this server from ever voting; NonVotingServer is an older name of it.
	ReadReplica     bool
	NonVotingServer bool
	// Snapshots is weft's own: the leader saves some by itself.
	Snapshots Snapshots
}

// Performance are Consul's trade-offs.
type Performance struct {
	// RaftMultiplier makes Raft's timers longer, for slow networks: 1 to 10, 0 is 1.
	RaftMultiplier int
	// LeaveDrainTime is how long a server that leaves goes on to answer.
	LeaveDrainTime time.Duration
	// RPCHoldTimeout is how long a request waits for a leader; 0 is 7 s.
	RPCHoldTimeout time.Duration
	// GRPCKeepaliveInterval is how long a proxy's xDS stream may be silent until it is asked whether it is still there, GRPCKeepaliveTimeout how
	// long that answer may take; 0: 30 s and 15 s.
	GRPCKeepaliveInterval, GRPCKeepaliveTimeout time.Duration
}

// RaftLogstore is how Raft's log is on disk.
type RaftLogstore struct {
	WAL struct {
		SegmentSizeMB int // of the log's files; 0: 64
	}
}

// Autopilot is catalog.AutopilotConfig as it is configured; nil and 0 are the defaults.
type Autopilot struct {
	CleanupDeadServers      *bool
	LastContactThreshold    time.Duration
	MaxTrailingLogs         int
	MinQuorum               int
	ServerStabilizationTime time.Duration
	RedundancyZoneTag       string
	UpgradeVersionTag       string
	DisableUpgradeMigration bool
}

// Snapshots are saved by the leader every Interval into Path, where the last Retain are kept.
type Snapshots struct {
	Interval time.Duration // 0: none are saved
	Retain   int           // 0 is 30
	Path     string        // "" is data_dir/snapshots
}

// NeverVotes says whether this server is to have no vote.
func (s *Servers) NeverVotes() bool { return s.ReadReplica || s.NonVotingServer }

func (c *Config) validateServers(fault func(format string, args ...any)) {
	s := &c.Servers
	if m := s.Performance.RaftMultiplier; m < 0 || m > 10 {
		fault("performance.raft_multiplier: %d: want 1 to 10", m)
	}
	for _, d := range []struct {
		key string
		d   time.Duration
	}{
		{"performance.leave_drain_time", s.Performance.LeaveDrainTime},
		{"performance.rpc_hold_timeout", s.Performance.RPCHoldTimeout},
		{"performance.grpc_keepalive_interval", s.Performance.GRPCKeepaliveInterval},
		{"performance.grpc_keepalive_timeout", s.Performance.GRPCKeepaliveTimeout},
		{"raft_snapshot_interval", s.RaftSnapshotInterval},
		{"autopilot.last_contact_threshold", s.Autopilot.LastContactThreshold},
		{"autopilot.server_stabilization_time", s.Autopilot.ServerStabilizationTime},
		{"snapshots.interval", s.Snapshots.Interval},
	} {
		if d.d < 0 {
			fault("%s: %s: want more than nothing", d.key, d.d)
		}
	}
	for _, n := range []struct {
		key string
		n   int
	}{
		{"raft_snapshot_threshold", s.RaftSnapshotThreshold},
		{"raft_trailing_logs", s.RaftTrailingLogs},
		{"autopilot.max_trailing_logs", s.Autopilot.MaxTrailingLogs},
		{"autopilot.min_quorum", s.Autopilot.MinQuorum},
		{"snapshots.retain", s.Snapshots.Retain},
	} {
		if n.n < 0 {
			fault("%s: %d: want 0 or more", n.key, n.n)
		}
	}
	if n := s.RaftLogstore.WAL.SegmentSizeMB; n < 0 || n > 1024 {
		fault("raft_logstore.wal.segment_size_mb: %d: want 0 (the default) to 1024", n)
	}
	if s.NeverVotes() && !c.Server {
		fault("read_replica: this agent isn't a server")
	}
	if s.NeverVotes() && (c.Bootstrap || c.BootstrapExpect > 0) {
		fault("read_replica: a server that never votes can't found a cluster: leave bootstrap and bootstrap_expect out")
	}
	if i := s.Snapshots.Interval; i > 0 && i < time.Second {
		fault("snapshots.interval: %s: want a second or more", i)
	}
}
