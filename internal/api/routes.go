// SPDX-License-Identifier: Apache-2.0

package api

import "net/http"

// The permissions that routes need.
var (
	agentRead      = Permission{"agent", Read}
	agentWrite     = Permission{"agent", Write}
	serviceRead    = Permission{"service", Read}
	serviceWrite   = Permission{"service", Write}
	nodeRead       = Permission{"node", Read}
	nodeWrite      = Permission{"node", Write}
	intentionRead  = Permission{"intentions", Read}
	intentionWrite = Permission{"intentions", Write}
	operatorRead   = Permission{"operator", Read}
	operatorWrite  = Permission{"operator", Write}
	keyRead        = Permission{"key", Read}
	keyWrite       = Permission{"key", Write}
	sessionRead    = Permission{"session", Read}
	sessionWrite   = Permission{"session", Write}
	eventRead      = Permission{"event", Read}
	eventWrite     = Permission{"event", Write}
	keyringRead    = Permission{"keyring", Read}
	keyringWrite   = Permission{"keyring", Write}
	queryRead      = Permission{"query", Read}
	queryWrite     = Permission{"query", Write}
	aclRead        = Permission{"acl", Read}
	aclWrite       = Permission{"acl", Write}
	meshWrite      = Permission{"mesh", Write}
	peeringRead    = Permission{"peering", Read}
	peeringWrite   = Permission{"peering", Write}
	none           = Permission{}
)

