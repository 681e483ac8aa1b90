// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/weftmesh/weft/ca"
	"github.com/weftmesh/weft/ca/command"
	"github.com/weftmesh/weft/ca/vault"
	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/connect/identity"
	"github.com/weftmesh/weft/internal/api"
	"github.com/weftmesh/weft/internal/guard"
	"github.com/weftmesh/weft/internal/seal"
	weftv1 "github.com/weftmesh/weft/proto/weft/v1"
)

// authority is the cluster's CA as the leader works it: the state is the catalog's, the decisions are ca's.
type authority struct {
	weftv1.UnimplementedCAServer
	s *Server

	turns   ca.Turns   // of signatures
	changes sync.Mutex // makes changes of the state one at a time, while a provider elsewhere is asked

	mu       sync.Mutex // guards all below
	provider ca.Provider
	state    ca.State
	index    uint64 // at which the catalog has it
	limiter  ca.Limiter
	wake     chan struct{}
}

func newAuthority(s *Server) *authority { return &authority{s: s, wake: make(chan struct{}, 1)} }

// newProvider makes the provider that a configuration names. What it is configured with comes next.
func (a *authority) newProvider(c ca.Config) ca.Provider {
	switch c.Provider {
	case ca.VaultName:
		return vault.New(a.s.c.Rand)
	case ca.CommandName:
		return command.New(a.s.c.Rand)
	}
	return ca.NewBuiltin(a.s.c.Rand)
}

// now gives what is in force.
func (a *authority) now() (ca.Provider, ca.State) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.provider, a.state
}

// open loads the authority from the catalog, or makes a new one.
func (a *authority) open(ctx context.Context) error {
	a.changes.Lock()
	defer a.changes.Unlock()
	stored, err := a.s.store.Read().CA()
	if err != nil || stored == nil { // a secondary that hasn't heard of its primary yet
		return err
	}
	state := ca.State{ClusterID: stored.ClusterID, Datacenter: a.s.c.Datacenter, Config: a.s.c.CA}
	index := uint64(0)
	if len(stored.PrivateState) > 0 {
		index = stored.ModifyIndex
		private, err := a.s.unseal(ctx, sealedCA, stored.PrivateState)
		if err != nil {
			return err
		}
		if err := json.Unmarshal(private, &state); err != nil {
			return fmt.Errorf("the CA's stored state: %w", err)
		}
	}
	state.Config = state.Config.WithDefaults()
	if own := a.s.c.CA.WithDefaults().Provider; own != state.Config.Provider && own != ca.BuiltinName {
		a.s.c.Log.Warn("certificate authority: the configuration file names another provider than is in force; `weft connect ca set-config` changes it",
			"file", own, "in_force", state.Config.Provider)
	}
	if err := state.Config.Validate(); err != nil {
		return err
	}
	provider := a.newProvider(state.Config)
	if err := provider.Configure(state.Setup()); err != nil {
		return err
	}
	if err := state.Config.AllowedBy(a.s.c.CA); err != nil {
		provider = refused{provider, fmt.Errorf("%w: %w", ca.ErrProvider, err)}
	}
	a.mu.Lock()
	a.provider, a.state, a.index = provider, state, index
	a.limiter = ca.Limiter{PerSecond: state.Config.CSRMaxPerSecond}
	a.turns.Limit(state.Config.CSRMaxConcurrent)
	a.mu.Unlock()
	if _, sealed := seal.Is(stored.PrivateState); index > 0 && !sealed { // by an older weft
		if err := a.store(ctx, state, provider); err != nil {
			return err
		}
	}
	if a.follows() {
		return nil
	}
	_, err = a.advance(ctx)
	if errors.Is(err, ca.ErrProvider) { // the cluster has other work than certificates; keep tries again
		a.s.c.Log.Error("certificate authority", "error", err)
		return nil
	}
	return err
}

// advance does what time demands, and says when to look again. The caller holds changes.
func (a *authority) advance(ctx context.Context) (time.Time, error) {
	provider, state := a.now()
	next, actions, wake, err := ca.Advance(ctx, state, provider, a.s.c.Now())
	if err != nil {
		return time.Time{}, err
	}
	for _, act := range actions {
		a.s.c.Log.Info("certificate authority", "action", string(act.Kind), "root", act.RootID, "reason", act.Reason)
	}
	if len(actions) > 0 {
		if err := a.store(ctx, next, provider); err != nil {
			return wake, err
		}
	}
	again, err := provider.Maintain(ctx, a.s.c.Now())
	if errors.Is(err, ca.ErrIntermediate) {
		a.s.c.Log.Warn("certificate authority: a new intermediate is made", "reason", err)
		_, state = a.now()
		if state, err = ca.RenewIntermediate(ctx, state, provider, a.s.c.Now()); err == nil {
			err = a.store(ctx, state, provider)
		}
	}
	if err == nil && !again.IsZero() && (wake.IsZero() || again.Before(wake)) {
		wake = again
	}
	return wake, err
}

