// SPDX-License-Identifier: Apache-2.0

package feed

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/internal/api"
	"github.com/weftmesh/weft/internal/wire"
	weftv1 "github.com/weftmesh/weft/proto/weft/v1"
)

var scope = catalog.Scope{}.Default("dc1")

// world is a server's catalog and an agent's replica, with a stream between them that a test can break.
type world struct {
	t       *testing.T
	store   *catalog.Store
	feed    *Server
	replica *catalog.Store
	held    map[catalog.Topic]bool
	got     []*weftv1.SubscribeResponse // since the last look
	index   uint64
}

func newWorld(t *testing.T, c Config, window int) *world {
	t.Helper()
	store, err := catalog.New(catalog.Config{Datacenter: "dc1", Epoch: 7, WindowBytes: window})
	if err != nil {
		t.Fatal(err)
	}
	replica, err := catalog.New(catalog.Config{Datacenter: "dc1", Replica: true})
	if err != nil {
		t.Fatal(err)
	}
	c.Store = store
	if c.Resolver == nil {
		c.Resolver = api.Open{}
	}
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return &world{t: t, store: store, feed: s, replica: replica, held: map[catalog.Topic]bool{}}
}

func (w *world) apply(body catalog.Body) {
	w.t.Helper()
	data, err := catalog.Encode(body)
	if err != nil {
		w.t.Fatal(err)
	}
	w.index = max(w.index, w.store.Position().Index) + 1
	if r := w.store.Apply([]catalog.LogEntry{{Index: w.index, Data: data}})[0]; r.Err != nil {
		w.t.Fatal(r.Err)
	}
}

func (w *world) register(name string, port int) {
	w.t.Helper()
	w.apply(&catalog.Register{
		Node:     catalog.Node{Scope: scope, Node: "n1", Address: "10.0.0.1"},
		Services: []catalog.Service{{Scope: scope, ID: name, Service: name, Port: port, Weights: catalog.Weights{Passing: 1, Warning: 1}}},
	})
}

// restore brings the store back to what it is, as another history.
func (w *world) restore() {
	w.t.Helper()
	var snap bytes.Buffer
	if _, err := w.store.Snapshot().WriteTo(&snap); err != nil {
		w.t.Fatal(err)
	}
	if err := w.store.Restore(&snap); err != nil {
		w.t.Fatal(err)
	}
}

// stream is the server's end of a Subscribe.
type stream struct {
	grpc.ServerStream
	ctx  context.Context
	in   chan *weftv1.SubscribeRequest
	out  chan *weftv1.SubscribeResponse // unbuffered: Send blocks until it is taken
	done chan error
	stop context.CancelFunc
}

func (s *stream) Context() context.Context { return s.ctx }

func (s *stream) Recv() (*weftv1.SubscribeRequest, error) {
	select {
	case r, ok := <-s.in:
		if !ok {
			return nil, io.EOF
		}
		return r, nil
	case <-s.ctx.Done():
		return nil, s.ctx.Err()
	}
}

func (s *stream) Send(m *weftv1.SubscribeResponse) error {
	select {
	case s.out <- m:
		return nil
	case <-s.ctx.Done():
		return s.ctx.Err()
	}
}

func topicsOf(names ...string) *weftv1.Interest {
	var topics []catalog.Topic
	for _, n := range names {
		topics = append(topics, catalog.ServiceTopic(scope.Name(n)))
	}
	return &weftv1.Interest{Id: "topics", Topics: wire.Topics(topics)}
}

// open starts a stream as an agent does: with what its replica holds. Nothing is taken from it before take.
func (w *world) open(interests ...*weftv1.Interest) *stream {
	w.t.Helper()
	ctx, stop := context.WithCancel(w.t.Context())
	s := &stream{ctx: ctx, stop: stop, in: make(chan *weftv1.SubscribeRequest, 8), out: make(chan *weftv1.SubscribeResponse), done: make(chan error, 1)}
	s.in <- &weftv1.SubscribeRequest{
		Node: "n1", Position: wire.Position(w.replica.Position()), Held: wire.Topics(slices.Collect(maps.Keys(w.held))), Interests: interests,
	}
	go func() {
		s.done <- w.feed.Subscribe(s)
		stop() // as gRPC does
	}()
	return s
}

func (w *world) end(s *stream) {
	s.stop()
	<-s.done
	synctest.Wait()
}

