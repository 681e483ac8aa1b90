// SPDX-License-Identifier: Apache-2.0

package rest

import (
	"cmp"
	"fmt"
	"net/http"

	"github.com/weftmesh/weft/agent/local"
	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/internal/api"
)

// mayRegister authorises a registration as a write on all that it is about: its own name and its sidecar's, the service that it is a proxy of, and
// what has the IDs of all these, and of their checks, now.
func (h *handlers) mayRegister(r *api.Request, d *local.ServiceDefinition) error {
	scope := r.Options.Scope
	scope.Namespace = cmp.Or(d.Namespace, api.DefaultNamespace)
	id := cmp.Or(d.ID, d.Name)
	about := []catalog.Key{scope.Name(d.Name)}
	if d.Proxy != nil && d.Proxy.DestinationServiceName != "" {
		about = append(about, scope.Name(d.Proxy.DestinationServiceName))
	}
	about = append(about, h.has(id, d)...)
	if d.Connect != nil && d.Connect.SidecarService != nil {
		side := d.Connect.SidecarService
		if side.Name != "" {
			about = append(about, scope.Name(side.Name))
		}
		about = append(about, h.has(local.SidecarID(id), side)...)
	}
	for _, key := range about {
		if err := r.AuthorizeIn(key.Namespace, key.Name); err != nil {
			return err
		}
	}
	return h.mayChange(r, about...)
}

// has gives whose the ID of a service is now, and those of its checks.
func (h *handlers) has(id string, d *local.ServiceDefinition) (of []catalog.Key) {
	if old := h.c.State.Service(id); old != nil {
		of = append(of, old.Record.Scope.Name(old.Record.Service), ofProxy(old.Record))
	}
	checks := d.Checks
	if d.Check != nil {
		checks = append(checks[:len(checks):len(checks)], *d.Check)
	}
	var ids []string
	for i, c := range checks {
		if c.ID != "" {
			ids = append(ids, c.ID)
		} else {
			ids = append(ids, "service:"+id, fmt.Sprintf("service:%s:%d", id, i+1))
		}
	}
	for _, check := range ids {
		if old := h.c.State.Check(check); old != nil && old.Record.ServiceName != "" {
			of = append(of, old.Record.Scope.Name(old.Record.ServiceName))
		}
	}
	return of
}

// ofProxy is the service that an instance is, or is a proxy of.
func ofProxy(s *catalog.Service) catalog.Key {
	if s.Kind == catalog.KindConnectProxy && s.Proxy != nil {
		return s.Scope.Name(s.Proxy.DestinationServiceName)
	}
	return s.Scope.Name(s.Service)
}

// mayChange refuses a change of services to processes that they aren't, where registrations name those that they are. With ACLs, tokens say who may.
func (h *handlers) mayChange(r *api.Request, services ...catalog.Key) error {
	if _, open := r.Subject.(api.Open); !open {
		return nil
	}
	for _, key := range services {
		if err := h.c.Proxies.PermitChange(r.Context(), r.Route().Name(), key); err != nil {
			return &api.StatusError{Code: http.StatusForbidden, Text: err.Error(), Err: err}
		}
	}
	return nil
}

// mayChangeID is mayChange of the service that has an ID, "" for the node.
func (h *handlers) mayChangeID(r *api.Request, id string) error {
	if svc := h.c.State.Service(id); svc != nil {
		return h.mayChange(r, ofProxy(svc.Record))
	}
	return nil
}
