// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/wrapperspb"
)

// holdRows are about what keeps calls going, and instances from falling over.
var holdRows = []Row{
	{Name: "send weighted split", Run: sendShares},
	{Name: "send redirect to another service", Run: sendElsewhere},
	{Name: "balance by hash of query and address", Run: balanceMoreHash},
	{Name: "endure hedging", Run: endureHedging},
	{Name: "endure retry after", Run: endureRetryAfter},
	{Name: "endure retries by grpc status and reset", Run: endureRetriesMore},
	{Name: "endure limits of requests and retries", Run: endureLimits},
	{Name: "endure ejection by gateway and local failures", Run: endureOutlierKinds},
	{Name: "endure ejection by success rate and failure percentage", Run: endureOutlierRates},
	{Name: "endure ejection by statuses of one of few", Run: endureOutlierStatuses},
	{Name: "endure ejection with probation", Run: endureProbation, Differs: map[Kind]string{
		Envoy: "Envoy doesn't have it: who comes back gets its whole share at once, and the agent warns",
	}},
	{Name: "endure fallback", Run: endureFallback},
	{Name: "endure adaptive concurrency", Run: endureAdaptive},
}

// sendShares counts the shares of a split: 2000 requests, or with WEFT_E2E_SPLIT as many as that says (100000: within 0.3 % of them).
func sendShares(t *testing.T, w *World) {
	l := w.traffic(t)
	n := 2000
	if more, err := strconv.Atoi(os.Getenv("WEFT_E2E_SPLIT")); err == nil {
		n = more
	}
	l.subsets(nil)
	l.entry("service-splitter", "api", object{"Splits": []object{{"Weight": 90, "ServiceSubset": "v1"}, {"Weight": 10, "ServiceSubset": "v2"}}})
	l.routes(to("shares", "/", object{}))
	l.comes("GET", "/", byRoute("shares"))
	before := l.v2.requests.Load()
	var wg sync.WaitGroup
	for c := range 16 {
		wg.Go(func() {
			for range n/16 + (n%16+15-c)/16 {
				if g, err := l.call("GET", "/"); err != nil || g.Status != http.StatusOK {
					t.Errorf("%d %v", g.Status, err)
				}
			}
		})
	}
	wg.Wait()
	share := float64(l.v2.requests.Load()-before) / float64(n)
	room := max(0.003, 4*math.Sqrt(0.1*0.9/float64(n)))
	t.Logf("%.3f %% of %d requests at the subset that has 10", 100*share, n)
	if share < 0.1-room || share > 0.1+room {
		t.Errorf("%.3f %% of %d requests, want 10 with at most %.2f more or less", 100*share, n, 100*room)
	}
}

func sendElsewhere(t *testing.T, w *World) {
	l := w.traffic(t)
	l.entry("service-resolver", "api", object{"Redirect": object{"Service": l.name("spare")}})
	l.comes("GET", "/", func(g got) error {
		if g.Seen.Backend != "spare" {
			return fmt.Errorf("at %q, want the other service", g.Seen.Backend)
		}
		return nil
	})
}

func balanceMoreHash(t *testing.T, w *World) {
	t.Run("query", func(t *testing.T) {
		l := w.traffic(t)
		l.balancer("query", object{"Policy": "maglev", "HashPolicies": []object{{"Field": "query_parameter", "FieldValue": "user"}}}, nil)
		spread := map[string]bool{}
		for user := range 30 {
			at := map[string]bool{}
			for range 4 {
				g, err := l.call("GET", fmt.Sprint("/?a=b&user=user-", user))
				if err != nil {
					t.Fatal(err)
				}
				at[g.Seen.Backend], spread[g.Seen.Backend] = true, true
			}
			if len(at) != 1 {
				t.Fatalf("user %d came to %v", user, at)
			}
		}
		if len(spread) != 3 {
			t.Errorf("30 users at %v, want all three", spread)
		}
	})
	t.Run("address", func(t *testing.T) {
		l := w.traffic(t)
		l.balancer("address", object{"Policy": "ring_hash", "HashPolicies": []object{{"SourceIP": true}}}, nil)
		spread := map[string]bool{}
		for n := range 30 {
			from := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, byte(10+n))}}
			client := &http.Client{Timeout: callWithin, Transport: &http.Transport{DialContext: from.DialContext, DisableKeepAlives: true}}
			at := map[string]bool{}
			for range 3 {
				resp, err := client.Get("http://" + l.api + "/")
				if err != nil {
					t.Fatal(err)
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
				b := resp.Header.Get("X-Backend")
				at[b], spread[b] = true, true
			}
			if len(at) != 1 {
				t.Fatalf("127.0.0.%d came to %v", 10+n, at)
			}
		}
		if len(spread) != 3 {
			t.Errorf("30 addresses at %v, want all three", spread)
		}
	})
}

