// SPDX-License-Identifier: Apache-2.0

// Package agent is the part of weft that runs on every host: it takes registrations, runs checks, brings the catalog in line with
// them, follows the part of the catalog that this host needs, keeps certificates, and serves xDS to the host's proxies and
// the HTTP API to its people. To it, the servers are an http.Handler to pass a request on to, and a gRPC connection.
// Agent.Run owns all its goroutines.
package agent

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	mathrand "math/rand/v2"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	gosync "sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"github.com/weftmesh/weft/agent/check"
	"github.com/weftmesh/weft/agent/config"
	"github.com/weftmesh/weft/agent/dns"
	"github.com/weftmesh/weft/agent/event"
	"github.com/weftmesh/weft/agent/hostproxy"
	"github.com/weftmesh/weft/agent/leaf"
	"github.com/weftmesh/weft/agent/local"
	"github.com/weftmesh/weft/agent/proxies"
	"github.com/weftmesh/weft/agent/replica"
	"github.com/weftmesh/weft/agent/rest"
	"github.com/weftmesh/weft/agent/sealed"
	"github.com/weftmesh/weft/agent/sync"
	"github.com/weftmesh/weft/agent/telemetry"
	"github.com/weftmesh/weft/agent/tokens"
	"github.com/weftmesh/weft/agent/watch"
	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/connect/xds/ads"
	"github.com/weftmesh/weft/internal/api"
	"github.com/weftmesh/weft/internal/gossip"
	"github.com/weftmesh/weft/internal/listen"
	"github.com/weftmesh/weft/internal/logs"
	"github.com/weftmesh/weft/internal/run"
	weftv1 "github.com/weftmesh/weft/proto/weft/v1"
)

// Config is what an Agent is made of.
type Config struct {
	Settings config.Config
	NodeName string
	NodeID   string
	Address  string // the node's address, as others reach it
	Version  string

	Servers http.Handler             // answers what isn't the agent's own
	Conn    grpc.ClientConnInterface // to a server
	Tokens  *tokens.Tokens           // what callers may do; nil: ACLs are off
	Audit   *api.Audit               // is told of writes and refusals at this agent; nil: nobody is
	Door    *listen.Door
	LAN     *gossip.Pool // who is there; it runs beside the agent
	WAN     *gossip.Pool // the same of all datacenters' servers; nil: this node isn't in it
	// Logs is what is logged, for those who watch.
	Logs *logs.Tap
	// Leave has this node leave both, and the agent end.
	Leave   func(context.Context) error
	Metrics *prometheus.Registry
	// NodeCertificate is what this node shows to others, and whether it is from files; nil: it shows none.
	NodeCertificate func() (cert *x509.Certificate, files bool)
	// AutoCertificate is what this node got when it joined, for tls.grpc.use_auto_cert; nil: it got none.
	AutoCertificate config.CertSource
	// ReadAgain reads the configuration anew and gives it to Reload; nil: there is none to read.
	ReadAgain func() error
	// Seal says by what secrets on this node's disk are sealed; nil: nobody does.
	Seal func() map[string]string
	// StartHostProxy starts a host proxy that serves a control socket and outlives the agent; used with proxy.shared.
	StartHostProxy func(ctx context.Context, socket string) error
	// Now is the clock, Rand where keys and secrets come from, Jitter what is spread over time, by numbers from 0 to 1; nil: the
	// system's.
	Now    func() time.Time
	Rand   io.Reader
	Jitter func() float64
	Log    *slog.Logger
}

// Agent is one host's agent. Make it with New, and Run it.
type Agent struct {
	c        Config
	state    *local.State
	checks   *check.Runner
	syncer   *sync.Syncer
	store    *catalog.Store // the replica's
	replica  *replica.Replica
	leaves   *leaf.Manager
	sealed   *sealed.Keeper // nil: nothing is kept on disk
	proxies  *proxies.Manager
	keeper   *hostproxy.Keeper
	ads      *ads.Server
	dns      *dns.Server // nil: not served
	watches  *watch.Runner
	sender   *telemetry.Sender // nil: metrics are sent nowhere
	guard    atomic.Pointer[config.Config]
	httpsTLS atomic.Pointer[tls.Config]
	grpcTLS  atomic.Pointer[tls.Config]
	events   *event.Events
	mux      *api.Mux
	settings config.Config // New's, then changed by Reload alone

	reloading gosync.Mutex // one Reload at a time
}

