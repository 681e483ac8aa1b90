// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hashicorp/raft"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/internal/guard"
	"github.com/weftmesh/weft/internal/plane"
	"github.com/weftmesh/weft/internal/seal"
	weftv1 "github.com/weftmesh/weft/proto/weft/v1"
	"github.com/weftmesh/weft/server/rest"
)

// What the servers' log and snapshots hold of keys is sealed by a key of the cluster, which every server keeps in a file of its own and gets
// from the others over the plane. A leader seals, and what it seals goes through the log as it is, so that all servers hold the same bytes.

// The purposes of what is sealed.
const (
	sealedCA    = "weft: the certificate authority's state"
	sealedPlane = "weft: the key of the nodes' certificate authority"
)

// sealedText begins what is sealed in place of a text.
const sealedText = "weft-sealed:"

const (
	sealWithin = 5 * time.Second // to ask or tell the other servers
	sealBeyond = time.Second     // more, for those that aren't needed for a majority
	sealLook   = time.Second     // between looks whether a key is missing here
)

// openRing reads this server's keys, and says what is wrong with them.
func openRing(c *Config) (*seal.Ring, error) {
	path := ""
	if c.DataDir != "" {
		path = seal.RingFile(c.DataDir)
	}
	return seal.OpenRing(path, c.SealedBy, c.Rand)
}

// seal seals a secret for the log. The first key is made here, and is used once a majority of the servers have it on their disks.
func (s *Server) seal(ctx context.Context, purpose string, secret []byte) ([]byte, error) {
	if guard.Off("C123") {
		return secret, nil
	}
	key, ok := s.ring.Active()
	if !ok {
		var err error
		if key, err = seal.NewKey(s.c.Rand); err != nil {
			return nil, err
		}
	}
	if err := s.shareKey(ctx, key); err != nil {
		return nil, fmt.Errorf("seal %s: %w", strings.TrimPrefix(purpose, "weft: "), err)
	}
	return key.Seal(purpose, secret, s.c.Rand)
}

// unseal opens what was sealed; a key that isn't here is asked for at the other servers.
func (s *Server) unseal(ctx context.Context, purpose string, data []byte) ([]byte, error) {
	secret, err := seal.Open(s.ring.Find, purpose, data)
	var missing *seal.MissingKey
	if !errors.As(err, &missing) {
		return secret, err
	}
	s.fetchKeys(ctx, missing.ID)
	if secret, err = seal.Open(s.ring.Find, purpose, data); errors.Is(err, seal.ErrNoKey) {
		err = fmt.Errorf("%s: %w, nor at the other servers: bring it with `weft operator seal import` from where `weft operator seal export` gives it",
			strings.TrimPrefix(purpose, "weft: "), err)
	}
	return secret, err
}

func (s *Server) sealText(ctx context.Context, purpose, secret string) (string, error) {
	data, err := s.seal(ctx, purpose, []byte(secret))
	if err != nil {
		return "", err
	}
	return sealedText + base64.StdEncoding.EncodeToString(data), nil
}

func (s *Server) unsealText(ctx context.Context, purpose, text string) (string, error) {
	encoded, ok := strings.CutPrefix(text, sealedText)
	if !ok {
		return text, nil
	}
	data, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return "", seal.ErrDamaged
	}
	secret, err := s.unseal(ctx, purpose, data)
	return string(secret), err
}

// shareKey puts a key on the disks of all servers that answer, and of a majority of those that vote, this one among them: a secret must not go
// with the servers that can open it. One that doesn't answer asks for it later; a cluster that is recovered by it alone before that has lost
// what was sealed.
func (s *Server) shareKey(ctx context.Context, key seal.Key) error {
	if err := s.ring.Add(key); err != nil {
		return err
	}
	others, voters, err := s.otherServers()
	if err != nil {
		return err
	}
	have, last := s.offerToAll(ctx, others, voters, key)
	if have <= voters/2 {
		return fmt.Errorf("only %d of %d servers have the key yet, and it isn't used before a majority has: %w", have, voters, last)
	}
	return nil
}

