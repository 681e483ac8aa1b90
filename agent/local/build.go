// SPDX-License-Identifier: Apache-2.0

package local

import (
	"cmp"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/weftmesh/weft/catalog"
)

// Service is a registered service: the record that the catalog should have, the checks that should run, and whose token
// it acts with.
type Service struct {
	Record     *catalog.Service
	Definition ServiceDefinition // as it was given; what the journal keeps
	Token      string
	Parent     string // ID of the service whose sidecar this is; "" otherwise
	Checks     []Check
}

// Check is a registered check: the record with its last result, and what to run.
type Check struct {
	Record     *catalog.Check
	Definition CheckDefinition
	Token      string
}

// build turns a definition into the services that it means beside those of t: itself, and its sidecar if it asks for one.
// It changes nothing.
func (s *State) build(t *tables, d ServiceDefinition, token string) (main *Service, sidecar *Service, warnings []string, err error) {
	if d.Token != "" {
		token = d.Token
	}
	if d.ID == "" {
		d.ID = d.Name
	}
	given := d
	if main, err = s.buildOne(d, token); err != nil {
		return nil, nil, nil, err
	}
	main.Definition = given
	warnings = ineffective(&d)
	if d.Connect == nil || d.Connect.SidecarService == nil {
		return main, nil, warnings, nil
	}
	sd, err := s.sidecarOf(t, &d)
	if err != nil {
		return nil, nil, nil, err
	}
	if sd.Token == "" {
		sd.Token = token
	}
	if sidecar, err = s.buildOne(*sd, sd.Token); err != nil {
		return nil, nil, nil, err
	}
	sidecar.Parent = d.ID
	return main, sidecar, append(warnings, ineffective(sd)...), nil
}

func ineffective(d *ServiceDefinition) []string {
	var w []string
	if d.Proxy != nil {
		for _, key := range d.Proxy.Ineffective() {
			w = append(w, fmt.Sprintf("service %q: proxy.%s is known but has no effect yet", d.ID, key))
		}
	}
	return w
}

func (s *State) buildOne(d ServiceDefinition, token string) (*Service, error) {
	if err := d.validate(); err != nil {
		return nil, err
	}
	scope := catalog.Scope{Partition: d.Partition, Namespace: d.Namespace}.Default(s.node.Datacenter)
	r := &catalog.Service{
		Scope: scope, Node: s.node.Node, ID: d.ID, Service: d.Name, Kind: d.Kind, Tags: d.Tags, Address: d.Address,
		SocketPath: d.SocketPath, TaggedAddresses: d.TaggedAddresses, Meta: d.Meta, Port: d.Port, Ports: d.Ports,
		Weights: catalog.Weights{Passing: 1, Warning: 1}, EnableTagOverride: d.EnableTagOverride, Locality: cmp.Or(d.Locality, s.locality), Owner: Owner,
	}
	if d.Weights != nil {
		r.Weights = *d.Weights
	}
	if d.Proxy != nil {
		p := *d.Proxy
		if p.LocalServiceAddress == "" && p.LocalServiceSocketPath == "" {
			p.LocalServiceAddress = "127.0.0.1"
		}
		r.Proxy = &p
	}
	if d.Connect != nil && d.Connect.Native {
		r.Connect = &catalog.Connect{Native: true}
	}
	out := &Service{Record: r, Definition: d, Token: token}
	defs := d.Checks
	if d.Check != nil {
		defs = append([]CheckDefinition{*d.Check}, defs...)
	}
	seen := map[string]bool{}
	for i, c := range defs {
		c.ServiceID = d.ID
		if c.ID == "" {
			c.ID = "service:" + d.ID
			if len(defs) > 1 {
				c.ID += ":" + strconv.Itoa(i+1)
			}
		}
		if c.Name == "" {
			c.Name = fmt.Sprintf("Service '%s' check", d.Name)
		}
		if seen[c.ID] {
			return nil, invalidf("Invalid check: two checks of service %q have the ID %q", d.ID, c.ID)
		}
		seen[c.ID] = true
		check, err := s.buildCheck(c, r, token)
		if err != nil {
			return nil, err
		}
		out.Checks = append(out.Checks, *check)
	}
	return out, nil
}

