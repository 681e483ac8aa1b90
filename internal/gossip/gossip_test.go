// SPDX-License-Identifier: Apache-2.0

package gossip

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/serf/serf"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/weftmesh/weft/internal/memnet"
)

// The kinds of memberlist's messages that tell of members.
const (
	msgSuspect = 3
	msgAlive   = 4
	msgDead    = 5
)

// lossy is an in-memory network that loses packets and cuts nodes off.
type lossy struct {
	Network
	loss atomic.Int64 // per thousand
	cut  func(from, to netip.AddrPort) bool
	// mute takes what is told of members out of packets: probes and their answers pass.
	mute atomic.Bool
	told atomic.Int64 // how much was taken out
	// hear gets each message that is sent; nil: nobody does.
	hear func(m []byte)
}

func (l *lossy) Listen(ctx context.Context, name string, at netip.AddrPort) (net.PacketConn, net.Listener, error) {
	c, s, err := l.Network.Listen(ctx, name, at)
	return &lossyPackets{PacketConn: c, l: l, at: at}, s, err
}

func (l *lossy) Dial(ctx context.Context, from, to netip.AddrPort) (net.Conn, error) {
	if l.cut != nil && l.cut(from, to) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return l.Network.Dial(ctx, from, to)
}

type lossyPackets struct {
	net.PacketConn
	l  *lossy
	at netip.AddrPort
}

func (p *lossyPackets) WriteTo(b []byte, to net.Addr) (int, error) {
	if p.l.mute.Load() {
		left := p.l.strip(b)
		for _, message := range left {
			if _, err := p.PacketConn.WriteTo(message, to); err != nil {
				return 0, err
			}
		}
		return len(b), nil
	}
	if p.l.hear != nil {
		messages(b, p.l.hear)
	}
	if rand.Int64N(1000) < p.l.loss.Load() || p.l.cut != nil && p.l.cut(p.at, to.(*net.UDPAddr).AddrPort()) {
		return len(b), nil
	}
	return p.PacketConn.WriteTo(b, to)
}

// messages calls f for each message of a packet.
func messages(b []byte, f func(m []byte)) {
	switch b[0] {
	case msgCRC:
		messages(b[5:], f)
	case msgCompound:
		n := int(b[1])
		rest := b[2+2*n:]
		for i := range n {
			size := int(binary.BigEndian.Uint16(b[2+2*i:]))
			messages(rest[:size], f)
			rest = rest[size:]
		}
	default:
		f(b)
	}
}

// strip gives those messages of a packet that tell nothing of members.
func (l *lossy) strip(b []byte) (left [][]byte) {
	messages(b, func(m []byte) {
		if m[0] >= msgSuspect && m[0] <= msgDead || m[0] == msgUser {
			l.told.Add(1)
			return
		}
		left = append(left, m)
	})
	return left
}

// node is a pool that runs.
type node struct {
	*Pool
	cancel context.CancelFunc
	done   chan error
	once   sync.Once
}

// stop ends it without a word.
func (n *node) stop(t *testing.T) {
	n.once.Do(func() {
		n.cancel()
		if err := <-n.done; err != nil {
			t.Error(err)
		}
	})
}

// bubble runs a test in virtual time, and then lets end what memberlist still has on its way.
func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		t.Cleanup(func() { time.Sleep(time.Minute) })
		f(t)
	})
}

// pass lets virtual time pass.
func pass(d time.Duration) { time.Sleep(d) }

func addr(i int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 8301)
}

func id(i int) string { return fmt.Sprintf("00000000-0000-0000-0000-%012d", i) }

func config(network Network, i int) Config {
	return Config{
		Self: Self{Name: fmt.Sprintf("n%d", i), ID: id(i), Datacenter: "dc1", Build: "0.1.0"},
		Bind: addr(i), Advertise: addr(i), Network: network,
	}
}

func start(t *testing.T, c Config) *node {
	t.Helper()
	p, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	n := &node{Pool: p, cancel: cancel, done: make(chan error, 1)}
	go func() { n.done <- p.Run(ctx) }()
	select {
	case <-p.Ready():
	case err := <-n.done:
		t.Fatal(err)
	}
	t.Cleanup(func() { n.stop(t) })
	return n
}

// join joins b to a.
func join(t *testing.T, a, b *node) {
	t.Helper()
	if n, err := b.Join(t.Context(), []string{a.c.Advertise.String()}); n != 1 || err != nil {
		t.Fatalf("joined %d: %v", n, err)
	}
}