// offerToAll offers a key to all servers at once that aren't known to have it, and counts those that vote and have it, this one among them. Once
// a majority has, the others have sealBeyond.
func (s *Server) offerToAll(ctx context.Context, others []otherServer, voters int, key seal.Key) (have int, last error) {
	s.sharing.Lock()
	defer s.sharing.Unlock()
	if s.shared == nil {
		s.shared = map[string]bool{}
	}
	type answer struct {
		from otherServer
		err  error
	}
	ctx, cancel := context.WithTimeout(ctx, sealWithin)
	defer cancel()
	have = 1
	count := func(p otherServer) {
		if p.votes {
			have++
		}
	}
	answers, asked := make(chan answer, len(others)), 0
	for _, p := range others {
		if s.shared[key.ID()+" "+p.id] {
			count(p)
			continue
		}
		asked++
		go func() { answers <- answer{p, s.offerKey(ctx, p, key)} }() // ends with ctx at the latest, and is waited for
	}
	var beyond *time.Timer
	for ; asked > 0; asked-- {
		if have > voters/2 && beyond == nil {
			beyond = time.AfterFunc(sealBeyond, cancel)
			defer beyond.Stop()
		}
		a := <-answers
		if a.err != nil {
			last = a.err
			continue
		}
		s.shared[key.ID()+" "+a.from.id] = true
		count(a.from)
	}
	return have, last
}

func (s *Server) offerKey(ctx context.Context, p otherServer, key seal.Key) error {
	client, err := s.peers.servers(p.address)
	if err == nil {
		_, err = client.SealKeys(ctx, &weftv1.SealKeysRequest{Offered: [][]byte{key[:]}})
	}
	return err
}

// fetchKeys asks the other servers, all at once, for a key, until one has given it.
func (s *Server) fetchKeys(ctx context.Context, id string) {
	others, _, err := s.otherServers()
	if err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, sealWithin)
	defer cancel()
	given := make(chan bool, len(others))
	for _, p := range others {
		go func() { given <- s.fetchKey(ctx, p, id) }() // ends with ctx at the latest, and is waited for
	}
	for range others {
		if <-given {
			cancel()
		}
	}
}

func (s *Server) fetchKey(ctx context.Context, p otherServer, id string) bool {
	client, err := s.peers.servers(p.address)
	if err != nil {
		return false
	}
	resp, err := client.SealKeys(ctx, &weftv1.SealKeysRequest{Wanted: []string{id}})
	if err != nil {
		s.c.Log.Debug("a server doesn't give the key that the cluster's keys are sealed by", "server", p.id, "key", id, "error", err)
		return false
	}
	for _, data := range resp.GetKeys() {
		var key seal.Key
		if copy(key[:], data) != len(key) || len(data) != len(key) || key.ID() != id {
			continue
		}
		if err := s.ring.Add(key); err != nil {
			s.c.Log.Error("the key that the cluster's keys are sealed by can't be kept", "key", id, "error", err)
			return false
		}
		s.c.Log.Info("this server has the key that the cluster's keys are sealed by", "key", id, "from", p.id)
		return true
	}
	return false
}

// SealKeys takes the keys that another server offers, and gives those that it wants.
func (v *serversService) SealKeys(ctx context.Context, req *weftv1.SealKeysRequest) (*weftv1.SealKeysResponse, error) {
	if err := v.fromServer(ctx); err != nil {
		return nil, err
	}
	for _, data := range req.GetOffered() {
		var key seal.Key
		if len(data) != len(key) {
			return nil, fmt.Errorf("a seal key of %d bytes", len(data))
		}
		copy(key[:], data)
		if err := v.s.ring.Add(key); err != nil {
			return nil, err
		}
	}
	out := &weftv1.SealKeysResponse{}
	for _, id := range req.GetWanted() {
		if key, ok := v.s.ring.Find(id); ok {
			out.Keys = append(out.Keys, key[:])
		}
	}
	return out, nil
}

type otherServer struct {
	id, address string
	votes       bool
}

// otherServers are those of Raft's configuration; voters counts this one too.
func (s *Server) otherServers() (others []otherServer, voters int, err error) {
	node := s.raft.Load()
	if node == nil {
		return nil, 0, errors.New("this server is starting")
	}
	future := node.GetConfiguration()
	if err := future.Error(); err != nil {
		return nil, 0, err
	}
	for _, p := range future.Configuration().Servers {
		votes := p.Suffrage == raft.Voter
		if votes {
			voters++
		}
		if string(p.ID) != s.c.NodeID {
			others = append(others, otherServer{string(p.ID), s.addressOf(string(p.ID), string(p.Address)), votes})
		}
	}
	return others, voters, nil
}

