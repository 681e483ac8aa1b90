// SPDX-License-Identifier: Apache-2.0

// Package config is what a proxy does, compiled from xDS: plain structures that are never changed after they were made, so
// that a request reads them without a lock. A new snapshot shares with the old one everything that didn't change: a pointer
// that is equal means the same. It holds no code that touches a network and owns no goroutine.
package config

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/netip"
	"regexp"
	"strings"
	"time"

	"github.com/weftmesh/weft/connect/identity"
	"github.com/weftmesh/weft/connect/proxy/stream"
	"github.com/weftmesh/weft/internal/listen"
)

// Snapshot is all of a proxy's configuration at one moment.
type Snapshot struct {
	Listeners map[string]*Listener
	Clusters  map[string]*Cluster
	Routes    map[string]*RouteTable // by name, those that listeners name
}

// Direction is which side of the proxy a listener is on.
type Direction uint8

// The directions.
const (
	Outbound Direction = iota // the application calls out
	Inbound                   // others call the application
)

func (d Direction) String() string {
	if d == Inbound {
		return "inbound"
	}
	return "outbound"
}

// Listener is a socket and what is done with its connections; without a network it has no socket, and gets those that another one
// captured. It has one filter chain.
type Listener struct {
	Name      string
	Network   string // "tcp" or "unix"
	Address   string // host:port, or a path
	Mode      uint32 // of a Unix socket, 0 for its default
	Direction Direction
	TLS       *ServerTLS // nil: plain
	PlainToo  bool       // connections without TLS are taken too
	// MaxConnections bounds open connections, 0 for no bound.
	MaxConnections int
	Authorize      []*Policies       // of connections: each must allow
	Local          *listen.Processes // nil: any process may connect
	TCP            *TCP              // exactly one of TCP and HTTP, except beside Named and with Detect
	HTTP           *HTTP
	// Detect says that nobody declared what is spoken: HTTP is for connections whose client speaks it, TCP for the others.
	Detect bool
	// Named are tunnels by the server name that a TLS client asks for, which is looked at and not answered. TCP, which may be
	// nil then, gets what none of them is for. Peek bounds the wait for the name; 0: 15 s.
	Named []Named
	Peek  time.Duration
	// Captured has the listener's connections in its place: they were going elsewhere. All that is said of connections above is
	// empty then.
	Captured *Captured
}

// Named is a tunnel for some server names, in lower case: "api.example.com", or "*.example.com" for all below it.
type Named struct {
	Names []string
	TCP   *TCP
}

// ByName is the tunnel for a server name: that of the name itself, else of the longest domain above it, else TCP.
func (l *Listener) ByName(name string) *TCP {
	best, out := 0, l.TCP
	for _, n := range l.Named {
		for _, pattern := range n.Names {
			if pattern == name && name != "" {
				return n.TCP
			}
			if suffix, ok := strings.CutPrefix(pattern, "*"); ok && strings.HasSuffix(name, suffix) && len(name) > len(suffix) && len(suffix) > best {
				best, out = len(suffix), n.TCP
			}
		}
	}
	return out
}

// TCP hands bytes to a cluster.
type TCP struct {
	Cluster     string
	Weighted    []WeightedCluster // instead of Cluster
	IdleTimeout time.Duration     // 0: none
	MaxAge      time.Duration     // a connection that is as old is cut; 0: never
	Log         *AccessLog
}