func status(p *Pool, name string) Status {
	for _, m := range p.Members() {
		if m.Name == name {
			return m.Status
		}
	}
	return StatusNone
}

// sees waits until a node sees another so, and gives how long that took.
func sees(t *testing.T, n *node, name string, want Status, within time.Duration) time.Duration {
	t.Helper()
	begin := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	if err := n.WaitFor(ctx, func([]Member) bool { return status(n.Pool, name) == want }); err != nil {
		t.Fatalf("%s sees %s as %v for %v, want %v", n.c.Self.Name, name, status(n.Pool, name), within, want)
	}
	return time.Since(begin)
}

// Three nodes join; one dies and has failed, one leaves and has left; force-leave and prune change that.
func TestJoinFailLeave(t *testing.T) {
	bubble(t, func(t *testing.T) {
		network := Memory(memnet.New())
		first := config(network, 1)
		first.Self.Server, first.Self.ServerPort, first.Self.Expect, first.Self.WANPort = true, 8300, 3, 8302
		a, b, c := start(t, first), start(t, config(network, 2)), start(t, config(network, 3))
		version, changed := a.Changes()
		join(t, a, b)
		join(t, a, c)
		<-changed
		if now, _ := a.Changes(); now <= version {
			t.Errorf("version %d after %d", now, version)
		}
		sees(t, b, "n3", StatusAlive, 5*time.Second)
		for _, m := range b.Members() {
			if m.Name == "n1" && (!m.Server || m.ServerPort != 8300 || m.Expect != 3 || m.WANPort != 8302 || m.ServerAddress() != "10.0.0.1:8300" ||
				m.ID != id(1) || m.Datacenter != "dc1" || m.Tags["role"] != "consul" || m.Tags["build"] != "0.1.0" || m.Node != "n1") {
				t.Errorf("the server as others see it: %+v", m)
			}
			if m.Name == "n2" && (m.Server || m.ServerAddress() != "" || m.Tags["role"] != "node") {
				t.Errorf("a client as others see it: %+v", m)
			}
		}
		if err := b.Leave(t.Context()); err != nil {
			t.Fatal(err)
		}
		b.stop(t)
		sees(t, a, "n2", StatusLeft, time.Second)
		c.stop(t)
		t.Logf("failed after %v", sees(t, a, "n3", StatusFailed, 30*time.Second))
		if err := a.ForceLeave("n3", false); err != nil || status(a.Pool, "n3") != StatusLeft {
			t.Errorf("force-leave: %v, %v", err, status(a.Pool, "n3"))
		}
		if err := a.ForceLeave("n3", true); err != nil {
			t.Error(err)
		}
		sees(t, a, "n3", StatusNone, 5*time.Second)
		if err := a.ForceLeave("nobody", false); !errors.Is(err, ErrNoSuchMember) {
			t.Error(err)
		}
		// A node that left may come back.
		back := start(t, config(network, 2))
		join(t, a, back)
		sees(t, a, "n2", StatusAlive, 5*time.Second)
	})
}

// Who can't be in the pool is told so, and those who are there don't take it up.
func TestRefused(t *testing.T) {
	bubble(t, func(t *testing.T) {
		network := Memory(memnet.New())
		a, b := start(t, config(network, 1)), start(t, config(network, 2))
		join(t, a, b)
		for name, row := range map[string]struct {
			change func(*Config)
			want   error
		}{
			"another datacenter": {func(c *Config) { c.Self.Datacenter = "dc2" }, ErrDatacenter},
			"another segment":    {func(c *Config) { c.Self.Segment = "alpha" }, ErrSegment},
			"a taken name":       {func(c *Config) { c.Self.Name = "n2" }, ErrNameTaken},
			"a taken ID":         {func(c *Config) { c.Self.ID = id(2) }, ErrIDTaken},
			"the host's name":    {func(c *Config) { c.Self.Name = "n1" }, ErrNameTaken},
			"the host's ID":      {func(c *Config) { c.Self.ID = id(1) }, ErrIDTaken},
		} {
			c := config(network, 9)
			row.change(&c)
			x := start(t, c)
			n, err := x.Join(t.Context(), []string{a.c.Advertise.String()})
			if n != 0 || !errors.Is(err, row.want) {
				t.Errorf("%s: joined %d, %v", name, n, err)
			}
			var refused *RefuseError
			if !errors.As(err, &refused) {
				t.Errorf("%s: no reason in %v", name, err)
			}
			time.Sleep(5 * time.Second)
			for _, n := range []*node{a, b} {
				for _, m := range n.Members() {
					if m.Port == 8301 && m.Address == "10.0.0.9" {
						t.Errorf("%s: %s took it up: %+v", name, n.c.Self.Name, m)
					}
				}
			}
			x.stop(t)
		}
		// The same machine with a new ID, as after -dev began anew, isn't another.
		b.stop(t)
		c := config(network, 2)
		c.Self.ID = id(22)
		again := start(t, c)
		join(t, a, again)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if err := a.WaitFor(ctx, func(list []Member) bool { return list[1].ID == id(22) && list[1].Status == StatusAlive }); err != nil {
			t.Errorf("%v: %+v", err, a.Members())
		}
	})
}

