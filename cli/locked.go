// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/weftmesh/weft/agent/config"
	"github.com/weftmesh/weft/agent/tokens"
	"github.com/weftmesh/weft/internal/gossip"
	"github.com/weftmesh/weft/internal/plane"
	"github.com/weftmesh/weft/internal/uuid"
	"github.com/weftmesh/weft/server"
	"github.com/weftmesh/weft/server/rest"
)

// enter gives this node what it needs in a locked cluster: what it got when it joined, else by its join token, else, where it
// founds the cluster, what it makes itself. A node to which neither is said goes on as it is.
func (n *node) enter(ctx context.Context) error {
	if n.s.DataDir == "" || n.s.TLS.RPCFiles() != (config.TLSPart{}) {
		return nil
	}
	file := plane.IdentityFile(n.s.DataDir)
	id, err := plane.ReadIdentity(file, n.outer)
	if err != nil {
		return err
	}
	if id == nil {
		switch {
		case n.s.Joining() != "":
			id, err = n.joinByToken(ctx)
		case n.s.Locked && n.s.Server:
			id, err = n.found()
		default:
			return nil
		}
		if err != nil {
			return err
		}
		if err := id.Write(file, n.outer); err != nil {
			return err
		}
	}
	n.identity = id
	n.settle(id)
	return nil
}

// settle has the settings say what the cluster said.
func (n *node) settle(id *plane.Identity) {
	s := &n.s
	if s.Datacenter != id.Datacenter {
		n.log.Warn("the datacenter is the one that this node has joined", "datacenter", id.Datacenter, "configured", s.Datacenter)
		s.Datacenter = id.Datacenter
	}
	if len(s.Joins(false)) == 0 {
		s.RetryJoin = id.RetryJoin
	}
	// The first server is a cluster from the start, and the others are taken in.
	s.BootstrapExpect, s.Bootstrap = 0, s.Server && len(s.Joins(false)) == 0
	if id.ACL.Enabled && !s.ACL.Enabled {
		s.ACL.Enabled, s.ACL.DefaultPolicy, s.ACL.DownPolicy = true, id.ACL.DefaultPolicy, cmp.Or(s.ACL.DownPolicy, id.ACL.DownPolicy)
	}
	if s.ACL.Tokens.Own()[tokens.Agent] == "" {
		s.ACL.Tokens.Agent = id.AgentToken
	}
}

// found makes the CA of a new cluster's nodes, this node's certificate, the gossip key and the agent's token.
func (n *node) found() (*plane.Identity, error) {
	now := time.Now()
	authority, err := plane.NewAuthority(n.s.Datacenter, rand.Reader, now)
	if err != nil {
		return nil, err
	}
	key, csr, err := plane.NewRequest(rand.Reader)
	if err != nil {
		return nil, err
	}
	who := plane.Peer{Server: true, Datacenter: n.s.Datacenter, Node: n.s.NodeName}
	cert, err := authority.Sign(csr, who, strings.Trim(n.s.Domain, "."), rand.Reader, now)
	if err != nil {
		return nil, err
	}
	id := &plane.Identity{
		Datacenter: n.s.Datacenter, Certificate: cert, Key: key, ACL: plane.ACL{Enabled: true, DefaultPolicy: cmp.Or(n.s.ACL.DefaultPolicy, "deny"), DownPolicy: n.s.ACL.DownPolicy},
	}
	if id.CA, id.AuthorityKey, err = authority.PEM(); err != nil {
		return nil, err
	}
	if id.AgentToken, err = uuid.New(rand.Reader); err != nil {
		return nil, err
	}
	gossipKey := n.s.Encrypt
	if gossipKey == "" {
		if gossipKey, err = gossip.NewKey(rand.Reader); err != nil {
			return nil, err
		}
	}
	return id, n.keepGossipKeys([]string{gossipKey})
}