// HTTP handles requests.
type HTTP struct {
	Codec         Codec
	RouteName     string      // in Snapshot.Routes
	Inline        *RouteTable // instead of RouteName
	ServerName    string
	ForwardClient ForwardClient // what becomes of x-forwarded-client-cert
	ClientDetails ClientDetails // what it says of the peer's certificate, beside its hash and the name of our own
	// Normalize brings paths into their one form first.
	Normalize         bool
	MergeSlashes      bool
	EscapedSlashes    EscapedSlashes
	RejectUnderscores bool // header names with an underscore: the request is refused (Envoy: REJECT_REQUEST)
	GenerateRequestID bool
	Trace             bool // a request without traceparent gets one
	Spans             *Spans
	Websocket         bool
	GRPCWeb           bool          // gRPC-Web's requests become gRPC's
	IdleTimeout       time.Duration // of a connection without requests; 0: an hour
	StreamIdle        time.Duration // of a request in which nothing moves; 0: five minutes
	HeaderTimeout     time.Duration
	MaxAge            time.Duration // a connection that is as old takes no more requests; 0: never
	MaxRequests       int           // of a connection; 0: no bound
	MaxStreams        int           // of an HTTP/2 connection
	MaxHeadBytes      int
	// Authorize says that requests are checked against their route's Policies.
	Authorize bool
	// Tokens are verified before that, for what policies ask of their claims.
	Tokens []*TokenProvider
	// Ask is who else decides, after that and the rate limits; nil: nobody.
	Ask *Ask
	// Adaptive bounds the requests under way, after that; nil: no bound.
	Adaptive *Adaptive
	// Fallbacks are answers in place of the proxy's own; the first for the reason counts.
	Fallbacks []Fallback
	Log       *AccessLog
}

// Fallback answers requests that the proxy couldn't bring to anybody, for one of the reasons.
type Fallback struct {
	Reasons []string
	Status  int
	Body    []byte
}

// Codec is which versions of HTTP a listener or cluster speaks.
type Codec uint8

// The codecs. Auto is by ALPN, else by the connection's first bytes.
const (
	Auto Codec = iota
	HTTP1
	HTTP2
)

// ForwardClient is what becomes of x-forwarded-client-cert.
type ForwardClient uint8

// The ways.
const (
	SanitizeClient    ForwardClient = iota // taken out
	SanitizeSetClient                      // replaced by the peer's certificate
	ForwardOnlyClient                      // passed on if the connection is mutual TLS
	AppendClient
	AlwaysForwardClient
)

// ClientDetails are parts of the peer's certificate.
type ClientDetails struct{ Subject, URI, DNS bool }

// EscapedSlashes is what becomes of %2F and %5C in paths.
type EscapedSlashes uint8

// The ways.
const (
	KeepEscaped EscapedSlashes = iota
	RejectEscaped
	UnescapeRedirect
	UnescapeForward
)

// AccessLog is where a line for each request or connection goes, in JSON.
type AccessLog struct {
	Path string // "/dev/stdout", "/dev/stderr" or a file
	// JSON maps a field to its format, with Envoy's command operators; nil means weft's own fields.
	JSON map[string]string
	Text string // a text format instead
}

// RouteTable is a route configuration.
type RouteTable struct {
	Name  string
	Hosts []*VirtualHost
}

// VirtualHost is the routes for some authorities: exact names, "*.suffix", "prefix.*" or "*".
type VirtualHost struct {
	Name      string
	Domains   []string
	Routes    []*Route
	Authorize []*Policies // where a route has none of its own
	Request   *Mutations
	Response  *Mutations
}

// Route is a match and what is done.
type Route struct {
	Name  string
	Match Match
	// Exactly one of Forward, Redirect and Direct.
	Forward   *Forward
	Redirect  *Redirect
	Direct    *Direct
	Authorize []*Policies // each must allow
	Request   *Mutations
	Response  *Mutations
	Limit     *RateLimit
	Session   *Session
	CORS      *CORS
	Fault     *Fault
	Source    string // where the rule was written; for explanations
}

// CORS is how browsers are answered that ask from pages of other origins. The lists are in the form of their header.
type CORS struct {
	Origins                          []StringMatch
	Methods, Headers, Expose, MaxAge string
	Credentials                      bool
}

