// SPDX-License-Identifier: Apache-2.0

// Package rest answers the agent's part of the HTTP API, /v1/agent/…, from the local state, the replica and the leaves
// of this host. Its handlers are bound to the table of internal/api; whatever isn't the agent's is another's. It owns no
// goroutine.
package rest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weftmesh/weft/agent/check"
	"github.com/weftmesh/weft/agent/event"
	"github.com/weftmesh/weft/agent/leaf"
	"github.com/weftmesh/weft/agent/local"
	"github.com/weftmesh/weft/agent/tokens"
	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/connect/identity"
	"github.com/weftmesh/weft/connect/xds"
	"github.com/weftmesh/weft/internal/api"
	"github.com/weftmesh/weft/internal/gossip"
	"github.com/weftmesh/weft/internal/logs"
)

// Config is what the handlers answer from.
type Config struct {
	State    *local.State
	Checks   *check.Runner
	Leaves   *leaf.Manager
	Store    *catalog.Store // the replica
	Proxies  Proxies
	Metrics  prometheus.Gatherer
	Version  string
	Server   bool
	Node     string // this agent's
	GRPCPort int
	// GRPCTLSPort is that of xDS over TLS.
	GRPCTLSPort int
	LAN         *gossip.Pool
	WAN         *gossip.Pool // nil: this node isn't in the WAN
	Events      *event.Events
	// SetToken changes one of the agent's own tokens, "" for none.
	SetToken func(kind tokens.Kind, secret string) error
	// Leave has this node leave and the agent end; it returns when the others were told.
	Leave      func(context.Context) error
	Reload     func() error
	Logs       *logs.Tap                // what is logged, for those who watch
	Debug      bool                     // profiles are served
	Primary    string                   // the primary datacenter, "" for the node's own
	Settings   map[string]any           // shown as DebugConfig; without secrets
	DefaultAll bool                     // the default for calls that no intention decides
	Now        func() time.Time         // nil: the system's clock
	Seal       func() map[string]string // by what secrets on this node's disk are sealed; nil: nobody says
	Given      func() []Given           // certificates of this agent that aren't the mesh's; nil: none
}

// Proxies is what is known of this host's proxies.
type Proxies interface {
	// Access is how a registered proxy reaches ADS and proves who it is.
	Access(proxyID string) (Access, error)
	// Permit returns nil if the process that makes a request may have what the proxies of a service have, their keys above all; what is asked for
	// is for the log.
	Permit(ctx context.Context, what string, service catalog.Key) error
	// PermitChange returns nil if the process that makes a request may change the registrations of a service and its proxies, where no ACLs say so.
	PermitChange(ctx context.Context, what string, service catalog.Key) error
	// Status lists every proxy of this host and what it has.
	Status() []ProxyStatus
}

// Access is how a proxy reaches ADS.
type Access struct {
	ProxyID, Service string
	Namespace        string      `json:",omitempty"` // of the service; "" for the default one
	Key              catalog.Key `json:"-"`          // the service's
	// ADSAddress is host:port, or unix:/path.
	ADSAddress string
	// Secret proves to ADS that its bearer is this proxy.
	Secret string
	// Config is the registration's own proxy configuration.
	Config catalog.Opaque `json:",omitempty"`
}

// ProxyStatus is what one proxy should have and has.
type ProxyStatus struct {
	ProxyID, Service string
	Namespace        string `json:",omitempty"` // of the service; "" for the default one
	Connected        bool
	Version          string   `json:",omitempty"`
	RenderedIndex    uint64   `json:",omitempty"`
	RenderedHash     string   `json:",omitempty"`
	AckedHash        string   `json:",omitempty"`
	AckedIndex       uint64   `json:",omitempty"` // the newest index whose rendering the proxy is known to have
	Refusal          string   `json:",omitempty"`
	NotReady         string   `json:",omitempty"`
	Warnings         []string `json:",omitempty"`
	// What a server compares with what it would render itself.
	ConfigHash string            `json:",omitempty"`
	TypeHashes map[string]string `json:"-"`
	Abilities  xds.Abilities     `json:"-"`
}

