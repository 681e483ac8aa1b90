// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"context"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weftmesh/weft/connect/proxy/config"
	"github.com/weftmesh/weft/connect/proxy/reason"
)

// slowly is a server whose first requests answer when they are let go.
type slowly struct {
	came atomic.Int32
	in   chan struct{} // gets one for each request
	hold int32         // so many requests wait
	free chan struct{}
	gone chan struct{} // gets one for each held request whose client left
}

func newSlowly(hold int32) *slowly {
	return &slowly{hold: hold, in: make(chan struct{}, 16), free: make(chan struct{}), gone: make(chan struct{}, 16)}
}

func (s *slowly) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	data, _ := io.ReadAll(r.Body)
	n := s.came.Add(1)
	s.in <- struct{}{}
	if n <= s.hold {
		select {
		case <-s.free:
		case <-r.Context().Done():
			s.gone <- struct{}{}
			return
		}
	}
	_, _ = w.Write(data)
}

func hedging(attempts int) func(*config.Snapshot) {
	return func(s *config.Snapshot) {
		routeOf(s).Forward.Retry = &config.Retry{Attempts: attempts, PerTry: 20 * time.Millisecond, On5xx: true, Hedge: true}
	}
}

// A second try is made beside the first, its answer is passed on, and the first is given up then.
func TestHedgeTakesTheFirstAnswer(t *testing.T) {
	versions(t, func(t *testing.T, down int, up config.Codec) {
		s := newSlowly(1)
		r := newRig(t, func(c *config.Snapshot) { hedging(2)(c); codec(up)(c) }, upstream(t, s))
		req, _ := http.NewRequestWithContext(t.Context(), "POST", r.url("/"), strings.NewReader("hello"))
		if down == 2 {
			req, _ = http.NewRequestWithContext(t.Context(), "GET", r.url("/"), nil)
		}
		resp, err := client(t, down).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if got := body(t, resp); resp.StatusCode != 200 || down == 1 && got != "hello" {
			t.Errorf("%s %q", resp.Status, got)
		}
		<-s.gone
		if n := s.came.Load(); n != 2 {
			t.Errorf("%d tries, want 2", n)
		}
	})
}

// The first try's answer counts if it comes first, however late.
func TestHedgeKeepsTheFirstTry(t *testing.T) {
	s := newSlowly(2)
	r := newRig(t, hedging(1), upstream(t, s))
	go func() {
		<-s.in
		<-s.in
		s.free <- struct{}{}
	}()
	if resp, _ := get(t, client(t, 1), r.url("/")); resp.StatusCode != 200 {
		t.Error(resp.Status)
	}
	<-s.gone
}

// Without hedging the tries would be cut one after the other; a client that goes away ends all that are under way.
func TestHedgeEndsWithItsClient(t *testing.T) {
	s := newSlowly(9)
	r := newRig(t, hedging(2), upstream(t, s))
	ctx, leave := context.WithCancel(t.Context())
	go func() {
		for range 3 {
			<-s.in
		}
		leave()
	}()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.url("/"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client(t, 1).Do(req); err == nil {
		t.Fatal("an answer came")
	}
	for range s.came.Load() {
		<-s.gone
	}
	if n := s.came.Load(); n != 3 {
		t.Errorf("%d tries, want 3", n)
	}
}

func TestRetryWaitsAsLongAsItIsTold(t *testing.T) {
	var came atomic.Int32
	says := "1"
	r := newRig(t, func(s *config.Snapshot) {
		routeOf(s).Forward.Retry = &config.Retry{Attempts: 1, OnStatus: []int{503}, BackOff: time.Millisecond, MaxBackOff: time.Millisecond, AfterMax: 2 * time.Second}
	}, upstream(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if came.Add(1)%2 == 1 {
			w.Header().Set("Retry-After", says)
			w.WriteHeader(503)
		}
	})))
	for _, c := range []struct {
		says        string
		least, most time.Duration
	}{{"1", time.Second, 10 * time.Second}, {"100", 0, 900 * time.Millisecond}, {"soon", 0, 900 * time.Millisecond}} {
		says = c.says
		began := time.Now()
		resp, _ := get(t, client(t, 1), r.url("/"))
		if took := time.Since(began); resp.StatusCode != 200 || took < c.least || took > c.most {
			t.Errorf("Retry-After %s: %s after %s", c.says, resp.Status, took)
		}
	}
}

func TestFallbackStandsInForNobody(t *testing.T) {
	r := newRig(t, func(s *config.Snapshot) {
		s.Listeners["l"].HTTP.Fallbacks = []config.Fallback{{Reasons: []string{string(reason.NoHealthyUpstream)}, Status: 200, Body: []byte("later")}}
	})
	resp, text := get(t, client(t, 1), r.url("/"))
	wantReason(t, resp, 200, reason.NoHealthyUpstream)
	if text != "later" {
		t.Errorf("%q", text)
	}
}

func TestAdaptiveBoundRefuses(t *testing.T) {
	s := newSlowly(3)
	r := newRig(t, func(c *config.Snapshot) {
		c.Listeners["l"].HTTP.Adaptive = config.NewAdaptive(3, 10, 100*time.Millisecond, time.Minute, 5)
	}, upstream(t, s))
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			if resp, err := client(t, 1).Get(r.url("/")); err != nil || resp.StatusCode != 200 {
				t.Error(resp, err)
			}
		})
	}
	for range 3 {
		<-s.in
	}
	resp, _ := get(t, client(t, 1), r.url("/"))
	wantReason(t, resp, 503, reason.Overloaded)
	close(s.free)
	wg.Wait()
	if resp, _ := get(t, client(t, 1), r.url("/")); resp.StatusCode != 200 {
		t.Error(resp.Status)
	}
}

// Who comes back from an ejection is used by one at a time until it succeeds, and is out again at once if it fails.
func TestProbation(t *testing.T) {
	v := clusterOf(t, &config.Cluster{
		Outlier:   &config.Outlier{Consecutive5xx: 2, Enforcing: 100, Interval: time.Second, BaseEjection: time.Hour, MaxPercent: 100, Probation: true},
		Endpoints: endpointsOf(1, 1),
	})
	bad := v.endpoints[0]
	v.report(bad, failed)
	v.report(bad, failed)
	back := func() *choice { return &choice{nowNano: bad.until.Load() + 1} }
	uses := func() (n int, release func()) {
		var held []bool
		for range 20 {
			if e, proving := v.take(back()); e == bad {
				n++
				held = append(held, proving)
			}
		}
		return n, func() {
			for _, p := range held {
				v.proved(bad, p)
			}
		}
	}
	if e, _ := v.take(&choice{nowNano: v.state.engine.now()}); e == bad {
		t.Fatal("it isn't ejected")
	}
	n, release := uses()
	if n != 1 {
		t.Errorf("%d uses at once on probation, want 1", n)
	}
	release()
	bad.until.Store(1) // the time is over
	v.report(bad, failed)
	if !bad.ejected(v.state.engine.now()) {
		t.Error("one failure on probation doesn't eject")
	}
	bad.until.Store(1)
	v.report(bad, succeeded)
	if n, _ := uses(); n != 10 {
		t.Errorf("%d uses of 20 after it has passed, want its share", n)
	}
}
