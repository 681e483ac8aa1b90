// SPDX-License-Identifier: Apache-2.0

package server

import (
	"fmt"
	"net"
	"strconv"
	"sync"
)

// Status is how gossip sees a node.
type Status string

// The statuses.
const (
	Alive   Status = "alive"
	Leaving Status = "leaving"
	Left    Status = "left"
	Failed  Status = "failed"
)

// Member is a node as gossip knows it.
type Member struct {
	Name, ID, Datacenter string
	Address              string // an IP address
	Status               Status
	// Server says that it is a server; the fields below are a server's.
	Server     bool
	ServerPort int
	// Expect is its bootstrap_expect.
	Expect int
	// NonVoter keeps it from ever voting, Zone is its redundancy zone, Version the weft that it runs.
	NonVoter bool
	Zone     string
	Version  string
	// Meta is the node's metadata, for the catalog.
	Meta map[string]string
}

// address is where the server listens for others.
func (m Member) address() string { return net.JoinHostPort(m.Address, strconv.Itoa(m.ServerPort)) }

// Members tells which nodes there are; this one is among them.
type Members interface {
	// Members are all nodes that gossip knows, of this datacenter.
	Members() []Member
	// Changed is closed at the next change. Ask for it before Members.
	Changed() <-chan struct{}
	// ForceLeave makes gossip forget a failed node.
	ForceLeave(name string) error
}

// known keeps what servers made of the members, until those change: it is asked for by every request, and members may be thousands.
type known struct {
	mu      sync.Mutex
	changed <-chan struct{}
	servers map[string]Member
}

// servers are the members of this datacenter that are servers, by ID. Two that claim one ID are none: nobody can tell which
// of them is it. The map is shared: it isn't to be written to.
func (s *Server) servers() map[string]Member {
	if s.c.Alone {
		return s.countServers()
	}
	k := &s.known
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.changed != nil {
		select {
		case <-k.changed:
		default:
			return k.servers
		}
	}
	k.changed = s.c.Members.Changed()
	k.servers = s.countServers()
	return k.servers
}

func (s *Server) countServers() map[string]Member {
	out := map[string]Member{}
	if s.c.Alone {
		host, port, _ := net.SplitHostPort(s.c.Address)
		n, _ := strconv.Atoi(port)
		out[s.c.NodeID] = Member{
			Name: s.c.NodeName, ID: s.c.NodeID, Datacenter: s.c.Datacenter, Address: host, Status: Alive, Server: true, ServerPort: n, Expect: 1,
			Version: s.c.Version,
		}
		return out
	}
	twice := map[string]bool{}
	for _, m := range s.c.Members.Members() {
		if !m.Server || m.Datacenter != s.c.Datacenter || m.ID == "" {
			continue
		}
		old, known := out[m.ID]
		switch {
		case known && old.Status == Alive && m.Status == Alive:
			twice[m.ID] = true
		case !known || m.Status == Alive: // a name was changed: the one that lives is it
			out[m.ID] = m
		}
	}
	for id := range twice {
		s.c.Log.Error("two servers have the same ID: neither is counted until one of them goes; remove node-id from the data_dir of the copy", "id", id)
		delete(out, id)
	}
	return out
}

// changed is closed when the members change; nil if they never do.
func (s *Server) changed() <-chan struct{} {
	if s.c.Members == nil {
		return nil
	}
	return s.c.Members.Changed()
}

// addressOf is where a server is found: where gossip says, else where Raft's configuration does.
func (s *Server) addressOf(id, otherwise string) string {
	if m, ok := s.servers()[id]; ok && m.Status != Left {
		return m.address()
	}
	return otherwise
}

// peerName is what a server is called in logs and lists.
func (s *Server) peerName(id string) string {
	if m, ok := s.servers()[id]; ok {
		return m.Name
	}
	return fmt.Sprintf("(unknown, %s)", id)
}
