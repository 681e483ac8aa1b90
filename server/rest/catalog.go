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
	"github.com/weftmesh/weft/internal/api"
)

// registration is the body of /v1/catalog/register.
type registration struct {
	ID              string
	Node            string
	Address         string
	Datacenter      string
	TaggedAddresses map[string]string
	NodeMeta        map[string]string
	SkipNodeUpdate  bool
	Namespace       string
	Partition       string
	Service         *serviceBody
	Check           *checkBody
	Checks          []checkBody
}

type serviceBody struct {
	Kind              string
	ID                string
	Service           string `decode:"name"`
	Tags              []string
	Address           string
	SocketPath        string
	TaggedAddresses   map[string]catalog.ServiceAddress
	Meta              map[string]string
	Port              int
	Ports             []catalog.ServicePort
	Weights           *catalog.Weights
	EnableTagOverride bool
	Proxy             *catalog.Proxy
	Connect           *catalog.Connect
	Locality          *catalog.Locality
	Namespace         string
	Partition         string
	CreateIndex       uint64
	ModifyIndex       uint64
}

type checkBody struct {
	Node        string
	CheckID     string `decode:"id"`
	Name        string
	Status      string
	Notes       string
	Output      string
	ServiceID   string
	ServiceName string
	ServiceTags []string
	Type        string
	Interval    string
	Timeout     string
	ExposedPort int
	Definition  catalog.CheckDefinition
	Namespace   string
	Partition   string
	CreateIndex uint64
	ModifyIndex uint64
}

// record is the body as a record on a node.
func (s *serviceBody) record(scope catalog.Scope, node string) catalog.Service {
	record := catalog.Service{
		Scope: scope, Node: node, ID: s.ID, Service: s.Service, Kind: s.Kind, Tags: s.Tags, Address: s.Address, SocketPath: s.SocketPath,
		TaggedAddresses: s.TaggedAddresses, Meta: s.Meta, Port: s.Port, Ports: s.Ports, Weights: catalog.Weights{Passing: 1, Warning: 1},
		EnableTagOverride: s.EnableTagOverride, Proxy: s.Proxy, Connect: s.Connect, Locality: s.Locality,
	}
	if record.ID == "" {
		record.ID = record.Service
	}
	if s.Weights != nil {
		record.Weights = *s.Weights
	}
	return record
}

// record is the body as a record on a node.
func (c *checkBody) record(scope catalog.Scope, node string) catalog.Check {
	record := catalog.Check{
		Scope: scope, Node: node, CheckID: c.CheckID, Name: c.Name, Status: c.Status, Notes: c.Notes, Output: c.Output,
		ServiceID: c.ServiceID, ServiceName: c.ServiceName, ServiceTags: c.ServiceTags, Type: c.Type, Interval: c.Interval,
		Timeout: c.Timeout, ExposedPort: c.ExposedPort, Definition: c.Definition,
	}
	if record.CheckID == "" {
		record.CheckID = record.Name
	}
	if record.Status == "" {
		record.Status = catalog.HealthCritical
	}
	return record
}

func badRequest(format string, args ...any) error {
	return &api.StatusError{Code: http.StatusBadRequest, Text: fmt.Sprintf(format, args...)}
}

func (h *handlers) register(w http.ResponseWriter, r *api.Request) error {
	var b registration
	if err := api.ReadJSON(r, &b); err != nil {
		return err
	}
	if err := r.Within(b.namespace()); err != nil {
		return err
	}
	cmd, err := b.command(r)
	if err != nil {
		return err
	}
	if err := mayRegister(r, h.c.Store, &cmd); err != nil {
		return err
	}
	if _, err := h.propose(w, r, &cmd); err != nil {
		return err
	}
	for _, s := range cmd.Services {
		if s.Proxy == nil {
			continue
		}
		for _, key := range s.Proxy.Ineffective() {
			w.Header().Add("X-Weft-Warning", fmt.Sprintf("service %q: proxy.%s is known but has no effect yet", s.ID, key))
		}
	}
	return api.WriteJSON(w, true)
}

// namespace is the one that the body is about: the service's where that says one, else the registration's.
func (b *registration) namespace() string {
	if b.Service != nil && b.Service.Namespace != "" {
		return b.Service.Namespace
	}
	return b.Namespace
}

