// SPDX-License-Identifier: Apache-2.0

// Package tokens finds what a token's secret grants, from a server's own catalog: a token that is revoked, or whose policy is
// changed, is so with the next request. It keeps what it put together until an ACL object changes. It owns no goroutine.
package tokens

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/internal/acl"
	"github.com/weftmesh/weft/internal/api"
)

// Config is what a Resolver is made of.
type Config struct {
	Store      *catalog.Store
	Datacenter string
	Now        func() time.Time
	// Default is what holds where no rule speaks, and KeyList whether listing keys needs more than reading them.
	Default acl.Level
	KeyList bool
}

// Resolver is the api.Resolver of a cluster with ACLs.
type Resolver struct {
	c Config

	mu    sync.Mutex
	index uint64 // of the ACL objects that known was made of
	epoch uint64
	known map[string]*acl.Authorizer // by accessor
}

// New makes a resolver.
func New(c Config) (*Resolver, error) {
	if c.Store == nil || c.Now == nil || c.Datacenter == "" {
		return nil, errors.New("tokens: Store, Now and Datacenter must be set")
	}
	if c.Default != acl.Write {
		c.Default = acl.Deny
	}
	return &Resolver{c: c}, nil
}

// Hash is the form in which the catalog knows a secret.
func Hash(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

// AnonymousSecret stands for requests that carry none.
const AnonymousSecret = "anonymous"

// Resolve finds the subject of a secret; "" is anonymous. A secret that nobody has, or whose time is over, is an error that wraps
// api.ErrTokenUnknown.
func (r *Resolver) Resolve(_ context.Context, secret string) (api.Subject, error) {
	txn := r.c.Store.Read()
	t, err := r.Token(txn, secret)
	if err != nil {
		return nil, err
	}
	if t == nil { // before a leader has made the anonymous token
		return &acl.Subject{Authorizer: acl.New(r.config()), Accessor: acl.AnonymousAccessor}, nil
	}
	a, err := r.authorizer(txn, t)
	if err != nil {
		return nil, err
	}
	return &acl.Subject{Authorizer: a, Accessor: t.AccessorID}, nil
}

func (r *Resolver) config() acl.Config { return acl.Config{Default: r.c.Default, KeyList: r.c.KeyList} }

// Token finds a secret's token. It is nil only for the anonymous secret, where that token isn't there.
func (r *Resolver) Token(txn *catalog.Txn, secret string) (*catalog.ACLToken, error) {
	if secret == "" {
		secret = AnonymousSecret
	}
	o, err := txn.ACLUnique(catalog.ACLTokens, Hash(secret))
	if err != nil {
		return nil, err
	}
	switch {
	case o.Token != nil && !o.Token.Expired(r.c.Now()):
		return o.Token, nil
	case secret == AnonymousSecret:
		return nil, nil
	case txn.ACLBootstrapped() == 0:
		return nil, fmt.Errorf("ACL system must be bootstrapped before making any requests that require authorization: %w", api.ErrTokenUnknown)
	}
	return nil, api.ErrTokenUnknown
}

// authorizer is what a token grants, put together once until any ACL object changes.
func (r *Resolver) authorizer(txn *catalog.Txn, t *catalog.ACLToken) (*acl.Authorizer, error) {
	index, epoch := txn.ACLChanged(), txn.Position().Epoch
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.known == nil || epoch != r.epoch || index > r.index {
		r.known, r.index, r.epoch = map[string]*acl.Authorizer{}, index, epoch
	}
	if a := r.known[t.AccessorID]; a != nil && index == r.index {
		return a, nil
	}
	x, err := Expand(txn, t, r.c.Datacenter)
	if err != nil {
		return nil, err
	}
	a := acl.New(r.config(), x.rules()...)
	if index == r.index {
		r.known[t.AccessorID] = a
	}
	return a, nil
}

// Expanded is all that a token's grants are made of, links that lead nowhere left out.
type Expanded struct {
	Policies []*catalog.ACLPolicy
	Roles    []*catalog.ACLRole

	services  []catalog.ACLServiceIdentity
	nodes     []catalog.ACLNodeIdentity
	templates []catalog.ACLTemplatedPolicy
	dc        string
}

// Expand follows a token's links.
func Expand(txn *catalog.Txn, t *catalog.ACLToken, dc string) (*Expanded, error) {
	x := &Expanded{
		services: slices.Clone(t.ServiceIdentities), nodes: slices.Clone(t.NodeIdentities), templates: slices.Clone(t.TemplatedPolicies), dc: dc,
	}
	links := slices.Clone(t.Policies)
	for _, l := range t.Roles {
		o, err := txn.ACL(catalog.ACLRoles, l.ID)
		if err != nil {
			return nil, err
		}
		if role := o.Role; role != nil {
			x.Roles = append(x.Roles, role)
			links = append(links, role.Policies...)
			x.services = append(x.services, role.ServiceIdentities...)
			x.nodes = append(x.nodes, role.NodeIdentities...)
			x.templates = append(x.templates, role.TemplatedPolicies...)
		}
	}
	for _, l := range links {
		o, err := txn.ACL(catalog.ACLPolicies, l.ID)
		if err != nil {
			return nil, err
		}
		if o.Policy != nil && !slices.Contains(x.Policies, o.Policy) {
			x.Policies = append(x.Policies, o.Policy)
		}
	}
	return x, nil
}

// Texts are the rules that hold in the datacenter, as texts, one for each source.
func (x *Expanded) Texts() []string {
	var out []string
	here := func(dcs []string) bool { return len(dcs) == 0 || slices.Contains(dcs, x.dc) }
	for _, p := range x.Policies {
		if here(p.Datacenters) {
			out = append(out, p.Rules)
			switch p.ID {
			case acl.ManagementPolicyID:
				out = append(out, acl.EveryNamespace(acl.Write))
			case acl.ReadOnlyPolicyID:
				out = append(out, acl.EveryNamespace(acl.Read))
			}
		}
	}
	for _, s := range x.services {
		if here(s.Datacenters) {
			out = append(out, acl.ServiceIdentityRules(s.ServiceName))
		}
	}
	for _, n := range x.nodes {
		if here([]string{n.Datacenter}) {
			out = append(out, acl.NodeIdentityRules(n.NodeName))
		}
	}
	for _, p := range x.templates {
		t, ok := acl.TemplateNamed(p.TemplateName)
		if !ok || !here(p.Datacenters) {
			continue
		}
		value := ""
		if p.TemplateVariables != nil {
			value = p.TemplateVariables.Name
		}
		if text, err := t.Render(value); err == nil { // what is stored was validated
			out = append(out, text)
		}
	}
	return out
}

// rules leaves out what can't be read: it was validated when it was written, so a newer server wrote it.
func (x *Expanded) rules() []*acl.Rules {
	var out []*acl.Rules
	for _, text := range x.Texts() {
		if r, err := acl.Parse(text); err == nil {
			out = append(out, r)
		}
	}
	return out
}
