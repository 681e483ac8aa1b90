// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// work is one kind of load of the race.
type work struct {
	name     string
	protocol string
	load     load
	// idle: nothing is sent for long; connections that served one request are kept, and memory is read.
	idle bool
}

func works(seconds time.Duration) []work {
	closed := func(d dialer, conns int) load {
		return load{dial: d, conns: conns, warm: seconds / 3, measure: seconds}
	}
	open := func(rate float64) load {
		return load{dial: dialHTTP1("", 0, len(kilobyte)), conns: 64, rate: rate, warm: seconds / 3, measure: seconds}
	}
	one := dialHTTP1("", 0, len(kilobyte))
	return []work{
		{"http 1 KB x64", "http", closed(one, 64), false},
		{"http 1 KB x1000", "http", closed(one, 1000), false},
		{"http POST 1 KB x64", "http", closed(dialHTTP1("", len(kilobyte), len(kilobyte)), 64), false},
		{"http 1 MB answers x16", "http", closed(dialHTTP1("?large", 0, len(megabyte)), 16), false},
		{"http 1 MB requests x16", "http", closed(dialHTTP1("", len(megabyte), len(kilobyte)), 16), false},
		{"http at 1000/s", "http", open(1000), false},
		{"http at 5000/s", "http", open(5000), false},
		{"http2 1 KB x64", "http2", closed(dialHTTP2, 64), false},
		{"http2 1 KB x1000", "http2", closed(dialHTTP2, 1000), false},
		{"grpc unary 1 KB x64", "grpc", closed(dialGRPC(false), 64), false},
		{"grpc streams 1 KB x64", "grpc", closed(dialGRPC(true), 64), false},
		{"tcp 1 KB x64", "tcp", closed(dialTCP(false), 64), false},
		{"tcp bulk x4", "tcp", closed(dialTCP(true), 4), false},
		{"tcp new connections", "tcp", closed(dialFresh(dialTCP(false)), 16), false},
		{"memory plain side", "http", load{dial: one, conns: manyConnections}, true},
		{"memory HTTP/2 side", "http2", load{dial: dialHTTP2, conns: manyConnections}, true},
		{"memory mTLS side", "tcp", load{dial: dialTCP(false), conns: manyConnections}, true},
	}
}

// memoryRounds are the rounds in which memory is read.
const memoryRounds = 1

// memoryTime is how long reading it may take.
const memoryTime = 3 * time.Minute

// manyConnections are as many as a process that may have 20,000 files open can carry on both sides.
const manyConnections = 9000

// raceConfig is what of the race is run.
type raceConfig struct {
	rounds      int
	seconds     time.Duration
	only, who   string // parts of names, separated by commas; "" is all
	features    bool
	out         string
	weft, envoy string
}

// figures of one contender's work in one round, by name.
type figures map[string]float64

