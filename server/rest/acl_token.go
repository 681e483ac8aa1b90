// SPDX-License-Identifier: Apache-2.0

package rest

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/internal/acl"
	"github.com/weftmesh/weft/internal/api"
	"github.com/weftmesh/weft/server/tokens"
)

// hidden stands for a secret. The catalog has only its hash: it is shown once, to who makes the token.
const hidden = "<hidden>"

// tokenView is a token in the API's form.
type tokenView struct {
	CreateIndex, ModifyIndex uint64
	AccessorID, SecretID     string
	Name                     string `json:",omitempty"`
	Description              string
	Policies                 []catalog.ACLLink            `json:",omitempty"`
	Roles                    []catalog.ACLLink            `json:",omitempty"`
	ServiceIdentities        []catalog.ACLServiceIdentity `json:",omitempty"`
	NodeIdentities           []catalog.ACLNodeIdentity    `json:",omitempty"`
	TemplatedPolicies        []catalog.ACLTemplatedPolicy `json:",omitempty"`
	Local                    bool
	AuthMethod               string     `json:",omitempty"`
	ExpirationTime           *time.Time `json:",omitempty"`
	CreateTime               time.Time
	Hash                     []byte
}

func viewToken(t *catalog.Txn, k *catalog.ACLToken) tokenView {
	return tokenView{
		CreateIndex: k.CreateIndex, ModifyIndex: k.ModifyIndex, AccessorID: k.AccessorID, SecretID: hidden, Name: k.Name,
		Description: k.Description,
		Policies:    shownLinks(t, catalog.ACLPolicies, k.Policies), Roles: shownLinks(t, catalog.ACLRoles, k.Roles),
		ServiceIdentities: k.ServiceIdentities, NodeIdentities: k.NodeIdentities, TemplatedPolicies: k.TemplatedPolicies, Local: k.Local,
		AuthMethod: k.AuthMethod, ExpirationTime: k.ExpirationTime, CreateTime: k.CreateTime, Hash: k.Hash,
	}
}

// expandedToken is a token with all that it is made of.
type expandedToken struct {
	tokenView
	ExpandedPolicies                                   []policyView
	ExpandedRoles                                      []roleView
	NamespaceDefaultPolicyIDs, NamespaceDefaultRoleIDs []string
	AgentACLDefaultPolicy, AgentACLDownPolicy          string
	ResolvedByAgent                                    string
}

// tokenBody is what a token is made or changed by. What the caller can't decide is taken and passed over.
type tokenBody struct {
	AccessorID, SecretID, Name, Description string
	Policies, Roles                         []catalog.ACLLink
	ServiceIdentities                       []catalog.ACLServiceIdentity
	NodeIdentities                          []catalog.ACLNodeIdentity
	TemplatedPolicies                       []catalog.ACLTemplatedPolicy
	Local                                   bool
	AuthMethod                              string
	ExpirationTTL                           time.Duration
	ExpirationTime                          *time.Time
	CreateTime                              *time.Time
	Hash                                    any
	CreateIndex, ModifyIndex                uint64
	Namespace, Partition                    string
	AuthMethodNamespace                     string
	Rules                                   string
}

// apply sets what may change of a token.
func (b *tokenBody) apply(t *catalog.Txn, k *catalog.ACLToken) error {
	g := grants{b.Policies, b.ServiceIdentities, b.NodeIdentities, b.TemplatedPolicies}
	if err := g.complete(t); err != nil {
		return err
	}
	roles, err := completeLinks(t, catalog.ACLRoles, b.Roles)
	if err != nil {
		return err
	}
	if b.Name != "" { // clients that don't know names keep them
		if len(b.Name) > nameMax || plainName(b.Name) != b.Name {
			return aclFault("Invalid Token: Name has more than %d bytes, or characters that can't be printed", nameMax)
		}
		k.Name = b.Name
	}
	k.Description, k.Policies, k.Roles, k.ServiceIdentities, k.NodeIdentities, k.TemplatedPolicies = b.Description, g.Policies, roles, g.ServiceIdentities, g.NodeIdentities, g.TemplatedPolicies
	k.Hash = hashOf([]any{k.Description, g, roles})
	return nil
}

// minExpiry is the shortest life of a token.
const minExpiry = time.Minute

func (h *handlers) createToken(w http.ResponseWriter, r *api.Request) error {
	var b tokenBody
	if err := readACL(r, "Token", &b); err != nil {
		return err
	}
	if b.AuthMethod != "" {
		return aclFault("AuthMethod field is disallowed outside of Login")
	}
	k, secret, err := h.newToken("", b.SecretID)
	if err != nil {
		return err
	}
	if b.AccessorID != "" {
		k.AccessorID = strings.ToLower(b.AccessorID)
	}
	for _, id := range []struct{ name, given, value string }{{"AccessorID", b.AccessorID, k.AccessorID}, {"SecretID", b.SecretID, secret}} {
		switch {
		case id.given == "":
		case !validUUID(id.value):
			return aclFault("Invalid Token: %s is not a valid UUID", id.name)
		case strings.HasPrefix(id.value, reservedPrefix):
			return aclFault("Invalid Token: UUIDs with the prefix %q are reserved", reservedPrefix)
		}
	}
	if k.ExpirationTime, err = h.expiry(b.ExpirationTTL, b.ExpirationTime); err != nil {
		return err
	}
	k.Local = b.Local
	return h.addToken(w, r, k, secret, func(t *catalog.Txn) error { return b.apply(t, k) })
}

