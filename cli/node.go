// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	"github.com/weftmesh/weft/agent"
	"github.com/weftmesh/weft/agent/config"
	"github.com/weftmesh/weft/agent/forward"
	"github.com/weftmesh/weft/agent/servers"
	"github.com/weftmesh/weft/agent/tokens"
	"github.com/weftmesh/weft/internal/acl"
	"github.com/weftmesh/weft/internal/api"
	"github.com/weftmesh/weft/internal/gossip"
	"github.com/weftmesh/weft/internal/heap"
	"github.com/weftmesh/weft/internal/listen"
	"github.com/weftmesh/weft/internal/logs"
	"github.com/weftmesh/weft/internal/memnet"
	"github.com/weftmesh/weft/internal/plane"
	"github.com/weftmesh/weft/internal/rate"
	"github.com/weftmesh/weft/internal/run"
	"github.com/weftmesh/weft/internal/seal"
	"github.com/weftmesh/weft/server"
)

// node is one agent with what it is wired to: gossip, a server in the same process or the way to those elsewhere.
type node struct {
	tap logs.Tap // of the log, for those who watch

	s       config.Config // with name, ID, and the ports that were opened
	address string        // that others reach this node by
	log     *slog.Logger
	door    *listen.Door
	metrics *prometheus.Registry
	network *memnet.Network // between agent and server

	outer    *seal.Outer     // the key from outside that seals what is on this node's disk; nil: there is none
	identity *plane.Identity // what this node got when it joined; nil in a cluster that isn't locked
	others   int             // how many more servers the founder's first token is for
	stdout   io.Writer
	audit    *api.Audit
	endAudit func()

	lan    atomic.Pointer[gossip.Pool] // for the plane, which is there before
	plane  *plane.Plane
	port   net.Listener // the servers'; nil for a client
	demux  *plane.Demux
	gossip *gossiping
	server *server.Server   // nil for a client
	pick   *servers.Servers // nil for a server

	forward *forward.Forwarder
	tokens  *tokens.Tokens
	conn    *grpc.ClientConn
	agent   *agent.Agent

	end context.CancelCauseFunc // ends the whole

	level *slog.LevelVar
	again func() (config.Config, []string, error) // reads the settings anew
	files []string                                // that they are in

	toServers rate.Limiter         // how often this node asks servers elsewhere
	requests  server.RequestLimits // how often it is asked as one
}

// The timing of connections between nodes.
const (
	keepaliveTime    = 10 * time.Second
	keepaliveTimeout = 5 * time.Second
)

// runAgent runs an agent, and where it is one a server with it, until ctx ends. The server is there before the agent and goes
// after it, and gossip is there longest.
func runAgent(ctx context.Context, env Env, s config.Config, warnings []string, again func() (config.Config, []string, error), files []string) error {
	if err := keepMemory(env); err != nil {
		return err
	}
	out, end, err := logOutput(env.Stdout, &s.Logging)
	if err != nil {
		return err
	}
	defer end()
	level := new(slog.LevelVar)
	if err := setLevel(level, s.LogLevel); err != nil {
		return err
	}
	log, err := logs.New(logs.Config{Writer: out, Level: level, JSON: s.LogJSON})
	if err != nil {
		return err
	}
	forget, err := writePID(s.PIDFile)
	if err != nil {
		return err
	}
	defer forget()
	for _, w := range warnings {
		log.Warn("configuration", "warning", w)
	}
	n := &node{s: s, level: level, again: again, files: files, network: memnet.New(), metrics: prometheus.NewRegistry(), stdout: env.Stdout, others: otherServers(&s)}
	log = slog.New(n.tap.Handler(log.Handler()))
	n.log = log
	n.setRates(&s)
	if err := n.identify(); err != nil {
		return err
	}
	if n.outer, err = seal.Outside(s.Seal.KeyFile, env.Getenv("CREDENTIALS_DIRECTORY")); err != nil {
		return err
	}
	if err := n.enter(ctx); err != nil { // a signal ends the wait for servers
		return err
	}
	running, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancel(nil)
	n.end = cancel
	defer n.close()
	if err := n.make(running); err != nil {
		return err
	}
	log.Info("weft agent", "version", Version, "node", n.s.NodeName, "datacenter", s.Datacenter, "server", s.Server, "dev", s.Dev)
	defer context.AfterFunc(ctx, func() { // a signal: leave, if that is wanted, while everything still runs
		if leaves(ctx, s) {
			if err := n.gossip.leave(running); err != nil {
				log.Warn("the others may take this node for failed", "error", err)
			}
		}
		cancel(context.Cause(ctx))
	})()
	return n.run(running)
}

// identify settles who this node is and where others reach it.
func (n *node) identify() (err error) {
	if n.s.NodeName == "" {
		if n.s.NodeName, err = os.Hostname(); err != nil {
			return err
		}
	}
	if n.s.NodeID, err = nodeID(&n.s); err != nil {
		return err
	}
	n.address = n.s.AdvertiseAddr
	if n.address == "" {
		n.address = n.s.BindAddr
	}
	if ip := net.ParseIP(n.address); ip == nil || ip.IsUnspecified() {
		if n.address, err = privateAddress(); err != nil {
			return err
		}
	}
	n.door, err = listen.New(listen.Config{Log: n.log.With("part", "listen"), Metrics: n.metrics})
	return err
}