// race runs the works on the contenders, round by round, each contender in turn, and prints medians with their ranges.
func race(ctx context.Context, c raceConfig) error {
	dir, err := os.MkdirTemp("", "weft-race-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	k, err := newPKI(dir)
	if err != nil {
		return err
	}
	results := map[string]map[string][]figures{} // work → contender → a round's
	all := works(c.seconds)
	for round := range c.rounds {
		for _, protocol := range []string{"http", "http2", "grpc", "tcp"} {
			for _, who := range contenders {
				if !chosen(c.who, who.name) || !slices.Contains(who.protocols, protocol) || c.features && !who.features && !who.floor {
					continue
				}
				var todo []work
				for _, w := range all {
					if w.idle && round >= memoryRounds {
						continue // it takes long, and hardly varies
					}
					if w.protocol == protocol && chosen(c.only, w.name) && (!w.idle || who.memory) {
						todo = append(todo, w)
					}
				}
				if len(todo) == 0 {
					continue
				}
				fmt.Fprintf(os.Stderr, "round %d: %s, %s\n", round+1, who.name, protocol)
				got := map[string]figures{}
				for _, together := range apart(todo) {
					f, err := runContender(ctx, who, &course{protocol: protocol, features: c.features && who.features, weft: c.weft, envoy: c.envoy, dir: dir, pki: k}, together)
					var missing errNoProgram
					if errors.As(err, &missing) {
						fmt.Fprintln(os.Stderr, "left out:", err)
						break
					}
					if ctx.Err() != nil {
						return context.Cause(ctx)
					}
					if err != nil { // what it did before counts; the others go on
						fmt.Fprintf(os.Stderr, "round %d: %s: %v\n", round+1, who.name, err)
					}
					maps.Copy(got, f)
				}
				for name, f := range got {
					if results[name] == nil {
						results[name] = map[string][]figures{}
					}
					for len(results[name][who.name]) < round { // rounds in which it had no figure
						results[name][who.name] = append(results[name][who.name], figures{})
					}
					results[name][who.name] = append(results[name][who.name], f)
				}
			}
		}
		done := c
		done.rounds = round + 1
		if err := report(done, all, results); err != nil { // of an hour's work something is there if it breaks off
			return err
		}
	}
	return nil
}

// apart has memory read of processes that have done nothing else: what another work took isn't given back at once.
func apart(todo []work) (groups [][]work) {
	var others []work
	for _, w := range todo {
		if w.idle {
			groups = append(groups, []work{w})
		} else {
			others = append(others, w)
		}
	}
	if len(others) > 0 {
		groups = append(groups, others)
	}
	return groups
}

func chosen(list, name string) bool {
	if list == "" {
		return true
	}
	return slices.ContainsFunc(strings.Split(list, ","), func(part string) bool { return name == part || strings.HasPrefix(name, part+" ") })
}

func runContender(ctx context.Context, who contender, c *course, todo []work) (map[string]figures, error) {
	l, err := raceBackend(c.protocol)
	if err != nil {
		return nil, err
	}
	defer l.Close()
	if _, err := fmt.Sscanf(l.Addr().String(), "127.0.0.1:%d", &c.backend); err != nil {
		return nil, err
	}
	spans, err := collector()
	if err != nil {
		return nil, err
	}
	defer spans.Close()
	c.collector = spans.Addr().(*net.TCPAddr).Port
	r, err := who.start(ctx, c)
	if err != nil {
		return nil, err
	}
	defer r.close()
	if err := wait(ctx, time.Second); err != nil { // what starting costs isn't the first work's
		return nil, err
	}
	out := map[string]figures{}
	var failed error
	for _, w := range todo {
		f, err := runWork(ctx, w, r)
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("%s: %w", w.name, err))
			continue
		}
		out[w.name] = f
	}
	return out, failed
}

// enough calls for a figure: on a machine that has other work a contender may have had no turn.
const enough = 100

func runWork(ctx context.Context, w work, r *running) (figures, error) {
	if w.idle {
		return runMemory(ctx, w, r)
	}
	ctx, cancel := context.WithTimeout(ctx, w.load.warm+w.load.measure+30*time.Second)
	defer cancel()
	o, err := w.load.run(ctx, r.port, r.pids)
	if err != nil {
		return nil, err
	}
	if o.calls < enough {
		return nil, fmt.Errorf("%d calls in %v are too few to say anything", o.calls, o.took)
	}
	f := figures{
		"per second": float64(o.calls) / o.took.Seconds(),
		"p50 µs":     micros(o.latencies.at(0.5)), "p99 µs": micros(o.latencies.at(0.99)), "p99.9 µs": micros(o.latencies.at(0.999)),
	}
	if len(r.pids) > 0 {
		f["CPU µs"] = micros(o.cpu) / float64(max(o.calls, 1))
	}
	return f, nil
}