// take applies one message, as the agent's replica does.
func (w *world) take(m *weftv1.SubscribeResponse) {
	w.t.Helper()
	u := catalog.Update{
		Position: wire.PositionFrom(m.GetPosition()), Snapshot: wire.TopicsFrom(m.GetReplaced()),
		Covered: wire.TopicsFrom(m.GetCovered()), Dropped: wire.TopicsFrom(m.GetDropped()),
	}
	for _, i := range m.GetItems() {
		u.Items = append(u.Items, wire.ItemFrom(i))
	}
	if u.Position.Epoch != w.replica.Position().Epoch {
		clear(w.held)
	}
	if err := w.replica.ApplyItems(u); err != nil {
		w.t.Fatal(err)
	}
	for _, t := range u.Covered {
		w.held[t] = true
	}
	for _, t := range u.Dropped {
		delete(w.held, t)
	}
	w.got = append(w.got, m)
}

// drain takes all that comes without time passing.
func (w *world) drain(s *stream) {
	w.t.Helper()
	for {
		synctest.Wait()
		select {
		case m := <-s.out:
			w.take(m)
		default:
			return
		}
	}
}

// since are the topics that were sent whole and dropped since the last call.
func (w *world) since() (whole, dropped []string, items int) {
	for _, m := range w.got {
		for _, t := range m.GetReplaced() {
			whole = append(whole, t.GetName())
		}
		for _, t := range m.GetDropped() {
			dropped = append(dropped, t.GetName())
		}
		items += len(m.GetItems())
	}
	w.got = nil
	slices.Sort(whole)
	slices.Sort(dropped)
	return whole, dropped, items
}

// agrees checks that the replica answers as the server does.
func (w *world) agrees(names ...string) {
	w.t.Helper()
	for _, n := range names {
		want, err := w.store.Read().Instances(scope.Name(n))
		if err != nil {
			w.t.Fatal(err)
		}
		got, err := w.replica.Read().Instances(scope.Name(n))
		if d := cmp.Diff(want, got); d != "" || err != nil {
			w.t.Fatalf("%s: %v\n%s", n, err, d)
		}
	}
}

// A stream that breaks goes on from its position: only what changed meanwhile is sent.
func TestResume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{}, 0)
		w.register("web", 80)
		w.register("api", 81)
		s := w.open(topicsOf("web", "api"))
		w.drain(s)
		if whole, _, _ := w.since(); !slices.Equal(whole, []string{"", "api", "web"}) {
			t.Errorf("first: whole %q", whole)
		}
		w.end(s)
		w.register("web", 8080)
		w.register("other", 1)
		s = w.open(topicsOf("web", "api"))
		w.drain(s)
		if whole, dropped, items := w.since(); len(whole)+len(dropped) > 0 || items != 1 {
			t.Errorf("resumed: whole %q, dropped %q, %d items", whole, dropped, items)
		}
		w.agrees("web", "api")
		w.end(s)
	})
}

// Where the retained changes don't reach back, the topics that have changed are sent whole, and no others: also on a stream
// that was idle for long.
func TestBeyondTheWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{}, 20_000)
		w.register("web", 80)
		w.register("api", 81)
		s := w.open(topicsOf("web", "api"))
		w.drain(s)
		w.since()
		for i := range 200 {
			w.register("noise", i+1)
		}
		w.register("web", 8080)
		w.drain(s)
		if whole, dropped, _ := w.since(); !slices.Equal(whole, []string{"web"}) || len(dropped) > 0 {
			t.Errorf("on the stream: whole %q, dropped %q", whole, dropped)
		}
		w.end(s)
		for i := range 200 {
			w.register("noise", i+1)
		}
		w.register("api", 8081)
		for i := range 200 {
			w.register("noise", i+1)
		}
		s = w.open(topicsOf("web", "api"))
		w.drain(s)
		if whole, dropped, _ := w.since(); !slices.Equal(whole, []string{"api"}) || len(dropped) > 0 {
			t.Errorf("on the next stream: whole %q, dropped %q", whole, dropped)
		}
		w.agrees("web", "api")
		w.end(s)
	})
}

// A stream that breaks between the pieces that renew what has changed: what wasn't renewed doesn't count as held.
func TestBreakBetweenPieces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{PieceBytes: 1}, 20_000)
		w.register("web", 80)
		w.register("api", 81)
		s := w.open(topicsOf("web", "api"))
		w.drain(s)
		w.end(s)
		w.register("web", 8080)
		w.register("api", 8081)
		for i := range 200 {
			w.register("noise", i+1)
		}
		for range 3 { // each gets one message further
			s = w.open(topicsOf("web", "api"))
			w.take(<-s.out)
			w.end(s)
		}
		s = w.open(topicsOf("web", "api"))
		w.drain(s)
		w.agrees("web", "api")
		w.end(s)
	})
}

