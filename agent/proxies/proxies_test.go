// SPDX-License-Identifier: Apache-2.0

package proxies

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/weftmesh/weft/agent/agenttest"
	"github.com/weftmesh/weft/agent/leaf"
	"github.com/weftmesh/weft/agent/local"
	"github.com/weftmesh/weft/agent/replica"
	"github.com/weftmesh/weft/agent/rest"
	"github.com/weftmesh/weft/agent/sync"
	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/connect/identity"
	"github.com/weftmesh/weft/connect/intention"
	"github.com/weftmesh/weft/connect/xds"
	"github.com/weftmesh/weft/connect/xds/ads"
	"github.com/weftmesh/weft/connect/xds/xdstest"
	weftv1 "github.com/weftmesh/weft/proto/weft/v1"
	"github.com/weftmesh/weft/server"
)

var scope = catalog.Scope{}.Default("dc1")

const maxAge = 10 * time.Minute

// host is an agent without its sockets.
type host struct {
	*Manager
	t       *testing.T
	servers *agenttest.Servers
	state   *local.State
	feed    *countingFeed
}

// countingFeed counts how often the interests were stated.
type countingFeed struct {
	weftv1.FeedClient
	stated atomic.Int64
}

type countingStream struct {
	grpc.BidiStreamingClient[weftv1.SubscribeRequest, weftv1.SubscribeResponse]
	feed *countingFeed
}

func (f *countingFeed) Subscribe(ctx context.Context, opts ...grpc.CallOption) (grpc.BidiStreamingClient[weftv1.SubscribeRequest, weftv1.SubscribeResponse], error) {
	s, err := f.FeedClient.Subscribe(ctx, opts...)
	return &countingStream{s, f}, err
}

func (s *countingStream) Send(r *weftv1.SubscribeRequest) error {
	s.feed.stated.Add(1)
	return s.BidiStreamingClient.Send(r)
}

func inBubble(t *testing.T, f func(t *testing.T, h *host)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		servers, err := agenttest.New(server.Config{})
		if err != nil {
			t.Fatal(err)
		}
		h := &host{t: t, servers: servers}
		quiet := slog.New(slog.DiscardHandler)
		ok := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		h.state, err = local.New(local.Config{Node: catalog.Node{Scope: scope, Node: "n1", Address: "10.0.0.1", Owner: local.Owner}, Log: quiet})
		ok(err)
		syncer, err := sync.New(sync.Config{State: h.state, Client: weftv1.NewCatalogClient(servers.Conn), Log: quiet})
		ok(err)
		store, err := catalog.New(catalog.Config{Datacenter: "dc1", Replica: true})
		ok(err)
		feed := &countingFeed{FeedClient: weftv1.NewFeedClient(servers.Conn)}
		h.feed = feed
		follower, err := replica.New(replica.Config{Node: "n1", Client: feed, Store: store, MaxAge: maxAge, Log: quiet})
		ok(err)
		leaves, err := leaf.New(leaf.Config{Node: "n1", Client: weftv1.NewCAClient(servers.Conn), Store: store, Log: quiet})
		ok(err)
		h.Manager, err = New(Config{
			State: h.state, Store: store, Replica: follower, Leaves: leaves, Feed: feed, Synced: syncer.Wait, Key: make([]byte, 32),
			ADSAddress: "127.0.0.1:8502", NodeAddress: "10.0.0.1", Log: quiet,
		})
		ok(err)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 5)
		for _, run := range []func(context.Context) error{h.state.Run, syncer.Run, follower.Run, leaves.Run, h.Manager.Run} {
			go func() { ended <- run(ctx) }()
		}
		defer func() {
			cancel()
			for range cap(ended) {
				if err := <-ended; err != nil {
					t.Error(err)
				}
			}
			if err := servers.Close(); err != nil {
				t.Error(err)
			}
		}()
		f(t, h)
	})
}