// Routes is the table of every HTTP route: nothing is served that isn't here.
var Routes = []Route{
	// The agent's own.
	{http.MethodGet, "/v1/agent/self", Agent, agentRead, Nothing, "", false},
	{http.MethodGet, "/v1/agent/services", Agent, serviceRead, Listed, "service", false},
	{http.MethodGet, "/v1/agent/service/{name}", Agent, serviceRead, ByHandler, "", true},
	{http.MethodGet, "/v1/agent/checks", Agent, serviceRead, Listed, "service", false},
	{http.MethodGet, "/v1/agent/members", Agent, nodeRead, Listed, "node", false},
	{http.MethodPut, "/v1/agent/join/{address}", Agent, agentWrite, Nothing, "", false},
	{http.MethodPut, "/v1/agent/token/{name}", Agent, agentWrite, ByHandler, "", false},
	{http.MethodPut, "/v1/agent/reload", Agent, agentWrite, Nothing, "", false},
	{http.MethodPut, "/v1/agent/leave", Agent, agentWrite, Nothing, "", false},
	{http.MethodPut, "/v1/agent/force-leave/{name}", Agent, operatorWrite, Nothing, "", false},
	{http.MethodPut, "/v1/event/fire/{name}", Agent, eventWrite, PathName, "", false},
	{http.MethodGet, "/v1/event/list", Agent, eventRead, Listed, "event", true},
	{http.MethodGet, "/v1/agent/monitor", Agent, agentRead, Nothing, "", false},
	{http.MethodGet, "/v1/agent/host", Agent, operatorRead, Nothing, "", false},
	{http.MethodGet, "/debug/pprof/{name}", Agent, operatorRead, Nothing, "", false},
	{http.MethodGet, "/v1/agent/metrics", Agent, agentRead, Nothing, "", false},
	{http.MethodGet, "/v1/agent/metrics/stream", Agent, agentRead, Nothing, "", false},
	{http.MethodGet, "/v1/agent/version", Agent, agentRead, Nothing, "", false},
	{http.MethodGet, "/v1/agent/health/service/id/{name}", Agent, serviceRead, ByHandler, "", false},
	{http.MethodGet, "/v1/agent/health/service/name/{name}", Agent, serviceRead, PathName, "", false},
	{http.MethodPut, "/v1/agent/service/register", Agent, serviceWrite, InBody, "", false},
	{http.MethodPut, "/v1/agent/service/deregister/{name}", Agent, serviceWrite, ByHandler, "", false},
	{http.MethodPut, "/v1/agent/service/maintenance/{name}", Agent, serviceWrite, ByHandler, "", false},
	{http.MethodPut, "/v1/agent/maintenance", Agent, nodeWrite, Nothing, "", false},
	{http.MethodPut, "/v1/agent/check/register", Agent, serviceWrite, InBody, "", false},
	{http.MethodPut, "/v1/agent/check/deregister/{name}", Agent, serviceWrite, ByHandler, "", false},
	{http.MethodPut, "/v1/agent/check/pass/{name}", Agent, serviceWrite, ByHandler, "", false},
	{http.MethodPut, "/v1/agent/check/warn/{name}", Agent, serviceWrite, ByHandler, "", false},
	{http.MethodPut, "/v1/agent/check/fail/{name}", Agent, serviceWrite, ByHandler, "", false},
	{http.MethodPut, "/v1/agent/check/update/{name}", Agent, serviceWrite, ByHandler, "", false},
	{http.MethodGet, "/v1/agent/connect/ca/roots", Agent, none, Nothing, "", true},
	{http.MethodGet, "/v1/agent/connect/ca/leaf/{name}", Agent, serviceWrite, PathName, "", true},
	{http.MethodPost, "/v1/agent/connect/authorize", Agent, serviceWrite, InBody, "", false},
	// weft's: many registrations as one; how a proxy of this host reaches ADS and proves who it is, what proxies have, and all certificates.
	{http.MethodPut, "/v1/agent/services/register", Agent, serviceWrite, InBody, "", false},
	{http.MethodGet, "/v1/agent/connect/proxy/{name}", Agent, serviceWrite, ByHandler, "", false},
	{http.MethodGet, "/v1/agent/connect/proxies", Agent, serviceRead, Listed, "service", false},
	{http.MethodGet, "/v1/agent/connect/certificates", Agent, agentRead, Nothing, "", false},

	{http.MethodGet, "/v1/openapi.json", Agent, none, Nothing, "", false},

	// Any server's.
	{http.MethodGet, "/v1/status/leader", Server, none, Nothing, "", false},
	{http.MethodGet, "/v1/status/peers", Server, none, Nothing, "", false},
	{http.MethodPut, "/v1/catalog/register", Server, nodeWrite, InBody, "", false},
	{http.MethodPut, "/v1/catalog/deregister", Server, nodeWrite, InBody, "", false},
	{http.MethodGet, "/v1/catalog/datacenters", Server, none, Nothing, "", false},
	{http.MethodGet, "/v1/catalog/nodes", Server, nodeRead, Listed, "node", true},
	{http.MethodGet, "/v1/catalog/services", Server, serviceRead, Listed, "service", true},
	{http.MethodGet, "/v1/catalog/service/{name}", Server, serviceRead, PathName, "", true},
	{http.MethodGet, "/v1/catalog/connect/{name}", Server, serviceRead, PathName, "", true},
	{http.MethodGet, "/v1/catalog/node/{name}", Server, nodeRead, PathName, "", true},
	{http.MethodGet, "/v1/catalog/node-services/{name}", Server, nodeRead, PathName, "", true},
	{http.MethodGet, "/v1/health/node/{name}", Server, nodeRead, PathName, "", true},
	{http.MethodGet, "/v1/health/checks/{name}", Server, serviceRead, PathName, "", true},
	{http.MethodGet, "/v1/health/service/{name}", Server, serviceRead, PathName, "", true},
	{http.MethodGet, "/v1/health/connect/{name}", Server, serviceRead, PathName, "", true},
	{http.MethodGet, "/v1/health/state/{name}", Server, nodeRead, Listed, "node", true},
	{http.MethodPut, "/v1/config", Server, serviceWrite, InBody, "", false},
	{http.MethodGet, "/v1/config/{kind}", Server, serviceRead, Listed, "service", true},
	{http.MethodGet, "/v1/config/{kind}/{name}", Server, serviceRead, PathName, "", true},
	{http.MethodDelete, "/v1/config/{kind}/{name}", Server, serviceWrite, ByHandler, "", false},
	{http.MethodGet, "/v1/connect/intentions", Server, intentionRead, Listed, "intentions", true},
	{http.MethodPost, "/v1/connect/intentions", Server, intentionWrite, InBody, "", false},
	{http.MethodGet, "/v1/connect/intentions/exact", Server, intentionRead, ByHandler, "", true},
	{http.MethodPut, "/v1/connect/intentions/exact", Server, intentionWrite, ByHandler, "", false},
	{http.MethodDelete, "/v1/connect/intentions/exact", Server, intentionWrite, ByHandler, "", false},
	{http.MethodGet, "/v1/connect/intentions/match", Server, intentionRead, ByHandler, "", true},
	{http.MethodGet, "/v1/connect/intentions/check", Server, intentionRead, ByHandler, "", true},
	{http.MethodGet, "/v1/connect/intentions/{id}", Server, intentionRead, ByHandler, "", true},
	{http.MethodPut, "/v1/connect/intentions/{id}", Server, intentionWrite, ByHandler, "", false},
	{http.MethodDelete, "/v1/connect/intentions/{id}", Server, intentionWrite, ByHandler, "", false},
	{http.MethodGet, "/v1/connect/ca/roots", Server, none, Nothing, "", true},
	{http.MethodGet, "/v1/connect/ca/configuration", Server, operatorRead, Nothing, "", true},
	{http.MethodPut, "/v1/connect/ca/configuration", Server, operatorWrite, Nothing, "", false},
	{http.MethodGet, "/v1/operator/raft/configuration", Server, operatorRead, Nothing, "", false},
	{http.MethodDelete, "/v1/operator/raft/peer", Server, operatorWrite, Nothing, "", false},
	{http.MethodPost, "/v1/operator/raft/transfer-leader", Server, operatorWrite, Nothing, "", false},
	{http.MethodGet, "/v1/operator/autopilot/configuration", Server, operatorRead, Nothing, "", false},
	{http.MethodPut, "/v1/operator/autopilot/configuration", Server, operatorWrite, Nothing, "", false},
	{http.MethodGet, "/v1/operator/autopilot/health", Server, operatorRead, Nothing, "", false},
	{http.MethodGet, "/v1/operator/autopilot/state", Server, operatorRead, Nothing, "", false},
	{http.MethodGet, "/v1/snapshot", Server, operatorWrite, Nothing, "", false}, // it holds every secret
	{http.MethodPut, "/v1/snapshot", Server, operatorWrite, Nothing, "", false},
	{http.MethodGet, "/v1/discovery-chain/{name}", Server, serviceRead, PathName, "", true},
	{http.MethodGet, "/v1/kv/{name...}", Server, keyRead, Listed, "key", true},
	{http.MethodPut, "/v1/kv/{name...}", Server, keyWrite, PathName, "", false},
	{http.MethodDelete, "/v1/kv/{name...}", Server, keyWrite, PathName, "", false},
	{http.MethodPut, "/v1/session/create", Server, sessionWrite, InBody, "", false},
	{http.MethodPut, "/v1/session/destroy/{id}", Server, sessionWrite, ByHandler, "", false},
	{http.MethodPut, "/v1/session/renew/{id}", Server, sessionWrite, ByHandler, "", false},
	{http.MethodGet, "/v1/session/info/{id}", Server, sessionRead, Listed, "session", true},
	{http.MethodGet, "/v1/session/list", Server, sessionRead, Listed, "session", true},
	{http.MethodGet, "/v1/session/node/{name}", Server, sessionRead, Listed, "session", true},
	{http.MethodGet, "/v1/query", Server, queryRead, Listed, "query", true},
	{http.MethodPost, "/v1/query", Server, queryWrite, InBody, "", false},
	{http.MethodGet, "/v1/query/{id}", Server, queryRead, Listed, "query", true},
	{http.MethodPut, "/v1/query/{id}", Server, queryWrite, InBody, "", false},
	{http.MethodDelete, "/v1/query/{id}", Server, queryWrite, ByHandler, "", false},
	{http.MethodGet, "/v1/query/{id}/execute", Server, queryRead, Listed, "query", true},
	{http.MethodGet, "/v1/query/{id}/explain", Server, queryRead, Listed, "query", true},
	{http.MethodPost, "/v1/discovery-chain/{name}", Server, serviceRead, PathName, "", true},
	{http.MethodGet, "/v1/catalog/gateway-services/{name}", Server, serviceRead, PathName, "", true},
	{http.MethodGet, "/v1/health/ingress/{name}", Server, serviceRead, PathName, "", true},
	{http.MethodGet, "/v1/exported-services", Server, serviceRead, Listed, "service", true},
	{http.MethodGet, "/v1/operator/usage", Server, operatorRead, Nothing, "", true},
	{http.MethodGet, "/v1/internal/ui/nodes", Server, nodeRead, Listed, "node", true},
	{http.MethodGet, "/v1/internal/ui/node/{name}", Server, nodeRead, PathName, "", true},
	{http.MethodGet, "/v1/internal/ui/services", Server, serviceRead, Listed, "service", true},
	{http.MethodGet, "/v1/internal/ui/exported-services", Server, serviceRead, Listed, "service", true},
	{http.MethodGet, "/v1/internal/ui/catalog-overview", Server, operatorRead, Nothing, "", true},
	{http.MethodGet, "/v1/internal/ui/service-topology/{name}", Server, serviceRead, PathName, "", true},
	{http.MethodGet, "/v1/internal/ui/gateway-services-nodes/{name}", Server, serviceRead, PathName, "", true},
	{http.MethodGet, "/v1/internal/ui/gateway-intentions/{name}", Server, intentionRead, PathName, "", true},
	{http.MethodPut, "/v1/internal/service-virtual-ip", Server, meshWrite, Nothing, "", false},
	{http.MethodGet, "/v1/internal/federation-states", Server, operatorRead, Nothing, "", false},
	{http.MethodGet, "/v1/internal/federation-states/mesh-gateways", Server, operatorRead, Nothing, "", false},
	{http.MethodPost, "/v1/peering/token", Server, peeringWrite, InBody, "", false},
	{http.MethodPost, "/v1/peering/establish", Server, peeringWrite, InBody, "", false},
	{http.MethodGet, "/v1/peering/{name}", Server, peeringRead, Nothing, "", true},
	{http.MethodDelete, "/v1/peering/{name}", Server, peeringWrite, Nothing, "", false},
	{http.MethodGet, "/v1/peerings", Server, peeringRead, Nothing, "", true},
	{http.MethodPut, "/v1/txn", Server, none, Nothing, "", false}, // each operation by itself: see Operations
	{http.MethodGet, "/v1/namespaces", Server, operatorRead, Nothing, "", true},
	{http.MethodPut, "/v1/namespace", Server, operatorWrite, Nothing, "", false},
	{http.MethodGet, "/v1/namespace/{name}", Server, operatorRead, Nothing, "", true},
	{http.MethodPut, "/v1/namespace/{name}", Server, operatorWrite, Nothing, "", false},
	{http.MethodDelete, "/v1/namespace/{name}", Server, operatorWrite, Nothing, "", false},
	{http.MethodGet, "/v1/coordinate/datacenters", Server, none, Nothing, "", false},
	{http.MethodGet, "/v1/coordinate/nodes", Server, nodeRead, Listed, "node", true},
	{http.MethodGet, "/v1/coordinate/node/{name}", Server, nodeRead, PathName, "", true},
	{http.MethodPut, "/v1/coordinate/update", Server, nodeWrite, InBody, "", false},
	{http.MethodGet, "/v1/operator/keyring", Server, keyringRead, Nothing, "", false},
	{http.MethodPost, "/v1/operator/keyring", Server, keyringWrite, Nothing, "", false},
	{http.MethodPut, "/v1/operator/keyring", Server, keyringWrite, Nothing, "", false},
	{http.MethodDelete, "/v1/operator/keyring", Server, keyringWrite, Nothing, "", false},
	// Tokens and what they grant. Without a permission: who logs in or out, asks for its own token, or is the first.
	{http.MethodPut, "/v1/acl/bootstrap", Server, none, Nothing, "", false},
	{http.MethodGet, "/v1/acl/replication", Server, none, Nothing, "", false},
	{http.MethodPost, "/v1/acl/login", Server, none, Nothing, "", false},
	{http.MethodPost, "/v1/acl/logout", Server, none, Nothing, "", false},
	{http.MethodPost, "/v1/acl/oidc/auth-url", Server, none, Nothing, "", false},
	{http.MethodPost, "/v1/acl/oidc/callback", Server, none, Nothing, "", false},
	{http.MethodPut, "/v1/acl/token", Server, aclWrite, Nothing, "", false},
	{http.MethodGet, "/v1/acl/token/self", Server, none, Nothing, "", false},
	{http.MethodGet, "/v1/acl/token/{id}", Server, aclRead, Nothing, "", false},
	{http.MethodPut, "/v1/acl/token/{id}", Server, aclWrite, Nothing, "", false},
	{http.MethodDelete, "/v1/acl/token/{id}", Server, aclWrite, Nothing, "", false},
	{http.MethodPut, "/v1/acl/policy", Server, aclWrite, Nothing, "", false},
	{http.MethodGet, "/v1/acl/policy/{id}", Server, aclRead, Nothing, "", false},
	{http.MethodPut, "/v1/acl/policy/{id}", Server, aclWrite, Nothing, "", false},
	{http.MethodDelete, "/v1/acl/policy/{id}", Server, aclWrite, Nothing, "", false},
	{http.MethodPut, "/v1/acl/role", Server, aclWrite, Nothing, "", false},
	{http.MethodGet, "/v1/acl/role/{id}", Server, aclRead, Nothing, "", false},
	{http.MethodPut, "/v1/acl/role/{id}", Server, aclWrite, Nothing, "", false},
	{http.MethodDelete, "/v1/acl/role/{id}", Server, aclWrite, Nothing, "", false},
	{http.MethodPut, "/v1/acl/binding-rule", Server, aclWrite, Nothing, "", false},
	{http.MethodGet, "/v1/acl/binding-rule/{id}", Server, aclRead, Nothing, "", false},
	{http.MethodPut, "/v1/acl/binding-rule/{id}", Server, aclWrite, Nothing, "", false},
	{http.MethodDelete, "/v1/acl/binding-rule/{id}", Server, aclWrite, Nothing, "", false},
	{http.MethodPut, "/v1/acl/auth-method", Server, aclWrite, Nothing, "", false},
	{http.MethodGet, "/v1/acl/auth-method/{id}", Server, aclRead, Nothing, "", false},
	{http.MethodPut, "/v1/acl/auth-method/{id}", Server, aclWrite, Nothing, "", false},
	{http.MethodDelete, "/v1/acl/auth-method/{id}", Server, aclWrite, Nothing, "", false},
	{http.MethodPut, "/v1/acl/token/{id}/clone", Server, aclWrite, Nothing, "", false},
	{http.MethodGet, "/v1/acl/policy/name/{id}", Server, aclRead, Nothing, "", false},
	{http.MethodGet, "/v1/acl/role/name/{id}", Server, aclRead, Nothing, "", false},
	{http.MethodGet, "/v1/acl/tokens", Server, aclRead, Nothing, "", false},
	{http.MethodGet, "/v1/acl/policies", Server, aclRead, Nothing, "", false},
	{http.MethodGet, "/v1/acl/roles", Server, aclRead, Nothing, "", false},
	{http.MethodGet, "/v1/acl/binding-rules", Server, aclRead, Nothing, "", false},
	{http.MethodGet, "/v1/acl/auth-methods", Server, aclRead, Nothing, "", false},
	{http.MethodGet, "/v1/acl/templated-policies", Server, aclRead, Nothing, "", false},
	{http.MethodGet, "/v1/acl/templated-policy/name/{id...}", Server, aclRead, Nothing, "", false},
	{http.MethodPost, "/v1/acl/templated-policy/preview/{id...}", Server, aclRead, Nothing, "", false},
	// weft's: what the caller's own token grants, for its agent; and when such answers last became untrue.
	{http.MethodGet, "/v1/weft/acl/resolve", Server, none, Nothing, "", false},
	{http.MethodGet, "/v1/weft/acl/changed", Server, none, Nothing, "", true},
	// weft's: what every proxy should have and has.
	{http.MethodPut, "/v1/weft/ca/revoke", Server, operatorWrite, Nothing, "", false},
	{http.MethodGet, "/v1/weft/ca/revoked", Server, operatorRead, Nothing, "", true},
	{http.MethodGet, "/v1/weft/proxies", Server, serviceRead, Listed, "service", false},
	// weft's: how nodes are let in. Who joins shows a join token.
	{http.MethodPost, "/v1/weft/join", Server, none, Nothing, "", false},
	{http.MethodPost, "/v1/weft/join/tokens", Server, operatorWrite, Nothing, "", false},
	{http.MethodGet, "/v1/weft/join/tokens", Server, operatorRead, Nothing, "", false},
	{http.MethodDelete, "/v1/weft/join/tokens/{id}", Server, operatorWrite, Nothing, "", false},
	// weft's: where a request goes and why.
	{http.MethodGet, "/v1/weft/explain", Server, intentionRead, ByHandler, "", true},
	// weft's: what the servers of secondary datacenters ask the primary's.
	{http.MethodPut, "/v1/weft/ca/intermediate", Server, operatorWrite, Nothing, "", false},
	{http.MethodGet, "/v1/weft/entries", Server, operatorWrite, Nothing, "", true},
}

