// SPDX-License-Identifier: Apache-2.0

package rest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"time"

	"github.com/weftmesh/weft/agent/event"
	"github.com/weftmesh/weft/internal/api"
	"github.com/weftmesh/weft/internal/gossip"
)

// Member is a member of a gossip pool as Consul's API shows it.
type Member struct {
	Name        string
	Addr        string
	Port        uint16
	Tags        map[string]string
	Status      int
	ProtocolMin uint8
	ProtocolMax uint8
	ProtocolCur uint8
	DelegateMin uint8
	DelegateMax uint8
	DelegateCur uint8
}

func memberView(m gossip.Member) Member {
	return Member{
		Name: m.Name, Addr: m.Address, Port: uint16(m.Port), Tags: m.Tags, Status: int(m.Status),
		ProtocolMin: m.ProtocolMin, ProtocolMax: m.ProtocolMax, ProtocolCur: m.ProtocolCur,
		DelegateMin: m.DelegateMin, DelegateMax: m.DelegateMax, DelegateCur: m.DelegateCur,
	}
}

// coordinate is where this node is in the network; nil if nobody knows.
func (h *handlers) coordinate() *gossip.Coordinate {
	if c, ok := h.c.LAN.Coordinate(); ok {
		return &c
	}
	return nil
}

var errNoWAN = &api.StatusError{
	Code: http.StatusInternalServerError, Text: "this agent isn't in the WAN pool: only servers are, where ports.serf_wan isn't -1",
}

// pool is the pool that a request is about.
func (h *handlers) pool(r *api.Request) (*gossip.Pool, error) {
	wan, err := flag(r, "wan")
	if err != nil || !wan {
		return h.c.LAN, err
	}
	if h.c.WAN == nil {
		return nil, errNoWAN
	}
	return h.c.WAN, nil
}

func (h *handlers) members(w http.ResponseWriter, r *api.Request) error {
	out := []Member{}
	pool, err := h.pool(r)
	if err != nil && !errors.Is(err, errNoWAN) {
		return err
	}
	segment := r.URL.Query().Get("segment")
	if pool != nil {
		for _, m := range pool.Members() {
			if r.Visible(m.Node) && (segment == "" || segment == "_all" || segment == m.Segment) {
				out = append(out, memberView(m))
			}
		}
	}
	if out, err = api.FilterList(r.Options.Filter, out); err != nil {
		return err
	}
	return api.WriteJSON(w, out)
}

func (h *handlers) join(w http.ResponseWriter, r *api.Request) error {
	pool, err := h.pool(r)
	if err != nil {
		return err
	}
	n, err := pool.Join(r.Context(), []string{r.PathValue("address")})
	if n == 0 {
		return &api.StatusError{Code: http.StatusInternalServerError, Text: err.Error(), Err: err}
	}
	return nil
}

func (h *handlers) leave(_ http.ResponseWriter, r *api.Request) error {
	return h.c.Leave(context.WithoutCancel(r.Context()))
}

func (h *handlers) forceLeave(_ http.ResponseWriter, r *api.Request) error {
	pool, err := h.pool(r)
	if err != nil {
		return err
	}
	prune, err := flag(r, "prune")
	if err != nil {
		return err
	}
	name := r.PathValue("name")
	if err = pool.ForceLeave(name, prune); errors.Is(err, gossip.ErrNoSuchMember) {
		return &api.StatusError{Code: http.StatusInternalServerError, Text: fmt.Sprintf("agent: No node found with name '%s'", name), Err: err}
	}
	return err
}

func (h *handlers) fire(w http.ResponseWriter, r *api.Request) error {
	payload, err := io.ReadAll(io.LimitReader(r.Body, gossip.MaxEvent+1))
	if err != nil {
		return err
	}
	q := r.URL.Query()
	if len(payload) == 0 {
		payload = nil
	}
	ev, err := h.c.Events.Fire(event.Event{
		Name: r.PathValue("name"), Payload: payload, NodeFilter: q.Get("node"), ServiceFilter: q.Get("service"), TagFilter: q.Get("tag"),
	})
	if errors.Is(err, event.ErrInvalid) {
		return &api.StatusError{Code: http.StatusBadRequest, Text: err.Error(), Err: err}
	}
	if err != nil {
		return err
	}
	return api.WriteJSON(w, ev)
}

// events lists this node's events. It waits while the last one's index is the one that the caller knows.
func (h *handlers) events(w http.ResponseWriter, r *api.Request) error {
	q := r.URL.Query()
	timer := time.NewTimer(r.Options.Wait)
	defer timer.Stop()
	for {
		list, index, changed := h.c.Events.List(q.Get("name"))
		index = max(index, 1) // with 0 nobody could wait
		if r.Options.Index > 0 && index == r.Options.Index {
			select {
			case <-changed:
				continue
			case <-timer.C:
			case <-r.Context().Done():
			}
		}
		if err := r.Again(); err != nil { // who asks may see less now
			return err
		}
		out, err := filterEvents(list, q.Get("node"), q.Get("service"), q.Get("tag"), r.Visible)
		if err != nil {
			return err
		}
		w.Header().Set("X-Consul-Index", strconv.FormatUint(index, 10))
		return api.WriteJSON(w, out)
	}
}

// filterEvents keeps the events whose filters would take in a node, a service and a tag of these names.
func filterEvents(list []event.Event, node, service, tag string, visible func(string) bool) ([]event.Event, error) {
	out := []event.Event{}
	takes := func(filter, name string) (bool, error) {
		if name == "" || filter == "" {
			return true, nil
		}
		return regexp.MatchString(filter, name)
	}
	for _, ev := range list {
		if !visible(ev.Name) {
			continue
		}
		all := true
		for filter, name := range map[string]string{ev.NodeFilter: node, ev.ServiceFilter: service, ev.TagFilter: tag} {
			ok, err := takes(filter, name)
			if err != nil {
				return nil, err
			}
			all = all && ok
		}
		if all {
			out = append(out, ev)
		}
	}
	return out, nil
}
