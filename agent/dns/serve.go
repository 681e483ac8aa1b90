// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime"
	"strconv"
	"sync"
	"time"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"github.com/weftmesh/weft/internal/listen"
	"github.com/weftmesh/weft/internal/run"
)

const (
	readersMax = 4 // goroutines that read one UDP socket
	tcpIdle    = 10 * time.Second
	tcpWrite   = 5 * time.Second
)

// open listens on one address over UDP and TCP, and serves both in the group.
func (s *Server) open(g *run.Group, i int, address string) error {
	name := "dns"
	if i > 0 {
		name += "-" + strconv.Itoa(i+1)
	}
	p, err := s.c.Door.Packet(g.Context(), listen.Spec{Name: name + "-udp", Network: "udp", Address: address})
	if err != nil {
		return err
	}
	l, err := s.c.Door.Stream(g.Context(), listen.Spec{Name: name + "-tcp", Network: "tcp", Address: address})
	if err != nil {
		return errors.Join(err, p.Close())
	}
	g.Go(name+"-udp", func(ctx context.Context) error { return s.serveUDP(ctx, p) })
	g.Go(name+"-tcp", func(ctx context.Context) error { return s.serveTCP(ctx, l) })
	s.c.Log.Info("serving", "what", "dns", "address", address)
	return nil
}

// serveUDP answers packets until ctx ends. An answer that is in memory is given by the goroutine that read the packet.
func (s *Server) serveUDP(ctx context.Context, p net.PacketConn) error {
	var conn *net.UDPConn
	if inner, ok := p.(*listen.Packets); ok {
		conn, _ = inner.PacketConn.(*net.UDPConn)
	}
	if conn != nil { // a packet to a socket for all addresses is answered from the address that it was sent to
		if ipv4.NewPacketConn(conn).SetControlMessage(ipv4.FlagDst|ipv4.FlagInterface, true) != nil {
			_ = ipv6.NewPacketConn(conn).SetControlMessage(ipv6.FlagDst|ipv6.FlagInterface, true) // then the system chooses
		} else {
			_ = ipv6.NewPacketConn(conn).SetControlMessage(ipv6.FlagDst|ipv6.FlagInterface, true) // it may be IPv4 alone
		}
	}
	stop := context.AfterFunc(ctx, func() { _ = p.Close() })
	defer stop()
	var work sync.WaitGroup
	defer work.Wait()
	for range min(readersMax, runtime.GOMAXPROCS(0)) - 1 {
		work.Go(func() { s.readPackets(ctx, p, conn, &work) })
	}
	s.readPackets(ctx, p, conn, &work)
	return ctx.Err()
}

func (s *Server) readPackets(ctx context.Context, p net.PacketConn, conn *net.UDPConn, work *sync.WaitGroup) {
	in, out := make([]byte, dns.MaxMsgSize), make([]byte, dns.MaxMsgSize)
	for {
		n, from, reply, err := receive(p, conn, in)
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			continue // an ICMP error of an answer that nobody took
		}
		answer, err := s.packet(ctx, in[:n], out, from, false, false)
		if err == nil {
			if answer != nil {
				reply(answer)
			}
			continue
		}
		select {
		case s.slow <- struct{}{}:
		default:
			s.metrics.dropped.Inc()
			continue // who asks will ask again
		}
		question := append([]byte(nil), in[:n]...)
		work.Go(func() {
			defer func() { <-s.slow }()
			wctx, cancel := context.WithTimeout(ctx, answerTime)
			defer cancel()
			if answer, err := s.packet(wctx, question, nil, from, false, true); err == nil && answer != nil {
				reply(answer)
			}
		})
	}
}

// receive reads a packet, and gives what answers it.
func receive(p net.PacketConn, conn *net.UDPConn, in []byte) (int, netip.Addr, func([]byte), error) {
	if conn != nil {
		n, session, err := dns.ReadFromSessionUDP(conn, in)
		if err != nil {
			return 0, netip.Addr{}, nil, err
		}
		return n, addrOf(session.RemoteAddr()), func(b []byte) { _, _ = dns.WriteToSessionUDP(conn, b, session) }, nil // lost, as packets are
	}
	n, addr, err := p.ReadFrom(in)
	if err != nil {
		return 0, netip.Addr{}, nil, err
	}
	return n, addrOf(addr), func(b []byte) { _, _ = p.WriteTo(b, addr) }, nil
}

