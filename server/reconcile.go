// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	autopilot "github.com/hashicorp/raft-autopilot"

	"github.com/weftmesh/weft/catalog"
	weftv1 "github.com/weftmesh/weft/proto/weft/v1"
)

const (
	// reconcileEvery is how often members and catalog are compared though nothing seems to have changed.
	reconcileEvery = time.Minute
	// lookAgain is how soon a node is looked at again that gossip takes for failed while its stream is open, or of which
	// something went wrong.
	lookAgain = time.Second
	// proposing is how many of its writes are under way at once.
	proposing = 32
	// askStreams bounds the asking of another server for its streams.
	askStreams = 2 * time.Second

	// memberOwner is whose the records are that say what gossip says.
	memberOwner = "members"
	// agentOwner is whose a node's record is: its agent's, which completes it.
	agentOwner = "agent"

	serfCheckName  = "Serf Health Status"
	serfAlive      = "Agent alive and reachable"
	serfFailed     = "Agent not live or unreachable"
	serverService  = "consul"
	raftVersionKey = "raft_version"
)

// reconcile keeps the catalog and Raft's configuration in line with the members until leadership ends.
func (s *Server) reconcile(ctx context.Context) error {
	if s.c.Members == nil {
		return nil
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		changed, ended := s.changed(), s.feed.Disconnected()
		wait := reconcileEvery
		if again := s.reconcileOnce(ctx); again {
			wait = lookAgain
		} else {
			ended = nil // nobody waits for a stream to end
		}
		timer.Reset(wait)
		select {
		case <-changed:
		case <-ended:
		case <-timer.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// reconcileOnce proposes what differs; again says that it has to be looked at soon.
func (s *Server) reconcileOnce(ctx context.Context) (again bool) {
	txn := s.store.Read()
	nodes, err := txn.Nodes(catalog.Scope{}.Default(s.c.Datacenter))
	if err != nil {
		s.c.Log.Error("members can't be compared with the catalog", "error", err)
		return true
	}
	members := map[string]Member{}
	for _, m := range s.c.Members.Members() {
		if m.Datacenter == s.c.Datacenter {
			members[m.Name] = m
		}
	}
	known := map[string]*catalog.Node{}
	for _, n := range nodes {
		known[n.Node] = n
	}
	living, asked := s.witnesses(ctx, txn, members, known)
	var work [][]catalog.Body
	for _, name := range slices.Sorted(maps.Keys(members)) {
		m := members[name]
		switch {
		case m.Status == Alive || m.Status == Leaving:
			work = append(work, s.alive(txn, m, known[name]))
		case living[name] || !asked && m.Status == Failed:
			again = true
		case m.Status == Failed:
			work = append(work, s.failed(txn, name, known[name]))
		case m.Status == Left:
			work = append(work, s.gone(txn, known[name]))
		}
	}
	for name, n := range known {
		if _, ok := members[name]; !ok && !living[name] && asked {
			work = append(work, s.gone(txn, n))
		}
	}
	if !s.proposeAll(ctx, work) {
		again = true
	}
	return s.placeServers(ctx) || again
}

// witnesses are the nodes that gossip has lost, and that have a stream to a server all the same. Death needs both: gossip can be
// starved or forged. asked is false if a server didn't answer that is alive.
func (s *Server) witnesses(ctx context.Context, txn *catalog.Txn, members map[string]Member, known map[string]*catalog.Node) (living map[string]bool, asked bool) {
	var doubtful []string
	for name, n := range known {
		m, ok := members[name]
		if (!ok || m.Status == Failed) && s.serfHealth(txn, n) != nil {
			doubtful = append(doubtful, name)
		}
	}
	living, asked = map[string]bool{}, true
	if len(doubtful) == 0 {
		return living, true
	}
	slices.Sort(doubtful)
	for _, name := range doubtful {
		if s.feed.Connected(name) {
			living[name] = true
		}
	}
	ctx, cancel := context.WithTimeout(ctx, askStreams)
	defer cancel()
	for id, m := range s.servers() {
		if id == s.c.NodeID || m.Status != Alive {
			continue
		}
		other, err := s.peers.servers(m.address())
		if err == nil {
			var resp *weftv1.StreamsResponse
			if resp, err = other.Streams(ctx, &weftv1.StreamsRequest{Nodes: doubtful}); err == nil {
				for _, name := range resp.GetConnected() {
					living[name] = true
				}
			}
		}
		if err != nil {
			s.c.Log.Debug("server doesn't say which streams it has", "node", m.Name, "error", err)
			asked = false
		}
	}
	return living, asked
}

// serfHealth is the check by which the catalog knows whether a node is alive; nil if gossip has nothing to do with the node.
func (s *Server) serfHealth(txn *catalog.Txn, n *catalog.Node) *catalog.Check {
	checks, err := txn.NodeChecks(n.Key())
	if err != nil {
		return nil
	}
	for _, c := range checks {
		if c.CheckID == catalog.SerfHealth {
			return c
		}
	}
	return nil
}

func (s *Server) serfCheck(name, status, output string) catalog.Check {
	return catalog.Check{
		Scope: catalog.Scope{}.Default(s.c.Datacenter), Node: name, CheckID: catalog.SerfHealth, Name: serfCheckName, Status: status, Output: output,
		Owner: memberOwner,
	}
}

// alive registers a node that is there, if the catalog doesn't say so yet.
func (s *Server) alive(txn *catalog.Txn, m Member, n *catalog.Node) []catalog.Body {
	scope := catalog.Scope{}.Default(s.c.Datacenter)
	node := catalog.Node{Scope: scope, ID: m.ID, Node: m.Name, Address: m.Address, Meta: m.Meta, Owner: agentOwner}
	check := s.serfCheck(m.Name, catalog.HealthPassing, serfAlive)
	reg := catalog.Register{Node: node, SkipNodeUpdate: true, Checks: []catalog.Check{check}}
	var want *catalog.Service
	if m.Server {
		want = &catalog.Service{
			Scope: scope, Node: m.Name, ID: serverService, Service: serverService, Port: m.ServerPort, Weights: catalog.Weights{Passing: 1, Warning: 1},
			Meta: map[string]string{raftVersionKey: "3", "version": m.Version}, Owner: memberOwner,
		}
		reg.Services = []catalog.Service{*want}
	}
	if n == nil {
		return []catalog.Body{reg}
	}
	if n.ID != "" && m.ID != "" && n.ID != m.ID {
		// Another machine has taken the name; gossip let it, so the first one is gone.
		dead := catalog.Register{Node: node, SkipNodeUpdate: true, Checks: []catalog.Check{s.serfCheck(m.Name, catalog.HealthCritical, serfFailed)}}
		reg.SkipNodeUpdate = false
		return []catalog.Body{dead, reg}
	}
	if n.Address != m.Address && n.Owner == memberOwner {
		reg.SkipNodeUpdate = false
	}
	if c := s.serfHealth(txn, n); c != nil && c.Status == catalog.HealthPassing && s.hasService(txn, n, want) {
		return nil
	}
	return []catalog.Body{reg}
}

func (s *Server) hasService(txn *catalog.Txn, n *catalog.Node, want *catalog.Service) bool {
	if want == nil {
		return true
	}
	services, err := txn.NodeServices(n.Key())
	if err != nil {
		return false
	}
	i := slices.IndexFunc(services, func(x *catalog.Service) bool { return x.ID == want.ID })
	return i >= 0 && services[i].Port == want.Port && reflect.DeepEqual(services[i].Meta, want.Meta)
}

func (s *Server) failed(txn *catalog.Txn, name string, n *catalog.Node) []catalog.Body {
	if n == nil {
		return nil
	}
	if c := s.serfHealth(txn, n); c == nil || c.Status == catalog.HealthCritical {
		return nil
	}
	s.c.Log.Warn("a node has failed", "node", name)
	return []catalog.Body{catalog.Register{Node: *n, SkipNodeUpdate: true, Checks: []catalog.Check{s.serfCheck(name, catalog.HealthCritical, serfFailed)}}}
}

// gone deregisters a node that has left or was forgotten, if it was gossip that brought it in.
func (s *Server) gone(txn *catalog.Txn, n *catalog.Node) []catalog.Body {
	if n == nil || n.Node == s.c.NodeName || s.serfHealth(txn, n) == nil {
		return nil
	}
	s.c.Log.Info("a node that has left is deregistered", "node", n.Node)
	return []catalog.Body{catalog.Deregister{Scope: n.Scope, Node: n.Node}}
}

// proposeAll has the groups of commands agreed on, several groups at once; false if one failed.
func (s *Server) proposeAll(ctx context.Context, work [][]catalog.Body) bool {
	var failed sync.Map
	slots := make(chan struct{}, proposing)
	var group sync.WaitGroup
	for _, commands := range work {
		if len(commands) == 0 {
			continue
		}
		slots <- struct{}{}
		group.Go(func() {
			defer func() { <-slots }()
			for _, c := range commands {
				if _, err := s.Propose(ctx, c); err != nil {
					if ctx.Err() == nil {
						s.c.Log.Warn("the catalog doesn't take what gossip says of a node", "error", err)
					}
					failed.Store(true, true)
					return
				}
			}
		})
	}
	group.Wait()
	_, any := failed.Load(true)
	return !any
}

// placeServers takes servers that have come into Raft, and those out that have left.
//
// A server that has moved is found by what gossip says (see addresses), whatever Raft's configuration has. A leader writes only its
// own new address there: the library changes a follower's under the goroutine that replicates to it, which reads it without a lock.
func (s *Server) placeServers(ctx context.Context) (again bool) {
	lib := s.pilot.library()
	if lib == nil {
		return !s.c.Alone // autopilot begins to work at the same time
	}
	current, _, err := s.RaftServers()
	if err != nil {
		return true
	}
	future := s.raft.Load().GetConfiguration()
	if err := future.Error(); err != nil {
		return true
	}
	placed := map[string]raft.Server{}
	for _, p := range future.Configuration().Servers {
		placed[string(p.ID)] = p
	}
	for id, m := range s.servers() {
		p, in := placed[id]
		switch {
		case m.Status == Left && in && id != s.c.NodeID && len(current) > 1:
			if err := lib.RemoveServer(p.ID); err != nil {
				s.c.Log.Warn("a server that has left can't be taken out of raft", "node", m.Name, "error", err)
				again = true
			}
		case m.Status == Alive && (!in || id == s.c.NodeID && !addressTaken(placed, m.address())):
			if err := s.placeServer(ctx, lib, m, in); err != nil {
				s.c.Log.Warn("a server isn't taken into raft", "node", m.Name, "error", err)
				again = true
			}
		}
	}
	return again
}

// addressTaken says whether Raft's configuration has a server at an address, be it the one that asks.
func addressTaken(placed map[string]raft.Server, address string) bool {
	for _, p := range placed {
		if string(p.Address) == address {
			return true
		}
	}
	return false
}

// placeServer takes a server in, unless it belongs to another cluster.
func (s *Server) placeServer(ctx context.Context, lib *autopilot.Autopilot, m Member, in bool) error {
	if !in && m.ID != s.c.NodeID {
		ctx, cancel := context.WithTimeout(ctx, askStreams)
		defer cancel()
		status, err := s.statusOf(ctx, m.ID, m.address())
		if err != nil {
			return err
		}
		if status.GetId() != m.ID {
			return fmt.Errorf("at %s answers the server of ID %s", m.address(), status.GetId())
		}
		if mine, err := s.store.Read().CA(); err != nil || mine == nil {
			return fmt.Errorf("this cluster has no name yet: %w", err)
		} else if theirs := status.GetClusterId(); theirs != "" && theirs != mine.ClusterID {
			return fmt.Errorf("it belongs to another cluster, %s: two clusters can't become one; stop it and empty its data_dir", theirs)
		}
	}
	s.c.Log.Info("server in raft", "node", m.Name, "id", m.ID, "address", m.address())
	return lib.AddServer(&autopilot.Server{ID: raft.ServerID(m.ID), Name: m.Name, Address: raft.ServerAddress(m.address())})
}