type handlers struct{ c Config }

// Handlers are the agent's handlers, by route name.
func Handlers(c Config) map[string]api.Handler {
	if c.Now == nil {
		c.Now = time.Now
	}
	h := &handlers{c}
	return map[string]api.Handler{
		"GET /v1/agent/self":                       h.self,
		"GET /v1/agent/services":                   h.services,
		"GET /v1/agent/service/{name}":             h.service,
		"GET /v1/agent/checks":                     h.checks,
		"GET /v1/agent/members":                    h.members,
		"PUT /v1/agent/join/{address}":             h.join,
		"PUT /v1/agent/leave":                      h.leave,
		"PUT /v1/agent/reload":                     h.reload,
		"PUT /v1/agent/token/{name}":               h.setToken,
		"PUT /v1/agent/force-leave/{name}":         h.forceLeave,
		"PUT /v1/event/fire/{name}":                h.fire,
		"GET /v1/event/list":                       h.events,
		"GET /v1/openapi.json":                     h.openAPI,
		"GET /v1/agent/metrics":                    h.metrics,
		"GET /v1/agent/metrics/stream":             h.streamMetrics,
		"GET /v1/agent/version":                    h.version,
		"GET /v1/agent/health/service/id/{name}":   h.healthByID,
		"GET /v1/agent/health/service/name/{name}": h.healthByName,
		"PUT /v1/agent/service/register":           h.register,
		"GET /v1/agent/monitor":                    h.monitor,
		"GET /v1/agent/host":                       h.hostInfo,
		"GET /debug/pprof/{name}":                  h.profile,
		"PUT /v1/agent/services/register":          h.registerAll,
		"PUT /v1/agent/service/deregister/{name}":  h.deregister,
		"PUT /v1/agent/service/maintenance/{name}": h.maintainService,
		"PUT /v1/agent/maintenance":                h.maintainNode,
		"PUT /v1/agent/check/register":             h.registerCheck,
		"PUT /v1/agent/check/deregister/{name}":    h.deregisterCheck,
		"PUT /v1/agent/check/pass/{name}":          h.report(catalog.HealthPassing),
		"PUT /v1/agent/check/warn/{name}":          h.report(catalog.HealthWarning),
		"PUT /v1/agent/check/fail/{name}":          h.report(catalog.HealthCritical),
		"PUT /v1/agent/check/update/{name}":        h.updateCheck,
		"GET /v1/agent/connect/ca/roots":           h.roots,
		"GET /v1/agent/connect/ca/leaf/{name}":     h.leaf,
		"POST /v1/agent/connect/authorize":         h.authorize,
		"GET /v1/agent/connect/proxy/{name}":       h.proxyAccess,
		"GET /v1/agent/connect/proxies":            h.proxies,
		"GET /v1/agent/connect/certificates":       h.certificates,
	}
}

func (h *handlers) openAPI(w http.ResponseWriter, _ *api.Request) error {
	return api.WriteJSON(w, api.OpenAPI(h.c.Version))
}

func (h *handlers) self(w http.ResponseWriter, _ *api.Request) error {
	node := h.c.State.Node()
	return api.WriteJSON(w, map[string]any{
		"Config": map[string]any{
			"Datacenter": node.Datacenter, "PrimaryDatacenter": cmp.Or(h.c.Primary, node.Datacenter), "NodeName": node.Node, "NodeID": node.ID,
			"Revision": "", "Server": h.c.Server, "Version": h.c.Version, "BuildDate": "1970-01-01T00:00:00Z",
		},
		"DebugConfig": h.c.Settings,
		"Stats":       h.stats(),
		"Member":      memberView(h.c.LAN.Local()),
		"Coord":       h.coordinate(),
		"Meta":        node.Meta,
		"xDS":         h.c.xds(),
	})
}

