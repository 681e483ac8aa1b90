// SPDX-License-Identifier: Apache-2.0

package server

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/weftmesh/weft/ca"
	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/connect/identity"
	"github.com/weftmesh/weft/internal/api"
	weftv1 "github.com/weftmesh/weft/proto/weft/v1"
)

// probe makes a call with a token, and says why it, or the item or interest in it, was refused.
type probe func(ctx context.Context, conn *grpc.ClientConn, token string) error

// topic asks the feed for one topic, as an interest with a token; the stream itself may be opened by the node's own.
func topic(t *weftv1.Topic) probe {
	return func(ctx context.Context, conn *grpc.ClientConn, token string) error {
		ctx, cancel := context.WithTimeout(api.WithToken(ctx, rootSecret), 5*time.Second)
		defer cancel()
		s, err := weftv1.NewFeedClient(conn).Subscribe(ctx)
		if err != nil {
			return err
		}
		if t.Datacenter == "" {
			t.Datacenter = "dc1"
		}
		t.Partition, t.Namespace = "default", cmp.Or(t.GetNamespace(), "default")
		if err := s.Send(&weftv1.SubscribeRequest{Node: "h1", Interests: []*weftv1.Interest{{Id: "i", Token: token, Topics: []*weftv1.Topic{t}}}}); err != nil {
			return err
		}
		for {
			resp, err := s.Recv()
			if err != nil {
				return err
			}
			for _, e := range resp.GetErrors() {
				if e.GetMessage() != "" {
					return status.Error(codes.PermissionDenied, e.GetMessage())
				}
			}
			for _, c := range resp.GetCovered() {
				if c.GetKind() == t.GetKind() {
					return nil
				}
			}
		}
	}
}

// probes are how each row of api.RPCs is asked.
func probes(t *testing.T, r *running) map[string]probe {
	t.Helper()
	state, err := r.store.Read().CA()
	if err != nil {
		t.Fatal(err)
	}
	key, err := ca.NewKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := ca.CSR(identity.Service{TrustDomain: identity.TrustDomain(state.TrustDomain()), Namespace: "default", Datacenter: "dc1", Service: "web"}, key, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cmd := host(catalog.SyncItem{Service: service("web1", "web")})
	data, err := catalog.Canonical(cmd)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]probe{
		"/weft.v1.Feed/Subscribe": func(ctx context.Context, conn *grpc.ClientConn, token string) error {
			ctx, cancel := context.WithTimeout(api.WithToken(ctx, token), 5*time.Second)
			defer cancel()
			s, err := weftv1.NewFeedClient(conn).Subscribe(ctx)
			if err == nil {
				err = s.Send(&weftv1.SubscribeRequest{Node: "h1", Interests: []*weftv1.Interest{{Id: "i", Token: rootSecret, Topics: []*weftv1.Topic{{Kind: "ca"}}}}})
			}
			if err == nil {
				_, err = s.Recv()
			}
			return err
		},
		"/weft.v1.Feed/Report": func(ctx context.Context, conn *grpc.ClientConn, token string) error {
			_, err := weftv1.NewFeedClient(conn).Report(api.WithToken(ctx, token), &weftv1.ReportRequest{Node: "h1", Complete: true})
			return err
		},
		"/weft.v1.Catalog/Sync": func(ctx context.Context, conn *grpc.ClientConn, token string) error {
			resp, err := weftv1.NewCatalogClient(conn).Sync(api.WithToken(ctx, rootSecret), &weftv1.SyncRequest{Sync: data, Tokens: []string{token}})
			if err == nil && resp.GetResults()[0].GetError() != "" {
				err = status.Error(codes.Code(resp.GetResults()[0].GetCode()), resp.GetResults()[0].GetError())
			}
			return err
		},
		"/weft.v1.Catalog/Host": func(ctx context.Context, conn *grpc.ClientConn, token string) error {
			_, err := weftv1.NewCatalogClient(conn).Host(api.WithToken(ctx, token), &weftv1.HostRequest{Node: "h1"})
			return err
		},
		"/weft.v1.CA/Sign": func(ctx context.Context, conn *grpc.ClientConn, token string) error {
			_, err := weftv1.NewCAClient(conn).Sign(ctx, &weftv1.SignRequest{Node: "h1", CsrPem: csr, Token: token})
			return err
		},
		"topic nodes":    topic(&weftv1.Topic{Kind: "nodes"}),
		"topic node":     topic(&weftv1.Topic{Kind: "node", Name: "h1"}),
		"topic services": topic(&weftv1.Topic{Kind: "services"}),
		"topic service":  topic(&weftv1.Topic{Kind: "service", Name: "web"}),
		"topic connect":  topic(&weftv1.Topic{Kind: "connect", Name: "web"}),
		"topic entries":  topic(&weftv1.Topic{Kind: "entries", Entry: "service-defaults"}),
		"topic entry":    topic(&weftv1.Topic{Kind: "entry", Entry: "service-defaults", Name: "web"}),
		"topic ca":       topic(&weftv1.Topic{Kind: "ca"}),
	}
}

