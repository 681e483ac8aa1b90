// SPDX-License-Identifier: Apache-2.0

// Package server is one of the servers that agree: it orders commands by Raft, applies them to its catalog, leads where it
// is elected, signs leaves, and serves the REST API and the feeds that agents follow. It knows nothing of agents but what
// they ask. Server.Run owns all its goroutines, with those of Raft.
package server

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/grpc"

	"github.com/weftmesh/weft/ca"
	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/internal/api"
	"github.com/weftmesh/weft/internal/failpoint"
	"github.com/weftmesh/weft/internal/gossip"
	"github.com/weftmesh/weft/internal/run"
	"github.com/weftmesh/weft/internal/seal"
	weftv1 "github.com/weftmesh/weft/proto/weft/v1"
	"github.com/weftmesh/weft/server/feed"
	"github.com/weftmesh/weft/server/rest"
	"github.com/weftmesh/weft/server/verify"
)

// Config is what a Server is made of.
type Config struct {
	// DataDir is where the log and the snapshots are kept; "" keeps nothing.
	DataDir    string
	Datacenter string
	NodeName   string
	// NodeID is what this server is, whatever its name and address; "" is NodeName.
	NodeID string
	// Address is where other servers reach this server, as 127.0.0.1:8300.
	Address string
	// Requests bound what is asked of this server; nil: nothing does.
	Requests *RequestLimits
	// Version is the weft that runs, for lists.
	Version string

	// Members tells which nodes there are; nil: nobody does, and this server is alone.
	Members Members
	// Alone says that there will never be another server; the four below aren't used then.
	Alone bool
	// Expect is how many servers found a cluster: bootstrap_expect. 0: this one waits to be taken into one.
	Expect int
	// Streams are the connections of other servers' Raft.
	Streams net.Listener
	// Reads accepts connections of plane.Reads, on which servers confirm to each other who leads.
	Reads net.Listener
	// Dial connects to another server and speaks one of plane's protocols.
	Dial func(ctx context.Context, address, protocol string) (net.Conn, error)
	// DialWAN connects to a server of another datacenter; nil: there is no way to others.
	DialWAN func(ctx context.Context, address, datacenter, protocol string) (net.Conn, error)
	// Primary is the datacenter whose authority has the root, and where config entries and intentions are written; "" or Datacenter:
	// this one.
	Primary string
	// Replication is the token with which other datacenters' servers are asked; nil: there is none.
	Replication func() string
	// FromServer says whether a call came from a server; nil: they all did.
	FromServer func(ctx context.Context) bool
	// Autopilot holds until somebody says otherwise by the API; zero is the default.
	Autopilot catalog.AutopilotConfig
	// Snapshots are saved while this server leads.
	Snapshots Snapshots
	// Meta is this node's metadata.
	Meta map[string]string
	// Tuning is Raft's.
	Tuning Tuning
	// Hold is how long a request waits for a leader, where there is none: rpc_hold_timeout. 0 is 7 s.
	Hold time.Duration

	// LAN and WAN are the gossip pools that this server is in; they run beside it. nil: it is in none.
	LAN, WAN *gossip.Pool
	// CA is the built-in authority's configuration, used when the cluster has none yet.
	CA ca.Config
	// DefaultAllow is the decision where no intention speaks.
	DefaultAllow bool
	// Entries are written when this server first leads, if they aren't there.
	Entries []catalog.Entry
	// Closure reads all that configuring a proxy reads: that is what feeds send to its agent. Without one, interests in
	// proxies are refused, and only those in topics served.
	Closure func(*catalog.Txn, *catalog.Service) error
	// Render says what a proxy should have, for comparison with what its agent reports; nil compares only what agents say.
	Render verify.Render
	// Schema is the newest schema version that this server says it knows; 0 is catalog.SchemaVersion. Lower, it is as a server
	// of an older weft.
	Schema uint64
	// MaxValue bounds a key's value, MaxTransaction the body of a transaction; 0 for 512 KiB.
	MaxValue, MaxTransaction int64
	// DefaultWait is how long a blocking query waits that doesn't say, MaxWait how long one may; 0 for 5 and 10 minutes.
	DefaultWait, MaxWait time.Duration
	// SessionTTLMin is the shortest time to live that a session may have; 0 for 10 seconds.
	SessionTTLMin time.Duration
	// NoPeering refuses all of /v1/peering.
	NoPeering bool
	// Rand is where keys and identifiers come from, safe for concurrent use; nil is the system's source.
	Rand io.Reader
	// Now is the clock: certificates, reports and positions are dated by it; nil is the system's.
	Now func() time.Time
	// Resolver finds what a token grants; nil: the server's own, as ACL says.
	Resolver api.Resolver
	ACL      ACLConfig
	// SealedBy is a key from outside that seals the file with the keys by which the log's secrets are sealed; nil: that is in clear.
	SealedBy *seal.Outer
	Audit    *api.Audit   // is told of writes and refusals; nil: nobody is
	Join     *JoinConfig  // nil: nobody joins by token
	Pretty   bool         // answers are indented
	Log      *slog.Logger // nil: nothing is logged
}