func addrOf(a net.Addr) netip.Addr {
	switch a := a.(type) {
	case *net.UDPAddr:
		return a.AddrPort().Addr().Unmap()
	case *net.TCPAddr:
		return a.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}

// packet answers one message in wire form: nil for what isn't answered. The answer is in out where it fits. Without block,
// errPending says that it has to be waited for; that is the only error.
func (s *Server) packet(ctx context.Context, in, out []byte, from netip.Addr, tcp, block bool) ([]byte, error) {
	req := new(dns.Msg)
	if err := req.Unpack(in); err != nil {
		return malformed(in), nil
	}
	m, err := s.respond(ctx, req, from, tcp, block)
	if err != nil || m == nil {
		return nil, err
	}
	b, err := m.PackBuffer(out)
	if err == nil {
		return b, nil
	}
	s.c.Log.Debug("answer can't be packed", "error", err)
	m.Answer, m.Ns, m.Extra, m.Rcode = nil, nil, nil, dns.RcodeServerFailure
	if b, err = m.PackBuffer(out); err != nil {
		return malformed(in), nil
	}
	return b, nil
}

// malformed is the answer to what can't be read: a bare header that says so, nil where not even the header was whole, or it
// was an answer.
func malformed(in []byte) []byte {
	const header, response = 12, 1 << 7
	if len(in) < header || in[2]&response != 0 {
		return nil
	}
	out := make([]byte, header)
	copy(out, in[:3])
	out[2] = in[2]&^0x06 | response // neither authoritative nor truncated
	out[3] = dns.RcodeFormatError
	return out
}

// serveTCP answers connections until ctx ends.
func (s *Server) serveTCP(ctx context.Context, l net.Listener) error {
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	var work sync.WaitGroup
	defer work.Wait()
	for {
		c, err := l.Accept()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return fmt.Errorf("accept: %w", err)
		}
		work.Go(func() { s.stream(ctx, c) })
	}
}

// stream answers the questions of one connection, one after the other.
func (s *Server) stream(ctx context.Context, c net.Conn) {
	defer c.Close()
	defer context.AfterFunc(ctx, func() { _ = c.Close() })()
	from := addrOf(c.RemoteAddr())
	var in []byte
	out := make([]byte, 2, 2+dns.MinMsgSize)
	for {
		if c.SetDeadline(time.Now().Add(tcpIdle)) != nil {
			return
		}
		var length [2]byte
		if _, err := io.ReadFull(c, length[:]); err != nil {
			return
		}
		n := int(binary.BigEndian.Uint16(length[:]))
		if cap(in) < n {
			in = make([]byte, n)
		}
		if _, err := io.ReadFull(c, in[:n]); err != nil {
			return
		}
		actx, cancel := context.WithTimeout(ctx, answerTime)
		answer, _ := s.packet(actx, in[:n], nil, from, true, true) // with block there is no error
		cancel()
		if answer == nil || len(answer) > dns.MaxMsgSize-1 {
			return
		}
		out = append(binary.BigEndian.AppendUint16(out[:0], uint16(len(answer))), answer...)
		if c.SetDeadline(time.Now().Add(tcpWrite)) != nil {
			return
		}
		if _, err := c.Write(out); err != nil {
			return
		}
	}
}

// metrics count answers.
type metrics struct {
	answers *prometheus.CounterVec
	dropped prometheus.Counter

	mu    sync.RWMutex
	known map[[2]uint16]prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		answers: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weft_dns_answers_total", Help: "DNS answers by the type that was asked for and the code that was answered.",
		}, []string{"type", "code"}),
		dropped: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "weft_dns_dropped_total", Help: "DNS packets that weren't answered because too many were waiting.",
		}),
		known: map[[2]uint16]prometheus.Counter{},
	}
	if reg == nil {
		return m, nil
	}
	return m, errors.Join(reg.Register(m.answers), reg.Register(m.dropped))
}

func (m *metrics) answered(qtype uint16, rcode int) {
	name, ok := dns.TypeToString[qtype]
	if !ok {
		qtype, name = 0, "other"
	}
	key := [2]uint16{qtype, uint16(rcode)}
	m.mu.RLock()
	c := m.known[key]
	m.mu.RUnlock()
	if c == nil {
		c = m.answers.WithLabelValues(name, dns.RcodeToString[rcode])
		m.mu.Lock()
		m.known[key] = c
		m.mu.Unlock()
	}
	c.Inc()
}
