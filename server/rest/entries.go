// SPDX-License-Identifier: Apache-2.0

package rest

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/connect/chain"
	"github.com/weftmesh/weft/connect/intention"
	"github.com/weftmesh/weft/internal/api"
	"github.com/weftmesh/weft/internal/decode"
)

// ineffective are top-level fields of Consul's entries that weft takes without acting on them. What would protect is not
// among them: leaving that out in silence would be less strict, so it is refused as unknown.
var ineffective = []string{"FailoverPolicy"}

// viewEntry is an entry in the API's form: its own fields with its kind; the scope's only where it isn't the default; the timeouts
// that Consul writes as strings so.
func viewEntry(e catalog.Entry) (map[string]any, error) {
	v, err := plainJSON(e)
	if err != nil {
		return nil, err
	}
	head := e.Head()
	v["Kind"], v["Hash"], v["CreateIndex"], v["ModifyIndex"] = e.EntryKind(), head.Hash, head.CreateIndex, head.ModifyIndex
	for field, def := range map[string]string{"Datacenter": head.Datacenter, "Partition": catalog.DefaultPartition, "Namespace": catalog.DefaultNamespace, "Peer": ""} {
		if v[field] == def {
			delete(v, field)
		}
	}
	switch entry := e.(type) {
	case *catalog.ServiceResolver:
		spell(v, "ConnectTimeout", entry.ConnectTimeout)
		spell(v, "RequestTimeout", entry.RequestTimeout)
	case *catalog.ServiceRouter:
		routes, _ := v["Routes"].([]any)
		for i := range entry.Routes {
			spellRoute(routes[i], &entry.Routes[i])
		}
	}
	return v, nil
}

func spell(v map[string]any, field string, d time.Duration) {
	if d != 0 {
		v[field] = d.String()
	}
}

// readEntryBody decodes an entry. Warnings name what was taken without effect.
func readEntryBody(r *api.Request) (catalog.Entry, []string, error) {
	doc, err := api.ReadDocument(r)
	if err != nil {
		return nil, nil, err
	}
	kind := doc.Root.Field("Kind")
	if kind == nil || kind.Kind != decode.String {
		return nil, nil, badRequest("Request decoding failed: Payload does not contain a Kind key at the top level")
	}
	entry, err := catalog.NewEntry(kind.Text)
	if err != nil {
		return nil, nil, badRequest("Request decoding failed: invalid config entry kind: %s", kind.Text)
	}
	doc.Root.Remove("Kind")
	var warnings []string
	if catalog.Inert(kind.Text) {
		warnings = append(warnings, kind.Text+" is kept and served, but has no effect yet")
	}
	for _, field := range ineffective {
		if _, ok := doc.Root.Remove(field); ok {
			warnings = append(warnings, fmt.Sprintf("%s of %s is known but has no effect yet", field, kind.Text))
		}
	}
	if err := doc.Into(entry); err != nil {
		return nil, nil, &api.StatusError{Code: http.StatusBadRequest, Text: "Request decoding failed: " + err.Error(), Err: err}
	}
	for _, field := range catalog.IneffectiveFields(entry) {
		warnings = append(warnings, fmt.Sprintf("%s of %s is kept and served, but has no effect yet", field, kind.Text))
	}
	head := entry.Head()
	given := head.Scope
	every := given.Namespace == catalog.Wildcard && kind.Text == catalog.KindServiceIntentions
	if every {
		given.Namespace = ""
	}
	if err := r.Within(given.Namespace); err != nil {
		return nil, nil, err
	}
	head.Scope = r.Options.Scope
	if every {
		head.Namespace = catalog.Wildcard
	}
	if given.Partition != "" {
		head.Partition = given.Partition
	}
	head.Indexes, head.Hash = catalog.Indexes{}, 0
	entry.Normalize()
	if err := entry.Validate(); err != nil {
		return nil, nil, refused(err)
	}
	if rules, ok := entry.(interface{ UnmatchedPath() error }); ok {
		if err := rules.UnmatchedPath(); err != nil {
			return nil, nil, refused(err)
		}
	}
	return entry, warnings, nil
}

