// SPDX-License-Identifier: Apache-2.0

package catalog

import (
	"cmp"
	"fmt"
	"time"
)

// RateLimits bound how many requests come to a service, by the second. More than that are answered with 429.
type RateLimits struct {
	// InstanceLevel is what each instance takes.
	InstanceLevel *InstanceRateLimits `json:",omitempty"`
	// ServiceLevel is weft's: what all instances take together; each takes its share of it.
	ServiceLevel *RateLimit `json:",omitempty"`
	// Callers is weft's: what each instance takes of a service that calls.
	Callers []CallerRateLimit `json:",omitempty"`
}

// RateLimit is so many requests in a second, and so many at once (as many as in a second if nothing is said).
type RateLimit struct {
	RequestsPerSecond int `json:",omitempty"`
	RequestsMaxBurst  int `json:",omitempty"`
}

// InstanceRateLimits hold for an instance; a route that matches has its own limit in place of the general one.
type InstanceRateLimits struct {
	RequestsPerSecond int              `json:",omitempty"` // 0: no general limit
	RequestsMaxBurst  int              `json:",omitempty"`
	Routes            []RouteRateLimit `json:",omitempty"`
}

// RouteRateLimit is a limit for requests of exactly one path form.
type RouteRateLimit struct {
	PathExact         string `json:",omitempty"`
	PathPrefix        string `json:",omitempty"`
	PathRegex         string `json:",omitempty"`
	RequestsPerSecond int    `json:",omitempty"`
	RequestsMaxBurst  int    `json:",omitempty"`
}

// CallerRateLimit is a limit for the requests of one service.
type CallerRateLimit struct {
	Service           string
	RequestsPerSecond int `json:",omitempty"`
	RequestsMaxBurst  int `json:",omitempty"`
}

func rate(f string, persecond, burst int) error {
	switch {
	case persecond < 1:
		return invalidf("%s.RequestsPerSecond must be at least 1, got %d", f, persecond)
	case burst < 0:
		return invalidf("%s.RequestsMaxBurst must not be negative, got %d", f, burst)
	case persecond > 1<<30 || burst > 1<<30:
		return invalidf("%s: no more than %d", f, 1<<30)
	}
	return nil
}

func (r *RateLimits) validate(f string) error {
	if r == nil {
		return nil
	}
	if i := r.InstanceLevel; i != nil {
		f := f + ".InstanceLevel"
		if i.RequestsPerSecond == 0 && i.RequestsMaxBurst == 0 && len(i.Routes) == 0 {
			return invalidf("%s should have RequestsPerSecond or Routes", f)
		}
		if i.RequestsPerSecond != 0 || i.RequestsMaxBurst != 0 {
			if err := rate(f, i.RequestsPerSecond, i.RequestsMaxBurst); err != nil {
				return err
			}
		}
		for n, r := range i.Routes {
			f := fmt.Sprintf("%s.Routes[%d]", f, n)
			if count(r.PathExact != "", r.PathPrefix != "", r.PathRegex != "") != 1 {
				return invalidf("%s should contain exactly one of PathExact, PathPrefix, or PathRegex", f)
			}
			if err := firstError(paths(f, r.PathExact, r.PathPrefix, r.PathRegex), rate(f, r.RequestsPerSecond, r.RequestsMaxBurst)); err != nil {
				return err
			}
		}
	}
	if s := r.ServiceLevel; s != nil {
		if err := rate(f+".ServiceLevel", s.RequestsPerSecond, s.RequestsMaxBurst); err != nil {
			return err
		}
	}
	seen := map[string]bool{}
	for n, c := range r.Callers {
		f := fmt.Sprintf("%s.Callers[%d]", f, n)
		if err := firstError(checkName(f+".Service", c.Service), rate(f, c.RequestsPerSecond, c.RequestsMaxBurst)); err != nil {
			return err
		}
		if c.Service == Wildcard || seen[c.Service] {
			return invalidf("%s.Service %q: name each service once", f, c.Service)
		}
		seen[c.Service] = true
	}
	return nil
}

// AdaptiveConcurrency bounds the requests that an instance has at once. The bound follows how long they take beside how long
// they take with few: more than that are answered with 503.
type AdaptiveConcurrency struct {
	MaxConcurrency uint32        `json:",omitempty"` // the bound is never above it; 1000
	MinConcurrency uint32        `json:",omitempty"` // with which the baseline is measured; 3
	Interval       time.Duration `json:",omitempty"` // how often the bound moves; 100 ms
	// Every BaselineInterval (60 s) the baseline is measured anew, by BaselineRequests (50).
	BaselineInterval time.Duration `json:",omitempty"`
	BaselineRequests uint32        `json:",omitempty"`
}

func (a *AdaptiveConcurrency) normalize() {
	if a == nil {
		return
	}
	a.MaxConcurrency, a.MinConcurrency = cmp.Or(a.MaxConcurrency, 1000), cmp.Or(a.MinConcurrency, 3)
	a.Interval, a.BaselineInterval = cmp.Or(a.Interval, 100*time.Millisecond), cmp.Or(a.BaselineInterval, time.Minute)
	a.BaselineRequests = cmp.Or(a.BaselineRequests, 50)
}

func (a *AdaptiveConcurrency) validate(f string) error {
	switch {
	case a == nil:
		return nil
	case a.MaxConcurrency < a.MinConcurrency:
		return invalidf("%s: MaxConcurrency %d is below MinConcurrency %d", f, a.MaxConcurrency, a.MinConcurrency)
	case a.Interval < time.Millisecond || a.BaselineInterval < time.Millisecond:
		return invalidf("%s: Interval and BaselineInterval must be at least 1ms", f)
	}
	return nil
}
