// SPDX-License-Identifier: Apache-2.0

package rest

import (
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/internal/acl"
	"github.com/weftmesh/weft/internal/api"
	"github.com/weftmesh/weft/internal/uuid"
)

// policyView is a policy in the API's form; lists leave out its rules.
type policyView struct {
	ID, Name, Description    string
	Rules                    string   `json:",omitempty"`
	Datacenters              []string `json:",omitempty"`
	Hash                     []byte
	CreateIndex, ModifyIndex uint64
}

func viewPolicy(p *catalog.ACLPolicy, rules bool) policyView {
	v := policyView{
		ID: p.ID, Name: p.Name, Description: p.Description, Datacenters: p.Datacenters, Hash: p.Hash, CreateIndex: p.CreateIndex,
		ModifyIndex: p.ModifyIndex,
	}
	if rules {
		v.Rules = p.Rules
	}
	return v
}

type policyBody struct {
	ID, Name, Description, Rules string
	Datacenters                  []string
	Hash                         any
	CreateIndex, ModifyIndex     uint64
	Namespace, Partition         string
}

// policy validates a body and makes the record of it.
func (b *policyBody) policy(id string) (*catalog.ACLPolicy, error) {
	if !acl.ValidName(b.Name, 128) {
		return nil, aclFault("Invalid Policy: invalid Name. Only alphanumeric characters, a single '/', '-' and '_' are allowed")
	}
	if _, err := acl.Parse(b.Rules); err != nil {
		return nil, refused(err)
	}
	if slices.Contains(b.Datacenters, "") {
		return nil, aclFault("Invalid Policy: Datacenters has an empty name in it")
	}
	p := &catalog.ACLPolicy{ID: id, Name: b.Name, Description: b.Description, Rules: b.Rules, Datacenters: b.Datacenters}
	p.Hash = hashOf([]any{p.Name, p.Description, p.Rules, p.Datacenters})
	return p, nil
}

func (h *handlers) createPolicy(w http.ResponseWriter, r *api.Request) error {
	var b policyBody
	if err := readACL(r, "Policy", &b); err != nil {
		return err
	}
	if err := bodyID("Policy", "policy", "", b.ID); err != nil {
		return err
	}
	if strings.HasPrefix(b.Name, "builtin/") {
		return aclFault("Invalid Policy: names that begin with \"builtin/\" are reserved")
	}
	id, err := uuid.New(h.c.Rand)
	if err != nil {
		return err
	}
	p, err := b.policy(id)
	if err != nil {
		return err
	}
	defer h.c.Cluster.LockEntries()()
	o, err := h.writeACL(r.Context(), true, catalog.ACLObject{Policy: p})
	if errors.Is(err, catalog.ErrExists) {
		return aclFault("Invalid Policy: A Policy with Name %q already exists", b.Name)
	}
	if err != nil {
		return err
	}
	return api.WriteJSON(w, viewPolicy(o.Policy, true))
}

func (h *handlers) updatePolicy(w http.ResponseWriter, r *api.Request) error {
	var b policyBody
	if err := readACL(r, "Policy", &b); err != nil {
		return err
	}
	id := r.PathValue("id")
	if err := bodyID("Policy", "policy", id, b.ID); err != nil {
		return err
	}
	defer h.c.Cluster.LockEntries()()
	old, err := h.c.Store.Read().ACL(catalog.ACLPolicies, id)
	if err != nil {
		return err
	}
	if old.Policy == nil {
		return aclFault("cannot find policy %s", id)
	}
	if builtin := old.Policy.ID == ManagementPolicyID || old.Policy.ID == ReadOnlyPolicyID; builtin {
		switch {
		case b.Rules != "" && b.Rules != old.Policy.Rules:
			return aclFault("Changing the Rules for the builtin %s policy is not permitted", old.Policy.Name)
		case len(b.Datacenters) > 0:
			return aclFault("Changing the Datacenters of the %s policy is not permitted", old.Policy.Name)
		}
		b.Rules = old.Policy.Rules
	}
	if b.Name == "" {
		b.Name = old.Policy.Name
	}
	p, err := b.policy(old.Policy.ID)
	if err != nil {
		return err
	}
	o, err := h.writeACL(r.Context(), false, catalog.ACLObject{Policy: p})
	if errors.Is(err, catalog.ErrExists) {
		return aclFault("Invalid Policy: A policy with name %q already exists", b.Name)
	}
	if err != nil {
		return err
	}
	return api.WriteJSON(w, viewPolicy(o.Policy, true))
}

func (h *handlers) readPolicy(w http.ResponseWriter, r *api.Request) error {
	return h.showPolicy(w, r, func(t *catalog.Txn) (catalog.ACLObject, error) { return t.ACL(catalog.ACLPolicies, r.PathValue("id")) })
}

