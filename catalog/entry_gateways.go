// SPDX-License-Identifier: Apache-2.0

package catalog

import "time"

// The kinds of config entry that are kept and served, and don't configure anything yet.
const (
	KindIngressEntry      = "ingress-gateway"
	KindTerminatingEntry  = "terminating-gateway"
	KindAPIGatewayEntry   = "api-gateway"
	KindBoundAPIGateway   = "bound-api-gateway"
	KindHTTPRoute         = "http-route"
	KindTCPRoute          = "tcp-route"
	KindInlineCertificate = "inline-certificate"
	KindFileCertificate   = "file-system-certificate"
	KindJWTProvider       = "jwt-provider"
	KindExportedServices  = "exported-services"
	KindSamenessGroup     = "sameness-group"
	KindRequestLimit      = "control-plane-request-limit"
)

// Inert says whether entries of a kind are only kept: this version does nothing by them.
func Inert(kind string) bool {
	switch kind {
	case KindIngressEntry, KindTerminatingEntry, KindAPIGatewayEntry, KindBoundAPIGateway, KindHTTPRoute, KindTCPRoute,
		KindInlineCertificate, KindFileCertificate, KindExportedServices, KindSamenessGroup, KindRequestLimit:
		return true
	}
	return false
}

// GatewayTLS is how a gateway's listener takes TLS.
type GatewayTLS struct {
	Enabled       bool
	SDS           *GatewaySDS `json:",omitempty"`
	TLSMinVersion string      `json:",omitempty"`
	TLSMaxVersion string      `json:",omitempty"`
	CipherSuites  []string    `json:",omitempty"`
}

// GatewaySDS is where a certificate is had from.
type GatewaySDS struct {
	ClusterName  string `json:",omitempty"`
	CertResource string `json:",omitempty"`
}

// GatewayServiceTLS is one service's certificate on a listener.
type GatewayServiceTLS struct {
	SDS *GatewaySDS `json:",omitempty"`
}

// IngressGateway lets calls from outside the mesh in.
type IngressGateway struct {
	EntryHead
	TLS       GatewayTLS
	Listeners []IngressListener
	Defaults  *IngressLimits `json:",omitempty"`
}

// IngressListener is one port of an ingress gateway.
type IngressListener struct {
	Port     int
	Protocol string
	Services []IngressService
	TLS      *GatewayTLS `json:",omitempty"`
}

// IngressLimits bound what a gateway asks of a service.
type IngressLimits struct {
	MaxConnections        *uint32             `json:",omitempty"`
	MaxPendingRequests    *uint32             `json:",omitempty"`
	MaxConcurrentRequests *uint32             `json:",omitempty"`
	PassiveHealthCheck    *PassiveHealthCheck `json:",omitempty"`
}

// IngressService is a service that a listener leads to.
type IngressService struct {
	Name            string
	Hosts           []string             `json:",omitempty"`
	Namespace       string               `json:",omitempty"`
	Partition       string               `json:",omitempty"`
	TLS             *GatewayServiceTLS   `json:",omitempty"`
	RequestHeaders  *HTTPHeaderModifiers `json:",omitempty"`
	ResponseHeaders *HTTPHeaderModifiers `json:",omitempty"`
	IngressLimits
}

// TerminatingGateway leads calls of the mesh to services outside it.
type TerminatingGateway struct {
	EntryHead
	Services []LinkedService `json:",omitempty"`
}

// LinkedService is a service behind a terminating gateway.
type LinkedService struct {
	Name                   string
	Namespace              string `json:",omitempty"`
	CAFile                 string `json:",omitempty"`
	CertFile               string `json:",omitempty"`
	KeyFile                string `json:",omitempty"`
	SNI                    string `json:",omitempty"`
	DisableAutoHostRewrite bool   `json:",omitempty"`
}

// ResourceRef names another entry.
type ResourceRef struct {
	Kind        string
	Name        string
	SectionName string `json:",omitempty"`
	Namespace   string `json:",omitempty"`
	Partition   string `json:",omitempty"`
}

