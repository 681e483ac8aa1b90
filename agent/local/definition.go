// SPDX-License-Identifier: Apache-2.0

// Package local is what this host wants the catalog to say: the services that were registered here, their checks and
// the checks' last results. It owns the forms in which people write a registration (agent API, files), the generated
// sidecars, and the journal that keeps registrations over a restart. It runs no check and talks to no server: agent/check
// feeds it results, agent/sync reads what is wanted. It owns two goroutines, which write the journal and what checks said,
// started by State.Run.
package local

import (
	"time"

	"github.com/weftmesh/weft/catalog"
)

// ServiceDefinition is a service as people register it: the body of PUT /v1/agent/service/register, or a `service` block
// of a file. The zero value of a field means "not said".
type ServiceDefinition struct {
	Kind              string                            `json:",omitempty"`
	ID                string                            `json:",omitempty" decode:"service_id"`
	Name              string                            `json:",omitempty" decode:"service"`
	Tags              []string                          `json:",omitempty"`
	Address           string                            `json:",omitempty"`
	SocketPath        string                            `json:",omitempty"`
	TaggedAddresses   map[string]catalog.ServiceAddress `json:",omitempty"`
	Meta              map[string]string                 `json:",omitempty"`
	Port              int                               `json:",omitempty"`
	Ports             []catalog.ServicePort             `json:",omitempty"`
	EnableTagOverride bool                              `json:",omitempty"`
	Weights           *catalog.Weights                  `json:",omitempty"`
	Check             *CheckDefinition                  `json:",omitempty"`
	Checks            []CheckDefinition                 `json:",omitempty"`
	Proxy             *catalog.Proxy                    `json:",omitempty"`
	Connect           *ConnectDefinition                `json:",omitempty"`
	Locality          *catalog.Locality                 `json:",omitempty"`
	Token             string                            `json:",omitempty"`
	Namespace         string                            `json:",omitempty"`
	Partition         string                            `json:",omitempty"`
}

// ConnectDefinition is how a service takes part in the mesh.
type ConnectDefinition struct {
	Native         bool               `json:",omitempty"`
	SidecarService *ServiceDefinition `json:",omitempty"`
}

// CheckDefinition is a check as people register it; exactly one mechanism must be given.
type CheckDefinition struct {
	ID                             string              `json:",omitempty" decode:"check_id"`
	Name                           string              `json:",omitempty"`
	Notes                          string              `json:",omitempty"`
	ServiceID                      string              `json:",omitempty"`
	Status                         string              `json:",omitempty"`
	HTTP                           string              `json:",omitempty"`
	Method                         string              `json:",omitempty"`
	Header                         map[string][]string `json:",omitempty"`
	Body                           string              `json:",omitempty"`
	DisableRedirects               bool                `json:",omitempty"`
	TCP                            string              `json:",omitempty"`
	TCPUseTLS                      bool                `json:",omitempty"`
	GRPC                           string              `json:",omitempty"`
	GRPCUseTLS                     bool                `json:",omitempty"`
	TLSServerName                  string              `json:",omitempty"`
	TLSSkipVerify                  bool                `json:",omitempty"`
	AliasService                   string              `json:",omitempty"`
	AliasNode                      string              `json:",omitempty"`
	TTL                            time.Duration       `json:",omitempty"`
	Interval                       time.Duration       `json:",omitempty"`
	Timeout                        time.Duration       `json:",omitempty"`
	SuccessBeforePassing           int                 `json:",omitempty"`
	FailuresBeforeWarning          int                 `json:",omitempty"`
	FailuresBeforeCritical         int                 `json:",omitempty"`
	DeregisterCriticalServiceAfter time.Duration       `json:",omitempty"`
	OutputMaxSize                  int                 `json:",omitempty"`
	Token                          string              `json:",omitempty"`
	Namespace                      string              `json:",omitempty"`
	Partition                      string              `json:",omitempty"`

	ScriptArgs   []string `json:",omitempty" decode:"args"`
	UDP          string   `json:",omitempty"`
	H2PING       string   `json:",omitempty"`
	H2PingUseTLS *bool    `json:",omitempty"` // nil: true

	// Consul's other mechanisms: taken from files as they are, and refused with a reason.
	DockerContainerID string `json:",omitempty"`
	Shell             string `json:",omitempty"`
	OSService         string `json:",omitempty"`
}

// The types of check that an agent runs, as catalog.Check.Type says them.
const (
	TypeHTTP        = "http"
	TypeTCP         = "tcp"
	TypeGRPC        = "grpc"
	TypeTTL         = "ttl"
	TypeUDP         = "udp"
	TypeScript      = "script"
	TypeH2PING      = "h2ping"
	TypeAlias       = "alias"
	TypeMaintenance = "maintenance"
)

// Type is the definition's mechanism, "" if it has none.
func (d *CheckDefinition) Type() string {
	switch {
	case d.GRPC != "":
		return TypeGRPC
	case d.HTTP != "":
		return TypeHTTP
	case d.TTL != 0:
		return TypeTTL
	case d.TCP != "":
		return TypeTCP
	case d.UDP != "":
		return TypeUDP
	case d.AliasService != "" || d.AliasNode != "":
		return TypeAlias
	case len(d.ScriptArgs) > 0:
		return TypeScript
	case d.H2PING != "":
		return TypeH2PING
	}
	return ""
}
