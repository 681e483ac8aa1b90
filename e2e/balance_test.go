// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

var balanceRows = []Row{
	{Name: "balance by turns by chance and by load", Run: balancePolicies},
	{Name: "balance peak ewma", Run: balanceEWMA, Differs: map[Kind]string{Envoy: "Envoy doesn't have it: it takes least_request, and the agent warns"}},
	{Name: "balance by hash", Run: balanceHash},
	{Name: "balance session persistence", Run: balanceSession},
	{Name: "balance slow start", Run: balanceSlowStart},
	{Name: "balance panic threshold", Run: balancePanic},
	{Name: "balance locality", Run: balanceLocality},
	{Name: "limit of a path and of an instance", Run: limitPath},
	{Name: "limit of a caller", Run: limitCaller},
	{Name: "limit of all instances together", Run: limitService},
}

// balancer has calls balanced so, and waits until that is in force.
func (l *Lab) balancer(name string, lb object, more object) {
	l.t.Helper()
	fields := object{"LoadBalancer": lb}
	for k, v := range more {
		fields[k] = v
	}
	l.entry("service-resolver", "api", fields)
	l.routes(to(name, "/", object{}))
	l.comes("GET", "/", byRoute(name))
}

// counts makes n calls and says who answered.
func (l *Lab) counts(n int, headers ...string) map[string]int {
	l.t.Helper()
	out := map[string]int{}
	for range n {
		g, err := l.call("GET", "/", headers...)
		if err != nil {
			l.t.Fatal(err)
		}
		if g.Status != http.StatusOK {
			out[fmt.Sprint(g.Status)]++
			continue
		}
		out[g.Seen.Backend]++
	}
	return out
}

func balancePolicies(t *testing.T, w *World) {
	for policy, least := range map[string]int{"round_robin": 28, "random": 10, "least_request": 10} {
		t.Run(policy, func(t *testing.T) {
			l := w.traffic(t)
			l.balancer(policy, object{"Policy": policy}, nil)
			got := l.counts(90)
			for _, b := range []string{"v1", "v1b", "v2"} {
				if got[b] < least {
					t.Errorf("%v, want at least %d for each", got, least)
				}
			}
		})
	}
}

