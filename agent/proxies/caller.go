// SPDX-License-Identifier: Apache-2.0

package proxies

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/weftmesh/weft/agent/local"
	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/internal/listen"
)

// caller is the process at the other end of a request, or why it can't be told.
type caller struct {
	owner listen.Owner
	err   error
}

func (m *Manager) caller(ctx context.Context) caller {
	o, err := m.c.Caller(ctx)
	return caller{o, err}
}

// Permit returns nil if the process that makes a request may have what the proxies of a service have, their keys above all. Where registrations
// of this host name the processes that they are (LocalIdentity.Proxy), it has to be one of these, one of the agent's own user, or root's;
// else any is. A refusal is logged here.
func (m *Manager) Permit(ctx context.Context, what string, service catalog.Key) error {
	return m.permit(ctx, service, proxyBound, "a process was refused what only a proxy may have", what)
}

// PermitChange returns nil if the process that makes a request may change the registrations of a service and its proxies. Where they name the
// processes that these are (LocalIdentity), it has to be one of them, one of the agent's own user, or root's: else a neighbour could register the
// service anew, as his own. A refusal is logged here.
func (m *Manager) PermitChange(ctx context.Context, what string, service catalog.Key) error {
	if err := m.permit(ctx, service, everyBound, "a process was refused a change of a service that isn't its own", what); err != nil {
		return fmt.Errorf("the service %q is that of other processes: %w", service.Name, err)
	}
	return nil
}

// permit returns nil if the process that makes a request suits the bounds of a service's proxies, or there are none, and logs a refusal.
func (m *Manager) permit(ctx context.Context, service catalog.Key, of func(*catalog.LocalIdentity) []*catalog.LocalProcesses, refused, what string) error {
	wanted, _ := m.c.State.Wanted()
	bounds := boundsOf(&wanted, service, of)
	if len(bounds) == 0 {
		return nil
	}
	c := m.caller(ctx)
	err := m.suits(c, bounds)
	if err != nil {
		m.c.Log.Warn(refused, "what", what, "service", service.Name, "uid", c.uid(), "error", err)
	}
	return err
}

// uid is for logs.
func (c caller) uid() any {
	if c.err != nil {
		return "unknown"
	}
	return c.owner.UID
}

// boundsOf are the processes that registrations of a service's proxies name.
func boundsOf(wanted *local.Wanted, service catalog.Key, of func(*catalog.LocalIdentity) []*catalog.LocalProcesses) (bounds []*listen.Processes) {
	for _, s := range wanted.Services {
		r := s.Record
		if r.Kind != catalog.KindConnectProxy || r.Proxy.LocalIdentity == nil || r.Scope.Name(r.Proxy.DestinationServiceName).Fold() != service.Fold() {
			continue
		}
		for _, p := range of(r.Proxy.LocalIdentity) {
			if p != nil && !p.None() {
				bounds = append(bounds, &listen.Processes{UIDs: p.UIDs, Units: p.Units, Cgroups: p.Cgroups})
			}
		}
	}
	return bounds
}

// proxyBound are the processes that may be the proxy, everyBound these and those that the service is.
func proxyBound(l *catalog.LocalIdentity) []*catalog.LocalProcesses {
	return []*catalog.LocalProcesses{l.Proxy}
}

func everyBound(l *catalog.LocalIdentity) []*catalog.LocalProcesses {
	return []*catalog.LocalProcesses{l.Proxy, &l.LocalProcesses}
}

// suits returns nil for a process that one of the bounds is for, or that could read the agent's memory or disk anyhow.
func (m *Manager) suits(c caller, bounds []*listen.Processes) error {
	if len(bounds) == 0 {
		return nil
	}
	var errs []error
	switch {
	case c.err != nil:
		errs = append(errs, c.err)
	case slices.Contains(m.c.Trusted, c.owner.UID):
		return nil
	default:
		for _, b := range bounds {
			err := b.Has(c.owner)
			if err == nil {
				return nil
			}
			errs = append(errs, err)
		}
	}
	return fmt.Errorf("%w; the registration says whose it is (proxy { local_identity { proxy { … } } }): run the proxy as that", errors.Join(errs...))
}
