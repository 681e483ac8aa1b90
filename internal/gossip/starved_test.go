// SPDX-License-Identifier: Apache-2.0

package gossip

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/hashicorp/serf/serf"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/weftmesh/weft/internal/memnet"
)

// starved is a network on which some nodes get hardly any processor: for starvedFor of each starvedEvery they neither send nor take what
// was sent to them, and do it all at once afterwards. Their timers run on, so that they believe that the others are silent.
type starved struct {
	Network
	hungry func(netip.AddrPort) bool
	on     atomic.Bool
}

const (
	starvedEvery = 10 * time.Second
	starvedFor   = 8 * time.Second
)

// turn waits until a node gets the processor. Each node has its turn at another time.
func (s *starved) turn(at netip.AddrPort) {
	if !s.on.Load() || !s.hungry(at) {
		return
	}
	b := at.Addr().As4()
	into := (time.Duration(time.Now().UnixNano()) + time.Duration(b[3])*1700*time.Millisecond) % starvedEvery
	if into < starvedFor {
		pass(starvedFor - into)
	}
}

func (s *starved) Listen(ctx context.Context, name string, at netip.AddrPort) (net.PacketConn, net.Listener, error) {
	c, l, err := s.Network.Listen(ctx, name, at)
	if err != nil {
		return nil, nil, err
	}
	return &starvedPackets{PacketConn: c, s: s, at: at}, &starvedStreams{Listener: l, s: s, at: at}, nil
}

func (s *starved) Dial(ctx context.Context, from, to netip.AddrPort) (net.Conn, error) {
	s.turn(from)
	return s.Network.Dial(ctx, from, to)
}

type starvedPackets struct {
	net.PacketConn
	s  *starved
	at netip.AddrPort
}

func (p *starvedPackets) WriteTo(b []byte, to net.Addr) (int, error) {
	p.s.turn(p.at)
	return p.PacketConn.WriteTo(b, to)
}

func (p *starvedPackets) ReadFrom(b []byte) (int, net.Addr, error) {
	n, from, err := p.PacketConn.ReadFrom(b)
	p.s.turn(p.at)
	return n, from, err
}

type starvedStreams struct {
	net.Listener
	s  *starved
	at netip.AddrPort
}

func (l *starvedStreams) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	l.s.turn(l.at)
	return c, err
}

// stock is memberlist as it comes, on the same network: what weft's pools are compared with.
type stock struct {
	*memberlist.Memberlist
	deaths atomic.Int64
}

func (s *stock) NotifyJoin(*memberlist.Node)   {}
func (s *stock) NotifyUpdate(*memberlist.Node) {}
func (s *stock) NotifyLeave(*memberlist.Node)  { s.deaths.Add(1) }

// plain is a transport without any of weft's guards.
type plain struct {
	network Network
	at      netip.AddrPort
	packets net.PacketConn
	streams net.Listener
	in      chan *memberlist.Packet
	conns   chan net.Conn
	done    chan struct{}
	work    sync.WaitGroup
}

func (p *plain) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return p.at.Addr().AsSlice(), int(p.at.Port()), nil
}
func (p *plain) PacketCh() <-chan *memberlist.Packet { return p.in }
func (p *plain) StreamCh() <-chan net.Conn           { return p.conns }

func (p *plain) WriteTo(b []byte, to string) (time.Time, error) {
	at, err := netip.ParseAddrPort(to)
	if err != nil {
		return time.Time{}, err
	}
	_, err = p.packets.WriteTo(b, net.UDPAddrFromAddrPort(at))
	return time.Now(), err
}

func (p *plain) DialTimeout(to string, d time.Duration) (net.Conn, error) {
	at, err := netip.ParseAddrPort(to)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	return p.network.Dial(ctx, p.at, at)
}

func (p *plain) Shutdown() error {
	close(p.done)
	err := errors.Join(p.packets.Close(), p.streams.Close())
	p.work.Wait()
	return err
}

func (p *plain) receive() {
	b := make([]byte, 64<<10)
	for {
		n, from, err := p.packets.ReadFrom(b)
		if err != nil {
			return
		}
		select {
		case p.in <- &memberlist.Packet{Buf: append([]byte(nil), b[:n]...), From: from, Timestamp: time.Now()}:
		case <-p.done:
			return
		}
	}
}

func (p *plain) accept() {
	for {
		c, err := p.streams.Accept()
		if err != nil {
			return
		}
		select {
		case p.conns <- c:
		case <-p.done:
			_ = c.Close()
			return
		}
	}
}

func startStock(t *testing.T, network Network, i int) *stock {
	t.Helper()
	p := &plain{network: network, at: addr(i), in: make(chan *memberlist.Packet), conns: make(chan net.Conn), done: make(chan struct{})}
	var err error
	if p.packets, p.streams, err = network.Listen(t.Context(), "stock", p.at); err != nil {
		t.Fatal(err)
	}
	p.work.Go(p.receive)
	p.work.Go(p.accept)
	s := &stock{}
	c := memberlist.DefaultLANConfig()
	c.Name, c.Transport, c.Events, c.LogOutput = id(i), p, s, io.Discard
	if s.Memberlist, err = memberlist.Create(c); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Shutdown(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// A fifth of the nodes is starved: weft's pools declare no more of them, and of the others, dead than memberlist as it comes does. What
// counts is each time that a node takes another for dead; all are alive. In a few minutes chance moves that by a tenth, in one by a half.
func TestStarved(t *testing.T) {
	size, err := strconv.Atoi(os.Getenv("WEFT_GOSSIP_STARVED"))
	if err != nil {
		t.Skip("long: make gossip")
	}
	const calm, hunger = 30 * time.Second, 3 * time.Minute
	hungry := func(a netip.AddrPort) bool { return a.Addr().As4()[3]%5 == 4 }
	var ours, theirs int
	bubble(t, func(t *testing.T) {
		network := &starved{Network: Memory(memnet.New()), hungry: hungry}
		nodes := make([]*node, size)
		for i := range nodes {
			nodes[i] = start(t, config(network, i))
			if i > 0 {
				join(t, nodes[i/2], nodes[i])
			}
		}
		pass(calm)
		network.on.Store(true)
		pass(hunger)
		for _, n := range nodes {
			ours += int(testutil.ToFloat64(n.metrics.events.WithLabelValues(serf.EventMemberFailed.String())))
		}
		network.on.Store(false)
	})
	bubble(t, func(t *testing.T) {
		network := &starved{Network: Memory(memnet.New()), hungry: hungry}
		nodes := make([]*stock, size)
		for i := range nodes {
			nodes[i] = startStock(t, network, i)
			if i > 0 {
				if _, err := nodes[i].Join([]string{addr(i / 2).String()}); err != nil {
					t.Fatal(err)
				}
			}
		}
		pass(calm)
		network.on.Store(true)
		pass(hunger)
		for _, n := range nodes {
			theirs += int(n.deaths.Load())
		}
		network.on.Store(false)
	})
	t.Logf("%d nodes, a fifth starved for %v: %d false deaths, memberlist as it comes %d", size, hunger, ours, theirs)
	if ours > theirs+theirs/4+size {
		t.Errorf("%d false deaths, memberlist as it comes has %d", ours, theirs)
	}
}