// A restored server's positions are of another history: everything is sent anew, on an open stream and on a new one.
func TestRestore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{PieceBytes: 1}, 0)
		w.register("web", 80)
		w.register("api", 81)
		s := w.open(topicsOf("web", "api"))
		w.drain(s)
		w.since()
		w.restore()
		w.drain(s)
		if whole, _, _ := w.since(); !slices.Equal(whole, []string{"", "api", "web"}) {
			t.Errorf("on the stream: whole %q", whole)
		}
		w.agrees("web", "api")
		w.end(s)
		w.restore()
		s = w.open(topicsOf("web", "api"))
		w.drain(s)
		if whole, _, _ := w.since(); !slices.Equal(whole, []string{"", "api", "web"}) {
			t.Errorf("on the next stream: whole %q", whole)
		}
		w.agrees("web", "api")
		if want := w.store.Position(); w.replica.Position() != want {
			t.Errorf("at %v, want %v", w.replica.Position(), want)
		}
		w.end(s)
	})
}

// An agent that takes nothing loses its stream, and goes on from where it was. The second time within some minutes it waits.
func TestSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{Stall: 10 * time.Second}, 0)
		w.register("web", 80)
		s := w.open(topicsOf("web"))
		w.drain(s)
		for n, wait := range []time.Duration{0, time.Second, 2 * time.Second} {
			w.since()
			w.register("web", 81+n)
			began := time.Now()
			err := <-s.done // nothing is taken
			if status.Code(err) != codes.ResourceExhausted || time.Since(began) != 10*time.Second {
				t.Fatalf("after %v: %v", time.Since(began), err)
			}
			w.register("other", 1+n)
			began = time.Now()
			s = w.open(topicsOf("web"))
			w.take(<-s.out)
			if d := time.Since(began); d != wait {
				t.Errorf("drop %d: served after %v, want %v", n+1, d, wait)
			}
			if whole, _, items := w.since(); len(whole) > 0 || items != 1 {
				t.Errorf("drop %d: whole %q, %d items", n+1, whole, items)
			}
			w.agrees("web")
		}
		w.end(s)
		time.Sleep(strikeTime + time.Minute)
		w.feed.strikes.note("somebody else")
		if len(w.feed.strikes.by) != 1 {
			t.Error("strikes aren't forgiven")
		}
	})
}

// Those who are sent whole topics take turns; one that takes slowly doesn't keep the others for long.
func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{Snapshots: 1}, 0)
		w.register("web", 80)
		slow, next := w.open(topicsOf("web")), (*stream)(nil)
		synctest.Wait()
		next = w.open(topicsOf("web"))
		synctest.Wait()
		select {
		case <-next.out:
			t.Fatal("served beside the other")
		default:
		}
		began := time.Now()
		<-next.out
		if d := time.Since(began); d != slotHold {
			t.Errorf("waited %v", d)
		}
		w.end(slow)
		w.end(next)
	})
}

// Interests hold for a lease; stated again they hold on, and an agent that states them later has them again.
func TestLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{Lease: time.Minute}, 0)
		w.register("web", 80)
		s := w.open(topicsOf("web"))
		w.drain(s)
		w.since()
		for range 3 {
			time.Sleep(50 * time.Second)
			s.in <- &weftv1.SubscribeRequest{Node: "n1", Interests: []*weftv1.Interest{topicsOf("web")}}
			w.drain(s)
		}
		if len(w.got) > 0 {
			t.Errorf("a restatement was answered: %v", w.got)
		}
		time.Sleep(time.Minute)
		w.drain(s)
		if len(w.got) != 1 || len(w.got[0].GetErrors()) != 1 {
			t.Errorf("expired: %v", w.got)
		}
		if _, dropped, _ := w.since(); !slices.Equal(dropped, []string{"web"}) {
			t.Errorf("dropped %q", dropped)
		}
		s.in <- &weftv1.SubscribeRequest{Node: "n1", Interests: []*weftv1.Interest{topicsOf("web")}}
		w.drain(s)
		w.agrees("web")
		w.end(s)
	})
}

// What is beyond the bounds is refused by itself; the rest is served.
func TestBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{MaxInterests: 3, MaxTopics: 2}, 0)
		many, other := topicsOf("a", "b", "c"), topicsOf("web")
		many.Id, many.Token = "many", "greedy"
		other.Id, other.Token = "other", "modest"
		odd := &weftv1.Interest{Id: "odd", Topics: []*weftv1.Topic{{Kind: "odd"}}}
		beyond := topicsOf("api")
		beyond.Id = "beyond"
		s := w.open(many, other, odd, beyond)
		w.drain(s)
		var refused []string
		for _, e := range w.got[0].GetErrors() {
			refused = append(refused, e.GetId())
		}
		if !slices.Equal(refused, []string{"many", "odd", "beyond"}) {
			t.Errorf("refused: %v", w.got[0].GetErrors())
		}
		w.agrees("web")
		if _, err := w.replica.Read().Instances(scope.Name("api")); err == nil {
			t.Error("what is beyond the bound is served")
		}
		w.end(s)
	})
}