// make makes all parts. Of them, only the servers' port is open then.
func (n *node) make(ctx context.Context) error {
	if err := n.newPlane(); err != nil {
		return err
	}
	var err error
	if n.audit, n.endAudit, err = newAudit(&n.s, n.log); err != nil {
		return err
	}
	if n.s.Server {
		if err := n.listen(ctx); err != nil {
			return err
		}
	}
	n.gossip, err = newGossip(gossipConfig{
		settings: n.s, address: n.address, door: n.door, metrics: n.metrics, outer: n.outer, log: n.log,
		onEvent: func(e gossip.UserEvent) { n.agent.Event(e) }, // the pools run after the agent is there
	})
	if err != nil {
		return err
	}
	n.lan.Store(n.gossip.lan)
	if n.s.Server {
		if n.server, err = n.newServer(); err != nil {
			return err
		}
	} else if n.pick, err = servers.New(servers.Config{
		Changes: n.gossip.lan.Changes, Members: n.gossip.lan.Members, Moved: func() { n.forward.Renew() }, Rand: rand.IntN,
		Dial: func(ctx context.Context, address, protocol string) (net.Conn, error) {
			return n.plane.Dial(ctx, address, "", protocol)
		},
		Log: n.log.With("part", "servers"),
	}); err != nil {
		return err
	}
	if err := n.dialServers(); err != nil {
		return err
	}
	n.agent, err = agent.New(agent.Config{
		Settings: n.s, NodeName: n.s.NodeName, NodeID: n.s.NodeID, Address: n.address, Version: Version, Servers: n.forward, Conn: n.conn, Tokens: n.tokens,
		ReadAgain: n.readAgain, Audit: n.audit,
		Door: n.door, LAN: n.gossip.lan, WAN: n.gossip.wan, Leave: n.leave, Logs: &n.tap, Metrics: n.metrics, Log: n.log,
		Seal: n.sealStats, StartHostProxy: startHostProxy(n.s), NodeCertificate: n.plane.Certificate, AutoCertificate: n.autoCertificate(),
	})
	return err
}

// autoCertificate gives listeners the certificate that this node got when it joined, if it did.
func (n *node) autoCertificate() config.CertSource {
	if n.plane.Mode() != plane.Joined {
		return nil
	}
	return n.plane.ServerCertificate
}

// dialServers makes the agent's two ways to the servers: within the process to its own, else over the plane to one that is chosen.
func (n *node) dialServers() (err error) {
	conf := forward.Config{
		Node: n.s.NodeName, Log: n.log.With("part", "forward"), DefaultToken: func() string { return n.tokens.Own(tokens.Default) },
		Dial:  func(ctx context.Context) (net.Conn, error) { return n.pick.Dial(ctx, plane.HTTP) },
		Limit: &n.toServers, Timeout: n.s.Limits.RPCClientTimeout, Refetch: func() *rate.Limiter { return rate.New(n.s.Cache.Fetches()) },
	}
	if n.server != nil {
		conf.Local = n.server.Handler()
	}
	if n.forward, err = forward.New(conf); err != nil {
		return err
	}
	if n.tokens, err = n.newTokens(); err != nil {
		return err
	}
	dialGRPC := func(ctx context.Context) (net.Conn, error) {
		if n.pick != nil {
			return n.pick.Dial(ctx, plane.GRPC)
		}
		return n.network.DialContext(ctx, serverGRPC)
	}
	n.conn, err = grpc.NewClient("passthrough:///server",
		grpc.WithTransportCredentials(insecure.NewCredentials()), // the connections are TLS already, or in memory
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return dialGRPC(ctx) }),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.5, MaxDelay: 5 * time.Second}, MinConnectTimeout: 10 * time.Second,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: keepaliveTime, Timeout: keepaliveTimeout}))
	return err
}

// newTokens are what the agent knows of tokens.
func (n *node) newTokens() (*tokens.Tokens, error) {
	a := n.s.ACL
	c := tokens.Config{
		Enabled: a.Enabled, Servers: n.forward, Node: n.s.NodeName, TTL: a.TTL(), Down: tokens.DownPolicy(a.DownPolicy), Default: acl.Deny,
		KeyList: a.EnableKeyListPolicy, Own: a.Tokens.Own(), Now: time.Now,
	}
	if a.DefaultPolicy != "deny" {
		c.Default = acl.Write
	}
	if a.EnableTokenPersistence && n.s.DataDir != "" {
		c.Store = tokens.File{Path: filepath.Join(n.s.DataDir, "acl-tokens.json"), Seal: n.outer}
	}
	return tokens.New(c)
}

// sealStats says by what secrets on this node's disk are sealed.
func (n *node) sealStats() map[string]string {
	out := map[string]string{"this_node": "nothing: no key from outside is given"}
	if n.outer != nil {
		out["this_node"] = n.outer.Source + " (" + n.outer.Key.ID() + ")"
	}
	if n.server != nil {
		out["log_and_snapshots"], out["key_sealed_by"] = n.server.Seal()
	}
	return out
}

