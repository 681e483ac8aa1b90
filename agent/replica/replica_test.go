// SPDX-License-Identifier: Apache-2.0

package replica

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"

	"github.com/weftmesh/weft/agent/agenttest"
	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/internal/api"
	weftv1 "github.com/weftmesh/weft/proto/weft/v1"
	"github.com/weftmesh/weft/server"
)

var scope = catalog.Scope{}.Default("dc1")

const maxAge = time.Minute

// watched is a feed's client that remembers what was asked and answered.
type watched struct {
	weftv1.FeedClient
	mu    sync.Mutex
	asked []*weftv1.SubscribeRequest
	got   []*weftv1.SubscribeResponse
}

func (w *watched) Subscribe(ctx context.Context, o ...grpc.CallOption) (grpc.BidiStreamingClient[weftv1.SubscribeRequest, weftv1.SubscribeResponse], error) {
	s, err := w.FeedClient.Subscribe(ctx, o...)
	return &watchedStream{s, w}, err
}

type watchedStream struct {
	grpc.BidiStreamingClient[weftv1.SubscribeRequest, weftv1.SubscribeResponse]
	w *watched
}

func (s *watchedStream) Send(r *weftv1.SubscribeRequest) error {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	s.w.asked = append(s.w.asked, r)
	return s.BidiStreamingClient.Send(r)
}

func (s *watchedStream) Recv() (*weftv1.SubscribeResponse, error) {
	r, err := s.BidiStreamingClient.Recv()
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	if err == nil {
		s.w.got = append(s.w.got, r)
	}
	return r, err
}

func (w *watched) take() (asked []*weftv1.SubscribeRequest, got []*weftv1.SubscribeResponse) {
	w.mu.Lock()
	defer w.mu.Unlock()
	asked, got = w.asked, w.got
	w.asked, w.got = nil, nil
	return asked, got
}

type rig struct {
	t       *testing.T
	servers *agenttest.Servers
	store   *catalog.Store
	replica *Replica
	feed    *watched
}

// inBubble runs f with a replica that follows a server.
func inBubble(t *testing.T, f func(t *testing.T, r *rig)) {
	t.Helper()
	inBubbleOf(t, server.Config{}, f)
}

func inBubbleOf(t *testing.T, c server.Config, f func(t *testing.T, r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		servers, err := agenttest.New(c)
		if err != nil {
			t.Fatal(err)
		}
		store, err := catalog.New(catalog.Config{Datacenter: "dc1", Replica: true})
		if err != nil {
			t.Fatal(err)
		}
		r := &rig{t: t, servers: servers, store: store, feed: &watched{FeedClient: weftv1.NewFeedClient(servers.Conn)}}
		if r.replica, err = New(Config{
			Node: "n1", Client: r.feed, Store: store, MaxAge: maxAge, Log: slog.New(slog.DiscardHandler), Jitter: func() float64 { return 0.5 },
		}); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- r.replica.Run(ctx) }()
		defer func() {
			cancel()
			if err := errors.Join(<-done, servers.Close()); err != nil {
				t.Error(err)
			}
		}()
		f(t, r)
	})
}

func (r *rig) write(bodies ...catalog.Body) {
	r.t.Helper()
	if err := r.servers.Write(r.t.Context(), bodies...); err != nil {
		r.t.Fatal(err)
	}
	synctest.Wait()
}

func instance(service string, port int) catalog.Register {
	return catalog.Register{
		Node:     catalog.Node{Scope: scope, Node: "n2", Address: "10.0.0.2"},
		Services: []catalog.Service{{Scope: scope, ID: service, Service: service, Port: port, Weights: catalog.Weights{Passing: 1, Warning: 1}}},
	}
}

// ports are those of a service, as the replica knows them; -1 says that it doesn't.
func (r *rig) ports(service string) (ports []int) {
	r.t.Helper()
	all, err := r.store.Read().Instances(scope.Name(service))
	if errors.Is(err, catalog.ErrNotCovered) {
		return []int{-1}
	}
	if err != nil {
		r.t.Fatal(err)
	}
	for _, i := range all {
		ports = append(ports, i.Service.Port)
	}
	return ports
}

func (r *rig) want(service string, ports ...int) {
	r.t.Helper()
	got := r.ports(service)
	if len(got) != len(ports) {
		r.t.Errorf("%s: ports %v, want %v", service, got, ports)
		return
	}
	for i := range got {
		if got[i] != ports[i] {
			r.t.Errorf("%s: ports %v, want %v", service, got, ports)
		}
	}
}

