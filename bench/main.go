// SPDX-License-Identifier: Apache-2.0

// Command bench measures a small mesh of real processes on this machine: how soon an intention holds, how soon a registration is
// seen by a remote proxy, how soon a deleted token is refused, what memory each process takes, and whether a request is lost or doubled while certificates,
// agents and endpoints change; and what servers and agents cost, beside Consul's. It asserts nothing: it prints figures. Run it as: go run ./bench -what flips -kind envoy.
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
	what := flag.String("what", "flips", "flips, registration, memory, soak, race, revocation or cluster")
	kind := flag.String("kind", "builtin", "builtin, host or envoy")
	protocol := flag.String("protocol", "http", "http or tcp (flips)")
	level := flag.String("log-level", "info", "of the built-in sidecars; debug says why each request failed; BENCH_KEEP=1 keeps the logs")
	weft := flag.String("weft", "bin/weft", "the weft binary")
	envoy := flag.String("envoy", ".cache/envoy/1.40.0/bin/envoy", "the Envoy binary")
	n := flag.Int("n", 1000, "flips, registrations or requests")
	var d disturbances
	flag.IntVar(&d.rotations, "rotations", 50, "of the CA's root, and with it of every leaf, during the soak")
	flag.IntVar(&d.restarts, "restarts", 20, "of the agent, by kill -9, during the soak")
	flag.IntVar(&d.changes, "changes", 100, "of endpoints during the soak")
	var r raceConfig
	flag.IntVar(&r.rounds, "rounds", 5, "of the race")
	flag.DurationVar(&r.seconds, "seconds", 1500*time.Millisecond, "how long each load of the race is measured")
	flag.StringVar(&r.only, "only", "", "the race's works, by name or beginning of a name, separated by commas")
	flag.StringVar(&r.who, "who", "", "the race's contenders, separated by commas")
	flag.BoolVar(&r.features, "features", false, "race with all of features.json on")
	flag.StringVar(&r.out, "out", "bench/results", "where the race's table, figures and plot go")
	var c clusterConfig
	flag.StringVar(&c.consul, "consul", "", "a Consul binary to be measured beside (cluster)")
	flag.StringVar(&c.only, "rows", "", "rows of the cluster's table, by number, separated by commas; all without it")
	flag.DurationVar(&c.seconds, "for", 4*time.Second, "how long each load of the cluster's table takes")
	flag.IntVar(&c.subscribers, "subscribers", 5000, "of the feed")
	flag.IntVar(&c.gossip, "gossip", 0, "nodes of the gossip row, which takes a minute for 40; 0: left out")
	flag.StringVar(&c.profile, "profile", "", "a folder for profiles of the servers: of their processor time over -for, and of memory (cluster)")
	side := flag.String("relay", "", "be one side of the bare relay, in or out (the race starts it)")
	from := flag.String("from", "", "where the relay listens")
	to := flag.String("to", "", "where the relay dials")
	pki := flag.String("pki", "", "the relay's certificates")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if *side != "" {
		if err := relay(ctx, *side, *from, *to, *pki); err != nil {
			fmt.Fprintln(os.Stderr, "relay:", err)
			os.Exit(1)
		}
		return
	}
	if *what == "revocation" {
		if err := revocation(ctx, *weft, *n); err != nil {
			fmt.Fprintln(os.Stderr, "revocation:", err)
			os.Exit(1)
		}
		return
	}
	if *what == "race" {
		r.weft, r.envoy = *weft, *envoy
		if err := race(ctx, r); err != nil {
			fmt.Fprintln(os.Stderr, "race:", err)
			os.Exit(1)
		}
		return
	}
	if *what == "cluster" {
		c.weft = *weft
		if err := clusterTable(ctx, c); err != nil {
			fmt.Fprintln(os.Stderr, "figures:", err)
			os.Exit(1)
		}
		return
	}
	if err := measure(ctx, *what, *kind, *protocol, *level, *weft, *envoy, *n, d); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func measure(ctx context.Context, what, kind, protocol, level, weft, envoy string, n int, d disturbances) error {
	m, err := newMesh(ctx, kind, protocol, level, weft, envoy)
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
