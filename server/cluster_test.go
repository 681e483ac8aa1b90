// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"

	"github.com/weftmesh/weft/internal/memnet"
	"github.com/weftmesh/weft/internal/plane"
)

// town is a set of servers on one in-memory network, with gossip that knows everything at once.
type town struct {
	t   *testing.T
	net *memnet.Network

	mu      sync.Mutex
	members map[string]Member
	changed broadcast
	cut     map[string]bool // from>to
	mute    map[string]bool // hosts of which nothing is heard, and which hear nothing
	conns   map[string][]net.Conn
	left    []string // asked to be forgotten

	all []*citizen
}

type citizen struct {
	*Server
	town *town
	id   string
	c    Config
	stop func() error
	// ended is closed when Run has returned.
	ended chan struct{}
}

func newTown(t *testing.T) *town {
	return &town{t: t, net: memnet.New(), members: map[string]Member{}, cut: map[string]bool{}, mute: map[string]bool{}, conns: map[string][]net.Conn{}}
}

// view is the town's gossip.
type view struct{ *town }

func (v view) Members() []Member {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.Collect(maps.Values(v.members))
}

func (v view) Changed() <-chan struct{} { return v.changed.next() }

func (v view) ForceLeave(name string) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.left = append(v.left, name)
	return nil
}

// set changes what gossip says of a member.
func (w *town) set(id string, f func(*Member)) {
	w.mu.Lock()
	m := w.members[id]
	f(&m)
	w.members[id] = m
	w.mu.Unlock()
	w.changed.send()
}

// dial connects from one server to another's protocol, unless the way is cut.
func (w *town) dial(from string) func(ctx context.Context, address, protocol string) (net.Conn, error) {
	return func(ctx context.Context, address, protocol string) (net.Conn, error) {
		host, _, _ := net.SplitHostPort(address)
		w.mu.Lock()
		cut := w.cut[from+">"+host]
		w.mu.Unlock()
		if cut {
			return nil, fmt.Errorf("no route from %s to %s", from, host)
		}
		c, err := w.net.DialFrom(ctx, from, address+"/"+protocol)
		if err == nil {
			w.mu.Lock()
			w.conns[from+">"+host] = append(w.conns[from+">"+host], c)
			w.mu.Unlock()
			c = &muted{c, w, from, host}
		}
		return c, err
	}
}

// muted is a connection on which nothing arrives while one of its ends is mute, as behind a link that was cut.
type muted struct {
	net.Conn
	w        *town
	from, to string
}

func (c *muted) silent() bool {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	return c.w.mute[c.from] || c.w.mute[c.to]
}

func (c *muted) Write(p []byte) (int, error) {
	if c.silent() {
		return len(p), nil
	}
	return c.Conn.Write(p)
}

func (c *muted) Read(p []byte) (int, error) {
	for {
		n, err := c.Conn.Read(p)
		if err != nil || !c.silent() {
			return n, err
		}
	}
}

// isolate cuts a server off from the others, or brings it back.
func (w *town) isolate(host string, on bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.all {
		other, _, _ := net.SplitHostPort(c.c.Address)
		if other == host {
			continue
		}
		for _, way := range []string{host + ">" + other, other + ">" + host} {
			w.cut[way] = on
			for _, conn := range w.conns[way] {
				_ = conn.Close()
			}
			delete(w.conns, way)
		}
	}
}

