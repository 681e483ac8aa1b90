// SPDX-License-Identifier: Apache-2.0

package leaf

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"

	"github.com/weftmesh/weft/agent/agenttest"
	"github.com/weftmesh/weft/ca"
	"github.com/weftmesh/weft/catalog"
	weftv1 "github.com/weftmesh/weft/proto/weft/v1"
	"github.com/weftmesh/weft/server"
)

var scope = catalog.Scope{}.Default("dc1")

// counted is a CA's client that counts, and can be cut off.
type counted struct {
	weftv1.CAClient
	asked atomic.Int32
	down  atomic.Bool
}

var errDown = errors.New("no server can be reached")

func (c *counted) Sign(ctx context.Context, r *weftv1.SignRequest, o ...grpc.CallOption) (*weftv1.SignResponse, error) {
	c.asked.Add(1)
	if c.down.Load() {
		return nil, errDown
	}
	return c.CAClient.Sign(ctx, r, o...)
}

// rig is a manager beside a server; it reads the roots in the server's own catalog, as it is after a write.
type rig struct {
	*Manager
	servers *agenttest.Servers
	client  *counted
	store   *catalog.Store
}

const ttl = 10 * time.Minute

// inBubble runs f with a manager that runs, for a cluster whose leaves live for ttl. The replica is brought along by hand.
func inBubble(t *testing.T, f func(t *testing.T, r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		servers, err := agenttest.New(server.Config{CA: ca.Config{LeafCertTTL: ttl, MinLeafCertTTL: ttl}})
		if err != nil {
			t.Fatal(err)
		}
		store, err := catalog.New(catalog.Config{Datacenter: "dc1", Replica: true})
		if err != nil {
			t.Fatal(err)
		}
		r := &rig{servers: servers, store: store, client: &counted{CAClient: weftv1.NewCAClient(servers.Conn)}}
		r.roots(t)
		r.Manager, err = New(Config{
			Node: "n1", Client: r.client, Store: store, Jitter: func() float64 { return 0.5 }, Log: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := servers.Write(t.Context(), &catalog.Register{
			Node:     catalog.Node{Scope: scope, Node: "n1", Address: "10.0.0.1"},
			Services: []catalog.Service{{Scope: scope, ID: "web", Service: "web", Weights: catalog.Weights{Passing: 1, Warning: 1}}},
		}); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- r.Run(ctx) }()
		defer func() {
			cancel()
			if err := errors.Join(<-done, servers.Close()); err != nil {
				t.Error(err)
			}
		}()
		f(t, r)
	})
}

// roots brings the server's roots into the replica.
func (r *rig) roots(t *testing.T) {
	t.Helper()
	c := weftv1.NewFeedClient(r.servers.Conn)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stream, err := c.Subscribe(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&weftv1.SubscribeRequest{Node: "n1"}); err != nil {
		t.Fatal(err)
	}
	resp, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	u := catalog.Update{
		Position: catalog.Position{Epoch: resp.GetPosition().GetEpoch(), Index: resp.GetPosition().GetIndex()},
		Snapshot: []catalog.Topic{catalog.CATopic()}, Covered: []catalog.Topic{catalog.CATopic()},
	}
	for _, i := range resp.GetItems() {
		u.Items = append(u.Items, catalog.Item{Topic: catalog.CATopic(), ID: i.GetId(), Index: i.GetIndex(), Record: i.GetRecord()})
	}
	if err := r.store.ApplyItems(u); err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
}

func (r *rig) keep() {
	r.Keep(map[catalog.Key]string{scope.Name("web"): ""})
	synctest.Wait()
}

func (r *rig) current(t *testing.T) ca.Leaf {
	t.Helper()
	l, err := r.Current(scope.Name("web"))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// A leaf is renewed well before its end, again and again, and who waits hears of it.
func TestRenewsEarly(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.keep()
		l := r.current(t)
		if l.URI() == "" || !strings.HasSuffix(l.URI(), "/svc/web") || !strings.Contains(l.PrivateKeyPEM, "PRIVATE KEY") {
			t.Errorf("%v", l)
		}
		for range 3 {
			changed := r.Changed()
			began := time.Now()
			<-changed
			next := r.current(t)
			if left := l.ValidBefore.Sub(time.Now()); left < ttl/10 || left > ttl*4/10 {
				t.Errorf("renewed with %v left of %v (after %v): want between a tenth and four", left, ttl, time.Since(began))
			}
			if next.SerialNumber == l.SerialNumber || next.PrivateKeyPEM == l.PrivateKeyPEM {
				t.Error("the same certificate or key again")
			}
			l = next
		}
	})
}

