// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/pprof"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/weftmesh/weft/agent/rest"
	"github.com/weftmesh/weft/connect/proxy"
	"github.com/weftmesh/weft/connect/proxy/host"
	"github.com/weftmesh/weft/internal/listen"
	"github.com/weftmesh/weft/internal/run"
)

// proxyRun is how a proxy process runs.
type proxyRun struct {
	token        string
	admin, pprof string // addresses of the admin page and of profiles, "" for none
	retirement   time.Duration
	own          *ownProxy // the registration that the process makes itself, nil where there is one
}

// runProxy runs weft's own proxy for one service until ctx ends.
func runProxy(ctx context.Context, env Env, a rest.Access, r proxyRun, log *slog.Logger) error {
	if err := keepMemory(env); err != nil {
		return err
	}
	metrics := prometheus.NewRegistry()
	door, err := listen.New(listen.Config{Log: log, Metrics: metrics})
	if err != nil {
		return err
	}
	u, err := newUpgrade(env, door, log)
	if err != nil {
		return err
	}
	p, err := proxy.New(proxy.Config{
		ID: a.ProxyID, Service: a.Service, Version: Version, Address: a.ADSAddress, Secret: a.Secret, Token: r.token, Door: door,
		Retire: u.retire, Retirement: r.retirement, Metrics: metrics, Process: true, Stdout: env.Stdout, Stderr: env.Stderr, Log: log.With("proxy", a.ProxyID),
	})
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	g := run.New(ctx)
	if err := errors.Join(
		serveAdmin(g, u, door, r.admin, func() prometheus.Gatherer { return metrics }, func() []*proxy.Proxy { return []*proxy.Proxy{p} }),
		serveProfiles(g, u, door, r.pprof)); err != nil {
		return errors.Join(err, g.Stop())
	}
	if err := governProcessors(g, env); err != nil {
		return errors.Join(err, g.Stop())
	}
	u.ready = p.Ready
	g.Go("upgrade", u.run)
	g.GoOrdered("proxy", func(ctx context.Context) error {
		defer stop() // of a proxy that has retired nothing else stays
		return p.Run(ctx)
	})
	if r.own != nil {
		g.GoOrdered("registration", func(ctx context.Context) error { return r.own.keep(ctx, u.retire) }) // ends first: nobody is sent here any more
	}
	return g.Wait()
}

// member is one proxy of a host proxy, with figures of its own.
type member struct {
	*proxy.Proxy
	metrics *prometheus.Registry
}

// members are the proxies that a host proxy is now.
type members struct {
	mu      sync.Mutex
	process *prometheus.Registry
	all     map[*member]struct{}
}

// Run runs the member, counted as long as it does.
func (m *members) run(ctx context.Context, one *member) error {
	m.mu.Lock()
	m.all[one] = struct{}{}
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		delete(m.all, one)
		m.mu.Unlock()
	}()
	return one.Proxy.Run(ctx)
}

func (m *members) gatherer() prometheus.Gatherer {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := prometheus.Gatherers{m.process}
	for one := range m.all {
		all = append(all, one.metrics)
	}
	return all
}

func (m *members) proxies() []*proxy.Proxy {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []*proxy.Proxy
	for one := range m.all {
		all = append(all, one.Proxy)
	}
	return all
}

// memberLinger is how long an idle connection of a removed member waits for its caller: longer than for a proxy that is told
// to stop, as nobody waits for a member.
const memberLinger = 4 * time.Second

// runner is a member as the host runs it.
type runner struct {
	of  *members
	one *member
}

func (r runner) Run(ctx context.Context) error { return r.of.run(ctx, r.one) }
func (r runner) Ready() bool                   { return r.one.Ready() }

