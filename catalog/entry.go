// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"cmp"
	"time"
)

// The kinds of config entry, by Consul's names.
const (
	KindServiceDefaults   = "service-defaults"
	KindProxyDefaults     = "proxy-defaults"
	KindServiceIntentions = "service-intentions"
	KindServiceRouter     = "service-router"
	KindServiceSplitter   = "service-splitter"
	KindServiceResolver   = "service-resolver"
	KindMesh              = "mesh"
)

// The names of entries that there is only one of.
const (
	ProxyDefaultsName = "global"
	MeshName          = "mesh"
	Wildcard          = "*"
)

// Entry is a config entry: one of the *ServiceDefaults, *ProxyDefaults, … of this package.
type Entry interface {
	// EntryKind is the kind's name, as "service-defaults".
	EntryKind() string
	// Head is what every entry has. The pointer is into the entry: only its owner, before it is stored, may write to it.
	Head() *EntryHead
	// Normalize fills in defaults and brings the entry into the one form that is stored.
	Normalize()
	// Validate says what is wrong with the entry taken alone, naming the field. It expects Normalize to have run.
	Validate() error
}

// EntryHead is what every config entry begins with. Datacenter is the one that owns the entry (the primary).
type EntryHead struct {
	Scope
	Name string
	Meta map[string]string `json:",omitempty"`
	// Hash is over the entry's content without indexes: writing what is there already changes nothing.
	Hash uint64 `json:",omitempty"`
	Indexes
}

// Head gives the entry's common part.
func (h *EntryHead) Head() *EntryHead { return h }

// Key is the entry's key within its kind.
func (h *EntryHead) Key() Key { return h.Scope.Name(h.Name) }

// The protocols that a service can have. "" means that nothing was said, and counts as tcp.
const (
	ProtocolTCP   = "tcp"
	ProtocolHTTP  = "http"
	ProtocolHTTP2 = "http2"
	ProtocolGRPC  = "grpc"
)

// HTTPLike says whether requests (and not only connections) can be seen in the protocol.
func HTTPLike(protocol string) bool {
	return protocol == ProtocolHTTP || protocol == ProtocolHTTP2 || protocol == ProtocolGRPC
}

// ServiceDefaults is what holds for every instance of a service.
type ServiceDefaults struct {
	EntryHead
	Protocol              string            `json:",omitempty"`
	Mode                  string            `json:",omitempty"`
	MutualTLSMode         string            `json:",omitempty"` // "strict", as also ""; "permissive"; weft's: "off"
	MeshGateway           MeshGatewayMode   `json:",omitzero"`
	Expose                Expose            `json:",omitzero"`
	ExternalSNI           string            `json:",omitempty"`
	UpstreamConfig        *UpstreamDefaults `json:",omitempty"`
	Destination           *Outside          `json:",omitempty"`
	MaxInboundConnections int               `json:",omitempty"`
	LocalConnectTimeoutMs int               `json:",omitempty"`
	LocalRequestTimeoutMs int               `json:",omitempty"`
	// BalanceInboundConnections is "" or "exact_balance".
	BalanceInboundConnections string            `json:",omitempty"`
	RateLimits                *RateLimits       `json:",omitempty"`
	TransparentProxy          *TransparentProxy `json:",omitempty"`
	EnvoyExtensions           []EnvoyExtension  `json:",omitempty"`
	// MutualTLSPorts is weft's: the mode for instances whose application listens on one of these ports.
	MutualTLSPorts []PortMutualTLS `json:",omitempty"`
	// InboundConnections is weft's: how callers' connections are kept.
	InboundConnections *InboundConnections `json:",omitempty"`
	// LocalProxyProtocol is weft's, for TCP: the application is told the caller's address by the PROXY protocol, "v1" or "v2".
	LocalProxyProtocol string `json:",omitempty"`
	// AdaptiveConcurrency is weft's: how many requests an instance takes at once is found out by how long they take.
	AdaptiveConcurrency *AdaptiveConcurrency `json:",omitempty"`
	// ExternalAuthorization is weft's: who else decides about requests.
	ExternalAuthorization *ExternalAuthorization `json:",omitempty"`
}