// Operations is the table of what an operation of /v1/txn needs, by kind and verb, on the name that it is about (of checks and
// sessions: the node's).
var Operations = map[string]Permission{
	"kv set": keyWrite, "kv cas": keyWrite, "kv lock": keyWrite, "kv unlock": keyWrite,
	"kv delete": keyWrite, "kv delete-cas": keyWrite, "kv delete-tree": {"key", WritePrefix},
	"kv get": keyRead, "kv get-or-empty": keyRead, "kv get-tree": keyRead,
	"kv check-session": keyRead, "kv check-index": keyRead, "kv check-not-exists": keyRead,
	"node get": nodeRead, "node set": nodeWrite, "node cas": nodeWrite, "node delete": nodeWrite, "node delete-cas": nodeWrite,
	"service get": serviceRead, "service set": serviceWrite, "service cas": serviceWrite,
	"service delete": serviceWrite, "service delete-cas": serviceWrite,
	"check get": nodeRead, "check set": nodeWrite, "check cas": nodeWrite, "check delete": nodeWrite, "check delete-cas": nodeWrite,
	"session delete": sessionWrite,
}

// RPC is a row of the second half of the table: the gRPC methods between agent and server, and the feed's topics.
type RPC struct {
	Name    string // full method, or "topic " and the topic's kind
	Need    Permission
	Extract Extract
}

