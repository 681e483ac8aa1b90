// SPDX-License-Identifier: Apache-2.0

package rest

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/internal/acl"
	"github.com/weftmesh/weft/internal/api"
	"github.com/weftmesh/weft/internal/uuid"
	"github.com/weftmesh/weft/server/tokens"
)

// ACL is what the handlers of /v1/acl need; nil where ACLs are off.
type ACL struct {
	Tokens *tokens.Resolver
	// Login verifies a bearer token by an auth method, and says who bears it.
	Login func(ctx context.Context, method *catalog.ACLAuthMethod, bearer string) (*Bearer, error)
	// AuthURL begins a login in a browser, and Callback ends it, with the Meta that AuthURL was given.
	AuthURL  func(context.Context, *catalog.ACLAuthMethod, LoginStart) (string, error)
	Callback func(context.Context, *catalog.ACLAuthMethod, LoginEnd) (*Bearer, map[string]string, error)
	// ValidateMethod checks an auth method's configuration without asking anybody.
	ValidateMethod func(*catalog.ACLAuthMethod) error
	// SealMethod gives a method with its secrets as they go into the log, OpenMethod one with them in clear. Neither changes its argument.
	SealMethod, OpenMethod func(context.Context, *catalog.ACLAuthMethod) (*catalog.ACLAuthMethod, error)
	// ResetIndex reads and removes the file by which an operator on this server allows one more bootstrap; 0 for none.
	ResetIndex func() uint64
	// DefaultPolicy and DownPolicy are told in expanded tokens.
	DefaultPolicy, DownPolicy string
}

// Bearer is who logs in.
type Bearer struct {
	// Fields are what selectors of binding rules see.
	Fields any
	// Vars are what ${…} in their names stands for.
	Vars map[string]string
}

func (h *handlers) aclHandlers() map[string]api.Handler {
	m := map[string]api.Handler{
		"PUT /v1/acl/bootstrap":                         h.aclBootstrap,
		"GET /v1/acl/replication":                       h.aclReplication,
		"POST /v1/acl/login":                            h.aclLogin,
		"POST /v1/acl/logout":                           h.aclLogout,
		"POST /v1/acl/oidc/auth-url":                    h.oidcAuthURL,
		"POST /v1/acl/oidc/callback":                    h.oidcCallback,
		"PUT /v1/acl/token":                             h.createToken,
		"GET /v1/acl/token/self":                        h.selfToken,
		"GET /v1/acl/token/{id}":                        h.readToken,
		"PUT /v1/acl/token/{id}":                        h.updateToken,
		"DELETE /v1/acl/token/{id}":                     h.deleteToken,
		"PUT /v1/acl/token/{id}/clone":                  h.cloneToken,
		"GET /v1/acl/tokens":                            h.listTokens,
		"PUT /v1/acl/policy":                            h.createPolicy,
		"GET /v1/acl/policy/{id}":                       h.readPolicy,
		"PUT /v1/acl/policy/{id}":                       h.updatePolicy,
		"DELETE /v1/acl/policy/{id}":                    h.deletePolicy,
		"GET /v1/acl/policy/name/{id}":                  h.readPolicyByName,
		"GET /v1/acl/policies":                          h.listPolicies,
		"PUT /v1/acl/role":                              h.createRole,
		"GET /v1/acl/role/{id}":                         h.readRole,
		"PUT /v1/acl/role/{id}":                         h.updateRole,
		"DELETE /v1/acl/role/{id}":                      h.deleteRole,
		"GET /v1/acl/role/name/{id}":                    h.readRoleByName,
		"GET /v1/acl/roles":                             h.listRoles,
		"PUT /v1/acl/binding-rule":                      h.createRule,
		"GET /v1/acl/binding-rule/{id}":                 h.readRule,
		"PUT /v1/acl/binding-rule/{id}":                 h.updateRule,
		"DELETE /v1/acl/binding-rule/{id}":              h.deleteRule,
		"GET /v1/acl/binding-rules":                     h.listRules,
		"PUT /v1/acl/auth-method":                       h.createMethod,
		"GET /v1/acl/auth-method/{id}":                  h.readMethod,
		"PUT /v1/acl/auth-method/{id}":                  h.updateMethod,
		"DELETE /v1/acl/auth-method/{id}":               h.deleteMethod,
		"GET /v1/acl/auth-methods":                      h.listMethods,
		"GET /v1/acl/templated-policies":                h.listTemplates,
		"GET /v1/acl/templated-policy/name/{id...}":     h.readTemplate,
		"POST /v1/acl/templated-policy/preview/{id...}": h.previewTemplate,
		"GET /v1/weft/acl/resolve":                      h.resolveToken,
		"GET /v1/weft/acl/changed":                      h.aclChanged,
	}
	if h.c.ACL == nil {
		for name := range m {
			m[name] = func(http.ResponseWriter, *api.Request) error {
				return &api.StatusError{Code: http.StatusUnauthorized, Text: "ACL support disabled"}
			}
		}
	}
	return m
}

