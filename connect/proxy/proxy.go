// SPDX-License-Identifier: Apache-2.0

// Package proxy is weft's own sidecar: it does for one service what an xDS server tells it, TCP and HTTP, over mutual TLS.
// It knows xDS and nothing else of weft. Configuration is swapped as a whole behind one pointer; a change touches only the
// connections that it concerns. Proxy.Run owns the sockets and all goroutines: one that follows the server, one that accepts
// for each listener, and those of connections.
package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/weftmesh/weft/connect/identity"
	"github.com/weftmesh/weft/connect/proxy/config"
	"github.com/weftmesh/weft/connect/proxy/exchange"
	"github.com/weftmesh/weft/connect/proxy/intake"
	"github.com/weftmesh/weft/connect/proxy/lounge"
	"github.com/weftmesh/weft/connect/proxy/mux"
	"github.com/weftmesh/weft/internal/listen"
	"github.com/weftmesh/weft/internal/run"
)

// Config is what a Proxy is made of.
type Config struct {
	ID, Service string
	Version     string
	// Address of the xDS server: host:port, or unix:/path. Secret proves to it who the proxy is.
	Address       string
	Secret, Token string
	Door          *listen.Door
	// Metrics gets the proxy's own figures; nil for none. Process adds the figures of the process, whose only proxy it is.
	Metrics        *prometheus.Registry
	Process        bool
	Stdout, Stderr io.Writer // where access logs to these go
	// Drain is how long open connections may go on when the proxy stops; 0 means 5 s.
	Drain time.Duration
	// Linger is how long an idle connection of a listener that is gone waits for its client to close it, or to use it a last
	// time; 0 means 1 s.
	Linger time.Duration
	// Retire is closed when another process has taken over the sockets. The listeners are closed then, and open connections may
	// go on for Retirement, kept to the newest configuration as before; 0 means 15 min. Idle ones wait for a tenth of that.
	Retire     <-chan struct{}
	Retirement time.Duration
	// Original says where a connection was going that the system redirected to this proxy; nil: as the kernel knows it.
	Original func(net.Conn) (netip.AddrPort, error)
	Log      *slog.Logger
}

// Proxy is one service's sidecar. Make it with New, and Run it.
type Proxy struct {
	c         Config
	intake    *intake.Client
	engine    *exchange.Engine
	lounge    *lounge.Lounge
	restAfter time.Duration
	mostOfOne int // connections of one identity that are carried
	snapshot  atomic.Pointer[config.Snapshot]
	applied   chan struct{} // a new snapshot is there; capacity 1
	ready     atomic.Bool   // a first configuration is in force
	hurried   atomic.Bool   // it is to stop soon

	held        mux.Held   // by what sidecars send on connections that carry others
	mu          sync.Mutex // guards what follows
	conns       map[*connection]struct{}
	carriers    map[*carrier]struct{}
	shares      map[string]*share   // of who has some of these, by its URI
	perListener map[string]int      // how many of these a listener has, by its name
	learners    map[string]*learner // by listener without a declared protocol
	stopping    bool                // connections that still come are to leave
	finishing   int                 // listeners that are closed and have handshakes under way
}