func (h *handlers) readPolicyByName(w http.ResponseWriter, r *api.Request) error {
	return h.showPolicy(w, r, func(t *catalog.Txn) (catalog.ACLObject, error) {
		return t.ACLUnique(catalog.ACLPolicies, r.PathValue("id"))
	})
}

func (h *handlers) showPolicy(w http.ResponseWriter, r *api.Request, find func(*catalog.Txn) (catalog.ACLObject, error)) error {
	return api.Answer(w, r, h.c.Store, func(t *catalog.Txn) (policyView, error) {
		o, err := find(t)
		if err == nil && o.Policy == nil {
			err = aclMissing("policy")
		}
		if err != nil {
			return policyView{}, err
		}
		return viewPolicy(o.Policy, true), nil
	})
}

func (h *handlers) deletePolicy(w http.ResponseWriter, r *api.Request) error {
	o, err := h.c.Store.Read().ACL(catalog.ACLPolicies, r.PathValue("id"))
	switch {
	case err != nil:
		return err
	case o.Policy == nil:
		return nothingToDelete("policy")
	case o.Policy.ID == ManagementPolicyID, o.Policy.ID == ReadOnlyPolicyID:
		return aclFault("Delete operation not permitted on the builtin %s policy", o.Policy.Name)
	}
	return h.deleteACL(w, r, catalog.ACLPolicies, o.ID())
}

func (h *handlers) listPolicies(w http.ResponseWriter, r *api.Request) error {
	return api.Answer(w, r, h.c.Store, func(t *catalog.Txn) ([]policyView, error) {
		all, err := t.ACLList(catalog.ACLPolicies)
		out := []policyView{}
		for _, o := range all {
			out = append(out, viewPolicy(o.Policy, false))
		}
		return out, err
	})
}

// roleView is a role in the API's form.
type roleView struct {
	ID, Name, Description    string
	Policies                 []catalog.ACLLink            `json:",omitempty"`
	ServiceIdentities        []catalog.ACLServiceIdentity `json:",omitempty"`
	NodeIdentities           []catalog.ACLNodeIdentity    `json:",omitempty"`
	TemplatedPolicies        []catalog.ACLTemplatedPolicy `json:",omitempty"`
	Hash                     []byte
	CreateIndex, ModifyIndex uint64
}

func viewRole(t *catalog.Txn, k *catalog.ACLRole) roleView {
	return roleView{
		ID: k.ID, Name: k.Name, Description: k.Description, Policies: shownLinks(t, catalog.ACLPolicies, k.Policies),
		ServiceIdentities: k.ServiceIdentities, NodeIdentities: k.NodeIdentities, TemplatedPolicies: k.TemplatedPolicies, Hash: k.Hash,
		CreateIndex: k.CreateIndex, ModifyIndex: k.ModifyIndex,
	}
}

type roleBody struct {
	ID, Name, Description    string
	Policies                 []catalog.ACLLink
	ServiceIdentities        []catalog.ACLServiceIdentity
	NodeIdentities           []catalog.ACLNodeIdentity
	TemplatedPolicies        []catalog.ACLTemplatedPolicy
	Hash                     any
	CreateIndex, ModifyIndex uint64
	Namespace, Partition     string
}

// writeRole makes a role (id "") or changes one.
func (h *handlers) writeRole(w http.ResponseWriter, r *api.Request, id string) error {
	var b roleBody
	if err := readACL(r, "Role", &b); err != nil {
		return err
	}
	create := id == ""
	if err := bodyID("Role", "role", id, b.ID); err != nil {
		return err
	}
	defer h.c.Cluster.LockEntries()()
	t := h.c.Store.Read()
	if create {
		var err error
		if id, err = uuid.New(h.c.Rand); err != nil {
			return err
		}
	} else {
		old, err := t.ACL(catalog.ACLRoles, id)
		if err != nil {
			return err
		}
		if old.Role == nil {
			return aclFault("cannot find role %s", id)
		}
		id = old.Role.ID
		if b.Name == "" {
			b.Name = old.Role.Name
		}
	}
	if !acl.ValidName(b.Name, 256) {
		return aclFault("Invalid Role: invalid Name. Only alphanumeric characters, '-' and '_' are allowed")
	}
	g := grants{b.Policies, b.ServiceIdentities, b.NodeIdentities, b.TemplatedPolicies}
	if err := g.complete(t); err != nil {
		return err
	}
	role := &catalog.ACLRole{
		ID: id, Name: b.Name, Description: b.Description, Policies: g.Policies, ServiceIdentities: g.ServiceIdentities,
		NodeIdentities: g.NodeIdentities, TemplatedPolicies: g.TemplatedPolicies, Hash: hashOf([]any{b.Name, b.Description, g}),
	}
	o, err := h.writeACL(r.Context(), create, catalog.ACLObject{Role: role})
	if errors.Is(err, catalog.ErrExists) {
		return aclFault("Invalid Role: A Role with Name %q already exists", b.Name)
	}
	if err != nil {
		return err
	}
	return api.WriteJSON(w, viewRole(h.c.Store.Read(), o.Role))
}

