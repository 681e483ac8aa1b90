// SPDX-License-Identifier: Apache-2.0

// Package gossip keeps the list of the nodes that are there: who joins, leaves and fails, by SWIM with Lifeguard (memberlist),
// with what serf adds: leave and join intents, user events, changes of the keyring and network coordinates. One Pool is this
// node's place in one such group: the LAN pool of a datacenter, or the WAN pool of the servers of all datacenters.
//
// It decides who may be in the pool (datacenter, segment, name and ID), bounds what a packet or a stream may cost before its
// sender is known, and tells of changes. It doesn't decide what a member's death means: that takes a second witness, and the
// catalog is the servers'. Pool.Run owns its goroutines; those of serf and memberlist end with it, or when the probe that is on
// its way has its answer or hasn't, some seconds later.
package gossip

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/hashicorp/serf/serf"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/weftmesh/weft/internal/run"
	"github.com/weftmesh/weft/internal/seal"
)

// Config is what a Pool is made of.
type Config struct {
	// WAN makes the pool that of the servers of all datacenters; members are called node.datacenter there.
	WAN bool
	// Self is what this node tells of itself.
	Self Self
	// Bind is the address of the sockets, and Advertise what others reach them by. Advertise may be Bind where that is no
	// wildcard. Port 0 of Bind picks one, which then holds for Advertise too.
	Bind, Advertise netip.AddrPort
	// AnyPort takes a free port where Bind's is another program's: for nodes that nobody but this machine reaches.
	AnyPort bool
	// Network opens the sockets: Sockets or Memory. Required.
	Network Network
	// Allowed are the networks that members may be in; none is all.
	Allowed []netip.Prefix
	// DefaultPort is the port of addresses to join that name none; 0 is Bind's.
	DefaultPort int
	// Lookup finds the addresses of a name to join. Default: the system's resolver.
	Lookup func(ctx context.Context, host string) ([]netip.Addr, error)

	// Keys encrypt what is sent, the first, and decrypt what is received, any of them; none is no encryption.
	Keys [][]byte
	// AcceptPlain takes packets that aren't encrypted although there are keys, and SendPlain sends them so: for the time in
	// which a running cluster is changed over.
	AcceptPlain, SendPlain bool
	// KeyringFile is where changed keys are written; "" is nowhere.
	KeyringFile string
	// Seal seals that file; nil: it is in clear.
	Seal *seal.Outer
	// SnapshotFile is where the members are kept that a restarted node joins by itself; "" is nowhere.
	SnapshotFile string
	// RejoinAfterLeave joins them also after this node had left.
	RejoinAfterLeave bool

	// Tuning of the protocol; zero fields are the defaults.
	Tuning Tuning
	// ReconnectTimeout is how long a failed member is remembered. Default 72 h.
	ReconnectTimeout time.Duration
	// DisableCoordinates keeps no network coordinates.
	DisableCoordinates bool

	// OnEvent gets each user event once, from the pool's goroutine: it mustn't block.
	OnEvent func(UserEvent)
	Metrics prometheus.Registerer // nil: none
	Log     *slog.Logger          // nil: nothing is logged
}

// Tuning is the protocol's timing. Zero is the default of the LAN or the WAN.
type Tuning struct {
	GossipInterval time.Duration // between rounds of sending what changed
	GossipNodes    int           // to how many in a round
	ProbeInterval  time.Duration // between probes of one member after the other
	ProbeTimeout   time.Duration // until a probe is tried through others
	SuspicionMult  int           // how long a suspected member has to answer
	RetransmitMult int           // how often a change is sent on
}

const (
	defaultReconnectTimeout = 72 * time.Hour
	// leavePropagate is how long a node that left stays to answer, so that those who don't know yet don't take it for failed.
	leavePropagate = 3 * time.Second
	// reclaimAfter is when a failed member's name may come back from another address.
	reclaimAfter = 30 * time.Second
	// minQueueDepth is how many broadcasts may wait before old ones are dropped; twice the members, if that is more.
	minQueueDepth = 4096
	eventQueue    = 4096
)

// Pool is this node's place in a pool. Make it with New, and Run it. Before it runs and after it ended, it has no members
// and calls that need others give ErrNotRunning.
type Pool struct {
	c       Config
	keyring *memberlist.Keyring // nil: not encrypted
	log     *slog.Logger
	metrics *metrics
	ready   chan struct{}
	seed    maphash.Seed // of fingerprints

	mu      sync.Mutex
	serf    *serf.Serf // nil: not running
	port    int        // the advertised port, once the sockets are open
	version uint64
	changed chan struct{}           // closed and replaced when version grows
	known   map[string]known        // by name: what the last event said
	names   map[string]string       // by ID: the name of the member that is there with it
	refused map[string]*RefuseError // by name: whom admit turned away last
	claims  map[string]claim        // by name: who was let in a moment ago, of whom serf has told nothing yet
	returns returns
	losses  losses
}