// keepGossipKeys begins the keyrings, where there are none.
func (n *node) keepGossipKeys(texts []string) error {
	var keys [][]byte
	for _, text := range texts {
		key, err := gossip.ParseKey(text)
		if err != nil {
			return err
		}
		keys = append(keys, key)
	}
	for _, pool := range []string{"local", "remote"} {
		if pool == "remote" && !n.s.Server || len(keys) == 0 {
			continue
		}
		file := filepath.Join(n.s.DataDir, "serf", pool+".keyring")
		have, err := gossip.ReadKeyring(file, n.outer)
		if err == nil && len(have) == 0 {
			err = gossip.WriteKeyring(file, keys, n.outer)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// The times between two tries to join.
const (
	joinFirst = time.Second
	joinMost  = 15 * time.Second
	joinTime  = 20 * time.Second // of one try
)

// joinByToken asks the token's servers, one after the other, until one lets this node in or they refuse it.
func (n *node) joinByToken(ctx context.Context) (*plane.Identity, error) {
	token, err := joinToken(n.s.Joining())
	if err != nil {
		return nil, err
	}
	key, csr, err := plane.NewRequest(rand.Reader)
	if err != nil {
		return nil, err
	}
	d := &net.Dialer{}
	j := plane.Joiner{Pin: token.Pin, DialContext: d.DialContext, Now: time.Now}
	req := plane.JoinRequest{Node: n.s.NodeName, Server: n.s.Server, CSR: csr, Secret: token.Secret}
	for pause := joinFirst; ; pause = min(2*pause, joinMost) {
		for _, address := range token.Servers {
			answer, err := joinAt(ctx, j, address, req)
			switch {
			case err == nil:
				return n.joined(answer, key)
			case errors.Is(err, plane.ErrJoin), errors.Is(err, plane.ErrRefused):
				return nil, fmt.Errorf("join by token at %s: %w", address, err)
			}
			n.log.Warn("not joined yet", "server", address, "error", err)
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, context.Cause(ctx)
		}
	}
}

func joinAt(ctx context.Context, j plane.Joiner, address string, req plane.JoinRequest) (*plane.JoinAnswer, error) {
	ctx, cancel := context.WithTimeout(ctx, joinTime)
	defer cancel()
	return j.Join(ctx, address, req)
}

// joined keeps what the servers gave.
func (n *node) joined(answer *plane.JoinAnswer, key string) (*plane.Identity, error) {
	n.log.Info("joined by token", "datacenter", answer.Datacenter, "node", n.s.NodeName, "server", n.s.Server)
	return &plane.Identity{
		Datacenter: answer.Datacenter, CA: answer.CA, Certificate: answer.Certificate, Key: key, RetryJoin: answer.RetryJoin, ACL: answer.ACL,
		AgentToken: answer.AgentToken,
	}, n.keepGossipKeys(answer.GossipKeys)
}

// joinToken reads a token, or the file that @path names.
func joinToken(text string) (plane.Token, error) {
	if path, ok := strings.CutPrefix(text, "@"); ok {
		data, err := os.ReadFile(path)
		if err != nil {
			return plane.Token{}, fmt.Errorf("join_token, or auto_config.intro_token: %w", err)
		}
		text = string(data)
	}
	t, err := plane.ParseToken(text)
	if err != nil {
		return t, fmt.Errorf("join_token, or auto_config.intro_token: %w", err)
	}
	return t, nil
}

// joinConfig is what this server lets others in with; nil where it isn't in a locked cluster itself.
func (n *node) joinConfig() (*server.JoinConfig, error) {
	if n.identity == nil {
		return nil, nil
	}
	c := &server.JoinConfig{
		Domain:     strings.Trim(n.s.Domain, "."),
		GossipKeys: func() []string { return rest.KeyTexts(n.gossip.lan.Keys()) },
		Servers:    func() []string { return n.memberAddresses((*gossip.Member).ServerAddress) },
		RetryJoin: func() []string {
			return n.memberAddresses(func(m *gossip.Member) string {
				if addr, err := netip.ParseAddr(m.Address); m.Server && err == nil {
					return netip.AddrPortFrom(addr, uint16(m.Port)).String()
				}
				return ""
			})
		},
	}
	if n.identity.AuthorityKey == "" {
		return c, nil
	}
	c.AgentToken = n.identity.AgentToken
	var err error
	c.Authority, err = plane.ParseAuthority(n.identity.CA, n.identity.AuthorityKey)
	return c, err
}

// memberAddresses are addresses of this datacenter's servers that live, this one's first.
func (n *node) memberAddresses(of func(*gossip.Member) string) []string {
	local := n.gossip.lan.Local()
	var out []string
	for _, m := range append([]gossip.Member{local}, n.gossip.lan.Members()...) {
		if m.Datacenter != n.s.Datacenter || m.Name != local.Name && m.Status != gossip.StatusAlive || m.Name == local.Name && len(out) > 0 {
			continue
		}
		if a := of(&m); a != "" {
			out = append(out, a)
		}
	}
	return out
}

// announce tells who founded the cluster how to go on, once the servers' log has its CA.
func (n *node) announce(ctx context.Context) error {
	if n.server == nil || n.identity == nil || n.identity.AuthorityKey == "" {
		return nil
	}
	select {
	case <-n.server.Ready():
	case <-ctx.Done():
		return nil
	}
	token, err := n.server.NewJoinToken(ctx, rest.JoinSpec{Server: true, Uses: n.others})
	if err != nil {
		n.log.Error("no join token could be made", "error", err, "remedy", "weft plane token -server")
		return nil
	}
	fmt.Fprintf(n.stdout, `==> This server has founded a locked cluster: ACLs deny by default, all nodes prove themselves by TLS, gossip is encrypted.
    %d more servers, within an hour, each with:
      weft agent -server -data-dir=DIR -join-token=%s
    The first token of the ACLs:   weft acl bootstrap
    Join tokens for more nodes:    weft plane token

`, n.others, token)
	n.identity.AuthorityKey = ""
	return n.identity.Write(plane.IdentityFile(n.s.DataDir), n.outer)
}

// The times between two looks at this node's certificate.
const (
	identityLook = time.Hour
	identityMiss = time.Minute // after a try that failed
)

// keepIdentity has this node's certificate renewed from the middle of its life on.
func (n *node) keepIdentity(ctx context.Context) error {
	if n.identity == nil {
		return nil
	}
	if err := n.announce(ctx); err != nil {
		return err
	}
	for {
		at, err := n.identity.RenewAt()
		if err != nil {
			return err
		}
		wait := min(time.Until(at), identityLook)
		if wait <= 0 {
			if wait = 0; n.renewIdentity(ctx) != nil {
				wait = identityMiss
			}
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil
		}
	}
}

func (n *node) renewIdentity(ctx context.Context) error {
	key, csr, err := plane.NewRequest(rand.Reader)
	if err != nil {
		return err
	}
	err = errors.New("no server is known")
	for _, address := range n.memberAddresses((*gossip.Member).ServerAddress) {
		var cert string
		if cert, err = n.renewAt(ctx, address, csr); err != nil {
			continue
		}
		next := *n.identity
		next.Certificate, next.Key = cert, key
		if err = next.Write(plane.IdentityFile(n.s.DataDir), n.outer); err == nil {
			n.identity = &next
			n.log.Info("this node's certificate was renewed", "by", address)
			return nil
		}
	}
	n.log.Warn("this node's certificate can't be renewed", "error", err)
	return err
}

func (n *node) renewAt(ctx context.Context, address string, csr string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, joinTime)
	defer cancel()
	return n.plane.Renew(ctx, address, csr)
}

// otherServers is how many more servers the founder's first token is good for.
func otherServers(s *config.Config) int { return max(s.BootstrapExpect-1, 2) }

// identityFile is where this node's identity is kept, "" where it has none.
func (n *node) identityFile() string {
	if n.identity == nil {
		return ""
	}
	return plane.IdentityFile(n.s.DataDir)
}
