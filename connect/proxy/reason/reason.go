// SPDX-License-Identifier: Apache-2.0

// Package reason lists why weft's proxy answers or closes by itself: short, stable codes, put into the header
// x-weft-reason, the access log and metrics, and explained by `weft explain`.
package reason

// Header is the response header that carries a code.
const Header = "x-weft-reason"

// Code is why the proxy answered or closed by itself.
type Code string

// The codes.
const (
	None                   Code = ""
	RBACDenied             Code = "rbac_denied"
	LocalIdentity          Code = "local_identity"
	NoRoute                Code = "no_route"
	NoCluster              Code = "no_cluster"
	NoHealthyUpstream      Code = "no_healthy_upstream"
	UpstreamConnectFailure Code = "upstream_connect_failure"
	UpstreamTLSFailure     Code = "upstream_tls_failure"
	UpstreamReset          Code = "upstream_reset"
	UpstreamTimeout        Code = "upstream_timeout"
	StreamIdleTimeout      Code = "stream_idle_timeout"
	UpstreamOverflow       Code = "upstream_overflow"
	UpstreamProtocol       Code = "upstream_protocol_error"
	BadRequest             Code = "bad_request"
	BadPath                Code = "bad_path"
	HeaderTooLarge         Code = "header_too_large"
	UpgradeRefused         Code = "upgrade_refused"
	Draining               Code = "draining"
	DownstreamTLSFailure   Code = "downstream_tls_failure"
	DownstreamReset        Code = "downstream_reset"
	Direct                 Code = "direct_response"
	AuditDenied            Code = "audit_denied"
	RateLimited            Code = "rate_limited"
	FaultInjected          Code = "fault_injected"
	Overloaded             Code = "overloaded"
	TokenInvalid           Code = "token_invalid"
	NoDestination          Code = "no_destination"
	AuthzDenied            Code = "ext_authz_denied"
	AuthzError             Code = "ext_authz_error"
	AuthzBody              Code = "ext_authz_body"
	AuthzOpen              Code = "ext_authz_open"
)

// Explanation is what a code means, and what to do.
type Explanation struct {
	Meaning, Remedy string
}

