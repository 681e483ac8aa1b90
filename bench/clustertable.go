// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"
)

// row is a measurement; it adds a line or two to the table.
type row struct {
	number int
	what   string
	run    func(ctx context.Context, t *table) error
}

type table struct {
	c     *clusterConfig
	ours  *place // a server
	peer  *place // Consul's; nil: there is none
	ward  *ward
	lines []string
}

// The measured figures of Consul 1.21.4, where none can be run.
var consul1214 = map[string]struct {
	cpu  time.Duration
	rate float64
}{
	"kv": {173 * time.Microsecond, 4500}, "register": {637 * time.Microsecond, 1500}, "health": {1210 * time.Microsecond, 805},
	"agent": {3980 * time.Microsecond, 193}, "watch": {600 * time.Microsecond, 0},
}

func (t *table) add(number int, what, goal, ours, theirs, ratio string, met bool) {
	verdict := "met"
	if !met {
		verdict = "NOT met"
	}
	line := fmt.Sprintf("%-3d %-46s | %-38s | %-34s | %-26s | %-22s | %s", number, what, goal, ours, theirs, ratio, verdict)
	t.lines = append(t.lines, line)
	fmt.Println(line)
}

// compare runs one measurement on both, and adds a line by ratios: of processor time, and of the rate.
func (t *table) compare(ctx context.Context, number int, what, key string, less, more float64, measure func(context.Context, *place) (cost, error)) error {
	over := t.c.profiled(ctx, t.ours, key)
	ours, err := measure(ctx, t.ours)
	if err != nil {
		return err
	}
	if err := until(ctx, time.Minute, func() error {
		if !over() {
			return errors.New("its profile isn't written")
		}
		return nil
	}); err != nil {
		return err
	}
	known := consul1214[key]
	theirs := cost{known.cpu, known.rate}
	source := " (1.21.4)"
	if t.peer != nil {
		if theirs, err = measure(ctx, t.peer); err != nil {
			return fmt.Errorf("consul: %w", err)
		}
		source = " (beside)"
	}
	goal := fmt.Sprintf("CPU ≤ 1/%.3g", 1/less)
	cpu, rate := float64(ours.cpu)/float64(theirs.cpu), ours.rate/theirs.rate
	ratio := fmt.Sprintf("CPU 1/%.1f", 1/cpu)
	if more > 0 {
		goal += fmt.Sprintf(", rate ≥ %.3g×", more)
		ratio += fmt.Sprintf(", rate %.1f×", rate)
	}
	t.add(number, what, goal, fmt.Sprintf("%.0f µs, %.0f/s", inMicros(ours.cpu), ours.rate),
		fmt.Sprintf("%.0f µs, %.0f/s", inMicros(theirs.cpu), theirs.rate)+source, ratio, cpu <= less && (more == 0 || rate >= more))
	return nil
}

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// rows are the issue's, in its order.
func (c *clusterConfig) rows() []row {
	return []row{
		{1, "idle server agent, PSS", func(ctx context.Context, t *table) error {
			ours, err := idle(ctx, t.ours)
			if err != nil {
				return err
			}
			theirs, source := 97.0, " (1.21.4)"
			if t.peer != nil {
				if theirs, err = idle(ctx, t.peer); err != nil {
					return err
				}
				source = " (beside)"
			}
			t.add(1, "idle server agent, PSS", "≤ 1/3", fmt.Sprintf("%.1f MB", ours), fmt.Sprintf("%.0f MB%s", theirs, source), fmt.Sprintf("1/%.1f", theirs/ours), ours <= theirs/3)
			return nil
		}},
		{2, "KV write, durable, 32 clients", func(ctx context.Context, t *table) error {
			return t.compare(ctx, 2, "KV write, durable, 32 clients", "kv", 1/3.0, 2.5, c.kv)
		}},
		{3, "default reads beside stale", c.readsRow},
		{4, "catalog register, 32 clients", func(ctx context.Context, t *table) error {
			return t.compare(ctx, 4, "catalog register, 32 clients", "register", 1/5.0, 4, c.register)
		}},
		{5, "health, 30 instances, unchanged", func(ctx context.Context, t *table) error {
			if err := t.everywhere(ctx, instances); err != nil {
				return err
			}
			return t.compare(ctx, 5, "health, 30 instances, unchanged", "health", 1/8.0, 0, c.unchanged)
		}},
		{6, "health, a write between", func(ctx context.Context, t *table) error {
			if err := t.everywhere(ctx, instances); err != nil {
				return err
			}
			return t.compare(ctx, 6, "health, a write between reads", "health", 1/4.0, 0, c.writeBetween)
		}},
		{7, "agent register", func(ctx context.Context, t *table) error {
			return t.compare(ctx, 7, "agent register, 1,000 services", "agent", 1/20.0, 15, c.thousand)
		}},
		{8, "1,000 watchers", c.watchRow},
		{9, "1,000 watchers, client agent", c.watchClientRow},
		{10, "feed subscribers and their return", c.feedRow},
		{11, "ADS streams", c.adsRow},
		{12, "leaf signing", c.signRow},
		{13, "flapping", c.flapRow},
		{14, "gossip", c.gossipRow},
		{15, "rotation of 5,000 leaves", c.rotateRow},
	}
}

