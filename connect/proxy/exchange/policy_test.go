// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"net/http"
	"testing"
	"time"

	"github.com/weftmesh/weft/connect/proxy/config"
	"github.com/weftmesh/weft/connect/proxy/reason"
)

func TestBucketsFillBySeconds(t *testing.T) {
	b := config.NewBucket(10, 3)
	now, passed := int64(1), 0
	for range 100 { // two seconds
		if b.Take(now) {
			passed++
		}
		now += int64(20 * time.Millisecond)
	}
	if passed < 22 || passed > 23 {
		t.Errorf("%d passed in two seconds of 10 with a burst of 3", passed)
	}
	free := config.NewBucket(0, 0)
	for range 1000 {
		if !free.Take(1) {
			t.Fatal("no limit refuses")
		}
	}
}

func TestPeakEWMAPrefersWhoAnswersFast(t *testing.T) {
	v := clusterOf(t, &config.Cluster{Balance: config.PeakEWMA, EWMA: &config.EWMA{Decay: 10 * time.Second, Penalty: time.Second}, Endpoints: endpointsOf(1, 1, 1)})
	now := v.state.engine.now()
	v.endpoints[0].observe(now, 200*time.Millisecond, false, v.config.EWMA)
	v.endpoints[1].observe(now, time.Millisecond, false, v.config.EWMA)
	v.endpoints[2].observe(now, time.Millisecond, true, v.config.EWMA) // failed at once
	got := map[string]int{}
	for range 3000 {
		got[v.pick(&choice{nowNano: now}).config.Address]++
	}
	if got["10.0.0.1:80"] < 1500 || got["10.0.0.2:80"] > 500 {
		t.Errorf("%v, want most for the fast one and few for the one that fails", got)
	}
	later := now + int64(5*time.Minute)
	if a, b := v.endpoints[0].load(later, v.config.EWMA), v.endpoints[1].load(later, v.config.EWMA); a > 1.1*b {
		t.Errorf("what was slow long ago still counts: %g and %g", a, b)
	}
}

func TestSlowStartAndPanic(t *testing.T) {
	v := clusterOf(t, &config.Cluster{SlowStart: &config.SlowStart{Window: time.Minute, Aggression: 1, Least: 0.1}, Panic: 60, Endpoints: endpointsOf(1, 1, 1)})
	now := int64(time.Hour)
	for i, age := range []time.Duration{time.Hour, time.Hour, 6 * time.Second} {
		v.endpoints[i].born = now - int64(age)
	}
	count := func() map[string]int {
		got := map[string]int{}
		for range 2100 {
			if e := v.pick(&choice{nowNano: now}); e != nil {
				got[e.config.Address]++
			}
		}
		return got
	}
	if got := count(); got["10.0.0.2:80"] < 50 || got["10.0.0.2:80"] > 150 {
		t.Errorf("%v, want a tenth of a share for the new one", got)
	}
	v.endpoints[0].until.Store(now + 1)
	if got := count(); got["10.0.0.0:80"] != 0 {
		t.Errorf("%v: two of three are enough, the ejected one stays out", got)
	}
	v.endpoints[1].until.Store(now + 1)
	if got := count(); got["10.0.0.0:80"] == 0 {
		t.Errorf("%v: one of three is too few, ejections don't count", got)
	}
}

func TestRateLimitAnswers(t *testing.T) {
	r := newRig(t, func(s *config.Snapshot) {
		routeOf(s).Limit = &config.RateLimit{All: config.NewBucket(1, 1), Callers: []config.CallerLimit{{
			Headers: []config.HeaderMatch{{Name: "x-caller", Value: config.StringMatch{Kind: config.MatchExact, Text: "web"}}}, Bucket: config.NewBucket(1, 1),
		}}}
	}, upstream(t, echo))
	c := client(t, 1)
	if resp, _ := get(t, c, r.url("/")); resp.StatusCode != http.StatusOK {
		t.Fatal(resp.Status)
	}
	resp, _ := get(t, c, r.url("/"))
	wantReason(t, resp, 429, reason.RateLimited)
}

func TestFaultsAndMirrors(t *testing.T) {
	copies := make(chan string, 4)
	shadow := upstream(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { copies <- r.Host + r.URL.Path }))
	r := newRig(t, func(s *config.Snapshot) {
		s.Clusters["shadow"] = &config.Cluster{Name: "shadow", Endpoints: []*config.Endpoint{{Network: "tcp", Address: shadow, Healthy: true}}}
		routeOf(s).Forward.Mirrors = []config.Mirror{{Cluster: "shadow", Share: config.Whole}}
		routeOf(s).Fault = &config.Fault{
			Headers:     []config.HeaderMatch{{Name: "x-break", Present: true}},
			AbortStatus: 418, AbortShare: config.Whole,
		}
	}, upstream(t, echo))
	c := client(t, 1)
	req, _ := http.NewRequestWithContext(t.Context(), "GET", r.url("/a"), nil)
	req.Header.Set("x-break", "1")
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = body(t, resp)
	wantReason(t, resp, 418, reason.FaultInjected)
	if resp, _ = get(t, c, r.url("/b")); resp.StatusCode != http.StatusOK {
		t.Fatal(resp.Status)
	}
	host, _, _ := splitHost(r.addr)
	if got := <-copies; got != host+"-shadow"+r.addr[len(host):]+"/b" {
		t.Errorf("the copy went to %s", got)
	}
}

func splitHost(addr string) (host, port string, ok bool) {
	host = stripPort(addr)
	return host, addr[len(host):], true
}

func TestBudgetHoldsOverAnyTime(t *testing.T) {
	s := clusterOf(t, &config.Cluster{}).state
	b := &config.Budget{Percent: 100 * 20.0 / 120, Least: 3}
	s.requests.Store(60)
	retries := 0
	for range 3000 { // each fails, and wants three retries
		s.earn(b)
		for range 3 {
			if s.spend(b, 1) {
				retries++
			}
		}
	}
	if retries > 600 || retries < 599 {
		t.Errorf("%d retries of 3000 requests, want a fifth", retries)
	}
	s.requests.Store(2)
	if !s.spend(b, 3) || s.spend(b, 4) && s.credit.Load() < oneRetry {
		t.Error("the least number of retries isn't free where little is under way")
	}
}

func TestSplitsOfManyRequests(t *testing.T) {
	f := &config.Forward{Clusters: []config.WeightedCluster{{Cluster: "a", Weight: 9000}, {Cluster: "b", Weight: 1000}}}
	b := 0
	for range 2 { // chance alone has one in six hundred outside, and one in four hundred thousand twice
		b = 0
		for range 100_000 {
			if choose(f, &choice{}).Cluster == "b" {
				b++
			}
		}
		if b >= 9_700 && b <= 10_300 {
			return
		}
	}
	t.Errorf("%d of 100000, want a tenth within 0.3 %%", b)
}
