// SPDX-License-Identifier: Apache-2.0

package rest

import (
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/hashicorp/go-bexpr"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/internal/acl"
	"github.com/weftmesh/weft/internal/api"
	"github.com/weftmesh/weft/internal/uuid"
)

// ruleView is a binding rule in the API's form.
type ruleView struct {
	ID, Description, AuthMethod, Selector, BindType, BindName string
	BindVars                                                  *catalog.ACLTemplateVariables `json:",omitempty"`
	CreateIndex, ModifyIndex                                  uint64
}

func viewRule(b *catalog.ACLBindingRule) ruleView {
	return ruleView{b.ID, b.Description, b.AuthMethod, b.Selector, b.BindType, b.BindName, b.BindVars, b.CreateIndex, b.ModifyIndex}
}

type ruleBody struct {
	ID, Description, AuthMethod, Selector, BindType, BindName string
	BindVars                                                  *catalog.ACLTemplateVariables
	CreateIndex, ModifyIndex                                  uint64
	Namespace, Partition                                      string
}

// rule validates a body and makes the record of it.
func (b *ruleBody) rule(id string) (*catalog.ACLBindingRule, error) {
	if b.Selector != "" {
		if _, err := bexpr.CreateEvaluator(b.Selector); err != nil {
			return nil, aclFault("invalid Binding Rule: Selector is invalid: %v", err)
		}
	}
	switch b.BindType {
	case "service", "node", "role", "policy":
		if b.BindVars != nil {
			return nil, aclFault("Invalid Binding Rule: BindVars cannot be set when bind type is not templated-policy")
		}
	case "templated-policy":
		if _, ok := acl.TemplateNamed(b.BindName); !ok {
			return nil, aclFault("Invalid Binding Rule: invalid templated policy %q", b.BindName)
		}
	default:
		return nil, aclFault("Invalid Binding Rule: unknown BindType %q: want service, node, role, policy or templated-policy", b.BindType)
	}
	if b.BindName == "" {
		return nil, aclFault("Invalid Binding Rule: no BindName is set")
	}
	return &catalog.ACLBindingRule{
		ID: id, Description: b.Description, AuthMethod: b.AuthMethod, Selector: b.Selector, BindType: b.BindType, BindName: b.BindName,
		BindVars: b.BindVars,
	}, nil
}

func (h *handlers) writeRule(w http.ResponseWriter, r *api.Request, id string) error {
	var b ruleBody
	if err := readACL(r, "BindingRule", &b); err != nil {
		return err
	}
	create := id == ""
	if err := bodyID("BindingRule", "binding rule", id, b.ID); err != nil {
		return err
	}
	defer h.c.Cluster.LockEntries()()
	t := h.c.Store.Read()
	if create {
		var err error
		if id, err = uuid.New(h.c.Rand); err != nil {
			return err
		}
		if b.AuthMethod == "" {
			return aclFault("Invalid Binding Rule: no AuthMethod is set")
		}
	} else {
		old, err := t.ACL(catalog.ACLBindingRules, id)
		if err != nil {
			return err
		}
		if old.BindingRule == nil {
			return aclFault("cannot find binding rule %s", id)
		}
		if b.AuthMethod != "" && b.AuthMethod != old.BindingRule.AuthMethod {
			return aclFault("the AuthMethod field of an Binding Rule is immutable")
		}
		id, b.AuthMethod = old.BindingRule.ID, old.BindingRule.AuthMethod
	}
	rule, err := b.rule(id)
	if err != nil {
		return err
	}
	o, err := h.writeACL(r.Context(), create, catalog.ACLObject{BindingRule: rule})
	if errors.Is(err, catalog.ErrNotFound) {
		return aclFault("cannot find auth method with name %q", b.AuthMethod)
	}
	if err != nil {
		return err
	}
	return api.WriteJSON(w, viewRule(o.BindingRule))
}

func (h *handlers) createRule(w http.ResponseWriter, r *api.Request) error {
	return h.writeRule(w, r, "")
}