func (s *State) buildCheck(c CheckDefinition, service *catalog.Service, token string) (*Check, error) {
	if c.Token != "" {
		token = c.Token
	}
	if c.Name == "" {
		return nil, invalidf("Missing check name")
	}
	if c.ID == "" {
		c.ID = c.Name
	}
	if err := c.validate(); err != nil {
		return nil, err
	}
	if c.Interval > 0 && c.Interval < minInterval {
		c.Interval = minInterval
	}
	if c.OutputMaxSize == 0 || c.OutputMaxSize > s.maxOutput {
		c.OutputMaxSize = s.maxOutput
	}
	r := &catalog.Check{
		Scope: catalog.Scope{Partition: c.Partition}.Default(s.node.Datacenter), // the node's, which has no namespace
		Node:  s.node.Node, CheckID: c.ID, Name: c.Name, Notes: c.Notes, Status: c.Status, Type: c.Type(),
		Interval: show(c.Interval), Timeout: show(c.Timeout), Owner: Owner,
	}
	if r.Status == "" {
		r.Status = catalog.HealthCritical
	}
	if service != nil {
		r.Scope, r.ServiceID, r.ServiceName, r.ServiceTags = service.Scope, service.ID, service.Service, service.Tags
	}
	return &Check{Record: r, Definition: c, Token: token}, nil
}

func show(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return d.String()
}

// sidecarOf is the definition of d's generated sidecar, with Consul's defaults.
func (s *State) sidecarOf(t *tables, d *ServiceDefinition) (*ServiceDefinition, error) {
	sd := *d.Connect.SidecarService
	switch {
	case sd.ID != "":
		return nil, invalidf("A SidecarService cannot specify an ID as this is managed by the agent")
	case sd.Connect != nil && sd.Connect.SidecarService != nil:
		return nil, invalidf("A SidecarService cannot have a nested SidecarService")
	case d.Kind != "":
		return nil, invalidf("service %q: only an ordinary service can have a SidecarService, not Kind %q", d.ID, d.Kind)
	}
	sd.ID, sd.Kind = SidecarID(d.ID), catalog.KindConnectProxy
	sd.Namespace, sd.Partition = d.Namespace, d.Partition
	if sd.Name == "" {
		sd.Name = d.Name + "-sidecar-proxy"
	}
	if sd.Address == "" {
		sd.Address = d.Address
	}
	if sd.Tags == nil {
		sd.Tags = d.Tags
	}
	if sd.Meta == nil {
		sd.Meta = d.Meta
	}
	if sd.Locality == nil {
		sd.Locality = d.Locality
	}
	p := catalog.Proxy{}
	if sd.Proxy != nil {
		p = *sd.Proxy
	}
	p.DestinationServiceName, p.DestinationServiceID = d.Name, d.ID
	if d.SocketPath != "" {
		p.LocalServiceSocketPath = d.SocketPath
	} else if p.LocalServicePort == 0 {
		p.LocalServicePort = d.Port
	}
	sd.Proxy = &p
	if sd.Port == 0 {
		port, err := s.sidecarPort(t, sd.ID)
		if err != nil {
			return nil, err
		}
		sd.Port = port
	}
	if sd.Check == nil && len(sd.Checks) == 0 {
		host := sd.Address
		if host == "" {
			host = "127.0.0.1"
		}
		sd.Checks = []CheckDefinition{
			{Name: "Connect Sidecar Listening", TCP: net.JoinHostPort(host, strconv.Itoa(sd.Port)), Interval: 10 * time.Second},
			{Name: "Connect Sidecar Aliasing " + d.ID, AliasService: d.ID},
		}
	}
	return &sd, nil
}

// SidecarID is the ID of a service's generated sidecar.
func SidecarID(serviceID string) string { return serviceID + "-sidecar-proxy" }

// sidecarPort is the lowest free port of the sidecars' range; a sidecar that is registered again keeps its own, also over a
// restart.
func (s *State) sidecarPort(t *tables, id string) (int, error) {
	if old, ok := t.services[id]; ok && old.Record.Port >= s.sidecarMin && old.Record.Port <= s.sidecarMax {
		return old.Record.Port, nil
	}
	if port, ok := t.reserved[id]; ok {
		return port, nil
	}
	reserved := map[int]bool{}
	for _, port := range t.reserved {
		reserved[port] = true
	}
	for port := s.sidecarMin; port <= s.sidecarMax; port++ {
		if t.ports[port] == 0 && !reserved[port] {
			return port, nil
		}
	}
	return 0, fmt.Errorf("no port provided for sidecar_service and none left in the configured range [%d, %d]", s.sidecarMin, s.sidecarMax)
}

// portOf is the port of a generated sidecar, 0 for none.
func portOf(sidecar *Service) int {
	if sidecar == nil {
		return 0
	}
	return sidecar.Record.Port
}
