// SPDX-License-Identifier: Apache-2.0

package rest

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/internal/api"
)

// failoverTime is how long one datacenter has for its answer.
const failoverTime = 10 * time.Second

// place is where a query is asked when nobody is found here.
type place struct{ datacenter, namespace, partition string }

// places are the datacenters that a query names, in order, each once and only those that are known: the nearest ones first, as many as it
// says, then those by name. Peers can't be asked.
func (h *handlers) places(q *catalog.PreparedQuery, here string) []place {
	known := h.c.Cluster.Datacenters() // the nearest first
	var out []place
	add := func(p place) bool {
		if p.datacenter == here || !slices.Contains(known, p.datacenter) || slices.Contains(out, p) {
			return false
		}
		out = append(out, p)
		return true
	}
	f, left := &q.Service.Failover, q.Service.Failover.NearestN
	for _, dc := range known {
		if left > 0 && add(place{datacenter: dc}) {
			left--
		}
	}
	for _, dc := range f.Datacenters {
		add(place{datacenter: dc})
	}
	for _, t := range f.Targets {
		if t.Peer == "" {
			add(place{t.Datacenter, t.Namespace, t.Partition})
		}
	}
	return out
}

// failover asks other datacenters until one has instances for the query. One that doesn't answer is passed over, as in Consul.
func (h *handlers) failover(r *api.Request, q *catalog.PreparedQuery, out *executed) {
	here := out.Datacenter
	for _, p := range h.places(q, here) {
		out.Failovers++
		nodes, err := h.instancesIn(r, q, p)
		if err == nil && len(nodes) > 0 {
			out.Nodes, out.Datacenter = nodes, p.datacenter
			return
		}
	}
}

// instancesIn finds what a query is about in another datacenter, under the caller's token, in random order, each in the form in which that
// datacenter's servers say it.
func (h *handlers) instancesIn(r *api.Request, q *catalog.PreparedQuery, p place) ([]any, error) {
	route := "/v1/health/service/"
	if q.Service.Connect || r.URL.Query().Has("connect") {
		route = "/v1/health/connect/"
	}
	params := url.Values{"dc": {p.datacenter}, "stale": {""}}
	scope := r.Options.Scope
	for key, value := range map[string]string{"ns": cmp.Or(p.namespace, scope.Namespace), "partition": cmp.Or(p.partition, scope.Partition)} {
		if value != "" && value != catalog.DefaultNamespace {
			params.Set(key, value)
		}
	}
	ctx, cancel := context.WithTimeout(r.Context(), failoverTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, route+url.PathEscape(q.Service.Service)+"?"+params.Encode(), http.NoBody)
	if err != nil {
		return nil, err
	}
	if token := api.TokenOf(r.Request); token != "" {
		req.Header.Set(api.TokenHeader, token)
	}
	resp, err := h.c.Cluster.Ask(p.datacenter, req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }() // it is read whole, or of no use
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("datacenter %s answers with %s", p.datacenter, resp.Status)
	}
	var all []json.RawMessage
	if err := json.NewDecoder(io.LimitReader(resp.Body, api.DefaultMaxBody)).Decode(&all); err != nil {
		return nil, fmt.Errorf("the answer of datacenter %s can't be read: %w", p.datacenter, err)
	}
	var out []any
	for _, raw := range all {
		var said struct {
			Node    struct{ Meta map[string]string }
			Service struct {
				Tags []string
				Meta map[string]string
			}
			Checks []struct{ CheckID, Status string }
		}
		if err := json.Unmarshal(raw, &said); err != nil {
			return nil, fmt.Errorf("the answer of datacenter %s can't be read: %w", p.datacenter, err)
		}
		i := &catalog.Instance{Node: &catalog.Node{Meta: said.Node.Meta}, Service: &catalog.Service{Tags: said.Service.Tags, Meta: said.Service.Meta}}
		for _, c := range said.Checks {
			i.Checks = append(i.Checks, &catalog.Check{CheckID: c.CheckID, Status: c.Status})
		}
		if wanted(i, &q.Service) {
			out = append(out, raw)
		}
	}
	shuffle(h.c.Rand, out)
	return out, nil
}