// aclFault is a refusal with 500 and Consul's text.
func aclFault(format string, args ...any) error { return refused(fmt.Errorf(format, args...)) }

func aclMissing(what string) error {
	return &api.StatusError{Code: http.StatusNotFound, Text: "Requested " + what + " does not exist: ACL not found", Err: catalog.ErrNotFound}
}

func nothingToDelete(what string) error {
	return &api.StatusError{Code: http.StatusNotFound, Text: "Cannot find " + what + " to delete", Err: catalog.ErrNotFound}
}

func badBody(what string, err error) error {
	return &api.StatusError{Code: http.StatusBadRequest, Text: what + " decoding failed: " + err.Error(), Err: err}
}

// readACL decodes a body; its faults are Consul's.
func readACL(r *api.Request, what string, dst any) error {
	err := api.ReadJSON(r, dst)
	var s *api.StatusError
	if errors.As(err, &s) && s.Err != nil {
		return badBody(what, s.Err)
	}
	if err != nil {
		return err
	}
	if ns := reflect.ValueOf(dst).Elem().FieldByName("Namespace"); ns.IsValid() && ns.String() != "" && ns.String() != catalog.DefaultNamespace {
		return aclFault("Invalid %s: Namespace %q: what the ACL system holds is of no namespace; rules for one stand in a policy's block namespace %q { … }",
			what, ns.String(), ns.String())
	}
	return nil
}

// bodyID checks the ID in a body against the path's: a new object (path "") gets its ID here, one that is there keeps its own.
func bodyID(kind, noun, path, body string) error {
	switch {
	case path == "" && body != "":
		return &api.StatusError{Code: http.StatusBadRequest, Text: "Cannot specify the " + kind + " ID when creating a new " + noun}
	case path != "" && body != "" && !strings.EqualFold(body, path):
		return &api.StatusError{Code: http.StatusBadRequest, Text: kind + " ID in URL and payload do not match"}
	}
	return nil
}

// writeACL orders a write of one object and reads it back as it is now.
func (h *handlers) writeACL(ctx context.Context, create bool, o catalog.ACLObject) (catalog.ACLObject, error) {
	if _, err := h.c.Cluster.Propose(ctx, catalog.SetACL{Create: create, Objects: []catalog.ACLObject{o}}); err != nil {
		return o, err
	}
	return h.c.Store.Read().ACL(o.Kind(), o.ID())
}

func (h *handlers) deleteACL(w http.ResponseWriter, r *api.Request, kind, id string) error {
	if _, err := h.c.Cluster.Propose(r.Context(), catalog.DeleteACL{Kind: kind, IDs: []string{id}}); err != nil {
		return err
	}
	return api.WriteJSON(w, true)
}

// hashOf is a digest of what is said, so that a client sees whether it changed.
func hashOf(v any) []byte {
	data, err := json.Marshal(v)
	if err != nil {
		return nil // these structs always encode
	}
	sum := sha256.Sum256(data)
	return sum[:]
}

