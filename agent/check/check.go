// SPDX-License-Identifier: Apache-2.0

// Package check runs the health checks of this host: HTTP, TCP, UDP, gRPC, HTTP/2 and scripts on their interval, TTL by its expiry, alias by
// what it points to, here or, by the servers' API, on another node. It decides a status and hands it to the local state.
// Runner.Run owns a goroutine for each check and stops them all before it returns.
package check

import (
	"context"
	"crypto/tls"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"time"

	"github.com/weftmesh/weft/agent/local"
	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/internal/run"
)

// State is where the checks come from and their results go.
type State interface {
	Wanted() (local.Wanted, <-chan struct{})
	SetCheck(id, status, output string) error
	Deregister(id string) error
}

// Config is what a Runner is made of.
type Config struct {
	State State
	Log   *slog.Logger
	// Servers answer what an alias of another node's checks asks.
	Servers http.Handler
	// Now is the clock; nil is the system's.
	Now func() time.Time
	// Rand spreads the first runs over their intervals; nil draws from the process's source.
	Rand *rand.Rand
	// TLS is what checks over TLS begin with; nil: nothing but this host's authorities.
	TLS *tls.Config
}

// Runner runs the checks of a State.
type Runner struct {
	state   State
	servers http.Handler
	log     *slog.Logger
	now     func() time.Time
	tls     *tls.Config

	mu      sync.Mutex // guards all below
	random  *rand.Rand
	running map[string]*running
}

type running struct {
	from       *local.Check // what the state has: most are as they were, which costs a comparison of two pointers
	definition *local.CheckDefinition
	cancel     context.CancelFunc
	heartbeat  chan struct{} // TTL: somebody reported
}

// New makes a runner. It starts nothing.
func New(c Config) (*Runner, error) {
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Runner{state: c.State, servers: c.Servers, log: c.Log, now: c.Now, random: c.Rand, tls: c.TLS, running: map[string]*running{}}, nil
}

// Run follows the state until ctx ends: a new or changed check is started, a removed one is stopped.
func (r *Runner) Run(ctx context.Context) error {
	g := run.New(ctx)
	var pace local.Pace
	for {
		wanted, changed := r.state.Wanted()
		r.reconcile(g, wanted)
		select {
		case <-changed:
			pace.Wait(ctx)
		case <-ctx.Done():
			return g.Stop()
		}
	}
}

// reconcile starts what is wanted and doesn't run, and ends what runs and isn't wanted. It looks at all checks at each change of any: with
// a thousand of them, comparing every definition was a sixth of what a registration cost the agent.
func (r *Runner) reconcile(g *run.Group, wanted local.Wanted) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, c := range r.running {
		w, ok := wanted.Checks[id]
		switch {
		case ok && w == c.from:
		case ok && reflect.DeepEqual(&w.Definition, c.definition): // another result
			c.from = w
		default:
			c.cancel()
			delete(r.running, id)
		}
	}
	for id, w := range wanted.Checks {
		if _, ok := r.running[id]; ok || w.Definition.Type() == "" {
			continue
		}
		ctx, cancel := context.WithCancel(g.Context())
		c := &running{from: w, definition: &w.Definition, cancel: cancel, heartbeat: make(chan struct{}, 1)}
		r.running[id] = c
		spread := r.fraction()
		g.Go("check "+id, func(context.Context) error {
			defer cancel()
			r.follow(ctx, id, c, spread)
			return nil
		})
	}
}

func (r *Runner) fraction() float64 {
	if r.random == nil {
		return rand.Float64()
	}
	return r.random.Float64()
}

// follow runs one check until its context ends.
func (r *Runner) follow(ctx context.Context, id string, c *running, spread float64) {
	switch c.definition.Type() {
	case local.TypeTTL:
		r.followTTL(ctx, id, c)
	case local.TypeAlias:
		if wanted, _ := r.state.Wanted(); c.definition.AliasNode != "" && !strings.EqualFold(c.definition.AliasNode, wanted.Node.Node) {
			r.followRemote(ctx, id, c.definition)
			return
		}
		r.followAlias(ctx, id, c.definition)
	default:
		r.followProbe(ctx, id, c.definition, spread)
	}
}

// followProbe asks again and again, the first time soon (a fraction of the interval, at most a second, so that a new
// service doesn't wait long to be seen), then an interval after each answer; until the first good answer, which follows a
// registration within moments as a rule, soon again.
func (r *Runner) followProbe(ctx context.Context, id string, d *local.CheckDefinition, spread float64) {
	probe := newProbe(d, r.tls)
	timer := time.NewTimer(time.Duration(spread * float64(min(d.Interval, firstWithin))))
	defer timer.Stop()
	reap := reaper{after: reapAfter(d)}
	decide := thresholds{d: d, status: d.Status}
	seen := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		status, output := probe.ask(ctx)
		if ctx.Err() != nil {
			return
		}
		if s, ok := probe.(*scriptProbe); ok && s.abrupt() {
			decide.status = status
		}
		status = decide.next(status)
		r.set(id, status, output)
		if reap.due(status, r.now()) {
			r.deregister(id, d.ServiceID)
		}
		seen = seen || status != catalog.HealthCritical
		if seen {
			timer.Reset(d.Interval)
		} else {
			timer.Reset(min(d.Interval, againWithin))
		}
	}
}