// expiry is when a token ends.
func (h *handlers) expiry(ttl time.Duration, at *time.Time) (*time.Time, error) {
	switch {
	case ttl < 0:
		return nil, aclFault("Token Expiration TTL '%s' should be > 0", ttl)
	case ttl != 0 && at != nil:
		return nil, aclFault("Token Expiration TTL and Expiration Time cannot both be set")
	case ttl != 0:
		end := h.c.Now().Add(ttl).UTC()
		at = &end
	}
	if at == nil {
		return nil, nil
	}
	if left := at.Sub(h.c.Now()); left < minExpiry {
		return nil, aclFault("ExpirationTime cannot be less than %s in the future (was %s)", minExpiry, left.Round(time.Second))
	}
	return at, nil
}

// addToken completes and writes a new token, and shows it with its secret.
func (h *handlers) addToken(w http.ResponseWriter, r *api.Request, k *catalog.ACLToken, secret string, complete func(*catalog.Txn) error) error {
	defer h.c.Cluster.LockEntries()()
	t := h.c.Store.Read()
	if err := complete(t); err != nil {
		return err
	}
	if o, err := t.ACL(catalog.ACLTokens, k.AccessorID); err != nil || o.Token != nil {
		return errors.Join(err, aclFault("Invalid Token: AccessorID is already in use"))
	}
	if _, err := h.writeACL(r.Context(), true, catalog.ACLObject{Token: k}); err != nil {
		if errors.Is(err, catalog.ErrExists) {
			return aclFault("Invalid Token: SecretID is already in use")
		}
		return err
	}
	return h.showNewToken(w, k.AccessorID, secret, false)
}

func (h *handlers) showNewToken(w http.ResponseWriter, accessor, secret string, bootstrap bool) error {
	t := h.c.Store.Read()
	o, err := t.ACL(catalog.ACLTokens, accessor)
	if err != nil {
		return err
	}
	if o.Token == nil {
		return fmt.Errorf("the token %s was made, and is gone again", accessor)
	}
	v := viewToken(t, o.Token)
	v.SecretID = secret
	if bootstrap {
		return api.WriteJSON(w, struct {
			ID string
			tokenView
		}{secret, v})
	}
	return api.WriteJSON(w, v)
}

// tokenByID finds a token that isn't over.
func (h *handlers) tokenByID(t *catalog.Txn, id string) (*catalog.ACLToken, error) {
	o, err := t.ACL(catalog.ACLTokens, id)
	switch {
	case err != nil:
		return nil, err
	case o.Token == nil:
		return nil, fmt.Errorf("token does not exist: %w", api.ErrTokenUnknown)
	case o.Token.Expired(h.c.Now()):
		return nil, fmt.Errorf("token has expired: %w", api.ErrTokenUnknown)
	}
	return o.Token, nil
}

func (h *handlers) readToken(w http.ResponseWriter, r *api.Request) error {
	expanded := r.URL.Query().Has("expanded")
	return api.Answer(w, r, h.c.Store, func(t *catalog.Txn) (any, error) {
		k, err := h.tokenByID(t, r.PathValue("id"))
		if err != nil {
			return nil, err
		}
		v := viewToken(t, k)
		if !expanded {
			return v, nil
		}
		x, err := tokens.Expand(t, k, t.Datacenter())
		if err != nil {
			return nil, err
		}
		out := expandedToken{
			tokenView: v, AgentACLDefaultPolicy: h.c.ACL.DefaultPolicy, AgentACLDownPolicy: h.c.ACL.DownPolicy, ResolvedByAgent: h.c.Node,
			ExpandedPolicies: []policyView{}, ExpandedRoles: []roleView{},
		}
		for _, p := range x.Policies {
			out.ExpandedPolicies = append(out.ExpandedPolicies, viewPolicy(p, true))
		}
		for _, role := range x.Roles {
			out.ExpandedRoles = append(out.ExpandedRoles, viewRole(t, role))
		}
		return out, nil
	})
}

// selfToken shows the caller its own token; the secret is what it sent.
func (h *handlers) selfToken(w http.ResponseWriter, r *api.Request) error {
	secret := api.TokenOf(r.Request)
	return api.Answer(w, r, h.c.Store, func(t *catalog.Txn) (any, error) {
		k, err := h.c.ACL.Tokens.Token(t, secret)
		if err != nil {
			return nil, err
		}
		if k == nil {
			return nil, fmt.Errorf("token does not exist: %w", api.ErrTokenUnknown)
		}
		v := viewToken(t, k)
		if v.SecretID = secret; secret == "" {
			v.SecretID = tokens.AnonymousSecret
		}
		return v, nil
	})
}