// EntryKind is KindServiceDefaults.
func (*ServiceDefaults) EntryKind() string { return KindServiceDefaults }

// UpstreamDefaults is how a service calls others: for all of them, and for some by name.
type UpstreamDefaults struct {
	Overrides []UpstreamConfig `json:",omitempty"`
	Defaults  *UpstreamConfig  `json:",omitempty"`
}

// UpstreamConfig is how a service calls one other. Zero values mean "not said here".
type UpstreamConfig struct {
	Name                       string              `json:",omitempty"`
	Namespace                  string              `json:",omitempty"` // "" is the entry's own
	Peer                       string              `json:",omitempty"`
	Protocol                   string              `json:",omitempty"`
	ConnectTimeoutMs           int                 `json:",omitempty"`
	Limits                     *UpstreamLimits     `json:",omitempty"`
	PassiveHealthCheck         *PassiveHealthCheck `json:",omitempty"`
	MeshGateway                MeshGatewayMode     `json:",omitzero"`
	BalanceOutboundConnections string              `json:",omitempty"`
	// Connections is weft's: in place of what the service's resolver says.
	Connections *Connections `json:",omitempty"`
}

// About says whether an override is about an upstream, for a caller in a namespace.
func (c *UpstreamConfig) About(upstream Key, caller string) bool {
	return c.Name == upstream.Name && c.Peer == upstream.Peer &&
		cmp.Or(c.Namespace, cmp.Or(caller, DefaultNamespace)) == cmp.Or(upstream.Namespace, DefaultNamespace)
}

// ProxyDefaults holds for every proxy; its name is "global".
type ProxyDefaults struct {
	EntryHead
	Config           Opaque            `json:",omitempty"`
	Mode             string            `json:",omitempty"`
	MutualTLSMode    string            `json:",omitempty"`
	MeshGateway      MeshGatewayMode   `json:",omitzero"`
	Expose           Expose            `json:",omitzero"`
	AccessLogs       *AccessLogs       `json:",omitempty"`
	Tracing          *Tracing          `json:",omitempty"`
	TransparentProxy *TransparentProxy `json:",omitempty"`
	EnvoyExtensions  []EnvoyExtension  `json:",omitempty"`
	// ExternalAuthorization is weft's: who else decides about requests to services that don't say it themselves.
	ExternalAuthorization *ExternalAuthorization `json:",omitempty"`
}

// EntryKind is KindProxyDefaults.
func (*ProxyDefaults) EntryKind() string { return KindProxyDefaults }

// AccessLogs is where a proxy writes a line for each request or connection.
type AccessLogs struct {
	Enabled             bool
	DisableListenerLogs bool   `json:",omitempty"`
	Type                string `json:",omitempty"` // "stdout" (default), "stderr" or "file"
	Path                string `json:",omitempty"`
	JSONFormat          string `json:",omitempty"`
	TextFormat          string `json:",omitempty"`
}

// Tracing is where proxies send spans of the requests that they carry. It is weft's own.
type Tracing struct {
	// Collector is the URL of what takes OTLP over HTTP, as it is reached from each host: "http://127.0.0.1:4318". Without a
	// path it is /v1/traces.
	Collector string
	// Sampling is how many of 100 traces that begin at a proxy are sampled, 1 where it isn't given. A request that comes with a
	// traceparent is sampled as that says.
	Sampling *float64 `json:",omitempty"`
}

// Share is Sampling with its default.
func (t *Tracing) Share() float64 {
	if t.Sampling == nil {
		return 1
	}
	return *t.Sampling
}

// Mesh holds for the whole mesh; its name is "mesh".
type Mesh struct {
	EntryHead
	TLS *MeshTLS `json:",omitempty"`
	// AllowEnablingPermissiveMutualTLS has to be true before an entry may have instances take plain text.
	AllowEnablingPermissiveMutualTLS bool                  `json:",omitempty"`
	TransparentProxy                 *MeshTransparentProxy `json:",omitempty"`
}

