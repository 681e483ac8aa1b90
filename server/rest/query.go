// SPDX-License-Identifier: Apache-2.0

package rest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/internal/api"
	"github.com/weftmesh/weft/internal/uuid"
)

// queryView is a prepared query in the API's form, read and written.
type queryView struct {
	ID, Name, Session, Token string
	Template                 *queryTemplateView `json:",omitempty"`
	Service                  queryServiceView
	DNS                      struct{ TTL string }
	CreateIndex, ModifyIndex uint64
}

type queryTemplateView struct {
	Type, Regexp    string
	RemoveEmptyTags bool
}

type queryServiceView struct {
	Service        string
	SamenessGroup  string
	Failover       queryFailoverView
	OnlyPassing    bool
	IgnoreCheckIDs []string
	Near           string
	Tags           []string
	NodeMeta       map[string]string
	ServiceMeta    map[string]string
	Connect        bool
	Peer           string
	// IncludeAll is a field of other editions; it is taken and has no effect.
	IncludeAll bool `json:"-"`
}

type queryFailoverView struct {
	NearestN            int
	Datacenters         []string
	Targets             []catalog.QueryTarget
	SkipLocalDatacenter bool `json:"-"` // as IncludeAll
}

func viewQuery(q *catalog.PreparedQuery) queryView {
	v := queryView{
		ID: q.ID, Name: q.Name, Session: q.Session, Token: q.Token, CreateIndex: q.CreateIndex, ModifyIndex: q.ModifyIndex,
		Service: queryServiceView{
			Service: q.Service.Service, SamenessGroup: q.Service.SamenessGroup, OnlyPassing: q.Service.OnlyPassing,
			IgnoreCheckIDs: q.Service.IgnoreCheckIDs, Near: q.Service.Near, Tags: q.Service.Tags, NodeMeta: q.Service.NodeMeta,
			ServiceMeta: q.Service.ServiceMeta, Connect: q.Service.Connect, Peer: q.Service.Peer,
			Failover: queryFailoverView{
				NearestN: q.Service.Failover.NearestN, Datacenters: q.Service.Failover.Datacenters, Targets: q.Service.Failover.Targets,
			},
		},
	}
	v.DNS.TTL = q.DNS.TTL
	if q.Template.Type != "" {
		v.Template = &queryTemplateView{q.Template.Type, q.Template.Regexp, q.Template.RemoveEmptyTags}
	}
	return v
}

// record is the query to be stored, after what can be said of it alone was checked.
func (v *queryView) record() (catalog.PreparedQuery, error) {
	s := &v.Service
	q := catalog.PreparedQuery{
		ID: v.ID, Name: v.Name, Session: v.Session, Token: v.Token, DNS: catalog.QueryDNS{TTL: v.DNS.TTL},
		Service: catalog.QueryService{
			Service: s.Service, SamenessGroup: s.SamenessGroup, OnlyPassing: s.OnlyPassing, IgnoreCheckIDs: s.IgnoreCheckIDs, Near: s.Near,
			Tags: s.Tags, NodeMeta: s.NodeMeta, ServiceMeta: s.ServiceMeta, Connect: s.Connect, Peer: s.Peer,
			Failover: catalog.QueryFailover{NearestN: s.Failover.NearestN, Datacenters: s.Failover.Datacenters, Targets: s.Failover.Targets},
		},
	}
	if v.Template != nil {
		q.Template = catalog.QueryTemplate{Type: v.Template.Type, Regexp: v.Template.Regexp, RemoveEmptyTags: v.Template.RemoveEmptyTags}
	}
	switch {
	case q.Service.Service == "":
		return q, errors.New("Must provide a Service name to query") //nolint:staticcheck // Consul's text
	case q.Service.Failover.NearestN < 0:
		return q, fmt.Errorf("Bad NearestN '%d', must be >= 0", q.Service.Failover.NearestN) //nolint:staticcheck // Consul's text
	case q.Template.Type != "" && q.Template.Type != catalog.QueryPrefix:
		return q, fmt.Errorf("Bad Template.Type '%s'", q.Template.Type) //nolint:staticcheck // Consul's text
	case q.Template.Type == "" && q.Template != (catalog.QueryTemplate{}):
		return q, errors.New("Template.Type must be set where there is a Template")
	case len(q.Service.Failover.Targets) > 0 && (q.Service.Failover.NearestN > 0 || len(q.Service.Failover.Datacenters) > 0):
		return q, errors.New("Targets cannot be populated with NearestN or Datacenters") //nolint:staticcheck // Consul's text
	}
	if q.DNS.TTL != "" {
		ttl, err := time.ParseDuration(q.DNS.TTL)
		if err != nil {
			return q, fmt.Errorf("Bad DNS TTL '%s': %w", q.DNS.TTL, err) //nolint:staticcheck // Consul's text
		}
		if ttl < 0 {
			return q, fmt.Errorf("DNS TTL '%s', must be >=0", q.DNS.TTL)
		}
	}
	if q.Template.Type != "" {
		if _, err := render(&q, q.Name); err != nil {
			return q, fmt.Errorf("Bad template: %w", err) //nolint:staticcheck // Consul's text
		}
	}
	return q, nil
}