// server makes and starts a server, and tells gossip.
func (w *town) server(n, expect int, change func(*Config)) *citizen {
	w.t.Helper()
	host := fmt.Sprintf("10.0.0.%d", n)
	c := Config{
		Datacenter: "dc1", NodeName: fmt.Sprintf("s%d", n), NodeID: fmt.Sprintf("id-%d", n), Address: host + ":8300", Expect: expect,
		Members: view{w}, Dial: w.dial(host), Closure: readsUpstreams,
	}
	if change != nil {
		change(&c)
	}
	host, _, _ = net.SplitHostPort(c.Address)
	w.set(c.NodeID, func(m *Member) {
		*m = Member{Name: c.NodeName, ID: c.NodeID, Datacenter: "dc1", Address: host, Status: Alive, Server: true, ServerPort: 8300, Expect: expect}
	})
	s := &citizen{town: w, id: c.NodeID, c: c}
	s.start()
	w.all = append(w.all, s)
	w.t.Cleanup(func() {
		if err := s.stop(); err != nil {
			w.t.Errorf("%s: %v", c.NodeName, err)
		}
	})
	return s
}

func (s *citizen) start() {
	w := s.town
	w.t.Helper()
	listen := func(protocol string) net.Listener {
		l, err := w.net.Listen(s.c.Address + "/" + protocol)
		if err != nil {
			w.t.Fatal(err)
		}
		return l
	}
	s.c.Streams, s.c.Reads = listen(plane.Raft), listen(plane.Reads)
	srv, err := New(s.c)
	if err != nil {
		w.t.Fatal(err)
	}
	s.Server = srv
	rpc := grpc.NewServer(grpc.UnaryInterceptor(srv.UnaryInterceptor))
	srv.RegisterGRPC(rpc)
	web := &http.Server{Handler: srv.Handler(), Protocols: new(http.Protocols)}
	web.Protocols.SetUnencryptedHTTP2(true)
	var work sync.WaitGroup
	gl, hl := listen(plane.GRPC), listen(plane.HTTP)
	work.Go(func() { _ = rpc.Serve(gl) })
	work.Go(func() { _ = web.Serve(hl) })
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	ended := make(chan struct{})
	s.ended = ended
	go func() {
		done <- srv.Run(ctx)
		close(ended)
	}()
	s.stop = sync.OnceValue(func() error {
		_ = web.Close()
		rpc.Stop()
		work.Wait()
		cancel()
		return <-done
	})
}

// do makes a request at this server.
func (s *citizen) do(method, path, body string) (int, string, http.Header) {
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, httptest.NewRequest(method, path, strings.NewReader(body)))
	return w.Code, w.Body.String(), w.Header()
}

func (s *citizen) want(method, path, body string, status int, part string) http.Header {
	s.town.t.Helper()
	code, text, h := s.do(method, path, body)
	if code != status || !strings.Contains(text, part) {
		s.town.t.Errorf("%s at %s %s: %d %s\nwant %d with %s", s.c.NodeName, method, path, code, text, status, part)
	}
	return h
}