// New makes an agent. It reads the files under data_dir and starts nothing.
func New(c Config) (*Agent, error) {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Rand == nil {
		c.Rand = rand.Reader
	}
	if c.Tokens == nil {
		var err error
		if c.Tokens, err = tokens.New(tokens.Config{Now: c.Now}); err != nil {
			return nil, err
		}
	}
	c.Conn = c.Tokens.Conn(c.Conn)
	if c.Jitter == nil {
		c.Jitter = mathrand.Float64
	}
	a := &Agent{c: c, settings: c.Settings}
	a.guard.Store(&c.Settings)
	s := &a.settings
	scope := catalog.Scope{}.Default(s.Datacenter)
	node := catalog.Node{Scope: scope, ID: c.NodeID, Node: c.NodeName, Address: c.Address, TaggedAddresses: tagged(s, c.Address), Meta: s.NodeMeta, Owner: local.Owner}
	journal := ""
	if s.DataDir != "" {
		journal = filepath.Join(s.DataDir, "agent", "registrations")
	}
	var err error
	conf := s.Local(node)
	conf.Journal, conf.Log = journal, c.Log.With("part", "local")
	if a.state, err = local.New(conf); err != nil {
		return nil, err
	}
	checkTLS, err := s.ChecksTLS()
	if err != nil {
		return nil, err
	}
	if a.checks, err = check.New(check.Config{State: a.state, Servers: c.Servers, TLS: checkTLS, Now: c.Now, Log: c.Log.With("part", "check")}); err != nil {
		return nil, err
	}
	if a.syncer, err = sync.New(sync.Config{
		State: a.state, Client: weftv1.NewCatalogClient(c.Conn), Log: c.Log.With("part", "sync"), Outputs: s.CheckUpdateInterval, Token: c.Tokens.Or, Now: c.Now, Jitter: c.Jitter,
	}); err != nil {
		return nil, err
	}
	if a.events, err = event.New(event.Config{
		Node: c.NodeName, Services: a.serviceTags, Fire: c.LAN.Fire, Rand: c.Rand,
	}); err != nil {
		return nil, err
	}
	if err := a.newMesh(); err != nil {
		return nil, err
	}
	if a.watches, err = watch.New(watch.Config{
		API: a.mux, HTTPAddr: a.httpAddress(), Watches: s.Watches, Log: c.Log.With("part", "watch"),
	}); err != nil {
		return nil, err
	}
	return a, a.newDNS()
}

// tagged are the node's addresses by place: those of the configuration, and lan and wan always.
func tagged(s *config.Config, address string) map[string]string {
	out := map[string]string{}
	for place, addr := range map[string]string{"lan": address, "wan": cmp.Or(s.AdvertiseAddrWAN, address)} {
		out[place] = addr
		if ip, err := netip.ParseAddr(addr); err == nil && ip.Is4() {
			out[place+"_ipv4"] = addr
		} else if err == nil {
			out[place+"_ipv6"] = addr
		}
	}
	maps.Copy(out, s.TaggedAddresses)
	return out
}

// Event takes a user event that gossip brought.
func (a *Agent) Event(e gossip.UserEvent) { a.events.Deliver(e) }

// serviceTags are the services of this host with their tags.
func (a *Agent) serviceTags() map[string][]string {
	wanted, _ := a.state.Wanted()
	out := map[string][]string{}
	for _, s := range wanted.Services {
		out[s.Record.Service] = append(out[s.Record.Service], s.Record.Tags...)
	}
	return out
}