// New makes a proxy. It opens nothing.
func New(c Config) (*Proxy, error) {
	if c.Drain == 0 {
		c.Drain = 5 * time.Second
	}
	if c.Linger == 0 {
		c.Linger = time.Second
	}
	if c.Retirement == 0 {
		c.Retirement = 15 * time.Minute
	}
	if c.Original == nil {
		c.Original = listen.OriginalDestination
	}
	p := &Proxy{
		c: c, lounge: lounge.New(), restAfter: restAfter, mostOfOne: maxPerIdentity, applied: make(chan struct{}, 1),
		conns: map[*connection]struct{}{}, carriers: map[*carrier]struct{}{}, shares: map[string]*share{}, perListener: map[string]int{}, learners: map[string]*learner{},
	}
	metrics := exchange.NewMetrics(c.Service)
	if c.Metrics != nil {
		var err error
		if !c.Process {
			// On one page with others: two instances of one service have the same edges, so each says whose it is.
			err = prometheus.WrapRegistererWith(prometheus.Labels{"proxy": c.ID}, c.Metrics).Register(metrics)
		} else {
			err = errors.Join(c.Metrics.Register(metrics), c.Metrics.Register(collectors.NewGoCollector()),
				c.Metrics.Register(collectors.NewProcessCollector(collectors.ProcessCollectorOpts{})))
		}
		if err != nil {
			return nil, err
		}
	}
	var err error
	if p.engine, err = exchange.New(exchange.Config{
		Snapshot: p.snapshot.Load, Metrics: metrics, Logs: exchange.NewLogs(c.Stdout, c.Stderr), Service: c.Service, Log: c.Log,
	}); err != nil {
		return nil, err
	}
	p.intake, err = intake.New(intake.Config{
		ID: c.ID, Service: c.Service, Version: c.Version, Address: c.Address, Secret: c.Secret, Token: c.Token, Apply: p.apply, Log: c.Log,
	})
	if err != nil {
		return nil, err
	}
	if c.Metrics != nil {
		labels := prometheus.Labels{"proxy": c.ID}
		err = errors.Join(c.Metrics.Register(newDetection(p, labels)), c.Metrics.Register(&certificates{intake: p.intake, desc: prometheus.NewDesc("weft_proxy_certificate_expiry_seconds",
			"Seconds until the proxy's certificate ends.", []string{"uri"}, labels)}))
	}
	return p, err
}

// Ready says whether a first configuration is in force.
func (p *Proxy) Ready() bool { return p.ready.Load() }

// Snapshot is the configuration in force, nil before the first.
func (p *Proxy) Snapshot() *config.Snapshot { return p.snapshot.Load() }

// Certificates are the proxy's own certificates.
func (p *Proxy) Certificates() []intake.Certificate { return p.intake.Certificates() }

// apply puts a configuration in force: for requests at once, for sockets as soon as Run sees it.
func (p *Proxy) apply(s *config.Snapshot) {
	p.snapshot.Store(s)
	p.engine.Follow(s)
	p.lounge.Sweep() // it closes connections to servers whose certificates are revoked
	p.recheck(s)
	select {
	case p.applied <- struct{}{}:
	default:
	}
}

// Run serves until ctx ends or the proxy is retired, then drains: sockets close at once, connections get their time. Nothing
// that a client has sent is lost in it, where the client listens to what it is told (Connection: close, GOAWAY).
func (p *Proxy) Run(ctx context.Context) error {
	// What serves connections outlives ctx by the time for draining.
	work, end := context.WithCancelCause(context.WithoutCancel(ctx))
	defer end(nil)
	served := run.New(work)
	served.Go("pools", p.engine.Run)
	served.Go("resting connections", p.lounge.Run)
	// What draining connections may do is still decided by the newest configuration.
	served.Go("configuration", p.intake.Run)
	live, stop := context.WithCancel(served.Context())
	defer context.AfterFunc(ctx, stop)()
	err := p.keepListeners(live, served)
	stop()
	p.drain(ctx)
	end(errors.New("the proxy has stopped"))
	p.closeAll()
	return errors.Join(err, served.Stop())
}