// xds tells where xDS is: -1 is nowhere.
func (c *Config) xds() map[string]any {
	return map[string]any{
		"SupportedProxies": map[string]any{"envoy": []string{"1.40.0"}},
		"Port":             c.GRPCPort,
		"Ports":            map[string]int{"Plaintext": c.GRPCPort, "TLS": c.GRPCTLSPort},
	}
}

// fault turns an error of the local state into what clients see.
func fault(err error) error {
	switch {
	case errors.Is(err, local.ErrInvalid):
		return &api.StatusError{Code: http.StatusBadRequest, Text: err.Error(), Err: err}
	case errors.Is(err, local.ErrUnknown):
		return &api.StatusError{Code: http.StatusNotFound, Text: err.Error(), Err: err}
	}
	return err
}

func flag(r *api.Request, name string) (bool, error) {
	v := r.URL.Query().Get(name)
	if v == "" {
		return r.URL.Query().Has(name), nil
	}
	b, err := strconv.ParseBool(v)
	if err != nil {
		return false, &api.StatusError{Code: http.StatusBadRequest, Text: fmt.Sprintf("Invalid value for ?%s", name)}
	}
	return b, nil
}

func (h *handlers) register(w http.ResponseWriter, r *api.Request) error {
	var d local.ServiceDefinition
	if err := api.ReadJSON(r, &d); err != nil {
		return err
	}
	keep, err := flag(r, "replace-existing-checks")
	if err != nil {
		return err
	}
	if err := r.Within(d.Namespace); err != nil {
		return err
	}
	d.Namespace = api.Shown(r.Options.Scope.Namespace)
	if err := h.mayRegister(r, &d); err != nil {
		return err
	}
	warnings, err := h.c.State.Register(d, api.TokenOf(r.Request), !keep)
	if err != nil {
		return fault(err)
	}
	warn(w, warnings)
	return nil
}

// registerAll is weft's: many services in one request, all or nothing, one append to the journal.
func (h *handlers) registerAll(w http.ResponseWriter, r *api.Request) error {
	var body struct{ Services []local.ServiceDefinition }
	if err := api.ReadJSON(r, &body); err != nil {
		return err
	}
	keep, err := flag(r, "replace-existing-checks")
	if err != nil {
		return err
	}
	for i := range body.Services {
		d := &body.Services[i]
		ns, err := r.NamespaceIn(d.Namespace)
		if err != nil {
			return err
		}
		d.Namespace = api.Shown(ns)
		if err := h.mayRegister(r, d); err != nil {
			return err
		}
	}
	warnings, err := h.c.State.RegisterAll(body.Services, api.TokenOf(r.Request), !keep)
	if err != nil {
		return fault(err)
	}
	warn(w, warnings)
	return nil
}

// maxWarnings bounds the headers of one answer.
const maxWarnings = 10

func warn(w http.ResponseWriter, warnings []string) {
	if more := len(warnings) - maxWarnings; more > 0 {
		warnings = append(warnings[:maxWarnings:maxWarnings], fmt.Sprintf("and %d more warnings", more))
	}
	for _, warning := range warnings {
		w.Header().Add("X-Weft-Warning", warning)
	}
}

// ownService authorises a write on the service that has this ID, which is in its own namespace: one that the request names otherwise knows none
// of this ID.
func (h *handlers) ownService(r *api.Request, id string) error {
	if svc := h.c.State.Service(id); svc != nil {
		if r.Elsewhere(svc.Record.Namespace) {
			return unknownIn(r, "service", id)
		}
		if err := r.AuthorizeIn(svc.Record.Namespace, svc.Record.Service); err != nil {
			return err
		}
		return h.mayChange(r, ofProxy(svc.Record))
	}
	return r.Authorize("")
}