func endureHedging(t *testing.T, w *World) {
	l := w.traffic(t)
	l.subsets(nil)
	retry := func(name string, hedge bool) object {
		return to(name, "/"+name, object{
			"ServiceSubset": "v1", "RetryOn": []string{"5xx"}, "NumRetries": 1, "PerTryTimeout": "300ms", "RequestTimeout": "10s",
			"RetryOtherHost": true, "Hedge": hedge,
		})
	}
	l.routes(retry("cut", false), retry("hedged", true))
	l.comes("GET", "/hedged", byRoute("hedged"))
	total := func() int64 { return l.v1.requests.Load() + l.v1b.requests.Load() }
	// Both take longer than a try may: cut tries come to nothing, hedged ones to the first one's answer.
	l.is(statusIs(504), "GET", "/cut", "X-Do: * sleep=900ms")
	before := total()
	d := took(func() { l.is(statusIs(200), "GET", "/hedged", "X-Do: * sleep=900ms") })
	if n := total() - before; n != 2 || d < 800*time.Millisecond || d > 5*time.Second {
		t.Errorf("%d tries, an answer after %s; want two, and the first one's answer after 900 ms", n, d)
	}
	// One hangs: the other's answer comes.
	for range 4 {
		if d := took(func() { l.is(statusIs(200), "GET", "/hedged", "X-Do: v1 sleep=8s") }); d > 4*time.Second {
			t.Errorf("an answer after %s, want the other instance's", d)
		}
	}
}

func endureRetryAfter(t *testing.T, w *World) {
	l := w.traffic(t)
	l.subsets(nil)
	l.routes(to("after", "/", object{
		"ServiceSubset": "v1", "RetryOnStatusCodes": []int{503}, "NumRetries": 1, "RetryOtherHost": true, "RetryAfterMax": "3s",
		"RetryBackOff": object{"Base": "1ms", "Max": "1ms"},
	}))
	l.comes("GET", "/", byRoute("after"))
	slow := 0
	for _, after := range []string{"1", "100"} {
		for range 6 {
			d := took(func() { l.is(statusIs(200), "GET", "/", "X-Do: v1 503", "X-Do: v1 after="+after) })
			if d > 900*time.Millisecond {
				slow++
			}
			if d > 900*time.Millisecond && after == "100" || d > 5*time.Second {
				t.Errorf("Retry-After: %s: an answer after %s", after, d)
			}
		}
	}
	if slow == 0 {
		t.Error("no retry waited for a second")
	}
}

// bare registers an instance of a service at an address where no sidecar is, and has it called in plain text.
func (l *Lab) bare(service, id, mode string, port int) {
	l.t.Helper()
	node := l.name("node-" + service + "-" + id)
	l.put("/v1/catalog/register", object{
		"Node": node, "Address": "127.0.0.1", "SkipNodeUpdate": false,
		"Service": object{
			"Kind": "connect-proxy", "ID": id, "Service": l.name(service) + "-sidecar-proxy", "Port": port,
			"Proxy": object{"DestinationServiceName": l.name(service), "DestinationServiceID": id, "LocalServicePort": port},
		},
	})
	l.t.Cleanup(func() { l.put("/v1/catalog/deregister", object{"Node": node}) })
	l.entry("service-defaults", service, object{"Protocol": "http", "MutualTLSMode": mode})
}

func endureRetriesMore(t *testing.T, w *World) {
	l := w.traffic(t)
	// An instance without a sidecar that resets: to the caller's sidecar that is a reset, and no answer of another one.
	l.bare("resetting", "one", "off", l.v1.port)
	retried := to("retried", "/retried", object{"Service": l.name("resetting"), "RetryOn": []string{"reset"}, "NumRetries": 2, "RetryBackOff": object{"Base": "1ms"}})
	l.routes(retried, to("once", "/", object{"Service": l.name("resetting")}))
	l.comes("GET", "/", byRoute("once"))
	for path, tries := range map[string]int64{"/retried": 3, "/once": 1} {
		before := l.v1.requests.Load()
		l.is(statusIs(503), "POST", path, "X-Do: * reset")
		if n := l.v1.requests.Load() - before; n != tries {
			t.Errorf("%s: tried %d times, want %d", path, n, tries)
		}
	}
	conn, err := dialGRPC(l.calls)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	l.entry("service-router", "calls", object{"Routes": []object{{
		"Match":       http1(object{"PathPrefix": "/"}),
		"Destination": object{"RetryOn": []string{"unavailable"}, "NumRetries": 3, "RetryBackOff": object{"Base": "1ms"}},
	}}})
	until(t, callWithin, func() error { // the application fails twice in three calls
		ctx, cancel := context.WithTimeout(t.Context(), callWithin)
		defer cancel()
		for range 5 {
			if err := conn.Invoke(ctx, "/weft.e2e.Echo/Flaky", wrapperspb.String("x"), &wrapperspb.StringValue{}); err != nil {
				return err
			}
		}
		return nil
	})
}

