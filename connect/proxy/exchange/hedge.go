// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"context"
	"sync"
	"time"

	"github.com/weftmesh/weft/connect/proxy/config"
	"github.com/weftmesh/weft/connect/proxy/reason"
	"github.com/weftmesh/weft/connect/proxy/stream"
)

// attempt is one of several tries that are under way at once. It has a goroutine, which has ended when it stands in done.
type attempt struct {
	ep      *endpoint
	proving bool
	began   int64
	l       lease
	resp    stream.ResponseHead
	code    reason.Code // why there is no connection
	err     error

	mu   sync.Mutex // guards what follows
	y    stream.ClientExchange
	over bool // it is to end
}

// hold lets cut end the exchange; false if it is to end already.
func (a *attempt) hold(y stream.ClientExchange) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.y = y
	return !a.over
}

// cut ends the attempt's exchange, which its goroutine notices.
func (a *attempt) cut() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.over = true
	if a.y != nil {
		a.y.Reset(stream.CodeCancel)
	}
}

// hedge is the attempts of one request.
type hedge struct {
	ex     *exchange
	f      *config.Forward
	c      *choice
	ctx    context.Context
	done   chan *attempt
	under  []*attempt // under way
	taken  int        // retries
	cancel context.CancelFunc
}

// hedges says whether the request can be under way several times at once: it is there as a whole.
func (ex *exchange) hedges(r *config.Retry) bool {
	if r == nil || !r.Hedge || r.PerTry <= 0 || ex.req.Upgrade != "" || !ex.retriable(r) {
		return false
	}
	s := &ex.source
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ended && s.keeping.Load()
}

// hedged sends the request, and again when an answer takes too long, without giving up what is under way. The first answer that
// no retry was wanted of is passed on.
func (ex *exchange) hedged(f *config.Forward, c *choice) {
	ex.source.mu.Lock()
	ex.source.tellDone()
	ex.source.mu.Unlock()
	h := &hedge{ex: ex, f: f, c: c, done: make(chan *attempt, 1+f.Retry.Attempts)}
	h.ctx, h.cancel = context.WithCancel(ex.watch.context(ex.x.Context()))
	winner, fail := h.first()
	h.end()
	if winner == nil {
		if cause, _ := ex.watch.state(); cause != reason.None {
			fail.code = cause
		}
		ex.e.config.Log.Debug("request failed", "cluster", ex.rec.cluster, "upstream", ex.rec.upstream, "reason", string(fail.code), "error", fail.err)
		ex.fail(fail.code)
		return
	}
	ex.resp, winner.resp = winner.resp, ex.resp
	ex.rec.upstream = winner.ep.config.Address
	ex.watch.hold(winner.l.ClientExchange)
	ex.source.committed()
	ex.respond(winner.l)
	ex.watch.hold(nil)
	h.settle(winner)
}

// first waits for the answer to pass on; without one it says why.
func (h *hedge) first() (*attempt, failure) {
	if !h.launch() {
		return nil, failure{code: reason.NoHealthyUpstream, err: errNoEndpoint}
	}
	late := time.NewTimer(h.f.Retry.PerTry)
	defer late.Stop()
	for {
		select {
		case a := <-h.done:
			h.drop(a)
			fail, good := h.judge(a)
			if good {
				return a, failure{}
			}
			h.settle(a)
			if fail.again && h.retry() {
				late.Reset(h.f.Retry.PerTry)
			}
			if len(h.under) == 0 {
				return nil, fail.failure
			}
		case <-late.C:
			if h.retry() {
				late.Reset(h.f.Retry.PerTry)
			}
		case <-h.ctx.Done():
			return nil, failure{code: reason.UpstreamTimeout, err: context.Cause(h.ctx)}
		}
	}
}

// retry makes one more attempt, if the policy and the budget have one.
func (h *hedge) retry() bool {
	if !h.ex.takeRetry(h.f.Retry, h.taken) {
		return false
	}
	h.taken++
	return h.launch()
}

