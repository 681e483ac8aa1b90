// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"github.com/weftmesh/weft/connect/proxy/config"
)

// health is how a host has done.
type health struct {
	failures, gateway, local atomic.Int32 // in a row
	total, good              atomic.Int64 // since the last sweep
	ejections                atomic.Int32
	until                    atomic.Int64 // ejected, in nanoseconds since the engine's start; 0: not
	trial                    atomic.Bool  // it was ejected, and hasn't succeeded since
	probing                  atomic.Bool  // somebody uses it meanwhile
}

func (h *health) ejected(now int64) bool {
	until := h.until.Load()
	return until != 0 && now < until
}

// outcome is how an exchange with an endpoint, or connecting to it, went.
type outcome uint8

const (
	succeeded     outcome = iota
	failed                // it answered 5xx
	failedGateway         // 502, 503, 504
	failedLocal           // no connection, no answer
)

// outcomeOf is by statuses (nil: 5xx, and what gRPC calls a failure of the server).
func outcomeOf(statuses []int, status, grpc int) outcome {
	switch {
	case statuses != nil && slices.Contains(statuses, status):
		return failed
	case statuses != nil:
		return succeeded
	case status >= 502 && status <= 504, grpc == 14: // UNAVAILABLE
		return failedGateway
	case status >= 500, failedGRPC(grpc):
		return failed
	}
	return succeeded
}

// answered notes an answer.
func (v *clusterView) answered(e *endpoint, status, grpc int) {
	if o := v.config.Outlier; o != nil {
		v.report(e, outcomeOf(o.Statuses, status, grpc))
	}
}

// report notes an outcome, and ejects the endpoint after too many failures in a row.
func (v *clusterView) report(e *endpoint, r outcome) {
	o := v.config.Outlier
	if o == nil {
		return
	}
	if o.Probation && v.judged(e, r) {
		return
	}
	if o.ConsecutiveLocal > 0 {
		if inARow(&e.local, r == failedLocal, o.ConsecutiveLocal) {
			v.eject(e, 100)
		}
		if r == failedLocal {
			return
		}
	}
	if o.SuccessRate != nil || o.FailurePercentage != nil {
		e.total.Add(1)
		if r == succeeded {
			e.good.Add(1)
		}
	}
	if inARow(&e.failures, r != succeeded, o.Consecutive5xx) {
		v.eject(e, o.Enforcing)
	}
	if inARow(&e.gateway, r >= failedGateway, o.ConsecutiveGateway) {
		v.eject(e, 100)
	}
}

// failed reports that no connection to e was made, unless whoever wanted it has gone meanwhile, which says nothing about e.
func (v *clusterView) failed(ctx context.Context, e *endpoint) {
	if !unwanted(ctx) {
		v.report(e, failedLocal)
	}
}

// unwanted says whether what was done under ctx was ended from outside, and not by its time.
func unwanted(ctx context.Context) bool {
	return ctx.Err() != nil && !errors.Is(context.Cause(ctx), context.DeadlineExceeded)
}

// inARow counts failures that follow each other, and says when they are as many as the limit (0: none).
func inARow(n *atomic.Int32, bad bool, limit int) bool {
	switch {
	case limit <= 0:
		return false
	case !bad:
		if n.Load() != 0 {
			n.Store(0)
		}
		return false
	case int(n.Add(1)) < limit:
		return false
	}
	n.Store(0)
	return true
}

// eject leaves an endpoint out for a time that grows with how often that happened, unless too many are out.
func (v *clusterView) eject(e *endpoint, enforcing int) {
	o, now := v.config.Outlier, v.state.engine.now()
	if e.ejected(now) || rand.IntN(100) >= enforcing {
		return
	}
	out := 0
	for _, other := range v.endpoints {
		if other.ejected(now) {
			out++
		}
	}
	if (out+1)*100 > o.MaxPercent*len(v.endpoints) && (out > 0 || !o.AlwaysOne) {
		return
	}
	base, most := int64(o.BaseEjection), int64(o.MaxEjection)
	if most == 0 {
		most = int64(defaultMaxEjection)
	}
	e.trial.Store(o.Probation)
	span := min(base*int64(e.ejections.Add(1)), max(base, most))
	if o.Jitter > 0 {
		span += rand.Int64N(int64(o.Jitter) + 1)
	}
	e.until.Store(now + span)
}

// sweep looks at the rates of success once an interval, and lets the count of ejections fall of who isn't ejected.
func (s *clusterState) sweep(now int64) {
	v := s.current.Load()
	if v == nil || v.config.Outlier == nil {
		return
	}
	o := v.config.Outlier
	s.mu.Lock()
	defer s.mu.Unlock()
	if now-s.swept < int64(o.Interval) {
		return
	}
	s.swept = now
	for _, h := range s.hosts {
		if n := h.ejections.Load(); n > 0 && !h.ejected(now) {
			h.ejections.CompareAndSwap(n, n-1)
		}
	}
	v.rates(o)
}

// rates ejects by the rates of success of the interval that is over.
func (v *clusterView) rates(o *config.Outlier) {
	type rate struct {
		e     *endpoint
		total int64
		good  float64 // share of the total
	}
	all := make([]rate, 0, len(v.endpoints))
	for _, e := range v.endpoints {
		total, good := e.total.Swap(0), e.good.Swap(0)
		if total > 0 {
			all = append(all, rate{e, total, float64(good) / float64(total)})
		}
	}
	among := func(volume, hosts int) []rate {
		var out []rate
		for _, r := range all {
			if r.total >= int64(volume) {
				out = append(out, r)
			}
		}
		if len(out) == 0 || len(out) < hosts {
			return nil
		}
		return out
	}
	if s := o.SuccessRate; s != nil {
		some := among(s.MinRequests, s.MinHosts)
		mean, square := 0.0, 0.0
		for _, r := range some {
			mean += r.good / float64(len(some))
		}
		for _, r := range some {
			square += (r.good - mean) * (r.good - mean) / float64(len(some))
		}
		for _, r := range some {
			if r.good < mean-s.Deviation*math.Sqrt(square) {
				v.eject(r.e, 100)
			}
		}
	}
	if f := o.FailurePercentage; f != nil {
		for _, r := range among(f.MinRequests, f.MinHosts) {
			if (1-r.good)*100 >= float64(f.Threshold)-1e-9 {
				v.eject(r.e, 100)
			}
		}
	}
}

// defaultMaxEjection is the longest ejection where nothing is said.
const defaultMaxEjection = 300 * time.Second

// sweepLook is how often clusters are asked whether their interval is over.
const sweepLook = 200 * time.Millisecond
