// SPDX-License-Identifier: Apache-2.0

package rest

import (
	"context"
	"fmt"
	"hash/fnv"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/weftmesh/weft/agent/local"
	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/internal/api"
)

// serviceView is a registered service in the agent API's form.
type serviceView struct {
	Kind              string `json:",omitempty"`
	ID                string
	Service           string
	Tags              []string
	Meta              map[string]string
	Port              int
	Ports             []catalog.ServicePort `json:",omitempty"`
	Address           string
	SocketPath        string                            `json:",omitempty"`
	TaggedAddresses   map[string]catalog.ServiceAddress `json:",omitempty"`
	Weights           catalog.Weights
	EnableTagOverride bool
	Proxy             *catalog.Proxy    `json:",omitempty"`
	Connect           *catalog.Connect  `json:",omitempty"`
	Locality          *catalog.Locality `json:",omitempty"`
	ContentHash       string            `json:",omitempty"`
	Namespace         string            `json:",omitempty"`
	Datacenter        string
}

func viewService(s *catalog.Service) serviceView {
	v := serviceView{
		Kind: s.Kind, ID: s.ID, Service: s.Service, Tags: s.Tags, Meta: s.Meta, Port: s.Port, Ports: s.Ports, Address: s.Address,
		SocketPath: s.SocketPath, TaggedAddresses: s.TaggedAddresses, Weights: s.Weights, EnableTagOverride: s.EnableTagOverride,
		Proxy: s.Proxy, Connect: s.Connect, Locality: s.Locality, Namespace: api.Shown(s.Namespace), Datacenter: s.Datacenter,
	}
	if v.Tags == nil {
		v.Tags = []string{}
	}
	if v.Meta == nil {
		v.Meta = map[string]string{}
	}
	return v
}

func (h *handlers) services(w http.ResponseWriter, r *api.Request) error {
	wanted, _ := h.c.State.Wanted()
	var list []serviceView
	for _, s := range wanted.Services {
		if ns := s.Record.Namespace; r.Asks(ns) && r.VisibleIn(ns, s.Record.Service) {
			list = append(list, viewService(s.Record))
		}
	}
	list, err := api.FilterList(r.Options.Filter, list)
	if err != nil {
		return err
	}
	byID := make(map[string]serviceView, len(list))
	for _, v := range list {
		byID[v.ID] = v
	}
	return api.WriteJSON(w, byID)
}

// service answers with one service, and waits by hash: until its registration is another.
func (h *handlers) service(w http.ResponseWriter, r *api.Request) error {
	id := r.PathValue("name")
	ctx, cancel := context.WithTimeout(r.Context(), r.Options.Wait)
	defer cancel()
	for {
		wanted, changed := h.c.State.Wanted()
		s, ok := wanted.Services[id]
		if !ok || r.Elsewhere(s.Record.Namespace) {
			return &api.StatusError{Code: http.StatusNotFound, Text: "unknown service ID: " + id, Err: local.ErrUnknown}
		}
		if err := r.AuthorizeIn(s.Record.Namespace, s.Record.Service); err != nil {
			return err
		}
		v := viewService(s.Record)
		hash, err := contentHash(s.Record)
		if err != nil {
			return err
		}
		v.ContentHash = hash
		if r.Options.Hash != hash || ctx.Err() != nil {
			w.Header().Set("X-Consul-ContentHash", hash)
			return api.WriteJSON(w, v)
		}
		select {
		case <-changed:
		case <-ctx.Done():
		}
		if err := r.Again(); err != nil {
			return err
		}
	}
}

func contentHash(s *catalog.Service) (string, error) {
	body, err := catalog.Canonical(s)
	if err != nil {
		return "", err
	}
	sum := fnv.New64a()
	_, _ = sum.Write(body) // a hash takes everything
	return fmt.Sprintf("%016x", sum.Sum64()), nil
}