// grant are rules for a permission, and nothing else.
func grant(p api.Permission) string {
	return fmt.Sprintf("%s_prefix \"\" { policy = %q }\n", p.Resource, p.Access)
}

// TestC98_RPCs: every gRPC method and feed topic, with each sort of token. A method or topic that isn't in the table, and a row of
// the table that nothing asks, fail it. Between servers the connection's certificate decides: TestServersAlone.
func TestC98_RPCs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := locked(t)
		conn := r.dial()
		r.as(rootSecret, "PUT", "/v1/config", `{"Kind":"service-defaults","Name":"web"}`, 200, "true")
		gone, deleted := r.token(`operator = "write"`)
		r.as(rootSecret, "DELETE", "/v1/acl/token/"+gone, "", 200, "true")
		_, expired := made(t, r.as(rootSecret, "PUT", "/v1/acl/token", `{"ExpirationTTL":"1m","ServiceIdentities":[{"ServiceName":"web"}]}`, 200, ""))
		time.Sleep(2 * time.Minute)
		_, wrong := r.token(`key_prefix "" { policy = "write" }`)
		asks := probes(t, r)
		if err := asks["/weft.v1.Catalog/Sync"](t.Context(), conn, rootSecret); err != nil {
			t.Fatal(err)
		}
		checked := 0
		for _, row := range api.RPCs {
			ask := asks[row.Name]
			if ask == nil && strings.HasPrefix(row.Name, "/weft.v1.Servers/") {
				continue
			}
			if ask == nil {
				t.Errorf("nothing asks %s", row.Name)
				continue
			}
			delete(asks, row.Name)
			if row.Need == (api.Permission{}) {
				if err := ask(t.Context(), conn, ""); err != nil {
					t.Errorf("%s needs nothing: %v", row.Name, err)
				}
				checked++
				continue
			}
			for name, token := range map[string]string{"no token": "", "anonymous": "anonymous", "wrong scope": wrong, "expired": expired, "deleted": deleted} {
				if err := ask(t.Context(), conn, token); status.Code(err) != codes.PermissionDenied {
					t.Errorf("%s, %s: %v", row.Name, name, err)
				}
				checked++
			}
			time.Sleep(time.Millisecond) // names of policies are times
			_, right := r.token(grant(row.Need))
			if err := ask(t.Context(), conn, right); err != nil {
				t.Errorf("%s with its own permission: %v", row.Name, err)
			}
			checked++
		}
		for name := range asks {
			t.Errorf("%s is asked, and isn't in the table", name)
		}
		t.Logf("%d rows, %d combinations", len(api.RPCs), checked)
	})
}

// Every method that a server serves is in the table, and every topic that a feed may be asked for.
func TestC98_EveryMethodIsInTheTable(t *testing.T) {
	r := start(t, "")
	g := grpc.NewServer()
	r.RegisterGRPC(g)
	in := func(name string) bool {
		return slices.ContainsFunc(api.RPCs, func(x api.RPC) bool { return x.Name == name })
	}
	for service, info := range g.GetServiceInfo() {
		for _, m := range info.Methods {
			if name := "/" + service + "/" + m.Name; !in(name) {
				t.Errorf("%s is served, and isn't in api.RPCs", name)
			}
		}
	}
}