// Of two pools, only servers are in the WAN, under names with their datacenters.
func TestWAN(t *testing.T) {
	bubble(t, func(t *testing.T) {
		network := Memory(memnet.New())
		server := func(i int, dc string) Config {
			c := config(network, i)
			c.WAN, c.Self.Server, c.Self.ServerPort, c.Self.Datacenter = true, true, 8300, dc
			return c
		}
		a, b := start(t, server(1, "dc1")), start(t, server(2, "dc2"))
		join(t, a, b)
		sees(t, a, "n2.dc2", StatusAlive, 10*time.Second)
		for _, m := range a.Members() {
			if m.Node+"."+m.Datacenter != m.Name {
				t.Errorf("%+v", m)
			}
		}
		client := config(network, 3)
		client.WAN = true
		if _, err := New(client); err == nil {
			t.Error("a client in the WAN pool")
		}
		lan := start(t, config(network, 4))
		if n, err := lan.Join(t.Context(), []string{a.c.Advertise.String()}); n != 0 || !errors.Is(err, ErrForeign) && !errors.Is(err, ErrDatacenter) {
			t.Errorf("a LAN pool joined a WAN pool: %d, %v", n, err)
		}
	})
}

// Where one server of a datacenter joins another datacenter, all do.
func TestFlood(t *testing.T) {
	bubble(t, func(t *testing.T) {
		network := Memory(memnet.New())
		var lan, wan []*node
		for i := range 4 {
			dc := "dc" + strconv.Itoa(1+i%2)
			c := config(network, 10+i)
			c.Self.Server, c.Self.ServerPort, c.Self.WANPort, c.Self.Datacenter = true, 8300, 8302, dc
			w := c
			w.WAN = true
			w.Bind = netip.AddrPortFrom(w.Bind.Addr(), 8302)
			w.Advertise = w.Bind
			lan, wan = append(lan, start(t, c)), append(wan, start(t, w))
		}
		join(t, lan[0], lan[2])
		join(t, lan[1], lan[3])
		ctx, cancel := context.WithCancel(t.Context())
		var work sync.WaitGroup
		for i := range lan {
			work.Go(func() {
				if err := Flood(ctx, lan[i].Pool, wan[i].Pool); err != nil {
					t.Error(err)
				}
			})
		}
		join(t, wan[0], wan[1])
		for _, n := range wan {
			for _, name := range []string{"n10.dc1", "n11.dc2", "n12.dc1", "n13.dc2"} {
				sees(t, n, name, StatusAlive, time.Minute)
			}
		}
		cancel()
		work.Wait()
	})
}

