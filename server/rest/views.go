// SPDX-License-Identifier: Apache-2.0

package rest

import (
	"strings"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/internal/api"
)

// nodeView is a node in the form of the catalog and health endpoints.
type nodeView struct {
	ID              string
	Node            string
	Address         string
	Datacenter      string
	TaggedAddresses map[string]string
	Meta            map[string]string
	CreateIndex     uint64
	ModifyIndex     uint64
}

func viewNode(n *catalog.Node) nodeView {
	v := nodeView{
		ID: n.ID, Node: n.Node, Address: n.Address, Datacenter: n.Datacenter, TaggedAddresses: n.TaggedAddresses, Meta: n.Meta,
		CreateIndex: n.CreateIndex, ModifyIndex: n.ModifyIndex,
	}
	if v.TaggedAddresses == nil {
		v.TaggedAddresses = map[string]string{}
	}
	if v.Meta == nil {
		v.Meta = map[string]string{}
	}
	return v
}

// serviceView is a service in the form of the health endpoints.
type serviceView struct {
	Kind              string `json:",omitempty"`
	ID                string
	Service           string
	Tags              []string
	Address           string
	TaggedAddresses   map[string]catalog.ServiceAddress `json:",omitempty"`
	Meta              map[string]string
	Port              int
	Ports             []catalog.ServicePort `json:",omitempty"`
	SocketPath        string                `json:",omitempty"`
	Weights           catalog.Weights
	EnableTagOverride bool
	Proxy             catalog.Proxy
	Connect           catalog.Connect
	Locality          *catalog.Locality `json:",omitempty"`
	Namespace         string            `json:",omitempty"`
	CreateIndex       uint64
	ModifyIndex       uint64
}

// virtualTag is the tagged address by which an instance shows its service's virtual IP.
const virtualTag = "consul-virtual"

func viewService(s *catalog.Service) serviceView {
	v := serviceView{
		Kind: s.Kind, ID: s.ID, Service: s.Service, Tags: s.Tags, Address: s.Address, TaggedAddresses: s.TaggedAddresses, Meta: s.Meta,
		Port: s.Port, Ports: s.Ports, SocketPath: s.SocketPath, Weights: s.Weights, EnableTagOverride: s.EnableTagOverride, Locality: s.Locality,
		Namespace: api.Shown(s.Namespace), CreateIndex: s.CreateIndex, ModifyIndex: s.ModifyIndex,
	}
	if s.VirtualIP != "" {
		v.TaggedAddresses = map[string]catalog.ServiceAddress{virtualTag: {Address: s.VirtualIP, Port: s.Port}}
		for name, a := range s.TaggedAddresses {
			if name != virtualTag {
				v.TaggedAddresses[name] = a
			}
		}
	}
	if s.Proxy != nil {
		v.Proxy = *s.Proxy
	}
	if s.Connect != nil {
		v.Connect = *s.Connect
	}
	if v.Tags == nil {
		v.Tags = []string{}
	}
	if v.Meta == nil {
		v.Meta = map[string]string{}
	}
	return v
}

// healthView is an instance in the form of /v1/health/service.
type healthView struct {
	Node    nodeView
	Service serviceView
	Checks  []api.CheckView
}

func viewInstance(i *catalog.Instance) healthView {
	v := healthView{Node: viewNode(i.Node), Service: viewService(i.Service), Checks: make([]api.CheckView, 0, len(i.Checks))}
	for _, c := range i.Checks {
		v.Checks = append(v.Checks, api.ViewCheck(c))
	}
	return v
}

// catalogView is an instance in the flat form of /v1/catalog/service.
type catalogView struct {
	ID                       string
	Node                     string
	Address                  string
	Datacenter               string
	TaggedAddresses          map[string]string
	NodeMeta                 map[string]string
	ServiceKind              string
	ServiceID                string
	ServiceName              string
	ServiceTags              []string
	ServiceAddress           string
	ServiceTaggedAddresses   map[string]catalog.ServiceAddress `json:",omitempty"`
	ServiceWeights           catalog.Weights
	ServiceMeta              map[string]string
	ServicePort              int
	ServiceSocketPath        string `json:",omitempty"`
	ServiceEnableTagOverride bool
	ServiceProxy             catalog.Proxy
	ServiceConnect           catalog.Connect
	ServiceLocality          *catalog.Locality `json:",omitempty"`
	Namespace                string            `json:",omitempty"`
	CreateIndex              uint64
	ModifyIndex              uint64
}

func viewFlat(i *catalog.Instance) catalogView {
	n, s := viewNode(i.Node), viewService(i.Service)
	return catalogView{
		ID: n.ID, Node: n.Node, Address: n.Address, Datacenter: n.Datacenter, TaggedAddresses: n.TaggedAddresses, NodeMeta: n.Meta,
		ServiceKind: s.Kind, ServiceID: s.ID, ServiceName: s.Service, ServiceTags: s.Tags, ServiceAddress: s.Address,
		ServiceTaggedAddresses: s.TaggedAddresses, ServiceWeights: s.Weights, ServiceMeta: s.Meta, ServicePort: s.Port,
		ServiceSocketPath: s.SocketPath, ServiceEnableTagOverride: s.EnableTagOverride, ServiceProxy: s.Proxy, ServiceConnect: s.Connect,
		ServiceLocality: s.Locality, Namespace: s.Namespace, CreateIndex: s.CreateIndex, ModifyIndex: s.ModifyIndex,
	}
}

// tagged says whether tags hold all of want, without regard to case.
func tagged(tags, want []string) bool {
	for _, w := range want {
		found := false
		for _, t := range tags {
			found = found || strings.EqualFold(t, w)
		}
		if !found {
			return false
		}
	}
	return true
}

func matches(meta, want map[string]string) bool {
	for k, v := range want {
		if meta[k] != v {
			return false
		}
	}
	return true
}