// RPCs is the table of every gRPC method and feed topic.
var RPCs = []RPC{
	{"/weft.v1.Feed/Subscribe", nodeRead, ByHandler},
	{"/weft.v1.Feed/Report", nodeWrite, ByHandler},
	{"/weft.v1.Catalog/Sync", serviceWrite, ByHandler},
	{"/weft.v1.Catalog/Host", nodeWrite, ByHandler}, // it has the services of all namespaces,
	{"/weft.v1.CA/Sign", serviceWrite, ByHandler},
	// Between servers: the connection's certificate has to be a server's.
	{"/weft.v1.Servers/Status", none, Nothing},
	{"/weft.v1.Servers/Promise", none, Nothing},
	{"/weft.v1.Servers/Digests", none, Nothing},
	{"/weft.v1.Servers/Streams", none, Nothing},
	{"/weft.v1.Servers/SealKeys", none, Nothing},
	{"topic nodes", nodeRead, Listed},
	{"topic node", nodeWrite, ByHandler}, // as above,
	{"topic services", serviceRead, Listed},
	{"topic service", serviceRead, ByHandler},
	{"topic connect", serviceRead, ByHandler},
	{"topic entries", serviceRead, Listed},
	{"topic entry", serviceRead, ByHandler},
	{"topic ca", none, Nothing},
}
