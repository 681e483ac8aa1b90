// SPDX-License-Identifier: Apache-2.0

// Package rest answers the servers' part of the HTTP API from a server's catalog, and turns writes into commands. Everything
// that a command needs to know (time, identifiers, defaults) is settled here, before it is ordered. The JSON forms that
// differ from a record are views, plain functions beside their routes. It owns no goroutine.
package rest

import (
	"context"
	"io"
	"maps"
	"net/http"
	"strings"
	"time"

	"github.com/weftmesh/weft/ca"
	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/internal/api"
	"github.com/weftmesh/weft/internal/gossip"
	"github.com/weftmesh/weft/server/verify"
)

// Cluster orders commands.
type Cluster interface {
	// Propose has a command ordered and applied.
	Propose(ctx context.Context, body catalog.Body) (catalog.Result, error)
	// Confirm waits until a read that begins now sees all that was agreed before.
	Confirm(ctx context.Context) error
	// Leader is the leader's address, "" for none.
	Leader() string
	// Peers are the servers' addresses.
	Peers() ([]string, error)
	// RenewSession gives a session its whole time to live again.
	RenewSession(*catalog.Session) error
	// Datacenters are all that are known, the nearest first.
	Datacenters() []string
	// Ask has a server of another datacenter answer.
	Ask(datacenter string, r *http.Request) (*http.Response, error)
	// LockEntries serialises writers of config entries.
	LockEntries() (unlock func())
}

// Authority is the certificate authority.
type Authority interface {
	// Configuration is the one in force, and the one that this server's own file has.
	Configuration() (inForce, own ca.Config)
	Reconfigure(ctx context.Context, c ca.Config, rotate, force bool) error
	Revoke(ctx context.Context, r catalog.Revoked) (done catalog.Revoked, warnings []string, err error)
	// SignIntermediate signs the intermediate of a secondary datacenter's authority.
	SignIntermediate(ctx context.Context, csrPEM string) (string, error)
}

// Config is what the handlers answer from.
type Config struct {
	Cluster      Cluster
	Operator     Operator
	Store        *catalog.Store
	CA           Authority
	Proxies      *verify.Verifier
	DefaultAllow bool
	LAN, WAN     *gossip.Pool // whose keyrings are changed; nil: this server isn't in it
	Coordinates  Coordinates
	Rand         io.Reader // of identifiers
	Node         string    // this server's
	// MaxValue bounds a key's value, MaxTransaction a transaction's body; 0 for DefaultMaxValue.
	MaxValue, MaxTransaction int64
	// SessionTTLMin is the shortest time to live of a session; 0 for 10 seconds.
	SessionTTLMin time.Duration
	Now           func() time.Time // dates what is written
	ACL           *ACL             // nil: ACLs are off
	Join          *Join            // nil: nobody joins by token
	TokensDecide  bool             // who has no token may do nothing
	NoPeering     bool             // refuses all of /v1/peering
}

// withDefaults fills in what is unset.
func (c Config) withDefaults() Config {
	if c.MaxValue == 0 {
		c.MaxValue = DefaultMaxValue
	}
	if c.MaxTransaction == 0 {
		c.MaxTransaction = DefaultMaxValue
	}
	if c.SessionTTLMin == 0 {
		c.SessionTTLMin = catalog.MinSessionTTL
	}
	return c
}

type handlers struct {
	c      Config
	shared api.Shared
}