func queryNotFound() error {
	return &api.StatusError{Code: http.StatusNotFound, Text: "Query not found", Err: catalog.ErrNotFound}
}

// writeQuery checks and orders a query.
func (h *handlers) writeQuery(r *api.Request, v *queryView, create bool) error {
	q, err := v.record()
	if err != nil {
		return refused(err)
	}
	if err := r.Authorize(q.Name); err != nil {
		return err
	}
	_, err = h.c.Cluster.Propose(r.Context(), catalog.SetQuery{Query: q, Create: create})
	if errors.Is(err, catalog.ErrNotFound) || errors.Is(err, catalog.ErrExists) {
		return refused(err)
	}
	return plainFault(err)
}

func (h *handlers) createQuery(w http.ResponseWriter, r *api.Request) error {
	var v queryView
	if err := api.ReadJSON(r, &v); err != nil {
		return err
	}
	if v.ID != "" {
		return refused(errors.New("ID must be empty when creating a new prepared query"))
	}
	var err error
	if v.ID, err = uuid.New(h.c.Rand); err != nil {
		return err
	}
	if err := h.writeQuery(r, &v, true); err != nil {
		return err
	}
	return api.WriteJSON(w, struct{ ID string }{v.ID})
}

func (h *handlers) updateQuery(_ http.ResponseWriter, r *api.Request) error {
	var v queryView
	if err := api.ReadJSON(r, &v); err != nil {
		return err
	}
	v.ID = r.PathValue("id")
	return h.writeQuery(r, &v, false)
}

func (h *handlers) deleteQuery(_ http.ResponseWriter, r *api.Request) error {
	q, err := h.c.Store.Read().Query(r.PathValue("id"))
	if err != nil {
		return err
	}
	if q != nil {
		if err := r.Authorize(q.Name); err != nil {
			return err
		}
	}
	if _, err = h.c.Cluster.Propose(r.Context(), catalog.DeleteQuery{ID: r.PathValue("id")}); errors.Is(err, catalog.ErrNotFound) {
		return refused(err)
	}
	return err
}

func (h *handlers) queries(w http.ResponseWriter, r *api.Request) error {
	return api.Answer(w, r, h.c.Store, func(t *catalog.Txn) ([]queryView, error) {
		all, err := t.Queries()
		out := []queryView{}
		for _, q := range all {
			if r.Visible(q.Name) {
				out = append(out, viewQuery(q))
			}
		}
		return out, err
	})
}

func (h *handlers) query(w http.ResponseWriter, r *api.Request) error {
	return api.Answer(w, r, h.c.Store, func(t *catalog.Txn) ([]queryView, error) {
		q, err := t.Query(r.PathValue("id"))
		if err == nil && (q == nil || !r.Visible(q.Name)) {
			err = queryNotFound()
		}
		if err != nil {
			return nil, err
		}
		return []queryView{viewQuery(q)}, nil
	})
}

// rendered is the query for a name, with its template filled in.
func rendered(t *catalog.Txn, r *api.Request) (*catalog.PreparedQuery, error) {
	q, err := t.FindQuery(r.PathValue("id"))
	if err != nil {
		return nil, err
	}
	if q == nil || !r.Visible(q.Name) {
		return nil, queryNotFound()
	}
	if q.Template.Type == "" {
		return q, nil
	}
	out, err := render(q, r.PathValue("id"))
	if err != nil {
		return nil, refused(err)
	}
	return out, nil
}

