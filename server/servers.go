// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"strconv"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/weftmesh/weft/internal/api"
	"github.com/weftmesh/weft/internal/guard"
	weftv1 "github.com/weftmesh/weft/proto/weft/v1"
)

// serversService answers the other servers.
type serversService struct {
	weftv1.UnimplementedServersServer
	s *Server

	mu       sync.Mutex
	promised string // the candidate that this server promised not to found a cluster beside
	until    time.Time
}

// promiseLife is how long a promise holds. Who asks for promises founds in less than a third of it, or asks anew.
const promiseLife = 15 * time.Second

func (v *serversService) fromServer(ctx context.Context) error {
	if v.s.c.FromServer != nil && !v.s.c.FromServer(ctx) && !guard.Off("C105") {
		return status.Error(codes.PermissionDenied, "only servers may ask this, and this connection isn't a server's")
	}
	if v.s.raft.Load() == nil {
		return status.Error(codes.Unavailable, "this server is starting")
	}
	return nil
}

func (v *serversService) Status(ctx context.Context, _ *weftv1.ServerStatusRequest) (*weftv1.ServerStatusResponse, error) {
	if err := v.fromServer(ctx); err != nil {
		return nil, err
	}
	return v.s.status()
}

// status is what this server is and has.
func (s *Server) status() (*weftv1.ServerStatusResponse, error) {
	node := s.raft.Load()
	known, err := node.hasState()
	if err != nil {
		return nil, err
	}
	out := &weftv1.ServerStatusResponse{
		Id: s.c.NodeID, Node: s.c.NodeName, HasState: known, LastIndex: node.LastIndex(), LastContactMs: -1,
		SchemaVersion: s.c.Schema, Version: s.c.Version, Meta: s.c.Meta,
	}
	out.LastTerm, _ = strconv.ParseUint(node.Stats()["last_log_term"], 10, 64) // a number, or 0
	if at := node.LastContact(); !at.IsZero() {
		out.LastContactMs = max(0, s.c.Now().Sub(at).Milliseconds())
	}
	if id, _ := s.raftLeader(); id == s.c.NodeID {
		out.LastContactMs = 0
	}
	if ca, err := s.store.Read().CA(); err == nil && ca != nil {
		out.ClusterId = ca.ClusterID
	}
	return out, nil
}

func (v *serversService) Promise(ctx context.Context, req *weftv1.PromiseRequest) (*weftv1.PromiseResponse, error) {
	if err := v.fromServer(ctx); err != nil {
		return nil, err
	}
	known, err := v.s.raft.Load().hasState()
	if err != nil {
		return nil, api.GRPC(err)
	}
	return &weftv1.PromiseResponse{HasState: known, Granted: !known && v.promise(req.GetCandidate())}, nil
}

// promise gives this server's promise to a candidate, itself perhaps, unless another has it.
func (v *serversService) promise(candidate string) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	now := v.s.c.Now()
	if v.promised != "" && v.promised != candidate && now.Before(v.until) {
		return false
	}
	v.promised, v.until = candidate, now.Add(promiseLife)
	return true
}

func (v *serversService) Streams(ctx context.Context, req *weftv1.StreamsRequest) (*weftv1.StreamsResponse, error) {
	if err := v.fromServer(ctx); err != nil {
		return nil, err
	}
	out := &weftv1.StreamsResponse{}
	for _, node := range req.GetNodes() {
		if v.s.feed.Connected(node) {
			out.Connected = append(out.Connected, node)
		}
	}
	return out, nil
}