// EntryStatus is what was found of an entry.
type EntryStatus struct {
	Conditions []EntryCondition
}

// EntryCondition is one finding.
type EntryCondition struct {
	Type               string
	Status             string
	Reason             string       `json:",omitempty"`
	Message            string       `json:",omitempty"`
	Resource           *ResourceRef `json:",omitempty"`
	LastTransitionTime *time.Time   `json:",omitempty"`
}

// APIGateway is a gateway in the Gateway API's form: routes bind themselves to its listeners.
type APIGateway struct {
	EntryHead
	Listeners []APIGatewayListener
	Status    EntryStatus
}

// APIGatewayListener is one port of an API gateway.
type APIGatewayListener struct {
	Name     string
	Hostname string `json:",omitempty"`
	Port     int
	Protocol string
	TLS      APIGatewayTLS     `json:",omitzero"`
	Override *APIGatewayPolicy `json:",omitempty"`
	Default  *APIGatewayPolicy `json:",omitempty"`
}

// APIGatewayTLS is a listener's certificates.
type APIGatewayTLS struct {
	Certificates []ResourceRef `json:",omitempty"`
	SDS          *GatewaySDS   `json:",omitempty"`
	MinVersion   string        `json:",omitempty" decode:"TLSMinVersion"`
	MaxVersion   string        `json:",omitempty" decode:"TLSMaxVersion"`
	CipherSuites []string      `json:",omitempty"`
}

// APIGatewayPolicy is what a listener demands of requests.
type APIGatewayPolicy struct {
	JWT *JWTRequirement `json:",omitempty"`
}

// JWTRequirement demands a token of one of some providers.
type JWTRequirement struct {
	Providers []JWTRequired `json:",omitempty"`
}

// JWTRequired is a provider and what its token must claim.
type JWTRequired struct {
	Name         string
	VerifyClaims []JWTClaim `json:",omitempty"`
}

// JWTClaim is a claim's path and the value that it must have.
type JWTClaim struct {
	Path  []string
	Value string
}

// BoundAPIGateway is which routes and certificates a gateway's listeners have. Servers write it.
type BoundAPIGateway struct {
	EntryHead
	Listeners []BoundListener
}

// BoundListener is one listener's.
type BoundListener struct {
	Name         string
	Routes       []ResourceRef `json:",omitempty"`
	Certificates []ResourceRef `json:",omitempty"`
}

// HTTPRoute leads an API gateway's HTTP requests to services.
type HTTPRoute struct {
	EntryHead
	Parents   []ResourceRef
	Rules     []HTTPRouteRule
	Hostnames []string `json:",omitempty"`
	Status    EntryStatus
}

// HTTPRouteRule is for the requests that any of its matches fits.
type HTTPRouteRule struct {
	Filters         HTTPFilters         `json:",omitzero"`
	ResponseFilters HTTPResponseFilters `json:",omitzero"`
	Matches         []HTTPRouteMatch
	Services        []HTTPRouteService
}

// HTTPRouteMatch is what a request looks like.
type HTTPRouteMatch struct {
	Headers []HTTPRouteValue `json:",omitempty"`
	Method  string           `json:",omitempty"`
	Path    HTTPRoutePath
	Query   []HTTPRouteValue `json:",omitempty"`
}

// HTTPRoutePath matches a path: exact, prefix or regex.
type HTTPRoutePath struct {
	Match string
	Value string
}

// HTTPRouteValue matches a header or parameter: exact, prefix, suffix, present or regex.
type HTTPRouteValue struct {
	Match  string
	Name   string
	Value  string `json:",omitempty"`
	Invert bool   `json:",omitempty"`
}

// HTTPFilters change a request.
type HTTPFilters struct {
	Headers       []HTTPHeaderModifiers `json:",omitempty"`
	URLRewrite    *URLRewrite           `json:",omitempty"`
	RetryFilter   *RetryFilter          `json:",omitempty"`
	TimeoutFilter *TimeoutFilter        `json:",omitempty"`
	JWT           *JWTRequirement       `json:",omitempty"`
}

