// SPDX-License-Identifier: Apache-2.0

package intake

import (
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/weftmesh/weft/connect/proxy/config"
)

// compileOutlier reads which failures eject an endpoint. What isn't said is as in Envoy.
func compileOutlier(m *clusterv3.OutlierDetection) *config.Outlier {
	if m == nil {
		return nil
	}
	number := func(v *wrapperspb.UInt32Value, def int) int {
		if v == nil {
			return def
		}
		return int(v.GetValue())
	}
	span := func(d *durationpb.Duration, def time.Duration) time.Duration {
		if d == nil {
			return def
		}
		return d.AsDuration()
	}
	o := &config.Outlier{
		Consecutive5xx: number(m.GetConsecutive_5Xx(), 5), Enforcing: number(m.GetEnforcingConsecutive_5Xx(), 100),
		Interval: span(m.GetInterval(), 10*time.Second), BaseEjection: span(m.GetBaseEjectionTime(), 30*time.Second),
		MaxPercent: number(m.GetMaxEjectionPercent(), 10),
	}
	o.MaxEjection = max(span(m.GetMaxEjectionTime(), 300*time.Second), o.BaseEjection)
	if number(m.GetEnforcingConsecutiveGatewayFailure(), 0) > 0 {
		o.ConsecutiveGateway = number(m.GetConsecutiveGatewayFailure(), 5)
	}
	if m.GetSplitExternalLocalOriginErrors() && number(m.GetEnforcingConsecutiveLocalOriginFailure(), 100) > 0 {
		o.ConsecutiveLocal = number(m.GetConsecutiveLocalOriginFailure(), 5)
	}
	if number(m.GetEnforcingSuccessRate(), 100) > 0 {
		o.SuccessRate = &config.SuccessRate{
			MinHosts: number(m.GetSuccessRateMinimumHosts(), 5), MinRequests: number(m.GetSuccessRateRequestVolume(), 100),
			Deviation: float64(number(m.GetSuccessRateStdevFactor(), 1900)) / 1000,
		}
	}
	if number(m.GetEnforcingFailurePercentage(), 0) > 0 {
		o.FailurePercentage = &config.FailurePercentage{
			Threshold: number(m.GetFailurePercentageThreshold(), 85), MinHosts: number(m.GetFailurePercentageMinimumHosts(), 5),
			MinRequests: number(m.GetFailurePercentageRequestVolume(), 50),
		}
	}
	return o
}
