// SPDX-License-Identifier: Apache-2.0

package robustness

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// minOperations is how many operations of known outcome a history has, minFailed the share of check-and-sets that fail.
const (
	minOperations = 2000
	minFailed     = 0.05
	maxTime       = 2 * time.Minute
)

// run is one history with its faults.
type run struct {
	*history
	ctx     context.Context
	leaders int // changes
	took    []time.Duration
	kills   int
	fsyncs  int // that failed
}

// result is what became of a row's histories.
type result struct {
	Row       string
	Faults    string
	Histories int
	OK        int
	Ops       int
	CAS       int
	CASFailed int
	Leaders   int
	Kills     int
	Fsyncs    int `json:",omitempty"` // failed
	Acked     int // writes of which each is looked for at the end
	Lost      int
	Took      []time.Duration `json:"-"`
	P50, P99  string          `json:",omitempty"` // fault → next write
	Seconds   float64
	Wrong     []string `json:",omitempty"`
}

// row is a fault by name.
type row struct {
	name   string
	faults string // of the list in website/docs/servers.md
	long   int    // histories of the long form; the short form has one
	binary func(*testing.T) string
	env    []string
	ports  int
	// before prepares a server that hasn't been started yet.
	before func(*server) error
	// fault does harm while the clients work, and mends it. It sees to it that the leader changes.
	fault func(*run) error
	quick bool // part of `make test`
	// restores says that snapshots are restored: acknowledged writes are undone then, on purpose.
	restores bool
}

// record does one history, and says what is wrong with it.
func (c *cluster) record(name string, fault func(*run) error) (*run, []string) {
	h := newHistory(c, name)
	ctx, cancel := context.WithTimeout(context.Background(), maxTime)
	defer cancel()
	h.back = c.restores
	r := &run{history: h, ctx: ctx}
	stop, end := context.WithCancel(ctx)
	defer end()
	var work, watch sync.WaitGroup
	watch.Go(func() { r.leaders = c.countLeaders(stop) })
	for n := range clients {
		work.Go(func() { h.client(n).run(stop) })
	}
	r.reach(minOperations / 10)
	err := fault(r)
	c.net.heal()
	if err == nil { // and some after the fault, so that a leader of the last moment is seen as well
		r.reach(max(minOperations, h.progress()+200))
	}
	if err == nil && r.quiet(minOperations) {
		err = fmt.Errorf("only %d operations in %s", h.progress(), maxTime)
	}
	end()
	work.Wait()
	watch.Wait()
	if err != nil {
		h.fault("the fault wasn't done: %v", err)
	} else {
		r.last()
	}
	return r, r.verdict()
}

// reach waits until so many operations were done.
func (r *run) reach(n int) {
	for r.quiet(n) && r.ctx.Err() == nil {
		pause(r.ctx, 5*time.Millisecond)
	}
}

func (r *run) quiet(n int) bool { return r.progress() < n }

// countLeaders counts the changes of leaders that a majority sees, until ctx ends.
func (c *cluster) countLeaders(ctx context.Context) int {
	var last *server
	changes := 0
	for ctx.Err() == nil {
		if l := c.leader(); l != nil {
			if last != nil && last != l {
				changes++
			}
			last = l
		}
		pause(ctx, 25*time.Millisecond)
	}
	return changes
}

// last has every server read every unit: what was agreed is on all of them.
func (r *run) last() {
	for _, s := range r.c.servers[:r.c.expect] {
		if !s.runs() {
			r.fault("%s doesn't run at the end: %s", s.name(), tail(s.log(), 3))
			continue
		}
		cl := r.client(clients + s.n)
		cl.at = s.n - 1
		for u := range units {
			err := until(20*time.Second, func() error {
				cl.at = s.n - 1
				call := r.now()
				code, text, _, _, err := cl.send("GET", "/v1/kv/"+r.path(u, "a"), "")
				if err != nil {
					return err
				}
				var list []kvAnswer
				if code == 200 {
					if err := json.Unmarshal([]byte(text), &list); err != nil {
						return err
					}
				}
				cl.read(u, call, list)
				return nil
			})
			if err != nil {
				r.fault("the last read of unit %d on %s: %v", u, s.name(), err)
			}
		}
	}
}