func (h *host) register(name string, upstreams ...catalog.Upstream) {
	h.t.Helper()
	if _, err := h.state.Register(local.ServiceDefinition{Name: name, Port: 80, Connect: &local.ConnectDefinition{
		SidecarService: &local.ServiceDefinition{Proxy: &catalog.Proxy{Upstreams: upstreams}},
	}}, "", false); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) allow(dst string, sources ...string) {
	h.t.Helper()
	e := &catalog.ServiceIntentions{EntryHead: catalog.EntryHead{Name: dst, Scope: scope}}
	for _, s := range sources {
		e.Sources = append(e.Sources, catalog.SourceIntention{Name: s, Action: "allow"})
	}
	e.Normalize()
	if err := h.servers.Write(h.t.Context(), catalog.SetEntry{Entry: catalog.EntryBox{Entry: e}}); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) open(id string) ads.Stream {
	h.t.Helper()
	s, err := h.Open(h.t.Context(), ads.Claim{NodeID: id, Secret: h.Secret(id), UserAgent: "weft 1", Abilities: xds.Abilities{Weft: true}})
	if err != nil {
		h.t.Fatal(err)
	}
	return s
}

func (h *host) status(id string) rest.ProxyStatus {
	h.t.Helper()
	all := h.Status()
	i := slices.IndexFunc(all, func(s rest.ProxyStatus) bool { return s.ProxyID == id })
	if i < 0 {
		h.t.Fatalf("no status of %s", id)
	}
	return all[i]
}

// settled gives the output after all that is on its way has come.
func settled(t *testing.T, s ads.Stream) *xds.Output {
	t.Helper()
	time.Sleep(10 * time.Second)
	synctest.Wait()
	out, _ := s.Output()
	if out == nil {
		t.Fatal("nothing is rendered")
	}
	return out
}

// allowed says whether a caller may call the proxy's service.
func allowed(t *testing.T, h *host, out *xds.Output, caller string) bool {
	t.Helper()
	p, err := xdstest.Load(out)
	if err != nil {
		t.Fatal(err)
	}
	state, err := h.c.Store.Read().CA()
	if err != nil {
		t.Fatal(err)
	}
	a, err := p.Inbound(identity.Service{TrustDomain: identity.TrustDomain(state.TrustDomain()), Datacenter: "dc1", Service: caller}, intention.Request{})
	if err != nil {
		t.Fatal(err)
	}
	return a.Allowed
}

// What a host needs is stated when it changes, not each time that one of its proxies has said something.
func TestAcknowledgementsStateNoInterests(t *testing.T) {
	inBubble(t, func(t *testing.T, h *host) {
		h.register("web")
		s := h.open(webProxy)
		defer s.Close()
		out := settled(t, s)
		before := h.feed.stated.Load()
		for range 20 {
			s.Refused(xds.ClusterType, "a port is taken")
			synctest.Wait()
			s.Acked("", out.Hash)
			synctest.Wait()
		}
		if n := h.feed.stated.Load() - before; n != 0 {
			t.Errorf("the interests were stated %d times, though they are what they were", n)
		}
		h.register("api")
		synctest.Wait()
		if n := h.feed.stated.Load() - before; n == 0 {
			t.Error("a new proxy's interest isn't stated")
		}
	})
}

const webProxy = "web-sidecar-proxy"

func TestC111_WhoMayOpen(t *testing.T) {
	inBubble(t, func(t *testing.T, h *host) {
		h.register("web")
		ctx := t.Context()
		for _, c := range []struct {
			claim ads.Claim
			want  codes.Code
		}{
			{ads.Claim{NodeID: webProxy}, codes.PermissionDenied},
			{ads.Claim{NodeID: webProxy, Secret: "x"}, codes.PermissionDenied},
			{ads.Claim{NodeID: webProxy, Secret: h.Secret("api-sidecar-proxy")}, codes.PermissionDenied},
			{ads.Claim{NodeID: "web", Secret: h.Secret("web")}, codes.NotFound}, // a service, not a proxy
			{ads.Claim{NodeID: webProxy, Secret: h.Secret(webProxy)}, codes.OK},
			{ads.Claim{NodeID: "later", Secret: h.Secret("later")}, codes.OK}, // it waits for its registration
		} {
			s, err := h.Open(ctx, c.claim)
			if status.Code(err) != c.want {
				t.Errorf("%+v: %v, want %v", c.claim, err, c.want)
			}
			if err == nil {
				s.Close()
			}
		}
		a, err := h.Access(webProxy)
		if err != nil || a.Service != "web" || a.Secret != h.Secret(webProxy) || a.ADSAddress != "127.0.0.1:8502" {
			t.Errorf("%+v, %v", a, err)
		}
		for _, id := range []string{"web", "none"} {
			if _, err := h.Access(id); !errors.Is(err, local.ErrUnknown) {
				t.Errorf("access of %s: %v", id, err)
			}
		}
		if _, err := New(Config{Key: make([]byte, 8)}); err == nil {
			t.Error("a short key is taken")
		}
	})
}