// newMesh makes what proxies need.
func (a *Agent) newMesh() error {
	c, s := a.c, &a.settings
	store, err := catalog.New(catalog.Config{Datacenter: s.Datacenter, Replica: true})
	if err != nil {
		return err
	}
	a.store = store
	feed := weftv1.NewFeedClient(c.Conn)
	if a.replica, err = replica.New(replica.Config{
		Node: c.NodeName, Client: feed, Store: store, Token: c.Tokens.Or, MaxAge: s.Proxy.OfflineMaxAge, Now: c.Now, Jitter: c.Jitter,
		Log: c.Log.With("part", "replica"),
	}); err != nil {
		return err
	}
	if a.leaves, err = leaf.New(leaf.Config{
		Node: c.NodeName, Client: weftv1.NewCAClient(c.Conn), Store: store, Rand: c.Rand, Token: c.Tokens.Or, Now: c.Now, Jitter: c.Jitter, Log: c.Log.With("part", "leaf"),
	}); err != nil {
		return err
	}
	if s.DataDir != "" {
		folder := filepath.Join(s.DataDir, "agent")
		if a.sealed, err = sealed.New(sealed.Config{
			Path: filepath.Join(folder, "sealed"), Key: filepath.Join(folder, "seal.key"), Node: c.NodeName, Datacenter: s.Datacenter,
			Store: store, Replica: a.replica, Leaves: a.leaves, Rand: c.Rand, Now: c.Now, Log: c.Log.With("part", "sealed"),
		}); err != nil {
			return err
		}
	}
	key, err := a.proxyKey()
	if err != nil {
		return err
	}
	allow := s.IntentionsAllow()
	if a.proxies, err = proxies.New(proxies.Config{
		State: a.state, Store: store, Replica: a.replica, Leaves: a.leaves, Feed: feed, Synced: a.syncer.Wait, Key: key, ADSAddress: a.adsAddress(),
		NodeAddress: c.Address, DefaultAllow: allow, Now: c.Now, MaxPerSecond: s.XDS.UpdateMaxPerSecond, Trusted: []uint32{0, uint32(os.Geteuid())}, Log: c.Log.With("part", "proxies"),
	}); err != nil {
		return err
	}
	if a.ads, err = ads.New(ads.Config{Source: a.proxies, Log: c.Log.With("part", "ads")}); err != nil {
		return err
	}
	if s.Proxy.Shared {
		socket := filepath.Join(a.runDir(), "proxy.sock")
		if a.keeper, err = hostproxy.New(hostproxy.Config{
			Socket: socket, ADSAddress: a.adsAddress(), Version: c.Version, State: a.state, Secret: a.proxies.Secret,
			Start: func(ctx context.Context) error { return c.StartHostProxy(ctx, socket) }, Log: c.Log.With("part", "hostproxy"),
		}); err != nil {
			return err
		}
	}
	if err := registerMetrics(c.Metrics, a.leaves, a.certificates, c.Now); err != nil {
		return err
	}
	if s.Telemetry.EnableHostMetrics {
		if err := c.Metrics.Register(telemetry.NewHost("/proc", s.DataDir)); err != nil {
			return err
		}
	}
	if s.Telemetry.On() {
		if a.sender, err = telemetry.New(telemetry.Config{
			Settings: s.Telemetry, Host: c.NodeName, Metrics: c.Metrics, Log: c.Log.With("part", "telemetry"),
		}); err != nil {
			return err
		}
	}
	a.mux, err = api.NewMux(api.MuxConfig{
		Side: api.Agent, Node: c.NodeName, Resolver: c.Tokens, Datacenter: s.Datacenter, Pretty: s.Dev, Forward: c.Servers, Loopback: true, Hosts: a.hosts, Compress: true,
		DefaultWait: s.DefaultQueryTime, MaxWait: s.MaxQueryTime,
		Audit: c.Audit,
		Handlers: rest.Handlers(rest.Config{
			Given: a.given, Seal: c.Seal,
			State: a.state, Checks: a.checks, Leaves: a.leaves, Store: store, Proxies: a.proxies, Metrics: c.Metrics,
			LAN: c.LAN, WAN: c.WAN, Events: a.events, Leave: c.Leave, Reload: a.readAgain, Logs: c.Logs, Debug: s.EnableDebug, SetToken: a.setToken, Node: c.NodeName,
			Version: c.Version, Server: s.Server || s.Dev, GRPCPort: s.Ports.GRPC, GRPCTLSPort: s.Ports.GRPCTLS, DefaultAll: allow, Now: c.Now,
			Primary: s.Primary(), Settings: map[string]any{"Datacenter": s.Datacenter, "NodeName": c.NodeName, "DevMode": s.Dev, "ServerMode": s.Server || s.Dev},
		}),
	})
	return err
}

// setToken changes one of the agent's own tokens, and tries again what was refused without it.
func (a *Agent) setToken(kind tokens.Kind, secret string) error {
	if err := a.c.Tokens.Set(kind, secret); err != nil {
		return err
	}
	a.syncer.Again()
	a.replica.Restate()
	return nil
}

// runDir is where sockets go.
func (a *Agent) runDir() string {
	if a.settings.DataDir != "" {
		return filepath.Join(a.settings.DataDir, "run")
	}
	return filepath.Join(os.TempDir(), fmt.Sprintf("weft-%d-%d", os.Getuid(), a.settings.Ports.HTTP))
}

// adsAddress is where this host's proxies find xDS.
func (a *Agent) adsAddress() string {
	s := &a.settings
	addr := s.ClientAddr
	if s.Addresses.GRPC != "" {
		addr = s.Addresses.GRPC
	}
	addr = strings.Fields(addr + " 127.0.0.1")[0]
	if path, ok := strings.CutPrefix(addr, "unix://"); ok {
		return "unix:" + path
	}
	return dialable(addr, s.Ports.GRPC)
}

// httpAddress is where this host's programs find the API.
func (a *Agent) httpAddress() string {
	s := &a.settings
	addr := s.ClientAddr
	if s.Addresses.HTTP != "" {
		addr = s.Addresses.HTTP
	}
	addr = strings.Fields(addr + " 127.0.0.1")[0]
	if strings.HasPrefix(addr, "unix://") {
		return addr
	}
	return dialable(addr, s.Ports.HTTP)
}