// MeshTransparentProxy is what holds for all transparent proxies.
type MeshTransparentProxy struct {
	// MeshDestinationsOnly refuses what isn't for a service of the mesh.
	MeshDestinationsOnly bool
}

// EntryKind is KindMesh.
func (*Mesh) EntryKind() string { return KindMesh }

// MeshTLS bounds the TLS versions between proxies.
type MeshTLS struct {
	Incoming *TLSRange `json:",omitempty"`
	Outgoing *TLSRange `json:",omitempty"`
}

// TLSRange is a range of TLS versions, in Envoy's names ("TLSv1_3").
type TLSRange struct {
	TLSMinVersion string `json:",omitempty"`
	TLSMaxVersion string `json:",omitempty"`
}

// The actions of an intention.
const (
	ActionAllow = "allow"
	ActionDeny  = "deny"
)

// ServiceIntentions says who may call a service (its name, or "*").
type ServiceIntentions struct {
	EntryHead
	Sources []SourceIntention `json:",omitempty"`
	// JWT is what requests that these rules allow must have, beside what the rules say.
	JWT *JWTRequirement `json:",omitempty"`
	// Mode is weft's: "" and "enforce" refuse what isn't allowed; "audit" lets it through, counts it and logs it. It is that of
	// the destination's own entry, for all rules about it.
	Mode string `json:",omitempty"`
}

// The modes of service-intentions.
const (
	ModeEnforce = "enforce"
	ModeAudit   = "audit"
)

// EntryKind is KindServiceIntentions.
func (*ServiceIntentions) EntryKind() string { return KindServiceIntentions }

// SourceIntention is the rule for one source. Action and Permissions exclude each other.
type SourceIntention struct {
	Name        string
	Namespace   string                `json:",omitempty"`
	Partition   string                `json:",omitempty"`
	Peer        string                `json:",omitempty"`
	Action      string                `json:",omitempty"`
	Permissions []IntentionPermission `json:",omitempty"`
	Precedence  int
	Type        string // "consul": a service; weft's: "identity-set", those of the set that Name is
	Description string `json:",omitempty"`
	// What the intentions API before config entries shows of a rule made through it.
	LegacyID         string            `json:",omitempty"`
	LegacyMeta       map[string]string `json:",omitempty"`
	LegacyCreateTime *time.Time        `json:",omitempty"`
	LegacyUpdateTime *time.Time        `json:",omitempty"`
}

// IntentionPermission allows or denies some requests of a source; the first that matches decides.
type IntentionPermission struct {
	Action string
	HTTP   *IntentionHTTPPermission `json:",omitempty"`
	JWT    *JWTRequirement          `json:",omitempty"`
	// MatchSets are weft's, in place of HTTP: the permission is about what any match of these match-sets is about.
	MatchSets []string `json:",omitempty"`
	// Not is weft's: requests that it matches are left out of the permission.
	Not *IntentionHTTPPermission `json:",omitempty"`
}

// IntentionHTTPPermission matches a request: at most one path form, all headers, any of the methods, any of the hosts.
type IntentionHTTPPermission struct {
	PathExact  string                `json:",omitempty"`
	PathPrefix string                `json:",omitempty"`
	PathRegex  string                `json:",omitempty"`
	Header     []IntentionHTTPHeader `json:",omitempty"`
	Methods    []string              `json:",omitempty"`
	// Hosts is weft's: what the request calls the service, as "api.example.com", or "*.example.com" for all below it; with any port, and
	// without regard to case.
	Hosts []string `json:",omitempty"`
}

// IntentionHTTPHeader matches a header by exactly one of its forms.
type IntentionHTTPHeader struct {
	Name       string
	Present    bool   `json:",omitempty"`
	Exact      string `json:",omitempty"`
	Prefix     string `json:",omitempty"`
	Suffix     string `json:",omitempty"`
	Contains   string `json:",omitempty"`
	Regex      string `json:",omitempty"`
	Invert     bool   `json:",omitempty"`
	IgnoreCase bool   `json:",omitempty"`
}