func (h *handlers) explainQuery(w http.ResponseWriter, r *api.Request) error {
	return api.Answer(w, r, h.c.Store, func(t *catalog.Txn) (any, error) {
		q, err := rendered(t, r)
		if err != nil {
			return nil, err
		}
		return struct{ Query queryView }{viewQuery(q)}, nil
	})
}

// executed is the answer of a query.
type executed struct {
	Service    string
	Nodes      []any // each a healthView, or what another datacenter's servers say
	DNS        struct{ TTL string }
	Datacenter string
	Failovers  int
}

func (h *handlers) executeQuery(w http.ResponseWriter, r *api.Request) error {
	limit, limited, err := wholeNumber(r, "limit")
	if err != nil {
		return err
	}
	return api.Answer(w, r, h.c.Store, func(t *catalog.Txn) (executed, error) {
		q, err := rendered(t, r)
		if err != nil {
			return executed{}, err
		}
		out := executed{Service: q.Service.Service, Datacenter: t.Datacenter(), Nodes: []any{}}
		out.DNS.TTL = q.DNS.TTL
		list, err := h.instancesFor(t, r, q)
		if err != nil {
			return out, err
		}
		for _, i := range list {
			out.Nodes = append(out.Nodes, viewInstance(i))
		}
		if len(out.Nodes) == 0 {
			h.failover(r, q, &out)
		}
		if limited && limit > 0 && uint64(len(out.Nodes)) > limit {
			out.Nodes = out.Nodes[:limit]
		}
		return out, nil
	})
}

// instancesFor finds the instances that a query is about, the near ones first, else in random order.
func (h *handlers) instancesFor(t *catalog.Txn, r *api.Request, q *catalog.PreparedQuery) ([]*catalog.Instance, error) {
	s := &q.Service
	scope := r.Options.Scope
	if s.Peer != "" {
		scope.Peer = s.Peer
	}
	read := (*catalog.Txn).Instances
	if s.Connect || r.URL.Query().Has("connect") {
		read = (*catalog.Txn).ConnectInstances
	}
	all, err := read(t, scope.Name(s.Service))
	if err != nil {
		return nil, err
	}
	var list []*catalog.Instance
	for _, i := range seen(r, all) {
		if r.Subject.Allow(serviceRead, i.Service.Service) == nil && wanted(i, s) {
			list = append(list, i)
		}
	}
	shuffle(h.c.Rand, list)
	near := r.Options.Near
	if near == "" {
		near = s.Near
	}
	if near == "_agent" {
		near = h.askingNode(r)
	}
	return list, nearFirst(t, r, near, list, nodeOf)
}

// wanted says whether a query is about an instance of its service.
func wanted(i *catalog.Instance, s *catalog.QueryService) bool {
	return healthy(i, s) && tagsMatch(i.Service.Tags, s.Tags) && matches(i.Node.Meta, s.NodeMeta) && matches(i.Service.Meta, s.ServiceMeta)
}

func nodeOf(i *catalog.Instance) string { return i.Node.Node }

var serviceRead = api.Permission{Resource: "service", Access: api.Read}

func healthy(i *catalog.Instance, s *catalog.QueryService) bool {
	for _, c := range i.Checks {
		switch {
		case slices.Contains(s.IgnoreCheckIDs, c.CheckID):
		case c.Status == catalog.HealthCritical, s.OnlyPassing && c.Status != catalog.HealthPassing:
			return false
		}
	}
	return true
}

// tagsMatch says whether tags hold all of want, and none of those with "!" before them.
func tagsMatch(tags, want []string) bool {
	for _, w := range want {
		not, ok := strings.CutPrefix(w, "!")
		if tagged(tags, []string{not}) == ok {
			return false
		}
	}
	return true
}

// shuffle spreads the load over those that are alike.
func shuffle[T any](random io.Reader, list []T) {
	var b [8]byte
	for i := len(list) - 1; i > 0; i-- {
		if _, err := io.ReadFull(random, b[:]); err != nil {
			return // the order is a courtesy
		}
		j := binary.LittleEndian.Uint64(b[:]) % uint64(i+1)
		list[i], list[j] = list[j], list[i]
	}
}

func parseBool(r *api.Request, name string) (bool, error) {
	q := r.URL.Query()
	if !q.Has(name) || q.Get(name) == "" {
		return q.Has(name), nil
	}
	v, err := strconv.ParseBool(q.Get(name))
	if err != nil {
		return false, badRequest("Invalid value for ?%s", name)
	}
	return v, nil
}
