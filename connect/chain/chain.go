// SPDX-License-Identifier: Apache-2.0

// Package chain compiles where the requests for a service go: its router, splitters and resolvers become a graph that ends in
// targets. The graph's JSON is that of Consul's /v1/discovery-chain.
//
// It is pure: it reads a catalog transaction, and the same entries give the same chain. It looks at no instance: which of a
// target's instances are healthy is for connect/xds. In a replica that doesn't hold an entry that the chain needs, Compile
// returns an error that wraps catalog.ErrNotCovered. It starts no goroutine.
package chain

import (
	"errors"
	"time"

	"github.com/weftmesh/weft/catalog"
)

// ErrInvalid is wrapped by each error that says that the entries don't make a chain: a loop, protocols that differ, a subset
// that isn't there. Its text is what clients see.
var ErrInvalid = errors.New("invalid discovery chain")

// The defaults of a resolver that says nothing.
const (
	DefaultConnectTimeout = 5 * time.Second
	DefaultRequestTimeout = 15 * time.Second
)

// The types of a node.
const (
	TypeRouter   = "router"
	TypeSplitter = "splitter"
	TypeResolver = "resolver"
)

// Overrides are what the caller wants different from the entries. Zero values override nothing.
type Overrides struct {
	Protocol       string
	ConnectTimeout time.Duration
	MeshGateway    catalog.MeshGatewayMode
}

// Chain is the compiled graph, with Consul's field names.
type Chain struct {
	ServiceName       string
	Namespace         string
	Partition         string
	Datacenter        string
	CustomizationHash string `json:",omitempty"`
	Default           bool   `json:",omitempty"`
	Protocol          string
	ServiceMeta       map[string]string `json:",omitempty"`
	StartNode         string
	Nodes             map[string]*Node
	Targets           map[string]*Target
	AutoVirtualIPs    []string
	ManualVirtualIPs  []string
	// Fallback is what callers get where no instance answers.
	Fallback *catalog.HTTPResponse `json:",omitempty"`
}

// Node is one step of the graph; exactly one of Routes, Splits and Resolver is set, by Type.
type Node struct {
	Type         string
	Name         string
	Routes       []*Route              `json:",omitempty"`
	Splits       []*Split              `json:",omitempty"`
	Sticky       []catalog.HashPolicy  `json:",omitempty"` // of a splitter
	Resolver     *Resolver             `json:",omitempty"`
	LoadBalancer *catalog.LoadBalancer `json:",omitempty"`
	// What the resolver says of how to call its service; of nodes of type resolver.
	Limits             *catalog.UpstreamLimits     `json:",omitempty"`
	PassiveHealthCheck *catalog.PassiveHealthCheck `json:",omitempty"`
	Connections        *catalog.Connections        `json:",omitempty"`
	ByLocality         bool                        `json:",omitempty"`
	LocalityWeights    []catalog.LocalityWeight    `json:",omitempty"`
}

// Route is one of a router's routes, and the key of the node it leads to.
type Route struct {
	Definition *catalog.ServiceRoute
	NextNode   string
	// Mirrors are the keys of the nodes that get copies, in the order of the destination's mirrors.
	Mirrors []string `json:",omitempty"`
	// Source is where the route was written, as "service-router/api route 2", or "service api" for the one at the end.
	Source string `json:"-"`
	// Callers are the identity-sets that the definition's sources name.
	Callers map[string]*catalog.IdentitySet `json:"-"`
}

// Split is one share of a splitter.
type Split struct {
	Definition *catalog.ServiceSplit `json:",omitempty"`
	Weight     float64
	NextNode   string
}

// Resolver is where the graph ends: a target and those that stand in for it.
type Resolver struct {
	Default        bool   `json:",omitempty"`
	ConnectTimeout string // as "5s"
	RequestTimeout time.Duration
	Target         string
	Failover       *Failover `json:",omitempty"`
}

// Failover lists the IDs of the targets to try next, in order.
type Failover struct {
	Targets []string
}

// Target is a set of instances.
type Target struct {
	ID             string
	Service        string
	ServiceSubset  string `json:",omitempty"`
	Namespace      string
	Partition      string
	Datacenter     string `json:",omitempty"`
	Peer           string `json:",omitempty"`
	MeshGateway    catalog.MeshGatewayMode
	Subset         catalog.ServiceResolverSubset
	ConnectTimeout time.Duration
	External       bool `json:",omitempty"`
	SNI            string
	Name           string
}

// Key is the name of the target's service.
func (t *Target) Key() catalog.Key {
	return catalog.Scope{Datacenter: t.Datacenter, Partition: t.Partition, Namespace: t.Namespace, Peer: t.Peer}.Name(t.Service)
}