// With keys, who has none is refused, keys change over the cluster, and events come once to everybody.
func TestKeysAndEvents(t *testing.T) {
	bubble(t, func(t *testing.T) {
		network := Memory(memnet.New())
		key := make([]byte, 32)
		var got [3]atomic.Int64
		secret := func(i int, key []byte) Config {
			c := config(network, i)
			if key != nil {
				c.Keys = [][]byte{key}
			}
			c.KeyringFile = t.TempDir() + "/serf/local.keyring"
			c.OnEvent = func(e UserEvent) {
				if e.Name == "deploy" && string(e.Payload) == "x" {
					got[i-1].Add(1)
				}
			}
			return c
		}
		a, b, c := start(t, secret(1, key)), start(t, secret(2, key)), start(t, secret(3, key))
		join(t, a, b)
		join(t, a, c)
		for i, k := range [][]byte{nil, make([]byte, 16)} {
			x := start(t, config(network, 10+i))
			x.stop(t)
			other := config(network, 20+i)
			if k != nil {
				other.Keys = [][]byte{k}
			}
			if n, err := start(t, other).Join(t.Context(), []string{a.c.Advertise.String()}); n != 0 || err == nil {
				t.Errorf("a node with another key joined: %v", err)
			}
		}
		sees(t, c, "n2", StatusAlive, 5*time.Second)
		if err := b.Fire("deploy", []byte("x")); err != nil {
			t.Fatal(err)
		}
		if err := b.Fire("large", make([]byte, MaxEvent+1)); err == nil {
			t.Error("an event without a bound")
		}
		time.Sleep(5 * time.Second)
		for i := range got {
			if n := got[i].Load(); n != 1 {
				t.Errorf("n%d got %d events", i+1, n)
			}
		}
		next, err := NewKey(rand.NewChaCha8([32]byte{}))
		if err != nil {
			t.Fatal(err)
		}
		for _, op := range []KeyOp{InstallKey, UseKey} {
			if answer, err := a.Keyring(t.Context(), op, next, 0); err != nil || answer.NumResp != 3 {
				t.Fatalf("%+v, %v", answer, err)
			}
		}
		if _, err := a.Keyring(t.Context(), RemoveKey, next, 0); err == nil {
			t.Error("the key that encrypts was removed")
		}
		answer, err := b.Keyring(t.Context(), ListKeys, "", 0)
		if err != nil || answer.Keys[next] != 3 || answer.PrimaryKeys[next] != 3 || len(answer.Keys) != 2 {
			t.Errorf("%+v, %v", answer, err)
		}
		keys, err := ReadKeyring(c.c.KeyringFile, c.c.Seal)
		if err != nil || len(keys) != 2 {
			t.Errorf("kept %d keys, %v", len(keys), err)
		}
		if _, err := start(t, config(Memory(memnet.New()), 1)).Keyring(t.Context(), ListKeys, "", 0); !errors.Is(err, ErrNotEncrypted) {
			t.Error(err)
		}
	})
}

// Forty nodes under loss: none dies falsely, the dead one is found, a cut heals.
func TestLoss(t *testing.T) {
	t.Parallel()
	crowd(t, 40, 100, time.Minute)
}

// The same with as many nodes as WEFT_GOSSIP_NODES says, for ten minutes: make gossip.
func TestCrowd(t *testing.T) {
	n, err := strconv.Atoi(os.Getenv("WEFT_GOSSIP_NODES"))
	if err != nil {
		t.Skip("long: make gossip")
	}
	crowd(t, n, 100, 10*time.Minute)
}

// gather has all nodes know all. A few join as in life. To tell each of thousands of each other one a dozen times would be most of the test's
// work, and is not what it is about: they hand on whole states, and nobody is told of anything until all know all.
func gather(t *testing.T, network *lossy, nodes []*node) {
	const few = 100
	if len(nodes) <= few {
		for i := range nodes {
			nodes[i] = start(t, config(network, i))
			if i > 0 {
				join(t, nodes[rand.IntN(i)], nodes[i])
			}
		}
		return
	}
	loss := network.loss.Swap(0)
	network.mute.Store(true)
	for i := range nodes {
		nodes[i] = start(t, config(network, i))
		if i > 0 {
			join(t, nodes[i-1], nodes[i])
		}
	}
	last := len(nodes) - 1
	for _, n := range nodes[:last] {
		join(t, nodes[last], n)
	}
	for before := int64(-1); network.told.Load() > before; { // until nobody has anything to tell
		before = network.told.Load()
		time.Sleep(5 * time.Second)
	}
	network.mute.Store(false)
	network.loss.Store(loss)
}

