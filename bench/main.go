// SPDX-License-Identifier: Apache-2.0

// Command bench measures a small mesh of real processes on this machine: how soon an intention holds, how soon a registration is
// seen by a remote proxy, what memory each process takes, and whether a request is lost or doubled while certificates,
// agents and endpoints change. It asserts nothing: it prints figures. Run it as: go run ./bench -what flips -kind envoy.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"time"
)

func main() {
	what := flag.String("what", "flips", "flips, registration, memory or soak")
	kind := flag.String("kind", "builtin", "builtin, host or envoy")
	protocol := flag.String("protocol", "http", "http or tcp (flips)")
	weft := flag.String("weft", "bin/weft", "the weft binary")
	envoy := flag.String("envoy", ".cache/envoy/1.40.0/bin/envoy", "the Envoy binary")
	n := flag.Int("n", 1000, "flips, registrations or requests")
	var d disturbances
	flag.IntVar(&d.rotations, "rotations", 50, "of the CA's root, and with it of every leaf, during the soak")
	flag.IntVar(&d.restarts, "restarts", 20, "of the agent, by kill -9, during the soak")
	flag.IntVar(&d.changes, "changes", 100, "of endpoints during the soak")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := measure(ctx, *what, *kind, *protocol, *weft, *envoy, *n, d); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func measure(ctx context.Context, what, kind, protocol, weft, envoy string, n int, d disturbances) error {
	m, err := newMesh(ctx, kind, protocol, weft, envoy)
	if err != nil {
		return err
	}
	defer m.close()
	switch what {
	case "flips":
		return m.flips(ctx, n)
	case "registration":
		return m.registrations(ctx, n)
	case "memory":
		return m.memory(ctx)
	case "soak":
		return m.soak(ctx, n, d)
	}
	return fmt.Errorf("-what %q: want flips, registration, memory or soak", what)
}

// summary is the middle and the tail of a sample.
func summary(what string, d []time.Duration) {
	if len(d) == 0 {
		return
	}
	slices.Sort(d)
	at := func(q float64) time.Duration {
		return d[min(len(d)-1, int(q*float64(len(d))))].Round(10 * time.Microsecond)
	}
	fmt.Printf("%-34s n=%d  p50 %v  p99 %v  max %v\n", what, len(d), at(0.50), at(0.99), at(1))
}
