// SPDX-License-Identifier: Apache-2.0

// Package identity says who somebody in the mesh is: the SPIFFE names of
// services, service accounts, agents, servers and gateways, the server names
// (SNI) that lead to them, and the check of a peer's certificate.
//
// One identity has exactly one spelling: Parse refuses whatever String would
// not give back byte for byte. The package decides nothing about permission
// (connect/intention does), signs nothing (ca does), reads no clock, and starts
// no goroutine.
package identity

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Default is the name of the partition and of the namespace that are meant where none is named.
const Default = "default"

// MaxURILength is the longest identity, in bytes, that SPIFFE allows.
const MaxURILength = 2048

const scheme = "spiffe://"

// ErrInvalid is wrapped by every error about a malformed name or URI.
var ErrInvalid = errors.New("invalid identity")

// Kind tells the forms of an identity apart.
type Kind string

// The kinds of identity, as messages and metrics name them.
const (
	KindService        Kind = "service"
	KindServiceAccount Kind = "service-account"
	KindAgent          Kind = "agent"
	KindServer         Kind = "server"
	KindMeshGateway    Kind = "mesh-gateway"
	KindSigning        Kind = "signing"
)

// Identity is one of Service, ServiceAccount, Agent, Server, MeshGateway and Signing, held by value. Values that Parse
// returns have their defaults filled in and can be compared with == and used as map keys; use Equal for values built
// by hand.
type Identity interface {
	// String gives the SPIFFE URI. It is a valid one if Validate returns nil.
	String() string
	// Domain is the trust domain that the identity belongs to.
	Domain() TrustDomain
	// Kind tells which form the identity has.
	Kind() Kind
	// Validate returns an error that wraps ErrInvalid and names the bad part, or nil.
	Validate() error

	sealed()
}

// TrustDomain is the name of a trust domain, such as "11111111-2222-3333-4444-555555555555.consul": lower case, no scheme.
type TrustDomain string

// ForCluster gives the trust domain of the cluster with that ID, "<cluster uuid>.consul". The suffix doesn't follow the
// DNS domain that the cluster is configured with.
func ForCluster(clusterID string) TrustDomain {
	return TrustDomain(strings.ToLower(clusterID) + ".consul")
}

// Validate returns an error that wraps ErrInvalid unless the name is a canonical SPIFFE trust domain of at most 255 bytes.
func (td TrustDomain) Validate() error {
	if len(td) > 255 {
		return fmt.Errorf("%w: trust domain has %d bytes, at most 255 are allowed", ErrInvalid, len(td))
	}
	// The library also takes a whole URI here and lowers nothing: what it gives back must be what went in.
	parsed, err := spiffeid.TrustDomainFromString(string(td))
	if err != nil || parsed.Name() != string(td) || td == "." || td == ".." { // these two are steps of a path to whoever resolves URIs
		return fmt.Errorf("%w: trust domain %q: only lower-case letters, digits, dot, dash and underscore are allowed", ErrInvalid, clip(string(td)))
	}
	return nil
}

// Service is a service's identity: spiffe://<td>[/ap/<partition>]/ns/<namespace>/dc/<dc>/svc/<service>. An empty
// Partition or Namespace means the default one; the default partition is not spelled out in the URI.
type Service struct {
	TrustDomain TrustDomain
	Partition   string
	Namespace   string
	Datacenter  string
	Service     string
}

// ServiceAccount is the identity of a workload named by its account and not by a service:
// spiffe://<td>[/ap/<partition>]/ns/<namespace>/sa/<name>. It is the same in every datacenter of the trust domain.
type ServiceAccount struct {
	TrustDomain TrustDomain
	Partition   string
	Namespace   string
	Name        string
}

// Agent is a client agent's identity: spiffe://<td>[/ap/<partition>]/agent/client/dc/<dc>/id/<node>.
type Agent struct {
	TrustDomain TrustDomain
	Partition   string
	Datacenter  string
	Node        string
}

