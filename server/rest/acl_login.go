// SPDX-License-Identifier: Apache-2.0

package rest

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"strings"

	"github.com/hashicorp/go-bexpr"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/internal/acl"
	"github.com/weftmesh/weft/internal/api"
	"github.com/weftmesh/weft/internal/guard"
)

// aclLogin makes a token for who proves to be somebody by an auth method.
func (h *handlers) aclLogin(w http.ResponseWriter, r *api.Request) error {
	var b struct {
		AuthMethod, BearerToken string
		Meta                    map[string]string
		Namespace, Partition    string
	}
	if err := readACL(r, "Login", &b); err != nil {
		return err
	}
	m, err := h.methodOpened(r.Context(), b.AuthMethod)
	if err != nil {
		return err
	}
	who, err := h.c.ACL.Login(r.Context(), m, b.BearerToken)
	if err != nil {
		return fmt.Errorf("%w: %w", api.ErrDenied, err)
	}
	return h.logIn(w, r, m.Name, who, "token created via login", b.Meta)
}

// LoginStart is what a client begins a login in a browser with.
type LoginStart struct {
	// RedirectURI is where the browser goes with the code.
	RedirectURI string
	// ClientNonce is the client's own secret: who has it may end the login. "" for none.
	ClientNonce string
	// Meta goes into the token's description.
	Meta map[string]string
}

// LoginEnd is what the browser brought, and the client's nonce again.
type LoginEnd struct{ State, Code, ClientNonce string }

// oidcAuthURL begins a login in a browser.
func (h *handlers) oidcAuthURL(w http.ResponseWriter, r *api.Request) error {
	var b struct {
		AuthMethod, RedirectURI, ClientNonce string
		Meta                                 map[string]string
		Namespace, Partition                 string
	}
	if err := readACL(r, "OIDCAuthURL", &b); err != nil {
		return err
	}
	m, err := h.methodOpened(r.Context(), b.AuthMethod)
	if err != nil {
		return err
	}
	to, err := h.c.ACL.AuthURL(r.Context(), m, LoginStart{RedirectURI: b.RedirectURI, ClientNonce: b.ClientNonce, Meta: b.Meta})
	if err != nil {
		return fmt.Errorf("%w: %w", api.ErrDenied, err)
	}
	return api.WriteJSON(w, struct{ AuthURL string }{to})
}

// oidcCallback makes a token for who has logged in in a browser.
func (h *handlers) oidcCallback(w http.ResponseWriter, r *api.Request) error {
	var b struct{ AuthMethod, State, Code, ClientNonce, Namespace, Partition string }
	if err := readACL(r, "OIDCCallback", &b); err != nil {
		return err
	}
	m, err := h.methodOpened(r.Context(), b.AuthMethod)
	if err != nil {
		return err
	}
	who, meta, err := h.c.ACL.Callback(r.Context(), m, LoginEnd{State: b.State, Code: b.Code, ClientNonce: b.ClientNonce})
	if err != nil {
		return fmt.Errorf("%w: %w", api.ErrDenied, err)
	}
	return h.logIn(w, r, m.Name, who, "token created via OIDC login", meta)
}

// methodOpened gives an auth method with its secrets in clear.
func (h *handlers) methodOpened(ctx context.Context, name string) (*catalog.ACLAuthMethod, error) {
	m, err := methodNamed(h.c.Store.Read(), name)
	if err != nil {
		return nil, err
	}
	return h.c.ACL.OpenMethod(ctx, m)
}

func methodNamed(t *catalog.Txn, name string) (*catalog.ACLAuthMethod, error) {
	o, err := t.ACL(catalog.ACLAuthMethods, name)
	if err == nil && o.AuthMethod == nil {
		err = fmt.Errorf("auth method %q not found: %w", name, api.ErrTokenUnknown)
	}
	return o.AuthMethod, err
}

// logIn makes the token, by the method and its rules as they are now: somebody else was asked meanwhile.
func (h *handlers) logIn(w http.ResponseWriter, r *api.Request, method string, who *Bearer, what string, meta map[string]string) error {
	k, secret, err := h.newToken(what, "")
	if err != nil {
		return err
	}
	if len(meta) > 0 {
		text, err := json.Marshal(meta)
		if err != nil {
			return err
		}
		k.Description += ": " + string(text)
	}
	return h.addToken(w, r, k, secret, func(t *catalog.Txn) error {
		m, err := methodNamed(t, method)
		if err != nil {
			return err
		}
		if err := bind(t, m.Name, who, k); err != nil {
			return err
		}
		k.Name = tokenName(m, who.Vars)
		k.AuthMethod, k.Local = m.Name, m.TokenLocality != "global"
		if ttl := m.MaxTokenTTL; ttl > 0 {
			end := h.c.Now().Add(ttl).UTC()
			k.ExpirationTime = &end
		}
		k.Hash = hashOf([]any{k.Description, k.Policies, k.Roles, k.ServiceIdentities, k.NodeIdentities, k.TemplatedPolicies})
		return nil
	})
}