func crowd(t *testing.T, size, loss int, calm time.Duration) {
	bubble(t, func(t *testing.T) {
		var apart atomic.Bool
		half := func(a netip.AddrPort) bool { b := a.Addr().As4(); return int(b[2])<<8+int(b[3]) < size/2 }
		network := &lossy{
			Network: Memory(memnet.New()),
			cut:     func(from, to netip.AddrPort) bool { return apart.Load() && half(from) != half(to) },
		}
		network.loss.Store(int64(loss))
		nodes := make([]*node, size)
		used := spent()
		// phase tells what came of one, and what it cost.
		phase := func(what string, took time.Duration) {
			now := spent()
			t.Logf("%s after %v: %.1f s of processor time, %.2f ms for each node and second", what, took, (now - used).Seconds(), 1000*(now-used).Seconds()/float64(size)/max(1, took.Seconds()))
			used = now
		}
		begin := time.Now()
		gather(t, network, nodes)
		// all wants every node to see so many others that are there.
		all := func(number int) func() string {
			return func() string {
				for _, n := range nodes {
					if got := int(testutil.ToFloat64(n.metrics.members)); got != number {
						return fmt.Sprintf("%s sees %d, want %d", n.c.Self.Name, got, number)
					}
				}
				return ""
			}
		}
		deaths := func() (n int) {
			for _, x := range nodes {
				n += int(testutil.ToFloat64(x.metrics.events.WithLabelValues(serf.EventMemberFailed.String())))
			}
			return n
		}
		within := func(what string, d time.Duration, check func() string) {
			t.Helper()
			for begin := time.Now(); ; time.Sleep(250 * time.Millisecond) {
				fault, took := check(), time.Since(begin)
				if fault == "" {
					phase(what, took)
					return
				}
				if took > d {
					t.Fatalf("%s: not in %v: %s", what, d, fault)
				}
			}
		}
		phase("all have joined", time.Since(begin))
		within("all see all", 5*time.Minute, all(size))
		before := deaths()
		time.Sleep(calm)
		n := deaths() - before
		phase(fmt.Sprintf("%d false deaths", n), calm)
		if n > 0 {
			t.Errorf("%d false deaths in %v", n, calm)
		}
		apart.Store(true)
		time.Sleep(20 * time.Second)
		apart.Store(false)
		phase(fmt.Sprintf("cut in two, %d deaths", deaths()-before-n), 20*time.Second)
		within("one view after a heal", 90*time.Second, all(size))
		dead := nodes[size-1]
		nodes = nodes[:size-1]
		dead.stop(t)
		within("all see the dead one", 2*time.Minute, all(size-1))
		for _, n := range nodes { // at once: one after the other, those that are left would find each dead
			n.cancel()
		}
	})
}

// spent is the processor time of this process so far.
func spent() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// Cuts of all lengths, through the middle and at the edge, with a tenth of the packets lost: the view is one again within ten seconds
// of each heal.
func TestHeal(t *testing.T) {
	t.Parallel()
	size, _ := strconv.Atoi(os.Getenv("WEFT_HEAL_NODES"))
	size = max(size, 20)
	bubble(t, func(t *testing.T) {
		var border atomic.Int64 // nodes below it are cut off from the others
		side := func(a netip.AddrPort) bool { b := a.Addr().As4(); return int64(b[2])<<8+int64(b[3]) < border.Load() }
		network := &lossy{Network: Memory(memnet.New()), cut: func(from, to netip.AddrPort) bool { return side(from) != side(to) }}
		network.loss.Store(100)
		nodes := make([]*node, size)
		gather(t, network, nodes)
		one := func() bool {
			for _, n := range nodes {
				if int(testutil.ToFloat64(n.metrics.members)) != size {
					return false
				}
			}
			return true
		}
		time.Sleep(time.Minute)
		for i, cut := range []struct {
			border int
			long   time.Duration
		}{{size / 2, 20 * time.Second}, {1, 40 * time.Second}, {size / 4, 100 * time.Second}, {size / 2, 33 * time.Second}} {
			border.Store(int64(cut.border))
			time.Sleep(cut.long)
			if one() {
				t.Errorf("cut %d: nobody noticed", i)
			}
			border.Store(0)
			begin := time.Now()
			for !one() && time.Since(begin) < 2*time.Minute {
				time.Sleep(250 * time.Millisecond)
			}
			took := time.Since(begin)
			t.Logf("%d of %d cut off for %s: one view after %s", cut.border, size, cut.long, took)
			if took > 10*time.Second {
				t.Errorf("one view after %s, want 10 s at most", took)
			}
			time.Sleep(20 * time.Second)
		}
	})
}

func TestLogsAreBounded(t *testing.T) {
	n := 0
	w := &lineWriter{log: slog.New(counting{&n}), tokens: logBurst}
	for range 10 * logBurst {
		fmt.Fprintln(w, "[ERR] memberlist: Decrypt packet failed")
	}
	if n < logBurst || n > 2*logBurst {
		t.Errorf("%d lines", n)
	}
}

type counting struct{ n *int }

func (c counting) Enabled(context.Context, slog.Level) bool  { return true }
func (c counting) Handle(context.Context, slog.Record) error { *c.n++; return nil }
func (c counting) WithAttrs([]slog.Attr) slog.Handler        { return c }
func (c counting) WithGroup(string) slog.Handler             { return c }