// ServiceRouter sends a service's HTTP requests by what they look like; the first route that matches decides.
type ServiceRouter struct {
	EntryHead
	Routes []ServiceRoute `json:",omitempty"`
}

// EntryKind is KindServiceRouter.
func (*ServiceRouter) EntryKind() string { return KindServiceRouter }

// ServiceRoute is a match and where it leads. A nil Match is every request.
type ServiceRoute struct {
	// Name is weft's: what explanations and logs call the route.
	Name string `json:",omitempty"`
	// Priority is weft's: routes are asked by rising priority, and in the order of the list where it is equal.
	Priority int                `json:",omitempty"`
	Match    *ServiceRouteMatch `json:",omitempty"`
	// MatchAny is weft's, in place of Match: the route is for what any of these matches.
	MatchAny []ServiceRouteMatch `json:",omitempty"`
	// MatchSets are weft's, in place of MatchAny and of Match's HTTP: the route is for what any match of these match-sets is about.
	MatchSets   []string                 `json:",omitempty"`
	Destination *ServiceRouteDestination `json:",omitempty"`
	// Redirect and Response are weft's, in place of a Destination: the proxy answers by itself.
	Redirect *HTTPRedirect `json:",omitempty"`
	Response *HTTPResponse `json:",omitempty"`
}

// ServiceRouteMatch holds the match's kinds.
type ServiceRouteMatch struct {
	HTTP *ServiceRouteHTTPMatch `json:",omitempty"`
	// Source is weft's: whose calls the route is for.
	Source *RouteSource `json:",omitempty"`
}

// ServiceRouteHTTPMatch matches a request: at most one path form, all headers and parameters, any of the methods.
type ServiceRouteHTTPMatch struct {
	PathExact       string                            `json:",omitempty"`
	PathPrefix      string                            `json:",omitempty"`
	PathRegex       string                            `json:",omitempty"`
	CaseInsensitive bool                              `json:",omitempty"`
	Header          []ServiceRouteHTTPMatchHeader     `json:",omitempty"`
	QueryParam      []ServiceRouteHTTPMatchQueryParam `json:",omitempty"`
	Methods         []string                          `json:",omitempty"`
	// What follows is weft's.
	Authority *StringMatch `json:",omitempty"` // the host that the caller names, with its port if it names one
	Scheme    string       `json:",omitempty"` // http or https
	Port      int          `json:",omitempty"` // of the authority; without one 80, or 443 with https
	GRPC      *GRPCMatch   `json:",omitempty"` // in place of a path form
}

// ServiceRouteHTTPMatchHeader matches a header by exactly one of its forms.
type ServiceRouteHTTPMatchHeader struct {
	Name    string
	Present bool   `json:",omitempty"`
	Exact   string `json:",omitempty"`
	Prefix  string `json:",omitempty"`
	Suffix  string `json:",omitempty"`
	Regex   string `json:",omitempty"`
	Invert  bool   `json:",omitempty"`
	// What follows is weft's.
	Contains   string `json:",omitempty"`
	Range      *Range `json:",omitempty"`
	IgnoreCase bool   `json:",omitempty"`
}

// ServiceRouteHTTPMatchQueryParam matches a query parameter by exactly one of its forms.
type ServiceRouteHTTPMatchQueryParam struct {
	Name    string
	Present bool   `json:",omitempty"`
	Exact   string `json:",omitempty"`
	Regex   string `json:",omitempty"`
	// What follows is weft's.
	Prefix     string `json:",omitempty"`
	Suffix     string `json:",omitempty"`
	Contains   string `json:",omitempty"`
	IgnoreCase bool   `json:",omitempty"`
}