func (t *table) everywhere(ctx context.Context, do func(context.Context, *place) error) error {
	for _, p := range []*place{t.ours, t.peer} {
		if p == nil {
			continue
		}
		if err := do(ctx, p); err != nil {
			return err
		}
	}
	return nil
}

func (c *clusterConfig) readsRow(ctx context.Context, t *table) error {
	three, err := newWard(c.weft)
	if err != nil {
		return err
	}
	defer three.close()
	leader, followers, err := three.cluster(ctx, 3)
	if err != nil {
		return err
	}
	for _, at := range []struct {
		what string
		*place
	}{{"a follower", followers[0]}, {"the leader", leader}} {
		what, p := at.what, at.place
		for _, s := range three.places {
			c.profiled(ctx, s, fmt.Sprintf("reads of %s at %s", what, s.name))
		}
		consistent, stale, ratio, err := c.reads(ctx, p, three.places)
		if err != nil {
			return err
		}
		t.add(3, fmt.Sprintf("default reads on %s of 3, 32 clients", what), "rate ≥ 0.9 of stale",
			fmt.Sprintf("%.0f/s, %.0f µs (stale %.0f/s, %.0f µs)", consistent.rate, inMicros(consistent.cpu), stale.rate, inMicros(stale.cpu)),
			"-", fmt.Sprintf("%.2f", ratio), ratio >= 0.9)
	}
	return nil
}

// cluster starts servers, and says who leads.
func (w *ward) cluster(ctx context.Context, size int) (leader *place, followers []*place, err error) {
	errs := make(chan error, size)
	for range size { // founding takes all of them
		w.used++
		p := &place{}
		go func(n int) { errs <- w.member(ctx, p, n, size) }(w.used)
		w.places = append(w.places, p)
	}
	for range size {
		if err := <-errs; err != nil {
			return nil, nil, err
		}
	}
	var address string
	if err := until(ctx, time.Minute, func() (err error) { // there may be an election on a busy machine
		if address, err = decode[string](ctx, w.places[0], "/v1/status/leader"); err == nil && address == "" {
			err = errors.New("nobody leads")
		}
		return err
	}); err != nil {
		return nil, nil, err
	}
	for _, p := range w.places {
		if strings.HasPrefix(address, p.ip+":") {
			leader = p
		} else {
			followers = append(followers, p)
		}
	}
	if leader == nil {
		return nil, nil, fmt.Errorf("%q leads, which is none of ours", address)
	}
	return leader, followers, nil
}

