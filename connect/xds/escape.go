// SPDX-License-Identifier: Apache-2.0

package xds

import (
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/connect/chain"
)

// Consul's keys that hold a piece of Envoy's configuration, which takes the place of what would be rendered. In a proxy's config and
// proxy-defaults: the cluster of the application and the tracing of all listeners; in an upstream's config: its listener and its cluster.
const (
	localClusterKey     = "envoy_local_cluster_json"
	tracingKey          = "envoy_listener_tracing_json"
	upstreamListenerKey = "envoy_listener_json"
	upstreamClusterKey  = "envoy_cluster_json"
	// publicListenerKey has no effect: a public listener from elsewhere doesn't know the intentions, and Consul's way, to put
	// authorisation before what it has, let paths by that weren't normalised (CVE-2026-15970).
	publicListenerKey = "envoy_public_listener_json"
)

// escape reads such a piece into a message of its type; false if there is none, or it can't be used, which is warned of.
func (r *renderer) escape(where, key, text string, into validated) bool {
	switch {
	case text == "":
		return false
	case r.in.Abilities.Weft:
		r.warn("%s: %s is for Envoy, and this proxy is weft's own: it has what it would have without", where, key)
		return false
	}
	err := protojson.Unmarshal([]byte(text), into)
	if err == nil {
		err = into.ValidateAll()
	}
	if err != nil {
		r.warn("%s: %s can't be used, and what would be without it is: %v", where, key, err)
	}
	return err == nil
}

func (r *renderer) escapedTracing() *hcmv3.HttpConnectionManager_Tracing {
	t := &hcmv3.HttpConnectionManager_Tracing{}
	if !r.escape("proxy "+r.in.Proxy.ID, tracingKey, r.textSetting(tracingKey, ""), t) {
		return nil
	}
	return t
}

// escapedLocal is the application's cluster as the configuration has it, under the name that routes lead to; nil for none.
func (r *renderer) escapedLocal() *clusterv3.Cluster {
	c := &clusterv3.Cluster{Name: LocalCluster}
	if !r.escape("proxy "+r.in.Proxy.ID, localClusterKey, r.textSetting(localClusterKey, ""), c) {
		return nil
	}
	c.Name = LocalCluster
	return c
}

// escapedCluster is an upstream's cluster as its config has it; nil for none. Its name and who its peers must be stay ours: of c.
func (r *renderer) escapedCluster(u *Upstream, c *clusterv3.Cluster) *clusterv3.Cluster {
	out := &clusterv3.Cluster{}
	if !r.escape("upstream "+u.Key.Name, upstreamClusterKey, text(u.Definition.Config, upstreamClusterKey), out) {
		return nil
	}
	if start := u.Chain.Nodes[u.Chain.StartNode]; start.Type != chain.TypeResolver || start.Resolver.Failover != nil {
		r.warn("upstream %s: %s has no effect: a router, a splitter or failover leads to several clusters", u.Key.Name, upstreamClusterKey)
		return nil
	}
	out.Name, out.TransportSocket, out.TransportSocketMatches = c.Name, c.TransportSocket, c.TransportSocketMatches
	return out
}

// escapedListener is an upstream's listener as its config has it; nil for none.
func (r *renderer) escapedListener(u *Upstream) *listenerv3.Listener {
	l := &listenerv3.Listener{}
	if !r.escape("upstream "+u.Key.Name, upstreamListenerKey, text(u.Definition.Config, upstreamListenerKey), l) {
		return nil
	}
	return l
}

func (r *renderer) warnPublic(where string, o catalog.Opaque) {
	if _, ok := o[publicListenerKey]; ok {
		r.warn("%s: %s has no effect: it would stand before the intentions", where, publicListenerKey)
	}
}
