// SPDX-License-Identifier: Apache-2.0

package rest

import (
	"errors"
	"fmt"
	"maps"
	"net/http"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/internal/api"
)

// namespaceView is a namespace in the API's form.
type namespaceView struct {
	Name        string
	Description string
	Meta        map[string]string `json:",omitempty"`
	CreateIndex uint64
	ModifyIndex uint64
}

func viewNamespace(n *catalog.Namespace) namespaceView {
	return namespaceView{Name: n.Name, Description: n.Description, Meta: n.Meta, CreateIndex: n.CreateIndex, ModifyIndex: n.ModifyIndex}
}

// namespaceBody is a namespace as clients write it.
type namespaceBody struct {
	Name, Description        string
	Meta                     map[string]string
	Partition                string
	ACLs                     *struct{ PolicyDefaults, RoleDefaults []catalog.ACLLink }
	DeletedAt                string
	CreateIndex, ModifyIndex uint64
}

func (h *handlers) namespaceHandlers() map[string]api.Handler {
	return map[string]api.Handler{
		"GET /v1/namespaces":          h.namespaces,
		"PUT /v1/namespace":           h.createNamespace,
		"GET /v1/namespace/{name}":    h.namespace,
		"PUT /v1/namespace/{name}":    h.updateNamespace,
		"DELETE /v1/namespace/{name}": h.deleteNamespace,
	}
}

func (h *handlers) namespaces(w http.ResponseWriter, r *api.Request) error {
	return api.Answer(w, r, h.c.Store, func(t *catalog.Txn) ([]namespaceView, error) {
		all, err := t.Namespaces()
		if err != nil {
			return nil, err
		}
		out := make([]namespaceView, 0, len(all))
		for _, n := range all {
			out = append(out, viewNamespace(n))
		}
		return api.FilterList(r.Options.Filter, out)
	})
}

func (h *handlers) namespace(w http.ResponseWriter, r *api.Request) error {
	return api.Answer(w, r, h.c.Store, func(t *catalog.Txn) (*namespaceView, error) {
		n, err := t.Namespace(r.PathValue("name"))
		if err == nil && n == nil {
			err = &api.StatusError{Code: http.StatusNotFound, Text: fmt.Sprintf("namespace %q doesn't exist", r.PathValue("name")), Err: catalog.ErrNotFound}
		}
		if err != nil {
			return nil, err
		}
		v := viewNamespace(n)
		return &v, nil
	})
}

func (h *handlers) createNamespace(w http.ResponseWriter, r *api.Request) error {
	return h.setNamespace(w, r, "", true)
}

func (h *handlers) updateNamespace(w http.ResponseWriter, r *api.Request) error {
	return h.setNamespace(w, r, r.PathValue("name"), false)
}

func (h *handlers) setNamespace(w http.ResponseWriter, r *api.Request, name string, create bool) error {
	var b namespaceBody
	if err := api.ReadJSON(r, &b); err != nil {
		return err
	}
	switch {
	case create && b.Name == "":
		return badRequest("Must specify a Name for the namespace")
	case !create && b.Name != "" && b.Name != name:
		return badRequest("the namespace's name is %q in the path and %q in the body: a namespace can't be renamed", name, b.Name)
	case b.Partition != "" && b.Partition != catalog.DefaultPartition:
		return badRequest("Invalid partition %q: namespaces are of the default partition", b.Partition)
	case b.ACLs != nil && len(b.ACLs.PolicyDefaults)+len(b.ACLs.RoleDefaults) > 0:
		return badRequest("ACLs: weft's tokens, policies and roles are of no namespace, so that there are no defaults by it: "+
			"grant a policy with a block namespace %q { … } instead", b.Name+name)
	}
	if !create {
		b.Name = name
	}
	n := catalog.Namespace{Name: b.Name, Description: b.Description, Meta: maps.Clone(b.Meta)}
	if err := n.Validate(); err != nil {
		return err
	}
	result, err := h.propose(w, r, catalog.SetNamespace{Namespace: n, Create: create})
	if err != nil {
		return err
	}
	return api.WriteJSON(w, viewNamespace(result.Value.(*catalog.Namespace)))
}

// deleteNamespace removes an empty one; that it isn't there is what was wanted.
func (h *handlers) deleteNamespace(w http.ResponseWriter, r *api.Request) error {
	_, err := h.propose(w, r, catalog.DeleteNamespace{Name: r.PathValue("name")})
	if errors.Is(err, catalog.ErrNotFound) {
		return &api.StatusError{Code: http.StatusNotFound, Text: err.Error(), Err: err}
	}
	return err
}

// authorizeDestination asks for the route's permission on a destination of intentions, or whatever else a config entry is about.
func authorizeDestination(r *api.Request, t *catalog.Txn, key catalog.Key) error {
	return inEach(t, key.Namespace, func(ns string) error { return r.AuthorizeIn(ns, key.Name) })
}

// inEach asks for a namespace. What is for the services of all of them is for who may write it in all that there are and that may come.
func inEach(t *catalog.Txn, namespace string, allow func(namespace string) error) error {
	if namespace != catalog.Wildcard {
		return allow(namespace)
	}
	all, err := t.Namespaces()
	if err != nil {
		return err
	}
	for _, n := range all {
		if err := allow(n.Name); err != nil {
			return err
		}
	}
	return allow(catalog.Wildcard)
}

// atAll checks a request that names all namespaces and one thing: there is one sort of thing that is for all of them.
func atAll(r *api.Request, kind, name string) error {
	if r.Options.Scope.Namespace == catalog.Wildcard && (kind != catalog.KindServiceIntentions || name != catalog.Wildcard) {
		return badRequest("Invalid namespace \"*\": only service-intentions \"*\" are for all namespaces: name one")
	}
	return nil
}