// keepSealKeys sees to it that this server can open what the catalog has sealed, before it leads or renews nodes' certificates.
func (s *Server) keepSealKeys(ctx context.Context) error {
	for {
		for _, id := range sealIDs(s.store.Read()) {
			if _, ok := s.ring.Find(id); !ok {
				s.fetchKeys(ctx, id)
			}
		}
		timer := time.NewTimer(sealLook)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil
		}
	}
}

// sealIDs are the keys by which the catalog's secrets are sealed.
func sealIDs(t *catalog.Txn) []string {
	var out []string
	for _, data := range catalog.Sealed(t) {
		if encoded, ok := strings.CutPrefix(string(data), sealedText); ok {
			data, _ = base64.StdEncoding.DecodeString(encoded) // what isn't base64 isn't sealed
		}
		if id, ok := seal.Is(data); ok {
			out = append(out, id)
		}
	}
	return out
}

// planeAuthority is the CA of the nodes' certificates, with its key; nil where the cluster has none.
func (s *Server) planeAuthority(ctx context.Context) (*plane.Authority, error) {
	return rest.PlaneAuthority(s.store.Read(), func(key string) (string, error) { return s.unsealText(ctx, sealedPlane, key) })
}

// sealPlane seals what was written by an older weft, or came with a snapshot.
func (s *Server) sealPlane(ctx context.Context) error {
	have, err := s.store.Read().ACL(catalog.PlaneCAs, catalog.PlaneCAID)
	if err != nil || have.PlaneCA == nil || strings.HasPrefix(have.PlaneCA.Key, sealedText) {
		return err
	}
	next := *have.PlaneCA
	if next.Key, err = s.sealText(ctx, sealedPlane, next.Key); err != nil {
		return err
	}
	_, err = s.Propose(ctx, catalog.SetACL{Objects: []catalog.ACLObject{{PlaneCA: &next}}})
	return err
}

// Seal says by which key the secrets in the log are sealed, and what seals that key here.
func (s *Server) Seal() (key, by string) {
	if k, ok := s.ring.Active(); ok {
		key = k.ID()
	}
	return key, s.ring.SealedBy()
}

// missingKey is a key by which something in a catalog is sealed, and that no server has; "" if there is none.
func (s *Server) missingKey(ctx context.Context, t *catalog.Txn) string {
	for _, id := range sealIDs(t) {
		if _, ok := s.ring.Find(id); !ok {
			s.fetchKeys(ctx, id)
		}
		if _, ok := s.ring.Find(id); !ok {
			return id
		}
	}
	return ""
}

// discardSealed throws away the keys of a catalog that was restored and can't be opened: the mesh gets a new root, and nodes know each other by the
// authority that they had before.
func (s *Server) discardSealed(ctx context.Context, own *catalog.PlaneCA) error {
	s.c.Log.Warn("the restored certificate authority's keys are thrown away: there will be a new root")
	state, err := s.store.Read().CA()
	if err != nil {
		return err
	}
	if state != nil && len(state.PrivateState) > 0 {
		bare := catalog.CAState{ClusterID: state.ClusterID, Datacenter: state.Datacenter}
		if _, err := s.Propose(ctx, catalog.SetCA{State: bare, CAS: state.ModifyIndex}); err != nil {
			return err
		}
	}
	if err := s.forgetMethodSecrets(ctx); err != nil {
		return err
	}
	if own == nil {
		_, err := s.Propose(ctx, catalog.DeleteACL{Kind: catalog.PlaneCAs, IDs: []string{catalog.PlaneCAID}})
		return err
	}
	have, err := s.store.Read().ACL(catalog.PlaneCAs, catalog.PlaneCAID)
	if err == nil {
		_, err = s.Propose(ctx, catalog.SetACL{Create: have.PlaneCA == nil, Objects: []catalog.ACLObject{{PlaneCA: own}}})
	}
	return err
}