func (b *registration) command(r *api.Request) (catalog.Register, error) {
	if b.Node == "" {
		return catalog.Register{}, refused(errors.New("Must provide node"))
	}
	if b.Address == "" && !b.SkipNodeUpdate {
		return catalog.Register{}, refused(errors.New("Must provide address if SkipNodeUpdate is not set"))
	}
	scope := r.Options.Scope
	if b.Datacenter != "" && b.Datacenter != scope.Datacenter {
		return catalog.Register{}, &api.StatusError{Code: http.StatusInternalServerError, Text: "No path to datacenter: this cluster is " + scope.Datacenter}
	}
	nodeScope := scope
	nodeScope.Namespace = catalog.DefaultNamespace
	cmd := catalog.Register{SkipNodeUpdate: b.SkipNodeUpdate, Node: catalog.Node{
		Scope: nodeScope, ID: b.ID, Node: b.Node, Address: b.Address, TaggedAddresses: b.TaggedAddresses, Meta: b.NodeMeta,
	}}
	if s := b.Service; s != nil {
		if s.Service == "" {
			return cmd, refused(errors.New("Must provide service name (Service.Service)"))
		}
		record := s.record(scope, b.Node)
		if err := CheckService(&record); err != nil {
			return cmd, err
		}
		cmd.Services = append(cmd.Services, record)
	}
	n := len(b.Checks)
	if b.Check != nil {
		n++
	}
	cmd.Checks = slices.Grow(cmd.Checks, n)
	add := func(c *checkBody) error {
		if ns := c.Namespace; ns != "" && ns != scope.Namespace {
			return badRequest("Invalid namespace: check %q names %q, and the registration is about %q", c.Name, ns, scope.Namespace)
		}
		cmd.Checks = append(cmd.Checks, c.record(scope, b.Node))
		return CheckCheck(&cmd.Checks[len(cmd.Checks)-1])
	}
	for i := range b.Checks {
		if err := add(&b.Checks[i]); err != nil {
			return cmd, err
		}
	}
	if b.Check != nil {
		return cmd, add(b.Check)
	}
	return cmd, nil
}

func (h *handlers) deregister(w http.ResponseWriter, r *api.Request) error {
	var b struct{ Datacenter, Node, ServiceID, CheckID, Namespace, Partition string }
	if err := api.ReadJSON(r, &b); err != nil {
		return err
	}
	if b.Node == "" {
		return refused(errors.New("Must provide node"))
	}
	if err := r.Within(b.Namespace); err != nil {
		return err
	}
	if err := mayDeregister(r, h.c.Store.Read(), b.Node, b.ServiceID, b.CheckID); err != nil {
		return err
	}
	cmd := catalog.Deregister{Scope: r.Options.Scope, Node: b.Node, ServiceID: b.ServiceID, CheckID: b.CheckID}
	if _, err := h.propose(w, r, cmd); err != nil {
		return err
	}
	return api.WriteJSON(w, true)
}

func (h *handlers) nodes(w http.ResponseWriter, r *api.Request) error {
	return api.Answer(w, r, h.c.Store, func(t *catalog.Txn) ([]nodeView, error) {
		nodes, err := t.Nodes(r.Options.Scope)
		if err != nil {
			return nil, err
		}
		out := []nodeView{}
		for _, n := range nodes {
			if r.Visible(n.Node) && matches(n.Meta, r.Options.NodeMeta) {
				out = append(out, viewNode(n))
			}
		}
		if err := nearFirst(t, r, r.Options.Near, out, func(n nodeView) string { return n.Node }); err != nil {
			return nil, err
		}
		return api.FilterList(r.Options.Filter, out)
	})
}

func (h *handlers) services(w http.ResponseWriter, r *api.Request) error {
	return api.Answer(w, r, h.c.Store, func(t *catalog.Txn) (map[string][]string, error) {
		names, err := t.ServiceNames(r.Options.Scope)
		if err != nil {
			return nil, err
		}
		filter, err := api.NewFilter(r.Options.Filter)
		if err != nil {
			return nil, err
		}
		out := map[string][]string{}
		for name, tags := range names {
			if !r.Visible(name) {
				continue
			}
			if filter != nil || len(r.Options.NodeMeta) > 0 {
				var some bool
				if tags, some, err = someTags(t, r, filter, name); err != nil {
					return nil, err
				}
				if !some {
					continue
				}
			}
			out[name] = append([]string{}, tags...)
		}
		return out, nil
	})
}