// Fault breaks requests on purpose: those whose headers match, and of these shares by chance.
type Fault struct {
	Headers     []HeaderMatch
	Delay       time.Duration
	DelayShare  Share
	AbortStatus int // 0: no abort
	AbortGRPC   int // status of gRPC in place of AbortStatus, where AbortByGRPC
	AbortByGRPC bool
	AbortReset  bool // reset the caller in place of answering
	AbortShare  Share
	Rate        int64 // bytes of a response in a second; 0: as it comes
	RateShare   Share
}

// Share is a part in a million.
type Share uint32

// Whole is everything.
const Whole Share = 1_000_000

// Mirror is who gets copies of a share of the requests.
type Mirror struct {
	Cluster string
	Share   Share
}

// Match is what a request must look like: the path form that is set, all headers, all parameters.
type Match struct {
	Exact, Prefix string
	Separated     string // prefix that ends at a slash or the path's end
	Regex         *regexp.Regexp
	CaseFold      bool
	Headers       []HeaderMatch
	Query         []QueryMatch
	GRPC          bool // only gRPC requests
}

// HeaderMatch matches one header; ":method", ":path" and ":authority" are its names for these.
type HeaderMatch struct {
	Name     string
	Value    StringMatch
	Present  bool // only that it is there
	Range    *Range
	Invert   bool
	AbsentAs bool // a missing header is the empty string
}

// Range is a half-open range of whole numbers.
type Range struct{ From, To int64 }

// QueryMatch matches one query parameter.
type QueryMatch struct {
	Name    string
	Value   StringMatch
	Present bool
}

// StringMatch is one form of string match; the zero value matches nothing.
type StringMatch struct {
	Kind     StringKind
	Text     string
	Regex    *regexp.Regexp
	CaseFold bool
	Plain    Plain // Regex's, if it has one
}

// StringKind is a form of string match.
type StringKind uint8

// The forms.
const (
	MatchNothing StringKind = iota
	MatchExact
	MatchPrefix
	MatchSuffix
	MatchContains
	MatchRegex // the whole string
	MatchAny
)

// Forward sends a request to a cluster.
type Forward struct {
	Clusters    []WeightedCluster // shares of the sum; one has all
	ByHash      bool              // the cluster is chosen by what the request is hashed by
	Mirrors     []Mirror
	Timeout     time.Duration // from when the request was sent; 0: none
	MaxDuration time.Duration // from when the request came; 0: none
	IdleTimeout time.Duration // 0: the HTTP's
	PrefixTo    string        // replaces the matched prefix (or exact path); "" changes nothing
	RegexFrom   *regexp.Regexp
	RegexTo     string
	HostTo      string
	Retry       *Retry
	Hash        []HashBy
	Upgrade     bool // websocket allowed here
}

// WeightedCluster is a share of the requests.
type WeightedCluster struct {
	Cluster  string
	Weight   uint32
	Request  *Mutations
	Response *Mutations
}

// Retry is when a request is sent again. What certainly wasn't processed is sent again once without it.
type Retry struct {
	Attempts     int // beyond the first
	PerTry       time.Duration
	OnConnect    bool // connect-failure
	OnReset      bool // reset
	On5xx        bool
	OnGateway    bool // 502, 503, 504
	OnRefused    bool // refused-stream
	OnRetriable4 bool // retriable-4xx: 409
	OnStatus     []int
	OnGRPC       []int
	BackOff      time.Duration // base; 25 ms by default
	MaxBackOff   time.Duration
	Methods      []string // only of these; all if empty
	MaxBody      int      // bytes of a body that is kept to be sent again; 0: 64 KiB
	// Hedge makes a retry when PerTry is over beside the tries that are under way.
	Hedge bool
	// AfterMax is the longest wait that an answer's Retry-After is given; 0: none is.
	AfterMax time.Duration
}

// HashBy is what a request is hashed by, for policies that hash.
type HashBy struct {
	Header, Cookie, Query string
	CookieTTL             time.Duration
	CookiePath            string
	CookieMake            bool // a missing cookie is made
	SourceIP              bool
	Terminal              bool
}

