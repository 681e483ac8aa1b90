// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/weftmesh/weft/internal/listen"
	"github.com/weftmesh/weft/internal/memnet"
	"github.com/weftmesh/weft/internal/stormtest"
)

// upstream is a recursor on an in-memory network, over UDP and TCP.
type upstream struct {
	asked  atomic.Int32
	answer func(q dns.Question, tcp bool) *dns.Msg
}

func (u *upstream) dial(ctx context.Context, network, address string) (net.Conn, error) {
	if strings.HasPrefix(address, "10.255.") {
		return nil, fmt.Errorf("%s: nobody is there", address)
	}
	near, far := net.Pipe()
	go func() {
		defer far.Close()
		req := new(dns.Msg)
		if network == "udp" {
			buf := make([]byte, 4096)
			n, err := far.Read(buf)
			if err != nil || req.Unpack(buf[:n]) != nil {
				return
			}
		} else {
			var err error
			if req, err = readStream(far); err != nil {
				return
			}
		}
		u.asked.Add(1)
		m := u.answer(req.Question[0], network == "tcp")
		rcode, cut := m.Rcode, m.Truncated
		m.SetReply(req)
		m.Rcode, m.Truncated = rcode, cut
		b, err := m.Pack()
		if err != nil {
			return
		}
		if network == "tcp" {
			b = append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...)
		}
		_, _ = far.Write(b)
	}()
	if network == "udp" {
		return packetPipe{near}, nil
	}
	return near, nil
}

// packetPipe is a pipe that the library takes for a packet connection.
type packetPipe struct{ net.Conn }

func (packetPipe) ReadFrom([]byte) (int, net.Addr, error) { panic("not used") }
func (packetPipe) WriteTo([]byte, net.Addr) (int, error)  { panic("not used") }

func readStream(r io.Reader) (*dns.Msg, error) {
	var length [2]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return nil, err
	}
	b := make([]byte, binary.BigEndian.Uint16(length[:]))
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, err
	}
	m := new(dns.Msg)
	return m, m.Unpack(b)
}

func rrs(t *testing.T, lines ...string) []dns.RR {
	t.Helper()
	var out []dns.RR
	for _, l := range lines {
		rr, err := dns.NewRR(l)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, rr)
	}
	return out
}

// Names outside the zones are the recursors', whose answers are kept.
func TestRecursors(t *testing.T) {
	u := &upstream{}
	u.answer = func(q dns.Question, tcp bool) *dns.Msg {
		m := new(dns.Msg)
		switch strings.ToLower(q.Name) {
		case "db.example.com.":
			m.Answer = rrs(t, "db.example.com. 60 IN A 192.0.2.53")
		case "long.example.com.":
			m.Truncated = !tcp
			if tcp {
				m.Answer = rrs(t, "long.example.com. 60 IN A 192.0.2.54")
			}
		case "broken.example.com.":
			m.Rcode = dns.RcodeServerFailure
		default:
			m.Rcode = dns.RcodeNameError
			m.Ns = rrs(t, "example.com. 900 IN SOA ns.example.com. h.example.com. 1 2 3 4 30")
		}
		return m
	}
	z := zones()
	z.Recursors = []string{"10.255.0.1", "10.0.0.53:5300"} // the first isn't there
	s := running(t, world(), z, u.dial)
	for range 3 {
		if got := short(ask(t, s, "DB.example.com.", dns.TypeA)); !strings.HasPrefix(got, "NOERROR\n") || !strings.HasSuffix(got, "192.0.2.53") {
			t.Fatal(got)
		}
	}
	for range 2 {
		if got := short(ask(t, s, "none.example.com.", dns.TypeA)); got != "NXDOMAIN\n-SOA example.com." {
			t.Fatal(got)
		}
	}
	if n := u.asked.Load(); n != 2 {
		t.Errorf("the recursor was asked %d times for two names", n)
	}
	if got := short(ask(t, s, "long.example.com.", dns.TypeA)); !strings.HasSuffix(got, "192.0.2.54") {
		t.Errorf("an answer that needs TCP: %s", got)
	}
	m := ask(t, s, "broken.example.com.", dns.TypeA)
	if m.Rcode != dns.RcodeServerFailure || !m.RecursionAvailable {
		t.Errorf("no recursor answers: %v", m)
	}
	if got := short(ask(t, s, "ext.service.consul.", dns.TypeA)); got != "NOERROR\ndb.example.com. 60 A 192.0.2.53\next.service.consul. 0 CNAME db.example.com." {
		t.Errorf("a service with a name for an address: %s", got)
	}
	if got := short(ask(t, s, "9.9.9.9.in-addr.arpa.", dns.TypePTR)); got != "NXDOMAIN\n-SOA example.com." {
		t.Errorf("a reverse name that isn't ours: %s", got)
	}
	if m := ask(t, s, "db.example.com.", dns.TypeA, func(m *dns.Msg) { m.RecursionDesired = false }); m.Rcode != dns.RcodeRefused {
		t.Errorf("no recursion desired: %v", m)
	}
	if _, err := New(Config{Listen: []string{"127.0.0.1:8600"}, Log: slog.New(slog.DiscardHandler)},
		Zones{Settings: DefaultSettings(), Domain: "consul", Recursors: []string{"127.0.0.1:8600"}}); err == nil {
		t.Error("an agent that is its own recursor was taken")
	}
}