// refused is a rule of config entries that a write breaks: Consul answers these with 500 and the bare text.
func refused(err error) error {
	return &api.StatusError{Code: http.StatusInternalServerError, Text: err.Error(), Err: err}
}

func casOf(r *api.Request) (*uint64, error) {
	s := r.URL.Query().Get("cas")
	if s == "" {
		return nil, nil
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return nil, badRequest("Invalid cas: %q isn't a whole number", s)
	}
	return &n, nil
}

func (h *handlers) writeEntry(w http.ResponseWriter, r *api.Request) error {
	entry, warnings, err := readEntryBody(r)
	if err != nil {
		return err
	}
	cas, err := casOf(r)
	if err != nil {
		return err
	}
	before := h.c.Store.Read()
	if err := mayWriteEntry(r, before, entry.EntryKind(), entry.Head().Key()); err != nil {
		return err
	}
	defer h.c.Cluster.LockEntries()()
	before = h.c.Store.Read()
	if err := firstFault(checkClash(before, entry), checkPlain(before, entry), checkGraph(before, before.With(entry), entry)); err != nil {
		return refused(err)
	}
	result, err := h.propose(w, r, catalog.SetEntry{Entry: catalog.EntryBox{Entry: entry}, CAS: cas})
	if err != nil {
		return err
	}
	for _, warning := range slices.Concat(warnings, h.warnLacks(entry), unknownDatacenters(entry, h.c.Cluster.Datacenters())) {
		w.Header().Add("X-Weft-Warning", warning)
	}
	return api.WriteJSON(w, result.Value)
}

func (h *handlers) deleteEntry(w http.ResponseWriter, r *api.Request) error {
	old, err := catalog.NewEntry(r.PathValue("kind"))
	if err != nil {
		return badRequest("invalid config entry kind: %s", r.PathValue("kind"))
	}
	cas, err := casOf(r)
	if err != nil {
		return err
	}
	key := r.Options.Scope.Name(r.PathValue("name"))
	head := old.Head()
	head.Scope, head.Name = key.Scope, key.Name
	if err := atAll(r, old.EntryKind(), key.Name); err != nil {
		return err
	}
	before := h.c.Store.Read()
	if err := mayWriteEntry(r, before, old.EntryKind(), key); err != nil {
		return err
	}
	defer h.c.Cluster.LockEntries()()
	before = h.c.Store.Read()
	if err := firstFault(checkUnused(before, old), checkGraph(before, before.Without(old.EntryKind(), key), old)); err != nil {
		return refused(err)
	}
	result, err := h.propose(w, r, catalog.DeleteEntry{Kind: old.EntryKind(), Key: key, CAS: cas})
	if err != nil {
		return err
	}
	if cas == nil {
		return api.WriteJSON(w, struct{}{})
	}
	return api.WriteJSON(w, result.Value)
}

// checkGraph refuses a change that breaks a chain, or an intention, that stood before it.
func checkGraph(before, after *catalog.Txn, changed catalog.Entry) error {
	for _, key := range concerned(after, changed) {
		_, err := chain.Compile(after, key, chain.Overrides{})
		if err == nil {
			err = firstFault(checkRules(after, key), checkPermissions(after, key), checkAuthorizer(after, key))
		}
		if err == nil {
			continue
		}
		if _, was := chain.Compile(before, key, chain.Overrides{}); was == nil && firstFault(checkRules(before, key), checkPermissions(before, key), checkAuthorizer(before, key)) == nil {
			return err
		}
	}
	if kind := changed.EntryKind(); kind != catalog.KindProxyDefaults && kind != catalog.KindServiceDefaults {
		return nil
	}
	any := changed.Head().Scope.Name(catalog.Wildcard) // a service that nothing was written of
	if err := checkAuthorizer(after, any); err != nil && checkAuthorizer(before, any) == nil {
		return err
	}
	return nil
}