// grants are the parts that tokens and roles have in common.
type grants struct {
	Policies          []catalog.ACLLink
	ServiceIdentities []catalog.ACLServiceIdentity
	NodeIdentities    []catalog.ACLNodeIdentity
	TemplatedPolicies []catalog.ACLTemplatedPolicy
}

// complete resolves links by name and validates the identities.
func (g *grants) complete(t *catalog.Txn) error {
	var err error
	if g.Policies, err = completeLinks(t, catalog.ACLPolicies, g.Policies); err != nil {
		return err
	}
	for i, s := range g.ServiceIdentities {
		if !acl.ValidIdentity(s.ServiceName) {
			return aclFault("Service identity %q has an invalid name. Only lowercase alphanumeric characters, '-' and '_' are allowed", s.ServiceName)
		}
		g.ServiceIdentities[i].Datacenters = slices.Compact(slices.Sorted(slices.Values(s.Datacenters)))
	}
	for _, n := range g.NodeIdentities {
		switch {
		case !acl.ValidIdentity(n.NodeName):
			return aclFault("Node identity %q has an invalid name. Only lowercase alphanumeric characters, '-' and '_' are allowed", n.NodeName)
		case n.Datacenter == "":
			return aclFault("Node identity %q is missing the datacenter field", n.NodeName)
		}
	}
	for _, p := range g.TemplatedPolicies {
		tpl, ok := acl.TemplateNamed(p.TemplateName)
		if !ok {
			return aclFault("no such ACL templated policy with Name %q", p.TemplateName)
		}
		value := ""
		if p.TemplateVariables != nil {
			value = p.TemplateVariables.Name
		}
		if _, err := tpl.Render(value); err != nil {
			return refused(err)
		}
	}
	return nil
}

func completeLinks(t *catalog.Txn, kind string, links []catalog.ACLLink) ([]catalog.ACLLink, error) {
	var out []catalog.ACLLink
	for _, l := range links {
		by, o, err := "id", catalog.ACLObject{}, error(nil)
		value := l.ID
		if l.ID != "" {
			o, err = t.ACL(kind, l.ID)
		} else {
			by, value = "name", l.Name
			o, err = t.ACLUnique(kind, l.Name)
		}
		if err != nil {
			return nil, err
		}
		if o.Kind() == "" {
			if by == "id" {
				return nil, aclFault("cannot find ACL %s with ID %q", kind, value)
			}
			return nil, aclFault("No such ACL %s with name %q", kind, value)
		}
		if !catalog.Grants(out, o.ID()) {
			out = append(out, catalog.ACLLink{ID: o.ID()})
		}
	}
	return out, nil
}

// shownLinks give links their names, and leave out those that lead nowhere.
func shownLinks(t *catalog.Txn, kind string, links []catalog.ACLLink) []catalog.ACLLink {
	var out []catalog.ACLLink
	for _, l := range links {
		o, err := t.ACL(kind, l.ID)
		switch {
		case err != nil:
		case o.Policy != nil:
			out = append(out, catalog.ACLLink{ID: l.ID, Name: o.Policy.Name})
		case o.Role != nil:
			out = append(out, catalog.ACLLink{ID: l.ID, Name: o.Role.Name})
		}
	}
	return out
}

