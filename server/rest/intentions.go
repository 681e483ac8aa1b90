// SPDX-License-Identifier: Apache-2.0

package rest

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/connect/identity"
	"github.com/weftmesh/weft/connect/intention"
	"github.com/weftmesh/weft/internal/api"
	"github.com/weftmesh/weft/internal/uuid"
)

// intentionView is one rule in the form of the intentions API.
type intentionView struct {
	ID              string `json:",omitempty"`
	Description     string `json:",omitempty"`
	SourceNS        string
	SourceName      string
	SourcePeer      string `json:",omitempty"`
	DestinationNS   string
	DestinationName string
	SourceType      string
	Action          string                        `json:",omitempty"`
	Permissions     []catalog.IntentionPermission `json:",omitempty"`
	Meta            map[string]string             `json:",omitempty"`
	Precedence      int
	CreatedAt       *time.Time `json:",omitempty"`
	UpdatedAt       *time.Time `json:",omitempty"`
	CreateIndex     uint64
	ModifyIndex     uint64
}

func viewIntention(e *catalog.ServiceIntentions, s *catalog.SourceIntention) intentionView {
	v := intentionView{
		ID: s.LegacyID, Description: s.Description, SourceNS: s.Namespace, SourceName: s.Name, SourcePeer: s.Peer, DestinationNS: e.Namespace,
		DestinationName: e.Name, SourceType: s.Type, Action: s.Action, Permissions: s.Permissions, Meta: s.LegacyMeta, Precedence: s.Precedence,
		CreatedAt: s.LegacyCreateTime, UpdatedAt: s.LegacyUpdateTime, CreateIndex: e.CreateIndex, ModifyIndex: e.ModifyIndex,
	}
	if v.SourceNS == "" {
		v.SourceNS = catalog.DefaultNamespace
	}
	if v.Meta == nil {
		v.Meta = e.Meta
	}
	return v
}

// all lists every rule for destinations of a namespace ("*" for all), in the order in which they are looked at: most exact first.
func all(t *catalog.Txn, s catalog.Scope) ([]intentionView, error) {
	var entries []catalog.Entry
	var err error
	if s.Namespace == catalog.Wildcard {
		entries, err = everyEntry(t, catalog.KindServiceIntentions, s)
	} else {
		entries, err = t.Entries(catalog.KindServiceIntentions, s)
	}
	if err != nil {
		return nil, err
	}
	return rulesIn(entries), nil
}

func rulesIn(entries []catalog.Entry) []intentionView {
	out := []intentionView{}
	for _, e := range entries {
		in, ok := e.(*catalog.ServiceIntentions)
		if !ok {
			continue
		}
		for i := range in.Sources {
			out = append(out, viewIntention(in, &in.Sources[i]))
		}
	}
	slices.SortStableFunc(out, func(a, b intentionView) int {
		if a.Precedence != b.Precedence {
			return b.Precedence - a.Precedence
		}
		return strings.Compare(a.DestinationName+"\x00"+a.SourceName, b.DestinationName+"\x00"+b.SourceName)
	})
	return out
}

// seesRule says whether a rule may be shown: to who may read either end, where that is.
func seesRule(r *api.Request, v intentionView) bool {
	return r.VisibleIn(v.SourceNS, v.SourceName) || r.VisibleIn(v.DestinationNS, v.DestinationName)
}

func (h *handlers) intentions(w http.ResponseWriter, r *api.Request) error {
	return api.Answer(w, r, h.c.Store, func(t *catalog.Txn) ([]intentionView, error) {
		rules, err := all(t, r.Options.Scope)
		if err != nil {
			return nil, err
		}
		rules = slices.DeleteFunc(rules, func(v intentionView) bool { return !seesRule(r, v) })
		return api.FilterList(r.Options.Filter, rules)
	})
}

// intentionBody is a rule as clients write it.
type intentionBody struct {
	ID                   string
	Description          string
	SourceNS             string
	SourceName           string
	SourcePeer           string
	SourcePartition      string
	DestinationNS        string
	DestinationName      string
	DestinationPartition string
	SourceType           string
	Action               string
	Permissions          []catalog.IntentionPermission
	Meta                 map[string]string
	Precedence           int
	CreatedAt            time.Time
	UpdatedAt            time.Time
	CreateIndex          uint64
	ModifyIndex          uint64
	Hash                 string
}

