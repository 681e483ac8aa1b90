// SPDX-License-Identifier: Apache-2.0

package rest

import (
	"net/http"
	"slices"
	"strings"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/internal/api"
)

// gatewayService is one service behind a gateway, in the form of /v1/catalog/gateway-services.
type gatewayService struct {
	Gateway      named
	Service      named
	GatewayKind  string
	Port         int      `json:",omitempty"`
	Protocol     string   `json:",omitempty"`
	Hosts        []string `json:",omitempty"`
	CAFile       string   `json:",omitempty"`
	CertFile     string   `json:",omitempty"`
	KeyFile      string   `json:",omitempty"`
	SNI          string   `json:",omitempty"`
	FromWildcard bool     `json:",omitempty"`
	CreateIndex  uint64
	ModifyIndex  uint64
}

type named struct{ Name string }

// behind lists the services that a gateway leads to, by its config entry; "*" is every service that isn't a proxy or gateway.
func behind(t *catalog.Txn, gateway catalog.Key) ([]gatewayService, error) {
	var out []gatewayService
	ingress, err := catalog.EntryAs[*catalog.IngressGateway](t, catalog.KindIngressEntry, gateway)
	if err != nil {
		return nil, err
	}
	if ingress != nil {
		for _, l := range ingress.Listeners {
			for _, s := range l.Services {
				row := gatewayService{
					Gateway: named{gateway.Name}, GatewayKind: catalog.KindIngressGateway, Port: l.Port, Protocol: l.Protocol, Hosts: s.Hosts,
					CreateIndex: ingress.CreateIndex, ModifyIndex: ingress.ModifyIndex,
				}
				if out, err = appendNamed(t, out, gateway.Scope, s.Name, row); err != nil {
					return nil, err
				}
			}
		}
	}
	terminating, err := catalog.EntryAs[*catalog.TerminatingGateway](t, catalog.KindTerminatingEntry, gateway)
	if err != nil || terminating == nil {
		return out, err
	}
	for _, s := range terminating.Services {
		row := gatewayService{
			Gateway: named{gateway.Name}, GatewayKind: catalog.KindTerminatingGateway, CAFile: s.CAFile, CertFile: s.CertFile, KeyFile: s.KeyFile,
			SNI: s.SNI, CreateIndex: terminating.CreateIndex, ModifyIndex: terminating.ModifyIndex,
		}
		if s.Name == catalog.Wildcard && slices.ContainsFunc(terminating.Services, func(o catalog.LinkedService) bool { return o.Name != catalog.Wildcard }) {
			row.FromWildcard = true
		}
		if out, err = appendNamed(t, out, gateway.Scope, s.Name, row); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// appendNamed appends the row for a service, or for each if the name is the wildcard; what is there already stays.
func appendNamed(t *catalog.Txn, out []gatewayService, scope catalog.Scope, name string, row gatewayService) ([]gatewayService, error) {
	if name != catalog.Wildcard {
		row.Service = named{name}
		return append(out, row), nil
	}
	names, err := ordinary(t, scope)
	if err != nil {
		return nil, err
	}
	row.FromWildcard = true
	for _, n := range names {
		if !slices.ContainsFunc(out, func(o gatewayService) bool { return o.Service.Name == n && o.Port == row.Port }) {
			row.Service = named{n}
			out = append(out, row)
		}
	}
	return out, nil
}

// ordinary lists the names of services that are neither proxies nor gateways.
func ordinary(t *catalog.Txn, scope catalog.Scope) ([]string, error) {
	all, err := t.ServiceNames(scope)
	if err != nil {
		return nil, err
	}
	var out []string
	for name := range all {
		instances, err := t.Instances(scope.Name(name))
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(instances, func(i *catalog.Instance) bool { return i.Service.Kind == "" }) {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out, nil
}

func (h *handlers) gatewayServices(w http.ResponseWriter, r *api.Request) error {
	return api.Answer(w, r, h.c.Store, func(t *catalog.Txn) ([]gatewayService, error) {
		all, err := behind(t, r.Options.Scope.Name(r.PathValue("name")))
		out := []gatewayService{}
		for _, s := range all {
			if r.Subject.Allow(serviceRead, s.Service.Name) == nil {
				out = append(out, s)
			}
		}
		if err != nil {
			return nil, err
		}
		return api.FilterList(r.Options.Filter, out)
	})
}

// ingressInstances are the instances of the ingress gateways that lead to a service.
func ingressInstances(t *catalog.Txn, service catalog.Key) ([]*catalog.Instance, error) {
	entries, err := t.Entries(catalog.KindIngressEntry, service.Scope)
	if err != nil {
		return nil, err
	}
	var out []*catalog.Instance
	for _, e := range entries {
		services, err := behind(t, e.Head().Key())
		if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(services, func(s gatewayService) bool {
			return s.GatewayKind == catalog.KindIngressGateway && strings.EqualFold(s.Service.Name, service.Name)
		}) {
			continue
		}
		instances, err := t.Instances(e.Head().Key())
		if err != nil {
			return nil, err
		}
		for _, i := range instances {
			if i.Service.Kind == catalog.KindIngressGateway {
				out = append(out, i)
			}
		}
	}
	return out, nil
}

// exported is a service and who may see it, in the form of /v1/exported-services.
type exported struct {
	Service   string
	Consumers struct {
		Peers      []string `json:",omitempty"`
		Partitions []string `json:",omitempty"`
	}
}

// exports resolves what is exported: names that are spelled out, and all ordinary ones for the wildcard.
func exports(t *catalog.Txn, scope catalog.Scope) ([]exported, error) {
	entry, err := catalog.EntryAs[*catalog.ExportedServices](t, catalog.KindExportedServices, scope.Name(catalog.ExportedServicesName))
	if err != nil || entry == nil {
		return []exported{}, err
	}
	by := map[string]*exported{}
	for _, s := range entry.Services {
		names := []string{s.Name}
		if s.Name == catalog.Wildcard {
			if names, err = ordinary(t, scope); err != nil {
				return nil, err
			}
		}
		for _, name := range names {
			if by[name] == nil {
				by[name] = &exported{Service: name}
			}
			for _, c := range s.Consumers {
				if err := by[name].add(t, scope, c); err != nil {
					return nil, err
				}
			}
		}
	}
	out := make([]exported, 0, len(by))
	for _, e := range by {
		out = append(out, *e)
	}
	slices.SortFunc(out, func(a, b exported) int { return strings.Compare(a.Service, b.Service) })
	return out, nil
}

// add takes a consumer in; a sameness group is its members.
func (e *exported) add(t *catalog.Txn, scope catalog.Scope, c catalog.ServiceConsumer) error {
	put := func(list *[]string, name string) {
		if name != "" && !slices.Contains(*list, name) {
			*list = append(*list, name)
			slices.Sort(*list)
		}
	}
	put(&e.Consumers.Peers, c.Peer)
	put(&e.Consumers.Partitions, c.Partition)
	if c.SamenessGroup == "" {
		return nil
	}
	group, err := catalog.EntryAs[*catalog.SamenessGroup](t, catalog.KindSamenessGroup, scope.Name(c.SamenessGroup))
	if err != nil || group == nil {
		return err
	}
	for _, m := range group.Members {
		put(&e.Consumers.Peers, m.Peer)
		put(&e.Consumers.Partitions, m.Partition)
	}
	return nil
}

func (h *handlers) exportedServices(w http.ResponseWriter, r *api.Request) error {
	return api.Answer(w, r, h.c.Store, func(t *catalog.Txn) ([]exported, error) {
		all, err := exports(t, r.Options.Scope)
		out := []exported{}
		for _, e := range all {
			if r.Visible(e.Service) {
				out = append(out, e)
			}
		}
		if err != nil {
			return nil, err
		}
		return api.FilterList(r.Options.Filter, out)
	})
}

// usage counts what is registered.
type usage struct {
	Nodes                    int
	Services                 int
	ServiceInstances         int
	ConnectServiceInstances  map[string]int
	BillableServiceInstances int
}

func (h *handlers) usage(w http.ResponseWriter, r *api.Request) error {
	return api.Answer(w, r, h.c.Store, func(t *catalog.Txn) (any, error) {
		u := usage{ConnectServiceInstances: map[string]int{
			catalog.KindConnectProxy: 0, catalog.KindMeshGateway: 0, catalog.KindTerminatingGateway: 0, catalog.KindIngressGateway: 0,
			catalog.KindAPIGateway: 0, "connect-native": 0,
		}}
		nodes, err := t.Nodes(r.Options.Scope)
		if err != nil {
			return nil, err
		}
		u.Nodes = len(nodes)
		spaces, err := t.Namespaces()
		if err != nil {
			return nil, err
		}
		for _, n := range spaces {
			scope := r.Options.Scope
			scope.Namespace = n.Name
			if err := u.count(t, scope); err != nil {
				return nil, err
			}
		}
		return map[string]any{"Usage": map[string]usage{t.Datacenter(): u}}, nil
	})
}

// count adds what is registered in a namespace.
func (u *usage) count(t *catalog.Txn, scope catalog.Scope) error {
	names, err := t.ServiceNames(scope)
	if err != nil {
		return err
	}
	u.Services += len(names)
	for name := range names {
		instances, err := t.Instances(scope.Name(name))
		if err != nil {
			return err
		}
		for _, i := range instances {
			u.ServiceInstances++
			switch {
			case i.Service.Kind != "":
				u.ConnectServiceInstances[i.Service.Kind]++
			case i.Service.Connect != nil && i.Service.Connect.Native:
				u.ConnectServiceInstances["connect-native"]++
			}
			if i.Service.Kind == "" && i.Service.Service != "consul" {
				u.BillableServiceInstances++
			}
		}
	}
	return nil
}