func unknownIn(r *api.Request, what, id string) error {
	return &api.StatusError{
		Code: http.StatusNotFound, Text: fmt.Sprintf("unknown %s ID: %s in namespace %q", what, id, r.Options.Scope.Namespace), Err: local.ErrUnknown,
	}
}

func (h *handlers) deregister(_ http.ResponseWriter, r *api.Request) error {
	id := r.PathValue("name")
	if err := h.ownService(r, id); err != nil {
		return err
	}
	return fault(h.c.State.Deregister(id))
}

func (h *handlers) maintainService(_ http.ResponseWriter, r *api.Request) error {
	if err := h.ownService(r, r.PathValue("name")); err != nil {
		return err
	}
	return h.maintain(r, r.PathValue("name"))
}

func (h *handlers) maintainNode(_ http.ResponseWriter, r *api.Request) error {
	return h.maintain(r, "")
}

func (h *handlers) maintain(r *api.Request, service string) error {
	if !r.URL.Query().Has("enable") {
		return &api.StatusError{Code: http.StatusBadRequest, Text: "Missing value for enable"}
	}
	on, err := flag(r, "enable")
	if err != nil {
		return err
	}
	return fault(h.c.State.SetMaintenance(service, on, r.URL.Query().Get("reason")))
}

func (h *handlers) registerCheck(_ http.ResponseWriter, r *api.Request) error {
	var d local.CheckDefinition
	if err := api.ReadJSON(r, &d); err != nil {
		return err
	}
	if d.ServiceID == "" {
		d.Namespace = "" // a node has none
	}
	if err := r.Within(d.Namespace); err != nil {
		return err
	}
	if err := h.ownService(r, d.ServiceID); err != nil {
		return err
	}
	if old := h.c.State.Check(cmp.Or(d.ID, d.Name)); old != nil {
		if err := h.ownCheck(r, cmp.Or(d.ID, d.Name)); err != nil {
			return err
		}
	}
	return fault(h.c.State.RegisterCheck(d, api.TokenOf(r.Request)))
}

func (h *handlers) ownCheck(r *api.Request, id string) error {
	if c := h.c.State.Check(id); c != nil {
		if r.Elsewhere(c.Record.Namespace) {
			return unknownIn(r, "check", id)
		}
		if err := r.AuthorizeIn(c.Record.Namespace, c.Record.ServiceName); err != nil {
			return err
		}
		return h.mayChangeID(r, c.Record.ServiceID)
	}
	return r.Authorize("")
}

func (h *handlers) deregisterCheck(_ http.ResponseWriter, r *api.Request) error {
	if err := h.ownCheck(r, r.PathValue("name")); err != nil {
		return err
	}
	return fault(h.c.State.DeregisterCheck(r.PathValue("name")))
}

func (h *handlers) report(status string) api.Handler {
	return func(_ http.ResponseWriter, r *api.Request) error {
		return h.setCheck(r, status, r.URL.Query().Get("note"))
	}
}

func (h *handlers) updateCheck(_ http.ResponseWriter, r *api.Request) error {
	var update struct{ Status, Output string }
	if err := api.ReadJSON(r, &update); err != nil {
		return err
	}
	return h.setCheck(r, update.Status, update.Output)
}

// setCheck takes a report; only TTL checks take them.
func (h *handlers) setCheck(r *api.Request, status, output string) error {
	id := r.PathValue("name")
	if err := h.ownCheck(r, id); err != nil {
		return err
	}
	if c := h.c.State.Check(id); c != nil && c.Definition.Type() != local.TypeTTL {
		return &api.StatusError{Code: http.StatusInternalServerError, Text: fmt.Sprintf("CheckID %q does not have associated TTL", id)}
	}
	if err := h.c.State.SetCheck(id, status, output); err != nil {
		return fault(err)
	}
	h.c.Checks.Heartbeat(id)
	return nil
}

// leafWait bounds how long a first certificate is waited for.
const leafWait = 10 * time.Second