func topics(services ...string) map[string]Interest {
	m := map[string]Interest{}
	for _, s := range services {
		m[s] = Interest{Topics: []catalog.Topic{catalog.ServiceTopic(scope.Name(s))}}
	}
	return m
}

// What is asked for is covered, what isn't any more is not: and neither is ever an empty answer.
func TestCoverage(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.write(instance("api", 80), instance("db", 5432))
		if asked, _ := r.feed.take(); len(asked) > 0 {
			t.Error("a server is asked before anybody has said for what: it would take away what a copy has brought")
		}
		r.want("api", -1)
		r.replica.SetInterests(topics("api"))
		synctest.Wait()
		r.want("api", 80)
		r.want("db", -1)
		if !r.replica.Connected() || !r.replica.Followed() {
			t.Error("it doesn't know that it follows")
		}
		r.write(instance("api", 81))
		r.want("api", 81)
		r.replica.SetInterests(topics("db", "none"))
		synctest.Wait()
		r.want("api", -1)
		r.want("db", 5432)
		r.want("none")
	})
}

// A refused interest is told with the server's reason, and holds up no other.
func TestRefused(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.write(instance("api", 80))
		interests := topics("api")
		interests["odd"] = Interest{Proxy: &catalog.Service{ID: "odd", Service: "odd"}}
		r.replica.SetInterests(interests)
		synctest.Wait()
		if got := r.replica.Refused("odd"); !strings.Contains(got, `"odd" isn't a proxy`) {
			t.Errorf("refused for %q", got)
		}
		if got := r.replica.Refused("api"); got != "" {
			t.Errorf("api is refused: %s", got)
		}
		r.want("api", 80)
		r.replica.SetInterests(topics("api"))
		synctest.Wait()
		if got := r.replica.Refused("odd"); got != "" {
			t.Errorf("still refused: %s", got)
		}
	})
}

// A stream that breaks goes on from where it was: what didn't change isn't sent again, and stays covered all the time.
func TestResume(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.write(instance("api", 80), instance("db", 5432))
		r.replica.SetInterests(topics("api", "db"))
		synctest.Wait()
		at := r.store.Position()
		for range 3 {
			r.feed.take()
			r.servers.Cut()
			time.Sleep(20 * time.Second)
			if r.replica.Connected() {
				t.Error("it takes itself for connected")
			}
			r.want("db", 5432)
			port := 8000 + int(time.Now().Unix()%1000)
			r.write(instance("api", port))
			r.want("db", 5432)
			if err := r.servers.Mend(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(2 * retryLast)
			synctest.Wait()
			r.want("api", port)
			asked, got := r.feed.take()
			if len(asked) == 0 || asked[0].GetPosition().GetIndex() < at.Index || len(asked[0].GetHeld()) != 3 {
				t.Errorf("asked %v: want a position from %v on and three topics held", asked, at)
			}
			for _, m := range got {
				if len(m.GetReplaced())+len(m.GetDropped()) > 0 {
					t.Errorf("topics are sent anew or dropped: %v", m)
				}
			}
		}
	})
}

// Another server that has another history replaces what is held, and nothing of the old is left.
func TestAnotherEpoch(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.write(instance("api", 80), instance("old", 1))
		r.replica.SetInterests(topics("api", "old"))
		synctest.Wait()
		was := r.store.Position()
		time.Sleep(time.Second) // epochs are made of time
		if err := r.servers.Replace(server.Config{}); err != nil {
			t.Fatal(err)
		}
		r.write(instance("api", 81))
		time.Sleep(2 * retryLast)
		synctest.Wait()
		if now := r.store.Position(); now.Epoch == was.Epoch {
			t.Errorf("position %v after %v: want another epoch", now, was)
		}
		r.want("api", 81)
		r.want("old")
	})
}