func (h *hedge) launch() bool {
	v := h.ex.cluster
	h.c.nowNano = h.ex.e.now()
	ep, proving := v.take(h.c)
	if ep == nil {
		return false
	}
	elsewhere := v.another(h.c, ep)
	h.c.avoid = append(h.c.avoid, ep)
	a := &attempt{ep: ep, proving: proving, began: h.c.nowNano}
	ep.active.Add(1)
	h.under = append(h.under, a)
	wire := v.upstreamWire(h.ex.req.Proto)
	go func() {
		a.run(h, v, wire, elsewhere)
		h.done <- a
	}()
	return true
}

// run sends the request and reads the head of the answer. The request and what was read of its body don't change meanwhile.
func (a *attempt) run(h *hedge, v *clusterView, w wire, elsewhere bool) {
	way := slow{context: func() context.Context { return h.ctx }, makers: h.ex.d.makers, elsewhere: elsewhere}
	if a.l, a.code, a.err = v.acquire(way, a.ep, w); a.err != nil {
		return
	}
	if !a.hold(a.l.ClientExchange) {
		a.l.Reset(stream.CodeCancel)
		a.err = context.Canceled
		return
	}
	s := &h.ex.source
	empty := len(s.replay) == 0 && s.trailers == nil
	err := a.l.WriteHead(h.ex.req, empty)
	switch {
	case err != nil:
	case empty:
		err = a.l.Flush()
	default:
		if len(s.replay) > 0 {
			err = a.l.WriteBody(s.replay)
		}
		if err == nil {
			err = a.l.Finish(s.trailers)
		}
	}
	for a.resp.Status < 200 && err == nil {
		a.resp.Reset()
		err = a.l.ReadHead(&a.resp)
	}
	a.err = err
}

func (h *hedge) drop(a *attempt) {
	for i, o := range h.under {
		if o == a {
			h.under = append(h.under[:i], h.under[i+1:]...)
			return
		}
	}
}

// attemptVerdict is what became of an attempt that isn't passed on, and whether another one may follow at once.
type attemptVerdict struct {
	failure
	again bool
}

// judge says whether an attempt's answer is to be passed on: it is one, and either not one that the policy wants again, or the last.
func (h *hedge) judge(a *attempt) (attemptVerdict, bool) {
	ex, v := h.ex, h.ex.cluster
	if a.l.ClientExchange == nil {
		fail := ex.noConnection(a.code, a.err)
		return attemptVerdict{fail, !fail.final}, false
	}
	if a.err != nil {
		fail := ex.classify(a.err)
		if !fail.final && !fail.unsent {
			v.report(a.ep, failedLocal)
			v.observe(a.ep, a.began, true)
		}
		a.l.Reset(stream.CodeCancel)
		return attemptVerdict{fail, !fail.final && (fail.unsent || ex.wanted(h.f.Retry, fail))}, false
	}
	ex.grpcCode = -1
	ex.noteGRPC(&a.resp.Fields)
	v.observe(a.ep, a.began, a.resp.Status >= 500 || a.resp.Status == 429 || failedGRPC(ex.grpcCode))
	v.answered(a.ep, a.resp.Status, ex.grpcCode)
	if !ex.wantsStatus(h.f.Retry, a.resp.Status) || len(h.under) == 0 && h.taken >= h.f.Retry.Attempts {
		return attemptVerdict{}, true
	}
	if len(h.under) == 0 && !h.retry() {
		return attemptVerdict{}, true
	}
	a.l.Reset(stream.CodeCancel)
	return attemptVerdict{failure: failure{code: reason.UpstreamReset, status: a.resp.Status}}, false
}

// settle gives an attempt's connection back.
func (h *hedge) settle(a *attempt) {
	v := h.ex.cluster
	if a.l.ClientExchange != nil {
		v.release(a.l)
	}
	v.proved(a.ep, a.proving)
	a.ep.active.Add(-1)
}

// end cuts what is still under way, and waits for it.
func (h *hedge) end() {
	h.cancel()
	for _, a := range h.under {
		a.cut()
	}
	for range len(h.under) {
		a := <-h.done
		h.settle(a)
	}
}