// aclBootstrap makes the first management token. It needs no permission: it works once, and again only with a file on the leader.
func (h *handlers) aclBootstrap(w http.ResponseWriter, r *api.Request) error {
	var body struct{ BootstrapSecret string }
	if r.ContentLength != 0 {
		if err := readACL(r, "Bootstrap", &body); err != nil {
			return err
		}
	}
	defer h.c.Cluster.LockEntries()()
	t := h.c.Store.Read()
	done := t.ACLBootstrapped()
	reset := uint64(0)
	if done != 0 {
		if reset = h.c.ACL.ResetIndex(); reset == 0 {
			return fmt.Errorf("%w: ACL bootstrap no longer allowed (reset index: %d)", api.ErrDenied, done)
		}
		if reset != done {
			return aclFault("Invalid bootstrap reset index (specified %d, reset index: %d)", reset, done)
		}
	}
	secret := body.BootstrapSecret
	if secret != "" && !validUUID(secret) {
		return aclFault("Provided secret must be a UUID")
	}
	token, secret, err := h.newToken("Bootstrap Token (Global Management)", secret)
	if err != nil {
		return err
	}
	token.Policies = []catalog.ACLLink{{ID: ManagementPolicyID}}
	token.Hash = hashOf(token.Policies)
	if _, err := h.c.Cluster.Propose(r.Context(), catalog.BootstrapACL{Token: *token, Reset: reset}); err != nil {
		switch {
		case errors.Is(err, catalog.ErrExists):
			return aclFault("Provided token cannot be used because a token with that secret already exists.")
		case errors.Is(err, catalog.ErrConflict):
			return fmt.Errorf("%w: %w", api.ErrDenied, err)
		}
		return err
	}
	return h.showNewToken(w, token.AccessorID, secret, true)
}

// newToken has a fresh accessor, and a fresh secret unless one is given.
func (h *handlers) newToken(description, secret string) (*catalog.ACLToken, string, error) {
	accessor, err := uuid.New(h.c.Rand)
	if err == nil && secret == "" {
		secret, err = uuid.New(h.c.Rand)
	}
	return &catalog.ACLToken{
		AccessorID: accessor, SecretHash: tokens.Hash(secret), Description: description, CreateTime: h.c.Now().UTC().Round(time.Microsecond),
	}, secret, err
}

// The IDs of the policies that are always there.
const (
	ManagementPolicyID = acl.ManagementPolicyID
	ReadOnlyPolicyID   = acl.ReadOnlyPolicyID
	reservedPrefix     = "00000000-0000-0000-0000-0000000000"
)

func validUUID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i, c := range strings.ToLower(s) {
		dash := i == 8 || i == 13 || i == 18 || i == 23
		if dash != (c == '-') || !dash && !strings.ContainsRune("0123456789abcdef", c) {
			return false
		}
	}
	return true
}

func (h *handlers) aclReplication(w http.ResponseWriter, _ *api.Request) error {
	return api.WriteJSON(w, struct {
		Enabled, Running                                           bool
		SourceDatacenter, ReplicationType                          string
		ReplicatedIndex, ReplicatedRoleIndex, ReplicatedTokenIndex uint64
		LastSuccess, LastError                                     time.Time
		LastErrorMessage                                           string
	}{})
}

// aclChanged says when an ACL object that was there was last changed or removed: what agents know of tokens was right until then.
func (h *handlers) aclChanged(w http.ResponseWriter, r *api.Request) error {
	return api.Answer(w, r, h.c.Store, func(t *catalog.Txn) (map[string]uint64, error) {
		index, err := t.ACLRevision()
		return map[string]uint64{"Index": index}, err
	})
}

// resolveToken tells an agent what its caller's token grants: the rules' texts, so that the agent decides as a server would.
func (h *handlers) resolveToken(w http.ResponseWriter, r *api.Request) error {
	txn := h.c.Store.Read()
	w.Header().Set("X-Consul-Index", strconv.FormatUint(txn.ACLChanged(), 10))
	t, err := h.c.ACL.Tokens.Token(txn, api.TokenOf(r.Request))
	if err != nil {
		return err
	}
	out := struct {
		AccessorID     string
		Rules          []string
		ExpirationTime *time.Time `json:",omitempty"`
	}{AccessorID: acl.AnonymousAccessor, Rules: []string{}}
	if t != nil {
		x, err := tokens.Expand(txn, t, txn.Datacenter())
		if err != nil {
			return err
		}
		out.AccessorID, out.Rules, out.ExpirationTime = t.AccessorID, x.Texts(), t.ExpirationTime
	}
	return api.WriteJSON(w, out)
}