// ServiceRouteDestination is where a route leads and how. An empty Service is the router's own.
type ServiceRouteDestination struct {
	Service               string               `json:",omitempty"`
	ServiceSubset         string               `json:",omitempty"`
	Namespace             string               `json:",omitempty"`
	Partition             string               `json:",omitempty"`
	PrefixRewrite         string               `json:",omitempty"`
	RequestTimeout        time.Duration        `json:",omitempty"`
	IdleTimeout           time.Duration        `json:",omitempty"`
	NumRetries            uint32               `json:",omitempty"`
	RetryOnConnectFailure bool                 `json:",omitempty"`
	RetryOn               []string             `json:",omitempty"`
	RetryOnStatusCodes    []uint32             `json:",omitempty"`
	RequestHeaders        *HTTPHeaderModifiers `json:",omitempty"`
	ResponseHeaders       *HTTPHeaderModifiers `json:",omitempty"`
	// What follows is weft's.
	PathRewrite       string        `json:",omitempty"` // the whole path
	RegexRewrite      *RegexRewrite `json:",omitempty"`
	HostRewrite       string        `json:",omitempty"`
	Mirror            []Mirror      `json:",omitempty"`
	CORS              *CORS         `json:",omitempty"`
	PerTryTimeout     time.Duration `json:",omitempty"`
	MaxStreamDuration time.Duration `json:",omitempty"` // of the whole request and answer, however it moves
	RetryBackOff      *BackOff      `json:",omitempty"`
	RetryOtherHost    bool          `json:",omitempty"` // a retry goes to an instance that wasn't tried, if there is one
	RetryMethods      []string      `json:",omitempty"` // only requests of these methods are tried again
	RetryBodyBytes    uint32        `json:",omitempty"` // a request with a larger body isn't tried again
	Fault             *Fault        `json:",omitempty"`
	// Hedge makes a retry when PerTryTimeout is over beside the try that is under way, in place of ending that; the first answer counts.
	Hedge bool `json:",omitempty"`
	// RetryAfterMax is how long a retry waits at most because an answer's Retry-After says so; an answer that wants a longer wait
	// is taken as one that says nothing.
	RetryAfterMax time.Duration `json:",omitempty"`
}

// HTTPHeaderModifiers change a message's header: Remove, then Set, then Add.
type HTTPHeaderModifiers struct {
	Add    map[string]string `json:",omitempty"`
	Set    map[string]string `json:",omitempty"`
	Remove []string          `json:",omitempty"`
}

// ServiceSplitter divides a service's requests by weight.
type ServiceSplitter struct {
	EntryHead
	Splits []ServiceSplit `json:",omitempty"`
	// Sticky is weft's: what a request is hashed by, so that who was on a share stays on it.
	Sticky []HashPolicy `json:",omitempty"`
}

// EntryKind is KindServiceSplitter.
func (*ServiceSplitter) EntryKind() string { return KindServiceSplitter }

// ServiceSplit is one share, in percent with two decimals; all of a splitter's make 100.
type ServiceSplit struct {
	Weight          float64
	Service         string               `json:",omitempty"`
	ServiceSubset   string               `json:",omitempty"`
	Namespace       string               `json:",omitempty"`
	Partition       string               `json:",omitempty"`
	RequestHeaders  *HTTPHeaderModifiers `json:",omitempty"`
	ResponseHeaders *HTTPHeaderModifiers `json:",omitempty"`
}