// runMemory reads what the processes take idle, with 64 busy connections, and with very many that served a request.
func runMemory(ctx context.Context, w work, r *running) (figures, error) {
	conns := w.load.conns
	if len(r.pids) == 1 { // both sides are one process, with the files of both
		conns /= 2
	}
	ctx, cancel := context.WithTimeout(ctx, memoryTime)
	defer cancel()
	f := figures{}
	read := func(when string) error {
		a, p, err := memoryOf(r.pids)
		f[when+" anonymous MB"], f[when+" PSS MB"] = a, p
		return err
	}
	if err := errors.Join(wait(ctx, 3*time.Second), read("idle")); err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	busy := make(chan error, 1)
	go func() {
		_, err := load{dial: w.load.dial, conns: 64, warm: time.Second, measure: 4 * time.Second}.run(ctx, r.port, r.pids)
		busy <- err
	}()
	if err := errors.Join(wait(ctx, 4*time.Second), read("64 busy"), <-busy); err != nil {
		return nil, err
	}
	for range conns {
		c, err := w.load.dial(ctx, r.port)
		if err != nil {
			return nil, err
		}
		defer c.Close()
		defer context.AfterFunc(ctx, func() { _ = c.Close() })() // who has no file left for it doesn't answer
		if err := c.call(); err != nil {
			return nil, err
		}
	}
	return f, errors.Join(wait(ctx, 10*time.Second), read(fmt.Sprintf("%d idle connections", conns)))
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// middle is the median with the range.
func middle(v []float64) (median, low, high float64) {
	if len(v) == 0 {
		return 0, 0, 0
	}
	slices.Sort(v)
	return v[len(v)/2], v[0], v[len(v)-1]
}

// report writes a table, the figures as JSON, and a plot.
func report(c raceConfig, all []work, results map[string]map[string][]figures) error {
	if err := os.MkdirAll(c.out, 0o755); err != nil {
		return err
	}
	data, err := json.MarshalIndent(results, "", "  ")
	if err != nil {
		return err
	}
	addLatency(results)
	name := "race-plain"
	if c.features {
		name = "race-features"
	}
	if err := os.WriteFile(filepath.Join(c.out, name+".json"), data, 0o600); err != nil {
		return err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%d rounds, %v each; median [lowest, highest]\n\n", c.rounds, c.seconds)
	for _, w := range all {
		by := results[w.name]
		if len(by) == 0 {
			continue
		}
		columns := columnsOf(by)
		fmt.Fprintf(&b, "| %s | %s |\n|---|%s\n", w.name, strings.Join(columns, " | "), strings.Repeat("---|", len(columns)))
		for _, who := range contenders {
			rounds := by[who.name]
			if len(rounds) == 0 {
				continue
			}
			fmt.Fprintf(&b, "| %s |", who.name)
			for _, col := range columns {
				m, low, high := middle(column(rounds, col))
				if m == 0 {
					b.WriteString(" – |")
				} else {
					fmt.Fprintf(&b, " %s [%s, %s] |", number(m), number(low), number(high))
				}
			}
			b.WriteString("\n")
		}
		b.WriteString("\n")
	}
	if c.features {
		b.WriteString(goals(results))
	}
	return errors.Join(os.WriteFile(filepath.Join(c.out, name+".md"), []byte(b.String()), 0o644),
		os.WriteFile(filepath.Join(c.out, name+".svg"), []byte(draw(all, results)), 0o644))
}

func columnsOf(by map[string][]figures) []string {
	var columns []string
	for _, rounds := range by {
		for _, f := range rounds {
			for k := range f {
				if !slices.Contains(columns, k) {
					columns = append(columns, k)
				}
			}
		}
	}
	order := []string{"per second", "CPU µs", "p50 µs", "p99 µs", "p99.9 µs", "added p50 µs", "added p99 µs", "added p99.9 µs", "idle anonymous MB", "idle PSS MB", "64 busy anonymous MB", "64 busy PSS MB"}
	slices.SortFunc(columns, func(a, b string) int {
		ia, ib := slices.Index(order, a), slices.Index(order, b)
		if ia < 0 || ib < 0 {
			return cmp.Or(cmp.Compare(ib, ia), strings.Compare(a, b))
		}
		return cmp.Compare(ia, ib)
	})
	return columns
}

func column(rounds []figures, name string) []float64 {
	var v []float64
	for _, f := range rounds {
		if x, ok := f[name]; ok {
			v = append(v, x)
		}
	}
	return v
}

func number(x float64) string {
	if x >= 100 {
		return fmt.Sprintf("%.0f", x)
	}
	return fmt.Sprintf("%.1f", x)
}