func (h *handlers) checks(w http.ResponseWriter, r *api.Request) error {
	wanted, _ := h.c.State.Wanted()
	var list []api.CheckView
	for _, c := range wanted.Checks {
		if ns := c.Record.Namespace; (r.Asks(ns) || c.Record.ServiceID == "") && r.VisibleIn(ns, c.Record.ServiceName) {
			list = append(list, api.ViewCheck(c.Record))
		}
	}
	list, err := api.FilterList(r.Options.Filter, list)
	if err != nil {
		return err
	}
	byID := make(map[string]api.CheckView, len(list))
	for _, v := range list {
		byID[v.CheckID] = v
	}
	return api.WriteJSON(w, byID)
}

// healthView is a service with its state, in the form of the agent's health endpoints.
type healthView struct {
	AggregatedStatus string
	Service          serviceView
	Checks           []api.CheckView
}

func health(wanted *local.Wanted, s *local.Service) healthView {
	v := healthView{AggregatedStatus: catalog.HealthPassing, Service: viewService(s.Record), Checks: []api.CheckView{}}
	for _, c := range append(wanted.ChecksOf(""), wanted.ChecksOf(s.Record.ID)...) {
		v.Checks = append(v.Checks, api.ViewCheck(c.Record))
		switch {
		case c.Record.Type == local.TypeMaintenance:
			v.AggregatedStatus = "maintenance"
		case v.AggregatedStatus == "maintenance":
		case c.Record.Status == catalog.HealthCritical:
			v.AggregatedStatus = catalog.HealthCritical
		case c.Record.Status == catalog.HealthWarning && v.AggregatedStatus == catalog.HealthPassing:
			v.AggregatedStatus = catalog.HealthWarning
		}
	}
	return v
}

var severity = []string{catalog.HealthPassing, catalog.HealthWarning, catalog.HealthCritical, "maintenance"}

func statusCode(status string) int {
	switch status {
	case catalog.HealthPassing:
		return http.StatusOK
	case catalog.HealthWarning:
		return http.StatusTooManyRequests
	}
	return http.StatusServiceUnavailable
}

// answerHealth answers with the state as the status code, and in words or JSON.
func answerHealth(w http.ResponseWriter, r *api.Request, code int, reason string, v any) error {
	w.Header().Set("X-Consul-Reason", reason)
	if r.URL.Query().Get("format") == "text" || strings.HasPrefix(r.Header.Get("Accept"), "text/plain") {
		w.Header().Set("Content-Type", "text/plain")
		w.WriteHeader(code)
		_, _ = io.WriteString(w, reason) // the client may be gone
		return nil
	}
	return api.WriteJSONStatus(w, code, v)
}

func (h *handlers) healthByID(w http.ResponseWriter, r *api.Request) error {
	wanted, _ := h.c.State.Wanted()
	s, ok := wanted.Services[r.PathValue("name")]
	if !ok || r.Elsewhere(s.Record.Namespace) {
		reason := fmt.Sprintf("ServiceId %s not found", r.PathValue("name"))
		w.Header().Set("X-Consul-Reason", reason)
		return &api.StatusError{Code: http.StatusNotFound, Text: reason, Err: local.ErrUnknown}
	}
	if err := r.AuthorizeIn(s.Record.Namespace, s.Record.Service); err != nil {
		return err
	}
	v := health(&wanted, s)
	return answerHealth(w, r, statusCode(v.AggregatedStatus), v.AggregatedStatus, v)
}

func (h *handlers) healthByName(w http.ResponseWriter, r *api.Request) error {
	wanted, _ := h.c.State.Wanted()
	var all []healthView
	worst := ""
	for _, s := range wanted.Services {
		if s.Record.Service != r.PathValue("name") || !r.Asks(s.Record.Namespace) {
			continue
		}
		v := health(&wanted, s)
		all = append(all, v)
		if slices.Index(severity, v.AggregatedStatus) > slices.Index(severity, worst) {
			worst = v.AggregatedStatus
		}
	}
	if len(all) == 0 {
		return answerHealth(w, r, http.StatusNotFound, fmt.Sprintf("ServiceName %s Not Found", r.PathValue("name")), []healthView{})
	}
	slices.SortFunc(all, func(a, b healthView) int { return strings.Compare(a.Service.ID, b.Service.ID) })
	return answerHealth(w, r, statusCode(worst), worst, all)
}
