// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/weftmesh/weft/cli/apiclient"
	"github.com/weftmesh/weft/internal/listen"
	"github.com/weftmesh/weft/internal/run"
)

// Config is what a Demo is made of.
type Config struct {
	Binary   string // the weft binary that all children are started from
	Offset   int    // moves every port
	Rate     int    // requests per second of the trickle, default 20
	Out      io.Writer
	Terminal bool // Out is a terminal: the live table is drawn in place
}

// Demo is a small mesh on this machine.
type Demo struct {
	c     Config
	ports Ports
	logs  string // folder of the children's logs
	api   *apiclient.Client
}

// New makes a demo. It starts nothing.
func New(c Config) (*Demo, error) {
	if c.Rate == 0 {
		c.Rate = 20
	}
	if c.Offset < 0 || c.Offset > 40000 {
		return nil, fmt.Errorf("port offset %d: want 0 to 40000", c.Offset)
	}
	d := &Demo{c: c, ports: NewPorts(c.Offset)}
	var err error
	d.api, err = apiclient.New(apiclient.Config{Address: local(d.ports.HTTP), Getenv: func(string) string { return "" }})
	return d, err
}

// startTimeout bounds how long the mesh may take to be whole.
const startTimeout = 30 * time.Second

// Run runs the demo until ctx ends, then stops every child and removes their logs.
func (d *Demo) Run(ctx context.Context) error {
	if err := d.portsFree(); err != nil {
		return err
	}
	logs, err := os.MkdirTemp("", "weft-demo-")
	if err != nil {
		return err
	}
	d.logs = logs
	err = d.run(ctx)
	if err == nil {
		return os.RemoveAll(logs)
	}
	return fmt.Errorf("%w\n(the children's logs are in %s)", err, logs)
}

func (d *Demo) run(ctx context.Context) error {
	g := run.New(ctx)
	err := d.start(g)
	if err == nil {
		fmt.Fprint(d.c.Out, d.ports.banner(d.c.Binary))
		g.Go("traffic", d.trickle)
		g.Go("display", d.display)
		return g.Wait()
	}
	if ctx.Err() != nil {
		err = nil // interrupted while it started
	}
	return errors.Join(err, g.Stop())
}

// portsFree names every port that is taken, and who has it.
func (d *Demo) portsFree() error {
	var taken []error
	all := d.ports.All()
	for _, port := range slices.Sorted(maps.Keys(all)) {
		if holder, err := listen.Holder("tcp", local(port)); err == nil {
			taken = append(taken, fmt.Errorf("port %d, for %s, is taken by %q (pid %d)", port, all[port], holder.Command, holder.PID))
		}
	}
	if len(taken) == 0 {
		return nil
	}
	return fmt.Errorf("%w\nstop what holds it, or move every port of the demo: --port-offset 1000", errors.Join(taken...))
}

// start brings the mesh up, in the order of who needs whom, and returns when web's page answers.
func (d *Demo) start(g *run.Group) error {
	ctx, cancel := context.WithTimeout(g.Context(), startTimeout)
	defer cancel()
	p := d.ports
	fmt.Fprintln(d.c.Out, "starting the agent ...")
	d.child(g, "agent", "agent", "-dev", "-http-port", strconv.Itoa(p.HTTP), "-grpc-port", strconv.Itoa(p.GRPC), "-dns-port", strconv.Itoa(p.DNS),
		"-sidecar-min-port", strconv.Itoa(p.SidecarMin), "-sidecar-max-port", strconv.Itoa(p.SidecarMin+p.sidecarRangeSize))
	if err := d.until(ctx, "the agent has no leader", func() error {
		var leader string
		if _, err := d.api.Do(ctx, http.MethodGet, "/v1/status/leader", nil, nil, &leader); err != nil {
			return err
		}
		if leader == "" {
			return errors.New("no leader yet")
		}
		return nil
	}); err != nil {
		return err
	}
	fmt.Fprintln(d.c.Out, "registering services, config entries and intentions ...")
	for _, e := range entries() {
		if _, err := d.api.Do(ctx, http.MethodPut, "/v1/config", nil, e, nil); err != nil {
			return fmt.Errorf("config entry %s/%s: %w", e["Kind"], e["Name"], err)
		}
	}
	for _, s := range p.registrations() {
		if _, err := d.api.Do(ctx, http.MethodPut, "/v1/agent/service/register", nil, s, nil); err != nil {
			return fmt.Errorf("service %s: %w", s["ID"], err)
		}
	}
	fmt.Fprintln(d.c.Out, "starting services and sidecars ...")
	d.service(g, dbID, "db", "", p.DB, 0)
	d.service(g, api1ID, "api", "v1", p.API1, p.API1ToDB)
	d.service(g, api2ID, "api", "v2", p.API2, p.API2ToDB)
	d.service(g, webID, "web", "", p.Web, p.WebToAPI)
	for _, id := range instances {
		d.child(g, id+"-sidecar", "connect", "proxy", "-http-addr", local(p.HTTP), "-sidecar-for", id,
			"-admin-bind", local(p.Admin[sidecarID(id)]))
	}
	return d.until(ctx, "web's page doesn't answer", func() error { return d.visit(ctx) })
}