func (h *handlers) updateRule(w http.ResponseWriter, r *api.Request) error {
	return h.writeRule(w, r, r.PathValue("id"))
}

func (h *handlers) readRule(w http.ResponseWriter, r *api.Request) error {
	return api.Answer(w, r, h.c.Store, func(t *catalog.Txn) (ruleView, error) {
		o, err := t.ACL(catalog.ACLBindingRules, r.PathValue("id"))
		if err == nil && o.BindingRule == nil {
			err = aclMissing("binding rule")
		}
		if err != nil {
			return ruleView{}, err
		}
		return viewRule(o.BindingRule), nil
	})
}

func (h *handlers) deleteRule(w http.ResponseWriter, r *api.Request) error {
	o, err := h.c.Store.Read().ACL(catalog.ACLBindingRules, r.PathValue("id"))
	if err != nil {
		return err
	}
	if o.BindingRule == nil {
		return nothingToDelete("binding rule")
	}
	return h.deleteACL(w, r, catalog.ACLBindingRules, o.ID())
}

func (h *handlers) listRules(w http.ResponseWriter, r *api.Request) error {
	method := r.URL.Query().Get("authmethod")
	return api.Answer(w, r, h.c.Store, func(t *catalog.Txn) ([]ruleView, error) {
		all, err := t.ACLList(catalog.ACLBindingRules)
		out := []ruleView{}
		for _, o := range all {
			if method == "" || strings.EqualFold(method, o.BindingRule.AuthMethod) {
				out = append(out, viewRule(o.BindingRule))
			}
		}
		return out, err
	})
}

// methodView is an auth method in the API's form; lists leave out its configuration.
type methodView struct {
	Name, Type               string
	DisplayName, Description string         `json:",omitempty"`
	MaxTokenTTL              string         `json:",omitempty"`
	TokenLocality            string         `json:",omitempty"`
	TokenNameFormat          string         `json:",omitempty"`
	Config                   map[string]any `json:",omitempty"`
	CreateIndex, ModifyIndex uint64
}

func viewMethod(m *catalog.ACLAuthMethod, whole bool) methodView {
	v := methodView{
		Name: m.Name, Type: m.Type, DisplayName: m.DisplayName, Description: m.Description, TokenLocality: m.TokenLocality,
		TokenNameFormat: m.TokenNameFormat, CreateIndex: m.CreateIndex, ModifyIndex: m.ModifyIndex,
	}
	if m.MaxTokenTTL != 0 {
		v.MaxTokenTTL = m.MaxTokenTTL.String()
	}
	if whole {
		v.Config = m.Config
	}
	return v
}

type methodBody struct {
	Name, Type, DisplayName, Description, TokenLocality, TokenNameFormat string
	MaxTokenTTL                                                          time.Duration
	Config                                                               map[string]any
	CreateIndex, ModifyIndex                                             uint64
	NamespaceRules                                                       []any
	Namespace, Partition                                                 string
}

func (b *methodBody) method() (*catalog.ACLAuthMethod, error) {
	if !acl.ValidName(b.Name, 128) {
		return nil, aclFault("Invalid Auth Method: invalid Name. Only alphanumeric characters, '-' and '_' are allowed")
	}
	switch b.TokenLocality {
	case "", "local", "global":
	default:
		return nil, aclFault("Invalid Auth Method: TokenLocality should be one of 'local' or 'global'")
	}
	if len(b.NamespaceRules) > 0 {
		return nil, aclFault("Invalid Auth Method: NamespaceRules: what the ACL system holds is of no namespace; rules for one stand in a policy's block namespace \"…\" { … }")
	}
	if b.MaxTokenTTL == 0 && b.Type == "oidc" {
		return nil, aclFault("Invalid Auth Method: MaxTokenTTL is required with the type oidc: how long people's tokens are good, such as \"8h\"")
	}
	if b.MaxTokenTTL != 0 && b.MaxTokenTTL < minExpiry {
		return nil, aclFault("MaxTokenTTL %s cannot be less than %s", b.MaxTokenTTL, minExpiry)
	}
	plain, err := catalog.Plain(b.Config)
	if err != nil {
		return nil, refused(err)
	}
	config, _ := plain.(map[string]any)
	return &catalog.ACLAuthMethod{
		Name: b.Name, Type: b.Type, DisplayName: b.DisplayName, Description: b.Description, MaxTokenTTL: b.MaxTokenTTL,
		TokenLocality: b.TokenLocality, TokenNameFormat: b.TokenNameFormat, Config: config,
	}, nil
}

