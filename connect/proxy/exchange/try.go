// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

	"github.com/weftmesh/weft/connect/proxy/config"
	"github.com/weftmesh/weft/connect/proxy/h2"
	"github.com/weftmesh/weft/connect/proxy/reason"
	"github.com/weftmesh/weft/connect/proxy/stream"
	"github.com/weftmesh/weft/internal/guard"
)

// freeTries is how often a request that certainly wasn't processed is sent again without a policy.
const freeTries = 2

// tries sends the request until a response can be passed on, or nothing is left to try.
func (ex *exchange) tries(f *config.Forward, c *choice) {
	defer ex.source.room.drop()
	defer ex.endRetrying()
	if ex.hedges(f.Retry) {
		ex.hedged(f, c)
		return
	}
	free, byPolicy := 0, 0
	for {
		done, fail := ex.try(f, c, byPolicy)
		if done {
			return
		}
		switch {
		case fail.final || !ex.source.replayable():
		case ex.wanted(f.Retry, fail) && (fail.status != 0 || ex.takeRetry(f.Retry, byPolicy)) && ex.again(f.Retry, byPolicy, fail.after):
			byPolicy++
			continue
		case (fail.unsent || fail.connect && ex.elsewhere(c)) && free < freeTries:
			free++
			continue
		}
		ex.source.stop(nil, false)
		if cause, _ := ex.watch.state(); cause != reason.None {
			fail.code = cause
		}
		ex.e.config.Log.Debug("request failed", "cluster", ex.rec.cluster, "upstream", ex.rec.upstream, "reason", string(fail.code), "error", fail.err)
		ex.fail(fail.code)
		return
	}
}

// wanted says whether the policy has such a failure tried again.
func (ex *exchange) wanted(r *config.Retry, f failure) bool {
	switch {
	case r == nil || !ex.retriable(r):
		return false
	case f.status != 0:
		return true // try asked for it, and took it
	case f.connect:
		return r.OnConnect || r.On5xx || r.OnGateway
	case f.unsent:
		return r.OnRefused || r.OnReset || r.On5xx
	case f.code == reason.UpstreamTimeout:
		return r.On5xx || r.OnGateway || r.OnReset || slices.Contains(r.OnStatus, 504)
	case f.code == reason.UpstreamReset:
		return r.OnReset || r.On5xx
	}
	return false
}

func (ex *exchange) retriable(r *config.Retry) bool {
	return len(r.Methods) == 0 || slices.Contains(r.Methods, ex.req.Method)
}

// takeRetry takes one more retry by the policy, unless none is left or the cluster has as many as it may. The exchange counts
// among the cluster's retries from then on. It is asked once for each retry.
func (ex *exchange) takeRetry(r *config.Retry, before int) bool {
	if r == nil || before >= r.Attempts {
		return false
	}
	state, limits := ex.cluster.state, &ex.cluster.config.Limits
	if ex.retrying {
		return limits.Budget == nil || state.spend(limits.Budget, state.retries.Load())
	}
	n, most := state.retries.Add(1), int64(limits.Retries)
	ok := most == 0 || n <= most
	if b := limits.Budget; b != nil {
		ok = state.spend(b, n)
	}
	if !ok {
		state.retries.Add(-1)
	}
	ex.retrying = ok
	return ok
}

// The credit for retries is counted in millionths of one.
const (
	oneRetry  = 1_000_000
	maxCredit = 100 * oneRetry
)

// earn adds a request's share to the credit for retries, so that these stay that share of the requests over any time.
func (s *clusterState) earn(b *config.Budget) {
	if b.Percent < 100 && s.credit.Load() < maxCredit {
		s.credit.Add(int64(b.Percent / (100 - b.Percent) * oneRetry)) // of requests and retries together retries are Percent
	}
}

// spend takes a retry from the credit. Where few requests are under way, the least number of retries is there in any case, and
// a part of it is owed.
func (s *clusterState) spend(b *config.Budget, retries int64) bool {
	if b.Percent >= 100 {
		return true
	}
	if retries <= int64(b.Least) && s.requests.Load() <= 5*int64(b.Least) {
		if s.credit.Load() > -maxCredit/10 {
			s.credit.Add(-oneRetry)
		}
		return true
	}
	for {
		have := s.credit.Load()
		if have < oneRetry {
			return false
		}
		if s.credit.CompareAndSwap(have, have-oneRetry) {
			return true
		}
	}
}