// ErrNotRunning is the error of calls to a pool that doesn't run.
var ErrNotRunning = errors.New("gossip isn't running")

// New makes a pool. It opens nothing and starts nothing.
func New(c Config) (*Pool, error) {
	if c.Network == nil {
		return nil, errors.New("gossip: Config.Network is not set")
	}
	if err := c.Self.validate(c.WAN); err != nil {
		return nil, err
	}
	if !c.Bind.IsValid() || !c.Advertise.IsValid() || c.Advertise.Addr().IsUnspecified() {
		return nil, fmt.Errorf("gossip: bind address %s, advertised %s: want an IP address and port each, and no wildcard to advertise", c.Bind, c.Advertise)
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.ReconnectTimeout == 0 {
		c.ReconnectTimeout = defaultReconnectTimeout
	}
	if c.Lookup == nil {
		c.Lookup = lookup
	}
	p := &Pool{
		c: c, log: c.Log, ready: make(chan struct{}), seed: maphash.MakeSeed(), changed: make(chan struct{}),
		known: map[string]known{}, names: map[string]string{}, refused: map[string]*RefuseError{}, claims: map[string]claim{},
		returns: returns{more: make(chan struct{}, 1)}, losses: losses{more: make(chan struct{}, 1)},
	}
	var err error
	if p.metrics, err = newMetrics(c.Metrics, p.kind()); err != nil {
		return nil, err
	}
	if len(c.Keys) > 0 {
		for _, k := range c.Keys {
			if err := CheckKey(k); err != nil {
				return nil, err
			}
		}
		if p.keyring, err = memberlist.NewKeyring(c.Keys, c.Keys[0]); err != nil {
			return nil, fmt.Errorf("gossip: keyring: %w", err)
		}
	}
	return p, nil
}

// kind names the pool in logs, metrics and errors.
func (p *Pool) kind() string {
	if p.c.WAN {
		return "wan"
	}
	return "lan"
}

// Ready is closed when the pool has its sockets and this node is its own first member.
func (p *Pool) Ready() <-chan struct{} { return p.ready }

// Run opens the sockets and takes part until ctx ends; the others then take this node for failed, unless Leave was called
// before.
func (p *Pool) Run(ctx context.Context) error {
	t, err := openTransport(ctx, p)
	if err != nil {
		return err
	}
	for _, file := range []string{p.c.KeyringFile, p.c.SnapshotFile} {
		if file != "" {
			if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
				return errors.Join(err, t.Shutdown())
			}
		}
	}
	events := make(chan serf.Event, eventQueue)
	g := run.New(ctx)
	drained := make(chan struct{})
	g.GoOrdered("events", func(ctx context.Context) error { // ends after the pool: serf blocks while nobody takes its events
		defer close(drained)
		p.follow(ctx, events)
		return nil
	})
	g.Go("heal", p.heal)
	if p.keyring != nil && p.c.Seal != nil && p.c.KeyringFile != "" {
		g.Go("keyring", p.keepKeyring)
	}
	g.GoOrdered("pool", func(ctx context.Context) error {
		conf, err := p.serfConfig(t, events)
		if err != nil {
			return errors.Join(err, t.Shutdown())
		}
		s, err := serf.Create(conf)
		if err != nil {
			return errors.Join(fmt.Errorf("gossip (%s): %w", p.kind(), err), t.Shutdown())
		}
		p.mu.Lock()
		p.serf = s
		p.mu.Unlock()
		close(p.ready)
		p.log.Info("gossiping", "pool", p.kind(), "address", t.advertise().String(), "encrypted", p.keyring != nil)
		select {
		case <-ctx.Done():
		case <-s.ShutdownCh():
		}
		p.mu.Lock()
		p.serf = nil
		p.mu.Unlock()
		p.notify()
		return s.Shutdown()
	})
	return g.Wait()
}