// HTTPResponseFilters change a response.
type HTTPResponseFilters struct {
	Headers []HTTPHeaderModifiers `json:",omitempty"`
}

// URLRewrite puts another path in the place of what matched.
type URLRewrite struct{ Path string }

// RetryFilter says when a request is tried again.
type RetryFilter struct {
	NumRetries            uint32   `json:",omitempty"`
	RetryOn               []string `json:",omitempty"`
	RetryOnStatusCodes    []uint32 `json:",omitempty"`
	RetryOnConnectFailure bool     `json:",omitempty"`
}

// TimeoutFilter bounds a request.
type TimeoutFilter struct {
	RequestTimeout time.Duration `json:",omitempty"`
	IdleTimeout    time.Duration `json:",omitempty"`
}

// HTTPRouteService is a share of a rule's requests.
type HTTPRouteService struct {
	Name            string
	Weight          int
	Filters         HTTPFilters         `json:",omitzero"`
	ResponseFilters HTTPResponseFilters `json:",omitzero"`
	TLS             *GatewayServiceTLS  `json:",omitempty"`
	Limits          *UpstreamLimits     `json:",omitempty"`
	Partition       string              `json:",omitempty"`
	Namespace       string              `json:",omitempty"`
}

// TCPRoute leads an API gateway's connections to a service.
type TCPRoute struct {
	EntryHead
	Parents  []ResourceRef
	Services []TCPRouteService
	Status   EntryStatus
}

// TCPRouteService is where connections go.
type TCPRouteService struct {
	Name      string
	TLS       *GatewayServiceTLS `json:",omitempty"`
	Limits    *UpstreamLimits    `json:",omitempty"`
	Partition string             `json:",omitempty"`
	Namespace string             `json:",omitempty"`
}

// Certificate is a certificate and its key for a gateway: in PEM (KindInlineCertificate), or as paths on the gateway's host
// (KindFileCertificate).
type Certificate struct {
	EntryHead
	Certificate string
	PrivateKey  string
}

// InlineCertificate holds PEM.
type InlineCertificate struct{ Certificate }

// FileCertificate holds paths.
type FileCertificate struct{ Certificate }

// ExportedServices says which services other partitions and peers may see; its name is "default".
type ExportedServices struct {
	EntryHead
	Services []ExportedService `json:",omitempty"`
}

// ExportedServicesName is the one name of exported-services.
const ExportedServicesName = "default"

// ExportedService is a service ("*" for all) and who may see it.
type ExportedService struct {
	Name      string
	Namespace string            `json:",omitempty"`
	Consumers []ServiceConsumer `json:",omitempty"`
}

// ServiceConsumer is one who may see a service; one field is set.
type ServiceConsumer struct {
	Partition     string `json:",omitempty"`
	Peer          string `json:",omitempty" decode:"PeerName"`
	SamenessGroup string `json:",omitempty"`
}

// SamenessGroup is partitions and peers whose services of one name are the same.
type SamenessGroup struct {
	EntryHead
	DefaultForFailover bool `json:",omitempty"`
	IncludeLocal       bool `json:",omitempty"`
	Members            []SamenessMember
}

// SamenessMember is one of them.
type SamenessMember struct {
	Partition string `json:",omitempty"`
	Peer      string `json:",omitempty"`
}

// RequestLimit bounds how often servers are asked, by the caller's address.
type RequestLimit struct {
	EntryHead
	Mode      string // permissive, enforcing or disabled
	ReadRate  float64
	WriteRate float64
	ACL, Catalog, ConfigEntry, ConnectCA, Coordinate, DiscoveryChain, ServerDiscovery, Health, Intention, KV, Tenancy, PreparedQuery,
	Session, Txn, AutoConfig, FederationState, Internal, PeerStream, Peering, DataPlane, DNS, Subscribe, Resource *RequestRates `json:",omitempty"`
}

// RequestRates are one category's.
type RequestRates struct{ ReadRate, WriteRate float64 }