// checkClash refuses two gateways of one name.
func checkClash(t *catalog.Txn, entry catalog.Entry) error {
	kinds := []string{catalog.KindIngressEntry, catalog.KindTerminatingEntry, catalog.KindAPIGatewayEntry}
	if !slices.Contains(kinds, entry.EntryKind()) {
		return nil
	}
	for _, kind := range kinds {
		other, err := t.Entry(kind, entry.Head().Key())
		if err != nil {
			return err
		}
		if other != nil && kind != entry.EntryKind() {
			return fmt.Errorf("cannot create a %q config entry with name %q, a %q config entry with that name already exists",
				entry.EntryKind(), entry.Head().Name, kind)
		}
	}
	return nil
}

// checkPlain refuses plain text where the mesh doesn't allow it.
func checkPlain(t *catalog.Txn, entry catalog.Entry) error {
	field := catalog.TakesPlain(entry)
	if field == "" {
		return nil
	}
	mesh, err := catalog.EntryAs[*catalog.Mesh](t, catalog.KindMesh, entry.Head().Scope.Global().Name(catalog.MeshName))
	if err == nil && (mesh == nil || !mesh.AllowEnablingPermissiveMutualTLS) {
		err = fmt.Errorf("%s %q: %s takes plain text, which the mesh doesn't allow: set AllowEnablingPermissiveMutualTLS = true in the mesh entry first",
			entry.EntryKind(), entry.Head().Name, field)
	}
	return err
}

func firstFault(faults ...error) error {
	for _, err := range faults {
		if err != nil {
			return err
		}
	}
	return nil
}

// concerned are the services whose chain or intentions a change of this entry can alter.
func concerned(t *catalog.Txn, changed catalog.Entry) []catalog.Key {
	head := changed.Head()
	switch changed.EntryKind() {
	case catalog.KindServiceIntentions:
		return []catalog.Key{head.Key()}
	case catalog.KindMesh:
		return nil
	case catalog.KindIdentitySet, catalog.KindMatchSet:
		var keys []catalog.Key
		users, err := t.SetUsers(changed.EntryKind(), head.Key())
		if err != nil {
			return nil // a server covers everything
		}
		for _, e := range users {
			keys = append(keys, e.Head().Key())
		}
		return keys
	}
	if catalog.Inert(changed.EntryKind()) {
		return nil
	}
	keys := map[catalog.Key]bool{}
	entries, err := t.AllEntries()
	if err != nil {
		return nil // a server covers everything
	}
	for _, e := range entries {
		switch e.EntryKind() {
		case catalog.KindServiceRouter, catalog.KindServiceSplitter, catalog.KindServiceResolver, catalog.KindServiceDefaults, catalog.KindServiceIntentions:
			if key := e.Head().Key(); key.Name != catalog.Wildcard && key.Scope.Global() == head.Scope.Global() {
				keys[key] = true
			}
		}
	}
	if changed.EntryKind() != catalog.KindProxyDefaults {
		keys[head.Key()] = true
	}
	out := make([]catalog.Key, 0, len(keys))
	for k := range keys {
		out = append(out, k)
	}
	slices.SortFunc(out, func(a, b catalog.Key) int {
		return slices.Compare([]string{a.Name, a.Namespace}, []string{b.Name, b.Namespace})
	})
	return out
}