func (ex *exchange) endRetrying() {
	if ex.retrying {
		ex.retrying = false
		ex.cluster.state.retries.Add(-1)
	}
}

// elsewhere says whether a connection that could not be made is worth another try without a policy: there is an endpoint
// that wasn't tried, or the failure came at once.
func (ex *exchange) elsewhere(c *choice) bool {
	return len(ex.cluster.endpoints) > len(c.avoid) || len(c.avoid) == 1 && ex.e.now()-c.nowNano < int64(time.Second/4)
}

// another says whether an exchange that finds ep refusing goes to another endpoint: unless there is none, or chance has led back to it.
func (v *clusterView) another(c *choice, ep *endpoint) bool {
	return len(v.endpoints) > 1 && !c.avoids(ep)
}

// wantsStatus says whether the policy has a response tried again.
func (ex *exchange) wantsStatus(r *config.Retry, status int) bool {
	switch {
	case r == nil || !ex.retriable(r):
		return false
	case r.On5xx && status >= 500, r.OnGateway && status >= 502 && status <= 504, r.OnRetriable4 && status == 409:
		return true
	case slices.Contains(r.OnStatus, status):
		return true
	}
	return len(r.OnGRPC) > 0 && ex.grpcCode >= 0 && slices.Contains(r.OnGRPC, ex.grpcCode)
}

// again waits before a retry. False: the exchange was ended.
func (ex *exchange) again(r *config.Retry, before int, after time.Duration) bool {
	base := r.BackOff
	if base <= 0 {
		base = 25 * time.Millisecond
	}
	most := base << min(before, 10)
	if r.MaxBackOff > 0 {
		most = min(most, r.MaxBackOff)
	}
	ex.watch.newTry()
	d := rand.N(most) + 1
	if after > 0 {
		d = after + rand.N(after/4+1) // not all who were told the same time at once
	}
	return ex.pause(d)
}

// try sends the request once. done: a response was passed on, wholly or as far as it came, or the client is gone.
func (ex *exchange) try(f *config.Forward, c *choice, retry int) (done bool, _ failure) {
	v := ex.cluster
	c.nowNano = ex.e.now()
	ep, proving := v.take(c)
	if v.config.Original {
		ep = v.original(ex.d.peer)
	}
	if ep == nil {
		return false, failure{code: reason.NoHealthyUpstream, err: errNoEndpoint, final: true}
	}
	defer v.proved(ep, proving)
	ex.watch.newTry()
	if f.Retry != nil && f.Retry.PerTry > 0 {
		ex.watch.limit(0, 0, f.Retry.PerTry)
	}
	ex.rec.upstream = ep.config.Address
	ep.active.Add(1)
	defer ep.active.Add(-1)
	wire := v.upstreamWire(ex.req.Proto)
	l, code, err := v.acquire(slow{ex.slowContext, ex.d.makers, ex.leaves(ep, wire), v.another(c, ep)}, ep, wire)
	if err != nil {
		c.avoid = append(c.avoid, ep)
		return false, ex.noConnection(code, err)
	}
	ex.watch.hold(l.ClientExchange)
	ex.lent = true
	done, fail := ex.over(f, v, l, retry)
	ex.watch.hold(nil)
	if ex.lent {
		v.release(l)
	}
	ex.lent = false
	if !done {
		c.avoid = append(c.avoid, ep)
	}
	return done, fail
}

// slowContext is for getting a connection that isn't at hand.
func (ex *exchange) slowContext() context.Context { return ex.watch.context(ex.x.Context()) }

// leaves is how many of the idle connections this exchange leaves to others. One that is taken back when its request isn't there as a whole loses its
// connection; so it doesn't take the last one, as others would have to wait for a handshake each time (C62), but waits for the rest of the
// request where there is only that one.
func (ex *exchange) leaves(ep *endpoint, w wire) int {
	if ex.d.makers == nil || w != http1 || ex.source.there() || guard.Off("C62") {
		return 0
	}
	if !ep.hasIdle(2) && ex.source.comes() {
		return 0
	}
	return 1
}