// atOnce makes n calls at the same time, and counts the answers' statuses and reasons.
func (l *Lab) atOnce(n int, path string, headers ...string) map[string]int {
	l.t.Helper()
	var wg sync.WaitGroup
	var mu sync.Mutex
	count := map[string]int{}
	for range n {
		wg.Go(func() {
			g, err := l.call("GET", path, headers...)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				l.t.Error(err)
			}
			count[strings.TrimSpace(fmt.Sprint(g.Status, " ", g.Header.Get("X-Weft-Reason")))]++
		})
	}
	wg.Wait()
	return count
}

func endureLimits(t *testing.T, w *World) {
	l := w.traffic(t)
	l.subsets(object{"Limits": object{"MaxConcurrentRequests": 3}})
	l.routes(to("limits", "/", object{"ServiceSubset": "v2"}))
	l.comes("GET", "/", byRoute("limits"))
	l.v2.top.Store(0)
	got := l.atOnce(20, "/", "X-Do: * sleep=500ms")
	if got["503 upstream_overflow"] == 0 || got["200"] < 3 || l.v2.top.Load() > 3 {
		t.Errorf("%v, at most %d at once; want three at a time, and overflow for others", got, l.v2.top.Load())
	}
	l.subsets(object{"Limits": object{"MaxConcurrentRetries": 1}})
	l.routes(to("retries", "/", object{"ServiceSubset": "v2", "RetryOn": []string{"5xx"}, "NumRetries": 1, "RetryBackOff": object{"Base": "1ms"}}))
	l.comes("GET", "/", byRoute("retries"))
	before := l.v2.requests.Load()
	l.atOnce(20, "/", "X-Do: * sleep=300ms", "X-Do: * 503")
	if n := l.v2.requests.Load() - before; n < 21 || n > 26 {
		t.Errorf("20 calls that fail became %d, want one retry at a time", n)
	}
}

// outlier makes one service's only instance be ejected, and wants that to show.
func (l *Lab) ejects(service string, check object, header string, before string) {
	l.t.Helper()
	check["MaxEjectionPercent"], check["BaseEjectionTime"], check["Interval"] = 100, "60s", "1s"
	l.entry("service-resolver", service, object{"PassiveHealthCheck": check})
	l.routes(to(service, "/", object{"Service": l.name(service)}))
	until(l.t, 2*callWithin, func() error {
		g, err := l.call("GET", "/", header)
		if err != nil {
			return err
		}
		if have := strings.TrimSpace(fmt.Sprint(g.Status, " ", g.Header.Get("X-Weft-Reason"))); have != before && have != "503 no_healthy_upstream" {
			l.t.Logf("%s: %s", service, have)
		}
		return because("no_healthy_upstream")(g)
	})
}

func endureOutlierKinds(t *testing.T, w *World) {
	l := w.traffic(t)
	l.bare("gateway", "one", "off", l.v1.port)
	l.ejects("gateway", object{"MaxGatewayFailures": 3}, "X-Do: * 503", "503")
	l.bare("other", "one", "off", l.v1b.port)
	l.entry("service-resolver", "other", object{"PassiveHealthCheck": object{"MaxGatewayFailures": 3, "MaxEjectionPercent": 100, "BaseEjectionTime": "60s"}})
	l.routes(to("other", "/", object{"Service": l.name("other")}))
	l.comes("GET", "/", byRoute("other"))
	for range 8 { // no gateway's failure
		l.is(statusIs(500), "GET", "/", "X-Do: * 500")
	}
	l.bare("nowhere", "one", "strict", mustPort(t))
	l.ejects("nowhere", object{"MaxLocalFailures": 3}, "x: y", "503 upstream_connect_failure")
}

func endureOutlierRates(t *testing.T, w *World) {
	for name, check := range map[string]object{
		"success rate":       {"SuccessRate": object{"MinimumHosts": 3, "RequestVolume": 5, "Deviation": 1.0}},
		"failure percentage": {"FailurePercentage": object{"MinimumHosts": 3, "RequestVolume": 5, "Threshold": 60}},
	} {
		t.Run(name, func(t *testing.T) {
			l := w.traffic(t)
			check["MaxEjectionPercent"], check["BaseEjectionTime"], check["Interval"] = 50, "60s", "1s"
			l.balancer(name, object{}, object{"PassiveHealthCheck": check})
			l.v1.always(t, "500")
			until(t, 2*callWithin, func() error {
				got := l.counts(30)
				if got["500"] > 0 {
					return fmt.Errorf("%v, want the failing one left out", got)
				}
				if got["v1b"] == 0 || got["v2"] == 0 {
					return fmt.Errorf("%v, want the others to stay", got)
				}
				return nil
			})
		})
	}
}