func (h *handlers) writeMethod(w http.ResponseWriter, r *api.Request, name string) error {
	var b methodBody
	if err := readACL(r, "AuthMethod", &b); err != nil {
		return err
	}
	create := name == ""
	defer h.c.Cluster.LockEntries()()
	if !create {
		if b.Name != "" && !strings.EqualFold(b.Name, name) {
			return &api.StatusError{Code: http.StatusBadRequest, Text: "AuthMethod Name in URL and payload do not match"}
		}
		old, err := h.c.Store.Read().ACL(catalog.ACLAuthMethods, name)
		if err != nil {
			return err
		}
		if old.AuthMethod == nil {
			return aclFault("cannot find auth method %q", name)
		}
		if b.Type != "" && b.Type != old.AuthMethod.Type {
			return aclFault("Changing an auth method's type from %q to %q is not permitted.", old.AuthMethod.Type, b.Type)
		}
		b.Name, b.Type = old.AuthMethod.Name, old.AuthMethod.Type
	}
	m, err := b.method()
	if err != nil {
		return err
	}
	if err := h.c.ACL.ValidateMethod(m); err != nil {
		return aclFault("Invalid Auth Method: %w", err)
	}
	sealed, err := h.c.ACL.SealMethod(r.Context(), m)
	if err != nil {
		return err
	}
	o, err := h.writeACL(r.Context(), create, catalog.ACLObject{AuthMethod: sealed})
	if errors.Is(err, catalog.ErrExists) {
		return aclFault("Invalid Auth Method: An Auth Method with Name %q already exists", b.Name)
	}
	if err != nil {
		return err
	}
	if m, err = h.c.ACL.OpenMethod(r.Context(), o.AuthMethod); err != nil {
		return err
	}
	return api.WriteJSON(w, viewMethod(m, true))
}

func (h *handlers) createMethod(w http.ResponseWriter, r *api.Request) error {
	return h.writeMethod(w, r, "")
}

func (h *handlers) updateMethod(w http.ResponseWriter, r *api.Request) error {
	return h.writeMethod(w, r, r.PathValue("id"))
}

func (h *handlers) readMethod(w http.ResponseWriter, r *api.Request) error {
	return api.Answer(w, r, h.c.Store, func(t *catalog.Txn) (methodView, error) {
		o, err := t.ACL(catalog.ACLAuthMethods, r.PathValue("id"))
		if err == nil && o.AuthMethod == nil {
			err = aclMissing("auth method")
		}
		if err != nil {
			return methodView{}, err
		}
		m, err := h.c.ACL.OpenMethod(r.Context(), o.AuthMethod)
		if err != nil {
			return methodView{}, err
		}
		return viewMethod(m, true), nil
	})
}

func (h *handlers) deleteMethod(w http.ResponseWriter, r *api.Request) error {
	o, err := h.c.Store.Read().ACL(catalog.ACLAuthMethods, r.PathValue("id"))
	if err != nil {
		return err
	}
	if o.AuthMethod == nil {
		return nothingToDelete("auth method")
	}
	return h.deleteACL(w, r, catalog.ACLAuthMethods, o.ID())
}

func (h *handlers) listMethods(w http.ResponseWriter, r *api.Request) error {
	return api.Answer(w, r, h.c.Store, func(t *catalog.Txn) ([]methodView, error) {
		all, err := t.ACLList(catalog.ACLAuthMethods)
		out := []methodView{}
		for _, o := range all {
			out = append(out, viewMethod(o.AuthMethod, false))
		}
		return out, err
	})
}