// Answers that are kept grow old, and there are only so many of them.
func TestCacheOfAnswers(t *testing.T) {
	c, now := newAnswers(), time.Unix(1000, 0)
	m := new(dns.Msg)
	m.Answer = rrs(t, "a.example. 60 IN A 192.0.2.1", "a.example. 90 IN A 192.0.2.2")
	key := answerKey{name: "a.example."}
	c.put(key, m, now)
	if got := c.get(key, now.Add(50*time.Second)); got == nil || got.Answer[0].Header().Ttl != 10 || got.Answer[1].Header().Ttl != 40 {
		t.Errorf("%v", got)
	}
	if got := c.get(key, now.Add(60*time.Second)); got != nil {
		t.Errorf("too old: %v", got)
	}
	for i := range cacheMax + 500 {
		c.put(answerKey{name: fmt.Sprint(i)}, m, now)
	}
	if len(c.m) > cacheMax {
		t.Errorf("%d are kept", len(c.m))
	}
}

// The sockets: a question over UDP, several over one TCP connection, and what can't be read.
func TestSockets(t *testing.T) {
	door, err := listen.New(listen.Config{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	network := memnet.New()
	s := running(t, world(), zones(), nil)
	l, err := door.MemStream(network, listen.Spec{Name: "dns", Address: "dns:53"})
	if err != nil {
		t.Fatal(err)
	}
	p, err := network.ListenPacket("dns:53")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 2)
	go func() { done <- s.serveTCP(ctx, l) }()
	go func() { done <- s.serveUDP(ctx, p) }()
	defer func() {
		cancel()
		<-done
		<-done
	}()
	req := new(dns.Msg)
	req.SetQuestion("web.service.consul.", dns.TypeA)
	b, err := req.Pack()
	if err != nil {
		t.Fatal(err)
	}
	conn, err := network.DialContext(ctx, "dns:53")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for range 3 {
		if _, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...)); err != nil {
			t.Fatal(err)
		}
		m, err := readStream(conn)
		if err != nil || len(m.Answer) != 2 || m.Id != req.Id {
			t.Fatalf("%v, %v", m, err)
		}
	}
	me, err := network.ListenPacket("me:1")
	if err != nil {
		t.Fatal(err)
	}
	defer me.Close()
	in := make([]byte, 4096)
	for _, c := range []struct {
		packet []byte
		code   int
	}{{b, dns.RcodeSuccess}, {append(b[:12:12], 0xff, 0xff), dns.RcodeFormatError}} {
		if _, err := me.WriteTo(c.packet, memnet.Addr("dns:53")); err != nil {
			t.Fatal(err)
		}
		n, _, err := me.ReadFrom(in)
		m := new(dns.Msg)
		if err != nil || m.Unpack(in[:n]) != nil || m.Rcode != c.code || !m.Response {
			t.Errorf("%v, %v: want code %d", m, err, c.code)
		}
	}
}