// Explanations has an entry for each code.
var Explanations = map[Code]Explanation{
	NoDestination: {
		"a transparent proxy doesn't carry the connection: where it was going is no service that the caller reaches, and mesh's MeshDestinationsOnly lets nothing else by; or it was going nowhere else, as somebody dialled the proxy's own port",
		"see what the caller may reach: weft intention match DST, or name DST as an upstream; weft config read -kind mesh -name mesh; let it go outside the mesh: a service-defaults with Destination, and an intention",
	},
	RBACDenied: {
		"an intention doesn't allow the caller to make this request (or connection) to the service; outside the mesh (service-defaults Destination) the caller's own proxy says so, and mesh/mesh there is its MeshDestinationsOnly",
		"see which: response_code_details in the access log of the service's sidecar (outside the mesh, of the caller's), or weft intention match DST; allow it: weft intention create -allow -replace SRC DST",
	},
	LocalIdentity: {
		"the process that calls the upstream on this host isn't the service, by its user, systemd unit or cgroup (proxy { local_identity { … } } of its registration), or had closed its connection already",
		"run it as what the registration names, or add its user, unit or cgroup there; what is another service registers with a sidecar of its own",
	},
	NoRoute: {
		"no route of the service matches the request",
		"see the routes: weft config read -kind service-router -name SERVICE; a route without a match takes the rest",
	},
	NoCluster: {
		"the route leads to a target that the proxy hasn't been told of",
		"see what the agent says of the proxy: curl 127.0.0.1:8500/v1/agent/connect/proxies; a warning there names the cause",
	},
	NoHealthyUpstream: {
		"no instance of the service passes its health checks (or none is registered with a sidecar)",
		"see the instances and their checks: curl 127.0.0.1:8500/v1/health/connect/SERVICE",
	},
	UpstreamConnectFailure: {
		"no connection could be made to the instance that was chosen, nor to another that was tried",
		"is the instance's sidecar (or, inbound, the service itself) running and listening where it was registered?",
	},
	UpstreamTLSFailure: {
		"the instance isn't who it should be: its certificate is of another service, another root, or outside its time",
		"see the certificates and their life: weft tls cert on both hosts; are the clocks right?",
	},
	UpstreamReset: {
		"the instance closed the connection before it had answered",
		"look into the instance's own log at this time; retries for it: service-router, RetryOnConnectFailure and RetryOn",
	},
	UpstreamTimeout: {
		"the answer didn't come within the request's timeout",
		"is the instance slow, or the timeout short? service-resolver RequestTimeout, service-router RequestTimeout (15s by default)",
	},
	StreamIdleTimeout: {
		"nothing moved in the request for too long",
		"for long polls and streams raise the route's IdleTimeout (service-router)",
	},
	UpstreamOverflow: {
		"a limit on connections, waiting or concurrent requests to the service is reached",
		"see UpstreamConfig Limits in the caller's service-defaults; more instances, or a higher limit",
	},
	UpstreamProtocol: {
		"the instance answered with what isn't HTTP as it was declared",
		"does service-defaults Protocol of the service say what it really speaks (http, http2, grpc, tcp)?",
	},
	BadRequest:     {"the request breaks the rules of HTTP", "the proxy's log says which rule; the client has to be mended"},
	BadPath:        {"the path can't be brought into one safe form", "the client has to send another path: no %00, no escaped slashes where they are refused"},
	HeaderTooLarge: {"the request's head is larger than the proxy takes", "make cookies and headers smaller (64 KiB, 200 fields at most)"},
	UpgradeRefused: {"the request wants to change protocol where that isn't allowed", "only websocket is passed, for services of protocol http"},
	Draining:       {"the proxy is stopping", "the client has to connect again"},
	DownstreamTLSFailure: {
		"a caller's TLS handshake failed: plain text on the mesh's port, no certificate, or one of another trust domain",
		"callers of this port must be sidecars of the same mesh; plain callers use the service's own port",
	},
	DownstreamReset: {"the client went away before it had its answer", "nothing, or a longer timeout at the client"},
	AuditDenied: {
		"an intention in audit mode would have refused the request (or connection), and let it through",
		"see the proxy's log for the rule; when nothing is counted any more, take Mode out of the service-intentions entry",
	},
	RateLimited: {
		"more requests came to the service than its rate limit lets through, in all, of the path, or of the caller",
		"the caller has to wait and come less often; the limits: weft config read -kind service-defaults -name SERVICE, RateLimits",
	},
	Overloaded: {
		"the instance has as many requests under way as it can answer in about its usual time; the bound moves with how long they take",
		"more instances, or a faster service; the bound: weft config read -kind service-defaults -name SERVICE, AdaptiveConcurrency",
	},
	TokenInvalid: {
		"the request carries a token (JWT) that is wrong: its signature, issuer, audience or time",
		"see what the service's provider asks for: weft config read -kind jwt-provider -name PROVIDER; RefuseInvalid there has wrong tokens refused",
	},
	AuthzDenied: {
		"the program that the service has decide about its requests (ExternalAuthorization) refused this one; status, headers and body are its own",
		"its log says why; who it is: weft config read -kind service-defaults -name SERVICE, or -kind proxy-defaults -name global",
	},
	AuthzError: {
		"the program that the service has decide about its requests (ExternalAuthorization) can't be reached, failed, or didn't answer in its Timeout, so the request was refused",
		"is it running? As a service: an intention has to let SERVICE call it, and it needs Protocol grpc or http2 to be asked by grpc; FailOpen would let requests by meanwhile",
	},
	AuthzBody: {
		"the request's body is larger than what the program that decides about requests is told (ExternalAuthorization.MaxBodyBytes)",
		"send less, raise MaxBodyBytes, set PartialBody, or leave such requests out with Except",
	},
	AuthzOpen: {
		"the program that decides about requests (ExternalAuthorization) can't be reached, failed, or didn't answer in time, and the request was let by, as FailOpen says",
		"is it running? Without FailOpen such requests are refused",
	},
	FaultInjected: {
		"the request was broken on purpose, by a fault of a route",
		"see which: weft config read -kind service-router -name SERVICE, Fault; it ends at its Until, or when it is taken out",
	},
	Direct: {"the answer is configured, not an instance's", "see the service's routes"},
}