// Handlers are the servers' handlers, by route name.
func Handlers(c Config) map[string]api.Handler {
	h := &handlers{c: c.withDefaults()}
	all := map[string]api.Handler{
		"GET /v1/status/leader":                             h.leader,
		"GET /v1/status/peers":                              h.peers,
		"PUT /v1/catalog/register":                          h.register,
		"PUT /v1/catalog/deregister":                        h.deregister,
		"GET /v1/catalog/datacenters":                       h.datacenters,
		"GET /v1/catalog/nodes":                             h.nodes,
		"GET /v1/catalog/services":                          h.services,
		"GET /v1/catalog/service/{name}":                    h.catalogService((*catalog.Txn).Instances),
		"GET /v1/catalog/connect/{name}":                    h.catalogService((*catalog.Txn).ConnectInstances),
		"GET /v1/catalog/node/{name}":                       h.node,
		"GET /v1/catalog/node-services/{name}":              h.nodeServices,
		"GET /v1/health/node/{name}":                        h.healthNode,
		"GET /v1/health/checks/{name}":                      h.healthChecks,
		"GET /v1/health/service/{name}":                     h.healthService((*catalog.Txn).Instances),
		"GET /v1/health/connect/{name}":                     h.healthService((*catalog.Txn).ConnectInstances),
		"GET /v1/health/state/{name}":                       h.healthState,
		"PUT /v1/config":                                    h.writeEntry,
		"GET /v1/config/{kind}":                             h.listEntries,
		"GET /v1/config/{kind}/{name}":                      h.readEntry,
		"DELETE /v1/config/{kind}/{name}":                   h.deleteEntry,
		"GET /v1/connect/intentions":                        h.intentions,
		"POST /v1/connect/intentions":                       h.createIntention,
		"GET /v1/connect/intentions/exact":                  h.exactIntention,
		"PUT /v1/connect/intentions/exact":                  h.upsertIntention,
		"DELETE /v1/connect/intentions/exact":               h.deleteExact,
		"GET /v1/connect/intentions/match":                  h.matchIntentions,
		"GET /v1/connect/intentions/check":                  h.checkIntention,
		"GET /v1/connect/intentions/{id}":                   h.intentionByID,
		"PUT /v1/connect/intentions/{id}":                   h.updateIntention,
		"DELETE /v1/connect/intentions/{id}":                h.deleteByID,
		"PUT /v1/weft/ca/intermediate":                      h.signIntermediate,
		"GET /v1/weft/entries":                              h.allEntries,
		"GET /v1/connect/ca/roots":                          h.roots,
		"GET /v1/connect/ca/configuration":                  h.caConfig,
		"PUT /v1/connect/ca/configuration":                  h.setCAConfig,
		"PUT /v1/weft/ca/revoke":                            h.revoke,
		"GET /v1/weft/ca/revoked":                           h.revoked,
		"GET /v1/discovery-chain/{name}":                    h.chain,
		"PUT /v1/internal/service-virtual-ip":               h.assignVirtualIPs,
		"GET /v1/weft/explain":                              h.explain,
		"GET /v1/kv/{name...}":                              h.getKV,
		"PUT /v1/kv/{name...}":                              h.putKV,
		"DELETE /v1/kv/{name...}":                           h.deleteKV,
		"PUT /v1/session/create":                            h.createSession,
		"PUT /v1/session/destroy/{id}":                      h.destroySession,
		"PUT /v1/session/renew/{id}":                        h.renewSession,
		"GET /v1/session/info/{id}":                         h.sessionInfo,
		"GET /v1/session/list":                              h.sessions,
		"GET /v1/session/node/{name}":                       h.nodeSessions,
		"GET /v1/query":                                     h.queries,
		"POST /v1/query":                                    h.createQuery,
		"GET /v1/query/{id}":                                h.query,
		"PUT /v1/query/{id}":                                h.updateQuery,
		"DELETE /v1/query/{id}":                             h.deleteQuery,
		"GET /v1/query/{id}/execute":                        h.executeQuery,
		"GET /v1/query/{id}/explain":                        h.explainQuery,
		"POST /v1/discovery-chain/{name}":                   h.chain,
		"GET /v1/catalog/gateway-services/{name}":           h.gatewayServices,
		"GET /v1/health/ingress/{name}":                     h.healthService(ingressInstances),
		"GET /v1/exported-services":                         h.exportedServices,
		"GET /v1/operator/usage":                            h.usage,
		"GET /v1/internal/ui/nodes":                         h.uiNodes,
		"GET /v1/internal/ui/node/{name}":                   h.uiNode,
		"GET /v1/internal/ui/services":                      h.uiServices,
		"GET /v1/internal/ui/exported-services":             h.exportedServices,
		"GET /v1/internal/ui/catalog-overview":              h.uiOverview,
		"GET /v1/internal/ui/service-topology/{name}":       h.uiTopology,
		"GET /v1/internal/ui/gateway-services-nodes/{name}": h.uiGatewayServices,
		"GET /v1/internal/ui/gateway-intentions/{name}":     h.uiGatewayIntentions,
		"GET /v1/internal/federation-states":                h.federationStates,
		"GET /v1/internal/federation-states/mesh-gateways":  h.federationGateways,
		"POST /v1/peering/token":                            h.generateToken,
		"POST /v1/peering/establish":                        h.establish,
		"GET /v1/peering/{name}":                            h.peering,
		"DELETE /v1/peering/{name}":                         h.deletePeering,
		"GET /v1/peerings":                                  h.peerings,
		"PUT /v1/txn":                                       h.transaction,
		"GET /v1/operator/keyring":                          h.keyring(gossip.ListKeys),
		"POST /v1/operator/keyring":                         h.keyring(gossip.InstallKey),
		"PUT /v1/operator/keyring":                          h.keyring(gossip.UseKey),
		"DELETE /v1/operator/keyring":                       h.keyring(gossip.RemoveKey),
		"GET /v1/weft/proxies":                              h.proxies,
		"GET /v1/coordinate/datacenters":                    h.datacenterCoordinates,
		"GET /v1/coordinate/nodes":                          h.coordinates,
		"GET /v1/coordinate/node/{name}":                    h.nodeCoordinates,
		"PUT /v1/coordinate/update":                         h.updateCoordinate,
	}
	maps.Copy(all, h.operator())
	maps.Copy(all, h.aclHandlers())
	maps.Copy(all, h.joinHandlers())
	maps.Copy(all, h.namespaceHandlers())
	if c.NoPeering {
		refusePeering(all)
	}
	return all
}

// refusePeering has all of /v1/peering say that there is none.
func refusePeering(all map[string]api.Handler) {
	for name := range all {
		if _, path, _ := strings.Cut(name, " "); strings.HasPrefix(path, "/v1/peering") {
			all[name] = func(http.ResponseWriter, *api.Request) error {
				return badRequest("peering must be enabled to use this endpoint: set peering.enabled on the servers")
			}
		}
	}
}

func (h *handlers) leader(w http.ResponseWriter, _ *api.Request) error {
	return api.WriteJSON(w, h.c.Cluster.Leader())
}

func (h *handlers) peers(w http.ResponseWriter, _ *api.Request) error {
	peers, err := h.c.Cluster.Peers()
	if err != nil {
		return err
	}
	return api.WriteJSON(w, peers)
}

func (h *handlers) datacenters(w http.ResponseWriter, _ *api.Request) error {
	return api.WriteJSON(w, h.c.Cluster.Datacenters())
}
