// SPDX-License-Identifier: Apache-2.0

package intake

import (
	"fmt"
	"strconv"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	matchv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/matcher/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
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
	o.Jitter, o.AlwaysOne = m.GetMaxEjectionTimeJitter().AsDuration(), m.GetAlwaysEjectOneHost().GetValue()
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

// failures reads which answers count as failures, where that is said: of the forms of a match this proxy takes any of some statuses.
func failures(m *clusterv3.Cluster, o *config.Outlier) error {
	a := m.GetTypedExtensionProtocolOptions()[httpOptionsKey]
	if a == nil || o == nil {
		return nil
	}
	options, err := read[*httpv3.HttpProtocolOptions](a)
	if err != nil {
		return err
	}
	is := options.GetOutlierDetection().GetErrorMatcher()
	if is == nil {
		return nil
	}
	all := is.GetOrMatch().GetRules()
	if all == nil {
		all = []*matchv3.MatchPredicate{is}
	}
	for i, one := range all {
		headers := one.GetHttpResponseHeadersMatch().GetHeaders()
		if len(headers) != 1 || headers[0].GetName() != ":status" || headers[0].GetInvertMatch() {
			return fmt.Errorf("outlier_detection.error_matcher, rule %d: this proxy takes a :status alone", i)
		}
		code, err := strconv.Atoi(headers[0].GetStringMatch().GetExact())
		if err != nil {
			return fmt.Errorf("outlier_detection.error_matcher, rule %d: this proxy takes an exact :status: %w", i, err)
		}
		o.Statuses = append(o.Statuses, code)
	}
	return nil
}
