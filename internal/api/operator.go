// SPDX-License-Identifier: Apache-2.0

package api

import "time"

// RaftServer is a server of Raft's configuration, with the field names of Consul's API.
type RaftServer struct {
	ID              string
	Node            string
	Address         string
	Leader          bool
	ProtocolVersion string
	Voter           bool
	LastIndex       uint64 // 0: not known here
}

// ServerHealth is what autopilot knows of a server.
type ServerHealth struct {
	ID, Name, Address string
	NodeStatus        string // as gossip has it: "alive", "failed", "left"
	Version           string
	Status            string // "leader", "voter", "non-voter"
	Meta              map[string]string
	Zone              string
	NonVoter          bool // it is never to vote
	LastContact       time.Duration
	LastTerm          uint64
	LastIndex         uint64
	Healthy           bool
	StableSince       time.Time
}

// ClusterHealth is what autopilot knows.
type ClusterHealth struct {
	Healthy          bool
	FailureTolerance int
	Leader           string
	Voters           []string
	Servers          []ServerHealth // by ID
}
