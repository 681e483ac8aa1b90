// SPDX-License-Identifier: Apache-2.0

package verify

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/internal/api"
	weftv1 "github.com/weftmesh/weft/proto/weft/v1"
	"github.com/weftmesh/weft/server/feed"
)

var scope = catalog.Scope{}.Default("dc1")

func everybody(catalog.Key) bool { return true }

// rig is a catalog with the sidecar "web-proxy" on node n1, and what its agent reports of it.
type rig struct {
	t     *testing.T
	store *catalog.Store
	feed  *feed.Server
	v     *Verifier
}

func (r *rig) apply(body catalog.Body) uint64 {
	r.t.Helper()
	data, err := catalog.Encode(body)
	if err != nil {
		r.t.Fatal(err)
	}
	result := r.store.Apply([]catalog.LogEntry{{Index: r.store.Position().Index + 1, Data: data}})[0]
	if result.Err != nil {
		r.t.Fatal(result.Err)
	}
	return result.Index
}

func (r *rig) defaults(service, protocol string) uint64 {
	r.t.Helper()
	return r.apply(&catalog.SetEntry{Entry: catalog.EntryBox{Entry: &catalog.ServiceDefaults{
		EntryHead: catalog.EntryHead{Scope: scope, Name: service}, Protocol: protocol,
	}}})
}

func (r *rig) report(p *weftv1.ProxyReport) {
	r.t.Helper()
	p.ProxyId, p.Service = "web-proxy", "web"
	req := &weftv1.ReportRequest{Node: "n1", Complete: true, DefaultAllow: true, Proxies: []*weftv1.ProxyReport{p}}
	if _, err := r.feed.Report(context.Background(), req); err != nil {
		r.t.Fatal(err)
	}
}

// newRig renders by the protocol of web alone.
func newRig(t *testing.T) *rig {
	t.Helper()
	store, err := catalog.New(catalog.Config{Datacenter: "dc1", Epoch: 1})
	if err != nil {
		t.Fatal(err)
	}
	f, err := feed.New(feed.Config{Store: store, Resolver: api.Open{}})
	if err != nil {
		t.Fatal(err)
	}
	render := func(t *catalog.Txn, p *catalog.Service, about About) (Rendering, error) {
		d, err := catalog.EntryAs[*catalog.ServiceDefaults](t, catalog.KindServiceDefaults, p.Scope.Name(p.Proxy.DestinationServiceName))
		if err != nil || d == nil {
			return Rendering{ConfigHash: "none"}, err
		}
		return Rendering{ConfigHash: d.Protocol + about.Version, TypeHashes: map[string]string{"x.Listener": d.Protocol, "x.Route": "same"}}, nil
	}
	r := &rig{t, store, f, New(Config{Store: store, Reports: f.Reports, Render: render, DefaultAllow: true, Now: time.Now})}
	r.apply(&catalog.Register{
		Node: catalog.Node{Scope: scope, Node: "n1", Address: "10.0.0.1"},
		Services: []catalog.Service{{
			Scope: scope, ID: "web-proxy", Service: "web-proxy", Kind: catalog.KindConnectProxy, Proxy: &catalog.Proxy{DestinationServiceName: "web"},
		}, {Scope: scope, ID: "web", Service: "web"}},
	})
	return r
}