// someTags are the tags of a service's instances that the request's filter and node-meta leave; some is whether any is left.
func someTags(t *catalog.Txn, r *api.Request, filter *api.Filter, name string) (tags []string, some bool, err error) {
	instances, err := t.Instances(r.Options.Scope.Name(name))
	if err != nil {
		return nil, false, err
	}
	for _, i := range instances {
		keep, err := filter.Keeps(viewFlat(i))
		if err != nil {
			return nil, false, err
		}
		if keep && matches(i.Node.Meta, r.Options.NodeMeta) {
			some = true
			tags = append(tags, i.Service.Tags...)
		}
	}
	slices.Sort(tags)
	return slices.Compact(tags), some, nil
}

type instancesOf func(*catalog.Txn, catalog.Key) ([]*catalog.Instance, error)

// seen are the instances of nodes that the caller may read.
func seen(r *api.Request, all []*catalog.Instance) []*catalog.Instance {
	if r.SeesAll("node") {
		return all
	}
	var out []*catalog.Instance
	for _, i := range all {
		if r.Sees("node", i.Node.Node) {
			out = append(out, i)
		}
	}
	return out
}

// selected are the instances that the request's tag, node-meta and passing options leave of those that its caller may read.
func selected(r *api.Request, all []*catalog.Instance) ([]*catalog.Instance, error) {
	passing, err := parseBool(r, "passing")
	if err != nil {
		return nil, err
	}
	var out []*catalog.Instance
	for _, i := range seen(r, all) {
		if tagged(i.Service.Tags, r.Options.Tags) && matches(i.Node.Meta, r.Options.NodeMeta) && (!passing || i.Status() == catalog.HealthPassing) {
			out = append(out, i)
		}
	}
	return out, nil
}

func list[T any](r *api.Request, read instancesOf, view func(*catalog.Instance) T) func(*catalog.Txn) ([]T, error) {
	return func(t *catalog.Txn) ([]T, error) {
		all, err := read(t, r.Options.Scope.Name(r.PathValue("name")))
		if err == nil {
			all, err = selected(r, all)
		}
		if err == nil {
			err = nearFirst(t, r, r.Options.Near, all, nodeOf)
		}
		if err == nil && asksCentral(r) {
			all, err = withCentral(t, r, all)
		}
		if err != nil {
			return nil, err
		}
		out := make([]T, 0, len(all))
		for _, i := range all {
			out = append(out, view(i))
		}
		return api.FilterList(r.Options.Filter, out)
	}
}

func (h *handlers) catalogService(read instancesOf) api.Handler { return answerList(h, read, viewFlat) }

func (h *handlers) healthService(read instancesOf) api.Handler {
	return answerList(h, read, viewInstance)
}

func answerList[T any](h *handlers, read instancesOf, view func(*catalog.Instance) T) api.Handler {
	return func(w http.ResponseWriter, r *api.Request) error {
		if asksCentral(r) { // which depends on what else the caller may read
			return api.Answer(w, r, h.c.Store, list(r, read, view))
		}
		return api.AnswerShared(w, r, h.c.Store, &h.shared, list(r, read, view))
	}
}

func (h *handlers) node(w http.ResponseWriter, r *api.Request) error {
	type view struct {
		Node     nodeView
		Services map[string]serviceView
	}
	return api.Answer(w, r, h.c.Store, func(t *catalog.Txn) (*view, error) {
		node, services, err := onNode(t, r)
		if err != nil || node == nil {
			return nil, err
		}
		v, list := &view{Node: viewNode(node), Services: map[string]serviceView{}}, make([]serviceView, 0, len(services))
		for _, s := range services {
			if seesService(r, s) {
				list = append(list, viewService(s))
			}
		}
		list, err = api.FilterList(r.Options.Filter, list)
		for _, s := range list {
			v.Services[s.ID] = s
		}
		return v, err
	})
}

func (h *handlers) nodeServices(w http.ResponseWriter, r *api.Request) error {
	type view struct {
		Node     nodeView
		Services []serviceView
	}
	return api.Answer(w, r, h.c.Store, func(t *catalog.Txn) (*view, error) {
		node, services, err := onNode(t, r)
		if err != nil || node == nil {
			return nil, err
		}
		v := &view{Node: viewNode(node), Services: []serviceView{}}
		for _, s := range services {
			if !seesService(r, s) {
				continue
			}
			if asksCentral(r) {
				if s, err = centralService(t, r, s); err != nil {
					return nil, err
				}
			}
			v.Services = append(v.Services, viewService(s))
		}
		v.Services, err = api.FilterList(r.Options.Filter, v.Services)
		return v, err
	})
}