func (c *clusterConfig) watchRow(ctx context.Context, t *table) error {
	if err := t.everywhere(ctx, instances); err != nil {
		return err
	}
	each, last, err := c.watchers(ctx, t.ours, t.ours, []*place{t.ours})
	if err != nil {
		return err
	}
	theirs, theirLast, source := 600*time.Microsecond, 702*time.Millisecond, " (1.21.4)"
	if t.peer != nil {
		if theirs, theirLast, err = c.watchers(ctx, t.peer, t.peer, []*place{t.peer}); err != nil {
			return err
		}
		source = " (beside)"
	}
	t.add(8, "1,000 watchers, one change", "≤ 75 µs each; last served ≤ 1/5", fmt.Sprintf("%.0f µs, last %.0f ms", inMicros(each), millis(last)),
		fmt.Sprintf("%.0f µs, %.0f ms%s", inMicros(theirs), millis(theirLast), source),
		fmt.Sprintf("CPU 1/%.1f, last 1/%.1f", float64(theirs)/float64(each), float64(theirLast)/float64(last)), each <= 75*time.Microsecond && last <= theirLast/5)
	return nil
}

func (c *clusterConfig) watchClientRow(ctx context.Context, t *table) error {
	if err := instances(ctx, t.ours); err != nil {
		return err
	}
	client, err := t.ward.agent(ctx, "c1")
	if err != nil {
		return err
	}
	defer client.kill()
	each, last, err := c.watchers(ctx, t.ours, client, []*place{t.ours, client})
	if err != nil {
		return err
	}
	t.add(9, "the same through a client agent (both processes)", "a second column", fmt.Sprintf("%.0f µs, last %.0f ms", inMicros(each), millis(last)), "-", "-", true)
	return nil
}

// lone is a server of its own, for a row that would leave something behind in the table's. The ward is the caller's to close.
func (c *clusterConfig) lone(ctx context.Context) (*ward, *place, error) {
	w, err := newWard(c.weft)
	if err != nil {
		return nil, nil, err
	}
	p, err := w.agent(ctx, "s1", "-server", "-bootstrap-expect", "1")
	if err != nil {
		w.close()
		return nil, nil, err
	}
	return w, p, nil
}

func (c *clusterConfig) feedRow(ctx context.Context, t *table) error {
	w, err := newWard(c.weft)
	if err != nil {
		return err
	}
	defer w.close()
	leader, _, err := w.cluster(ctx, 3)
	if err != nil {
		return err
	}
	f, err := c.feed(ctx, w, leader)
	if err != nil {
		return err
	}
	t.add(10, fmt.Sprintf("a change to %d feed subscribers of 3 servers, TLS", f.subscribers), "p99 ≤ 1 s on one core; ≤ 100 KB each",
		fmt.Sprintf("p99 %.0f ms, CPU %.2f s, %.0f KB", millis(f.p99), f.cpu.Seconds(), f.bytes/1024), "capped at 250/s: 20 s", "-",
		f.p99 <= time.Second && f.cpu <= time.Second && f.bytes <= 100<<10)
	t.add(10, fmt.Sprintf("%d agents return after all 3 servers restart", f.subscribers), "write ≤ 5 s, all ≤ 30 s, memory ≤ 2×",
		fmt.Sprintf("write %.1f s, all %.1f s, %.0f→%.0f MB", f.firstWrite.Seconds(), f.inSync.Seconds(), f.memoryBefore, f.memoryAtPeak), "-",
		fmt.Sprintf("memory %.1f×, one: %.0f MB", f.memoryAtPeak/f.memoryBefore, f.largest),
		f.firstWrite <= 5*time.Second && f.inSync <= 30*time.Second && f.memoryAtPeak <= 2*f.memoryBefore)
	return nil
}

func (c *clusterConfig) adsRow(ctx context.Context, t *table) error {
	w, p, err := c.lone(ctx)
	if err != nil {
		return err
	}
	defer w.close()
	p50, p99, cpu, err := c.ads(ctx, p)
	if err != nil {
		return err
	}
	t.add(11, "a change to 200 ADS streams of one agent", "p99 ≤ 100 ms", fmt.Sprintf("p50 %.0f, p99 %.0f ms, CPU %.0f ms", millis(p50), millis(p99), millis(cpu)), "-", "-", p99 <= 100*time.Millisecond)
	return nil
}

