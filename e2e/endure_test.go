// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

var endureRows = []Row{
	{Name: "endure timeouts", Run: endureTimeouts},
	{Name: "endure retries", Run: endureRetries},
	{Name: "endure retry budget", Run: endureBudget},
	{Name: "break delay and abort", Run: breakAbort},
	{Name: "break grpc", Run: breakGRPC},
	{Name: "break reset", Run: breakReset, Differs: map[Kind]string{Envoy: "Envoy can't reset a caller by a fault: it answers 503, and the agent warns"}},
	{Name: "break bandwidth", Run: breakBandwidth},
	{Name: "break until", Run: breakUntil},
}

func took(f func()) time.Duration {
	began := time.Now()
	f()
	return time.Since(began)
}

func endureTimeouts(t *testing.T, w *World) {
	l := w.traffic(t)
	l.routes(
		to("request", "/request", object{"RequestTimeout": "300ms"}),
		to("try", "/try", object{"RequestTimeout": "10s", "PerTryTimeout": "300ms", "RetryOnStatusCodes": []int{599}}),
		to("idle", "/idle", object{"RequestTimeout": "10s", "IdleTimeout": "300ms"}),
		to("stream", "/stream", object{"RequestTimeout": "10s", "MaxStreamDuration": "300ms"}),
	)
	l.comes("GET", "/stream", byRoute("stream"))
	l.is(because("upstream_timeout"), "GET", "/request", "X-Do: * sleep=3s")
	for _, name := range []string{"request", "try", "idle", "stream"} {
		d := took(func() { l.is(statusIs(http.StatusGatewayTimeout), "GET", "/"+name, "X-Do: * sleep=3s") })
		if d < 250*time.Millisecond || d > 2*time.Second {
			t.Errorf("%s took %s, want about 300 ms", name, d)
		}
	}
}

func endureRetries(t *testing.T, w *World) {
	l := w.traffic(t)
	l.subsets(nil)
	retry := func(name string, fields object) object {
		fields["NumRetries"], fields["ServiceSubset"] = 4, "v1"
		fields["RetryBackOff"] = object{"Base": "5ms", "Max": "20ms"}
		return to(name, "/"+name, fields)
	}
	l.routes(
		retry("status", object{"RetryOnStatusCodes": []int{418}, "RetryOtherHost": true}),
		retry("5xx", object{"RetryOn": []string{"5xx"}}),
		retry("methods", object{"RetryOn": []string{"5xx"}, "RetryMethods": []string{"GET", "put"}}),
		retry("small", object{"RetryOn": []string{"5xx"}, "RetryBodyBytes": 1000}),
		to("safe", "/safe", object{"ServiceSubset": "v1"}),
	)
	l.comes("GET", "/safe", byRoute("safe"))
	total := func() int64 { return l.v1.requests.Load() + l.v1b.requests.Load() }
	// One of the two fails: with retries nobody sees it.
	for _, c := range []struct{ path, do string }{{"/status", "v1 418"}, {"/5xx", "v1 503"}} {
		for range 10 {
			g, err := callAt(l.api, "POST", c.path, "some body", "X-Do: "+c.do)
			if err != nil || g.Status != http.StatusOK || g.Seen.Body != "some body" {
				t.Fatalf("%s: %d %q %v", c.path, g.Status, g.Seen.Body, err)
			}
		}
	}
	// Both fail: as often as it says, and never what may have been done where nobody asked for it.
	for _, c := range []struct {
		method, path, do, body string
		tries                  int64
	}{
		{"GET", "/5xx", "* 503", "", 5}, {"POST", "/methods", "* 503", "", 1}, {"PUT", "/methods", "* 503", "", 5},
		{"POST", "/safe", "* 503", "", 1}, {"POST", "/safe", "* reset", "", 1},
		{"POST", "/small", "* 503", strings.Repeat("x", 100), 5}, {"POST", "/small", "* 503", strings.Repeat("x", 100_000), 1},
	} {
		before := total()
		g, err := callAt(l.api, c.method, c.path, c.body, "X-Do: "+c.do)
		if err != nil || g.Status != http.StatusServiceUnavailable {
			t.Errorf("%v: %d %v", c, g.Status, err)
		}
		if n := total() - before; n != c.tries {
			t.Errorf("%s %s with %d bytes, all failing (%s): tried %d times, want %d", c.method, c.path, len(c.body), c.do, n, c.tries)
		}
	}
}