// Whatever happens between them, an agent never holds for true what isn't: streams that break at any message, a window that
// is too small, restores, interests that come and go.
func TestReplicaNeverLies(t *testing.T) {
	names := []string{"a", "b", "c", "d", "e"}
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 5))
			w := newWorld(t, Config{PieceBytes: 1 + r.IntN(2000)}, 6000)
			pick := func() *weftv1.Interest {
				n := slices.Clone(names)
				r.Shuffle(len(n), func(i, j int) { n[i], n[j] = n[j], n[i] })
				return topicsOf(n[:1+r.IntN(len(n))]...)
			}
			interest := pick()
			s := w.open(interest)
			for range 150 {
				switch r.IntN(12) {
				case 0:
					w.end(s)
					s = w.open(interest)
				case 1:
					interest = pick()
					s.in <- &weftv1.SubscribeRequest{Node: "n1", Interests: []*weftv1.Interest{interest}}
				case 2:
					if r.IntN(4) == 0 {
						w.restore()
					}
				case 3, 4, 5:
					synctest.Wait()
					select { // one message, and perhaps none after it
					case m := <-s.out:
						w.take(m)
					default:
					}
				default:
					for range 1 + r.IntN(6) {
						w.register(names[r.IntN(len(names))], 1+r.IntN(100))
					}
				}
			}
			w.drain(s)
			for _, t := range interest.GetTopics() {
				w.agrees(t.GetName())
			}
			if w.replica.Position().Epoch != w.store.Position().Epoch {
				t.Errorf("seed %d: at %v, the server at %v", seed, w.replica.Position(), w.store.Position())
			}
			w.end(s)
		})
	}
}

// guard lets the token "n1-agent" read and write the node n1, and nothing else anybody.
type guard string

func (guard) Resolve(_ context.Context, token string) (api.Subject, error) { return guard(token), nil }

func (g guard) In(string) api.Subject { return g }

func (g guard) Allow(p api.Permission, name string) error {
	if p.Resource == "" || g == "n1-agent" && p.Resource == "node" && name == "n1" {
		return nil
	}
	return fmt.Errorf("%w: %s on %q", api.ErrDenied, p, name)
}

func (g guard) String() string { return string(g) }

func as(ctx context.Context, token string) context.Context {
	return metadata.NewIncomingContext(ctx, metadata.Pairs(api.TokenHeader, token))
}

// A report is taken from who may write the node, is added to, and holds for its time.
func TestReports(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{Resolver: guard("")}, 0)
		report := func(token, node string, complete bool, ids ...string) (*weftv1.ReportResponse, error) {
			req := &weftv1.ReportRequest{Node: node, Complete: complete}
			for _, id := range ids {
				req.Proxies = append(req.Proxies, &weftv1.ProxyReport{ProxyId: id})
			}
			return w.feed.Report(as(t.Context(), token), req)
		}
		for _, c := range []struct{ token, node string }{{"", "n1"}, {"n1-agent", "n2"}} {
			if _, err := report(c.token, c.node, true); status.Code(err) != codes.PermissionDenied {
				t.Errorf("token %q for %s: %v", c.token, c.node, err)
			}
		}
		if resp, err := report("n1-agent", "n1", false, "a"); err != nil || !resp.GetUnknown() {
			t.Errorf("something to add to nothing: %v, %v", resp, err)
		}
		_, changed := w.feed.Reports()
		for _, ids := range [][]string{{"a", "b"}, {"c"}} {
			if _, err := report("n1-agent", "n1", ids[0] == "a", ids...); err != nil {
				t.Error(err)
			}
		}
		<-changed
		all, _ := w.feed.Reports()
		if len(all) != 1 || len(all[0].Proxies) != 3 {
			t.Errorf("%+v", all)
		}
		time.Sleep(2*time.Minute + time.Second)
		if all, _ := w.feed.Reports(); len(all) != 0 {
			t.Errorf("after its time: %+v", all)
		}
	})
}

func TestSubscribeNeedsTheNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{Resolver: guard("")}, 0)
		s := w.open(topicsOf("web"))
		if err := <-s.done; status.Code(err) != codes.PermissionDenied {
			t.Errorf("without a token: %v", err)
		}
	})
}
