// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"fmt"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	sessionv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/stateful_session/v3"
	cookiev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/http/stateful_session/cookie/v3"
	headerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/http/stateful_session/header/v3"
	leastv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/least_request/v3"
	httptypev3 "github.com/envoyproxy/go-control-plane/envoy/type/http/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/connect/chain"
	proxyv1 "github.com/weftmesh/weft/proto/weft/proxy/v1"
)

// common is what holds for every balancing policy.
func common(node *chain.Node) *clusterv3.Cluster_CommonLbConfig {
	// Who was left out for failing stays out, however many they are, unless something else is said.
	out := &clusterv3.Cluster_CommonLbConfig{HealthyPanicThreshold: &typev3.Percent{Value: 0}}
	if lb := node.LoadBalancer; lb != nil && lb.PanicThreshold != nil {
		out.HealthyPanicThreshold.Value = float64(*lb.PanicThreshold)
	}
	if len(node.LocalityWeights) > 0 {
		out.LocalityConfigSpecifier = &clusterv3.Cluster_CommonLbConfig_LocalityWeightedLbConfig_{
			LocalityWeightedLbConfig: &clusterv3.Cluster_CommonLbConfig_LocalityWeightedLbConfig{},
		}
	}
	return out
}

func slowStart(s *catalog.SlowStart) *clusterv3.Cluster_SlowStartConfig {
	if s == nil {
		return nil
	}
	out := &clusterv3.Cluster_SlowStartConfig{SlowStartWindow: durationpb.New(s.Window)}
	if s.Aggression > 0 {
		out.Aggression = &corev3.RuntimeDouble{DefaultValue: s.Aggression, RuntimeKey: "weft.slow_start_aggression"}
	}
	if s.MinWeightPercent > 0 {
		out.MinWeightPercent = &typev3.Percent{Value: s.MinWeightPercent}
	}
	return out
}

func (r *renderer) balance(c *clusterv3.Cluster, lb *catalog.LoadBalancer, upstream string) error {
	if lb == nil {
		return nil
	}
	switch lb.Policy {
	case "", "round_robin":
		if lb.SlowStart != nil {
			c.LbConfig = &clusterv3.Cluster_RoundRobinLbConfig_{RoundRobinLbConfig: &clusterv3.Cluster_RoundRobinLbConfig{SlowStartConfig: slowStart(lb.SlowStart)}}
		}
	case "random":
		c.LbPolicy = clusterv3.Cluster_RANDOM
	case "least_request":
		c.LbPolicy = clusterv3.Cluster_LEAST_REQUEST
		conf := &clusterv3.Cluster_LeastRequestLbConfig{SlowStartConfig: slowStart(lb.SlowStart)}
		if l := lb.LeastRequestConfig; l != nil && l.ChoiceCount > 0 {
			conf.ChoiceCount = wrapperspb.UInt32(l.ChoiceCount)
		}
		c.LbConfig = &clusterv3.Cluster_LeastRequestLbConfig_{LeastRequestLbConfig: conf}
	case "ring_hash":
		c.LbPolicy = clusterv3.Cluster_RING_HASH
		if h := lb.RingHashConfig; h != nil {
			conf := &clusterv3.Cluster_RingHashLbConfig{}
			if h.MinimumRingSize > 0 {
				conf.MinimumRingSize = wrapperspb.UInt64(h.MinimumRingSize)
			}
			if h.MaximumRingSize > 0 {
				conf.MaximumRingSize = wrapperspb.UInt64(h.MaximumRingSize)
			}
			c.LbConfig = &clusterv3.Cluster_RingHashLbConfig_{RingHashLbConfig: conf}
		}
	case "maglev":
		c.LbPolicy = clusterv3.Cluster_MAGLEV
		if m := lb.MaglevConfig; m != nil && m.TableSize > 0 {
			c.LbConfig = &clusterv3.Cluster_MaglevLbConfig_{MaglevLbConfig: &clusterv3.Cluster_MaglevLbConfig{TableSize: wrapperspb.UInt64(m.TableSize)}}
		}
	case "peak_ewma":
		if !r.in.Abilities.Weft {
			r.warn("upstream %s: LoadBalancer.Policy peak_ewma: Envoy doesn't have it and takes least_request", upstream)
			c.LbPolicy = clusterv3.Cluster_LEAST_REQUEST
			return nil
		}
		return peakEWMA(c)
	default:
		return fmt.Errorf("load balancer policy %q isn't known", lb.Policy)
	}
	return nil
}

// peakEWMA names weft's own policy, and for an older proxy of weft's that doesn't have it least request.
func peakEWMA(c *clusterv3.Cluster) error {
	ours, err := pack(&proxyv1.PeakEWMA{Decay: durationpb.New(10 * time.Second), Penalty: durationpb.New(time.Second)})
	if err != nil {
		return err
	}
	least, err := pack(&leastv3.LeastRequest{})
	if err != nil {
		return err
	}
	c.LoadBalancingPolicy = &clusterv3.LoadBalancingPolicy{Policies: []*clusterv3.LoadBalancingPolicy_Policy{
		{TypedExtensionConfig: &corev3.TypedExtensionConfig{Name: "weft.proxy.v1.peak_ewma", TypedConfig: ours}},
		{TypedExtensionConfig: &corev3.TypedExtensionConfig{Name: "envoy.load_balancing_policies.least_request", TypedConfig: least}},
	}}
	return nil
}

// sessionFilter is where session persistence stands among the outbound HTTP filters; routes set it up.
const sessionFilter = "envoy.filters.http.stateful_session"

func session(p *catalog.SessionPersistence) (*sessionv3.StatefulSessionPerRoute, error) {
	var state validated = &headerv3.HeaderBasedSessionState{Name: p.Header}
	name := "envoy.http.stateful_session.header"
	if c := p.Cookie; c != nil {
		name = "envoy.http.stateful_session.cookie"
		cookie := &httptypev3.Cookie{Name: c.Name, Path: c.Path}
		if c.TTL > 0 {
			cookie.Ttl = durationpb.New(c.TTL)
		}
		state = &cookiev3.CookieBasedSessionState{Cookie: cookie}
	}
	a, err := pack(state)
	return &sessionv3.StatefulSessionPerRoute{Override: &sessionv3.StatefulSessionPerRoute_StatefulSession{StatefulSession: &sessionv3.StatefulSession{
		SessionState: &corev3.TypedExtensionConfig{Name: name, TypedConfig: a}, Strict: p.Strict,
	}}}, err
}

// persistence is that of where a node leads; of a splitter's shares the first that has one.
func persistence(c *chain.Chain, node string) *catalog.SessionPersistence {
	n := c.Nodes[node]
	if n.LoadBalancer != nil && n.LoadBalancer.Persistence != nil {
		return n.LoadBalancer.Persistence
	}
	for _, s := range n.Splits {
		if p := persistence(c, s.NextNode); p != nil {
			return p
		}
	}
	return nil
}