// While no server signs, the leaf is of use to its end and not a second longer, and it is asked for more and more often; then it is
// there again at once.
func TestServersAway(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.keep()
		l := r.current(t)
		r.client.down.Store(true)
		r.client.asked.Store(0)
		time.Sleep(l.ValidBefore.Sub(time.Now()) - time.Second)
		if got := r.current(t); got.SerialNumber != l.SerialNumber {
			t.Error("another leaf, from nobody")
		}
		if asked := r.client.asked.Load(); asked < 5 {
			t.Errorf("asked %d times", asked)
		}
		if cause := r.Troubled()[scope.Name("web")]; !errors.Is(cause, errDown) {
			t.Errorf("troubled by %v", cause)
		}
		time.Sleep(2 * time.Second)
		if _, err := r.Current(scope.Name("web")); !errors.Is(err, ErrNotReady) || !errors.Is(err, errDown) {
			t.Errorf("past its end: %v", err)
		}
		r.client.down.Store(false)
		changed := r.Changed()
		began := time.Now()
		<-changed
		r.current(t)
		if took := time.Since(began); took > 15*time.Second {
			t.Errorf("there again after %v", took)
		}
		synctest.Wait()
		if trouble := r.Troubled(); len(trouble) > 0 {
			t.Errorf("still troubled: %v", trouble)
		}
	})
}

// A new root has all leaves renewed within moments.
func TestNewRoot(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.keep()
		before := r.current(t)
		w := httptest.NewRecorder()
		r.servers.Server.Handler().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodPut, "/v1/connect/ca/configuration",
			strings.NewReader(`{"Config":{"Rotate":true}}`)))
		if w.Code != http.StatusOK {
			t.Fatal(w.Code, w.Body)
		}
		r.roots(t)
		time.Sleep(spread + time.Second)
		if l := r.current(t); l.SerialNumber == before.SerialNumber {
			t.Error("the leaf is still of the old root")
		}
	})
}

// What nobody keeps is renewed as long as somebody asks for it now and then; what nobody wants is let go of.
func TestLetsGo(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		if _, err := r.Get(t.Context(), scope.Name("web"), "", true); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Get(t.Context(), scope.Name("nobody"), "", false); !errors.Is(err, ErrRefused) {
			t.Errorf("a leaf for a service that isn't there: %v", err)
		}
		r.plan(r.store.Read(), time.Now().Add(2*unsigned))
		if n := len(r.held); n != 1 {
			t.Errorf("%d are tried for", n)
		}
		time.Sleep(ttl * 3 / 2)
		if l := r.current(t); !time.Now().Before(l.ValidBefore) {
			t.Error("not renewed")
		}
		for _, c := range []struct {
			later time.Duration
			held  int
		}{{idle - time.Minute, 1}, {idle + time.Minute, 0}} {
			r.plan(r.store.Read(), time.Now().Add(c.later))
			if all := r.All(); len(all) != c.held {
				t.Errorf("after %v without a question: held %v, want %d", c.later, all, c.held)
			}
		}
	})
}

// A leaf of before a restart is used as if it had been signed now; one that has ended isn't.
func TestRestore(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.keep()
		l := r.current(t)
		state, err := r.store.Read().CA()
		if err != nil {
			t.Fatal(err)
		}
		for _, ended := range []bool{false, true} {
			if ended {
				time.Sleep(2 * ttl)
			}
			cut := &counted{}
			cut.down.Store(true)
			m, err := New(Config{Node: "n1", Client: cut, Store: r.store, Log: slog.New(slog.DiscardHandler)})
			if err != nil {
				t.Fatal(err)
			}
			m.Restore(state.ActiveRootID, scope.Name("web"), l)
			got, err := m.Current(scope.Name("web"))
			if ended && !errors.Is(err, ErrNotReady) || !ended && got.SerialNumber != l.SerialNumber {
				t.Errorf("ended %v: %v, %v", ended, got, err)
			}
			if renew, _ := m.plan(r.store.Read(), time.Now()); (len(renew) > 0) != ended {
				t.Errorf("ended %v: renews %v", ended, renew)
			}
		}
	})
}

// A leaf that is revoked, by its number or with all of its service's, is replaced at once, by one that isn't.
func TestRenewsWhatIsRevoked(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.keep()
		for _, body := range []func(ca.Leaf) string{
			func(l ca.Leaf) string { return `{"Serial":"` + l.SerialNumber + `"}` },
			func(ca.Leaf) string { return `{"Service":"web"}` },
		} {
			old := r.current(t)
			asked := r.client.asked.Load()
			w := httptest.NewRecorder()
			r.servers.Server.Handler().ServeHTTP(w, httptest.NewRequest("PUT", "/v1/weft/ca/revoke", strings.NewReader(body(old))))
			if w.Code != 200 {
				t.Fatal(w.Body)
			}
			r.roots(t)
			time.Sleep(2 * time.Second)
			synctest.Wait()
			fresh := r.current(t)
			state, err := r.store.Read().CA()
			if err != nil {
				t.Fatal(err)
			}
			for _, v := range state.Revoked {
				if v.Refuses(fresh.SerialNumber, fresh.URI(), fresh.ValidAfter) {
					t.Errorf("the new leaf is refused by %+v", v)
				}
			}
			if last := state.Revoked[len(state.Revoked)-1]; !last.Refuses(old.SerialNumber, old.URI(), old.ValidAfter) || r.client.asked.Load() != asked+1 {
				t.Errorf("refused: %+v, after %d requests", last, r.client.asked.Load()-asked)
			}
		}
	})
}