// store makes a new state the cluster's, and then the provider's, which is in force from then on. The caller holds changes.
func (a *authority) store(ctx context.Context, next ca.State, provider ca.Provider) error {
	private, err := json.Marshal(next)
	if err != nil {
		return err
	}
	if private, err = a.s.seal(ctx, sealedCA, private); err != nil {
		return err
	}
	record := catalog.CAState{
		ClusterID: next.ClusterID, Datacenter: next.Datacenter, Provider: provider.Name(), IntermediateCert: next.Material.IntermediateCert,
		LongestLeafTTL: next.LongestLeafTTL, Revoked: next.Revoked, PrivateState: private,
	}
	if record.CRLs, _, err = ca.CRLs(next, a.s.c.Now()); err != nil {
		return err
	}
	for _, r := range next.Roots {
		record.Roots = append(record.Roots, r)
		if r.Active {
			record.ActiveRootID = r.ID
		}
	}
	a.mu.Lock()
	cas := a.index
	a.mu.Unlock()
	result, err := a.s.Propose(ctx, catalog.SetCA{State: record, CAS: cas})
	if err != nil {
		return fmt.Errorf("store the CA's state: %w", err)
	}
	if err := provider.Configure(next.Setup()); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.provider, a.state, a.index = provider, next, result.Index
	a.limiter.PerSecond = next.Config.WithDefaults().CSRMaxPerSecond
	a.turns.Limit(next.Config.CSRMaxConcurrent)
	return nil
}

// caRetry is how soon a step that failed is tried again, and the longest time between looks.
const (
	caRetry = 10 * time.Second
	caLook  = time.Hour
)

// keep renews and prunes until leadership ends, or does as the primary's authority does.
func (a *authority) keep(ctx context.Context) error {
	if a.follows() {
		return a.followPrimary(ctx)
	}
	if _, state := a.now(); a.s.secondary() {
		a.s.c.Log.Error("certificate authority", "error", a.s.ownDomain(state.ClusterID))
	}
	for {
		a.changes.Lock()
		wake, err := a.advance(ctx)
		a.changes.Unlock()
		wait := caLook
		switch {
		case err != nil && ctx.Err() == nil:
			a.s.c.Log.Error("certificate authority", "error", err)
			wait = caRetry
		case !wake.IsZero():
			wait = max(time.Second, min(wait, wake.Sub(a.s.c.Now())))
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-a.wake:
		case <-ctx.Done():
			timer.Stop()
			return nil
		}
		timer.Stop()
	}
}

// Configuration is the authority's configuration, and Own the one that the server's file has.
func (a *authority) Configuration() (inForce, own ca.Config) {
	_, state := a.now()
	return state.Config.WithDefaults(), a.s.c.CA.WithDefaults()
}

// Reconfigure takes another configuration; where it changes the provider or the keys, or with rotate, a new root is made and cross-signed
// by the old one. Where any of it fails, all is as it was.
func (a *authority) Reconfigure(ctx context.Context, c ca.Config, rotate, force bool) error {
	a.changes.Lock()
	defer a.changes.Unlock()
	provider, state := a.now()
	if a.follows() {
		return a.s.atPrimary("the root")
	}
	if provider == nil {
		return api.ErrNoLeader
	}
	bad := func(err error) error { return &api.StatusError{Code: 400, Text: err.Error(), Err: err} }
	next, needed, err := ca.Reconfigure(state, c)
	if err == nil {
		err = next.Config.AllowedBy(a.s.c.CA)
	}
	if err != nil {
		return bad(err)
	}
	fresh, setup := a.newProvider(next.Config), next.Setup()
	if next.Config.Provider != state.Config.WithDefaults().Provider {
		setup.Material = ca.Material{} // it is the other one's
	}
	if err := fresh.Configure(setup); err != nil {
		return bad(err)
	}
	if !needed && !rotate {
		if _, err := fresh.Maintain(ctx, a.s.c.Now()); err != nil {
			return err
		}
	} else {
		if next, err = ca.Rotate(ctx, next, provider, fresh, a.s.c.Now(), force); err != nil {
			return err
		}
		if rotate && !needed && next.Roots[0].ID == state.Roots[0].ID {
			return bad(fmt.Errorf("%w: the root is one from outside, and is the same again: name another one", ca.ErrConfig))
		}
	}
	if err := a.store(ctx, next, fresh); err != nil {
		return err
	}
	select {
	case a.wake <- struct{}{}:
	default:
	}
	return nil
}

