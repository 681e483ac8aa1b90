// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weftmesh/weft/connect/proxy/config"
)

// clusterOf makes a cluster's view by itself.
func clusterOf(t testing.TB, c *config.Cluster) *clusterView {
	t.Helper()
	e, err := New(Config{Snapshot: func() *config.Snapshot { return nil }})
	if err != nil {
		t.Fatal(err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.cluster("c", c, nil)
}

func endpointsOf(weights ...uint32) []*config.Endpoint {
	var out []*config.Endpoint
	for i, w := range weights {
		out = append(out, &config.Endpoint{Address: fmt.Sprintf("10.0.0.%d:80", i), Weight: w, Healthy: true})
	}
	return out
}

func spread(v *clusterView, n int, key func(int) (uint64, bool)) map[string]int {
	got := map[string]int{}
	for i := range n {
		c := choice{nowNano: 1}
		if key != nil {
			c.hash, c.hashed = key(i)
		}
		if e := v.pick(&c); e != nil {
			got[e.config.Address]++
		}
	}
	return got
}

func TestRoundRobinTakesTurnsByWeight(t *testing.T) {
	v := clusterOf(t, &config.Cluster{Endpoints: endpointsOf(5, 1, 1)})
	if d := cmp.Diff([]uint32{0, 0, 1, 0, 2, 0, 0}, v.tiers[0].turns); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(map[string]int{"10.0.0.0:80": 50, "10.0.0.1:80": 10, "10.0.0.2:80": 10}, spread(v, 70, nil)); d != "" {
		t.Error(d)
	}
	if n := len(sequence(clusterOf(t, &config.Cluster{Endpoints: endpointsOf(math.MaxUint32, 1, 65537)}).endpoints)); n > maxRound+3 {
		t.Errorf("a round of %d turns", n)
	}
}

func TestPrioritiesHealthAndDraining(t *testing.T) {
	eps := endpointsOf(1, 1, 1, 1)
	eps[0].Draining = true
	eps[1].Healthy = false
	eps[2].Priority = 1
	eps[3].Priority = 2
	v := clusterOf(t, &config.Cluster{Endpoints: eps})
	for _, want := range []string{"10.0.0.2:80", "10.0.0.3:80", "10.0.0.1:80"} {
		if d := cmp.Diff(map[string]int{want: 10}, spread(v, 10, nil)); d != "" {
			t.Error(d)
		}
		for _, e := range v.endpoints {
			if e.config.Address == want {
				e.until.Store(math.MaxInt64)
			}
		}
	}
	if got := spread(v, 10, nil); len(got) != 0 {
		t.Error("ejected and draining endpoints get requests:", got)
	}
}

func TestHashingIsSteadyAndEven(t *testing.T) {
	for _, balance := range []config.Balance{config.RingHash, config.Maglev} {
		key := func(i int) (uint64, bool) { return hashString(fmt.Sprint("user-", i)), true }
		where := func(v *clusterView) []string {
			out := make([]string, 10000)
			for i := range out {
				h, _ := key(i)
				out[i] = v.pick(&choice{hash: h, hashed: true, nowNano: 1}).config.Address
			}
			return out
		}
		eps := endpointsOf(1, 1, 1, 1, 2)
		v := clusterOf(t, &config.Cluster{Balance: balance, Endpoints: eps})
		before := where(v)
		got := spread(v, 10000, key)
		for i, e := range eps {
			want := 10000 * int(e.Weight) / 6
			if n := got[e.Address]; n < want*70/100 || n > want*130/100 {
				t.Errorf("policy %d: endpoint %d got %d, about %d wanted", balance, i, n, want)
			}
		}
		// The order in which endpoints are told changes nothing; one endpoint less moves (nearly) only its own keys.
		turned := slices.Clone(eps)
		slices.Reverse(turned)
		less := where(clusterOf(t, &config.Cluster{Balance: balance, Endpoints: eps[1:]}))
		moved, strayed := 0, 0
		again := where(clusterOf(t, &config.Cluster{Balance: balance, Endpoints: turned}))
		for i := range before {
			if before[i] != again[i] {
				t.Fatal("the order of endpoints matters")
			}
			if before[i] != less[i] {
				moved++
				if before[i] != eps[0].Address {
					strayed++
				}
			}
		}
		if moved < 1000 || strayed > map[config.Balance]int{config.RingHash: 0, config.Maglev: 1200}[balance] {
			t.Errorf("policy %d: %d keys moved, %d of them needlessly", balance, moved, strayed)
		}
	}
}

func TestLeastRequestPrefersTheIdle(t *testing.T) {
	v := clusterOf(t, &config.Cluster{Balance: config.LeastRequest, Endpoints: endpointsOf(1, 1)})
	v.endpoints[0].active.Store(100)
	if got := spread(v, 1000, nil); got["10.0.0.1:80"] < 600 {
		t.Error(got)
	}
}

func TestAvoidsWhatWasTried(t *testing.T) {
	v := clusterOf(t, &config.Cluster{Endpoints: endpointsOf(1, 1)})
	c := choice{nowNano: 1}
	for range 2 {
		e := v.pick(&c)
		if c.avoids(e) {
			t.Fatal("tried again while another is left")
		}
		c.avoid = append(c.avoid, e)
	}
	if v.pick(&c) == nil {
		t.Error("none, though all may be tried again")
	}
}

func TestOutliersAreEjectedForLonger(t *testing.T) {
	v := clusterOf(t, &config.Cluster{Endpoints: endpointsOf(1, 1, 1), Outlier: &config.Outlier{
		Consecutive5xx: 3, Enforcing: 100, BaseEjection: time.Second, MaxPercent: 50,
	}})
	fail := func(i, n int) {
		for range n {
			v.report(v.endpoints[i], failed)
		}
	}
	fail(0, 2)
	v.report(v.endpoints[0], succeeded)
	fail(0, 2)
	now := v.state.engine.now()
	if v.endpoints[0].ejected(now) {
		t.Fatal("ejected though a success was between")
	}
	fail(0, 1)
	if !v.endpoints[0].ejected(now) || v.endpoints[0].ejected(now+int64(2*time.Second)) {
		t.Fatal("not ejected for its time")
	}
	fail(1, 3)
	if v.endpoints[1].ejected(now) {
		t.Error("more than half are ejected")
	}
	v.endpoints[0].until.Store(0)
	fail(0, 3)
	if now = v.state.engine.now(); !v.endpoints[0].ejected(now + int64(1500*time.Millisecond)) {
		t.Error("the second time isn't longer")
	}
}

func TestStatusesThatEject(t *testing.T) {
	v := clusterOf(t, &config.Cluster{Endpoints: endpointsOf(1, 1), Outlier: &config.Outlier{
		Consecutive5xx: 2, Enforcing: 100, BaseEjection: time.Minute, MaxPercent: 10, AlwaysOne: true, Statuses: []int{429}, Jitter: time.Minute,
	}})
	now := v.state.engine.now()
	for range 9 {
		v.answered(v.endpoints[0], 503, 14)
	}
	if v.endpoints[0].ejected(now) {
		t.Fatal("ejected for a status that isn't one of those")
	}
	for i := range 2 {
		for range 2 {
			v.answered(v.endpoints[i], 429, -1)
		}
	}
	if !v.endpoints[0].ejected(now+int64(time.Minute)-1) || v.endpoints[0].ejected(v.state.engine.now()+int64(2*time.Minute)) {
		t.Error("want the one that answered 429 out for one to two minutes")
	}
	if v.endpoints[1].ejected(v.state.engine.now()) {
		t.Error("a second one is out: want one at most")
	}
}

func TestEachKindOfEjection(t *testing.T) {
	const hosts = 5
	out := func(v *clusterView) (n int) {
		for _, e := range v.endpoints {
			if e.ejected(v.state.engine.now()) {
				n++
			}
		}
		return n
	}
	for name, c := range map[string]struct {
		outlier config.Outlier
		bad     outcome
		times   int
		want    int // ejected
	}{
		"gateway failures":              {config.Outlier{ConsecutiveGateway: 3}, failedGateway, 3, 1},
		"other failures for gateway":    {config.Outlier{ConsecutiveGateway: 3}, failed, 9, 0},
		"local failures apart":          {config.Outlier{ConsecutiveLocal: 3, Consecutive5xx: 2}, failedLocal, 3, 1},
		"too few local failures":        {config.Outlier{ConsecutiveLocal: 3, Consecutive5xx: 1}, failedLocal, 2, 0},
		"local failures like any other": {config.Outlier{Consecutive5xx: 2}, failedLocal, 2, 1},
		"success rate":                  {config.Outlier{SuccessRate: &config.SuccessRate{MinHosts: hosts, MinRequests: 10, Deviation: 1.9}}, failed, 100, 1},
		"success rate of few hosts":     {config.Outlier{SuccessRate: &config.SuccessRate{MinHosts: hosts + 1, MinRequests: 10, Deviation: 1.9}}, failed, 100, 0},
		"failure percentage":            {config.Outlier{FailurePercentage: &config.FailurePercentage{Threshold: 50, MinHosts: 2, MinRequests: 10}}, failed, 100, 1},
		"failures below the percentage": {config.Outlier{FailurePercentage: &config.FailurePercentage{Threshold: 60, MinHosts: 2, MinRequests: 10}}, failed, 100, 0},
		"too few requests":              {config.Outlier{FailurePercentage: &config.FailurePercentage{Threshold: 50, MinHosts: 2, MinRequests: 300}}, failed, 100, 0},
	} {
		t.Run(name, func(t *testing.T) {
			c.outlier.Enforcing, c.outlier.BaseEjection, c.outlier.MaxPercent = 100, time.Second, 50
			v := clusterOf(t, &config.Cluster{Endpoints: endpointsOf(1, 1, 1, 1, 1), Outlier: &c.outlier})
			for range 100 {
				for _, e := range v.endpoints {
					v.report(e, succeeded)
				}
			}
			for range c.times {
				v.report(v.endpoints[0], c.bad)
			}
			v.state.sweep(v.state.engine.now())
			if got := out(v); got != c.want {
				t.Errorf("%d are ejected, want %d", got, c.want)
			}
		})
	}
}