func (ex *exchange) noConnection(code reason.Code, err error) failure {
	fail := failure{code: code, err: err, connect: code != reason.UpstreamOverflow, unsent: errors.Is(err, stream.ErrNotSent), final: code == reason.UpstreamOverflow || code == reason.Draining}
	switch cause, late := ex.watch.state(); {
	case cause != reason.None:
		return failure{code: cause, err: err, final: true}
	case late:
		fail.code = reason.UpstreamTimeout
	}
	return fail
}

// over does one try over a connection.
func (ex *exchange) over(f *config.Forward, v *clusterView, l lease, retry int) (done bool, _ failure) {
	var began int64
	if v.config.EWMA != nil {
		began = ex.e.now()
	}
	if !l.isMulti() && ex.source.idle() && ex.source.ended && ex.req.Upgrade == "" {
		ex.watch.spare() // what is sent now is all of the request
	}
	err := ex.send(l)
	if err != nil && (errors.Is(err, stream.ErrNotSent) || errors.Is(err, errSpent)) {
		fail := ex.classify(err)
		if errors.Is(err, h2.ErrNoUpgrade) {
			fail.code, fail.final = reason.UpgradeRefused, true
		}
		ex.source.detach()
		return false, fail
	}
	// A server may have answered before it stopped reading: what it said counts.
	for {
		if err = l.ReadHead(&ex.resp); err != nil {
			fail := ex.classify(err)
			if (!fail.final || fail.code == reason.UpstreamTimeout) && !fail.unsent {
				v.report(l.endpoint, failedLocal)
				v.observe(l.endpoint, began, true)
			}
			l.Reset(stream.CodeCancel)
			ex.source.detach()
			return false, fail
		}
		ex.watch.touch()
		if ex.resp.Status >= 200 || ex.resp.Status == 101 {
			break
		}
		if err := ex.x.WriteInformational(&ex.resp); err != nil {
			ex.watch.kill(reason.DownstreamReset)
		}
	}
	ex.noteGRPC(&ex.resp.Fields)
	v.observe(l.endpoint, began, ex.resp.Status >= 500 || ex.resp.Status == 429 || failedGRPC(ex.grpcCode))
	v.answered(l.endpoint, ex.resp.Status, ex.grpcCode)
	if abandoned, _ := ex.watch.state(); abandoned == reason.None && ex.wantsStatus(f.Retry, ex.resp.Status) && ex.source.replayable() && ex.takeRetry(f.Retry, retry) {
		after := retryAfter(f.Retry, &ex.resp)
		l.Reset(stream.CodeCancel)
		ex.source.detach()
		ex.grpcCode = -1
		return false, failure{code: reason.UpstreamReset, status: ex.resp.Status, after: after}
	}
	ex.source.committed()
	if ex.resp.Status == 101 {
		ex.tunnel(l)
	} else {
		ex.respond(l)
	}
	return true, failure{}
}

// retryAfter is how long an answer asks to wait, in seconds (RFC 9110 §10.2.3), 0 where that isn't followed.
func retryAfter(r *config.Retry, h *stream.ResponseHead) time.Duration {
	if r.AfterMax <= 0 {
		return 0
	}
	v, ok := h.Fields.Get("retry-after")
	n, err := strconv.ParseInt(v, 10, 32)
	if d := time.Duration(n) * time.Second; ok && err == nil && d > 0 && d <= r.AfterMax {
		return d
	}
	return 0
}

// observe notes how long an endpoint took, where that counts.
func (v *clusterView) observe(e *endpoint, began int64, bad bool) {
	if c := v.config.EWMA; c != nil {
		now := v.state.engine.now()
		e.latency.observe(now, time.Duration(now-began), bad, c)
	}
}

// failedGRPC says whether a status counts against the endpoint: DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE, DATA_LOSS.
func failedGRPC(code int) bool { return code == 4 || code == 13 || code == 14 || code == 15 }

// send hands the request to the connection.
func (ex *exchange) send(l lease) error {
	if ex.req.Upgrade == "" {
		return ex.source.attach(l.ClientExchange, ex.req)
	}
	if err := l.WriteHead(ex.req, false); err != nil {
		return err
	}
	return l.Flush()
}
