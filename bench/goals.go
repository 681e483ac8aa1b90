// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"
)

// addLatency gives each open-loop work's contenders what they add to the latency of no proxy in the same round.
func addLatency(results map[string]map[string][]figures) {
	for name, by := range results {
		if !strings.Contains(name, " at ") {
			continue
		}
		bare := by["none"]
		for who, rounds := range by {
			for i, f := range rounds {
				if who == "none" || i >= len(bare) || len(f) == 0 || len(bare[i]) == 0 {
					continue
				}
				for _, q := range []string{"p50 µs", "p99 µs", "p99.9 µs"} {
					f["added "+q] = f[q] - bare[i][q]
				}
			}
		}
	}
}

// goal is a bound on a figure of weft's proxy: its own, or its share of another contender's.
type goal struct {
	what, work, figure string
	of                 string // the other contender; "" for the figure itself
	bound              float64
	least              bool // the bound is the least that is wanted, not the most
}

// What the proxy is meant to reach with all features on.
var wanted = []goal{
	{"CPU per request, HTTP/1.1, of Envoy's", "http 1 KB x64", "CPU µs", "envoy", 0.4, false},
	{"the same, of a bare relay's", "http 1 KB x64", "CPU µs", "relay", 1.5, false},
	{"CPU per request, HTTP/2, of Envoy's", "http2 1 KB x64", "CPU µs", "envoy", 0.5, false},
	{"CPU per request, gRPC unary, of Envoy's", "grpc unary 1 KB x64", "CPU µs", "envoy", 0.5, false},
	{"requests/s at saturation, HTTP/1.1, of Envoy's", "http 1 KB x64", "per second", "envoy", 2.2, true},
	{"added p50 at 1,000/s, of Envoy's", "http at 1000/s", "added p50 µs", "envoy", 0.4, false},
	{"added p99 at 1,000/s, of Envoy's", "http at 1000/s", "added p99 µs", "envoy", 0.5, false},
	{"CPU of 1 KB and its answer over TCP, of Envoy's", "tcp 1 KB x64", "CPU µs", "envoy", 1, false},
	{"the same, µs: 1.2 of ztunnel's 36", "tcp 1 KB x64", "CPU µs", "", 1.2 * 36, false},
	{"TCP bulk, MB/s, of Envoy's", "tcp bulk x4", "per second", "envoy", 1, true},
	{"new connections/s, full handshakes, of Envoy's", "tcp new connections", "per second", "envoy", 0.6, true},
	{"a sidecar's anonymous memory idle, MB", "memory plain side", "idle anonymous MB", "", 8, false},
	{"the same with 64 busy connections, MB", "memory plain side", "64 busy anonymous MB", "", 16, false},
	{"10,000 idle connections in plain text, MB", "memory plain side", fmt.Sprintf("%d idle connections anonymous MB", manyConnections), "", 60, false},
	{"10,000 idle connections with mutual TLS, MB", "memory mTLS side", fmt.Sprintf("%d idle connections anonymous MB", manyConnections), "", 200, false},
}

// goals is a table of what was wanted and what came.
func goals(results map[string]map[string][]figures) string {
	var b strings.Builder
	b.WriteString("| goal | wanted | built-in proxy | |\n|---|---|---|---|\n")
	for _, g := range wanted {
		got, _, _ := middle(column(results[g.work]["builtin"], g.figure))
		if g.of != "" {
			other, _, _ := middle(column(results[g.work][g.of], g.figure))
			if other == 0 {
				continue
			}
			got /= other
		}
		if got == 0 {
			continue
		}
		sign, ok := "≤", got <= g.bound
		if g.least {
			sign, ok = "≥", got >= g.bound
		}
		verdict := "reached"
		if !ok {
			verdict = "missed"
		}
		fmt.Fprintf(&b, "| %s | %s %.3g | %.3g | %s |\n", g.what, sign, g.bound, got, verdict)
	}
	return b.String() + "\n"
}