// leader waits for the one server that leads and has taken office.
func (w *town) leader() *citizen {
	w.t.Helper()
	for range 600 {
		for _, s := range w.all {
			if s.leads() {
				return s
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
	w.t.Fatal("no leader after 30 s")
	return nil
}

// followers are the others.
func (w *town) followers() []*citizen {
	leader := w.leader()
	return slices.DeleteFunc(slices.Clone(w.all), func(s *citizen) bool { return s == leader })
}

func three(t *testing.T, f func(t *testing.T, w *town)) {
	synctest.Test(t, func(t *testing.T) {
		w := newTown(t)
		for n := 1; n <= 3; n++ {
			w.server(n, 3, nil)
		}
		f(t, w)
	})
}

// Whatever server is asked, a write is done and the next read anywhere sees it.
func TestEveryServerAnswers(t *testing.T) {
	three(t, func(t *testing.T, w *town) {
		leader := w.leader()
		for i, s := range w.all {
			s.want("PUT", "/v1/config", fmt.Sprintf(`{"Kind":"service-defaults","Name":"web%d","Protocol":"http"}`, i), 200, "true")
			for _, other := range w.all {
				for _, consistency := range []string{"", "?consistent"} {
					other.want("GET", fmt.Sprintf("/v1/config/service-defaults/web%d%s", i, consistency), "", 200, `"Protocol":"http"`)
				}
			}
		}
		for _, s := range w.all {
			s.want("GET", "/v1/status/leader", "", 200, leader.c.Address)
			s.want("GET", "/v1/status/peers", "", 200, `10.0.0.3:8300`)
			s.want("GET", "/v1/connect/ca/configuration", "", 200, `"LeafCertTTL":"72h0m0s"`)
			s.want("PUT", "/v1/catalog/register", `{"Address":"1.1.1.1"}`, 500, `Must provide node`)
		}
		h := w.followers()[0].want("GET", "/v1/catalog/nodes?stale", "", 200, "")
		if h.Get("X-Consul-KnownLeader") != "true" || h.Get("X-Consul-LastContact") == "" {
			t.Errorf("stale: %v", h)
		}
	})
}

// What was acknowledged is there after the leader is gone, and the next write doesn't wait long.
func TestLeaderIsLost(t *testing.T) {
	three(t, func(t *testing.T, w *town) {
		old := w.leader()
		old.want("PUT", "/v1/config", `{"Kind":"service-defaults","Name":"web","Protocol":"http"}`, 200, "true")
		host, _, _ := net.SplitHostPort(old.c.Address)
		w.isolate(host, true)
		lost := time.Now()
		var others []*citizen
		for _, s := range w.all {
			if s != old {
				others = append(others, s)
			}
		}
		others[0].want("PUT", "/v1/config", `{"Kind":"service-defaults","Name":"api","Protocol":"http"}`, 200, "true")
		if d := time.Since(lost); d > 1500*time.Millisecond {
			t.Errorf("the next write took %v", d)
		}
		for _, s := range others {
			s.want("GET", "/v1/config/service-defaults/web", "", 200, `http`)
			s.want("GET", "/v1/config/service-defaults/api", "", 200, `http`)
		}
		// The one that is cut off says what it has only to those who take old answers.
		old.want("GET", "/v1/config/service-defaults/web?stale", "", 200, `http`)
		for _, way := range []string{"", "?consistent"} {
			began := time.Now()
			old.want("GET", "/v1/config/service-defaults/api"+way, "", 500, "No cluster leader")
			if d := time.Since(began); d > 15*time.Second {
				t.Errorf("it took %v to say so", d)
			}
		}
		old.want("PUT", "/v1/config", `{"Kind":"service-defaults","Name":"lost","Protocol":"http"}`, 500, "")
		w.isolate(host, false)
		time.Sleep(15 * time.Second) // raft tries a server that was gone again every 10 s in the end
		old.want("GET", "/v1/config/service-defaults/api", "", 200, `http`)
		digest := string(others[0].store.Digest())
		for _, s := range w.all {
			if string(s.store.Digest()) != digest {
				t.Errorf("%s has other tables", s.c.NodeName)
			}
		}
	})
}

// Nobody waits for the answer of a leader of which nothing is heard any more: a write says that it may have been done, and a read is
// answered by those that are left.
func TestSilentLeader(t *testing.T) {
	three(t, func(t *testing.T, w *town) {
		old := w.leader()
		other := w.followers()[0]
		other.want("PUT", "/v1/kv/a", "1", 200, "true") // by connections that are there
		other.want("GET", "/v1/kv/a", "", 200, "")
		host, _, _ := net.SplitHostPort(old.c.Address)
		w.mu.Lock()
		w.mute[host] = true
		w.mu.Unlock()
		began := time.Now()
		read := make(chan time.Duration, 1)
		go func() {
			other.want("GET", "/v1/kv/a", "", 200, "")
			read <- time.Since(began)
		}()
		other.want("PUT", "/v1/kv/a", "2", 500, "may have been done")
		if d := time.Since(began); d > 4*heartbeatTimeout+lateAnswer {
			t.Errorf("a write was told nothing for %v", d)
		}
		if d := <-read; d > 6*heartbeatTimeout {
			t.Errorf("a read took %v", d)
		}
		other.want("PUT", "/v1/kv/a", "3", 200, "true")
		w.mu.Lock()
		w.mute[host] = false
		w.mu.Unlock()
	})
}

// A transaction that only reads sees what was agreed, as any other read: a leader that can't ask the others doesn't answer it.
func TestTransactionReadsAreConfirmed(t *testing.T) {
	three(t, func(t *testing.T, w *town) {
		old := w.leader()
		const get = `[{"KV":{"Verb":"get","Key":"a"}}]`
		old.want("PUT", "/v1/kv/a", "1", 200, "true")
		old.want("PUT", "/v1/txn", get, 200, `"Value":"MQ=="`)
		host, _, _ := net.SplitHostPort(old.c.Address)
		w.mu.Lock()
		w.mute[host] = true // it doesn't know yet
		w.mu.Unlock()
		old.want("PUT", "/v1/txn?stale", get, 200, `"Value":"MQ=="`)
		old.want("PUT", "/v1/txn", get, 500, "No cluster leader")
	})
}

// A request that is given up, because its server stops, isn't answered as if it had been done.
func TestGivenUp(t *testing.T) {
	three(t, func(t *testing.T, w *town) {
		for _, s := range append(w.followers(), w.leader()) {
			for _, method := range []string{"PUT", "DELETE", "GET"} {
				ctx, cancel := context.WithCancel(t.Context())
				cancel()
				rec := httptest.NewRecorder()
				s.Handler().ServeHTTP(rec, httptest.NewRequestWithContext(ctx, method, "/v1/kv/a", strings.NewReader("")))
				if rec.Code < 500 {
					t.Errorf("%s at %s: %d %s", method, s.c.NodeName, rec.Code, rec.Body)
				}
			}
		}
	})
}

// A server that stops hands over: the next write waits for no timeout.
func TestHandOver(t *testing.T) {
	three(t, func(t *testing.T, w *town) {
		old := w.leader()
		others := w.followers()
		began := time.Now()
		if err := old.stop(); err != nil {
			t.Fatal(err)
		}
		others[0].want("PUT", "/v1/config", `{"Kind":"service-defaults","Name":"api","Protocol":"http"}`, 200, "true")
		if d := time.Since(began); d >= heartbeatTimeout {
			t.Errorf("the next write took %v", d)
		}
	})
}

// Reads that are blocked at a follower wake with a write at the leader.
func TestBlockingAtFollower(t *testing.T) {
	three(t, func(t *testing.T, w *town) {
		w.leader()
		follower := w.followers()[0]
		follower.want("PUT", "/v1/catalog/register", web, 200, "true")
		index := follower.want("GET", "/v1/health/service/web", "", 200, "passing").Get("X-Consul-Index")
		woken := make(chan struct{})
		go func() {
			defer close(woken)
			follower.want("GET", "/v1/health/service/web?wait=60s&index="+index, "", 200, `"critical"`)
		}()
		time.Sleep(time.Second)
		w.leader().want("PUT", "/v1/catalog/register", strings.Replace(web, "passing", "critical", 1), 200, "true")
		<-woken
	})
}

// With fewer than expected nothing is founded; a fourth is no second cluster; who comes later is taken in.
func TestBootstrapOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTown(t)
		w.server(1, 3, nil)
		w.server(2, 3, nil)
		time.Sleep(time.Minute)
		for _, s := range w.all {
			s.want("GET", "/v1/status/leader", "", 200, `""`)
		}
		w.server(3, 3, nil)
		w.server(4, 3, nil)
		w.leader()
		time.Sleep(30 * time.Second)
		leaders := map[string]bool{}
		for _, s := range w.all {
			leaders[s.Leader()] = true
		}
		if len(leaders) != 1 || leaders[""] {
			t.Errorf("leaders: %v", leaders)
		}
	})
}