func (h *handlers) updateToken(w http.ResponseWriter, r *api.Request) error {
	var b tokenBody
	if err := readACL(r, "Token", &b); err != nil {
		return err
	}
	id := r.PathValue("id")
	if b.AccessorID != "" && !strings.EqualFold(b.AccessorID, id) {
		return &api.StatusError{Code: http.StatusBadRequest, Text: "Token Accessor ID in URL and payload do not match"}
	}
	defer h.c.Cluster.LockEntries()()
	t := h.c.Store.Read()
	o, err := t.ACL(catalog.ACLTokens, id)
	if err != nil {
		return err
	}
	if o.Token == nil || o.Token.Expired(h.c.Now()) {
		return aclFault("Cannot find token %q", id)
	}
	k := *o.Token
	switch {
	case b.SecretID != "" && b.SecretID != hidden && tokens.Hash(b.SecretID) != k.SecretHash:
		return aclFault("Changing a token's SecretID is not permitted")
	case b.Local != k.Local:
		return aclFault("Cannot toggle local mode of %s", id)
	case b.AuthMethod != "" && b.AuthMethod != k.AuthMethod:
		return aclFault("Cannot change AuthMethod of %s", id)
	case b.ExpirationTTL != 0, b.ExpirationTime != nil && (k.ExpirationTime == nil || !b.ExpirationTime.Equal(*k.ExpirationTime)):
		return aclFault("Cannot change expiration time of %s", id)
	}
	if err := b.apply(t, &k); err != nil {
		return err
	}
	if o, err = h.writeACL(r.Context(), false, catalog.ACLObject{Token: &k}); err != nil {
		return err
	}
	return api.WriteJSON(w, viewToken(h.c.Store.Read(), o.Token))
}

func (h *handlers) cloneToken(w http.ResponseWriter, r *api.Request) error {
	var b struct{ Description string }
	if r.ContentLength != 0 {
		var body tokenBody
		if err := readACL(r, "Token", &body); err != nil {
			return err
		}
		b.Description = body.Description
	}
	old, err := h.tokenByID(h.c.Store.Read(), r.PathValue("id"))
	if err != nil {
		return err
	}
	if old.AccessorID == acl.AnonymousAccessor {
		return aclFault("Cannot clone the anonymous token")
	}
	if old.AuthMethod != "" {
		return aclFault("Cannot clone a token created from an auth method")
	}
	fresh, secret, err := h.newToken(b.Description, "")
	if err != nil {
		return err
	}
	k := *old
	k.AccessorID, k.SecretHash, k.CreateTime, k.Indexes = fresh.AccessorID, fresh.SecretHash, fresh.CreateTime, catalog.Indexes{}
	if b.Description != "" {
		k.Description = b.Description
	}
	return h.addToken(w, r, &k, secret, func(*catalog.Txn) error { return nil })
}

func (h *handlers) deleteToken(w http.ResponseWriter, r *api.Request) error {
	id := r.PathValue("id")
	if !validUUID(id) {
		return aclFault("Accessor ID is missing or an invalid UUID")
	}
	if strings.EqualFold(id, acl.AnonymousAccessor) {
		return aclFault("Delete operation not permitted on the anonymous token")
	}
	t := h.c.Store.Read()
	o, err := t.ACL(catalog.ACLTokens, id)
	if err != nil {
		return err
	}
	if o.Token == nil {
		return nothingToDelete("token")
	}
	if own, err := h.c.ACL.Tokens.Token(t, api.TokenOf(r.Request)); err == nil && own != nil && own.AccessorID == o.Token.AccessorID {
		return aclFault("Deletion of the request's authorization token is not permitted")
	}
	return h.deleteACL(w, r, catalog.ACLTokens, id)
}

func (h *handlers) listTokens(w http.ResponseWriter, r *api.Request) error {
	q := r.URL.Query()
	filters := 0
	for _, name := range []string{"policy", "role", "authmethod", "servicename"} {
		if q.Get(name) != "" {
			filters++
		}
	}
	if filters > 1 {
		return aclFault("can only filter by one of: policy, role, authmethod or servicename")
	}
	return api.Answer(w, r, h.c.Store, func(t *catalog.Txn) ([]tokenView, error) {
		all, err := t.ACLList(catalog.ACLTokens)
		out := []tokenView{}
		for _, o := range all {
			if k := o.Token; !k.Expired(h.c.Now()) && selects(q.Get, k) {
				out = append(out, viewToken(t, k))
			}
		}
		return out, err
	})
}

func selects(get func(string) string, k *catalog.ACLToken) bool {
	if p := get("policy"); p != "" && !catalog.Grants(k.Policies, p) {
		return false
	}
	if role := get("role"); role != "" && !catalog.Grants(k.Roles, role) {
		return false
	}
	if m := get("authmethod"); m != "" && !strings.EqualFold(k.AuthMethod, m) {
		return false
	}
	name := get("servicename")
	if name == "" {
		return true
	}
	for _, s := range k.ServiceIdentities {
		if s.ServiceName == name {
			return true
		}
	}
	return false
}
