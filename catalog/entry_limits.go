// SPDX-License-Identifier: Apache-2.0

package catalog

import "time"

// UpstreamLimits bound what a proxy sends to one upstream. A nil field is no limit of ours.
type UpstreamLimits struct {
	MaxConnections        *int `json:",omitempty"`
	MaxPendingRequests    *int `json:",omitempty"`
	MaxConcurrentRequests *int `json:",omitempty"`
	// MaxRequestsPerConnection is weft's: a connection is closed after so many.
	MaxRequestsPerConnection *int `json:",omitempty"`
	// MaxConcurrentRetries and RetryBudget are weft's and exclude each other. Where a route asks for retries and neither is
	// said, a budget of 18 percent holds.
	MaxConcurrentRetries *int         `json:",omitempty"`
	RetryBudget          *RetryBudget `json:",omitempty"`
}

// PassiveHealthCheck is outlier detection: who fails is left out for a time. Interval is how often the rates are looked at and
// who was left out for long enough comes back.
type PassiveHealthCheck struct {
	Interval                time.Duration  `json:",omitempty"`
	MaxFailures             uint32         `json:",omitempty"` // in a row: 5xx, and what never got an answer
	EnforcingConsecutive5xx *uint32        `json:",omitempty"`
	MaxEjectionPercent      *uint32        `json:",omitempty"`
	BaseEjectionTime        *time.Duration `json:",omitempty"`
	// What follows is weft's.
	MaxEjectionTime    *time.Duration     `json:",omitempty"`
	MaxGatewayFailures uint32             `json:",omitempty"` // in a row: 502, 503, 504, and what never got an answer
	MaxLocalFailures   uint32             `json:",omitempty"` // in a row: connections refused, broken or too slow; these count apart then
	SuccessRate        *SuccessRate       `json:",omitempty"`
	FailurePercentage  *FailurePercentage `json:",omitempty"`
	// FailureStatusCodes are the answers that count as failures, in place of 5xx: gRPC's statuses then don't count.
	FailureStatusCodes []uint32 `json:",omitempty"`
	// EjectionJitter is the most by which an ejection is longer by chance, so that not all come back at once.
	EjectionJitter time.Duration `json:",omitempty"`
	// AlwaysEjectOne lets one be left out, however few there are and whatever MaxEjectionPercent says.
	AlwaysEjectOne bool `json:",omitempty"`
	// Probation lets who comes back have one request at a time until one succeeds; one that fails leaves it out again at once.
	Probation bool `json:",omitempty"`
}

// SuccessRate leaves out whose rate of successes is Deviation standard deviations below the average of all.
type SuccessRate struct {
	MinimumHosts  uint32  `json:",omitempty"` // with enough requests in an interval; 5
	RequestVolume uint32  `json:",omitempty"` // that are enough; 100
	Deviation     float64 `json:",omitempty"` // 1.9
}

// FailurePercentage leaves out whose share of failures is Threshold percent or more.
type FailurePercentage struct {
	Threshold     uint32 `json:",omitempty"` // 85
	MinimumHosts  uint32 `json:",omitempty"` // with enough requests in an interval; 5
	RequestVolume uint32 `json:",omitempty"` // that are enough; 50
}