// endureOutlierStatuses: the statuses that are named count and no others, and one of three is left out although that is more than 10 %.
func endureOutlierStatuses(t *testing.T, w *World) {
	l := w.traffic(t)
	l.balancer("statuses", object{}, object{"PassiveHealthCheck": object{
		"MaxFailures": 3, "FailureStatusCodes": []int{429, 418}, "AlwaysEjectOne": true, "BaseEjectionTime": "60s", "EjectionJitter": "1s", "Interval": "1s",
	}})
	for range 3 { // none of those
		if got := l.counts(12, "X-Do: v1 500"); got["500"] == 0 {
			t.Fatalf("%v, want v1 to stay: 500 isn't counted", got)
		}
	}
	until(t, callWithin, func() error {
		got := l.counts(12, "X-Do: v1 429")
		if got["429"] > 0 {
			return fmt.Errorf("%v, want the one that answers 429 left out", got)
		}
		return nil
	})
	l.counts(12, "X-Do: v1b 418") // it would be the second
	if got := l.counts(12, "X-Do: v1b 418"); got["418"] == 0 {
		t.Errorf("%v, want no second one left out", got)
	}
}

func endureProbation(t *testing.T, w *World) {
	l := w.traffic(t)
	l.balancer("probation", object{}, object{"PassiveHealthCheck": object{
		"MaxFailures": 2, "EnforcingConsecutive5xx": 100, "MaxEjectionPercent": 50, "BaseEjectionTime": "2s", "Interval": "1s", "Probation": true,
	}})
	until(t, callWithin, func() error {
		l.counts(12, "X-Do: v1 500")
		if got := l.counts(12, "X-Do: v1 500"); got["500"] > 0 {
			return errors.New("v1 isn't ejected")
		}
		return nil
	})
	if w.Kind == Envoy {
		return
	}
	l.v1.top.Store(0)
	until(t, 3*callWithin, func() error { // it comes back slowly: many calls at once, and one of them at a time for it
		l.atOnce(12, "/", "X-Do: v1 sleep=700ms", "X-Do: v1 500")
		if l.v1.top.Load() == 0 {
			return errors.New("v1 is still out")
		}
		return nil
	})
	if n := l.v1.top.Load(); n != 1 {
		t.Errorf("%d calls at once on probation, want 1", n)
	}
	until(t, 3*callWithin, func() error {
		if got := l.counts(30); got["v1"] < 8 {
			return fmt.Errorf("%v, want its share for v1 after it has succeeded", got)
		}
		return nil
	})
}

func endureFallback(t *testing.T, w *World) {
	l := w.traffic(t)
	l.entry("service-defaults", "nobody", object{"Protocol": "http"})
	l.entry("service-resolver", "api", object{"Fallback": object{"Status": 203, "Body": "come back later"}})
	l.routes(to("nobody", "/nobody", object{"Service": l.name("nobody")}), to("late", "/late", object{"RequestTimeout": "300ms"}), to("well", "/", object{}))
	l.comes("GET", "/", byRoute("well"))
	fallback := func(reason string) func(got) error {
		return func(g got) error {
			if g.Status != 203 || !strings.Contains(g.Body, "come back later") {
				return fmt.Errorf("%d %q, want the fallback", g.Status, g.Body)
			}
			return because(reason)(g)
		}
	}
	l.comes("GET", "/nobody", fallback("no_healthy_upstream"))
	l.is(fallback("upstream_timeout"), "GET", "/late", "X-Do: * sleep=3s")
	l.is(statusIs(500), "GET", "/", "X-Do: * 500") // an instance has answered
	l.is(statusIs(200), "GET", "/")
	// The fallback stands in the listener, which Envoy replaces by cutting connections: that is over before the next row's calls.
	l.entry("service-resolver", "api", object{})
	l.comes("GET", "/nobody", statusIs(503))
}

func endureAdaptive(t *testing.T, w *World) {
	l := w.traffic(t)
	l.defaults("api", "http", object{"AdaptiveConcurrency": object{"MaxConcurrency": 20, "BaselineRequests": 20}})
	until(t, 2*callWithin, func() error {
		got := l.atOnce(60, "/", "X-Do: * sleep=200ms")
		if got["503 overloaded"] == 0 || got["200"] == 0 {
			return fmt.Errorf("%v, want some refused as overloaded", got)
		}
		return nil
	})
	if got := l.counts(30); got["v1"]+got["v1b"]+got["v2"] != 30 {
		t.Errorf("%v, want no call refused that is alone", got)
	}
}
