// SPDX-License-Identifier: Apache-2.0

package catalog

import "time"

// Indexes are the Raft indexes at which a record was made and last changed.
type Indexes struct {
	CreateIndex uint64
	ModifyIndex uint64
}

// Node is a host (or a stand-in for one, for services outside). Its key is Scope and Node; the scope's Namespace is
// always the default: nodes have none.
type Node struct {
	Scope
	ID              string // UUID, or empty; two nodes can't share one
	Node            string
	Address         string
	TaggedAddresses map[string]string `json:",omitempty"`
	Meta            map[string]string `json:",omitempty"`
	Owner           string            `json:",omitempty"` // who writes it: "agent" for its own agent, else free; sync touches only its own
	NextNode
	Indexes
}

// Key is the node's key.
func (n *Node) Key() Key { return n.Scope.Name(n.Node) }

// The kinds of a service; "" is an ordinary one.
const (
	KindConnectProxy       = "connect-proxy"
	KindMeshGateway        = "mesh-gateway"
	KindTerminatingGateway = "terminating-gateway"
	KindIngressGateway     = "ingress-gateway"
	KindAPIGateway         = "api-gateway"
)

// Service is one instance of a service on one node. Its key is (Scope, Node, ID).
type Service struct {
	Scope
	Node              string
	ID                string
	Service           string
	Kind              string                    `json:",omitempty"`
	Tags              []string                  `json:",omitempty"`
	Address           string                    // "" means the node's
	SocketPath        string                    `json:",omitempty"`
	TaggedAddresses   map[string]ServiceAddress `json:",omitempty"`
	Meta              map[string]string         `json:",omitempty"`
	Port              int                       // the default port; 0 for none
	Ports             []ServicePort             `json:",omitempty"` // weft: further named ports
	Weights           Weights
	EnableTagOverride bool
	Proxy             *Proxy    `json:",omitempty"` // for KindConnectProxy and gateways
	Connect           *Connect  `json:",omitempty"`
	Locality          *Locality `json:",omitempty"`
	Owner             string    `json:",omitempty"`
	VirtualIP         string    `json:",omitempty"` // of the service that it is dialled as (see Destination); the catalog gives it
	Indexes
}

// Name is the key of the service's name.
func (s *Service) Name() Key { return s.Scope.Name(s.Service) }

// NodeKey is the key of the service's node.
func (s *Service) NodeKey() Key { return nodeKey(s.Scope, s.Node) }

// Destination is the name of the service that this instance can be dialled for over mutual TLS: the proxy's destination, or its
// own name if it is Connect native; ok is false for the others.
func (s *Service) Destination() (Key, bool) {
	switch {
	case s.Kind == KindConnectProxy && s.Proxy != nil:
		return s.Scope.Name(s.Proxy.DestinationServiceName), true
	case s.Connect != nil && s.Connect.Native:
		return s.Name(), true
	}
	return Key{}, false
}

func nodeKey(s Scope, node string) Key {
	s.Namespace = DefaultNamespace
	return s.Name(node)
}

// ServiceAddress is an address that others should use in a certain place ("lan", "wan", "virtual").
type ServiceAddress struct {
	Address string
	Port    int
}

// ServicePort is a named port of an instance.
type ServicePort struct {
	Name string
	Port int
}

// Weights are an instance's shares of the load by health.
type Weights struct {
	Passing int
	Warning int
}

// Connect says how an instance takes part in the mesh without a proxy.
type Connect struct {
	Native bool `json:",omitempty"`
}

// Locality is where an instance runs.
type Locality struct {
	Region string `json:",omitempty"`
	Zone   string `json:",omitempty"`
}

// Opaque is configuration that weft hands on or reads by key; values are those of JSON (string, float64, int64, bool,
// []any, map[string]any).
type Opaque map[string]any

// Proxy is what a sidecar or gateway instance says of itself.
type Proxy struct {
	DestinationServiceName string            `json:",omitempty"`
	DestinationServiceID   string            `json:",omitempty"`
	LocalServiceAddress    string            `json:",omitempty"`
	LocalServicePort       int               `json:",omitempty"`
	LocalServiceSocketPath string            `json:",omitempty"`
	Mode                   string            `json:",omitempty"` // "", "direct" or "transparent"
	Config                 Opaque            `json:",omitempty"`
	Upstreams              []Upstream        `json:",omitempty"`
	MeshGateway            MeshGatewayMode   `json:",omitzero"`
	Expose                 Expose            `json:",omitzero"`
	TransparentProxy       *TransparentProxy `json:",omitempty"`
	EnvoyExtensions        []EnvoyExtension  `json:",omitempty"`
	AccessLogs             *AccessLogs       `json:",omitempty"` // in place of those of proxy-defaults
	LocalIdentity          *LocalIdentity    `json:",omitempty"`
	RateLimits             *RateLimits       `json:",omitempty"` // shown where service-defaults are merged in; never registered
}

// LocalIdentity says which processes of its host a service is: its proxy lets only these call its upstreams. Where it names none, any may.
type LocalIdentity struct {
	LocalProcesses
	// Proxy names the processes that are its proxy: the agent gives configuration and certificates, with their keys, only to them, to root and
	// to processes of the agent's own user. nil: to all that prove by secret or token that they may have them.
	Proxy *LocalProcesses `json:",omitempty"`
}