func (c *clusterConfig) signRow(ctx context.Context, t *table) error {
	w, p, err := c.lone(ctx)
	if err != nil {
		return err
	}
	defer w.close()
	if _, err := p.ask(ctx, http.MethodPut, "/v1/connect/ca/configuration", `{"Provider":"consul","Config":{"CSRMaxPerSecond":-1}}`); err != nil { // no bound
		return err
	}
	got, err := c.sign(ctx, w, p)
	if err != nil {
		return err
	}
	perSecond := float64(time.Second) / float64(got.cpu)
	t.add(12, "leaf signing, over RPC", "≥ 3,000 per s of server CPU", fmt.Sprintf("%.0f per s of CPU (%.0f µs), %.0f/s", perSecond, inMicros(got.cpu), got.rate), "50/s default cap", "-", perSecond >= 3000)
	return nil
}

func (c *clusterConfig) flapRow(ctx context.Context, t *table) error {
	f, err := c.flap(ctx, t.ward, t.ours)
	if err != nil {
		return err
	}
	t.add(13, "10,000 flapping instances, 2 s period", "p99 propagation ≤ 1 s", fmt.Sprintf("p99 %.0f ms, %.0f changes/s, %.2f cores", millis(f.p99), f.rate, f.cores), "-", "-", f.p99 <= time.Second)
	return nil
}

// gossipRow runs the test of the gossip package, which is the measurement: it fails where a goal is missed.
func (c *clusterConfig) gossipRow(ctx context.Context, t *table) error {
	if c.gossip == 0 {
		return nil
	}
	cmd := exec.CommandContext(ctx, "go", "test", "-count=1", "-timeout", "3600s", "-run", "^(TestCrowd|TestHeal)$", "-v", "./internal/gossip")
	cmd.Env = append(os.Environ(), "WEFT_GOSSIP_NODES="+strconv.Itoa(c.gossip), "WEFT_HEAL_NODES="+strconv.Itoa(c.gossip))
	out, err := cmd.CombinedOutput()
	var said []string
	for line := range strings.Lines(string(out)) {
		if _, text, ok := strings.Cut(line, ".go:"); ok {
			_, text, _ = strings.Cut(text, ": ")
			said = append(said, strings.TrimSpace(text))
		}
	}
	t.add(14, fmt.Sprintf("gossip, %d nodes, 10 %% loss, 10 min (virtual)", c.gossip), "0 false deaths; one view ≤ 10 s", strings.Join(said, "; "), "-", "-", err == nil)
	return nil
}

// clusterTable prints the table.
func clusterTable(ctx context.Context, c clusterConfig) error {
	if _, err := sockets(); err != nil {
		return err
	}
	t := &table{c: &c}
	var err error
	if t.ward, err = newWard(c.weft); err != nil {
		return err
	}
	defer t.ward.close()
	if t.ours, err = t.ward.agent(ctx, "s1", "-server", "-bootstrap-expect", "1"); err != nil {
		return err
	}
	if c.consul != "" {
		other, err := newWard(c.consul)
		if err != nil {
			return err
		}
		defer other.close()
		if t.peer, err = other.agent(ctx, "s1", "-server", "-bootstrap-expect", "1"); err != nil {
			return err
		}
	}
	fmt.Printf("%-3s %-46s | %-38s | %-34s | %-26s | %-22s |\n", "", "what", "goal", "ours", "Consul", "ratio")
	var failed []string
	for _, r := range c.rows() {
		if c.only != "" && !slices.Contains(strings.Split(c.only, ","), strconv.Itoa(r.number)) {
			continue
		}
		if err := r.run(ctx, t); err != nil {
			fmt.Printf("%-3d %-46s | failed: %v\n", r.number, r.what, err)
			failed = append(failed, r.what)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	if len(failed) > 0 {
		return fmt.Errorf("not measured: %s", strings.Join(failed, ", "))
	}
	return nil
}

func inMicros(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 }
