// SPDX-License-Identifier: Apache-2.0

package server

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hashicorp/raft"

	"github.com/weftmesh/weft/catalog"
)

var errUnknownServer = errors.New("gossip doesn't know this server")

// scratch is a machine to read a log with: nobody sees its tables.
func (c raftConfig) scratch() (*fsm, error) {
	store, err := catalog.New(catalog.Config{Datacenter: c.store.Read().Datacenter()})
	if err != nil {
		return nil, err
	}
	return &fsm{store: store, applied: &progress{}, fatal: func(error) {}}, nil
}

// configuration reads which servers there are from the log, without starting anything.
func (n *raftNode) configuration(c raftConfig, conf *raft.Config, transport raft.Transport) (_ raft.Configuration, err error) {
	defer unreadable(&err)
	machine, err := c.scratch()
	if err != nil {
		return raft.Configuration{}, err
	}
	reading := *conf
	return raft.GetConfiguration(&reading, machine, n.log, n.stable, n.snapshots, transport)
}

// reform makes servers the cluster, whatever the log says, and gives what the log holds. All of the log counts as agreed.
func (n *raftNode) reform(c raftConfig, conf *raft.Config, transport raft.Transport, servers []raft.Server) (_ *catalog.Store, err error) {
	defer unreadable(&err)
	machine, err := c.scratch()
	if err != nil {
		return nil, err
	}
	err = raft.RecoverCluster(conf, machine, n.log, n.stable, n.snapshots, transport, raft.Configuration{Servers: servers})
	return machine.store, err
}

// rename brings a log of weft's first version, in which a lone server was known by its name, to the server's ID.
func (n *raftNode) rename(c raftConfig, conf *raft.Config, transport raft.Transport) error {
	known, err := n.hasState()
	if err != nil || !known || c.id == c.name {
		return err
	}
	current, err := n.configuration(c, conf, transport)
	if err != nil || len(current.Servers) != 1 || current.Servers[0].ID != raft.ServerID(c.name) {
		return err
	}
	c.log.Info("this server is known by its ID from now on", "id", c.id)
	_, err = n.reform(c, conf, transport, []raft.Server{{ID: conf.LocalID, Address: raft.ServerAddress(c.address)}})
	return err
}

// peersFile names the servers that are a cluster from now on, after its majority was lost for good: Consul's form. It is looked
// for at the start, and removed when it was obeyed.
const peersFile = "peers.json"

func (n *raftNode) recover(c raftConfig, conf *raft.Config, transport raft.Transport) error {
	if c.dir == "" {
		return nil
	}
	for _, path := range []string{filepath.Join(c.dir, peersFile), filepath.Join(filepath.Dir(c.dir), "raft", peersFile)} {
		if _, err := os.Stat(path); err != nil {
			continue
		}
		wanted, err := raft.ReadConfigJSON(path)
		if err != nil {
			return fmt.Errorf("%s: %w; want [{\"id\": \"…\", \"address\": \"10.0.0.1:8300\", \"non_voter\": false}]", path, err)
		}
		c.log.Warn("the cluster is made of the servers in this file from now on", "file", path, "servers", len(wanted.Servers))
		if _, err := n.reform(c, conf, transport, wanted.Servers); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	return nil
}

// Recovery is what Recover is to do.
type Recovery struct {
	DataDir, Datacenter, NodeID string
	Address                     string // "": as before
	Log                         *slog.Logger
}

// Recovered is what there was, and what there is.
type Recovered struct {
	// Before are the servers that the cluster had, as "id address".
	Before []string
	// LastIndex is the last entry that this server has, and LastAt when the leader took it in; whatever was agreed after it is lost.
	LastIndex uint64
	LastAt    time.Time
	// Unsure is how many of its entries this server doesn't know to have been agreed. They count as agreed now.
	Unsure uint64
	// What is left.
	Nodes, Services, Entries, Keys int
}

// Recover makes a cluster of the one server whose data this is, which must not run. The others' data must not come back.
func Recover(r Recovery) (*Recovered, error) {
	store, err := catalog.New(catalog.Config{Datacenter: r.Datacenter})
	if err != nil {
		return nil, err
	}
	c := raftConfig{dir: filepath.Join(r.DataDir, "server"), id: r.NodeID, address: r.Address, store: store, applied: &progress{}, fatal: func(error) {}, log: r.Log}
	if _, err := os.Stat(c.dir); err != nil {
		return nil, fmt.Errorf("there is no server's data in %s: %w", r.DataDir, err)
	}
	n := &raftNode{id: raft.ServerID(c.id)}
	opened := make(chan error, 1)
	go func() { // waits for the lock, in vain where the server runs; it ends with the process then
		var err error
		n.raftStores, err = openStores(c, n)
		opened <- err
	}()
	select {
	case err := <-opened:
		if err != nil {
			return nil, errors.Join(err, n.close())
		}
	case <-time.After(lockTimeout):
		return nil, fmt.Errorf("the data in %s is in use: stop the server first", r.DataDir)
	}
	out, err := n.recoverAlone(c)
	return out, errors.Join(err, n.close())
}

// lockTimeout is how long another process may hold the files.
const lockTimeout = 3 * time.Second

func (n *raftNode) recoverAlone(c raftConfig) (*Recovered, error) {
	conf, transport := c.raft(nil), c.transport()
	before, err := n.configuration(c, conf, transport)
	if err != nil {
		return nil, err
	}
	out := &Recovered{}
	for _, p := range before.Servers {
		if c.address == "" && p.ID == conf.LocalID {
			c.address = string(p.Address)
		}
		out.Before = append(out.Before, fmt.Sprintf("%s %s", p.ID, p.Address))
	}
	if c.address == "" {
		return nil, fmt.Errorf("server %s isn't one of the cluster's (%s): say where it is reached (-address)", c.id, strings.Join(out.Before, ", "))
	}
	first, err := n.log.FirstIndex()
	if err != nil {
		return nil, err
	}
	if out.LastIndex, err = n.log.LastIndex(); err != nil {
		return nil, err
	}
	if out.LastIndex > 0 {
		var last raft.Log
		if err := n.log.GetLog(out.LastIndex, &last); err != nil {
			return nil, err
		}
		out.LastAt = last.AppendedAt
	}
	snapshots, err := n.snapshots.List()
	if err != nil {
		return nil, err
	}
	settled := uint64(0)
	if len(snapshots) > 0 {
		settled = snapshots[0].Index
	}
	out.LastIndex = max(out.LastIndex, settled)
	if first > 0 {
		out.Unsure = out.LastIndex - max(settled, first-1)
	}
	store, err := n.reform(c, conf, transport, []raft.Server{{ID: conf.LocalID, Address: raft.ServerAddress(c.address)}})
	if err != nil {
		return nil, err
	}
	return out, out.count(store.Read())
}

func (r *Recovered) count(t *catalog.Txn) error {
	nodes, err := t.Nodes(catalog.Scope{}.Default(t.Datacenter()))
	if err != nil {
		return err
	}
	r.Nodes = len(nodes)
	for _, node := range nodes {
		services, err := t.NodeServices(node.Scope.Name(node.Node))
		if err != nil {
			return err
		}
		r.Services += len(services)
	}
	for _, kind := range catalog.EntryKinds() {
		entries, err := t.Entries(kind, catalog.Scope{}.Default(t.Datacenter()))
		if err != nil {
			return err
		}
		r.Entries += len(entries)
	}
	r.Keys = t.CountKeys()
	return nil
}