// drain waits until no connection is left, or the time for it is over: short once ctx has ended, long for a retired proxy.
func (p *Proxy) drain(parent context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(parent), p.c.Retirement)
	defer cancel()
	defer context.AfterFunc(parent, func() {
		p.hurried.Store(true)
		time.AfterFunc(p.c.Drain, cancel)
	})()
	p.mu.Lock()
	p.stopping = true
	for c := range p.conns {
		c.beginDrain()
	}
	p.leaveLocked(func(string) bool { return true })
	p.mu.Unlock()
	p.engine.Leave()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		p.mu.Lock()
		left := len(p.conns) + len(p.carriers) + p.finishing
		p.mu.Unlock()
		if left == 0 {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// socket is an open listener.
type socket struct {
	l       net.Listener
	network string
	address string
	last    *atomic.Pointer[config.Listener] // its configuration, also when the listener is gone
	stop    context.CancelFunc
}

// openRetry is how soon a socket that could not be opened is tried again.
const openRetry = time.Second

// keepListeners opens and closes sockets as the configuration says. One that can't be opened is tried again: its port may
// be taken by a proxy that is about to stop.
func (p *Proxy) keepListeners(ctx context.Context, served *run.Group) error {
	open, inner := map[string]*socket{}, map[string]bool{}
	defer func() {
		for _, s := range open {
			p.close(s, served)
		}
	}()
	var retry <-chan time.Time
	for {
		select {
		case <-p.applied:
		case <-retry:
		case <-p.c.Retire:
			return nil
		case <-ctx.Done():
			return nil
		}
		retry = nil
		s := p.snapshot.Load()
		for name, sock := range open {
			if l, ok := s.Listeners[name]; !ok || l.Network != sock.network || l.Address != sock.address {
				p.close(sock, served)
				delete(open, name)
				p.drainListener(name)
			}
		}
		p.keepInner(inner, s)
		var faults []string
		for _, name := range slices.Sorted(maps.Keys(s.Listeners)) {
			l := s.Listeners[name]
			if l.Network == "" {
				continue
			}
			if sock := open[name]; sock != nil {
				sock.last.Store(l)
				continue
			}
			sock, err := p.open(ctx, served, l)
			if err != nil {
				p.c.Log.Error("can't listen, trying again", "listener", name, "error", err)
				faults, retry = append(faults, err.Error()), time.After(openRetry)
				continue
			}
			open[name] = sock
		}
		p.intake.Trouble(strings.Join(faults, "; "))
		if len(faults) == 0 {
			p.ready.Store(true)
		}
	}
}

// keepInner lets the connections of listeners without sockets come to their end that are gone. Where nobody else has decided who may
// be there, as what they lead to isn't of the mesh, they are cut.
func (p *Proxy) keepInner(alone map[string]bool, s *config.Snapshot) {
	for name, cut := range alone {
		if s.Listeners[name] != nil {
			continue
		}
		delete(alone, name)
		if cut {
			p.cutListener(name)
		} else {
			p.drainListener(name)
		}
	}
	for name, l := range s.Listeners {
		if l.Network == "" {
			alone[name] = outside(l, s)
		}
	}
}

// outside says whether a listener's tunnels lead to where no other proxy is.
func outside(l *config.Listener, s *config.Snapshot) bool {
	if l.TCP == nil || l.HTTP != nil {
		return false
	}
	c := s.Clusters[l.TCP.Cluster]
	return c != nil && c.Original && c.TLS == nil
}

// handshakes is how long those under way may take when their listener closes.
// Of a retired proxy they may take as long as any: where they are slow, the machine is busy, and a client that has finished its own
// part has sent its request already.
const (
	handshakes        = 2 * time.Second
	retiredHandshakes = 10 * time.Second
)

// close closes a socket at once. Handshakes under way end by themselves, and their connections are served.
func (p *Proxy) close(s *socket, served *run.Group) {
	l, ok := s.l.(interface {
		Shut() error
		Finish(time.Duration) error
	})
	if !ok {
		s.stop()
		_ = s.l.Close() // it is on its way out
		return
	}
	_ = l.Shut() // as above
	p.mu.Lock()
	p.finishing++
	p.mu.Unlock()
	served.Go("closing listener", func(context.Context) error {
		wait := handshakes
		if p.retired() && !p.hurried.Load() {
			wait = retiredHandshakes
		}
		_ = l.Finish(wait) // as above
		s.stop()
		p.mu.Lock()
		p.finishing--
		p.mu.Unlock()
		return nil
	})
}

// The proxy's caps: the application on this host may open many connections; other sidecars carry many requests on each. Of one identity there are as many
// that are carried as may be of its own.
const maxPerIdentity = 20000

func (p *Proxy) open(ctx context.Context, served *run.Group, l *config.Listener) (*socket, error) {
	name := l.Name
	spec := listen.Spec{
		Name: p.c.ID + "/" + name, Network: l.Network, Address: l.Address, Mode: fs.FileMode(l.Mode),
		Limits: listen.Limits{MaxUnauthenticatedLoopback: -1, MaxPerIdentity: maxPerIdentity},
	}
	if l.Captured != nil {
		spec.Limits.MaxUnauthenticatedPerAddr = -1 // they come from the service's own processes, by whatever address of this host
	}
	if l.TLS != nil || l.Direction == config.Inbound { // whether by TLS can change
		spec.Plain = func() listen.Plain {
			switch now := p.listener(name); {
			case now == nil || now.TLS != nil && !now.PlainToo:
				return listen.PlainNever
			case now.TLS != nil:
				return listen.PlainToo
			}
			return listen.PlainOnly
		}
		spec.TLS = func() *tls.Config {
			if now := p.listener(name); now != nil && now.TLS != nil {
				return now.TLS.Config
			}
			return nil
		}
		spec.Identity = func(s tls.ConnectionState) string {
			if len(s.PeerCertificates) > 0 && len(s.PeerCertificates[0].URIs) == 1 {
				return s.PeerCertificates[0].URIs[0].String()
			}
			return ""
		}
	}
	inner, err := p.c.Door.Stream(ctx, spec)
	if err != nil {
		return nil, err
	}
	sctx, stop := context.WithCancel(served.Context())
	s := &socket{l: inner, network: l.Network, address: l.Address, last: &atomic.Pointer[config.Listener]{}, stop: stop}
	s.last.Store(l)
	served.Go("listener "+name, func(context.Context) error {
		p.accept(sctx, served, s, name)
		return nil
	})
	p.c.Log.Info("listening", "listener", name, "address", inner.Addr().String())
	return s, nil
}

func (p *Proxy) listener(name string) *config.Listener {
	if s := p.snapshot.Load(); s != nil {
		return s.Listeners[name]
	}
	return nil
}

func (p *Proxy) accept(ctx context.Context, served *run.Group, s *socket, name string) {
	for {
		conn, err := s.l.Accept()
		if err != nil {
			if ctx.Err() == nil && !errors.Is(err, net.ErrClosed) {
				p.c.Log.Error("listener failed", "listener", name, "error", err)
			}
			return
		}
		served.Go("connection", func(ctx context.Context) error {
			p.serve(ctx, served, conn, name, s.last.Load())
			return nil
		})
	}
}

// peerOf is who is at the other end.
func peerOf(conn net.Conn) (*config.Peer, string, error) {
	peer := &config.Peer{Remote: addrPort(conn.RemoteAddr()), Local: addrPort(conn.LocalAddr())}
	tc, ok := conn.(*tls.Conn)
	if !ok {
		return peer, "", nil
	}
	state := tc.ConnectionState()
	peer.TLS, peer.SNI = &state, state.ServerName
	if len(state.PeerCertificates) > 0 {
		id, err := identity.FromCertificate(state.PeerCertificates[0])
		if err != nil {
			return nil, "", fmt.Errorf("peer's certificate: %w", err)
		}
		peer.Identity, peer.URI = id, id.String()
	}
	return peer, state.NegotiatedProtocol, nil
}

func addrPort(a net.Addr) netip.AddrPort {
	if t, ok := a.(*net.TCPAddr); ok {
		return t.AddrPort()
	}
	return netip.AddrPort{}
}

// certificates exports the life of the proxy's certificates.
type certificates struct {
	intake *intake.Client
	desc   *prometheus.Desc
}

func (c *certificates) Describe(ch chan<- *prometheus.Desc) { ch <- c.desc }

func (c *certificates) Collect(ch chan<- prometheus.Metric) {
	for _, cert := range c.intake.Certificates() {
		ch <- prometheus.MustNewConstMetric(c.desc, prometheus.GaugeValue, time.Until(cert.ValidBefore).Seconds(), cert.URI)
	}
}
