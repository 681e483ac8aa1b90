// SPDX-License-Identifier: Apache-2.0

package rest

import (
	"net/http"
	"slices"
	"strings"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/connect/identity"
	"github.com/weftmesh/weft/connect/intention"
	"github.com/weftmesh/weft/internal/api"
)

// uiNode is a node with all that is on it, in the form of /v1/internal/ui/nodes.
type uiNode struct {
	ID, Node, Address, Datacenter string
	TaggedAddresses, Meta         map[string]string
	Services                      []serviceView
	Checks                        []api.CheckView
	CreateIndex, ModifyIndex      uint64
}

func uiNodeOf(t *catalog.Txn, r *api.Request, n *catalog.Node) (uiNode, error) {
	flat := viewNode(n)
	v := uiNode{
		ID: flat.ID, Node: flat.Node, Address: flat.Address, Datacenter: flat.Datacenter, TaggedAddresses: flat.TaggedAddresses, Meta: flat.Meta,
		CreateIndex: flat.CreateIndex, ModifyIndex: flat.ModifyIndex, Services: []serviceView{}, Checks: []api.CheckView{},
	}
	services, err := t.NodeServices(n.Key())
	if err != nil {
		return v, err
	}
	checks, err := t.NodeChecks(n.Key())
	for _, s := range services {
		if seesService(r, s) {
			v.Services = append(v.Services, viewService(s))
		}
	}
	for _, c := range checks {
		if seesCheck(r)(c) {
			v.Checks = append(v.Checks, api.ViewCheck(c))
		}
	}
	return v, err
}

func (h *handlers) uiNodes(w http.ResponseWriter, r *api.Request) error {
	return api.Answer(w, r, h.c.Store, func(t *catalog.Txn) ([]uiNode, error) {
		nodes, err := t.Nodes(r.Options.Scope)
		if err != nil {
			return nil, err
		}
		out := []uiNode{}
		for _, n := range nodes {
			if !r.Visible(n.Node) || !matches(n.Meta, r.Options.NodeMeta) {
				continue
			}
			v, err := uiNodeOf(t, r, n)
			if err != nil {
				return nil, err
			}
			out = append(out, v)
		}
		return api.FilterList(r.Options.Filter, out)
	})
}

func (h *handlers) uiNode(w http.ResponseWriter, r *api.Request) error {
	return api.Answer(w, r, h.c.Store, func(t *catalog.Txn) (*uiNode, error) {
		n, err := t.Node(r.Options.Scope.Name(r.PathValue("name")))
		if err != nil || n == nil {
			return nil, err
		}
		v, err := uiNodeOf(t, r, n)
		return &v, err
	})
}

// uiService is a service in a list of services.
type uiService struct {
	Kind                 string `json:",omitempty"`
	Name                 string
	Datacenter           string
	Tags                 []string
	Nodes                []string
	ExternalSources      []string
	InstanceCount        int
	ChecksPassing        int
	ChecksWarning        int
	ChecksCritical       int
	ConnectedWithProxy   bool
	ConnectedWithGateway bool
	ConnectNative        bool
	TransparentProxy     bool
}

// summary puts a service's instances into one row.
func summary(t *catalog.Txn, key catalog.Key, tags []string) (uiService, error) {
	v := uiService{Name: key.Name, Datacenter: key.Datacenter, Tags: append([]string{}, tags...), Nodes: []string{}, ExternalSources: []string{}}
	instances, err := t.Instances(key)
	if err != nil {
		return v, err
	}
	put := func(list *[]string, s string) {
		if s != "" && !slices.Contains(*list, s) {
			*list = append(*list, s)
		}
	}
	for _, i := range instances {
		v.InstanceCount++
		v.Kind = i.Service.Kind
		v.ConnectNative = v.ConnectNative || i.Service.Connect != nil && i.Service.Connect.Native
		put(&v.Nodes, i.Node.Node)
		put(&v.ExternalSources, i.Service.Meta["external-source"])
		for _, c := range i.Checks {
			switch c.Status {
			case catalog.HealthPassing:
				v.ChecksPassing++
			case catalog.HealthWarning:
				v.ChecksWarning++
			default:
				v.ChecksCritical++
			}
		}
	}
	proxies, err := t.ConnectInstances(key)
	v.ConnectedWithProxy = slices.ContainsFunc(proxies, func(i *catalog.Instance) bool { return i.Service.Kind == catalog.KindConnectProxy })
	return v, err
}