func TestLook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		first := r.defaults("web", "tcp")
		second := r.defaults("web", "http")
		r.defaults("other", "http")
		good := func() *weftv1.ProxyReport {
			return &weftv1.ProxyReport{
				Connected: true, Weft: true, ProxyVersion: "1", RenderedIndex: second, RenderedHash: "h", AckedHash: "h", AckedIndex: second,
				ConfigHash: "http1", TypeHashes: map[string]string{"x.Listener": "http", "x.Route": "same"},
			}
		}
		lacks := []Record{{"service-defaults default/web", second}}
		for name, c := range map[string]struct {
			change func(*weftv1.ProxyReport)
			state  string
			why    string
			lacks  []Record
		}{
			"all":          {func(*weftv1.ProxyReport) {}, InSync, "", nil},
			"later":        {func(p *weftv1.ProxyReport) { p.RenderedIndex += 7 }, InSync, "", nil},
			"stopped":      {func(p *weftv1.ProxyReport) { p.Connected = false }, Unreachable, "does it run", nil},
			"not rendered": {func(p *weftv1.ProxyReport) { p.NotReady = "no leaf" }, NotReady, "no leaf", nil},
			"behind":       {func(p *weftv1.ProxyReport) { p.RenderedIndex = first }, Behind, "changed at", lacks},
			"refused": {func(p *weftv1.ProxyReport) { p.AckedHash, p.AckedIndex, p.Refusal = "g", first, "port taken" },
				Refused, "port taken", lacks},
			"on its way": {func(p *weftv1.ProxyReport) { p.AckedHash, p.AckedIndex = "g", first }, Pending, "acknowledged", lacks},
			"an old refusal": {func(p *weftv1.ProxyReport) { p.Refusal = "port taken" },
				InSync, "", nil},
			"another rendering": {func(p *weftv1.ProxyReport) {
				p.ConfigHash, p.TypeHashes = "tcp1", map[string]string{"x.Listener": "tcp", "x.Route": "same"}
			}, Differs, "renders something else", nil},
		} {
			p := good()
			c.change(p)
			r.report(p)
			got, err := r.v.Look(scope, everybody)
			if err != nil || len(got) != 1 {
				t.Fatalf("%s: %v, %v", name, got, err)
			}
			if g := got[0]; g.State != c.state || !strings.Contains(g.Why, c.why) || (c.state == InSync) != (g.Why == "") || g.CatalogIndex != second {
				t.Errorf("%s: %+v", name, g)
			}
			if g := got[0].Records; len(g) != len(c.lacks) || len(g) > 0 && (g[0].Index != c.lacks[0].Index || !strings.HasPrefix(g[0].What, "service-defaults")) {
				t.Errorf("%s: lacks %v", name, g)
			}
			if g := got[0]; c.state == Differs && (len(g.Types) != 1 || g.Types[0] != "x.Listener") {
				t.Errorf("%s: types %v", name, g.Types)
			}
		}
		if got, err := r.v.Look(scope, func(k catalog.Key) bool { return k.Name != "web" }); err != nil || len(got) != 0 {
			t.Errorf("another's: %v, %v", got, err)
		}
		time.Sleep(5 * time.Minute)
		if got, _ := r.v.Look(scope, everybody); got[0].State != Unreachable || !strings.Contains(got[0].Why, "not reported lately") {
			t.Errorf("a silent agent: %+v", got[0])
		}
	})
}

// A write is waited for until the proxies that it concerns have it or refuse it, and no longer than is said.
func TestSettle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		told := &weftv1.ProxyReport{Connected: true, RenderedIndex: 1, RenderedHash: "a", AckedHash: "a", AckedIndex: 1}
		r.report(told)
		settle := func(write uint64, within time.Duration) (string, time.Duration) {
			t.Helper()
			ctx, cancel := context.WithTimeout(t.Context(), within)
			defer cancel()
			began := time.Now()
			got, err := r.v.Settle(ctx, scope, write, everybody)
			if err != nil {
				t.Fatal(err)
			}
			if len(got) == 0 {
				return "", time.Since(began)
			}
			return got[0].State, time.Since(began)
		}
		if state, took := settle(r.defaults("other", "http"), time.Minute); state != "" || took != 0 {
			t.Errorf("a write that concerns nobody: %q after %v", state, took)
		}
		write := r.defaults("web", "http")
		if state, took := settle(write, 10*time.Second); state != Behind || took != 10*time.Second {
			t.Errorf("nothing happens: %q after %v", state, took)
		}
		go func() {
			time.Sleep(time.Second)
			r.report(&weftv1.ProxyReport{Connected: true, RenderedIndex: write, RenderedHash: "b", AckedHash: "a", AckedIndex: 1})
			time.Sleep(time.Second)
			r.report(&weftv1.ProxyReport{Connected: true, RenderedIndex: write, RenderedHash: "b", AckedHash: "b", AckedIndex: write})
		}()
		if state, took := settle(write, 10*time.Second); state != InSync || took != 2*time.Second {
			t.Errorf("applied: %q after %v", state, took)
		}
		r.report(&weftv1.ProxyReport{Connected: true, RenderedIndex: write, RenderedHash: "b", AckedHash: "a", Refusal: "no"})
		if state, took := settle(write, 10*time.Second); state != Refused || took != 0 {
			t.Errorf("refused: %q after %v", state, took)
		}
		r.report(&weftv1.ProxyReport{RenderedIndex: 1})
		if state, took := settle(write, 10*time.Second); state != Unreachable || took != 0 {
			t.Errorf("stopped: %q after %v", state, took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := r.v.Settle(ctx, scope, write+100, everybody); err == nil {
			t.Error("a write that never comes was waited for without an error")
		}
	})
}