// reapAfter is for how long a check may be critical before its service is deregistered; 0 is for ever.
func reapAfter(d *local.CheckDefinition) time.Duration {
	if d.ServiceID == "" {
		return 0
	}
	return d.DeregisterCriticalServiceAfter
}

// deregister ends this check too, by way of the state.
func (r *Runner) deregister(check, service string) {
	r.log.Warn("service is deregistered: critical for too long", "service", service, "check", check)
	if err := r.state.Deregister(service); err != nil {
		r.log.Warn("service can't be deregistered", "service", service, "error", err)
	}
}

// How soon a check is asked first, and again until it has been good once.
const (
	firstWithin = time.Second
	againWithin = 500 * time.Millisecond
)

func (r *Runner) set(id, status, output string) {
	if err := r.state.SetCheck(id, status, output); err != nil {
		r.log.Debug("result of a check that is gone", "check", id, "error", err)
	}
}

// followTTL waits for reports; a time without one is critical, and a service that is so for too long is deregistered.
func (r *Runner) followTTL(ctx context.Context, id string, c *running) {
	timer := time.NewTimer(c.definition.TTL)
	defer timer.Stop()
	reap := reaper{after: reapAfter(c.definition)}
	var tooLong <-chan time.Time // nil: never
	look := func() {             // at what was reported, or that nothing was
		tooLong = nil
		if status := r.status(id); reap.due(status, r.now()) {
			r.deregister(id, c.definition.ServiceID)
		} else if !reap.since.IsZero() {
			tooLong = time.After(reap.since.Add(reap.after).Sub(r.now()))
		}
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-tooLong:
			look()
		case <-c.heartbeat:
			timer.Reset(c.definition.TTL)
			look()
		case <-timer.C:
			output := "TTL expired"
			wanted, _ := r.state.Wanted()
			if w, ok := wanted.Checks[id]; ok && w.Record.Output != "" && w.Record.Status != catalog.HealthCritical {
				output += " (last output before timeout follows): " + w.Record.Output
			}
			r.set(id, catalog.HealthCritical, output)
			look()
		}
	}
}

func (r *Runner) status(id string) string {
	wanted, _ := r.state.Wanted()
	if c, ok := wanted.Checks[id]; ok {
		return c.Record.Status
	}
	return ""
}

// followAlias repeats the worst status of the checks of another service of this host.
func (r *Runner) followAlias(ctx context.Context, id string, d *local.CheckDefinition) {
	for {
		wanted, changed := r.state.Wanted()
		status, output := aliased(&wanted, d)
		r.set(id, status, output)
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

func aliased(w *local.Wanted, d *local.CheckDefinition) (status, output string) {
	if _, ok := w.Services[d.AliasService]; !ok && d.AliasService != "" {
		return catalog.HealthCritical, "Service " + d.AliasService + " is not registered on this node"
	}
	of := append(w.ChecksOf(""), w.ChecksOf(d.AliasService)...)
	var worst worst
	for _, c := range of {
		if c.Definition.Type() != local.TypeAlias { // aliases of aliases could never be resolved in a circle
			worst.add(c.Record.CheckID, c.Record.Status, c.Record.Output)
		}
	}
	return worst.result()
}

// thresholds turns single answers into a status: so many in a row are needed for a change. The first answer counts at once.
type thresholds struct {
	d                   *local.CheckDefinition
	status              string
	successes, failures int
}

func (t *thresholds) next(answer string) string {
	if answer != catalog.HealthCritical {
		t.failures = 0
		t.successes++
		if t.successes >= t.d.SuccessBeforePassing || t.status == "" || t.status == answer {
			t.status = answer
		}
		return t.current()
	}
	t.successes = 0
	t.failures++
	switch {
	case t.failures >= t.d.FailuresBeforeCritical || t.status == "":
		t.status = catalog.HealthCritical
	case t.failures >= t.d.FailuresBeforeWarning && t.d.FailuresBeforeWarning > 0:
		t.status = catalog.HealthWarning
	}
	return t.current()
}

func (t *thresholds) current() string {
	if t.status == "" {
		return catalog.HealthCritical
	}
	return t.status
}

// reaper notices a check that was critical for too long.
type reaper struct {
	after time.Duration
	since time.Time
}

func (r *reaper) due(status string, now time.Time) bool {
	if r.after == 0 || status != catalog.HealthCritical {
		r.since = time.Time{}
		return false
	}
	if r.since.IsZero() {
		r.since = now
	}
	return now.Sub(r.since) >= r.after
}

// Heartbeat tells a TTL check that somebody reported its status; its time starts anew.
func (r *Runner) Heartbeat(id string) {
	r.mu.Lock()
	c, ok := r.running[id]
	r.mu.Unlock()
	if !ok {
		return
	}
	select {
	case c.heartbeat <- struct{}{}:
	default:
	}
}