// runHostProxy is the sidecar of all services that an agent names on the control socket, until ctx ends.
func runHostProxy(ctx context.Context, env Env, socket string, r proxyRun, log *slog.Logger) error {
	if err := keepMemory(env); err != nil {
		return err
	}
	m := &members{process: prometheus.NewRegistry(), all: map[*member]struct{}{}}
	door, err := listen.New(listen.Config{Log: log, Metrics: m.process})
	if err != nil {
		return err
	}
	if err := errors.Join(m.process.Register(collectors.NewGoCollector()),
		m.process.Register(collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))); err != nil {
		return err
	}
	u, err := newUpgrade(env, door, log)
	if err != nil {
		return err
	}
	h, err := host.New(host.Config{Socket: socket, Version: Version, Door: door, Predecessor: u.predecessor(), Retire: u.retire, Log: log, New: func(c host.Member) (host.Runner, error) {
		own := prometheus.NewRegistry()
		p, err := proxy.New(proxy.Config{
			ID: c.ProxyID, Service: c.Service, Version: Version, Address: c.ADSAddress, Secret: c.Secret, Token: c.Token, Door: door,
			Retire: u.retire, Retirement: r.retirement, Metrics: own, Linger: memberLinger, Stdout: env.Stdout, Stderr: env.Stderr, Log: log.With("proxy", c.ProxyID),
		})
		return runner{m, &member{p, own}}, err
	}})
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	g := run.New(ctx)
	if err := errors.Join(serveAdmin(g, u, door, r.admin, m.gatherer, m.proxies), serveProfiles(g, u, door, r.pprof)); err != nil {
		return errors.Join(err, g.Stop())
	}
	if err := governProcessors(g, env); err != nil {
		return errors.Join(err, g.Stop())
	}
	u.ready, u.note, u.undo = h.Ready, h.HandOver, h.Resume
	g.Go("upgrade", u.run)
	g.GoOrdered("host proxy", func(ctx context.Context) error {
		defer stop() // as above
		return h.Run(ctx)
	})
	return g.Wait()
}

// serveAdmin serves the admin page, if it has an address, until the process is replaced.
func serveAdmin(g *run.Group, u *upgrade, door *listen.Door, address string, metrics func() prometheus.Gatherer, proxies func() []*proxy.Proxy) error {
	if address == "" {
		return nil
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) {
		promhttp.HandlerFor(metrics(), promhttp.HandlerOpts{}).ServeHTTP(w, r)
	})
	mux.HandleFunc("GET /ready", func(w http.ResponseWriter, _ *http.Request) {
		for _, p := range proxies() {
			if !p.Ready() {
				http.Error(w, "not ready: "+p.ID()+" waits for its configuration", http.StatusServiceUnavailable)
				return
			}
		}
		_, _ = w.Write([]byte("ready\n")) // the client may be gone
	})
	mux.HandleFunc("GET /certs", func(w http.ResponseWriter, _ *http.Request) {
		type view struct {
			Proxy, Name, URI        string
			ValidAfter, ValidBefore time.Time
		}
		all := []view{}
		for _, p := range proxies() {
			for _, c := range p.Certificates() {
				all = append(all, view{p.ID(), c.Name, c.URI, c.ValidAfter, c.ValidBefore})
			}
		}
		answer(w, all)
	})
	mux.HandleFunc("GET /config", func(w http.ResponseWriter, _ *http.Request) {
		all := map[string]any{}
		for _, p := range proxies() {
			all[p.ID()] = p.Describe()
		}
		answer(w, all)
	})
	return serveUntilReplaced(g, u, door, "admin", address, mux)
}

// serveProfiles serves net/http/pprof's pages, if they have an address, until the process is replaced.
func serveProfiles(g *run.Group, u *upgrade, door *listen.Door, address string) error {
	if address == "" {
		return nil
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	return serveUntilReplaced(g, u, door, "pprof", address, mux)
}

// serveUntilReplaced listens at an address and serves it as a child of the group.
func serveUntilReplaced(g *run.Group, u *upgrade, door *listen.Door, name, address string, handler http.Handler) error {
	spec := listen.Spec{Name: name, Network: "tcp", Address: address}
	l, err := door.Stream(g.Context(), spec)
	if err != nil {
		return err
	}
	server := door.HTTPServer(spec, handler)
	g.GoOrdered(name, func(ctx context.Context) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		g.Go(name+"'s end", func(context.Context) error {
			select {
			case <-ctx.Done():
			case <-u.retire:
			}
			return server.Close() // ends Serve below
		})
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	return nil
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	_ = enc.Encode(v) // the client may be gone
}