// Sign signs a leaf for a service that is registered on the node that asks.
func (a *authority) Sign(ctx context.Context, req *weftv1.SignRequest) (*weftv1.SignResponse, error) {
	subject, err := a.s.c.Resolver.Resolve(ctx, req.GetToken())
	if err != nil {
		return nil, api.GRPC(err)
	}
	provider, state := a.now()
	if provider == nil {
		return nil, api.GRPC(api.ErrNoLeader)
	}
	csr, err := ca.CheckCSR(req.GetCsrPem(), state.TrustDomain(), state.Datacenter)
	if err != nil {
		return nil, api.GRPC(fmt.Errorf("%w: %w", catalog.ErrInvalid, err))
	}
	service, ok := csr.Identity.(identity.Service)
	if !ok {
		return nil, api.GRPC(fmt.Errorf("%w: %s isn't a service", api.ErrDenied, csr.Identity))
	}
	if err := subject.In(service.Namespace).Allow(api.Permission{Resource: "service", Access: api.Write}, service.Service); err != nil {
		return nil, api.GRPC(err)
	}
	if err := a.registeredOn(req.GetNode(), service); err != nil && !guard.Off("C81") {
		return nil, api.GRPC(err)
	}
	a.mu.Lock()
	limited := a.limiter.Allow(a.s.c.Now()) // only requests that would be granted count
	a.mu.Unlock()
	if limited != nil {
		return nil, api.GRPC(limited)
	}
	if err := a.notAsRevoked(ctx, csr.Identity.String()); err != nil {
		return nil, api.GRPC(err)
	}
	if err := a.turns.Take(ctx); err != nil {
		return nil, api.GRPC(err)
	}
	defer a.turns.Done()
	issued, err := provider.Sign(ctx, csr, a.s.c.Now())
	if err != nil {
		return nil, api.GRPC(err)
	}
	active, _ := state.Active()
	return &weftv1.SignResponse{CertPem: issued.CertPEM, RootId: active.ID}, nil
}

// notAsRevoked waits, for a second at most, until a new leaf of an identity can be told from those that were revoked.
func (a *authority) notAsRevoked(ctx context.Context, uri string) error {
	_, state := a.now()
	now := a.s.c.Now()
	for _, r := range state.Revoked {
		if wait := r.Before.Add(ca.Backdate + time.Second).Sub(now); r.URI == uri && wait > 0 {
			timer := time.NewTimer(min(wait, time.Second))
			defer timer.Stop()
			select {
			case <-timer.C:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
	return nil
}

// Revoke refuses a leaf, or all of an identity that were signed until now. Warnings say who can't be told of it.
func (a *authority) Revoke(ctx context.Context, r catalog.Revoked) (done catalog.Revoked, warnings []string, err error) {
	a.changes.Lock()
	defer a.changes.Unlock()
	provider, state := a.now()
	if provider == nil {
		return r, nil, api.ErrNoLeader
	}
	next, done, err := ca.Revoke(state, r, a.s.c.Now())
	if err != nil {
		return r, nil, &api.StatusError{Code: 400, Text: err.Error(), Err: err}
	}
	_, complete, err := ca.CRLs(next, a.s.c.Now())
	switch {
	case err != nil:
		return r, nil, err
	case done.URI != "":
		warnings = append(warnings, "Envoy sidecars know certificates by serial numbers alone, and go on taking these: revoke by serial, or deny by an intention")
	case !complete:
		warnings = append(warnings, "Envoy sidecars go on taking it: an issuer's key isn't the servers', who can sign no revocation list for it")
	}
	if next.Shared(a.s.c.Now()) {
		warnings = append(warnings, "this is for the proxies of this datacenter: say it in the others too, as with ?dc=")
	}
	return done, warnings, a.store(ctx, next, provider)
}

// registeredOn refuses a leaf for a service of which the asking node runs neither an instance nor a proxy.
func (a *authority) registeredOn(node string, service identity.Service) error {
	scope := catalog.Scope{Datacenter: service.Datacenter, Partition: service.Partition, Namespace: service.Namespace}.Default(a.s.c.Datacenter)
	services, err := a.s.store.Read().NodeServices(scope.Name(node))
	if err != nil {
		return err
	}
	for _, s := range services {
		if s.Service == service.Service && s.Namespace == scope.Namespace {
			return nil
		}
		if of, ok := s.Destination(); ok && of.Name == service.Service && of.Namespace == scope.Namespace {
			return nil
		}
	}
	return fmt.Errorf("%w: service %q isn't registered on node %q; register it there before asking for its certificate",
		api.ErrDenied, service.Service, node)
}

var errNoAuthority = errors.New("the certificate authority isn't open yet")

// Rotate makes a new root without changing the configuration.
func (a *authority) Rotate(ctx context.Context) error {
	provider, state := a.now()
	if provider == nil {
		return errNoAuthority
	}
	return a.Reconfigure(ctx, state.Config, true, false)
}

// refused stands for a provider that would need files or a program which this server's configuration doesn't name.
type refused struct {
	ca.Provider
	err error
}

func (r refused) GenerateRoot(context.Context, time.Time) (ca.Material, error) {
	return ca.Material{}, r.err
}

func (r refused) Intermediate(context.Context, time.Time) (ca.Material, error) {
	return ca.Material{}, r.err
}

func (r refused) CrossSign(context.Context, *x509.Certificate, time.Time) (string, error) {
	return "", r.err
}

func (r refused) SignIntermediate(context.Context, string, time.Time) (string, error) {
	return "", r.err
}

func (r refused) Maintain(context.Context, time.Time) (time.Time, error) { return time.Time{}, r.err }

func (r refused) Sign(ctx context.Context, req ca.Request, now time.Time) (ca.Issued, error) {
	if r.Name() == ca.CommandName { // which it does here, by the intermediate that it has
		return r.Provider.Sign(ctx, req, now)
	}
	return ca.Issued{}, r.err
}