// What is held is of use for a while after the last server was heard; who waits hears of it.
func TestExpires(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		if expired, when := r.replica.Expired(); expired || !when.IsZero() || !r.replica.Heard().IsZero() {
			t.Error("nothing was heard yet, and so nothing can be old")
		}
		r.replica.SetInterests(topics("api"))
		time.Sleep(2 * maxAge)
		if expired, when := r.replica.Expired(); expired || !when.Equal(time.Now().Add(maxAge)) {
			t.Errorf("connected: expired %v, at %v", expired, when)
		}
		changed := r.replica.Changed()
		cut := time.Now()
		r.servers.Cut()
		synctest.Wait()
		select {
		case <-changed:
		default:
			t.Error("nobody is told that the server is gone")
		}
		if !r.replica.Heard().Equal(cut) {
			t.Errorf("heard %v, want %v", r.replica.Heard(), cut)
		}
		time.Sleep(maxAge - time.Second)
		if expired, when := r.replica.Expired(); expired || !when.Equal(cut.Add(maxAge)) {
			t.Errorf("a second early: expired %v, at %v", expired, when)
		}
		time.Sleep(time.Second)
		if expired, _ := r.replica.Expired(); !expired {
			t.Error("it isn't expired")
		}
		changed = r.replica.Changed()
		if err := r.servers.Mend(); err != nil {
			t.Fatal(err)
		}
		<-changed
		if expired, _ := r.replica.Expired(); expired {
			t.Error("a server is heard, and it is expired")
		}
	})
}

// Interests are a lease: they are stated again while nothing changes.
func TestRestates(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.replica.SetInterests(topics("api"))
		synctest.Wait()
		r.feed.take()
		time.Sleep(2*restate + time.Second)
		if asked, _ := r.feed.take(); len(asked) != 2 {
			t.Errorf("stated %d times in %v", len(asked), 2*restate)
		}
	})
}

// reader is a subject that may read all, or else only write "web".
type reader bool

func (reader) Resolve(_ context.Context, secret string) (api.Subject, error) {
	return reader(secret != "writer"), nil
}
func (r reader) In(string) api.Subject { return r }
func (r reader) String() string        { return "somebody" }
func (r reader) Allow(p api.Permission, name string) error {
	if bool(r) || p.Resource != "service" || name == "web" {
		return nil
	}
	return fmt.Errorf("%w: %s on %q", api.ErrDenied, p, name)
}

// What a proxy needs and its token may not read is as if there were none, so that the proxy can be configured, and comes once a token may.
func TestWithheld(t *testing.T) {
	inBubbleOf(t, server.Config{Resolver: reader(false)}, func(t *testing.T, r *rig) {
		write := func(port int) {
			t.Helper()
			body := instance("api", port)
			body.Services[0].Connect = &catalog.Connect{Native: true}
			r.write(body)
		}
		as := func(token string) {
			t.Helper()
			r.replica.SetInterests(map[string]Interest{"p": {Token: token, Proxy: &catalog.Service{
				Scope: scope, ID: "p", Service: "p", Kind: catalog.KindConnectProxy,
				Proxy: &catalog.Proxy{DestinationServiceName: "web", Upstreams: []catalog.Upstream{{DestinationName: "api", LocalBindPort: 1}}},
			}}})
			synctest.Wait()
		}
		topic := catalog.ConnectTopic(scope.Name("api"))
		port := func() int { // of the one instance of api; 0 for none, -1 for not known
			all, err := r.store.Read().ConnectInstances(scope.Name("api"))
			switch {
			case errors.Is(err, catalog.ErrNotCovered):
				return -1
			case len(all) == 1:
				return all[0].Service.Port
			}
			return 0
		}
		write(80)
		for now := 81; now < 83; now++ {
			as("writer")
			write(now)
			if got := port(); got != 0 || !r.replica.Withheld()[topic] || r.replica.held[topic] || !strings.Contains(r.replica.Refused("p"), `service:read on "api"`) {
				t.Errorf("port %d, withheld %v, held %v, told %q", got, r.replica.Withheld(), r.replica.held, r.replica.Refused("p"))
			}
			as("reader")
			if got := port(); got != now || len(r.replica.Withheld()) > 0 || !r.replica.held[topic] || r.replica.Refused("p") != "" {
				t.Errorf("port %d, withheld %v, held %v, told %q", got, r.replica.Withheld(), r.replica.held, r.replica.Refused("p"))
			}
		}
		as("writer")
		if got := port(); got != 0 {
			t.Errorf("port %d for who may not read it any more", got)
		}
		r.replica.SetInterests(nil)
		synctest.Wait()
		if got := port(); got != -1 || len(r.replica.Withheld()) > 0 {
			t.Errorf("port %d, withheld %v from nobody", got, r.replica.Withheld())
		}
	})
}