// Requests that aren't questions.
func TestC129_Odd(t *testing.T) {
	s := running(t, world(), zones(), nil)
	for name, c := range map[string]struct {
		change func(*dns.Msg)
		code   int
	}{
		"update":         {func(m *dns.Msg) { m.Opcode = dns.OpcodeUpdate }, dns.RcodeNotImplemented},
		"no question":    {func(m *dns.Msg) { m.Question = nil }, dns.RcodeFormatError},
		"two questions":  {func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) }, dns.RcodeFormatError},
		"chaos":          {func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }, dns.RcodeRefused},
		"EDNS version 1": {func(m *dns.Msg) { m.SetEdns0(1232, false); m.IsEdns0().SetVersion(1) }, dns.RcodeBadVers},
	} {
		if m := ask(t, s, "web.service.consul.", dns.TypeA, c.change); m.Rcode != c.code {
			t.Errorf("%s: %s, want %s", name, dns.RcodeToString[m.Rcode], dns.RcodeToString[c.code])
		}
	}
	if m := ask(t, s, "web.service.consul.", dns.TypeA, func(*dns.Msg) {}); m.Rcode != dns.RcodeSuccess { // the control
		t.Errorf("a plain question: %s", dns.RcodeToString[m.Rcode])
	}
	answer := new(dns.Msg)
	answer.Response = true
	if m, err := s.respond(t.Context(), answer, netip.Addr{}, false, true); m != nil || err != nil {
		t.Errorf("an answer was answered: %v, %v", m, err)
	}
	m := ask(t, s, "web.service.consul.", dns.TypeA, func(m *dns.Msg) {
		m.SetEdns0(1232, false)
		m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: 1, SourceNetmask: 24, Address: net.IPv4(198, 51, 100, 0).To4()}}
	})
	if o := m.IsEdns0().Option; len(o) != 1 || o[0].(*dns.EDNS0_SUBNET).SourceScope != 0 {
		t.Errorf("the subnet isn't told back: %v", o)
	}
}

// Whatever a packet holds, it is answered or it isn't: nothing panics, answers are answers and fit.
func FuzzPacket(f *testing.F) {
	for _, name := range []string{
		"web.service.consul.", "_web._tcp.service.dc1.consul.", "n1.node.consul.", "1.0.0.10.in-addr.arpa.", "consul.", `a\.b\000.service.consul.`,
		"geo.query.consul.", "ff.addr.consul.", "a.b.c.d.dc.x.peer.consul.",
	} {
		for _, t := range []uint16{dns.TypeA, dns.TypeSRV, dns.TypeANY} {
			m := new(dns.Msg)
			m.SetQuestion(name, t)
			m.SetEdns0(600, true)
			b, err := m.Pack()
			if err != nil {
				f.Fatal(err)
			}
			f.Add(b, t == dns.TypeA)
		}
	}
	f.Add([]byte{}, false)
	f.Add(make([]byte, 11), true)
	s := running(f, world(), zones(), nil)
	out := make([]byte, dns.MaxMsgSize)
	stormtest.Fuzz(f, func(t *testing.T, in []byte, tcp bool) {
		if len(in) > dns.MaxMsgSize {
			return
		}
		answer, err := s.packet(t.Context(), in, out, netip.MustParseAddr("192.0.2.1"), tcp, true)
		if err != nil {
			t.Fatal(err)
		}
		if answer == nil {
			return
		}
		if len(answer) < 12 || answer[2]&0x80 == 0 {
			t.Errorf("%x is no answer", answer)
		}
		req := new(dns.Msg)
		if req.Unpack(in) == nil && !tcp && len(answer) > max(udpSize(req), 512) && len(in) < 400 {
			t.Errorf("%d bytes are more than %d", len(answer), udpSize(req))
		}
		if m := new(dns.Msg); m.Unpack(answer) != nil {
			t.Errorf("%x can't be read", answer)
		}
	})
}

// An answer from memory, wire to wire. With GOMAXPROCS=1 the processor's time is what one core does, whatever else the machine does.
func BenchmarkPacket(b *testing.B) {
	for _, c := range []struct {
		name  string
		qtype uint16
	}{{"web.service.consul.", dns.TypeA}, {"web.service.consul.", dns.TypeSRV}, {"n1.node.consul.", dns.TypeA}, {"x.service.consul.", dns.TypeA}, {"many.service.consul.", dns.TypeA}} {
		b.Run(c.name+dns.TypeToString[c.qtype], func(b *testing.B) {
			s := running(b, world(), zones(), nil)
			ask(b, s, c.name, c.qtype)
			req := new(dns.Msg)
			req.SetQuestion(c.name, c.qtype)
			in, err := req.Pack()
			if err != nil {
				b.Fatal(err)
			}
			out := make([]byte, dns.MaxMsgSize)
			b.ReportAllocs()
			before := processorTime(b)
			for b.Loop() {
				if answer, err := s.packet(b.Context(), in, out, netip.Addr{}, false, false); err != nil || answer == nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N)/(processorTime(b)-before).Seconds(), "answers/cpu-s")
		})
	}
}

// processorTime is what this process has used.
func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
