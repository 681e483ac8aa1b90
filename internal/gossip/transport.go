// SPDX-License-Identifier: Apache-2.0

package gossip

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/weftmesh/weft/internal/listen"
	"github.com/weftmesh/weft/internal/memnet"
)

// Network opens the pool's sockets.
type Network interface {
	// Listen opens a packet socket and a stream listener at one address and port. Port 0 picks one.
	// A port that is taken is a *listen.InUseError.
	Listen(ctx context.Context, name string, at netip.AddrPort) (net.PacketConn, net.Listener, error)
	// Dial opens a stream.
	Dial(ctx context.Context, from, to netip.AddrPort) (net.Conn, error)
}

// The limits of a pool's streams: a node exchanges state with another once in a while, and many at once are a storm or an attack.
const (
	maxStreams        = 128
	maxStreamsPerAddr = 32
)

// Sockets opens them through the door, over UDP and TCP.
func Sockets(door *listen.Door) Network { return sockets{door} }

type sockets struct{ door *listen.Door }

func (s sockets) Listen(ctx context.Context, name string, at netip.AddrPort) (net.PacketConn, net.Listener, error) {
	const tries = 10 // to find a port that is free for both
	for try := 1; ; try++ {
		l, err := s.door.Stream(ctx, listen.Spec{
			Name: name + "-stream", Network: "tcp", Address: at.String(),
			Limits: listen.Limits{MaxUnauthenticatedPerAddr: maxStreamsPerAddr, MaxUnauthenticatedLoopback: maxStreams},
		})
		if err != nil {
			return nil, nil, err
		}
		bound, err := netip.ParseAddrPort(l.Addr().String())
		if err != nil {
			return nil, nil, errors.Join(err, l.Close())
		}
		c, err := s.door.Packet(ctx, listen.Spec{
			Name: name, Network: "udp", Address: netip.AddrPortFrom(at.Addr(), bound.Port()).String(),
		})
		if err == nil {
			return c, l, nil
		}
		l.Close()
		if at.Port() != 0 || try == tries {
			return nil, nil, err
		}
	}
}

func (s sockets) Dial(ctx context.Context, _, to netip.AddrPort) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, "tcp", to.String())
}

// Memory is an in-memory network: packets to a receiver that is gone or behind are lost, as on a real one.
func Memory(n *memnet.Network) Network { return memory{n} }

type memory struct{ n *memnet.Network }

func (m memory) Listen(_ context.Context, _ string, at netip.AddrPort) (net.PacketConn, net.Listener, error) {
	c, err := m.n.ListenPacket(at.String())
	if err != nil {
		return nil, nil, err
	}
	l, err := m.n.Listen(at.String())
	if err != nil {
		return nil, nil, errors.Join(err, c.Close())
	}
	return c, l, nil
}

func (m memory) Dial(ctx context.Context, from, to netip.AddrPort) (net.Conn, error) {
	return m.n.DialFrom(ctx, from.String(), to.String())
}

// transport carries memberlist's packets and streams.
type transport struct {
	pool     *Pool
	packets  net.PacketConn
	listener net.Listener
	bound    uint16

	packetCh chan *memberlist.Packet
	streamCh chan net.Conn
	done     chan struct{}
	work     sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	streams map[*guarded]bool
	inbound int

	life context.Context // ends with Shutdown
	end  context.CancelFunc
}

var _ memberlist.NodeAwareTransport = (*transport)(nil)

// receiveBuffer is asked for from the system, to ride out a moment in which the pool's goroutine doesn't run.
const receiveBuffer = 2 << 20

func openTransport(ctx context.Context, p *Pool) (*transport, error) {
	name := "serf-" + p.kind()
	packets, listener, err := p.c.Network.Listen(ctx, name, p.c.Bind)
	var taken *listen.InUseError
	if p.c.AnyPort && errors.As(err, &taken) {
		p.log.Warn("the port of gossip is taken, another one is used", "pool", p.kind(), "error", err)
		packets, listener, err = p.c.Network.Listen(ctx, name, netip.AddrPortFrom(p.c.Bind.Addr(), 0))
	}
	if err != nil {
		return nil, fmt.Errorf("gossip (%s): %w", p.kind(), err)
	}
	bound, err := netip.ParseAddrPort(listener.Addr().String())
	if err != nil {
		return nil, errors.Join(err, packets.Close(), listener.Close())
	}
	if door, ok := packets.(*listen.Packets); ok {
		if udp, ok := door.PacketConn.(*net.UDPConn); ok {
			for size := receiveBuffer; size > 64<<10 && udp.SetReadBuffer(size) != nil; size /= 2 {
			}
		}
	}
	t := &transport{
		pool: p, packets: packets, listener: listener, bound: bound.Port(),
		packetCh: make(chan *memberlist.Packet), streamCh: make(chan net.Conn), done: make(chan struct{}), streams: map[*guarded]bool{},
	}
	t.life, t.end = context.WithCancel(context.Background())
	p.mu.Lock()
	p.port = int(t.advertise().Port())
	p.mu.Unlock()
	t.work.Go(t.receive)
	t.work.Go(t.accept)
	return t, nil
}