func (h *handlers) createRole(w http.ResponseWriter, r *api.Request) error {
	return h.writeRole(w, r, "")
}

func (h *handlers) updateRole(w http.ResponseWriter, r *api.Request) error {
	return h.writeRole(w, r, r.PathValue("id"))
}

func (h *handlers) readRole(w http.ResponseWriter, r *api.Request) error {
	return h.showRole(w, r, func(t *catalog.Txn) (catalog.ACLObject, error) { return t.ACL(catalog.ACLRoles, r.PathValue("id")) })
}

func (h *handlers) readRoleByName(w http.ResponseWriter, r *api.Request) error {
	return h.showRole(w, r, func(t *catalog.Txn) (catalog.ACLObject, error) {
		return t.ACLUnique(catalog.ACLRoles, r.PathValue("id"))
	})
}

func (h *handlers) showRole(w http.ResponseWriter, r *api.Request, find func(*catalog.Txn) (catalog.ACLObject, error)) error {
	return api.Answer(w, r, h.c.Store, func(t *catalog.Txn) (roleView, error) {
		o, err := find(t)
		if err == nil && o.Role == nil {
			err = aclMissing("role")
		}
		if err != nil {
			return roleView{}, err
		}
		return viewRole(t, o.Role), nil
	})
}

func (h *handlers) deleteRole(w http.ResponseWriter, r *api.Request) error {
	o, err := h.c.Store.Read().ACL(catalog.ACLRoles, r.PathValue("id"))
	if err != nil {
		return err
	}
	if o.Role == nil {
		return nothingToDelete("role")
	}
	return h.deleteACL(w, r, catalog.ACLRoles, o.ID())
}

func (h *handlers) listRoles(w http.ResponseWriter, r *api.Request) error {
	policy := r.URL.Query().Get("policy")
	return api.Answer(w, r, h.c.Store, func(t *catalog.Txn) ([]roleView, error) {
		all, err := t.ACLList(catalog.ACLRoles)
		out := []roleView{}
		for _, o := range all {
			if policy == "" || catalog.Grants(o.Role.Policies, policy) {
				out = append(out, viewRole(t, o.Role))
			}
		}
		return out, err
	})
}

// templateView is a templated policy in the API's form.
type templateView struct {
	TemplateName, Schema, Template, Description string
}

func viewTemplate(t acl.Template) templateView {
	v := templateView{TemplateName: t.Name, Template: strings.ReplaceAll(t.Rules, "{name}", "{{.Name}}"), Description: t.Description}
	if t.Variable != "" {
		v.Schema = `{"type":"object","properties":{"name":{"type":"string","$ref":"#/definitions/min-length-one"}},"required":["name"],"definitions":{"min-length-one":{"type":"string","minLength":1}}}`
	}
	return v
}

func (h *handlers) listTemplates(w http.ResponseWriter, _ *api.Request) error {
	out := map[string]templateView{}
	for _, t := range acl.Templates() {
		out[t.Name] = viewTemplate(t)
	}
	return api.WriteJSON(w, out)
}

func templateOf(r *api.Request) (acl.Template, error) {
	name := r.PathValue("id")
	t, ok := acl.TemplateNamed(name)
	if !ok {
		return t, &api.StatusError{Code: http.StatusBadRequest, Text: "templated policy \"" + name + "\" does not exist"}
	}
	return t, nil
}

func (h *handlers) readTemplate(w http.ResponseWriter, r *api.Request) error {
	t, err := templateOf(r)
	if err != nil {
		return err
	}
	return api.WriteJSON(w, viewTemplate(t))
}

func (h *handlers) previewTemplate(w http.ResponseWriter, r *api.Request) error {
	t, err := templateOf(r)
	if err != nil {
		return err
	}
	var vars catalog.ACLTemplateVariables
	if r.ContentLength != 0 {
		if err := readACL(r, "Templated policy", &vars); err != nil {
			return err
		}
	}
	rules, err := t.Render(vars.Name)
	if err != nil {
		return &api.StatusError{Code: http.StatusBadRequest, Text: err.Error()}
	}
	return api.WriteJSON(w, policyView{ID: t.ID, Name: "synthetic policy of " + t.Name, Description: t.Description, Rules: rules})
}