// endureBudget: everything fails, and the retries stay a fifth of the requests, and of those before that needed none: these leave weft's
// own proxy at most a hundred.
func endureBudget(t *testing.T, w *World) {
	l := w.traffic(t)
	l.routes(to("budget", "/", object{"RetryOn": []string{"5xx"}, "NumRetries": 3, "RetryBackOff": object{"Base": "1ms", "Max": "1ms"}}))
	l.comes("GET", "/", byRoute("budget"))
	before := l.v1.requests.Load() + l.v1b.requests.Load() + l.v2.requests.Load()
	const clients, each, left = 60, 100, 100
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			for range each {
				if _, err := l.call("GET", "/", "X-Do: * 503", "X-Do: * sleep=10ms"); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	sent := l.v1.requests.Load() + l.v1b.requests.Load() + l.v2.requests.Load() - before
	more := float64(sent) / (clients * each)
	t.Logf("amplification %.3f", more)
	if more > 1.2+float64(left)/(clients*each) || more < 1.005 {
		t.Errorf("%d requests became %d, want at most 1.2 times as many and %d, and some", clients*each, sent, left)
	}
}

func breakAbort(t *testing.T, w *World) {
	l := w.traffic(t)
	l.routes(
		to("delay", "/delay", object{"Fault": object{"Delay": object{"Duration": "400ms"}}}),
		to("abort", "/abort", object{"Fault": object{"Abort": object{"Status": 418}, "Header": []object{{"Name": "x-break", "Exact": "yes"}}}}),
		to("half", "/half", object{"Fault": object{"Abort": object{"Status": 418, "Percent": 50}}}),
	)
	l.comes("GET", "/abort", byRoute("abort"))
	if d := took(func() { l.is(statusIs(200), "GET", "/delay") }); d < 350*time.Millisecond {
		t.Errorf("delayed by %s, want 400 ms", d)
	}
	l.is(statusIs(418), "GET", "/abort", "x-break: yes")
	l.is(because("fault_injected"), "GET", "/abort", "x-break: yes")
	l.is(statusIs(200), "GET", "/abort")
	n := 0
	for range 200 {
		g, err := l.call("GET", "/half")
		if err != nil {
			t.Fatal(err)
		}
		if g.Status == 418 {
			n++
		}
	}
	if n < 70 || n > 130 {
		t.Errorf("%d of 200 aborted, want about half", n)
	}
}

func breakGRPC(t *testing.T, w *World) {
	l := w.traffic(t)
	l.entry("service-router", "calls", object{"Routes": []object{
		{"Match": http1(object{"PathPrefix": "/"}), "Destination": object{"Fault": object{"Abort": object{"GRPCStatus": 8}}}},
	}})
	conn, err := dialGRPC(l.calls)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	until(t, callWithin, func() error {
		ctx, cancel := context.WithTimeout(t.Context(), callWithin)
		defer cancel()
		err := conn.Invoke(ctx, "/weft.e2e.Echo/Unary", wrapperspb.String("x"), &wrapperspb.StringValue{})
		if status.Code(err) != codes.ResourceExhausted {
			return fmt.Errorf("%w, want ResourceExhausted", err)
		}
		return nil
	})
}

func breakReset(t *testing.T, w *World) {
	l := w.traffic(t)
	l.routes(to("reset", "/reset", object{"Fault": object{"Abort": object{"Reset": true}}}))
	until(t, callWithin, func() error {
		g, err := l.call("GET", "/reset")
		if w.Kind == Envoy && err == nil && g.Status == http.StatusServiceUnavailable {
			return nil
		}
		if w.Kind == Envoy || err == nil {
			return fmt.Errorf("%d %w", g.Status, err)
		}
		return nil
	})
}

func breakBandwidth(t *testing.T, w *World) {
	l := w.traffic(t)
	l.routes(to("slow", "/slow", object{"Fault": object{"Bandwidth": object{"KiBPerSecond": 64}}}), to("fast", "/", object{}))
	l.comes("GET", "/", byRoute("fast"))
	body := strings.Repeat("x", 64<<10)
	d := took(func() {
		g, err := callAt(l.api, "POST", "/slow", body)
		if err != nil || len(g.Seen.Body) != len(body) {
			t.Errorf("%d of %d bytes, %v", len(g.Seen.Body), len(body), err)
		}
	})
	if d < 700*time.Millisecond || d > 5*time.Second {
		t.Errorf("64 KiB at 64 KiB/s took %s", d)
	}
}

func breakUntil(t *testing.T, w *World) {
	l := w.traffic(t)
	end := time.Now().Add(3 * time.Second)
	l.routes(to("until", "/", object{"Fault": object{"Until": end.UTC().Format(time.RFC3339Nano), "Abort": object{"Status": 418}}}))
	l.comes("GET", "/", statusIs(418))
	until(t, 6*time.Second, func() error {
		g, err := l.call("GET", "/")
		if err != nil {
			return err
		}
		return statusIs(200)(g)
	})
	if early := time.Until(end); early > 200*time.Millisecond {
		t.Errorf("it ended %s before its time", early)
	}
}