// advertise is the address that others reach this node by.
func (t *transport) advertise() netip.AddrPort {
	a := t.pool.c.Advertise
	if a.Port() == 0 || t.pool.c.Bind.Port() != t.bound { // no port was asked for, or that one wasn't to be had
		return netip.AddrPortFrom(a.Addr(), t.bound)
	}
	return a
}

func (t *transport) refuse(reason string) { t.pool.metrics.refused.WithLabelValues(reason).Inc() }

// FinalAdvertiseAddr is memberlist's question for this node's address.
func (t *transport) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	a := t.advertise()
	return net.IP(a.Addr().AsSlice()), int(a.Port()), nil
}

// WriteTo sends a packet.
func (t *transport) WriteTo(b []byte, addr string) (time.Time, error) {
	to, err := netip.ParseAddrPort(addr)
	if err != nil {
		return time.Time{}, err
	}
	_, err = t.packets.WriteTo(b, net.UDPAddrFromAddrPort(to))
	return time.Now(), err
}

// WriteToAddress sends a packet.
func (t *transport) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	return t.WriteTo(b, a.Addr)
}

// dialTimeout is how long a stream may take to open, a second SYN's loss included. Between datacenters it may take as long as memberlist says.
const dialTimeout = 5 * time.Second

// DialTimeout opens a stream. Whoever asks for members that are cut off has that much less to wait for one when the cut has healed.
func (t *transport) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	to, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, err
	}
	if !t.pool.c.WAN {
		timeout = min(timeout, dialTimeout)
	}
	ctx, cancel := context.WithTimeout(t.life, timeout)
	defer cancel()
	c, err := t.pool.c.Network.Dial(ctx, t.advertise(), to)
	if err != nil {
		return nil, err
	}
	return t.guard(c, false)
}

// DialAddressTimeout opens a stream.
func (t *transport) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	return t.DialTimeout(a.Addr, timeout)
}

// PacketCh is where memberlist takes packets from.
func (t *transport) PacketCh() <-chan *memberlist.Packet { return t.packetCh }

// StreamCh is where memberlist takes streams from.
func (t *transport) StreamCh() <-chan net.Conn { return t.streamCh }

// Shutdown closes the sockets and all streams, and waits for the transport's goroutines.
func (t *transport) Shutdown() error {
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return nil
	}
	t.closed = true
	close(t.done)
	t.end() // dials end
	open := make([]*guarded, 0, len(t.streams))
	for g := range t.streams {
		open = append(open, g)
	}
	t.mu.Unlock()
	err := errors.Join(t.packets.Close(), t.listener.Close())
	for _, g := range open {
		g.Close()
	}
	t.work.Wait()
	return err
}

func (t *transport) receive() {
	buf := make([]byte, 64<<10)
	check := t.pool.keyring == nil || t.pool.c.AcceptPlain
	for {
		n, from, err := t.packets.ReadFrom(buf)
		now := time.Now()
		if err != nil {
			if t.ended() || errors.Is(err, net.ErrClosed) {
				return
			}
			t.pool.log.Warn("gossip can't receive", "pool", t.pool.kind(), "error", err)
			if !t.pause() {
				return
			}
			continue
		}
		if n == 0 {
			t.refuse(reasonPacket)
			continue
		}
		if check && !t.encrypted(buf[:n]) {
			if err := checkPacket(buf[:n]); err != nil {
				t.refuse(reasonPacket)
				t.pool.log.Debug("packet refused", "pool", t.pool.kind(), "from", from.String(), "error", err)
				continue
			}
		}
		select {
		case t.packetCh <- &memberlist.Packet{Buf: slices.Clone(buf[:n]), From: from, Timestamp: now}:
		case <-t.done:
			return
		}
	}
}

// encrypted says whether a packet could be an encrypted one, where both kinds are taken: its first byte is the version of the
// encryption, which a plain ping or indirect ping begins with too. Those are checked as both.
func (t *transport) encrypted(b []byte) bool {
	return t.pool.keyring != nil && (b[0] == msgPing || b[0] == msgIndirectPing)
}

// acceptPause is how long the transport waits after an error of the system's.
const acceptPause = 100 * time.Millisecond

func (t *transport) pause() bool {
	timer := time.NewTimer(acceptPause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-t.done:
		return false
	}
}

func (t *transport) ended() bool {
	select {
	case <-t.done:
		return true
	default:
		return false
	}
}

func (t *transport) accept() {
	for {
		c, err := t.listener.Accept()
		if err != nil {
			if t.ended() || errors.Is(err, net.ErrClosed) || !t.pause() {
				return
			}
			continue
		}
		g, err := t.guard(c, true)
		if err != nil {
			continue
		}
		select {
		case t.streamCh <- g:
		case <-t.done:
			g.Close()
			return
		}
	}
}

// guard counts a stream, or closes it where there are too many from outside.
func (t *transport) guard(c net.Conn, inbound bool) (net.Conn, error) {
	g := &guarded{Conn: c, t: t, bound: inbound, left: maxStreamBytes}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		c.Close()
		return nil, net.ErrClosed
	}
	if inbound {
		if t.inbound >= maxStreams {
			t.refuse(reasonStreams)
			c.Close()
			return nil, listen.ErrTooMany
		}
		t.inbound++
	}
	t.streams[g] = true
	return g, nil
}

func (t *transport) forget(g *guarded) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.streams[g] {
		delete(t.streams, g)
		if g.bound {
			t.inbound--
		}
	}
}