// bind gives a token what the method's rules grant the bearer. Somebody whom no rule grants anything is refused.
func bind(t *catalog.Txn, method string, who *Bearer, k *catalog.ACLToken) error {
	all, err := t.ACLOfMethod(method)
	if err != nil {
		return err
	}
	for _, o := range all {
		rule := o.BindingRule
		if rule == nil || !matchesSelector(rule.Selector, who.Fields) {
			continue
		}
		name, ok := interpolate(rule.BindName, who.Vars)
		if !ok {
			continue
		}
		switch rule.BindType {
		case "service":
			if acl.ValidIdentity(name) || guard.Off("C110") {
				k.ServiceIdentities = append(k.ServiceIdentities, catalog.ACLServiceIdentity{ServiceName: name})
			}
		case "node":
			if acl.ValidIdentity(name) {
				k.NodeIdentities = append(k.NodeIdentities, catalog.ACLNodeIdentity{NodeName: name, Datacenter: t.Datacenter()})
			}
		case "templated-policy":
			p := catalog.ACLTemplatedPolicy{TemplateName: rule.BindName}
			if rule.BindVars != nil {
				value, ok := interpolate(rule.BindVars.Name, who.Vars)
				if !ok {
					continue
				}
				p.TemplateVariables = &catalog.ACLTemplateVariables{Name: value}
			}
			if !renders(p) {
				continue
			}
			k.TemplatedPolicies = append(k.TemplatedPolicies, p)
		case "role", "policy":
			kind, to := catalog.ACLRoles, &k.Roles
			if rule.BindType == "policy" {
				kind, to = catalog.ACLPolicies, &k.Policies
			}
			if o, err := t.ACLUnique(kind, name); err != nil {
				return err
			} else if o.Kind() != "" && !catalog.Grants(*to, o.ID()) {
				*to = append(*to, catalog.ACLLink{ID: o.ID()})
			}
		}
	}
	if len(k.Policies)+len(k.Roles)+len(k.ServiceIdentities)+len(k.NodeIdentities)+len(k.TemplatedPolicies) == 0 {
		return api.ErrDenied
	}
	return nil
}

// renders says whether a templated policy makes rules of what it was given: claims are whatever their issuer lets people write in them.
func renders(p catalog.ACLTemplatedPolicy) bool {
	t, ok := acl.TemplateNamed(p.TemplateName)
	if !ok {
		return false
	}
	value := ""
	if p.TemplateVariables != nil {
		value = p.TemplateVariables.Name
	}
	_, err := t.Render(value)
	return err == nil
}

func matchesSelector(selector string, fields any) bool {
	if selector == "" {
		return true
	}
	e, err := bexpr.CreateEvaluator(selector)
	if err != nil {
		return false // it was validated when it was written
	}
	ok, err := e.Evaluate(fields)
	return err == nil && ok
}

var variable = regexp.MustCompile(`\$\{([A-Za-z0-9_.\-]+)\}`)

// interpolate replaces ${…}, in lower case; not ok if a variable isn't there.
func interpolate(text string, vars map[string]string) (string, bool) {
	ok := true
	out := variable.ReplaceAllStringFunc(text, func(m string) string {
		v, has := vars[m[2:len(m)-1]]
		ok = ok && has
		return strings.ToLower(v)
	})
	return out, ok
}

// aclLogout ends the caller's token, if it came of a login.
func (h *handlers) aclLogout(w http.ResponseWriter, r *api.Request) error {
	secret := api.TokenOf(r.Request)
	if secret == "" {
		return &api.StatusError{Code: http.StatusUnauthorized, Text: "Supplied token does not exist"}
	}
	k, err := h.c.ACL.Tokens.Token(h.c.Store.Read(), secret)
	if err != nil {
		return err
	}
	if k == nil || k.AuthMethod == "" {
		return fmt.Errorf("%w: token wasn't created via login", api.ErrDenied)
	}
	return h.deleteACL(w, r, catalog.ACLTokens, k.AccessorID)
}
