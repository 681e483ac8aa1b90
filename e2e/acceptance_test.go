// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"io"
	"net/http"
	"os"
	"sync"
	"testing"
	"time"
)

var acceptanceRows = []Row{{
	Name: "tester to v2 else ninety to ten with limits and ejection", Run: acceptance,
	Differs: map[Kind]string{Host: "a host proxy has no admin page of its own for one service: connections aren't counted there"},
}}

// sixtieth shortens the times of the acceptance input; WEFT_E2E_VERBATIM leaves them as they are.
func sixtieth(d time.Duration) time.Duration {
	if os.Getenv("WEFT_E2E_VERBATIM") != "" {
		return d
	}
	return d / 60
}

// acceptance is Istio's words: the header user exactly tester to v2, all others 90 to 10; 100 connections, 1 pending request, 2
// requests on a connection; ejection for 15 minutes after 7 errors in a row, looked at every 5 minutes; mutual TLS strict.
func acceptance(t *testing.T, w *World) {
	l := w.traffic(t)
	base := sixtieth(15 * time.Minute)
	l.subsets(object{
		"Limits": object{"MaxConnections": 100, "MaxPendingRequests": 1, "MaxRequestsPerConnection": 2},
		"PassiveHealthCheck": object{
			"MaxFailures": 7, "EnforcingConsecutive5xx": 100, "MaxEjectionPercent": 50,
			"BaseEjectionTime": base.String(), "Interval": sixtieth(5 * time.Minute).String(),
		},
	})
	l.entry("service-splitter", "api", object{"Splits": []object{{"Weight": 90, "ServiceSubset": "v1"}, {"Weight": 10, "ServiceSubset": "v2"}}})
	l.routes(object{
		"Match":       http1(object{"Header": []object{{"Name": "user", "Exact": "tester"}}}),
		"Destination": object{"ServiceSubset": "v2", "ResponseHeaders": object{"Set": object{route: "tester"}}},
	})
	l.comes("GET", "/", byRoute("tester"), "user: tester")
	shares(l)
	perConnection(l)
	pending(l)
	ejected(l, base)
	strict(l)
}

func shares(l *Lab) {
	l.t.Helper()
	count := map[string]int{}
	const n = 3000
	for i := range n {
		headers := []string{"user: testers"}
		if i%10 == 0 {
			headers = []string{"user: tester"}
		}
		g, err := l.call("GET", "/", headers...)
		if err != nil || g.Status != http.StatusOK {
			l.t.Fatalf("%d %s%s, %v", g.Status, g.Body, g.Header.Get("X-Weft-Reason"), err)
		}
		if i%10 == 0 {
			if g.Seen.Backend != "v2" {
				l.t.Fatalf("the tester came to %s", g.Seen.Backend)
			}
			continue
		}
		count[g.Seen.Backend]++
	}
	v2 := float64(count["v2"]) / (n * 0.9)
	if v2 < 0.08 || v2 > 0.12 || count["v1"] == 0 || count["v1b"] == 0 {
		l.t.Errorf("%v, want a tenth at v2", count)
	}
}

// perConnection counts the connections that web's sidecar makes for some requests.
func perConnection(l *Lab) {
	l.t.Helper()
	if l.web.sidecar == nil {
		return
	}
	before := l.connections()
	for range 20 {
		l.is(statusIs(200), "GET", "/", "user: tester")
	}
	if n := l.connections() - before; n < 9 || n > 11 {
		l.t.Errorf("%d connections for 20 requests, want 10", n)
	}
}

func (l *Lab) connections() int {
	l.t.Helper()
	path, name, holds := "/metrics", "weft_proxy_connections_total{", l.name("api")
	if l.w.Kind == Envoy {
		path, name, holds = "/stats?filter=upstream_cx_total", "cluster.v2."+l.name("api"), "upstream_cx_total"
	}
	n, err := metric("http://"+l.web.admin+path, name, holds)
	if err != nil {
		l.t.Fatal(err)
	}
	return n
}

// pending lets more requests come at once than there may be connections: some are refused, and never is more at the backends
// than the connections allow.
func pending(l *Lab) {
	l.t.Helper()
	var wg sync.WaitGroup
	var mu sync.Mutex
	count := map[int]int{}
	for range 200 {
		wg.Go(func() {
			g, err := l.call("GET", "/", "user: tester", "X-Do: * sleep=1s")
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				l.t.Error(err)
			}
			count[g.Status]++
		})
	}
	wg.Wait()
	if count[200] == 0 || count[503] < 40 || count[200]+count[503] != 200 || l.v2.top.Load() > 100 {
		l.t.Errorf("answers %v, at most %d at once; want some 200, 503 for the rest, and at most 100", count, l.v2.top.Load())
	}
}

// ejected makes one of v1's two fail.
func ejected(l *Lab, base time.Duration) {
	l.t.Helper()
	var out time.Time
	failures := 0
	until(l.t, 5*time.Second, func() error {
		for range 40 {
			g, err := l.call("GET", "/", "X-Do: v1 500")
			if err != nil {
				return err
			}
			if g.Status == http.StatusInternalServerError {
				failures++
				out = time.Now()
			}
		}
		if time.Since(out) < 100*time.Millisecond && failures < 200 {
			return errors.New("v1 still gets requests")
		}
		return nil
	})
	if failures < 7 || failures > 9 {
		l.t.Errorf("ejected after %d failures, want 7", failures)
	}
	took := until(l.t, 2*base+5*time.Second, func() error {
		g, err := l.call("GET", "/")
		if err == nil && g.Seen.Backend != "v1" {
			err = errors.New("v1 is still out")
		}
		return err
	})
	if back := time.Since(out); back < base-time.Second || back > base+base/2+3*time.Second {
		l.t.Errorf("back after %s, want about %s", back, base)
	}
	l.t.Logf("out after %d failures, back after %s", failures, took.Round(time.Millisecond))
}

// strict: nothing without mutual TLS comes to an instance.
func strict(l *Lab) {
	l.t.Helper()
	for _, i := range []*Instance{l.raw1, l.raw2} {
		conn, err := dialTCP(loopback(i.Public))
		if err != nil {
			continue
		}
		_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		if data, _ := io.ReadAll(conn); len(data) > 0 && (data[0] == '1' || data[0] == '2') { // the applications' greeting
			l.t.Errorf("plain text comes to the application: %.40q", data)
		}
		_ = conn.Close()
	}
}
