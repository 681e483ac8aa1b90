// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/weftmesh/weft/ca"
	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/connect/identity"
	"github.com/weftmesh/weft/internal/api"
	"github.com/weftmesh/weft/internal/wire"
	weftv1 "github.com/weftmesh/weft/proto/weft/v1"
)

// dial serves the server's gRPC half in memory, until the test ends.
func (r *running) dial() *grpc.ClientConn {
	r.t.Helper()
	l := bufconn.Listen(1 << 16)
	g := grpc.NewServer()
	r.RegisterGRPC(g)
	done := make(chan error, 1)
	go func() { done <- g.Serve(l) }()
	conn, err := grpc.NewClient("passthrough:///server", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		_ = conn.Close() // the server is stopped next
		g.Stop()
		if err := <-done; err != nil {
			r.t.Error(err)
		}
	})
	return conn
}

func host(items ...catalog.SyncItem) catalog.Sync {
	return catalog.Sync{Node: catalog.Node{Scope: catalog.Scope{}.Default("dc1"), Node: "h1", Address: "10.0.0.9", Owner: "agent"}, Items: items}
}

func service(id, name string) *catalog.Service {
	return &catalog.Service{
		Scope: catalog.Scope{}.Default("dc1"), Node: "h1", ID: id, Service: name, Port: 80, Weights: catalog.Weights{Passing: 1, Warning: 1}, Owner: "agent",
	}
}

func (r *running) sync(conn *grpc.ClientConn, cmd catalog.Sync) *weftv1.SyncResponse {
	r.t.Helper()
	data, err := catalog.Canonical(cmd)
	if err != nil {
		r.t.Fatal(err)
	}
	resp, err := weftv1.NewCatalogClient(conn).Sync(r.t.Context(), &weftv1.SyncRequest{Sync: data, Tokens: make([]string, len(cmd.Items))})
	if err != nil {
		r.t.Fatal(err)
	}
	return resp
}

func TestSync(t *testing.T) {
	r := start(t, "")
	conn := r.dial()
	broken := service("bad", "bad")
	broken.Port = 70000
	resp := r.sync(conn, host(catalog.SyncItem{Service: broken}, catalog.SyncItem{Service: service("web1", "web")}))
	if len(resp.GetResults()) != 2 || resp.GetResults()[0].GetError() == "" || resp.GetResults()[1].GetError() != "" {
		t.Errorf("results: %v", resp.GetResults())
	}
	if c := codes.Code(resp.GetResults()[0].GetCode()); c != codes.InvalidArgument {
		t.Errorf("code %s", c)
	}
	h, err := weftv1.NewCatalogClient(conn).Host(t.Context(), &weftv1.HostRequest{Node: "h1"})
	if err != nil || len(h.GetServices()) != 1 {
		t.Errorf("host: %v, %v", h, err)
	}
	_, err = weftv1.NewCatalogClient(conn).Sync(t.Context(), &weftv1.SyncRequest{Sync: []byte("x")})
	if status.Code(err) != codes.InvalidArgument {
		t.Errorf("an unreadable sync: %v", err)
	}
}

func TestC81_SignOnlyForTheNodesOwn(t *testing.T) {
	r := start(t, "")
	conn := r.dial()
	front := service("db-proxy", "db-proxy") // of a service that isn't registered itself
	front.Kind, front.Port, front.Proxy = catalog.KindConnectProxy, 21000, &catalog.Proxy{DestinationServiceName: "db"}
	r.sync(conn, host(catalog.SyncItem{Service: service("web1", "web")}, catalog.SyncItem{Service: front}))
	state, err := r.store.Read().CA()
	if err != nil {
		t.Fatal(err)
	}
	key, err := ca.NewKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		node, service string
		want          codes.Code
	}{
		{"h1", "web", codes.OK}, {"h1", "db", codes.OK}, {"h2", "db", codes.PermissionDenied}, {"h1", "api", codes.PermissionDenied}, {"h2", "web", codes.PermissionDenied},
	} {
		id := identity.Service{TrustDomain: identity.TrustDomain(state.TrustDomain()), Namespace: "default", Datacenter: "dc1", Service: c.service}
		csr, err := ca.CSR(id, key, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := weftv1.NewCAClient(conn).Sign(t.Context(), &weftv1.SignRequest{Node: c.node, CsrPem: csr})
		if status.Code(err) != c.want {
			t.Errorf("%s on %s: %v", c.service, c.node, err)
		}
		if err != nil {
			continue
		}
		if _, err := ca.NewLeaf(id, key, resp.GetCertPem(), 1); err != nil {
			t.Error(err)
		}
		if resp.GetRootId() != state.ActiveRootID {
			t.Errorf("root %s, want %s", resp.GetRootId(), state.ActiveRootID)
		}
	}
}