func (h *handlers) uiServices(w http.ResponseWriter, r *api.Request) error {
	return api.Answer(w, r, h.c.Store, func(t *catalog.Txn) ([]uiService, error) {
		names, err := t.ServiceNames(r.Options.Scope)
		if err != nil {
			return nil, err
		}
		led := map[string]bool{}
		for _, kind := range []string{catalog.KindIngressEntry, catalog.KindTerminatingEntry} {
			entries, err := t.Entries(kind, r.Options.Scope)
			if err != nil {
				return nil, err
			}
			for _, e := range entries {
				services, err := behind(t, e.Head().Key())
				if err != nil {
					return nil, err
				}
				for _, s := range services {
					led[s.Service.Name] = true
				}
			}
		}
		out := []uiService{}
		for name, tags := range names {
			if !r.Visible(name) {
				continue
			}
			v, err := summary(t, r.Options.Scope.Name(name), tags)
			if err != nil {
				return nil, err
			}
			v.ConnectedWithGateway = led[name]
			out = append(out, v)
		}
		slices.SortFunc(out, func(a, b uiService) int { return strings.Compare(a.Name, b.Name) })
		return api.FilterList(r.Options.Filter, out)
	})
}

// uiCount counts by health.
type uiCount struct {
	Name                              string `json:",omitempty"`
	Total, Passing, Warning, Critical int
}

func (c *uiCount) add(status string) {
	c.Total++
	switch status {
	case catalog.HealthPassing:
		c.Passing++
	case catalog.HealthWarning:
		c.Warning++
	default:
		c.Critical++
	}
}

func worst(checks []*catalog.Check) string { return (&catalog.Instance{Checks: checks}).Status() }

func (h *handlers) uiOverview(w http.ResponseWriter, r *api.Request) error {
	return api.Answer(w, r, h.c.Store, func(t *catalog.Txn) (any, error) {
		nodes, err := t.Nodes(r.Options.Scope)
		if err != nil {
			return nil, err
		}
		var onNodes, checks uiCount
		for _, n := range nodes {
			all, err := t.NodeChecks(n.Key())
			if err != nil {
				return nil, err
			}
			own := slices.DeleteFunc(slices.Clone(all), func(c *catalog.Check) bool { return c.ServiceID != "" })
			onNodes.add(worst(own))
			for _, c := range all {
				checks.add(c.Status)
			}
		}
		names, err := t.ServiceNames(r.Options.Scope)
		if err != nil {
			return nil, err
		}
		services := []uiCount{}
		for name := range names {
			instances, err := t.Instances(r.Options.Scope.Name(name))
			if err != nil {
				return nil, err
			}
			count := uiCount{Name: name}
			for _, i := range instances {
				count.add(i.Status())
			}
			services = append(services, count)
		}
		slices.SortFunc(services, func(a, b uiCount) int { return strings.Compare(a.Name, b.Name) })
		return map[string]any{"Nodes": []uiCount{onNodes}, "Services": services, "Checks": []uiCount{checks}}, nil
	})
}

// uiNeighbour is a service that another calls, or is called by.
type uiNeighbour struct {
	uiService
	Source    string
	Intention struct {
		DefaultAllow   bool
		Allowed        bool
		HasPermissions bool
		ExternalSource string
		HasExact       bool
	}
}

func (h *handlers) uiTopology(w http.ResponseWriter, r *api.Request) error {
	return api.Answer(w, r, h.c.Store, func(t *catalog.Txn) (any, error) {
		key := r.Options.Scope.Name(r.PathValue("name"))
		up, down, protocol, err := h.neighbours(t, key)
		if err != nil {
			return nil, err
		}
		return map[string]any{
			"Protocol": protocol, "TransparentProxy": false, "Upstreams": up, "Downstreams": down, "FilteredByACLs": false,
		}, nil
	})
}