// proxyKey is what secrets of proxies are derived from: kept in data_dir, so that proxies outlive the agent.
func (a *Agent) proxyKey() ([]byte, error) {
	key := make([]byte, 32)
	if a.settings.DataDir == "" {
		_, err := io.ReadFull(a.c.Rand, key)
		return key, err
	}
	path := filepath.Join(a.settings.DataDir, "agent", "proxy.key")
	old, err := os.ReadFile(path)
	if err == nil && len(old) == len(key) {
		return old, nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	if _, err := io.ReadFull(a.c.Rand, key); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	return key, os.WriteFile(path, key, 0o600)
}

// Run serves until ctx ends. Stopped in this order: the HTTP API and xDS, then what feeds them, then the journal.
func (a *Agent) Run(ctx context.Context) error {
	g := run.New(ctx)
	g.GoOrdered("journal", a.state.Run)
	a.reloading.Lock() // until everything runs by the settings that it began with
	started := gosync.OnceFunc(a.reloading.Unlock)
	defer started()
	if err := a.registerConfigured(); err != nil {
		return errors.Join(err, g.Stop())
	}
	if a.sender != nil {
		g.GoOrdered("telemetry", a.sender.Run)
	}
	g.GoOrdered("tokens", a.c.Tokens.Run)
	g.GoOrdered("sync", a.syncer.Run)
	g.GoOrdered("replica", a.replica.Run)
	g.GoOrdered("leaf", a.leaves.Run)
	if a.sealed != nil {
		g.GoOrdered("sealed", a.sealed.Run)
	}
	g.GoOrdered("proxies", a.proxies.Run)
	g.GoOrdered("checks", a.checks.Run)
	if a.dns != nil {
		g.GoOrdered("dns", a.dns.Run)
	}
	g.GoOrdered("coordinates", a.sendCoordinates)
	g.GoOrdered("certificates", a.watchCertificates)
	if a.keeper != nil {
		g.GoOrdered("host proxy", a.keeper.Run)
	}
	if err := a.listen(g); err != nil {
		return errors.Join(err, g.Stop())
	}
	g.GoOrdered("watches", a.watches.Run)
	started()
	return g.Wait()
}

// registerConfigured registers what the configuration files name.
func (a *Agent) registerConfigured() error {
	warnings, err := a.state.Configure(a.settings.Services, a.settings.Checks, a.c.Tokens.Own(tokens.ConfigFile))
	for _, w := range warnings {
		a.c.Log.Warn("configuration", "warning", w)
	}
	return err
}

// keepaliveEvery is how often a silent xDS stream is asked whether it is still there.
const keepaliveEvery = 30 * time.Second

// silence is how silent xDS streams are dealt with.
func silence(p config.Performance) keepalive.ServerParameters {
	return keepalive.ServerParameters{Time: cmp.Or(p.GRPCKeepaliveInterval, keepaliveEvery), Timeout: cmp.Or(p.GRPCKeepaliveTimeout, keepaliveEvery/2)}
}

func grpcOptions(p config.Performance) []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.KeepaliveParams(silence(p)),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
		grpc.MaxRecvMsgSize(16 << 20),
	}
}

// registerMetrics adds this process's figures and the lives of its certificates.
func registerMetrics(reg *prometheus.Registry, leaves *leaf.Manager, all func() []rest.CertificateView, now func() time.Time) error {
	return errors.Join(
		reg.Register(collectors.NewGoCollector()),
		reg.Register(collectors.NewProcessCollector(collectors.ProcessCollectorOpts{})),
		reg.Register(&leafCollector{leaves: leaves, now: now, desc: prometheus.NewDesc("weft_agent_leaf_expiry_seconds",
			"Seconds until a service's leaf certificate ends.", []string{"service"}, nil)}),
		reg.Register(&certificateCollector{all: all, now: now, desc: prometheus.NewDesc("weft_agent_certificate_expiry_seconds",
			"Seconds until a certificate ends that isn't a service's: the node's, a listener's, the active root, the intermediate.", []string{"kind"}, nil)}),
	)
}

type leafCollector struct {
	leaves *leaf.Manager
	now    func() time.Time
	desc   *prometheus.Desc
}

func (c *leafCollector) Describe(ch chan<- *prometheus.Desc) { ch <- c.desc }

func (c *leafCollector) Collect(ch chan<- prometheus.Metric) {
	for key, l := range c.leaves.All() {
		ch <- prometheus.MustNewConstMetric(c.desc, prometheus.GaugeValue, l.ValidBefore.Sub(c.now()).Seconds(), key.Name)
	}
}