func TestFeedKeepsAReplica(t *testing.T) {
	r := start(t, "")
	conn := r.dial()
	r.sync(conn, host(catalog.SyncItem{Service: service("web1", "web")}))
	replica, err := catalog.New(catalog.Config{Datacenter: "dc1", Replica: true})
	if err != nil {
		t.Fatal(err)
	}
	stream, err := weftv1.NewFeedClient(conn).Subscribe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	receive := func() *weftv1.SubscribeResponse {
		t.Helper()
		m, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		u := catalog.Update{
			Position: wire.PositionFrom(m.GetPosition()), Snapshot: wire.TopicsFrom(m.GetReplaced()),
			Covered: wire.TopicsFrom(m.GetCovered()), Dropped: wire.TopicsFrom(m.GetDropped()),
		}
		for _, i := range m.GetItems() {
			u.Items = append(u.Items, wire.ItemFrom(i))
		}
		if err := replica.ApplyItems(u); err != nil {
			t.Fatal(err)
		}
		return m
	}
	webKey, apiKey := catalog.Scope{}.Default("dc1").Name("web"), catalog.Scope{}.Default("dc1").Name("api")
	proxy := service("client-sidecar", "client-sidecar")
	proxy.Kind, proxy.Proxy = catalog.KindConnectProxy, &catalog.Proxy{DestinationServiceName: "client", Upstreams: []catalog.Upstream{{DestinationName: "api"}}}
	data, err := catalog.Canonical(proxy)
	if err != nil {
		t.Fatal(err)
	}
	ask := func(interests ...*weftv1.Interest) {
		t.Helper()
		if err := stream.Send(&weftv1.SubscribeRequest{Node: "h1", Interests: interests}); err != nil {
			t.Fatal(err)
		}
	}
	topics := &weftv1.Interest{Id: "t", Topics: wire.Topics([]catalog.Topic{catalog.ServiceTopic(webKey)})}
	ask(topics)
	receive()
	if got, err := replica.Read().Instances(webKey); err != nil || len(got) != 1 {
		t.Fatalf("web: %v, %v", got, err)
	}
	if _, err := replica.Read().ConnectInstances(apiKey); err == nil {
		t.Error("what wasn't asked for is covered")
	}

	// A change of what is covered comes by itself; one of something else doesn't.
	r.do("PUT", "/v1/catalog/register", `{"Node":"n2","Address":"10.0.0.2","Service":{"Service":"other"}}`, 200, "true")
	r.sync(conn, host(catalog.SyncItem{Service: service("web2", "web")}))
	if m := receive(); len(m.GetReplaced()) != 0 {
		t.Errorf("a change replaced %v", m.GetReplaced())
	}
	if got, _ := replica.Read().Instances(webKey); len(got) != 2 {
		t.Errorf("%d instances of web after the change", len(got))
	}

	// A proxy's closure is worked out here; what is no longer asked for is dropped; faults are told per interest.
	ask(&weftv1.Interest{Id: "p", Proxy: data}, &weftv1.Interest{Id: "bad", Proxy: []byte("x")})
	m := receive()
	if len(m.GetErrors()) != 1 || m.GetErrors()[0].GetId() != "bad" {
		t.Errorf("errors: %v", m.GetErrors())
	}
	if got, err := replica.Read().ConnectInstances(apiKey); err != nil || len(got) != 0 {
		t.Errorf("api: %v, %v", got, err)
	}
	if _, err := replica.Read().Instances(webKey); err == nil {
		t.Error("web is still covered")
	}

	r.sync(conn, host(catalog.SyncItem{Service: proxy}))
	_, err = weftv1.NewFeedClient(conn).Report(t.Context(), &weftv1.ReportRequest{Node: "h1", Complete: true, Proxies: []*weftv1.ProxyReport{
		{ProxyId: "client-sidecar", Service: "client", RenderedHash: "a", AckedHash: "a", Connected: true},
	}})
	if err != nil {
		t.Fatal(err)
	}
	r.do("GET", "/v1/weft/proxies", "", 200, `"UpToDate":true`)
}

// onlyNode lets the token "h1-agent" do what concerns the node h1; other tokens may do what concerns services.
type onlyNode string

func (onlyNode) Resolve(_ context.Context, token string) (api.Subject, error) {
	return onlyNode(token), nil
}

func (o onlyNode) In(string) api.Subject { return o }

func (o onlyNode) Allow(p api.Permission, name string) error {
	if (p.Resource == "node") == (o == "h1-agent" && name == "h1") {
		return nil
	}
	return fmt.Errorf("%w: %s on %q", api.ErrDenied, p, name)
}

func (o onlyNode) String() string { return string(o) }

// What concerns a node is authorised for that node by the caller's own token, never by none.
func TestNodesAreAuthorised(t *testing.T) {
	r := startWith(t, Config{Resolver: onlyNode("")})
	conn := r.dial()
	body, err := catalog.Canonical(host(catalog.SyncItem{Service: service("web1", "web")}))
	if err != nil {
		t.Fatal(err)
	}
	other, err := catalog.Canonical(catalog.Sync{Node: catalog.Node{Scope: catalog.Scope{}.Default("dc1"), Node: "h2", Address: "10.0.0.8"}})
	if err != nil {
		t.Fatal(err)
	}
	calls := map[string]func(context.Context) error{
		"sync": func(ctx context.Context) error {
			_, err := weftv1.NewCatalogClient(conn).Sync(ctx, &weftv1.SyncRequest{Sync: body, Tokens: []string{"web"}})
			return err
		},
		"sync of another": func(ctx context.Context) error {
			_, err := weftv1.NewCatalogClient(conn).Sync(ctx, &weftv1.SyncRequest{Sync: other})
			return err
		},
		"host": func(ctx context.Context) error {
			_, err := weftv1.NewCatalogClient(conn).Host(ctx, &weftv1.HostRequest{Node: "h1"})
			return err
		},
		"report": func(ctx context.Context) error {
			_, err := weftv1.NewFeedClient(conn).Report(ctx, &weftv1.ReportRequest{Node: "h1", Complete: true})
			return err
		},
	}
	for name, call := range calls {
		for _, token := range []string{"", "web", "h1-agent"} {
			want := codes.PermissionDenied
			if token == "h1-agent" && name != "sync of another" {
				want = codes.OK
			}
			if err := call(api.WithToken(t.Context(), token)); status.Code(err) != want {
				t.Errorf("%s with token %q: %v, want %s", name, token, err, want)
			}
		}
	}
}
