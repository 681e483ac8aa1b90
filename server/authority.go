// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/weftmesh/weft/ca"
	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/connect/identity"
	"github.com/weftmesh/weft/internal/api"
	weftv1 "github.com/weftmesh/weft/proto/weft/v1"
)

// authority is the cluster's CA as the leader works it: the state is the catalog's, the decisions are ca's.
type authority struct {
	weftv1.UnimplementedCAServer
	s *Server

	mu       sync.Mutex // guards all below, and makes changes of the state one at a time
	provider *ca.Builtin
	state    ca.State
	index    uint64 // at which the catalog has it
	limiter  ca.Limiter
	wake     chan struct{}
}

func newAuthority(s *Server) *authority { return &authority{s: s, wake: make(chan struct{}, 1)} }

// open loads the authority from the catalog, or makes a new one.
func (a *authority) open(ctx context.Context) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	stored, err := a.s.store.Read().CA()
	if err != nil {
		return err
	}
	state := ca.State{ClusterID: stored.ClusterID, Datacenter: a.s.c.Datacenter, Config: a.s.c.CA}
	if len(stored.PrivateState) > 0 {
		if err := json.Unmarshal(stored.PrivateState, &state); err != nil {
			return fmt.Errorf("the CA's stored state: %w", err)
		}
	}
	if err := state.Config.Validate(); err != nil {
		return err
	}
	a.provider = ca.NewBuiltin(a.s.c.Rand)
	if err := a.provider.Configure(state.Setup()); err != nil {
		return err
	}
	a.index = stored.ModifyIndex
	if len(stored.PrivateState) == 0 {
		a.index = 0
	}
	a.state = state
	a.limiter = ca.Limiter{PerSecond: state.Config.WithDefaults().CSRMaxPerSecond}
	_, err = a.advanceLocked(ctx)
	return err
}

// advanceLocked does what time demands, and says when to look again.
func (a *authority) advanceLocked(ctx context.Context) (time.Time, error) {
	next, actions, wake, err := ca.Advance(ctx, a.state, a.provider, a.s.c.Now())
	if err != nil {
		return time.Time{}, err
	}
	if len(actions) == 0 {
		return wake, nil
	}
	for _, act := range actions {
		a.s.c.Log.Info("certificate authority", "action", string(act.Kind), "root", act.RootID, "reason", act.Reason)
	}
	return wake, a.storeLocked(ctx, next)
}

// storeLocked makes a new state the cluster's, and then the provider's.
func (a *authority) storeLocked(ctx context.Context, next ca.State) error {
	private, err := json.Marshal(next)
	if err != nil {
		return err
	}
	record := catalog.CAState{
		ClusterID: next.ClusterID, Datacenter: next.Datacenter, Provider: a.provider.Name(), IntermediateCert: next.Material.IntermediateCert,
		LongestLeafTTL: next.LongestLeafTTL, PrivateState: private,
	}
	for _, r := range next.Roots {
		record.Roots = append(record.Roots, r)
		if r.Active {
			record.ActiveRootID = r.ID
		}
	}
	result, err := a.s.Propose(ctx, catalog.SetCA{State: record, CAS: a.index})
	if err != nil {
		return fmt.Errorf("store the CA's state: %w", err)
	}
	if err := a.provider.Configure(next.Setup()); err != nil {
		return err
	}
	a.state, a.index = next, result.Index
	a.limiter.PerSecond = next.Config.WithDefaults().CSRMaxPerSecond
	return nil
}

// caRetry is how soon a step that failed is tried again, and the longest time between looks.
const (
	caRetry = 10 * time.Second
	caLook  = time.Hour
)

// keep renews and prunes until leadership ends.
func (a *authority) keep(ctx context.Context) error {
	for {
		a.mu.Lock()
		wake, err := a.advanceLocked(ctx)
		a.mu.Unlock()
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

// Configuration is the authority's configuration.
func (a *authority) Configuration() ca.Config {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.state.Config.WithDefaults()
}

// Reconfigure takes another configuration; where it changes the keys, or with rotate, a new root is made and cross-signed by
// the old one.
func (a *authority) Reconfigure(ctx context.Context, c ca.Config, rotate, force bool) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.provider == nil {
		return api.ErrNoLeader
	}
	next, needed, err := ca.Reconfigure(a.state, c)
	if err != nil {
		return &api.StatusError{Code: 400, Text: err.Error(), Err: err}
	}
	if needed || rotate {
		fresh := ca.NewBuiltin(a.s.c.Rand)
		if err := fresh.Configure(next.Setup()); err != nil {
			return err
		}
		if next, err = ca.Rotate(ctx, next, a.provider, fresh, a.s.c.Now(), force); err != nil {
			return err
		}
	}
	if err := a.storeLocked(ctx, next); err != nil {
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
	a.mu.Lock()
	provider, state := a.provider, a.state
	a.mu.Unlock()
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
	if err := subject.Allow(api.Permission{Resource: "service", Access: api.Write}, service.Service); err != nil {
		return nil, api.GRPC(err)
	}
	if err := a.registeredOn(req.GetNode(), service); err != nil {
		return nil, api.GRPC(err)
	}
	a.mu.Lock()
	limited := a.limiter.Allow(a.s.c.Now()) // only requests that would be granted count
	a.mu.Unlock()
	if limited != nil {
		return nil, api.GRPC(limited)
	}
	issued, err := provider.Sign(ctx, csr, a.s.c.Now())
	if err != nil {
		return nil, api.GRPC(err)
	}
	active, _ := state.Active()
	return &weftv1.SignResponse{CertPem: issued.CertPEM, RootId: active.ID}, nil
}

// registeredOn refuses a leaf for a service that the asking node doesn't run.
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
	}
	return fmt.Errorf("%w: service %q isn't registered on node %q; register it there before asking for its certificate",
		api.ErrDenied, service.Service, node)
}

var errNoAuthority = errors.New("the certificate authority isn't open yet")

// Rotate makes a new root without changing the configuration.
func (a *authority) Rotate(ctx context.Context) error {
	a.mu.Lock()
	c := a.state.Config
	ready := a.provider != nil
	a.mu.Unlock()
	if !ready {
		return errNoAuthority
	}
	return a.Reconfigure(ctx, c, true, false)
}