// Two servers that see different others don't found two clusters.
func TestBootstrapDisagreement(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTown(t)
		s := w.server(1, 3, nil)
		time.Sleep(time.Second)
		if !s.others.promise("id-2") || s.others.promise("id-3") || s.others.promise(s.id) {
			t.Error("a promise was given twice")
		}
		time.Sleep(promiseLife)
		if !s.others.promise("id-3") {
			t.Error("a promise outlives its time")
		}
	})
}

// A different bootstrap_expect is an error that is told, and founds nothing.
func TestExpectDiffers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTown(t)
		w.server(1, 2, nil)
		w.server(2, 3, nil)
		w.server(3, 3, nil)
		time.Sleep(time.Minute)
		for _, s := range w.all {
			s.want("GET", "/v1/status/leader", "", 200, `""`)
		}
	})
}

// The whole cluster restarts at other addresses and goes on.
func TestAddressesChange(t *testing.T) {
	dirs := []string{t.TempDir(), t.TempDir(), t.TempDir()}
	for round := range 2 {
		func() {
			w := newTown(t)
			for n := 1; n <= 3; n++ {
				w.server(n, 3, func(c *Config) {
					c.DataDir, c.Address = dirs[n-1], fmt.Sprintf("10.0.%d.%d:8300", round, n)
				})
			}
			w.leader()
			if round == 0 {
				w.all[0].want("PUT", "/v1/config", `{"Kind":"service-defaults","Name":"web","Protocol":"http"}`, 200, "true")
			}
			w.all[1].want("GET", "/v1/config/service-defaults/web", "", 200, `http`)
			for _, s := range w.all {
				if err := s.stop(); err != nil {
					t.Error(err)
				}
			}
		}()
	}
}