// Server is one server. Make it with New, and Run it.
type Server struct {
	c     Config
	store *catalog.Store
	raft  atomic.Pointer[raftNode] // nil until Run
	ca    *authority
	feed  *feed.Server
	mux   *api.Mux

	sessions    *sessionKeeper
	coordinates *coordinates
	peers       *peers
	wan         *wan
	others      *serversService
	known       known
	entrance    *entrance
	reads       *gate
	applied     progress
	elections   broadcast // a leader was elected, or lost
	reigns      reigns
	room        *room
	office      atomic.Uint64 // the term in which this server took office, 0: it isn't in office
	lines       lines
	asked       sync.WaitGroup // questions on their way
	proposed    atomic.Int64   // commands that Raft was given, and that aren't settled yet
	answering   answering
	manyVote    atomic.Bool            // at the last look of a confirmation
	inTheWay    atomic.Pointer[string] // why the schema version can't be raised
	pilot       *pilot
	anew        chan chan struct{} // asks for the leader's work to begin anew

	ring    *seal.Ring      // the keys that the log's secrets are sealed by
	sharing sync.Mutex      // guards shared
	shared  map[string]bool // key and server, by IDs: who is known to have which

	acl     *rest.ACL  // nil: ACLs are off
	entryMu sync.Mutex // config entries are checked against each other and written one at a time

	ready     chan struct{} // closed when this server first took office
	readyAt   time.Time     // when that was; read once ready is closed
	readyOnce sync.Once

	fatal chan error // the first fault after which this server must not go on
}