// name splits "namespace/name".
func name(s catalog.Scope, given string) catalog.Key {
	if ns, n, ok := strings.Cut(given, "/"); ok {
		s.Namespace = ns
		return s.Name(n)
	}
	return s.Name(given)
}

// pair reads the source and destination of the exact endpoints.
func pair(r *api.Request) (src, dst catalog.Key, err error) {
	q := r.URL.Query()
	for _, p := range []string{"source", "destination"} {
		if q.Get(p) == "" {
			return src, dst, refused(fmt.Errorf("required query parameter '%s' not set", p))
		}
	}
	src, dst = name(r.Options.Scope, q.Get("source")), name(r.Options.Scope, q.Get("destination"))
	return src, dst, knownNames(src, dst)
}

// knownNames refuses names of namespaces that can't be.
func knownNames(keys ...catalog.Key) error {
	for _, k := range keys {
		switch {
		case k.Namespace == catalog.Wildcard && k.Name != catalog.Wildcard:
			return badRequest("Invalid namespace: %s/%s: all namespaces can only be named with all services, as */*", k.Namespace, k.Name)
		case k.Namespace != catalog.Wildcard && !catalog.ValidNamespace(k.Namespace):
			return badRequest("Invalid namespace %q: want lower-case letters, digits and - within, at most 63", k.Namespace)
		}
	}
	return nil
}

// ends are the source and destination of the body; fields for their namespaces stand before those in names, and all before the request's.
func (b *intentionBody) ends(r *api.Request) (src, dst catalog.Key, err error) {
	src, dst = name(r.Options.Scope, b.SourceName), name(r.Options.Scope, b.DestinationName)
	if b.SourceNS != "" {
		src.Namespace = b.SourceNS
	}
	if b.DestinationNS != "" {
		dst.Namespace = b.DestinationNS
	}
	return src, dst, knownNames(src, dst)
}

// rule is the body as a rule for a destination.
func (b *intentionBody) rule(src catalog.Key) catalog.SourceIntention {
	return catalog.SourceIntention{
		Name: src.Name, Namespace: src.Namespace, Peer: b.SourcePeer, Action: b.Action, Permissions: b.Permissions, Type: "consul",
		Description: b.Description,
	}
}

// set writes one rule, and checks it against the destination's protocol.
func (h *handlers) set(w http.ResponseWriter, r *api.Request, dst catalog.Key, rule catalog.SourceIntention, mode string) error {
	if rule.Action == "" && len(rule.Permissions) == 0 {
		rule.Action = catalog.ActionAllow
	}
	defer h.c.Cluster.LockEntries()()
	probe := &catalog.ServiceIntentions{EntryHead: catalog.EntryHead{Scope: dst.Scope, Name: dst.Name}, Sources: []catalog.SourceIntention{rule}}
	probe.Normalize()
	if err := errors.Join(probe.Validate(), probe.UnmatchedPath()); err != nil {
		return badRequest("%s", err)
	}
	t := h.c.Store.Read()
	if err := checkGraph(t, t.With(probe), probe); err != nil {
		return refused(err)
	}
	_, err := h.propose(w, r, catalog.SetIntention{Destination: dst, Source: rule, Mode: mode})
	if errors.Is(err, catalog.ErrExists) {
		return refused(err)
	}
	return err
}

// createIntention is the API from before config entries: it answers with an ID.
func (h *handlers) createIntention(w http.ResponseWriter, r *api.Request) error {
	var b intentionBody
	if err := api.ReadJSON(r, &b); err != nil {
		return err
	}
	if b.SourceName == "" || b.DestinationName == "" {
		return badRequest("SourceName and DestinationName must be set (\"*\" for all)")
	}
	src, dst, err := b.ends(r)
	if err != nil {
		return err
	}
	if err := authorizeDestination(r, h.c.Store.Read(), dst); err != nil {
		return err
	}
	rule := b.rule(src)
	id, err := uuid.New(h.c.Rand)
	if err != nil {
		return err
	}
	rule.LegacyID, rule.LegacyMeta, rule.LegacyCreateTime, rule.LegacyUpdateTime = id, b.Meta, h.now(), h.now()
	if rule.LegacyMeta == nil {
		rule.LegacyMeta = map[string]string{}
	}
	if err := h.set(w, r, dst, rule, catalog.IntentionCreate); err != nil {
		return err
	}
	return api.WriteJSON(w, map[string]string{"ID": id})
}

