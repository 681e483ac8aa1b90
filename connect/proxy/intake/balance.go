// SPDX-License-Identifier: Apache-2.0

package intake

import (
	"errors"
	"fmt"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	leastv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/least_request/v3"

	"github.com/weftmesh/weft/connect/proxy/config"
	proxyv1 "github.com/weftmesh/weft/proto/weft/proxy/v1"
)

func balance(m *clusterv3.Cluster, c *config.Cluster) error {
	c.Panic = 50 // as in Envoy where nothing is said
	if p := m.GetCommonLbConfig().GetHealthyPanicThreshold(); p != nil {
		c.Panic = p.GetValue()
	}
	if m.GetLoadBalancingPolicy() != nil {
		return policies(m.GetLoadBalancingPolicy(), c)
	}
	switch m.GetLbPolicy() {
	case clusterv3.Cluster_CLUSTER_PROVIDED:
		if !c.Original {
			return fmt.Errorf("lb_policy %s: for clusters of type ORIGINAL_DST", m.GetLbPolicy())
		}
	case clusterv3.Cluster_ROUND_ROBIN:
		c.Balance, c.SlowStart = config.RoundRobin, slowStart(m.GetRoundRobinLbConfig().GetSlowStartConfig())
	case clusterv3.Cluster_LEAST_REQUEST:
		c.Balance, c.SlowStart = config.LeastRequest, slowStart(m.GetLeastRequestLbConfig().GetSlowStartConfig())
		if n := m.GetLeastRequestLbConfig().GetChoiceCount().GetValue(); n > 0 {
			c.ChoiceCount = int(n)
		}
	case clusterv3.Cluster_RANDOM:
		c.Balance = config.Random
	case clusterv3.Cluster_RING_HASH:
		c.Balance = config.RingHash
	case clusterv3.Cluster_MAGLEV:
		c.Balance, c.MaglevSize = config.Maglev, m.GetMaglevLbConfig().GetTableSize().GetValue()
	default:
		return fmt.Errorf("lb_policy %s: not known to this proxy", m.GetLbPolicy())
	}
	return nil
}

// policies takes the first policy of an ordered list that is known.
func policies(m *clusterv3.LoadBalancingPolicy, c *config.Cluster) error {
	for _, p := range m.GetPolicies() {
		a := p.GetTypedExtensionConfig().GetTypedConfig()
		ours := &proxyv1.PeakEWMA{}
		switch {
		case unpack(a, ours) == nil:
			c.Balance, c.EWMA = config.PeakEWMA, &config.EWMA{Decay: ours.GetDecay().AsDuration(), Penalty: ours.GetPenalty().AsDuration()}
			if c.EWMA.Decay <= 0 {
				c.EWMA.Decay = 10 * time.Second
			}
			return nil
		case a.MessageIs(&leastv3.LeastRequest{}):
			c.Balance = config.LeastRequest
			return nil
		}
	}
	return errors.New("load_balancing_policy: none of them is known to this proxy")
}

func slowStart(m *clusterv3.Cluster_SlowStartConfig) *config.SlowStart {
	if m.GetSlowStartWindow().AsDuration() <= 0 {
		return nil
	}
	s := &config.SlowStart{Window: m.GetSlowStartWindow().AsDuration(), Aggression: 1, Least: 0.1}
	if a := m.GetAggression().GetDefaultValue(); a > 0 {
		s.Aggression = a
	}
	if p := m.GetMinWeightPercent(); p != nil {
		s.Least = p.GetValue() / 100
	}
	return s
}

// localityShares are factors for the weights of localities' endpoints, so that each locality gets the share of its own weight;
// nil where localities have none.
func localityShares(m *endpointv3.ClusterLoadAssignment) []float64 {
	out := make([]float64, len(m.GetEndpoints()))
	found := false
	for i, l := range m.GetEndpoints() {
		out[i] = 1
		if l.GetLoadBalancingWeight().GetValue() == 0 {
			continue
		}
		sum := 0.0
		for _, e := range l.GetLbEndpoints() {
			sum += float64(max(1, e.GetLoadBalancingWeight().GetValue()))
		}
		if sum > 0 {
			found, out[i] = true, float64(l.GetLoadBalancingWeight().GetValue())/sum
		}
	}
	if !found {
		return nil
	}
	return out
}