// ServiceResolver says which instances a service's name means.
type ServiceResolver struct {
	EntryHead
	DefaultSubset  string                             `json:",omitempty"`
	Subsets        map[string]ServiceResolverSubset   `json:",omitempty"`
	Redirect       *ServiceResolverRedirect           `json:",omitempty"`
	Failover       map[string]ServiceResolverFailover `json:",omitempty"`
	ConnectTimeout time.Duration                      `json:",omitempty"`
	RequestTimeout time.Duration                      `json:",omitempty"`
	LoadBalancer   *LoadBalancer                      `json:",omitempty"`
	// Limits and PassiveHealthCheck are weft's: how every caller holds itself towards the service. What a caller's own
	// service-defaults say (UpstreamConfig) wins.
	Limits               *UpstreamLimits       `json:",omitempty"`
	PassiveHealthCheck   *PassiveHealthCheck   `json:",omitempty"`
	Connections          *Connections          `json:",omitempty"` // weft's too: how connections to it are kept
	PrioritizeByLocality *PrioritizeByLocality `json:",omitempty"`
	// LocalityWeights is weft's: instances elsewhere get nothing.
	LocalityWeights []LocalityWeight `json:",omitempty"`
	// Fallback is weft's: what callers of the service get where no instance answers.
	Fallback *HTTPResponse `json:",omitempty"`
}

// EntryKind is KindServiceResolver.
func (*ServiceResolver) EntryKind() string { return KindServiceResolver }

// ServiceResolverSubset is the instances that a filter (go-bexpr over an Instance in Consul's health form) selects.
type ServiceResolverSubset struct {
	Filter      string `json:",omitempty"`
	OnlyPassing bool   `json:",omitempty"`
}

// ServiceResolverRedirect makes a name mean another.
type ServiceResolverRedirect struct {
	Service       string `json:",omitempty"`
	ServiceSubset string `json:",omitempty"`
	Namespace     string `json:",omitempty"`
	Partition     string `json:",omitempty"`
	Datacenter    string `json:",omitempty"`
	Peer          string `json:",omitempty"`
}

// ServiceResolverFailover is where to go when a subset ("*" for all) has nobody healthy.
type ServiceResolverFailover struct {
	Service       string                          `json:",omitempty"`
	ServiceSubset string                          `json:",omitempty"`
	Namespace     string                          `json:",omitempty"`
	Datacenters   []string                        `json:",omitempty"`
	Targets       []ServiceResolverFailoverTarget `json:",omitempty"`
}

// ServiceResolverFailoverTarget is one place to go to, in order.
type ServiceResolverFailoverTarget struct {
	Service       string `json:",omitempty"`
	ServiceSubset string `json:",omitempty"`
	Namespace     string `json:",omitempty"`
	Partition     string `json:",omitempty"`
	Datacenter    string `json:",omitempty"`
	Peer          string `json:",omitempty"`
}

// LoadBalancer chooses among a target's instances.
type LoadBalancer struct {
	Policy             string              `json:",omitempty"` // random, round_robin, least_request, ring_hash, maglev; weft's: peak_ewma
	RingHashConfig     *RingHashConfig     `json:",omitempty"`
	LeastRequestConfig *LeastRequestConfig `json:",omitempty"`
	HashPolicies       []HashPolicy        `json:",omitempty"`
	// What follows is weft's.
	MaglevConfig *MaglevConfig       `json:",omitempty"`
	SlowStart    *SlowStart          `json:",omitempty"`
	Persistence  *SessionPersistence `json:",omitempty"`
	// PanicThreshold is the percentage of instances below which those that were left out for failing get calls again; 0: never.
	PanicThreshold *uint32 `json:",omitempty"`
}

// RingHashConfig sizes the ring.
type RingHashConfig struct {
	MinimumRingSize uint64 `json:",omitempty"`
	MaximumRingSize uint64 `json:",omitempty"`
}

// LeastRequestConfig is how many instances are compared.
type LeastRequestConfig struct {
	ChoiceCount uint32 `json:",omitempty"`
}

// HashPolicy is what a request is hashed by.
type HashPolicy struct {
	Field        string        `json:",omitempty"` // header, cookie, query_parameter
	FieldValue   string        `json:",omitempty"`
	CookieConfig *CookieConfig `json:",omitempty"`
	SourceIP     bool          `json:",omitempty"`
	Terminal     bool          `json:",omitempty"`
}

// CookieConfig is a cookie that the proxy makes if there is none.
type CookieConfig struct {
	Session bool          `json:",omitempty"`
	TTL     time.Duration `json:",omitempty"`
	Path    string        `json:",omitempty"`
}