func (h *handlers) upsertIntention(w http.ResponseWriter, r *api.Request) error {
	src, dst, err := pair(r)
	if err != nil {
		return err
	}
	if err := authorizeDestination(r, h.c.Store.Read(), dst); err != nil {
		return err
	}
	var b intentionBody
	if err := api.ReadJSON(r, &b); err != nil {
		return err
	}
	if err := h.set(w, r, dst, b.rule(src), catalog.IntentionUpsert); err != nil {
		return err
	}
	return api.WriteJSON(w, true)
}

func (h *handlers) deleteExact(w http.ResponseWriter, r *api.Request) error {
	src, dst, err := pair(r)
	if err != nil {
		return err
	}
	if err := authorizeDestination(r, h.c.Store.Read(), dst); err != nil {
		return err
	}
	if _, err := h.propose(w, r, catalog.DeleteIntention{Destination: dst, Source: src}); err != nil {
		return err
	}
	return api.WriteJSON(w, true)
}

// find looks for one rule.
func find(t *catalog.Txn, s catalog.Scope, is func(*intentionView) bool) (*intentionView, error) {
	rules, err := all(t, s)
	if err != nil {
		return nil, err
	}
	for i := range rules {
		if is(&rules[i]) {
			return &rules[i], nil
		}
	}
	return nil, nil
}

// one answers with a rule, or 404; the caller must be allowed to read either end.
func (h *handlers) one(w http.ResponseWriter, r *api.Request, s catalog.Scope, is func(*intentionView) bool) error {
	return api.Answer(w, r, h.c.Store, func(t *catalog.Txn) (*intentionView, error) {
		v, err := find(t, s, is)
		if err != nil {
			return nil, err
		}
		if v == nil {
			return nil, &api.StatusError{Code: http.StatusNotFound, Text: "Intention not found", Err: catalog.ErrNotFound}
		}
		if denied := r.AuthorizeIn(v.SourceNS, v.SourceName); denied != nil && r.AuthorizeIn(v.DestinationNS, v.DestinationName) != nil {
			return nil, denied
		}
		return v, nil
	})
}

func (h *handlers) exactIntention(w http.ResponseWriter, r *api.Request) error {
	src, dst, err := pair(r)
	if err != nil {
		return err
	}
	return h.one(w, r, dst.Scope, func(v *intentionView) bool {
		return v.SourceName == src.Name && v.SourceNS == src.Namespace && v.DestinationName == dst.Name && v.DestinationNS == dst.Namespace
	})
}

func (h *handlers) intentionByID(w http.ResponseWriter, r *api.Request) error {
	return h.one(w, r, r.Options.Scope, func(v *intentionView) bool { return v.ID != "" && v.ID == r.PathValue("id") })
}

func (h *handlers) byID(r *api.Request) (*intentionView, error) {
	v, err := find(h.c.Store.Read(), r.Options.Scope, func(v *intentionView) bool { return v.ID != "" && v.ID == r.PathValue("id") })
	if err == nil && v == nil {
		err = &api.StatusError{Code: http.StatusNotFound, Text: "Intention not found", Err: catalog.ErrNotFound}
	}
	if err != nil {
		return nil, err
	}
	return v, r.Authorize(v.DestinationName)
}

func (h *handlers) updateIntention(w http.ResponseWriter, r *api.Request) error {
	v, err := h.byID(r)
	if err != nil {
		return err
	}
	var b intentionBody
	if err := api.ReadJSON(r, &b); err != nil {
		return err
	}
	src, _, err := b.ends(r)
	if err != nil {
		return err
	}
	rule := b.rule(src)
	rule.LegacyID, rule.LegacyMeta, rule.LegacyCreateTime, rule.LegacyUpdateTime = v.ID, b.Meta, v.CreatedAt, h.now()
	if rule.LegacyMeta == nil {
		rule.LegacyMeta = map[string]string{}
	}
	if err := h.set(w, r, name(r.Options.Scope, v.DestinationName), rule, catalog.IntentionUpdate); err != nil {
		return err
	}
	return api.WriteJSON(w, map[string]string{"ID": v.ID})
}