// verdict says what is wrong with a history: that it isn't linearizable, or that it doesn't count.
func (r *run) verdict() []string {
	h := r.history
	wrong := slices.Clone(h.faults)
	switch got, info := linearizable(h.ops, h.index); got {
	case porcupine.Ok:
	case porcupine.Unknown:
		wrong = append(wrong, fmt.Sprintf("no order was found or excluded within %s", checkTime))
	case porcupine.Illegal:
		path := filepath.Join(h.c.dir, strings.ReplaceAll(h.name, "/", "-")+".html")
		if err := porcupine.VisualizePath(model(h.index), info, path); err != nil {
			path = err.Error()
		}
		wrong = append(wrong, "NOT LINEARIZABLE: see "+path)
	}
	if h.count < minOperations {
		wrong = append(wrong, fmt.Sprintf("doesn't count: %d operations, at least %d are needed", h.count, minOperations))
	}
	if float64(h.failed) < minFailed*float64(h.cas) || h.cas == 0 {
		wrong = append(wrong, fmt.Sprintf("doesn't count: %d of %d check-and-sets failed, at least %.0f %% are needed", h.failed, h.cas, 100*minFailed))
	}
	if r.leaders == 0 {
		wrong = append(wrong, "doesn't count: the leader didn't change")
	}
	if len(wrong) > 0 { // what happened, for whoever looks into it
		path := filepath.Join(h.c.dir, strings.ReplaceAll(h.name, "/", "-")+".ops")
		var b strings.Builder
		m := model(h.index)
		for _, o := range h.ops {
			fmt.Fprintf(&b, "%12d %12d client %d: %s\n", o.Call, o.Return, o.ClientId, m.DescribeOperation(o.Input, o.Output))
		}
		_ = os.WriteFile(path, []byte(b.String()), 0o600) // a help, no more
	}
	return wrong
}

// ledger is two writers of keys that nobody writes again: each acknowledged one is looked for at the end.
type ledger struct {
	c     *cluster
	mu    sync.Mutex
	acked []string
	next  atomic.Int64
	stop  context.CancelFunc
	work  sync.WaitGroup
}

func (c *cluster) newLedger() *ledger {
	ctx, stop := context.WithCancel(context.Background())
	l := &ledger{c: c, stop: stop}
	if c.restores {
		return l // which would find them lost
	}
	for w := range 2 {
		l.work.Go(func() {
			h := newHistory(c, "ledger")
			cl := h.client(w)
			for ctx.Err() == nil {
				key := fmt.Sprintf("%d/%06d", w, l.next.Add(1))
				if code, _, _, _, err := cl.send("PUT", "/v1/kv/ledger/"+key, "x"); err == nil && code == 200 {
					l.mu.Lock()
					l.acked = append(l.acked, "ledger/"+key)
					l.mu.Unlock()
				}
				pause(ctx, 5*time.Millisecond)
			}
		})
	}
	return l
}

// lost are the acknowledged keys that a server hasn't.
func (l *ledger) lost(s *server) ([]string, error) {
	var have []string
	err := until(30*time.Second, func() error {
		code, text, _, err := s.do(context.Background(), "GET", "/v1/kv/ledger/?keys", "")
		if err == nil && code != 200 && code != 404 {
			err = fmt.Errorf("%d %.200s", code, text)
		}
		if err != nil || code == 404 {
			return err
		}
		return json.Unmarshal([]byte(text), &have)
	})
	if err != nil {
		return nil, err
	}
	there := map[string]bool{}
	for _, k := range have {
		there[k] = true
	}
	var lost []string
	for _, k := range l.acked {
		if !there[k] {
			lost = append(lost, k)
		}
	}
	return lost, nil
}