// A majority is gone for good: one command makes a cluster of who is left.
func TestRecover(t *testing.T) {
	dir := t.TempDir()
	w := newTown(t)
	for n := 1; n <= 3; n++ {
		w.server(n, 3, func(c *Config) {
			if n == 1 {
				c.DataDir = dir
			}
		})
	}
	w.leader()
	w.all[0].want("PUT", "/v1/catalog/register", web, 200, "true")
	w.all[0].want("GET", "/v1/catalog/nodes", "", 200, "n1")
	for _, s := range w.all {
		if err := s.stop(); err != nil {
			t.Error(err)
		}
	}
	report, err := Recover(Recovery{DataDir: dir, Datacenter: "dc1", NodeID: "id-1", Address: "10.0.0.1:8300", Log: discardLog()})
	if err != nil {
		t.Fatal(err)
	}
	if len(report.Before) != 3 || report.Nodes < 1 || report.LastIndex == 0 {
		t.Errorf("%+v", report)
	}
	alone := newTown(t)
	s := alone.server(1, 3, func(c *Config) { c.DataDir = dir })
	if alone.leader() != s {
		t.Error("it doesn't lead")
	}
	s.want("GET", "/v1/catalog/nodes", "", 200, "n1")
	s.want("PUT", "/v1/config", `{"Kind":"service-defaults","Name":"web","Protocol":"http"}`, 200, "true")
}

// A write's error is not tried elsewhere, and a body is sent whole to the leader.
func TestForwardedBodies(t *testing.T) {
	three(t, func(t *testing.T, w *town) {
		w.leader()
		for _, s := range w.followers() {
			s.want("PUT", "/v1/config", `{"Kind":"odd","Name":"web"}`, 400, `invalid config entry kind: odd`)
			s.want("PUT", "/v1/catalog/register", `{"Node":"`+strings.Repeat("n", 9<<20)+`"}`, 413, ``)
		}
	})
}

var errFatal = errors.New("stop")

// A server whose disk or log can't be trusted any more stops itself.
func TestFatal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := New(Config{Datacenter: "dc1", NodeName: "s1"})
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- s.Run(t.Context()) }()
		<-s.Ready()
		s.fail(errFatal)
		if err := <-done; !errors.Is(err, errFatal) {
			t.Errorf("Run: %v", err)
		}
	})
}

func discardLog() *slog.Logger { return slog.New(slog.DiscardHandler) }