func onNode(t *catalog.Txn, r *api.Request) (*catalog.Node, []*catalog.Service, error) {
	key := r.Options.Scope.Name(r.PathValue("name"))
	node, err := t.Node(key)
	if err == nil && node == nil {
		node, err = nodeByID(t, key)
	}
	if err != nil || node == nil {
		return nil, nil, err
	}
	key = node.Key()
	services, err := t.NodeServices(key)
	return node, services, err
}

// nodeByID finds the node whose ID begins with a name, if there is just one; a few letters are no ID.
func nodeByID(t *catalog.Txn, key catalog.Key) (*catalog.Node, error) {
	if len(key.Name) < 8 {
		return nil, nil
	}
	nodes, err := t.Nodes(key.Scope)
	if err != nil {
		return nil, err
	}
	nodes = slices.DeleteFunc(nodes, func(n *catalog.Node) bool {
		return !strings.HasPrefix(strings.ToLower(n.ID), strings.ToLower(key.Name))
	})
	if len(nodes) != 1 {
		return nil, nil
	}
	return nodes[0], nil
}

func viewChecks(checks []*catalog.Check, keep func(*catalog.Check) bool) []api.CheckView {
	out := []api.CheckView{}
	for _, c := range checks {
		if keep(c) {
			out = append(out, api.ViewCheck(c))
		}
	}
	return out
}

// seesCheck says of a node's checks which may be shown: those of a service to who may read that.
func seesCheck(r *api.Request) func(*catalog.Check) bool {
	return func(c *catalog.Check) bool {
		return c.ServiceName == "" || r.Asks(c.Namespace) && r.SeesIn(c.Namespace, "service", c.ServiceName)
	}
}

// seesService says of a node's services which may be shown: those of the namespace that is asked about, to who may read them there.
func seesService(r *api.Request, s *catalog.Service) bool {
	return r.Asks(s.Namespace) && r.SeesIn(s.Namespace, "service", s.Service)
}

func (h *handlers) healthNode(w http.ResponseWriter, r *api.Request) error {
	return api.Answer(w, r, h.c.Store, func(t *catalog.Txn) ([]api.CheckView, error) {
		checks, err := t.NodeChecks(r.Options.Scope.Name(r.PathValue("name")))
		if err != nil {
			return nil, err
		}
		return api.FilterList(r.Options.Filter, viewChecks(checks, seesCheck(r)))
	})
}

func (h *handlers) healthChecks(w http.ResponseWriter, r *api.Request) error {
	return api.Answer(w, r, h.c.Store, func(t *catalog.Txn) ([]api.CheckView, error) {
		all, err := t.Instances(r.Options.Scope.Name(r.PathValue("name")))
		if err != nil {
			return nil, err
		}
		if err := nearFirst(t, r, r.Options.Near, all, nodeOf); err != nil {
			return nil, err
		}
		out := []api.CheckView{}
		for _, i := range seen(r, all) {
			if !matches(i.Node.Meta, r.Options.NodeMeta) {
				continue
			}
			out = append(out, viewChecks(i.Checks, func(c *catalog.Check) bool { return c.ServiceID == i.Service.ID })...)
		}
		return api.FilterList(r.Options.Filter, out)
	})
}

func (h *handlers) healthState(w http.ResponseWriter, r *api.Request) error {
	state := r.PathValue("name")
	switch state {
	case "any", catalog.HealthPassing, catalog.HealthWarning, catalog.HealthCritical:
	default:
		return badRequest("Invalid state %q: want any, passing, warning or critical", state)
	}
	return api.Answer(w, r, h.c.Store, func(t *catalog.Txn) ([]api.CheckView, error) {
		nodes, err := t.Nodes(r.Options.Scope)
		if err != nil {
			return nil, err
		}
		out := []api.CheckView{}
		for _, n := range nodes {
			if !r.Visible(n.Node) || !matches(n.Meta, r.Options.NodeMeta) {
				continue
			}
			checks, err := t.NodeChecks(n.Key())
			if err != nil {
				return nil, err
			}
			out = append(out, viewChecks(checks, func(c *catalog.Check) bool { return (state == "any" || c.Status == state) && seesCheck(r)(c) })...)
		}
		if err := nearFirst(t, r, r.Options.Near, out, func(c api.CheckView) string { return c.Node }); err != nil {
			return nil, err
		}
		return api.FilterList(r.Options.Filter, out)
	})
}

// now is the time that goes into commands.
func (h *handlers) now() *time.Time {
	t := h.c.Now().UTC().Round(0)
	return &t
}