func (p *Pool) serfConfig(t *transport, events chan<- serf.Event) (*serf.Config, error) {
	tags := p.c.Self.tags(p.c.WAN)
	m := memberlist.DefaultLANConfig()
	if p.c.WAN {
		m = memberlist.DefaultWANConfig()
	}
	p.c.Tuning.apply(m)
	m.Transport = t
	m.BindPort, m.AdvertisePort = p.defaultPort(), int(t.advertise().Port()) // BindPort: of join addresses without one
	m.Logger = newLogger(p.log, p.kind())
	m.Keyring = p.keyring
	m.GossipVerifyIncoming, m.GossipVerifyOutgoing = !p.c.AcceptPlain, !p.c.SendPlain
	m.EnableCompression = false // IDs and keys don't shrink, and what isn't expected can't be a bomb
	m.DeadNodeReclaimTime = reclaimAfter
	m.Alive, m.Merge = p, p
	for _, a := range p.c.Allowed {
		m.CIDRsAllowed = append(m.CIDRsAllowed, net.IPNet{IP: a.Masked().Addr().AsSlice(), Mask: net.CIDRMask(a.Bits(), a.Addr().BitLen())})
	}
	c := serf.DefaultConfig()
	c.NodeName = p.c.Self.memberName(p.c.WAN)
	c.Tags = tags
	c.MemberlistConfig = m
	c.Logger = m.Logger
	c.LogOutput = nil
	c.EventCh = events
	c.EnableNameConflictResolution = false // the one that came first stays, see admit
	c.LeavePropagateDelay = leavePropagate
	c.ReconnectTimeout = p.c.ReconnectTimeout
	c.ReconnectInterval = reconnectEvery
	c.ReconnectTimeoutOverride = reconnectTimeouts{}
	c.MinQueueDepth = minQueueDepth
	c.QueueDepthWarning = 1_000_000 // serf's own warning speaks of what the node can't change
	c.DisableCoordinates = p.c.DisableCoordinates
	c.KeyringFile = p.c.KeyringFile
	c.SnapshotPath = p.c.SnapshotFile
	c.RejoinAfterLeave = p.c.RejoinAfterLeave
	if p.keyring == nil || p.c.Seal != nil { // what is sealed, keepKeyring writes
		c.KeyringFile = ""
	}
	return c, nil
}

func (t Tuning) apply(m *memberlist.Config) {
	m.GossipInterval = cmp.Or(t.GossipInterval, m.GossipInterval)
	m.GossipNodes = cmp.Or(t.GossipNodes, m.GossipNodes)
	m.ProbeInterval = cmp.Or(t.ProbeInterval, m.ProbeInterval)
	m.ProbeTimeout = cmp.Or(t.ProbeTimeout, m.ProbeTimeout)
	m.SuspicionMult = cmp.Or(t.SuspicionMult, m.SuspicionMult)
	m.RetransmitMult = cmp.Or(t.RetransmitMult, m.RetransmitMult)
}

func (p *Pool) running() (*serf.Serf, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.serf == nil {
		return nil, fmt.Errorf("%w (%s)", ErrNotRunning, p.kind())
	}
	return p.serf, nil
}

// Changes gives the version of the list of members, and a channel that is closed when it has grown. Take it before Members:
// then nothing is missed.
func (p *Pool) Changes() (version uint64, changed <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.version, p.changed
}

func (p *Pool) notify() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.version++
	close(p.changed)
	p.changed = make(chan struct{})
}

// drainIdle is how long nothing may come from serf after its end until it surely sends nothing more.
const drainIdle = 100 * time.Millisecond

// follow takes serf's events until ctx ends and serf has sent its last one. It calls nothing of serf: that may hold its lock
// while it waits for us.
func (p *Pool) follow(ctx context.Context, events <-chan serf.Event) {
	idle := time.NewTimer(0)
	defer idle.Stop()
	for done := ctx.Done(); ; {
		select {
		case e := <-events:
			p.take(e)
			for more := true; more; {
				select {
				case e := <-events:
					p.take(e)
				default:
					more = false
				}
			}
			p.notify()
			if done == nil {
				idle.Reset(drainIdle)
			}
		case <-done:
			done = nil
			idle.Reset(drainIdle)
		case <-idle.C:
			if done == nil {
				return
			}
		}
	}
}

func (p *Pool) take(e serf.Event) {
	switch e := e.(type) {
	case serf.MemberEvent:
		for i := range e.Members {
			p.learn(e.Type, &e.Members[i])
		}
	case serf.UserEvent:
		if p.c.OnEvent != nil {
			p.c.OnEvent(UserEvent{Name: e.Name, Payload: e.Payload, LTime: uint64(e.LTime)})
		}
	}
}