// Server is the identity that all servers of a datacenter share: spiffe://<td>/agent/server/dc/<dc>.
type Server struct {
	TrustDomain TrustDomain
	Datacenter  string
}

// MeshGateway is the identity that the mesh gateways of a datacenter share:
// spiffe://<td>[/ap/<partition>]/gateway/mesh/dc/<dc>.
type MeshGateway struct {
	TrustDomain TrustDomain
	Partition   string
	Datacenter  string
}

// Signing is the identity of a trust domain's certificate authorities: spiffe://<td>, without a path.
type Signing struct {
	TrustDomain TrustDomain
}

// String gives the SPIFFE URI.
func (s Service) String() string {
	return scheme + string(s.TrustDomain) + partitionPath(s.Partition) + "/ns/" + orDefault(s.Namespace) + "/dc/" + s.Datacenter + "/svc/" + s.Service
}

// String gives the SPIFFE URI.
func (s ServiceAccount) String() string {
	return scheme + string(s.TrustDomain) + partitionPath(s.Partition) + "/ns/" + orDefault(s.Namespace) + "/sa/" + s.Name
}

// String gives the SPIFFE URI.
func (a Agent) String() string {
	return scheme + string(a.TrustDomain) + partitionPath(a.Partition) + "/agent/client/dc/" + a.Datacenter + "/id/" + a.Node
}

// String gives the SPIFFE URI.
func (s Server) String() string {
	return scheme + string(s.TrustDomain) + "/agent/server/dc/" + s.Datacenter
}

// String gives the SPIFFE URI.
func (g MeshGateway) String() string {
	return scheme + string(g.TrustDomain) + partitionPath(g.Partition) + "/gateway/mesh/dc/" + g.Datacenter
}

// String gives the SPIFFE URI.
func (s Signing) String() string { return scheme + string(s.TrustDomain) }

// Domain gives the trust domain.
func (s Service) Domain() TrustDomain { return s.TrustDomain }

// Domain gives the trust domain.
func (s ServiceAccount) Domain() TrustDomain { return s.TrustDomain }

// Domain gives the trust domain.
func (a Agent) Domain() TrustDomain { return a.TrustDomain }

// Domain gives the trust domain.
func (s Server) Domain() TrustDomain { return s.TrustDomain }

// Domain gives the trust domain.
func (g MeshGateway) Domain() TrustDomain { return g.TrustDomain }

// Domain gives the trust domain.
func (s Signing) Domain() TrustDomain { return s.TrustDomain }

// Kind is KindService.
func (Service) Kind() Kind { return KindService }

// Kind is KindServiceAccount.
func (ServiceAccount) Kind() Kind { return KindServiceAccount }

// Kind is KindAgent.
func (Agent) Kind() Kind { return KindAgent }

// Kind is KindServer.
func (Server) Kind() Kind { return KindServer }

// Kind is KindMeshGateway.
func (MeshGateway) Kind() Kind { return KindMeshGateway }

// Kind is KindSigning.
func (Signing) Kind() Kind { return KindSigning }

func (Service) sealed()        {}
func (ServiceAccount) sealed() {}
func (Agent) sealed()          {}
func (Server) sealed()         {}
func (MeshGateway) sealed()    {}
func (Signing) sealed()        {}

// Equal reports whether a and b are the same identity, with an empty partition or namespace equal to the default one.
// Nil equals only nil.
func Equal(a, b Identity) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	return a.Kind() == b.Kind() && a.String() == b.String()
}

// DatacenterOf gives the datacenter that the identity names, or "" for the kinds that name none.
func DatacenterOf(id Identity) string {
	switch v := id.(type) {
	case Service:
		return v.Datacenter
	case Agent:
		return v.Datacenter
	case Server:
		return v.Datacenter
	case MeshGateway:
		return v.Datacenter
	}
	return ""
}

func orDefault(name string) string {
	if name == "" {
		return Default
	}
	return name
}

func partitionPath(partition string) string {
	if partition == "" || partition == Default {
		return ""
	}
	return "/ap/" + partition
}

// clip keeps hostile input out of messages: at most 80 bytes of it.
func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}