// neighbours finds who calls a service and whom it calls, by the upstreams that sidecars were registered with.
func (h *handlers) neighbours(t *catalog.Txn, key catalog.Key) (up, down []uiNeighbour, protocol string, err error) {
	up, down, protocol = []uiNeighbour{}, []uiNeighbour{}, catalog.ProtocolTCP
	names, err := t.ServiceNames(key.Scope)
	if err != nil {
		return nil, nil, "", err
	}
	defaults, err := catalog.EntryAs[*catalog.ServiceDefaults](t, catalog.KindServiceDefaults, key)
	if err != nil {
		return nil, nil, "", err
	}
	if defaults != nil && defaults.Protocol != "" {
		protocol = defaults.Protocol
	}
	seen := map[string]bool{}
	add := func(list *[]uiNeighbour, way string, other, source, destination catalog.Key) error {
		if seen[way+other.Name] {
			return nil
		}
		seen[way+other.Name] = true
		n := uiNeighbour{Source: "proxy-registration"}
		var err error
		if n.uiService, err = summary(t, other, names[other.Name]); err != nil {
			return err
		}
		d, err := intention.Decide(t, identity.Service{
			Partition: source.Partition, Namespace: source.Namespace, Datacenter: source.Datacenter, Service: source.Name,
		}, destination, h.c.DefaultAllow)
		n.Intention.DefaultAllow, n.Intention.Allowed = h.c.DefaultAllow, d.Allowed
		*list = append(*list, n)
		return err
	}
	for name := range names {
		instances, err := t.Instances(key.Scope.Name(name))
		if err != nil {
			return nil, nil, "", err
		}
		for _, i := range instances {
			if i.Service.Kind != catalog.KindConnectProxy || i.Service.Proxy == nil {
				continue
			}
			from := key.Scope.Name(i.Service.Proxy.DestinationServiceName)
			for _, u := range i.Service.Proxy.Upstreams {
				to := u.Key(key.Scope)
				if to.Namespace != key.Namespace {
					continue // of another namespace, which this isn't about
				}
				if strings.EqualFold(from.Name, key.Name) {
					err = add(&up, "up ", to, from, to)
				}
				if err == nil && strings.EqualFold(to.Name, key.Name) {
					err = add(&down, "down ", from, from, to)
				}
				if err != nil {
					return nil, nil, "", err
				}
			}
		}
	}
	for _, list := range [][]uiNeighbour{up, down} {
		slices.SortFunc(list, func(a, b uiNeighbour) int { return strings.Compare(a.Name, b.Name) })
	}
	return up, down, protocol, nil
}

func (h *handlers) uiGatewayServices(w http.ResponseWriter, r *api.Request) error {
	return api.Answer(w, r, h.c.Store, func(t *catalog.Txn) ([]uiService, error) {
		all, err := behind(t, r.Options.Scope.Name(r.PathValue("name")))
		if err != nil {
			return nil, err
		}
		names, err := t.ServiceNames(r.Options.Scope)
		if err != nil {
			return nil, err
		}
		out := []uiService{}
		for _, s := range all {
			v, err := summary(t, r.Options.Scope.Name(s.Service.Name), names[s.Service.Name])
			if err != nil {
				return nil, err
			}
			v.ConnectedWithGateway = true
			out = append(out, v)
		}
		return out, nil
	})
}

func (h *handlers) uiGatewayIntentions(w http.ResponseWriter, r *api.Request) error {
	return api.Answer(w, r, h.c.Store, func(t *catalog.Txn) ([]intentionView, error) {
		services, err := behind(t, r.Options.Scope.Name(r.PathValue("name")))
		if err != nil {
			return nil, err
		}
		rules, err := all(t, r.Options.Scope)
		return slices.DeleteFunc(rules, func(v intentionView) bool {
			return !slices.ContainsFunc(services, func(s gatewayService) bool {
				return v.DestinationName == s.Service.Name || v.DestinationName == catalog.Wildcard
			})
		}), err
	})
}

func (h *handlers) federationStates(w http.ResponseWriter, _ *api.Request) error {
	return api.WriteJSON(w, []struct{}{}) // one datacenter has no states of others
}

func (h *handlers) federationGateways(w http.ResponseWriter, _ *api.Request) error {
	return api.WriteJSON(w, map[string]any{})
}