// checkPermissions refuses permissions on requests for a service whose requests nobody sees.
func checkPermissions(t *catalog.Txn, key catalog.Key) error {
	in, err := catalog.EntryAs[*catalog.ServiceIntentions](t, catalog.KindServiceIntentions, key)
	if err != nil || in == nil || key.Name == catalog.Wildcard {
		return err
	}
	if in.JWT == nil && !slices.ContainsFunc(in.Sources, func(s catalog.SourceIntention) bool { return len(s.Permissions) > 0 }) {
		return nil
	}
	d, err := catalog.EntryAs[*catalog.ServiceDefaults](t, catalog.KindServiceDefaults, key)
	if err != nil {
		return err
	}
	if d != nil && d.Destination != nil {
		return fmt.Errorf("service %q is outside the mesh (service-defaults Destination): its callers' sidecars decide by service alone, so its intentions can't have Permissions or JWT", key.Name)
	}
	rules, err := intention.Match(t, key)
	if err != nil {
		return err
	}
	for _, name := range rules.Providers() {
		p, err := catalog.EntryAs[*catalog.JWTProvider](t, catalog.KindJWTProvider, key.Scope.Global().Name(name))
		switch {
		case err != nil:
			return err
		case p == nil:
			return fmt.Errorf("the intentions of %q ask for tokens of jwt-provider %q, which isn't there: write that first", key.Name, name)
		case p.JSONWebKeySet.Local != nil && p.JSONWebKeySet.Local.JWKS == "":
			return fmt.Errorf("the intentions of %q ask for tokens of jwt-provider %q: JSONWebKeySet.Local.Filename can't be used yet, JWKS and Remote can", key.Name, name)
		case p.JSONWebKeySet.Remote != nil && p.JSONWebKeySet.Remote.JWKSCluster != nil && p.JSONWebKeySet.Remote.JWKSCluster.TLSCertificates != nil:
			return fmt.Errorf("the intentions of %q ask for tokens of jwt-provider %q: JSONWebKeySet.Remote.JWKSCluster.TLSCertificates can't be used yet: "+
				"keys are fetched by the certificates that the proxies' host trusts", key.Name, name)
		}
	}
	c, err := chain.Compile(t, key, chain.Overrides{})
	if err != nil {
		return err
	}
	if !catalog.HTTPLike(c.Protocol) {
		return fmt.Errorf("service %q has protocol %q, which is incompatible with L7 intentions permissions", key.Name, c.Protocol)
	}
	return nil
}

func (h *handlers) readEntry(w http.ResponseWriter, r *api.Request) error {
	if _, err := catalog.NewEntry(r.PathValue("kind")); err != nil {
		return badRequest("invalid config entry kind: %s", r.PathValue("kind"))
	}
	return api.Answer(w, r, h.c.Store, func(t *catalog.Txn) (map[string]any, error) {
		err := atAll(r, r.PathValue("kind"), r.PathValue("name"))
		if err == nil && r.Options.Scope.Namespace == catalog.Wildcard {
			err = authorizeDestination(r, t, r.Options.Scope.Name(r.PathValue("name")))
		}
		if err != nil {
			return nil, err
		}
		e, err := t.Entry(r.PathValue("kind"), r.Options.Scope.Name(r.PathValue("name")))
		if err != nil {
			return nil, err
		}
		if e == nil {
			return nil, &api.StatusError{
				Code: http.StatusNotFound, Err: catalog.ErrNotFound,
				Text: fmt.Sprintf("Config entry not found for %q / %q", r.PathValue("kind"), r.PathValue("name")),
			}
		}
		return viewEntry(e)
	})
}

// entriesIn lists the config entries of a kind in the namespace that the request is about, or in all.
func entriesIn(t *catalog.Txn, r *api.Request, kind string) ([]catalog.Entry, error) {
	if r.Options.Scope.Namespace != catalog.Wildcard {
		return t.Entries(kind, r.Options.Scope)
	}
	return everyEntry(t, kind, r.Options.Scope)
}

// everyEntry lists the config entries of a kind in all namespaces of a scope.
func everyEntry(t *catalog.Txn, kind string, s catalog.Scope) ([]catalog.Entry, error) {
	all, err := t.AllEntries()
	return slices.DeleteFunc(all, func(e catalog.Entry) bool {
		return e.EntryKind() != kind || e.Head().Scope.Global() != s.Global()
	}), err
}

func (h *handlers) listEntries(w http.ResponseWriter, r *api.Request) error {
	if _, err := catalog.NewEntry(r.PathValue("kind")); err != nil {
		return badRequest("invalid config entry kind: %s", r.PathValue("kind"))
	}
	return api.Answer(w, r, h.c.Store, func(t *catalog.Txn) ([]map[string]any, error) {
		entries, err := entriesIn(t, r, r.PathValue("kind"))
		out := []map[string]any{}
		for _, e := range entries {
			if !r.VisibleIn(e.Head().Namespace, e.Head().Name) {
				continue
			}
			v, verr := viewEntry(e)
			err = errors.Join(err, verr)
			out = append(out, v)
		}
		if err != nil {
			return nil, err
		}
		return api.FilterList(r.Options.Filter, out)
	})
}

