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
	wanted, _ := m.c.State.Wanted()
	bounds := boundsOf(&wanted, service)
	if len(bounds) == 0 {
		return nil
	}
	c := m.caller(ctx)
	err := m.suits(c, bounds)
	if err != nil {
		m.c.Log.Warn("a process was refused what only a proxy may have", "what", what, "service", service.Name, "uid", c.uid(), "error", err)
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

// boundsOf are the processes that the proxies of a service are, of those that say so.
func boundsOf(wanted *local.Wanted, service catalog.Key) (bounds []*listen.Processes) {
	for _, s := range wanted.Services {
		r := s.Record
		if r.Kind != catalog.KindConnectProxy || r.Proxy.LocalIdentity == nil || r.Proxy.LocalIdentity.Proxy == nil ||
			r.Scope.Name(r.Proxy.DestinationServiceName) != service {
			continue
		}
		p := r.Proxy.LocalIdentity.Proxy
		bounds = append(bounds, &listen.Processes{UIDs: p.UIDs, Units: p.Units, Cgroups: p.Cgroups})
	}
	return bounds
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
