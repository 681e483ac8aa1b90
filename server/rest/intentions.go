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

// all lists every rule, in the order in which they are looked at: most exact first.
func all(t *catalog.Txn, s catalog.Scope) ([]intentionView, error) {
	entries, err := t.Entries(catalog.KindServiceIntentions, s)
	if err != nil {
		return nil, err
	}
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
	return out, nil
}

func (h *handlers) intentions(w http.ResponseWriter, r *api.Request) error {
	return api.Answer(w, r, h.c.Store, func(t *catalog.Txn) ([]intentionView, error) {
		rules, err := all(t, r.Options.Scope)
		if err != nil {
			return nil, err
		}
		rules = slices.DeleteFunc(rules, func(v intentionView) bool { return !r.Visible(v.SourceName) && !r.Visible(v.DestinationName) })
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
	return name(r.Options.Scope, q.Get("source")), name(r.Options.Scope, q.Get("destination")), nil
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
	dst := name(r.Options.Scope, b.DestinationName)
	if err := r.Authorize(dst.Name); err != nil {
		return err
	}
	rule := b.rule(name(r.Options.Scope, b.SourceName))
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
	if err := r.Authorize(dst.Name); err != nil {
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
	if err := r.Authorize(dst.Name); err != nil {
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
func (h *handlers) one(w http.ResponseWriter, r *api.Request, is func(*intentionView) bool) error {
	return api.Answer(w, r, h.c.Store, func(t *catalog.Txn) (*intentionView, error) {
		v, err := find(t, r.Options.Scope, is)
		if err != nil {
			return nil, err
		}
		if v == nil {
			return nil, &api.StatusError{Code: http.StatusNotFound, Text: "Intention not found", Err: catalog.ErrNotFound}
		}
		if denied := r.Authorize(v.SourceName); denied != nil && r.Authorize(v.DestinationName) != nil {
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
	return h.one(w, r, func(v *intentionView) bool { return v.SourceName == src.Name && v.DestinationName == dst.Name })
}

func (h *handlers) intentionByID(w http.ResponseWriter, r *api.Request) error {
	return h.one(w, r, func(v *intentionView) bool { return v.ID != "" && v.ID == r.PathValue("id") })
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
	rule := b.rule(name(r.Options.Scope, b.SourceName))
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
	return api.Answer(w, r, h.c.Store, func(t *catalog.Txn) (map[string][]intentionView, error) {
		rules, err := all(t, r.Options.Scope)
		if err != nil {
			return nil, err
		}
		out := map[string][]intentionView{}
		for _, given := range names {
			n := name(r.Options.Scope, given).Name
			out[given] = slices.DeleteFunc(slices.Clone(rules), func(v intentionView) bool {
				other := v.DestinationName
				if by == "source" {
					other = v.SourceName
				}
				return other != n && other != catalog.Wildcard
			})
		}
		return out, nil
	})
}

func (h *handlers) checkIntention(w http.ResponseWriter, r *api.Request) error {
	src, dst, err := pair(r)
	if err != nil {
		return err
	}
	if err := r.Authorize(dst.Name); err != nil {
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
