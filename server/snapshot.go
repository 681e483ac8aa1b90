// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/hashicorp/raft"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/internal/api"
	"github.com/weftmesh/weft/server/archive"
	"github.com/weftmesh/weft/server/consul"
)

// restoreTimeout bounds the wait until followers have a restored snapshot.
const restoreTimeout = time.Minute

// OpenSnapshot takes a snapshot of what this server has. Its archive is written by what it gives.
func (s *Server) OpenSnapshot() (index uint64, write func(io.Writer) error, err error) {
	node := s.raft.Load()
	if node == nil {
		return 0, nil, api.ErrNoLeader
	}
	future := node.Snapshot()
	if err := future.Error(); err != nil {
		return 0, nil, fmt.Errorf("take a snapshot: %w", err)
	}
	meta, state, err := future.Open()
	if err != nil {
		return 0, nil, fmt.Errorf("open the snapshot: %w", err)
	}
	return meta.Index, func(w io.Writer) error {
		return errors.Join(archive.Write(w, meta, state, s.c.Now()), state.Close())
	}, nil
}

// RestoreSnapshot makes an archive's state that of the cluster. An archive that is damaged, or of a newer version, is refused
// before anything is touched, and so is one with keys that are sealed by a key which no server has, unless these are to be thrown away.
// Consul's archives are taken too: the report says what of it was. Only the leader can.
func (s *Server) RestoreSnapshot(ctx context.Context, r io.Reader, discardSealed bool) (*consul.Report, error) {
	node := s.raft.Load()
	if node == nil || !s.leads() {
		return nil, api.ErrNoLeader
	}
	dir := ""
	if s.c.DataDir != "" {
		dir = filepath.Join(s.c.DataDir, "server")
	}
	a, err := archive.Read(r, dir)
	if err != nil {
		if errors.Is(err, archive.ErrDamaged) {
			return nil, fmt.Errorf("%w: nothing was restored: %w", catalog.ErrInvalid, err)
		}
		return nil, err
	}
	defer func() { a.Close() }() // the last one
	report, own, err := s.fromConsul(a, dir)
	if err != nil {
		return nil, err
	}
	if own != nil {
		a.Close()
		a = own
	}
	loaded, err := catalog.ReadSnapshot(a.State, s.c.Datacenter)
	if err != nil {
		return nil, fmt.Errorf("%w: nothing was restored: %w", catalog.ErrInvalid, err)
	}
	missing := s.missingKey(ctx, loaded)
	if missing != "" && !discardSealed {
		return nil, fmt.Errorf("%w: nothing was restored: the certificate authority's keys in the snapshot are sealed by the key %s, which isn't in this cluster: "+
			"give it to the leader by `weft operator seal import`, from where `weft operator seal export` prints it; or restore without these keys by -discard-sealed, "+
			"for a new root: then no certificate from before is taken", catalog.ErrInvalid, missing)
	}
	before, err := s.store.Read().ACL(catalog.PlaneCAs, catalog.PlaneCAID)
	if err != nil {
		return nil, err
	}
	if _, err := a.State.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	markTaken(ctx)
	s.c.Log.Warn("restoring a snapshot", "index", a.Meta.Index, "size", a.Meta.Size)
	if err := node.Restore(a.Meta, a.State, restoreTimeout); err != nil {
		return nil, fmt.Errorf("restore: %w", err)
	}
	if missing != "" {
		if err := s.discardSealed(ctx, before.PlaneCA); err != nil {
			return nil, err
		}
	}
	// One command more, so that no server passes for having caught up that still has what was before.
	if _, err := s.Propose(ctx, catalog.RaiseSchema{Version: s.store.Read().Schema()}); err != nil {
		return nil, err
	}
	return report, s.officeAgain(ctx)
}

// fromConsul makes an archive of our own of one of Consul's; nil if it is none.
func (s *Server) fromConsul(a *archive.Archive, dir string) (*consul.Report, *archive.Archive, error) {
	head := make([]byte, 64)
	n, err := a.State.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, nil, err
	}
	if !consul.Is(head[:n]) {
		return nil, nil, nil
	}
	store, report, err := consul.Convert(a.State, consul.Config{Datacenter: s.c.Datacenter, Schema: s.store.Read().Schema()})
	if err != nil {
		return nil, nil, fmt.Errorf("%w: nothing was restored: %w", catalog.ErrInvalid, err)
	}
	own, err := archive.New(dir)
	if err != nil {
		return nil, nil, err
	}
	meta := *a.Meta
	own.Meta, meta.Index = &meta, max(meta.Index, store.Position().Index)
	if meta.Size, err = store.Snapshot().WriteTo(own.State); err == nil {
		_, err = own.State.Seek(0, io.SeekStart)
	}
	if err != nil {
		return nil, nil, errors.Join(err, own.Close())
	}
	return report, own, nil
}

// officeAgain has the leader take office anew, with what the catalog holds now.
func (s *Server) officeAgain(ctx context.Context) error {
	done := make(chan struct{})
	select {
	case s.anew <- done:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// RaftServer is a server of Raft's configuration.
type RaftServer = api.RaftServer

// RaftServers are the servers of Raft's configuration, and its index.
func (s *Server) RaftServers() ([]RaftServer, uint64, error) {
	node := s.raft.Load()
	if node == nil {
		return nil, 0, api.ErrNoLeader
	}
	future := node.GetConfiguration()
	if err := future.Error(); err != nil {
		return nil, 0, err
	}
	leader, _ := s.raftLeader()
	out := []RaftServer{}
	for _, p := range future.Configuration().Servers {
		id := string(p.ID)
		out = append(out, RaftServer{
			ID: id, Node: s.peerName(id), Address: s.addressOf(id, string(p.Address)), Leader: id == leader, ProtocolVersion: "3",
			Voter: p.Suffrage == raft.Voter, LastIndex: s.pilot.lastIndex(id),
		})
	}
	return out, future.Index(), nil
}

// RemovePeer takes a server out of Raft, by its ID or its address.
func (s *Server) RemovePeer(id, address string) error {
	servers, _, err := s.RaftServers()
	if err != nil {
		return err
	}
	for _, p := range servers {
		if p.ID == id || id == "" && p.Address == address {
			s.c.Log.Warn("a server is taken out of raft on request", "id", p.ID, "node", p.Node)
			return s.raft.Load().RemoveServer(raft.ServerID(p.ID), 0, 0).Error()
		}
	}
	return fmt.Errorf("%w: server %q isn't one of the cluster's", catalog.ErrNotFound, id+address)
}

// TransferLeader has another server lead: the one of this ID, or any.
func (s *Server) TransferLeader(id string) error {
	node := s.raft.Load()
	if id == "" {
		return node.LeadershipTransfer().Error()
	}
	servers, _, err := s.RaftServers()
	if err != nil {
		return err
	}
	for _, p := range servers {
		if p.ID == id {
			return node.LeadershipTransferToServer(raft.ServerID(id), raft.ServerAddress(p.Address)).Error()
		}
	}
	return fmt.Errorf("%w: server %q isn't one of the cluster's", catalog.ErrNotFound, id)
}
