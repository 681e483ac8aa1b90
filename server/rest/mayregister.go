// SPDX-License-Identifier: Apache-2.0

package rest

import (
	"maps"
	"strings"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/internal/api"
	"github.com/weftmesh/weft/internal/guard"
)

var (
	nodeWrite    = api.Permission{Resource: "node", Access: api.Write}
	serviceWrite = api.Permission{Resource: "service", Access: api.Write}
)

// holdings are what a node has now. What is asked about is looked up one by one: lists of all that a node of ten services has were a ninth
// of what a registration cost.
type holdings struct {
	txn  *catalog.Txn
	node *catalog.Node
}

func holdingsOf(t *catalog.Txn, key catalog.Key) (h holdings, err error) {
	h.txn = t
	h.node, err = t.Node(key)
	return h, err
}

// service is the name of the service with an ID, "" if there is none.
func (h *holdings) service(scope catalog.Scope, id string) (string, error) {
	if h.node == nil || id == "" {
		return "", nil
	}
	s, err := h.txn.NodeService(h.node.Key(), scope.Namespace, id)
	if err != nil || s == nil {
		return "", err
	}
	return s.Service, nil
}

// check is the name of the service that a check is about, "" for a check of the node and where there is none.
func (h *holdings) check(scope catalog.Scope, id string) (string, error) {
	if h.node == nil || id == "" {
		return "", nil
	}
	c, err := h.txn.NodeCheck(h.node.Key(), scope.Namespace, id)
	if err != nil || c == nil {
		return "", err
	}
	return c.ServiceName, nil
}

// mayRegister asks for node:write where a node is made or changed, or a check of its own; for service:write on each service, on
// the one that has its ID now, on the one that a proxy stands for, and on that of a service's check.
func mayRegister(r *api.Request, store *catalog.Store, cmd *catalog.Register) error {
	if _, all := r.Subject.(api.Open); all { // what is there is looked up for nothing then, a twentieth of what a registration costs
		return nil
	}
	have, err := holdingsOf(store.Read(), cmd.Node.Key())
	if err != nil {
		return err
	}
	if have.node == nil || !cmd.SkipNodeUpdate && changes(have.node, &cmd.Node) {
		if err := r.Subject.Allow(nodeWrite, cmd.Node.Node); err != nil {
			return err
		}
	}
	registered := map[string]string{} // by this command
	for i := range cmd.Services {
		s := &cmd.Services[i]
		before, err := have.service(s.Scope, s.ID)
		if err != nil {
			return err
		}
		names := []string{s.Service, before, registered[strings.ToLower(s.ID)]}
		if s.Proxy != nil {
			names = append(names, s.Proxy.DestinationServiceName)
		}
		if guard.Off("C104") {
			names = names[:1]
		}
		if err := mayWrite(r, names...); err != nil {
			return err
		}
		registered[strings.ToLower(s.ID)] = s.Service
	}
	for i := range cmd.Checks {
		c := &cmd.Checks[i]
		scope := c.Scope
		if c.ServiceID == "" {
			scope.Namespace = catalog.DefaultNamespace // the node's
		}
		before, err := have.check(scope, c.CheckID)
		if err != nil {
			return err
		}
		of := registered[strings.ToLower(c.ServiceID)]
		if of == "" {
			if of, err = have.service(c.Scope, c.ServiceID); err != nil {
				return err
			}
		}
		if err := mayWrite(r, of, before, c.ServiceName); err != nil {
			return err
		}
		if c.ServiceID == "" {
			if err := r.Subject.Allow(nodeWrite, cmd.Node.Node); err != nil {
				return err
			}
		}
	}
	return nil
}

// mayWrite asks for service:write on all that are named.
func mayWrite(r *api.Request, services ...string) error {
	for _, name := range services {
		if name == "" {
			continue
		}
		if err := r.Subject.Allow(serviceWrite, name); err != nil {
			return err
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
	name, err := have.service(r.Options.Scope, service)
	if service == "" {
		name, err = have.check(r.Options.Scope, check)
	}
	if err != nil {
		return err
	}
	if name == "" {
		return whole
	}
	return r.Subject.Allow(serviceWrite, name)
}