func (h *handlers) chain(w http.ResponseWriter, r *api.Request) error {
	var o chain.Overrides
	if r.Method == http.MethodPost {
		var b struct {
			OverrideProtocol       string
			OverrideConnectTimeout time.Duration
			OverrideMeshGateway    catalog.MeshGatewayMode
		}
		if err := api.ReadJSON(r, &b); err != nil {
			return err
		}
		if !slices.Contains([]string{"", "none", "local", "remote"}, b.OverrideMeshGateway.Mode) {
			return badRequest("Invalid OverrideMeshGateway.Mode parameter")
		}
		o = chain.Overrides{Protocol: b.OverrideProtocol, ConnectTimeout: b.OverrideConnectTimeout, MeshGateway: b.OverrideMeshGateway}
	}
	return api.Answer(w, r, h.c.Store, func(t *catalog.Txn) (map[string]any, error) {
		key := r.Options.Scope.Name(r.PathValue("name"))
		key.Datacenter = cmp.Or(r.URL.Query().Get("compile-dc"), key.Datacenter)
		c, err := chain.Compile(t, key, o)
		if err != nil {
			return nil, refused(err)
		}
		if err := seesChain(r, r.Options.Scope.Namespace, c); err != nil {
			return nil, err
		}
		virtual, err := t.VirtualIP(r.Options.Scope.Name(r.PathValue("name")))
		if err != nil {
			return nil, err
		}
		if virtual != nil {
			c.AutoVirtualIPs, c.ManualVirtualIPs = []string{virtual.Address()}, append(c.ManualVirtualIPs, virtual.Manual...)
		}
		v, err := viewChain(c)
		return map[string]any{"Chain": v}, err
	})
}

// seesChain refuses a chain that leads out of its own namespace into one where the caller may not read the service that it leads to.
func seesChain(r *api.Request, own string, c *chain.Chain) error {
	for _, t := range c.Targets {
		if t.Namespace == own || t.Peer != "" {
			continue
		}
		if err := r.In(t.Namespace).Allow(serviceRead, t.Service); err != nil {
			return err
		}
	}
	return nil
}

// viewChain is a chain with durations as Consul writes them.
func viewChain(c *chain.Chain) (map[string]any, error) {
	v, err := plainJSON(c)
	if err != nil {
		return nil, err
	}
	targets, _ := v["Targets"].(map[string]any)
	for id, t := range c.Targets {
		if target, ok := targets[id].(map[string]any); ok {
			delete(target, "ConnectTimeout")
			spell(target, "ConnectTimeout", t.ConnectTimeout)
		}
	}
	nodes, _ := v["Nodes"].(map[string]any)
	for key, n := range c.Nodes {
		node, ok := nodes[key].(map[string]any)
		if !ok {
			continue
		}
		routes, _ := node["Routes"].([]any)
		for i, r := range n.Routes {
			if route, ok := routes[i].(map[string]any); ok {
				spellRoute(route["Definition"], r.Definition)
			}
		}
	}
	return v, nil
}

// plainJSON is a value as JSON makes it.
func plainJSON(from any) (v map[string]any, err error) {
	data, err := json.Marshal(from)
	if err == nil {
		err = json.Unmarshal(data, &v)
	}
	return v, err
}

// spellRoute writes a route's timeouts as strings.
func spellRoute(view any, r *catalog.ServiceRoute) {
	route, ok := view.(map[string]any)
	if !ok || r == nil || r.Destination == nil {
		return
	}
	if d, ok := route["Destination"].(map[string]any); ok {
		spell(d, "RequestTimeout", r.Destination.RequestTimeout)
		spell(d, "IdleTimeout", r.Destination.IdleTimeout)
	}
}