// close closes what was made, where it isn't run, and what nobody else closes.
func (n *node) close() {
	if n.endAudit != nil {
		defer n.endAudit()
	}
	if n.port != nil {
		n.port.Close()
	}
	if n.forward != nil {
		n.forward.Close()
	}
	if n.conn != nil {
		n.conn.Close()
	}
}

func (n *node) run(ctx context.Context) error {
	group := run.New(ctx)
	n.gossip.run(group)
	ready := make(<-chan struct{})
	if n.server != nil {
		ready = n.server.Ready()
		group.GoOrdered("server", n.server.Run)
		n.servePort(group)
		if err := serveInMemory(group, n.door, n.network, n.server); err != nil {
			return errors.Join(err, group.Stop())
		}
	} else {
		group.GoOrdered("servers", n.pick.Run)
	}
	group.Go("node's certificate", n.keepIdentity)
	var keeper heap.Keeper
	if n.server != nil {
		keeper.Room = heap.ServerRoom(heap.Memory())
	}
	group.Go("heap", func(ctx context.Context) error { return keeper.Run(ctx, os.Getenv) })
	group.Go("reload", n.reloadOnSignal)
	group.Go("reload by change", n.reloadOnChange)
	group.GoOrdered("agent", func(ctx context.Context) error {
		patience := time.NewTimer(leaderPatience)
		defer patience.Stop()
		select { // what the agent asks for first needs a leader; without one it still answers what it can
		case <-ready:
		case <-patience.C:
		case <-ctx.Done():
		}
		return n.agent.Run(ctx)
	})
	if n.server != nil {
		group.GoOrdered("hand over", func(ctx context.Context) error { // first of all, so that nobody waits for an election
			<-ctx.Done()
			n.server.HandOver()
			return nil
		})
	}
	return group.Wait()
}

// readAgain reads the configuration's files anew and puts in force what a running agent can change.
func (n *node) readAgain() error {
	s, warnings, err := n.again()
	if err != nil {
		return err
	}
	for _, w := range warnings {
		n.log.Warn("configuration", "warning", w)
	}
	if err := setLevel(n.level, s.LogLevel); err != nil {
		return err
	}
	n.setRates(&s)
	return n.agent.Reload(s)
}

// setRates puts in force how often this node asks servers, and how often it is asked as one.
func (n *node) setRates(s *config.Config) {
	n.toServers.Set(s.Limits.RPC())
	reads, writes := s.Limits.RequestLimits.Rates()
	n.requests.Set(s.Limits.RequestLimits.Mode, reads, writes)
}

func setLevel(level *slog.LevelVar, name string) error {
	l, err := logs.ParseLevel(name)
	if err == nil {
		level.Set(l)
	}
	return err
}

// reloadOnSignal reads the configuration anew at each SIGHUP. What is wrong with it is logged, and the old one stays.
func (n *node) reloadOnSignal(ctx context.Context) error {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGHUP)
	defer signal.Stop(signals)
	for {
		select {
		case <-signals:
			if err := n.readAgain(); err != nil {
				n.log.Error("reload", "error", err)
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// leave tells the others that this node goes, and ends it.
func (n *node) leave(ctx context.Context) error {
	err := n.gossip.leave(ctx)
	if n.s.Server && n.s.Performance.LeaveDrainTime > 0 {
		drained := time.NewTimer(n.s.Performance.LeaveDrainTime)
		defer drained.Stop()
		select { // agents that have not heard yet still ask this server
		case <-drained.C:
		case <-ctx.Done():
		}
	}
	n.end(errLeft)
	return err
}

// errLeft is why an agent ends that was told to leave.
var errLeft = errors.New("this node has left")

// leaves says whether the agent leaves before it ends, by what ended it.
func leaves(ctx context.Context, s config.Config) bool {
	terminate, interrupt := s.LeaveOn()
	var sig *signalError
	if !errors.As(context.Cause(ctx), &sig) {
		return false
	}
	if sig.signal == syscall.SIGINT {
		return interrupt
	}
	return terminate
}

// leaderPatience is how long the agent's start waits for a leader.
const leaderPatience = time.Second

// serverGRPC is the name of the server's listener on the in-memory network.
const serverGRPC = "server-grpc"

// maxMessage bounds what server and agent send each other at once: a host with very many services.
const maxMessage = 64 << 20

func serveInMemory(g *run.Group, door *listen.Door, network *memnet.Network, srv *server.Server) error {
	gl, err := door.MemStream(network, listen.Spec{Name: serverGRPC, Address: serverGRPC, Limits: listen.Limits{MaxUnauthenticatedLoopback: -1}})
	if err != nil {
		return err
	}
	rpc := grpc.NewServer(serverOptions(srv)...)
	srv.RegisterGRPC(rpc)
	g.GoOrdered(serverGRPC, func(ctx context.Context) error {
		defer context.AfterFunc(ctx, rpc.Stop)()
		return rpc.Serve(gl)
	})
	return nil
}