func (h *handlers) leaf(w http.ResponseWriter, r *api.Request) error {
	key := r.Options.Scope.Name(r.PathValue("name"))
	id := identity.Service{TrustDomain: "any.consul", Partition: key.Partition, Namespace: key.Namespace, Datacenter: key.Datacenter, Service: key.Name}
	if err := id.Validate(); err != nil { // it never gets one
		return &api.StatusError{Code: http.StatusBadRequest, Text: err.Error(), Err: err}
	}
	if err := h.permit(r, "leaf", key); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), leafWait)
	defer cancel()
	l, err := h.c.Leaves.Get(ctx, key, api.TokenOf(r.Request), h.runs(key))
	switch {
	case errors.Is(err, leaf.ErrRefused):
		return &api.StatusError{Code: http.StatusForbidden, Text: err.Error(), Err: err}
	case err != nil:
		return &api.StatusError{Code: http.StatusServiceUnavailable, Text: err.Error(), Err: err}
	}
	waited := r.Options.Index != 0 && l.ModifyIndex <= r.Options.Index
	if waited {
		had := l.SerialNumber
		ctx, cancel := context.WithTimeout(r.Context(), r.Options.Wait)
		defer cancel()
		for l.SerialNumber == had {
			changed := h.c.Leaves.Changed()
			if now, err := h.c.Leaves.Current(key); err == nil {
				l = now
			}
			if l.SerialNumber != had {
				break
			}
			select {
			case <-changed:
				continue
			case <-ctx.Done():
			}
			break
		}
	}
	if waited { // it has a key in it: who lost the right meanwhile gets nothing
		if err := errors.Join(r.Again(), h.permit(r, "leaf", key)); err != nil {
			return err
		}
	}
	api.Meta{Index: l.ModifyIndex, KnownLeader: true, Consistency: "leader"}.Write(w.Header(), r.Options)
	return api.WriteJSON(w, l)
}

// permit refuses what has a key in it to a process that the service's registrations don't name.
func (h *handlers) permit(r *api.Request, what string, service catalog.Key) error {
	if err := h.c.Proxies.Permit(r.Context(), what, service); err != nil {
		return &api.StatusError{Code: http.StatusForbidden, Text: err.Error(), Err: err}
	}
	return nil
}

// runs says whether a service is registered on this agent: then a server that doesn't know it is about to.
func (h *handlers) runs(service catalog.Key) bool {
	wanted, _ := h.c.State.Wanted()
	for _, s := range wanted.Services {
		if s.Record.Scope.Name(s.Record.Service) == service {
			return true
		}
	}
	return false
}

func (h *handlers) proxyAccess(w http.ResponseWriter, r *api.Request) error {
	a, err := h.c.Proxies.Access(r.PathValue("name"))
	if err != nil {
		return fault(err)
	}
	a.Namespace = cmp.Or(a.Namespace, api.DefaultNamespace)
	if r.Elsewhere(a.Namespace) {
		return unknownIn(r, "proxy", a.ProxyID)
	}
	if err := r.AuthorizeIn(a.Namespace, a.Service); err != nil {
		return err
	}
	if err := h.permit(r, "secret of "+a.ProxyID, a.Key); err != nil {
		return err
	}
	a.Namespace = api.Shown(a.Namespace)
	return api.WriteJSON(w, a)
}

func (h *handlers) proxies(w http.ResponseWriter, r *api.Request) error {
	visible := []ProxyStatus{}
	for _, p := range h.c.Proxies.Status() {
		if ns := cmp.Or(p.Namespace, api.DefaultNamespace); r.Asks(ns) && r.VisibleIn(ns, p.Service) {
			p.Namespace = api.Shown(p.Namespace)
			visible = append(visible, p)
		}
	}
	return api.WriteJSON(w, visible)
}

func (h *handlers) reload(http.ResponseWriter, *api.Request) error { return h.c.Reload() }
