// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"maps"
	"slices"

	"github.com/weftmesh/weft/connect/proxy/config"
)

// ID is the proxy's.
func (p *Proxy) ID() string { return p.c.ID }

// Description is the configuration in force, for people, without anything secret.
type Description struct {
	Listeners []ListenerDescription
	Clusters  []ClusterDescription
}

// ListenerDescription is one listener.
type ListenerDescription struct {
	Name, Address, Direction, Protocol string
	TLS                                bool
	Policies                           int // of connections
}

// ClusterDescription is one cluster with its endpoints.
type ClusterDescription struct {
	Name, Service string
	TLS           bool
	Endpoints     []EndpointDescription
}

// EndpointDescription is one endpoint.
type EndpointDescription struct {
	Address           string
	Weight            uint32
	Healthy, Draining bool
}

// Describe shows the configuration in force; empty before there is one.
func (p *Proxy) Describe() Description {
	var d Description
	s := p.snapshot.Load()
	if s == nil {
		return d
	}
	for _, name := range slices.Sorted(maps.Keys(s.Listeners)) {
		l := s.Listeners[name]
		protocol := "tcp"
		switch {
		case l.Detect:
			protocol = "detected: " + p.learner(l).learnt().String()
		case l.HTTP != nil:
			protocol = "http"
		}
		d.Listeners = append(d.Listeners, ListenerDescription{l.Name, l.Address, l.Direction.String(), protocol, l.TLS != nil, len(l.Authorize)})
	}
	for _, name := range slices.Sorted(maps.Keys(s.Clusters)) {
		d.Clusters = append(d.Clusters, describeCluster(s.Clusters[name]))
	}
	return d
}

func describeCluster(c *config.Cluster) ClusterDescription {
	d := ClusterDescription{Name: c.Name, Service: c.Service.Name, TLS: c.TLS != nil}
	for _, e := range c.Endpoints {
		d.Endpoints = append(d.Endpoints, EndpointDescription{e.Address, e.Weight, e.Healthy, e.Draining})
	}
	return d
}
