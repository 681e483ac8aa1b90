// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weftmesh/weft/connect/identity"
	"github.com/weftmesh/weft/connect/proxy/calm"
	"github.com/weftmesh/weft/connect/proxy/config"
	"github.com/weftmesh/weft/connect/proxy/mux"
	"github.com/weftmesh/weft/connect/proxy/reason"
	"github.com/weftmesh/weft/connect/proxy/trace"
	"github.com/weftmesh/weft/internal/listen"
)

// Config is what an Engine is made of.
type Config struct {
	// Snapshot gives the configuration in force, nil before the first. It is called for each request.
	Snapshot func() *config.Snapshot
	// Dial makes upstream connections; nil for a net.Dialer.
	Dial    func(ctx context.Context, network, address string) (net.Conn, error)
	Metrics *Metrics        // nil for new ones that nobody sees
	Logs    *Logs           // nil for no access logs
	Spans   *trace.Exporter // nil for one of its own
	Service string          // whose proxy this is
	Log     *slog.Logger
}

// Engine serves requests. Make it with New; Run must run while it serves.
type Engine struct {
	config  Config
	began   time.Time
	view    atomic.Pointer[view]
	leaving atomic.Bool // see Leave
	spare   time.Duration
	told    atomic.Int64 // when it was last logged that nobody decides; see undecided

	mu     sync.Mutex // guards states and the making of views
	states map[string]*clusterState

	runMu   sync.Mutex // guards stopped against work
	stopped bool
	work    sync.WaitGroup
	base    context.Context // of upstream HTTP/2 connections
	cancel  context.CancelFunc

	workers  workers
	glance   listen.Glance
	refusals [config.Inbound + 1]calm.Queue
	held     mux.Held // of all carriers, by what slow clients don't read

	downMu sync.Mutex // guards downs and ending
	downs  map[*downstream]struct{}
	ending map[*downstream]struct{} // those of downs that were found to be on their way out
}