func (d *Demo) service(g *run.Group, id, name, version string, port, upstream int) {
	args := []string{"demo", "service", "-name", name, "-listen", local(port)}
	if version != "" {
		args = append(args, "-instance-version", version)
	}
	if upstream != 0 {
		args = append(args, "-upstream", local(upstream))
	}
	d.child(g, id, args...)
}

// until tries again, a little later each time, until f succeeds or ctx ends.
func (d *Demo) until(ctx context.Context, what string, f func() error) error {
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, 250*time.Millisecond) {
		err := f()
		if err == nil {
			return nil
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("%s: %w", what, err)
		}
	}
}

// stopWithin is how long a child may take to end after SIGTERM.
const stopWithin = 5 * time.Second

// child runs one child process in the group, stopped in the reverse order of start. The kernel kills it if the demo is
// killed.
func (d *Demo) child(g *run.Group, name string, args ...string) {
	g.GoOrdered(name, func(ctx context.Context) error {
		log, err := os.Create(filepath.Join(d.logs, name+".log"))
		if err != nil {
			return err
		}
		defer log.Close()
		cmd := exec.CommandContext(ctx, d.c.Binary, args...)
		tail := &tail{}
		cmd.Stdout, cmd.Stderr = io.MultiWriter(log, tail), io.MultiWriter(log, tail)
		cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
		cmd.WaitDelay = stopWithin
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
		err = startAndWait(cmd)
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("ended by itself (%w); it said:\n%s", errors.Join(err, errors.New("children run until the demo stops")), tail)
	})
}

// startAndWait runs a command from a thread that lives as long as it: the parent-death signal is sent when the thread that
// started the child ends.
func startAndWait(cmd *exec.Cmd) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	return cmd.Run()
}

// tail keeps the last of what a child said.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

const tailSize = 2048

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	if extra := len(t.buf) - tailSize; extra > 0 {
		t.buf = t.buf[extra:]
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(bytes.TrimSpace(t.buf))
}

// visit asks for web's page once.
func (d *Demo) visit(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+local(d.ports.Web)+"/", nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("web answers %s", resp.Status)
	}
	return nil
}

// trickle asks for web's page at a steady rate, whether or not it answers.
func (d *Demo) trickle(ctx context.Context) error {
	ticker := time.NewTicker(time.Second / time.Duration(d.c.Rate))
	defer ticker.Stop()
	inFlight := make(chan struct{}, 4*d.c.Rate)
	g := run.New(ctx)
	for {
		select {
		case <-ctx.Done():
			return g.Stop()
		case <-ticker.C:
		}
		select {
		case inFlight <- struct{}{}:
			g.Go("visit", func(ctx context.Context) error {
				defer func() { <-inFlight }()
				_ = d.visit(ctx) // failures are what the display shows
				return nil
			})
		default: // all are waiting: the trickle doesn't pile up
		}
	}
}