// A proxy is rendered when all that it needs has come, and again at every change that bears on it, and at no other.
func TestRenders(t *testing.T) {
	inBubble(t, func(t *testing.T, h *host) {
		s := h.open(webProxy) // before its registration
		defer s.Close()
		synctest.Wait()
		if out, _ := s.Output(); out != nil {
			t.Error("something is rendered for a proxy that isn't registered")
		}
		h.register("web", catalog.Upstream{DestinationName: "api", LocalBindPort: 9000})
		out := settled(t, s)
		if allowed(t, h, out, "api") {
			t.Error("allowed by nobody")
		}
		st := h.status(webProxy)
		if !st.Connected || st.Version != "weft 1" || st.RenderedHash != out.Hash || st.RenderedIndex == 0 || st.NotReady != "" || st.AckedHash != "" {
			t.Errorf("%+v", st)
		}
		changed := func(what string, want bool, do func()) {
			t.Helper()
			before := settled(t, s)
			_, wake := s.Output()
			do()
			after := settled(t, s)
			if (before.Hash != after.Hash) != want {
				t.Errorf("%s: changed is %v, want %v", what, before.Hash != after.Hash, want)
			}
			select {
			case <-wake:
				if !want {
					t.Errorf("%s: the stream is woken for nothing", what)
				}
			default:
				if want {
					t.Errorf("%s: the stream isn't woken", what)
				}
			}
		}
		changed("an intention", true, func() { h.allow("web", "api") })
		if out, _ := s.Output(); !allowed(t, h, out, "api") || allowed(t, h, out, "other") {
			t.Error("the intention isn't in it")
		}
		changed("an upstream's instance, critical yet", false, func() { h.register("api") })
		changed("an upstream's instance", true, func() {
			for _, check := range []string{":1", ":2"} {
				if err := h.state.SetCheck("service:api-sidecar-proxy"+check, catalog.HealthPassing, ""); err != nil {
					t.Fatal(err)
				}
			}
		})
		changed("another's intention", false, func() { h.allow("other", "web") })
		changed("another service", false, func() { h.register("other") })
		changed("its own registration", true, func() { h.register("web") })
		changed("deregistered", false, func() { // it keeps what it has until somebody stops it
			if err := h.state.Deregister("web"); err != nil {
				t.Fatal(err)
			}
		})
	})
}

// However much changes, a proxy's configuration is made no more often than is allowed; the last change is in it all the same.
func TestRendersInTurns(t *testing.T) {
	inBubble(t, func(t *testing.T, h *host) {
		h.register("web", catalog.Upstream{DestinationName: "api", LocalBindPort: 9000})
		s := h.open(webProxy)
		defer s.Close()
		settled(t, s)
		h.c.MaxPerSecond = 2
		began, renderings := time.Now(), 0
		for i := range 40 {
			_, wake := s.Output()
			h.allow("web", fmt.Sprint("s", i))
			time.Sleep(100 * time.Millisecond)
			synctest.Wait()
			select {
			case <-wake:
				renderings++
			default:
			}
		}
		if most := int(2*time.Since(began).Seconds()) + 1; renderings > most {
			t.Errorf("%d renderings, want %d at most", renderings, most)
		}
		h.allow("web", "api")
		time.Sleep(time.Second)
		synctest.Wait()
		if out, _ := s.Output(); !allowed(t, h, out, "api") {
			t.Error("the last change isn't in it")
		}
	})
}

