// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/internal/acl"
	"github.com/weftmesh/weft/internal/api"
	"github.com/weftmesh/weft/internal/uuid"
	"github.com/weftmesh/weft/server/login"
	"github.com/weftmesh/weft/server/rest"
	"github.com/weftmesh/weft/server/tokens"
)

// ACLConfig says whether tokens are asked for, and what holds where no rule speaks.
type ACLConfig struct {
	Enabled bool
	// Allow is a default policy of allow.
	Allow bool
	// KeyList says that listing keys needs more than reading them.
	KeyList bool
	// DownPolicy is what agents do while no server can be asked; it is only told.
	DownPolicy string
	// InitialManagement is the secret of a management token that the first leader makes, "" for none.
	InitialManagement string
}

func (c ACLConfig) defaultPolicy() string {
	if !c.Enabled || c.Allow {
		return "allow"
	}
	return "deny"
}

// setUpACL makes the resolver of tokens, where they are asked for.
func (s *Server) setUpACL() error {
	if !s.c.ACL.Enabled {
		return nil
	}
	level := acl.Deny
	if s.c.ACL.Allow {
		level = acl.Write
	}
	resolver, err := tokens.New(tokens.Config{
		Store: s.store, Datacenter: s.c.Datacenter, Now: s.c.Now, Default: level, KeyList: s.c.ACL.KeyList,
	})
	if err != nil {
		return err
	}
	s.c.Resolver = currentTokens{resolver, s}
	methods := login.New(login.Config{Now: s.c.Now, Rand: s.c.Rand, Log: s.c.Log, Seal: s.sealForBrowser, Open: s.openFromBrowser})
	s.acl = &rest.ACL{
		Tokens: resolver, DefaultPolicy: s.c.ACL.defaultPolicy(), DownPolicy: s.c.ACL.DownPolicy, ResetIndex: s.aclResetIndex,
		Login: methods.Verify, AuthURL: methods.AuthURL, Callback: methods.Callback, ValidateMethod: login.Validate, SealMethod: s.sealMethod, OpenMethod: s.openMethod,
	}
	return nil
}

// currentTokens knows the tokens that were made until it is asked, at any server: whoever gets one may use it at once.
type currentTokens struct {
	*tokens.Resolver
	s *Server
}

// tokenWait bounds how long who brings a token that isn't known here waits for what the leader knows: anybody can bring one.
const tokenWait = time.Second

// Resolve implements api.Resolver.
func (c currentTokens) Resolve(ctx context.Context, secret string) (api.Subject, error) {
	subject, err := c.Resolver.Resolve(ctx, secret)
	if !errors.Is(err, api.ErrTokenUnknown) || c.s.leads() {
		return subject, err
	}
	if led, _ := c.s.freshness(); !led {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, tokenWait)
	defer cancel()
	if c.s.Confirm(ctx) != nil {
		return nil, err
	}
	return c.Resolver.Resolve(ctx, secret)
}

// aclResetIndex reads and removes the file by which an operator with access to the leader's disk allows one more bootstrap.
func (s *Server) aclResetIndex() uint64 {
	if s.c.DataDir == "" {
		return 0
	}
	path := filepath.Join(s.c.DataDir, "acl-bootstrap-reset")
	data, err := os.ReadFile(path)
	if err != nil {
		if !errors.Is(err, os.ErrNotExist) {
			s.c.Log.Error("acl-bootstrap-reset can't be read", "error", err)
		}
		return 0
	}
	if err := os.Remove(path); err != nil {
		s.c.Log.Error("acl-bootstrap-reset can't be removed, so it isn't used", "error", err)
		return 0
	}
	index, err := strconv.ParseUint(strings.TrimSpace(string(data)), 10, 64)
	if err != nil {
		s.c.Log.Error("acl-bootstrap-reset holds no index", "error", err)
		return 0
	}
	return index
}

// ensureACL makes what is always there: two policies, the anonymous token, and the configured management token.
func (s *Server) ensureACL(ctx context.Context) error {
	if !s.c.ACL.Enabled {
		return nil
	}
	t := s.store.Read()
	now := s.c.Now().UTC()
	for _, o := range []catalog.ACLObject{
		{Policy: &catalog.ACLPolicy{
			ID: rest.ManagementPolicyID, Name: "global-management", Rules: acl.GlobalManagement,
			Description: "Builtin Policy that grants unlimited access",
		}},
		{Policy: &catalog.ACLPolicy{
			ID: rest.ReadOnlyPolicyID, Name: "builtin/global-read-only", Rules: acl.GlobalReadOnly,
			Description: "Builtin Policy that grants unlimited read access to all components",
		}},
		{Token: &catalog.ACLToken{
			AccessorID: acl.AnonymousAccessor, SecretHash: tokens.Hash(tokens.AnonymousSecret), Description: "Anonymous Token", CreateTime: now,
		}},
	} {
		if have, err := t.ACL(o.Kind(), o.ID()); err != nil || have.Kind() != "" {
			if err != nil {
				return err
			}
			continue
		}
		if _, err := s.Propose(ctx, catalog.SetACL{Create: true, Objects: []catalog.ACLObject{o}}); err != nil && !errors.Is(err, catalog.ErrExists) {
			return fmt.Errorf("make the built-in ACL %s: %w", o.Kind(), err)
		}
	}
	return s.ensureManagement(ctx, now)
}

func (s *Server) ensureManagement(ctx context.Context, now time.Time) error {
	secret := s.c.ACL.InitialManagement
	if secret == "" || s.store.Read().ACLBootstrapped() != 0 {
		return nil
	}
	accessor, err := uuid.New(s.c.Rand)
	if err != nil {
		return err
	}
	_, err = s.Propose(ctx, catalog.BootstrapACL{Token: catalog.ACLToken{
		AccessorID: accessor, SecretHash: tokens.Hash(secret), Description: "Initial Management Token",
		Policies: []catalog.ACLLink{{ID: rest.ManagementPolicyID}}, CreateTime: now,
	}})
	if errors.Is(err, catalog.ErrExists) || errors.Is(err, catalog.ErrConflict) {
		return nil
	}
	return err
}

// tokensStep is how often the leader looks for tokens, of ACLs and for joining, whose time is over. They are good for nothing before they are removed.
const tokensStep = 30 * time.Second

// reapTokens removes tokens whose time is over.
func (s *Server) reapTokens(ctx context.Context) error {
	tick := time.NewTicker(tokensStep)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		now := s.c.Now()
		for _, kind := range []string{catalog.ACLTokens, catalog.JoinTokens} {
			if err := s.reapOver(ctx, kind, now); err != nil && ctx.Err() == nil {
				s.c.Log.Warn("tokens whose time is over can't be removed", "kind", kind, "error", err)
			}
		}
	}
}

func (s *Server) reapOver(ctx context.Context, kind string, now time.Time) error {
	all, err := s.store.Read().ACLList(kind)
	if err != nil {
		return err
	}
	var over []string
	for _, o := range all {
		if o.Token != nil && o.Token.Expired(now) || o.JoinToken != nil && !now.Before(o.JoinToken.Expires) {
			over = append(over, o.ID())
		}
	}
	if len(over) == 0 {
		return nil
	}
	_, err = s.Propose(ctx, catalog.DeleteACL{Kind: kind, IDs: over, Before: now.Add(time.Nanosecond)})
	return err
}

var _ api.Resolver = currentTokens{}