// withDefaults fills in what is unset, and says what is missing.
func (c Config) withDefaults() (Config, error) {
	if c.Datacenter == "" || c.NodeName == "" {
		return c, errors.New("server: Datacenter and NodeName must be set")
	}
	if c.NodeID == "" {
		c.NodeID = c.NodeName
	}
	c.Alone = c.Alone || c.Members == nil
	if !c.Alone && (c.Streams == nil || c.Reads == nil || c.Dial == nil) {
		return c, errors.New("server: Members need Streams, Reads and Dial")
	}
	if c.Autopilot == (catalog.AutopilotConfig{}) {
		c.Autopilot = catalog.DefaultAutopilot()
	}
	if c.Hold == 0 {
		c.Hold = 7 * time.Second
	}
	if c.Address == "" {
		c.Address = "127.0.0.1:8300"
	}
	if c.Schema == 0 {
		c.Schema = catalog.SchemaVersion
	}
	if c.Rand == nil {
		c.Rand = rand.Reader
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Resolver == nil {
		c.Resolver = api.Open{}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c, nil
}

// New makes a server. It reads the keys under DataDir that secrets are sealed by, and starts nothing.
func New(c Config) (*Server, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, err
	}
	store, err := catalog.New(catalog.Config{Datacenter: c.Datacenter, Schema: c.Schema, Epoch: uint64(c.Now().UnixNano())})
	if err != nil {
		return nil, err
	}
	s := &Server{c: c, store: store, fatal: make(chan error, 1), ready: make(chan struct{})}
	if s.ring, err = openRing(&c); err != nil {
		return nil, err
	}
	if err := s.setUpACL(); err != nil {
		return nil, err
	}
	c = s.c
	s.peers = newPeers(c.Dial)
	s.lines = lines{dial: s.peers.dial, id: c.NodeID, now: c.Now}
	s.ca, s.others, s.reads, s.entrance = newAuthority(s), &serversService{s: s}, newGate(s), newEntrance(s)
	s.sessions, s.pilot, s.anew = newSessionKeeper(s), newPilot(s), make(chan chan struct{})
	s.room = &room{segment: uint64(c.Tuning.SegmentSize), now: c.Now, free: freeBytes}
	if c.DataDir != "" {
		s.room.dir = filepath.Join(c.DataDir, "server")
	}
	s.reigns.leader = func() string {
		id, _ := s.raftLeader()
		return id
	}
	s.coordinates, s.wan = &coordinates{s: s}, &wan{s: s}
	if s.feed, err = feed.New(feed.Config{
		Store: store, Resolver: c.Resolver, Closure: c.Closure, Now: c.Now, Log: c.Log.With("part", "feed"),
	}); err != nil {
		return nil, err
	}
	if c.Render == nil {
		c.Render = func(t *catalog.Txn, p *catalog.Service, _ verify.About) (r verify.Rendering, err error) {
			if c.Closure != nil {
				err = c.Closure(t, p)
			}
			return r, err
		}
	}
	s.mux, err = api.NewMux(api.MuxConfig{
		Side: api.Server, Resolver: c.Resolver, Datacenter: c.Datacenter, Pretty: c.Pretty, DefaultACLPolicy: c.ACL.defaultPolicy(),
		Audit:  c.Audit,
		Before: s.before, DefaultWait: c.DefaultWait, MaxWait: c.MaxWait,
		Handlers: rest.Handlers(rest.Config{
			ACL: s.acl, TokensDecide: c.ACL.Enabled && !c.ACL.Allow, Join: s.joins(), Cluster: s, Operator: s, Store: store, CA: s.ca, Proxies: verify.New(verify.Config{
				Store: store, Reports: s.feed.Reports, Render: c.Render, DefaultAllow: c.DefaultAllow, Now: c.Now,
			}), LAN: c.LAN, WAN: c.WAN, Coordinates: s.coordinates, DefaultAllow: c.DefaultAllow, Rand: c.Rand, Now: c.Now,
			Node: c.NodeName, MaxValue: c.MaxValue, MaxTransaction: c.MaxTransaction, SessionTTLMin: c.SessionTTLMin, NoPeering: c.NoPeering,
		}),
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// Handler answers the servers' half of the REST API.
func (s *Server) Handler() http.Handler { return s.entrance }

// RegisterGRPC binds what agents and other servers use besides the REST API. The gRPC server needs UnaryInterceptor.
func (s *Server) RegisterGRPC(g *grpc.Server) {
	weftv1.RegisterFeedServer(g, s.feed)
	weftv1.RegisterCatalogServer(g, &catalogService{s: s})
	weftv1.RegisterCAServer(g, s.ca)
	weftv1.RegisterServersServer(g, s.others)
}

// Ready is closed when this server has first taken office as the leader: writes and signatures can be asked for.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// Run opens the files under DataDir and serves until ctx ends or something happens after which going on would do harm: a log entry that can't be read, a
// disk that fails.
func (s *Server) Run(ctx context.Context) error {
	dir := ""
	if s.c.DataDir != "" {
		dir = filepath.Join(s.c.DataDir, "server")
	}
	conf := raftConfig{
		dir: dir, id: s.c.NodeID, name: s.c.NodeName, datacenter: s.c.Datacenter, address: s.c.Address, alone: s.c.Alone, tuning: s.c.Tuning,
		addresses: addresses{s}, store: s.store, applied: &s.applied, elections: &s.elections, room: s.room, fatal: s.fail, log: s.c.Log.With("part", "raft"),
	}
	if !s.c.Alone {
		conf.streams = &streams{Listener: s.c.Streams, address: s.c.Address, dial: s.c.Dial}
	}
	node, err := openRaft(conf)
	if err != nil {
		return err
	}
	s.raft.Store(node)
	g := run.New(ctx)
	g.GoOrdered("peers", func(ctx context.Context) error {
		<-ctx.Done()
		s.peers.close()
		s.wan.close()
		return nil
	})
	g.GoOrdered("raft", func(ctx context.Context) error { return node.run(ctx, &s.elections, &s.reigns) })
	g.GoOrdered("leader", s.followLeadership)
	g.GoOrdered("reads", s.reads.run)
	if !s.c.Alone {
		g.GoOrdered("questions", s.answer)
		g.Go("bootstrap", s.bootstrap)
		g.Go("digests", s.compareDigests)
		g.Go("seal keys", s.keepSealKeys)
	}
	g.Go("faults", func(ctx context.Context) error {
		select {
		case err := <-s.fatal:
			return err
		case <-ctx.Done():
			return nil
		}
	})
	return g.Wait()
}

// HandOver has another server lead, if this one does. It blocks until that is so, or can't be.
func (s *Server) HandOver() {
	if node := s.raft.Load(); node != nil {
		node.handOver()
	}
}

func (s *Server) fail(err error) {
	select {
	case s.fatal <- err:
	default: // an earlier one is on its way already
	}
}

const (
	// proposeTimeout bounds how long a command may wait to be handed to Raft.
	proposeTimeout = 10 * time.Second
	// neverWaits is how many commands at once are handed to Raft without a timer for that: its queue has room for more than these.
	neverWaits = maxAppendEntries / 2
)

// Propose has a command ordered and applied, and gives its result; Err is the command's own. Without a leader here it is
// api.ErrNoLeader, and nothing was done.
func (s *Server) Propose(ctx context.Context, body catalog.Body) (catalog.Result, error) {
	if err := s.understood(body); err != nil {
		return catalog.Result{}, err
	}
	data, err := catalog.EncodeAt(body, s.c.Now())
	if err != nil {
		return catalog.Result{}, err
	}
	node := s.raft.Load()
	if node == nil {
		return catalog.Result{}, api.ErrNoLeader
	}
	if err := s.room.check(); err != nil {
		if s.room.handOver() {
			go node.handOver() // others may have room; it ends with Raft's own timeout
		}
		return catalog.Result{}, err
	}
	if err := failpoint.Hit(failpoint.Propose); err != nil {
		return catalog.Result{}, err
	}
	if ctx.Err() != nil {
		return catalog.Result{}, fmt.Errorf("given up before it began: %w", context.Cause(ctx))
	}
	var timeout time.Duration
	if s.proposed.Add(1) > neverWaits {
		timeout = proposeTimeout
	}
	future := node.Apply(data, timeout)
	switch err = s.settled(ctx, future); {
	case errors.Is(err, errUnsettled):
		markTaken(ctx)
		return catalog.Result{}, err
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress), errors.Is(err, raft.ErrRaftShutdown):
		return catalog.Result{}, api.ErrNoLeader
	case errors.Is(err, raft.ErrLeadershipLost):
		markTaken(ctx)
		return catalog.Result{}, fmt.Errorf("leadership was lost while the command was on its way, it may still be applied: %w", err)
	case err != nil:
		markTaken(ctx)
		return catalog.Result{}, err
	}
	markTaken(ctx)
	if err := failpoint.Hit(failpoint.Answer); err != nil {
		return catalog.Result{}, err
	}
	result, ok := future.Response().(catalog.Result)
	if !ok {
		return catalog.Result{}, fmt.Errorf("raft gave a %T for a result", future.Response())
	}
	return result, result.Err
}

// errUnsettled says that nobody waited for what became of a command.
var errUnsettled = errors.New("the command may still be applied")

// settled waits for what becomes of a command. Raft completes every one, where it leads no longer with an error: so only who has a time by which
// to know gives up before. A goroutine for each write, and the two wakes of it, was a twentieth of its cost.
func (s *Server) settled(ctx context.Context, future raft.ApplyFuture) error {
	if _, bound := ctx.Deadline(); !bound {
		defer s.proposed.Add(-1)
		return future.Error()
	}
	done := make(chan error, 1)
	go func() { // ends with the future
		defer s.proposed.Add(-1)
		done <- future.Error()
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", errUnsettled, context.Cause(ctx))
	}
}

// Leader is the leader's address, "" if there is none.
func (s *Server) Leader() string {
	_, address := s.leader()
	return address
}

// Peers are the addresses of the servers that vote.
func (s *Server) Peers() ([]string, error) {
	node := s.raft.Load()
	if node == nil {
		return nil, api.ErrNoLeader
	}
	future := node.GetConfiguration()
	if err := future.Error(); err != nil {
		return nil, err
	}
	peers := []string{}
	for _, p := range future.Configuration().Servers {
		if p.Suffrage == raft.Voter {
			peers = append(peers, s.addressOf(string(p.ID), string(p.Address)))
		}
	}
	return peers, nil
}

// LockEntries serialises the writers of config entries, which check an entry against the others before they write it.
func (s *Server) LockEntries() (unlock func()) {
	s.entryMu.Lock()
	return s.entryMu.Unlock
}