func balanceEWMA(t *testing.T, w *World) {
	l := w.traffic(t)
	l.balancer("ewma", object{"Policy": "peak_ewma"}, nil)
	dir := t.TempDir() + "/resolver.hcl"
	text := fmt.Sprintf("kind = \"service-resolver\"\nname = %q\nload_balancer { policy = \"peak_ewma\" }\n", l.name("api"))
	if err := os.WriteFile(dir, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	until(t, callWithin, func() error { // what an agent says of its proxies comes to the servers in a moment
		_, errs, err := weft(nil, "", "config", "write", "-http-addr", loopback(w.http), dir)
		if warned := strings.Contains(errs, "least_request"); err != nil || warned != (w.Kind == Envoy) {
			return fmt.Errorf("%w, warned: %q", err, errs)
		}
		return nil
	})
	l.v1.always(t, "sleep=100ms")
	var mu sync.Mutex
	got := map[string]int{}
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			for range 40 {
				g, err := l.call("GET", "/")
				mu.Lock()
				if err != nil {
					t.Error(err)
				}
				got[g.Seen.Backend]++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if got["v1"] > 60 || got["v2"] < 60 {
		t.Errorf("%v, want few for the slow v1", got)
	}
}

func balanceHash(t *testing.T, w *World) {
	for _, policy := range []string{"ring_hash", "maglev"} {
		t.Run(policy, func(t *testing.T) {
			l := w.traffic(t)
			l.balancer(policy, object{"Policy": policy, "HashPolicies": []object{{"Field": "header", "FieldValue": "x-user", "Terminal": true}, {"Field": "query_parameter", "FieldValue": "user"}}}, nil)
			spread := map[string]bool{}
			for user := range 30 {
				got := l.counts(4, fmt.Sprint("x-user: user-", user))
				if len(got) != 1 {
					t.Fatalf("user %d came to %v", user, got)
				}
				for b := range got {
					spread[b] = true
				}
			}
			if len(spread) != 3 {
				t.Errorf("30 users at %v, want all three", spread)
			}
		})
	}
	t.Run("cookie", func(t *testing.T) {
		l := w.traffic(t)
		l.balancer("cookie", object{"Policy": "ring_hash", "HashPolicies": []object{{"Field": "cookie", "FieldValue": "place", "CookieConfig": object{"TTL": "1h", "Path": "/"}}}}, nil)
		g, err := l.call("GET", "/")
		set := g.Header.Get("Set-Cookie")
		if err != nil || !strings.HasPrefix(set, "place=") || !strings.Contains(set, "Max-Age=3600") {
			t.Fatalf("no cookie was made: %q, %v", set, err)
		}
		pair, _, _ := strings.Cut(set, ";")
		if got := l.counts(10, "Cookie: "+pair); len(got) != 1 || got[g.Seen.Backend] != 10 {
			t.Errorf("%v, want all at %s", got, g.Seen.Backend)
		}
	})
}

func balanceSession(t *testing.T, w *World) {
	for name, how := range map[string]object{"cookie": {"Cookie": object{"Name": "seat", "TTL": "1h"}}, "header": {"Header": "x-seat"}} {
		t.Run(name, func(t *testing.T) {
			l := w.traffic(t)
			l.balancer("session-"+name, object{"Persistence": how}, nil)
			for range 5 {
				g, err := l.call("GET", "/")
				if err != nil {
					t.Fatal(err)
				}
				again := "x-seat: " + g.Header.Get("X-Seat")
				if name == "cookie" {
					pair, _, _ := strings.Cut(g.Header.Get("Set-Cookie"), ";")
					again = "Cookie: " + pair
				}
				if got := l.counts(6, again); got[g.Seen.Backend] != 6 {
					t.Errorf("bound by %q to %s, came to %v", again, g.Seen.Backend, got)
				}
			}
		})
	}
}

func balanceSlowStart(t *testing.T, w *World) {
	l := w.traffic(t)
	l.balancer("slow", object{"Policy": "round_robin", "SlowStart": object{"Window": "6s", "MinWeightPercent": 10}}, nil)
	told := time.Now()
	maintenance := func(on bool) {
		l.put(fmt.Sprintf("/v1/agent/service/maintenance/%s?enable=%t", l.name("api-2"), on), nil)
	}
	maintenance(true)
	until(t, callWithin, func() error {
		if got := l.counts(12); got["v2"] > 0 {
			return errors.New("v2 still gets calls")
		}
		return nil
	})
	until(t, 15*time.Second, func() error { // to an Envoy that was just told of the policy, the others are new too
		if age := time.Since(told); age < 7*time.Second {
			return fmt.Errorf("the others are new since %s", age)
		}
		return nil
	})
	maintenance(false)
	until(t, callWithin, func() error {
		if got := l.counts(20); got["v2"] == 0 {
			return errors.New("v2 gets no calls yet")
		}
		return nil
	})
	if got := l.counts(100); got["v2"] == 0 || got["v2"] > 30 {
		t.Errorf("%v, want less for v2 than for the others", got)
	}
}

func balancePanic(t *testing.T, w *World) {
	for threshold, gets := range map[int]bool{0: false, 90: true} {
		t.Run(fmt.Sprint(threshold), func(t *testing.T) {
			l := w.traffic(t)
			l.balancer(fmt.Sprint("panic", threshold), object{"PanicThreshold": threshold}, object{"PassiveHealthCheck": object{
				"MaxFailures": 2, "MaxEjectionPercent": 100, "BaseEjectionTime": "60s", "Interval": "1s", "EnforcingConsecutive5xx": 100,
			}})
			l.v1.always(t, "500")
			l.counts(30)
			if got := l.counts(60); (got["500"] > 0) != gets {
				t.Errorf("%v, want calls at the ejected one: %t", got, gets)
			}
		})
	}
}

func balanceLocality(t *testing.T, w *World) {
	t.Run("near", func(t *testing.T) {
		l := w.traffic(t)
		l.balancer("near", object{}, object{"PrioritizeByLocality": object{"Mode": "failover"}})
		if got := l.counts(30); got["v1"] != 30 {
			t.Errorf("%v, want all in the own zone", got)
		}
	})
	t.Run("weights", func(t *testing.T) {
		l := w.traffic(t)
		l.balancer("weights", object{}, object{"LocalityWeights": []object{{"Locality": "r1", "Weight": 80}, {"Locality": "r2", "Weight": 20}}})
		if got := l.counts(200); got["v2"] < 20 || got["v2"] > 65 || got["v1"] < 50 || got["v1b"] < 50 {
			t.Errorf("%v, want a fifth at v2", got)
		}
	})
}

// limits writes api's service-defaults with rate limits, until the row ends.
func (l *Lab) limits(limits object) {
	l.t.Helper()
	body := object{"Kind": "service-defaults", "Name": l.name("api"), "Protocol": "http"}
	l.t.Cleanup(func() { l.put("/v1/config", body) })
	with := object{"RateLimits": limits}
	for k, v := range body {
		with[k] = v
	}
	l.put("/v1/config", with)
}

// refusedOf makes n calls at once and counts those that were too many.
func (l *Lab) refusedOf(n int, path string) int {
	l.t.Helper()
	many := 0
	for range n {
		g, err := l.call("GET", path)
		if err != nil {
			l.t.Fatal(err)
		}
		if g.Status == http.StatusTooManyRequests {
			many++
		} else if g.Status != http.StatusOK {
			l.t.Fatalf("%d %s", g.Status, g.Body)
		}
	}
	return many
}

func (l *Lab) someRefused(path string) {
	l.t.Helper()
	until(l.t, callWithin, func() error {
		if l.refusedOf(40, path) == 0 {
			return errors.New("nothing is refused")
		}
		return nil
	})
}

func limitPath(t *testing.T, w *World) {
	l := w.traffic(t)
	l.limits(object{"InstanceLevel": object{"RequestsPerSecond": 100000, "Routes": []object{{"PathPrefix": "/tight", "RequestsPerSecond": 1, "RequestsMaxBurst": 2}}}})
	l.someRefused("/tight")
	if n := l.refusedOf(60, "/tight"); n < 45 { // three instances, with a second or so for it
		t.Errorf("%d of 60 refused, want nearly all", n)
	}
	if n := l.refusedOf(60, "/wide"); n != 0 {
		t.Errorf("%d of another path refused", n)
	}
}

func limitCaller(t *testing.T, w *World) {
	l := w.traffic(t)
	l.limits(object{"Callers": []object{{"Service": l.name("web"), "RequestsPerSecond": 1, "RequestsMaxBurst": 1}}})
	l.someRefused("/")
	l.limits(object{"Callers": []object{{"Service": l.name("another"), "RequestsPerSecond": 1, "RequestsMaxBurst": 1}}})
	until(t, callWithin, func() error {
		if n := l.refusedOf(20, "/"); n > 0 {
			return fmt.Errorf("%d calls of a caller without a limit refused", n)
		}
		return nil
	})
}

func limitService(t *testing.T, w *World) {
	l := w.traffic(t)
	l.limits(object{"ServiceLevel": object{"RequestsPerSecond": 6, "RequestsMaxBurst": 6}})
	l.someRefused("/")
	until(t, callWithin, func() error { // shares change with the number of instances, and begin anew then
		var ok int
		d := took(func() { ok = 120 - l.refusedOf(120, "/") })
		if most := 6 + int(7*d.Seconds()) + 3; ok > most {
			return fmt.Errorf("%d calls in %s came through, want at most %d", ok, d, most)
		}
		return nil
	})
}
