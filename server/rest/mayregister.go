// SPDX-License-Identifier: Apache-2.0

package rest

import (
	"maps"
	"strings"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/internal/api"
)

var (
	nodeWrite    = api.Permission{Resource: "node", Access: api.Write}
	serviceWrite = api.Permission{Resource: "service", Access: api.Write}
)

// holdings are what a node has now: the names of its services by ID, and of what its checks are about.
type holdings struct {
	node     *catalog.Node
	services map[string]string
	checks   map[string]string
}

func holdingsOf(t *catalog.Txn, key catalog.Key) (holdings, error) {
	h := holdings{services: map[string]string{}, checks: map[string]string{}}
	var err error
	if h.node, err = t.Node(key); err != nil || h.node == nil {
		return h, err
	}
	services, err := t.NodeServices(h.node.Key())
	if err != nil {
		return h, err
	}
	checks, err := t.NodeChecks(h.node.Key())
	for _, s := range services {
		h.services[s.ID] = s.Service
	}
	for _, c := range checks {
		h.checks[c.CheckID] = c.ServiceName
	}
	return h, err
}

// mayRegister asks for node:write where a node is made or changed, or a check of its own; for service:write on each service, on
// the one that has its ID now, on the one that a proxy stands for, and on that of a service's check.
func mayRegister(r *api.Request, t *catalog.Txn, cmd *catalog.Register) error {
	have, err := holdingsOf(t, cmd.Node.Key())
	if err != nil {
		return err
	}
	if have.node == nil || !cmd.SkipNodeUpdate && changes(have.node, &cmd.Node) {
		if err := r.Subject.Allow(nodeWrite, cmd.Node.Node); err != nil {
			return err
		}
	}
	for i := range cmd.Services {
		s := &cmd.Services[i]
		names := []string{s.Service, have.services[s.ID]}
		if s.Proxy != nil {
			names = append(names, s.Proxy.DestinationServiceName)
		}
		for _, name := range names {
			if name == "" {
				continue
			}
			if err := r.Subject.Allow(serviceWrite, name); err != nil {
				return err
			}
		}
		have.services[s.ID] = s.Service
	}
	for i := range cmd.Checks {
		c := &cmd.Checks[i]
		for _, name := range []string{have.services[c.ServiceID], have.checks[c.CheckID], c.ServiceName} {
			if name != "" {
				err = r.Subject.Allow(serviceWrite, name)
			}
			if err != nil {
				return err
			}
		}
		if c.ServiceID == "" {
			if err := r.Subject.Allow(nodeWrite, cmd.Node.Node); err != nil {
				return err
			}
		}
	}
	return nil
}

// changes says whether a node would be another one than it is.
func changes(old, next *catalog.Node) bool {
	return next.ID != "" && !strings.EqualFold(old.ID, next.ID) || old.Address != next.Address || !maps.Equal(old.Meta, next.Meta) ||
		!maps.Equal(old.TaggedAddresses, next.TaggedAddresses)
}

// mayDeregister asks for what was asked for when it was registered: service:write of a service or its check, else node:write, which
// suffices too, since who may take the whole node away may take a part.
func mayDeregister(r *api.Request, t *catalog.Txn, node, service, check string) error {
	whole := r.Authorize(node)
	if whole == nil || service == "" && check == "" {
		return whole
	}
	have, err := holdingsOf(t, r.Options.Scope.Name(node))
	if err != nil {
		return err
	}
	name := have.services[service]
	if service == "" {
		name = have.checks[check]
	}
	if name == "" {
		return whole
	}
	return r.Subject.Allow(serviceWrite, name)
}