// One changed entry renders the proxies that it is about, and of them the resources that it is about.
func TestOneEntryRendersWhatItTouches(t *testing.T) {
	inBubble(t, func(t *testing.T, h *host) {
		write := func(e catalog.Entry) {
			t.Helper()
			if err := h.servers.Write(t.Context(), catalog.SetEntry{Entry: catalog.EntryBox{Entry: e}}); err != nil {
				t.Fatal(err)
			}
		}
		head := func(name string) catalog.EntryHead { return catalog.EntryHead{Name: name, Scope: scope} }
		for _, name := range []string{"api", "db"} {
			write(&catalog.ServiceDefaults{EntryHead: head(name), Protocol: "http"})
		}
		h.register("web", catalog.Upstream{DestinationName: "api", LocalBindPort: 9000}, catalog.Upstream{DestinationName: "db", LocalBindPort: 9001})
		h.register("shop", catalog.Upstream{DestinationName: "db", LocalBindPort: 9002})
		web, shop := h.open(webProxy), h.open("shop-sidecar-proxy")
		defer web.Close()
		defer shop.Close()
		before := settled(t, web)
		idle, woken := shop.Output()
		if idle == nil {
			t.Fatal("nothing is rendered for shop")
		}
		write(&catalog.ServiceRouter{EntryHead: head("api"), Routes: []catalog.ServiceRoute{{
			Match:       &catalog.ServiceRouteMatch{HTTP: &catalog.ServiceRouteHTTPMatch{PathPrefix: "/x"}},
			Destination: &catalog.ServiceRouteDestination{PrefixRewrite: "/y"},
		}}})
		after := settled(t, web)
		var changed []string
		for url, all := range after.Resources {
			for i, r := range all {
				if old := before.Resources[url][i]; old.Name != r.Name || old.Version != r.Version {
					changed = append(changed, r.Name)
				}
			}
		}
		if len(changed) != 1 || changed[0] != "api:127.0.0.1:9000" {
			t.Errorf("changed: %v, want the routes of api alone", changed)
		}
		select {
		case <-woken:
			t.Error("shop is woken by an entry of a service that it doesn't call")
		default:
		}
		if out, _ := shop.Output(); out != idle {
			t.Error("shop is rendered anew")
		}
	})
}

// What proxies have taken or refused is kept, and told to the servers.
func TestAcksAndRefusals(t *testing.T) {
	inBubble(t, func(t *testing.T, h *host) {
		h.register("web")
		s := h.open(webProxy)
		first := settled(t, s)
		s.Refused("type.x", "too odd")
		if st := h.status(webProxy); st.Refusal != "type.x: too odd" || st.AckedHash != "" {
			t.Errorf("refused: %+v", st)
		}
		s.Acked("type.x", first.Hash)
		if st := h.status(webProxy); st.Refusal != "" || st.AckedHash != first.Hash || st.AckedIndex != st.RenderedIndex {
			t.Errorf("acked: %+v", st)
		}
		h.allow("web", "api")
		second := settled(t, s)
		if st := h.status(webProxy); second.Hash == first.Hash || st.RenderedHash != second.Hash || st.AckedHash != first.Hash || st.AckedIndex == st.RenderedIndex {
			t.Errorf("a newer one is rendered: %+v", st)
		}
		s.Acked("", second.Hash)
		s.Refused("", "no port") // it had it, and has it no more
		if st := h.status(webProxy); st.AckedHash != "" || st.Refusal == "" {
			t.Errorf("refused after all: %+v", st)
		}
		other := h.open(webProxy)
		s.Close()
		if !h.status(webProxy).Connected {
			t.Error("its second stream is there")
		}
		other.Close()
		if h.status(webProxy).Connected {
			t.Error("it has no stream")
		}
	})
}

// For a while everything goes on without a server; past the age nobody may call, and all is well again once a server is heard.
func TestOldKnowledgeDenies(t *testing.T) {
	inBubble(t, func(t *testing.T, h *host) {
		h.register("web")
		h.allow("web", "api")
		s := h.open(webProxy)
		defer s.Close()
		may := func(want bool, when string) {
			t.Helper()
			synctest.Wait()
			out, _ := s.Output()
			if allowed(t, h, out, "api") != want {
				t.Errorf("%s: allowed is %v, want %v", when, !want, want)
			}
			warned := strings.Contains(strings.Join(h.status(webProxy).Warnings, " "), "all callers are denied")
			if warned == want {
				t.Errorf("%s: the warning is there: %v", when, warned)
			}
		}
		settled(t, s)
		may(true, "with a server")
		h.servers.Cut()
		time.Sleep(maxAge - time.Second)
		may(true, "before the age")
		time.Sleep(2 * time.Second)
		may(false, "after the age")
		again := h.open(webProxy)
		defer again.Close()
		if allowed(t, h, settled(t, again), "api") {
			t.Error("a proxy that comes anew is allowed")
		}
		if err := h.servers.Mend(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		may(true, "with a server again")
	})
}
