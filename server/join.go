// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/internal/plane"
	"github.com/weftmesh/weft/internal/uuid"
	"github.com/weftmesh/weft/server/rest"
	"github.com/weftmesh/weft/server/tokens"
)

// JoinConfig is how new nodes are let in by token.
type JoinConfig struct {
	Domain string // of names in certificates
	// Authority is what this server made when it founded the cluster; nil: the cluster has one.
	Authority *plane.Authority
	// AgentToken is the secret of this founding server's agent, "" where the cluster gave it one.
	AgentToken string
	// Servers are the addresses of the servers' port, RetryJoin those of their gossip.
	Servers, RetryJoin func() []string
	// GossipKeys are in base64, the one that encrypts first.
	GossipKeys func() []string
}

func (s *Server) joins() *rest.Join {
	j := s.c.Join
	if j == nil {
		return nil
	}
	return &rest.Join{
		Datacenter: s.c.Datacenter, Domain: j.Domain, Servers: j.Servers, RetryJoin: j.RetryJoin, GossipKeys: j.GossipKeys,
		ACL:     plane.ACL{Enabled: s.c.ACL.Enabled, DefaultPolicy: s.c.ACL.defaultPolicy(), DownPolicy: s.c.ACL.DownPolicy},
		Another: s.liveNode, Authority: s.planeAuthority,
	}
}

// liveNode says whether a node of this name is in the cluster and alive.
func (s *Server) liveNode(name string) bool {
	if s.c.Members == nil {
		return name == s.c.NodeName
	}
	for _, m := range s.c.Members.Members() {
		if m.Name == name && m.Status == Alive {
			return true
		}
	}
	return false
}

// ensureJoin keeps what the founding server made: the CA of the nodes, and the token of its own agent.
func (s *Server) ensureJoin(ctx context.Context) error {
	j := s.c.Join
	if j == nil || j.Authority == nil {
		return nil
	}
	t := s.store.Read()
	have, err := t.ACL(catalog.PlaneCAs, catalog.PlaneCAID)
	if err != nil || have.PlaneCA != nil {
		return err
	}
	cert, key, err := j.Authority.PEM()
	if err != nil {
		return err
	}
	if key, err = s.sealText(ctx, sealedPlane, key); err != nil {
		return err
	}
	objects := []catalog.ACLObject{{PlaneCA: &catalog.PlaneCA{Cert: cert, Key: key}}}
	if s.c.ACL.Enabled && j.AgentToken != "" {
		accessor, err := uuid.New(s.c.Rand)
		if err != nil {
			return err
		}
		k := &catalog.ACLToken{
			AccessorID: accessor, SecretHash: tokens.Hash(j.AgentToken), CreateTime: s.c.Now().UTC(),
			Description: "agent of " + s.c.NodeName + ", made when it founded the cluster",
		}
		if err := rest.NodeToken(t, k, s.c.NodeName, s.c.Datacenter); err != nil {
			return err
		}
		objects = append(objects, catalog.ACLObject{Token: k})
	}
	if _, err := s.Propose(ctx, catalog.SetACL{Create: true, Objects: objects}); err != nil && !errors.Is(err, catalog.ErrExists) {
		return fmt.Errorf("keep the CA of the nodes: %w", err)
	}
	return nil
}

// joinBody bounds what somebody may send who has proved nothing.
const joinBody = 16 << 10

// JoinHandler answers plane.Join: those who have a token, and nodes whose certificate is to be renewed.
func (s *Server) JoinHandler() http.Handler {
	mux := http.NewServeMux()
	limited := func(h http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			r.Body = http.MaxBytesReader(w, r.Body, joinBody)
			h(w, r)
		}
	}
	mux.HandleFunc("POST "+plane.JoinPath, limited(s.entrance.ServeHTTP))
	mux.HandleFunc("POST "+plane.RenewPath, limited(s.renewNode))
	return mux
}

// renewNode signs a new certificate for who the connection's certificate proves the node to be.
func (s *Server) renewNode(w http.ResponseWriter, r *http.Request) {
	who, proved := plane.PeerFrom(r.Context())
	if !proved || who.Node == "" || who.Datacenter != s.c.Datacenter {
		http.Error(w, "this node has to show the certificate that it has: join anew with a fresh token", http.StatusForbidden)
		return
	}
	var b plane.JoinRequest
	if err := json.NewDecoder(r.Body).Decode(&b); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	authority, err := s.planeAuthority(r.Context())
	if err != nil || authority == nil || s.c.Join == nil {
		http.Error(w, "this server doesn't have the CA of the nodes yet", http.StatusServiceUnavailable)
		return
	}
	cert, err := authority.Sign(b.CSR, who, s.c.Join.Domain, s.c.Rand, s.c.Now())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(plane.JoinAnswer{Certificate: cert}) // the node may be gone
	s.c.Log.Info("a node's certificate was renewed", "node", who.Node, "server", who.Server)
}

// NewJoinToken makes a join token. It is for this server's own process, which needs no permission.
func (s *Server) NewJoinToken(ctx context.Context, spec rest.JoinSpec) (string, error) {
	authority, err := s.planeAuthority(ctx)
	if err != nil || authority == nil || s.c.Join == nil {
		return "", errors.Join(err, errors.New("this server has no CA of the nodes"))
	}
	_, text, err := s.joins().NewToken(ctx, s.Propose, authority, s.c.Rand, s.c.Now(), spec)
	return text, err
}