// LocalProcesses are those of a host that run as one of some users, if any are named, and in one of some systemd units or cgroups, if any are.
type LocalProcesses struct {
	UIDs    []uint32 `json:",omitempty"`
	Units   []string `json:",omitempty"` // of the system's manager, as "web.service"
	Cgroups []string `json:",omitempty"` // absolute paths in the hierarchy of version 2, as "/system.slice/web.service"
}

// None says whether nothing is named.
func (l *LocalProcesses) None() bool { return len(l.UIDs)+len(l.Units)+len(l.Cgroups) == 0 }

// Upstream is a service that an instance calls, and where its proxy listens for these calls.
type Upstream struct {
	DestinationType      string `json:",omitempty"` // "service" (default) or "prepared_query"
	DestinationNamespace string `json:",omitempty"`
	DestinationPartition string `json:",omitempty"`
	DestinationPeer      string `json:",omitempty"`
	DestinationName      string
	Datacenter           string          `json:",omitempty"`
	LocalBindAddress     string          `json:",omitempty"` // default 127.0.0.1
	LocalBindPort        int             `json:",omitempty"`
	LocalBindSocketPath  string          `json:",omitempty"`
	LocalBindSocketMode  string          `json:",omitempty"` // octal, as "0600"
	Config               Opaque          `json:",omitempty"`
	MeshGateway          MeshGatewayMode `json:",omitzero"`
}

// Key is the upstream's service as seen from a proxy in scope s.
func (u *Upstream) Key(s Scope) Key {
	if u.DestinationNamespace != "" {
		s.Namespace = u.DestinationNamespace
	}
	if u.DestinationPartition != "" {
		s.Partition = u.DestinationPartition
	}
	if u.Datacenter != "" {
		s.Datacenter = u.Datacenter
	}
	s.Peer = u.DestinationPeer
	return s.Name(u.DestinationName)
}

// MeshGatewayMode is whether traffic between datacenters goes through gateways: "", "none", "local" or "remote".
type MeshGatewayMode struct {
	Mode string `json:",omitempty"`
}

// Expose lists paths that a proxy serves without mutual TLS.
type Expose struct {
	Checks bool         `json:",omitempty"`
	Paths  []ExposePath `json:",omitempty"`
}

// ExposePath is one path that is reachable in the clear, for health checks and metrics.
type ExposePath struct {
	ListenerPort  int
	Path          string
	LocalPathPort int
	Protocol      string `json:",omitempty"` // "http" (default) or "http2"
}

// The states of a check.
const (
	HealthPassing  = "passing"
	HealthWarning  = "warning"
	HealthCritical = "critical"
)

// Check is a check's last result, on a node (ServiceID "") or on one of its services. Its key is (Scope, Node, CheckID).
type Check struct {
	Scope
	Node        string
	CheckID     string
	Name        string
	Status      string // passing, warning or critical
	Notes       string
	Output      string
	ServiceID   string
	ServiceName string
	ServiceTags []string `json:",omitempty"`
	Type        string   // "http", "tcp", "grpc", "ttl", "alias", …
	Interval    string
	Timeout     string
	ExposedPort int
	Definition  CheckDefinition
	Owner       string `json:",omitempty"`
	Indexes
}

// NodeKey is the key of the check's node.
func (c *Check) NodeKey() Key { return nodeKey(c.Scope, c.Node) }

// CheckDefinition is what a catalog check runs, for those who run checks from the catalog.
type CheckDefinition struct {
	HTTP                           string              `json:",omitempty"`
	TLSServerName                  string              `json:",omitempty"`
	TLSSkipVerify                  bool                `json:",omitempty"`
	Header                         map[string][]string `json:",omitempty"`
	Method                         string              `json:",omitempty"`
	Body                           string              `json:",omitempty"`
	TCP                            string              `json:",omitempty"`
	TCPUseTLS                      bool                `json:",omitempty"`
	UDP                            string              `json:",omitempty"`
	H2PING                         string              `json:",omitempty"`
	H2PingUseTLS                   bool                `json:",omitempty"`
	OSService                      string              `json:",omitempty"`
	ScriptArgs                     []string            `json:",omitempty"`
	DockerContainerID              string              `json:",omitempty"`
	Shell                          string              `json:",omitempty"`
	AliasNode                      string              `json:",omitempty"`
	AliasService                   string              `json:",omitempty"`
	DisableRedirects               bool                `json:",omitempty"`
	SessionName                    string              `json:",omitempty"`
	TTL                            time.Duration       `json:",omitempty"`
	GRPC                           string              `json:",omitempty"`
	GRPCUseTLS                     bool                `json:",omitempty"`
	Interval                       time.Duration       `json:",omitempty"`
	Timeout                        time.Duration       `json:",omitempty"`
	DeregisterCriticalServiceAfter time.Duration       `json:",omitempty"`
}

// Instance is a service instance with its node and all the checks that count for it (its own and its node's).
type Instance struct {
	Node    *Node
	Service *Service
	Checks  []*Check
}

// Status is the worst state of the instance's checks; no check is passing.
func (i *Instance) Status() string {
	worst := HealthPassing
	for _, c := range i.Checks {
		switch {
		case c.Status == HealthCritical:
			return HealthCritical
		case c.Status == HealthWarning:
			worst = HealthWarning
		}
	}
	return worst
}

// Address is where the instance can be dialled: its own address or its node's, and its port.
func (i *Instance) Address() (host string, port int) {
	if i.Service.Address != "" {
		return i.Service.Address, i.Service.Port
	}
	return i.Node.Address, i.Service.Port
}
