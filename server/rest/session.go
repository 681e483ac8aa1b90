// SPDX-License-Identifier: Apache-2.0

package rest

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/internal/api"
	"github.com/weftmesh/weft/internal/decode"
	"github.com/weftmesh/weft/internal/uuid"
)

// plainFault answers a rule that a command breaks with 500 and its bare text, as Consul does for the key-value store and sessions.
func plainFault(err error) error {
	if errors.Is(err, catalog.ErrInvalid) && !errors.Is(err, catalog.ErrNamespace) {
		return refused(err)
	}
	return err
}

// sessionView is a session in the API's form.
type sessionView struct {
	ID            string
	Name          string
	Node          string
	LockDelay     time.Duration
	Behavior      string
	TTL           string
	NodeChecks    []string
	ServiceChecks []catalog.ServiceCheck
	Namespace     string `json:",omitempty"`
	CreateIndex   uint64
	ModifyIndex   uint64
}

func viewSession(s *catalog.Session) sessionView {
	v := sessionView{
		ID: s.ID, Name: s.Name, Node: s.Node, LockDelay: s.LockDelay, Behavior: s.Behavior, TTL: s.TTL, NodeChecks: s.NodeChecks,
		ServiceChecks: s.ServiceChecks, Namespace: api.Shown(s.Namespace), CreateIndex: s.CreateIndex, ModifyIndex: s.ModifyIndex,
	}
	if v.NodeChecks == nil {
		v.NodeChecks = []string{}
	}
	return v
}

// lockDelay is a duration; a number below 1000 is seconds, as in Consul.
type lockDelay time.Duration

// DecodeNode decodes it.
func (d *lockDelay) DecodeNode(n *decode.Node) error {
	switch n.Kind {
	case decode.Null:
		return nil
	case decode.Number:
		f, err := strconv.ParseFloat(n.Text, 64)
		if err != nil || f < 0 || f > float64(1<<62) {
			return errors.New("want a duration as \"15s\", or a number of seconds or nanoseconds")
		}
		if f < 1000 {
			f *= float64(time.Second)
		}
		*d = lockDelay(f)
		return nil
	case decode.String:
		v, err := time.ParseDuration(n.Text)
		if err != nil || v < 0 {
			return fmt.Errorf("want a duration as \"15s\", got %q", n.Text)
		}
		*d = lockDelay(v)
		return nil
	}
	return fmt.Errorf("want a duration as \"15s\", got %s", n.Kind)
}

type sessionBody struct {
	Name          string
	Node          string
	LockDelay     *lockDelay
	Behavior      string
	TTL           string
	Checks        *[]string
	NodeChecks    *[]string
	ServiceChecks []catalog.ServiceCheck
	ID            string
	Datacenter    string
	Namespace     string
	Partition     string
	CreateIndex   uint64
	ModifyIndex   uint64
}

// askingNode is the node of the agent that passed the request on, or this server's.
func (h *handlers) askingNode(r *api.Request) string {
	if node := r.Header.Get("X-Weft-Hop"); node != "" {
		return node
	}
	return h.c.Node
}

func (h *handlers) createSession(w http.ResponseWriter, r *api.Request) error {
	var b sessionBody
	if r.ContentLength != 0 {
		if err := api.ReadJSON(r, &b); err != nil {
			return err
		}
	}
	if err := r.Within(b.Namespace); err != nil {
		return err
	}
	s, err := h.session(r, &b)
	if err != nil {
		return err
	}
	if err := r.Authorize(s.Node); err != nil {
		return err
	}
	if s.ID, err = uuid.New(h.c.Rand); err != nil {
		return err
	}
	if _, err := h.c.Cluster.Propose(r.Context(), catalog.CreateSession{Session: s}); err != nil {
		return plainFault(err)
	}
	return api.WriteJSON(w, struct{ ID string }{s.ID})
}