// play does a row: its histories on one cluster, then a restart of all, and what must hold in the end.
func play(t *testing.T, w row, binary string, histories int) result {
	began := time.Now()
	c := newCluster(t, binary, max(3, w.ports), w.before, w.env...)
	c.restores = w.restores
	res := result{Row: w.name, Faults: w.faults}
	l := c.newLedger()
	for i := range histories {
		if i > 0 && over(began) {
			t.Logf("time is over after %d of %d histories", i, histories)
			break
		}
		r, wrong := c.record(fmt.Sprintf("%s-%d", w.name, i), w.fault)
		res.Histories++
		res.Ops += r.count
		res.CAS += r.cas
		res.CASFailed += r.failed
		res.Leaders += r.leaders
		res.Kills += r.kills
		res.Fsyncs += r.fsyncs
		res.Took = append(res.Took, r.took...)
		if len(wrong) == 0 {
			res.OK++
		}
		for _, s := range wrong {
			res.Wrong = append(res.Wrong, r.name+": "+s)
			t.Log(r.name + ": " + s)
		}
		t.Logf("%s: %d operations, %d of %d checks failed, %d leader changes: %d faults", r.name, r.count, r.failed, r.cas, r.leaders, len(wrong))
		if len(res.Wrong) > 10 {
			break // the rest would say the same
		}
	}
	l.stop()
	l.work.Wait()
	res.Acked = len(l.acked)
	res.Wrong = append(res.Wrong, c.settle(l, &res)...)
	slices.Sort(res.Took)
	if n := len(res.Took); n > 0 {
		res.P50, res.P99 = res.Took[n/2].Round(time.Millisecond).String(), res.Took[(n*99)/100].Round(time.Millisecond).String()
	}
	res.Seconds = time.Since(began).Seconds()
	for _, s := range res.Wrong {
		t.Error(s)
	}
	return res
}

// settle compares the servers, kills all at once, and looks for everything again.
func (c *cluster) settle(l *ledger, res *result) []string {
	var wrong []string
	check := func(when string) {
		for _, s := range c.servers[:c.expect] {
			lost, err := l.lost(s)
			if err != nil {
				wrong = append(wrong, fmt.Sprintf("%s: %s can't be asked: %v: %s", when, s.name(), err, tail(s.log(), 3)))
			}
			if len(lost) > 0 {
				res.Lost += len(lost)
				wrong = append(wrong, fmt.Sprintf("%s: LOST on %s: %d acknowledged writes, as %s", when, s.name(), len(lost), lost[0]))
			}
		}
		if err := c.same(); err != nil {
			wrong = append(wrong, fmt.Sprintf("%s: %v", when, err))
		}
	}
	c.allReady()
	before, err := c.everything(c.aLeader())
	if err != nil {
		wrong = append(wrong, err.Error())
	}
	check("in the end")
	for _, s := range c.servers[:c.expect] {
		s.kill()
	}
	for _, s := range c.servers[:c.expect] {
		s.start()
	}
	c.allReady()
	check("after all were killed")
	for _, s := range c.servers[:c.expect] {
		if after, err := c.everything(s); err != nil || before != after {
			wrong = append(wrong, fmt.Sprintf("after all were killed: %s has other keys than before (%v)", s.name(), err))
		}
	}
	return wrong
}

// everything is all keys with their values and indexes, as a server reads them by default.
func (c *cluster) everything(s *server) (string, error) {
	var all string
	err := until(30*time.Second, func() error {
		code, text, _, err := s.do(context.Background(), "GET", "/v1/kv/?recurse", "")
		if err == nil && code != 200 && code != 404 {
			err = fmt.Errorf("%s: %d %.200s", s.name(), code, text)
		}
		all = text
		return err
	})
	return all, err
}

// same is nil once the servers' tables have the same digests at the same index.
func (c *cluster) same() error {
	return until(30*time.Second, func() error {
		first := ""
		for _, s := range c.servers[:c.expect] {
			d, err := s.digest()
			if err != nil {
				return fmt.Errorf("the digest of %s: %w", s.name(), err)
			}
			if first == "" {
				first = d
			}
			if d != first {
				return errors.New("the digests of the servers' tables differ: " + first + " and " + d)
			}
		}
		return nil
	})
}