// Redirect answers with another place.
type Redirect struct {
	Scheme, Host, Path, PrefixTo string
	Port                         uint32
	Status                       int
	StripQuery                   bool
}

// Direct answers by itself.
type Direct struct {
	Status int
	Body   []byte
}

// Mutations change a head: Remove, then Set (which replaces), then Add.
type Mutations struct {
	Remove []string
	Set    []HeaderValue
	Add    []HeaderValue
}

// HeaderValue is a header to set or add.
type HeaderValue struct{ Name, Value string }

// Cluster is where requests and connections go.
type Cluster struct {
	Name           string
	Service        ServiceRef // for metrics and logs
	Local          bool       // the application beside the proxy
	Endpoints      []*Endpoint
	Original       bool // in place of endpoints: where a captured connection was going
	ConnectTimeout time.Duration
	Balance        Balance
	ChoiceCount    int
	MaglevSize     uint64     // 0: 65537
	EWMA           *EWMA      // for PeakEWMA
	SlowStart      *SlowStart // nil: a new endpoint has its whole share at once
	Panic          float64    // percent of a tier below which ejections don't count; 0: never
	TLS            *ClientTLS // nil: plain
	Codec          Codec      // HTTP1, HTTP2; Auto: what the request came in
	Limits         Limits
	Outlier        *Outlier
	MaxPerConn     int // requests on one connection, 0 for no bound
	Keep           Keep
	Announce       ProxyProtocol // who calls is said first, on connections that carry no requests
}

// Keep is how long connections are kept, and how it is found out whether they are alive. What is zero is as this proxy does it.
type Keep struct {
	Idle, Age              time.Duration // of connections that carry requests: without one, and at all
	Streams                int           // at once on an HTTP/2 connection
	PingEvery, PingTimeout time.Duration
	TCP                    *net.KeepAliveConfig
}

// ProxyProtocol is a form of the PROXY protocol.
type ProxyProtocol uint8

// The forms.
const (
	NoProxyProtocol ProxyProtocol = iota
	ProxyProtocolV1
	ProxyProtocolV2
)

// ServiceRef names a service.
type ServiceRef struct{ Name, Namespace, Partition, Datacenter, Peer, Subset string }

// Balance is a load-balancing policy.
type Balance uint8

// The policies.
const (
	RoundRobin Balance = iota
	LeastRequest
	Random
	RingHash
	Maglev
	PeakEWMA
)

// EWMA is how latencies are averaged.
type EWMA struct{ Decay, Penalty time.Duration }

// SlowStart gives new endpoints their share little by little.
type SlowStart struct {
	Window     time.Duration
	Aggression float64 // 1: evenly
	Least      float64 // share at the beginning, of 1
}

// Session binds callers to endpoints, by a cookie or by a header.
type Session struct {
	Cookie, Path, Header string
	TTL                  time.Duration
	Strict               bool // no other endpoint is taken
}

// Endpoint is an address of a cluster. Equal endpoints of successive snapshots are the same pointer, so that what is known of
// one (its connections, its failures) stays.
type Endpoint struct {
	Network  string // "tcp" or "unix"
	Address  string
	Weight   uint32
	Priority uint32
	Healthy  bool // taken by health; an unhealthy one is used only when nothing else is left
	Draining bool // no new requests
	Plain    bool // called without the cluster's TLS
}

// Limits bound what one cluster gets at once; 0 for no bound.
type Limits struct {
	Connections, Pending, Requests, Retries int
	Budget                                  *Budget // in place of Retries
}

// Budget bounds the retries under way to a share of the requests under way, of which they are some.
type Budget struct {
	Percent float64
	Least   int // so many may be under way in any case
}