// New makes an engine. It starts nothing.
func New(c Config) (*Engine, error) {
	if c.Snapshot == nil {
		return nil, errors.New("exchange: an engine needs Snapshot, which gives the configuration in force")
	}
	if c.Dial == nil {
		c.Dial = (&net.Dialer{}).DialContext
	}
	if c.Metrics == nil {
		c.Metrics = NewMetrics(c.Service)
	}
	if c.Logs == nil {
		c.Logs = NewLogs(nil, nil)
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Spans == nil {
		c.Spans = trace.New(trace.Config{Log: c.Log})
	}
	e := &Engine{config: c, began: time.Now(), spare: spareTime, states: map[string]*clusterState{}, downs: map[*downstream]struct{}{}, ending: map[*downstream]struct{}{}}
	e.base, e.cancel = context.WithCancel(context.Background())
	e.view.Store(noView)
	return e, nil
}

// now is the time since the engine was made, in nanoseconds, never 0.
func (e *Engine) now() int64 { return int64(time.Since(e.began)) + 1 }

// at is what now gave at t.
func (e *Engine) at(t time.Time) int64 { return int64(t.Sub(e.began)) + 1 }

// Yield gives the processor to all others that are ready, or have got something from the network, and returns then.
func (e *Engine) Yield() { e.glance.Wait() }

// Refusals is what everybody waits in whom this proxy refuses: who calls from elsewhere doesn't make the service's own calls wait.
func (e *Engine) Refusals(d config.Direction) *calm.Queue { return &e.refusals[d] }

// spawn runs f in a goroutine that Run's end ends; refused is called instead where it has ended.
func (e *Engine) spawn(f func(context.Context), refused func()) {
	e.runMu.Lock()
	if e.stopped {
		e.runMu.Unlock()
		refused()
		return
	}
	e.work.Add(1)
	e.runMu.Unlock()
	go func() {
		defer e.work.Done()
		f(e.base)
	}()
}

const (
	drainLook = 100 * time.Millisecond
	poolLook  = 5 * time.Second
	leaveIdle = 500 * time.Millisecond

	workerLook = 2 * time.Second
)

// Run keeps the pools, writes access logs, tells connections that drain, and lets the counts of ejections fall, until ctx
// ends; then it closes every upstream connection of the pools and waits for their goroutines. It is called once.
func (e *Engine) Run(ctx context.Context) error {
	logs := make(chan struct{})
	logCtx, endLogs := context.WithCancel(context.WithoutCancel(ctx))
	defer endLogs()
	go func() {
		defer close(logs)
		var both sync.WaitGroup
		both.Go(func() { _ = e.config.Spans.Run(logCtx) }) // they give no error
		_ = e.config.Logs.Run(logCtx)
		both.Wait()
	}()
	e.workers.start()
	tick := time.NewTicker(drainLook)
	defer tick.Stop()
	var pools, trimmed, aged time.Time
	swept := time.Now()
	for {
		select {
		case <-ctx.Done():
			e.stop()
			endLogs()
			<-logs
			return nil
		case now := <-tick.C:
			e.drainEnding()
			if every := e.current().ageLook; every > 0 && now.Sub(aged) >= every {
				aged = now
				e.Drain()
			}
			e.fetchKeys(now)
			if e.leaving.Load() {
				e.prune(now.Add(-leaveIdle))
			} else if now.Sub(pools) >= poolLook {
				pools = now
				e.prune(now.Add(-poolIdle))
			}
			if now.Sub(trimmed) >= workerLook {
				trimmed = now
				e.workers.trim()
			}
			if now.Sub(swept) >= sweepLook {
				swept = now
				e.eachState(func(s *clusterState) { s.sweep(e.now()); s.expire() })
			}
		}
	}
}

func (e *Engine) eachState(f func(*clusterState)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, s := range e.states {
		f(s)
	}
}

// expire closes connections that the cluster's own bounds let be no older.
func (s *clusterState) expire() {
	v := s.current.Load()
	if v == nil || v.config.Keep.Age == 0 && v.config.Keep.Idle == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, h := range s.hosts {
		v.expire(h)
	}
}

func (e *Engine) prune(before time.Time) {
	e.eachState(func(s *clusterState) {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, h := range s.hosts {
			h.prune(func(id string) bool { return s.valid(h, id) }, before)
		}
	})
}

func (e *Engine) stop() {
	e.runMu.Lock()
	e.stopped = true
	e.runMu.Unlock()
	e.cancel()
	e.workers.stop()
	e.prune(time.Now().Add(time.Hour))
	e.work.Wait()
}

// Leave tells the engine that its connections are coming to their end: from now on upstream connections that nobody uses are
// closed soon, so that the other side doesn't wait for them where it drains too.
func (e *Engine) Leave() {
	e.leaving.Store(true)
	e.Drain()
}

// Drain looks at once which downstream connections are to end: HTTP/2 ones are told to open no more requests, and those of
// HTTP/1 that are idle and Closing are closed. Whoever has connections leave calls it; from then on Run looks at these ten times a
// second, and at all of them only where a listener bounds their age: to look at 9,000 idle ones so often took a twentieth of a processor.
func (e *Engine) Drain() {
	e.downMu.Lock()
	defer e.downMu.Unlock()
	for d := range e.downs {
		if d.leaving() {
			e.ending[d] = struct{}{}
			d.drain()
		}
	}
}

func (e *Engine) drainEnding() {
	e.downMu.Lock()
	defer e.downMu.Unlock()
	for d := range e.ending {
		if d.leaving() {
			d.drain()
		} else {
			delete(e.ending, d) // its listener's bounds were changed
		}
	}
}

// enter counts a downstream connection in. It may be leaving already.
func (e *Engine) enter(d *downstream) {
	e.downMu.Lock()
	defer e.downMu.Unlock()
	e.downs[d] = struct{}{}
	if d.leaving() { // asked when it is in downs: what comes later is found by Drain
		e.ending[d] = struct{}{}
	}
}

func (e *Engine) leave(d *downstream) {
	e.downMu.Lock()
	defer e.downMu.Unlock()
	delete(e.downs, d)
	delete(e.ending, d)
}

// Upstream is a connection to an endpoint, for plain TCP. Done must be called once, and closes it.
type Upstream struct {
	net.Conn
	Endpoint *config.Endpoint
	edge     *Edge
	done     func()
	once     sync.Once
}

// Count counts bytes carried to the endpoint and back.
func (u *Upstream) Count(toDestination, toSource int64) { u.edge.Bytes(toDestination, toSource) }

// Done closes the connection and counts its end. Calls after the first do nothing.
func (u *Upstream) Done() {
	u.once.Do(func() {
		_ = u.Conn.Close() // it is over either way
		u.done()
	})
}

// Connect makes a connection to an endpoint of a cluster. An endpoint that can't be reached, or whose TLS fails, is
// followed by another, up to three in all. The code says why there is none.
func (e *Engine) Connect(ctx context.Context, clusterName string, peer *config.Peer) (*Upstream, reason.Code, error) {
	v := e.current().clusters[clusterName]
	if v == nil {
		return nil, reason.NoCluster, errNoCluster
	}
	edge := v.edge
	if v.config.Local {
		edge = e.config.Metrics.Inbound(sourceName(peer))
	}
	up, code, err := v.connectRaw(ctx, edge, peer)
	if err != nil && unwanted(ctx) {
		return nil, reason.Draining, err
	}
	if err != nil {
		switch code {
		case reason.UpstreamOverflow:
			edge.Connection(Overflow)
		case reason.UpstreamTLSFailure:
			edge.Connection(TLSFailed)
		case reason.NoHealthyUpstream:
			edge.Connection(Refused)
		default:
			edge.Connection(ConnectFailed)
		}
		edge.ByProxy(code)
		return nil, code, err
	}
	edge.Connection(Connected)
	return up, reason.None, nil
}

var (
	errNoCluster  = errors.New("the cluster isn't configured")
	errNoOriginal = errors.New("the cluster is where captured connections were going, and this one wasn't captured")
	errNoEndpoint = errors.New("the cluster has no endpoint that can be used")
)

func (v *clusterView) connectRaw(ctx context.Context, edge *Edge, peer *config.Peer) (*Upstream, reason.Code, error) {
	if !enter(&v.state.connections, v.config.Limits.Connections) {
		if !v.awaitSlot(ctx, func() bool { return false }) || !enter(&v.state.connections, v.config.Limits.Connections) {
			return nil, reason.UpstreamOverflow, errLimit
		}
	}
	leave := func() {
		v.state.connections.Add(-1)
		v.state.wake()
	}
	if v.config.Original {
		return v.connectOriginal(ctx, edge, peer, leave)
	}
	c := choice{}
	code, err := reason.NoHealthyUpstream, errNoEndpoint
	for range 3 {
		c.nowNano = v.state.engine.now()
		ep, proving := v.take(&c)
		if ep == nil || len(c.avoid) > 0 && c.avoids(ep) {
			if ep != nil {
				v.proved(ep, proving)
			}
			break
		}
		try, cancel := context.WithTimeout(ctx, v.connectTimeout())
		var conn net.Conn
		if conn, code, err = v.connect(try, ep, raw); err == nil {
			if err = announce(conn, v.config.Announce, peer); err != nil {
				code = reason.UpstreamConnectFailure
			}
		}
		cancel()
		if err == nil {
			v.report(ep, succeeded)
			v.proved(ep, proving)
			ep.active.Add(1)
			return &Upstream{Conn: conn, Endpoint: ep.config, edge: edge, done: func() {
				ep.active.Add(-1)
				leave()
				edge.Closed()
			}}, reason.None, nil
		}
		v.proved(ep, proving)
		if ctx.Err() != nil {
			break
		}
		c.avoid = append(c.avoid, ep)
	}
	leave()
	return nil, code, err
}

// connectOriginal goes on to where a connection was going when it was captured.
func (v *clusterView) connectOriginal(ctx context.Context, edge *Edge, peer *config.Peer, leave func()) (*Upstream, reason.Code, error) {
	ep := v.original(peer)
	if ep == nil {
		leave()
		return nil, reason.NoHealthyUpstream, errNoOriginal
	}
	try, cancel := context.WithTimeout(ctx, v.connectTimeout())
	defer cancel()
	conn, code, err := v.connect(try, ep, raw)
	if err != nil {
		leave()
		return nil, code, err
	}
	return &Upstream{Conn: conn, Endpoint: ep.config, edge: edge, done: func() {
		leave()
		edge.Closed()
	}}, reason.None, nil
}

// original is where a connection was going when it was captured; nil if it wasn't.
func (v *clusterView) original(peer *config.Peer) *endpoint {
	if peer == nil || !peer.Original.IsValid() {
		return nil
	}
	at := &config.Endpoint{Network: "tcp", Address: peer.Original.String(), Healthy: true}
	return &endpoint{host: &host{key: hostKey{network: at.Network, address: at.Address}, cluster: v.state}, config: at}
}

// sourceName is how metrics and logs call a peer.
func sourceName(p *config.Peer) string {
	if p == nil || p.Identity == nil {
		return ""
	}
	switch id := p.Identity.(type) {
	case identity.Service:
		return id.Service
	case identity.ServiceAccount:
		return id.Name
	}
	return p.URI
}

// Refused counts a connection that was refused or cut for a reason.
func (e *Engine) Refused(d config.Direction, peer *config.Peer, why reason.Code) {
	edge := e.config.Metrics.Outbound("")
	if d == config.Inbound {
		edge = e.config.Metrics.Inbound(sourceName(peer))
	}
	edge.Connection(Refused)
	edge.ByProxy(why)
}

// LogTunnel writes the access log of a plain TCP connection that is over.
func (e *Engine) LogTunnel(l *config.Listener, peer *config.Peer, cluster, upstream string, began time.Time, in, out int64, why reason.Code) {
	v := e.current()
	lv := v.listeners[l.Name]
	if lv == nil || lv.log == nil {
		return
	}
	r := record{
		began: began, took: time.Since(began), direction: l.Direction, reason: why, toUp: in, toDown: out,
		upstream: upstream, cluster: cluster, source: e.config.Service, destination: e.config.Service,
	}
	if why == reason.RBACDenied {
		_, r.rule = allowed(lv.config.Authorize, call{peer: peer})
	}
	if l.Direction == config.Inbound {
		r.source = sourceName(peer)
	} else if c := v.clusters[cluster]; c != nil {
		r.destination = c.config.Service.Name
	}
	if peer != nil {
		r.remote, r.local, r.sni, r.peerURI = peer.Remote, peer.Local, peer.SNI, peer.URI
	}
	e.config.Logs.log(lv.log, &r)
}