// session fills in what the body leaves open.
func (h *handlers) session(r *api.Request, b *sessionBody) (catalog.Session, error) {
	s := catalog.Session{
		Scope: r.Options.Scope, Name: b.Name, Node: b.Node, LockDelay: catalog.DefaultLockDelay, Behavior: b.Behavior, TTL: b.TTL,
		ServiceChecks: b.ServiceChecks,
	}
	for i := range s.ServiceChecks {
		c := &s.ServiceChecks[i]
		if c.Namespace == "" {
			c.Namespace = api.Shown(s.Namespace)
		}
		if cmp.Or(c.Namespace, catalog.DefaultNamespace) != s.Namespace {
			return s, badRequest("Invalid namespace: ServiceChecks[%d] names %q, and the session is of %q", i, c.Namespace, s.Namespace)
		}
	}
	if s.Node == "" {
		s.Node = h.askingNode(r)
	}
	if s.Behavior == "" {
		s.Behavior = catalog.SessionRelease
	}
	if b.LockDelay != nil {
		s.LockDelay = time.Duration(*b.LockDelay)
	}
	if s.TTL != "" {
		ttl, err := time.ParseDuration(s.TTL)
		if err != nil {
			return s, refused(fmt.Errorf("Session TTL '%s' invalid: %w", s.TTL, err)) //nolint:staticcheck // Consul's text
		}
		if ttl != 0 && (ttl < h.c.SessionTTLMin || ttl > catalog.MaxSessionTTL) {
			return s, refused(fmt.Errorf("Invalid Session TTL '%d', must be between [%s=%s]", ttl, h.c.SessionTTLMin, catalog.MaxSessionTTL)) //nolint:staticcheck // Consul's text
		}
	}
	for _, list := range []*[]string{b.Checks, b.NodeChecks} {
		if list != nil {
			s.NodeChecks = append(s.NodeChecks, *list...)
		}
	}
	if b.Checks == nil && b.NodeChecks == nil {
		// The node's membership, where something keeps track of it.
		checks, err := h.c.Store.Read().NodeChecks(s.NodeKey())
		if err != nil {
			return s, err
		}
		for _, c := range checks {
			if c.CheckID == catalog.SerfHealth {
				s.NodeChecks = []string{catalog.SerfHealth}
			}
		}
	}
	return s, nil
}

func (h *handlers) destroySession(w http.ResponseWriter, r *api.Request) error {
	s, err := h.c.Store.Read().Session(r.Options.Scope, r.PathValue("id"))
	if err != nil {
		return err
	}
	if s == nil {
		return api.WriteJSON(w, true)
	}
	if err := r.Authorize(s.Node); err != nil {
		return err
	}
	if _, err := h.c.Cluster.Propose(r.Context(), catalog.DestroySession{Scope: h.commandScope(r.Options.Scope), ID: r.PathValue("id")}); err != nil {
		return err
	}
	return api.WriteJSON(w, true)
}

func (h *handlers) renewSession(w http.ResponseWriter, r *api.Request) error {
	s, err := h.c.Store.Read().Session(r.Options.Scope, r.PathValue("id"))
	if err != nil {
		return err
	}
	if s == nil {
		return &api.StatusError{Code: http.StatusNotFound, Text: fmt.Sprintf("Session id '%s' not found", r.PathValue("id")), Err: catalog.ErrNotFound}
	}
	if err := r.Authorize(s.Node); err != nil {
		return err
	}
	if err := h.c.Cluster.RenewSession(s); err != nil {
		return err
	}
	return api.WriteJSON(w, []sessionView{viewSession(s)})
}

func (h *handlers) sessionInfo(w http.ResponseWriter, r *api.Request) error {
	return api.Answer(w, r, h.c.Store, func(t *catalog.Txn) ([]sessionView, error) {
		s, err := t.Session(r.Options.Scope, r.PathValue("id"))
		if err != nil || s == nil || !r.Visible(s.Node) {
			return []sessionView{}, err
		}
		return []sessionView{viewSession(s)}, nil
	})
}

func (h *handlers) sessions(w http.ResponseWriter, r *api.Request) error {
	return api.Answer(w, r, h.c.Store, func(t *catalog.Txn) ([]sessionView, error) {
		return visibleSessions(r)(t.Sessions(r.Options.Scope))
	})
}

func (h *handlers) nodeSessions(w http.ResponseWriter, r *api.Request) error {
	return api.Answer(w, r, h.c.Store, func(t *catalog.Txn) ([]sessionView, error) {
		return visibleSessions(r)(t.NodeSessions(r.Options.Scope.Name(r.PathValue("name"))))
	})
}

func visibleSessions(r *api.Request) func([]*catalog.Session, error) ([]sessionView, error) {
	return func(all []*catalog.Session, err error) ([]sessionView, error) {
		out := make([]sessionView, 0, len(all))
		for _, s := range all {
			if r.Visible(s.Node) {
				out = append(out, viewSession(s))
			}
		}
		return out, err
	}
}