// Outlier leaves endpoints out that fail.
type Outlier struct {
	Consecutive5xx     int // 0: doesn't count
	Enforcing          int // percent
	ConsecutiveGateway int // 502, 503, 504; 0: doesn't count
	ConsecutiveLocal   int // what never got an answer; it counts nowhere else then; 0: it counts like any other failure
	SuccessRate        *SuccessRate
	FailurePercentage  *FailurePercentage
	Interval           time.Duration
	BaseEjection       time.Duration
	MaxEjection        time.Duration
	MaxPercent         int
	Probation          bool // who comes back has one request at a time until one succeeds
	// Statuses are the answers that count as failures, in place of 5xx and gRPC's.
	Statuses  []int
	Jitter    time.Duration // the most that an ejection is longer by chance
	AlwaysOne bool          // one may be out, whatever MaxPercent says
}

// SuccessRate ejects who is Deviation standard deviations below the average, looked at once an interval.
type SuccessRate struct {
	MinHosts, MinRequests int
	Deviation             float64
}

// FailurePercentage ejects who fails Threshold percent or more, looked at once an interval.
type FailurePercentage struct {
	Threshold, MinHosts, MinRequests int
}

// ServerTLS is mutual TLS towards callers. The certificate and the roots are looked up at each handshake.
type ServerTLS struct {
	Config *tls.Config
	// Own gives the URI in the certificate that is shown at the moment, "" for none.
	Own func() string
	// Require says that callers must show a certificate.
	Require bool
	// Gone is about callers; nil: nobody ever is.
	Gone Gone
}

// Gone says whether a peer with these certificates, who was let in, is to be let in no more: a certificate was revoked, or a root
// removed. What it gives is handed in the next time, so that only a change costs a look; "" is a peer that was verified just now.
type Gone func(certs []*x509.Certificate, since string) (gone bool, now string)

// ClientTLS is mutual TLS towards an upstream.
type ClientTLS struct {
	Config *tls.Config
	// Identity changes when anything of the identity or the trust changes: connections made before it aren't given to
	// new requests after it.
	Identity string
	// Gone is about servers that were called; nil: nobody ever is.
	Gone Gone
}

// Policies are one RBAC filter: with Allow, one policy must match; without, none may. Shadow is only counted.
type Policies struct {
	Allow    bool
	Audit    bool // who isn't let through is counted and let through
	Policies []Policy
	// Deciders name the rule that a refusal comes from: the first that matches. They decide nothing.
	Deciders []Policy
}

// Policy matches if any permission and any principal match.
type Policy struct {
	Name       string
	Permission Rule
	Principal  Rule
}

// Rule is a condition on a connection or request, with and, or and not. The zero Rule matches nothing.
type Rule struct {
	Kind   RuleKind
	Rules  []Rule // of And, Or; one of Not
	Gates  []Gate // of Or: one for each of Rules, or nil
	String StringMatch
	Header *HeaderMatch
	Prefix netip.Prefix
	Port   uint32
	Path   []string // of ClaimIs: the provider's key, then the claim's
}

// RuleKind is what a rule looks at.
type RuleKind uint8

// The kinds.
const (
	Nothing RuleKind = iota
	Any
	And
	Or
	Not
	Authenticated // the peer's URI SAN matches String; with MatchAny: has one
	PathIs        // the path without its query matches String
	HeaderIs
	RemoteIP
	DestinationPort
	ServerName  // the SNI matches String
	ClaimIs     // what a verified token says at Path matches String, or is there where that is MatchAny
	Undecidable // what no request shows: it lets nobody through, and its negation keeps nobody out
)

// Peer is who is at the other end of a connection.
type Peer struct {
	// Identity is nil without mutual TLS.
	Identity identity.Identity
	URI      string
	SNI      string
	Remote   netip.AddrPort
	Local    netip.AddrPort
	// Original is where a connection was going that was captured, and then Local too.
	Original netip.AddrPort
	TLS      *tls.ConnectionState
}

// Request is what HTTP rules look at; nil for connections.
type Request = stream.RequestHead