func (h *handlers) deleteByID(w http.ResponseWriter, r *api.Request) error {
	v, err := h.byID(r)
	if err != nil {
		return err
	}
	cmd := catalog.DeleteIntention{Destination: name(r.Options.Scope, v.DestinationName), LegacyID: v.ID}
	if _, err := h.propose(w, r, cmd); err != nil {
		return err
	}
	return api.WriteJSON(w, true)
}

// matchIntentions lists the rules that concern names, in the order in which they are evaluated.
func (h *handlers) matchIntentions(w http.ResponseWriter, r *api.Request) error {
	q := r.URL.Query()
	by, names := q.Get("by"), q["name"]
	if by != "source" && by != "destination" {
		return refused(errors.New("'by' parameter must be one of 'source' or 'destination'"))
	}
	if len(names) == 0 {
		return refused(errors.New("required query parameter 'name' not set"))
	}
	for _, given := range names {
		n := name(r.Options.Scope, given)
		if err := knownNames(n); err != nil {
			return err
		}
		if err := r.AuthorizeIn(n.Namespace, n.Name); err != nil {
			return err
		}
	}
	return api.Answer(w, r, h.c.Store, func(t *catalog.Txn) (map[string][]intentionView, error) {
		rules, err := matching(t, r.Options.Scope, by, names)
		if err != nil {
			return nil, err
		}
		out := map[string][]intentionView{}
		for _, given := range names {
			n := name(r.Options.Scope, given)
			out[given] = slices.DeleteFunc(slices.Clone(rules), func(v intentionView) bool {
				space, other := v.DestinationNS, v.DestinationName
				if by == "source" {
					space, other = v.SourceNS, v.SourceName
				}
				return space != n.Namespace && space != catalog.Wildcard || other != n.Name && other != catalog.Wildcard
			})
			if by == "source" { // whose destinations may be of namespaces that are no concern of the caller's
				out[given] = slices.DeleteFunc(out[given], func(v intentionView) bool {
					return v.DestinationNS != n.Namespace && v.DestinationNS != catalog.Wildcard && !r.SeesIn(v.DestinationNS, "intentions", v.DestinationName)
				})
			}
		}
		return out, nil
	})
}

// matching are the rules among which those are that concern names: those of the request's namespace and for all, unless names are of others, or
// sources, whose destinations may be anywhere.
func matching(t *catalog.Txn, s catalog.Scope, by string, names []string) ([]intentionView, error) {
	if by == "source" || slices.ContainsFunc(names, func(given string) bool { return name(s, given).Namespace != s.Namespace }) {
		s.Namespace = catalog.Wildcard
		return all(t, s)
	}
	entries, err := t.Entries(catalog.KindServiceIntentions, s)
	if err != nil {
		return nil, err
	}
	s.Namespace = catalog.Wildcard
	every, err := t.Entry(catalog.KindServiceIntentions, s.Name(catalog.Wildcard))
	if every != nil {
		entries = append(entries, every)
	}
	return rulesIn(entries), err
}

func (h *handlers) checkIntention(w http.ResponseWriter, r *api.Request) error {
	src, dst, err := pair(r)
	if err != nil {
		return err
	}
	if err := authorizeDestination(r, h.c.Store.Read(), dst); err != nil {
		return err
	}
	return api.Answer(w, r, h.c.Store, func(t *catalog.Txn) (map[string]bool, error) {
		d, err := intention.Decide(t, identity.Service{
			Partition: src.Partition, Namespace: src.Namespace, Datacenter: src.Datacenter, Service: src.Name,
		}, dst, h.c.DefaultAllow)
		if err != nil {
			return nil, err
		}
		return map[string]bool{"Allowed": d.Allowed}, nil
	})
}