// TestC105_ServersAlone: what servers ask each other is refused to an agent, whatever token it has.
func TestC105_ServersAlone(t *testing.T) {
	r := startWith(t, Config{FromServer: func(context.Context) bool { return false }})
	conn := r.dial()
	c := weftv1.NewServersClient(conn)
	ctx := api.WithToken(t.Context(), rootSecret)
	calls := map[string]func() error{
		"Status":   func() error { _, err := c.Status(ctx, &weftv1.ServerStatusRequest{}); return err },
		"Promise":  func() error { _, err := c.Promise(ctx, &weftv1.PromiseRequest{Candidate: "x"}); return err },
		"Digests":  func() error { _, err := c.Digests(ctx, &weftv1.DigestsRequest{}); return err },
		"Streams":  func() error { _, err := c.Streams(ctx, &weftv1.StreamsRequest{}); return err },
		"SealKeys": func() error { _, err := c.SealKeys(ctx, &weftv1.SealKeysRequest{}); return err },
	}
	for _, m := range weftv1.Servers_ServiceDesc.Methods {
		call := calls[m.MethodName]
		if call == nil {
			t.Errorf("nothing asks %s", m.MethodName)
			continue
		}
		if err := call(); status.Code(err) != codes.PermissionDenied {
			t.Errorf("%s: %v", m.MethodName, err)
		}
	}
}

// TestC98_RPCsOfOtherNamespaces: a token for all that is in one namespace gets by no method or topic at what is in another.
func TestC98_RPCsOfOtherNamespaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := locked(t)
		conn := r.dial()
		for _, ns := range []string{"red", "blue"} {
			r.as(rootSecret, "PUT", "/v1/namespace", `{"Name":"`+ns+`"}`, 200, "")
			r.as(rootSecret, "PUT", "/v1/config?ns="+ns, `{"Kind":"service-defaults","Name":"web"}`, 200, "true")
		}
		_, red := r.token(`namespace "red" { service_prefix "" { policy = "write" } }`)
		if err := probes(t, r)["/weft.v1.Catalog/Sync"](t.Context(), conn, rootSecret); err != nil {
			t.Fatal(err)
		}
		state, err := r.store.Read().CA()
		if err != nil {
			t.Fatal(err)
		}
		key, err := ca.NewKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		asks := map[string]func(ns string) error{
			"/weft.v1.Catalog/Sync": func(ns string) error {
				s := service("azure-"+ns, "web")
				s.Namespace = ns
				data, err := catalog.Canonical(host(catalog.SyncItem{Service: s}))
				if err != nil {
					t.Fatal(err)
				}
				resp, err := weftv1.NewCatalogClient(conn).Sync(api.WithToken(t.Context(), rootSecret), &weftv1.SyncRequest{Sync: data, Tokens: []string{red}})
				if err == nil && resp.GetResults()[0].GetError() != "" {
					err = status.Error(codes.Code(resp.GetResults()[0].GetCode()), resp.GetResults()[0].GetError())
				}
				return err
			},
			"/weft.v1.CA/Sign": func(ns string) error {
				id := identity.Service{TrustDomain: identity.TrustDomain(state.TrustDomain()), Namespace: ns, Datacenter: "dc1", Service: "web"}
				csr, err := ca.CSR(id, key, rand.Reader)
				if err != nil {
					t.Fatal(err)
				}
				_, err = weftv1.NewCAClient(conn).Sign(t.Context(), &weftv1.SignRequest{Node: "h1", CsrPem: csr, Token: red})
				return err
			},
		}
		for kind, make := range map[string]func(ns string) *weftv1.Topic{
			"services": func(ns string) *weftv1.Topic { return &weftv1.Topic{Kind: "services", Namespace: ns} },
			"service":  func(ns string) *weftv1.Topic { return &weftv1.Topic{Kind: "service", Name: "web", Namespace: ns} },
			"connect":  func(ns string) *weftv1.Topic { return &weftv1.Topic{Kind: "connect", Name: "web", Namespace: ns} },
			"entries": func(ns string) *weftv1.Topic {
				return &weftv1.Topic{Kind: "entries", Entry: "service-defaults", Namespace: ns}
			},
			"entry": func(ns string) *weftv1.Topic {
				return &weftv1.Topic{Kind: "entry", Entry: "service-defaults", Name: "web", Namespace: ns}
			},
		} {
			asks["topic "+kind] = func(ns string) error { return topic(make(ns))(t.Context(), conn, red) }
		}
		for _, name := range []string{
			"/weft.v1.Catalog/Sync", "/weft.v1.CA/Sign", "topic services", "topic service", "topic connect", "topic entries", "topic entry",
		} {
			for ns, may := range map[string]bool{"red": true, "blue": false, "default": false} {
				if err := asks[name](ns); may != (err == nil) || !may && status.Code(err) != codes.PermissionDenied {
					t.Errorf("%s in %s: %v", name, ns, err)
				}
			}
		}
	})
}
