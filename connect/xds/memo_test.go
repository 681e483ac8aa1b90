// SPDX-License-Identifier: Apache-2.0

package xds_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/connect/xds"
	"github.com/weftmesh/weft/connect/xds/xdstest"
)

const memoServices = 30

func memoWorld(t *testing.T) (*xdstest.World, func(memo *xds.Memo, now time.Time) *xds.Output) {
	t.Helper()
	w, _, render := memoInput(t)
	return w, render
}

// memoInput is a world with a proxy that calls many services, what it is rendered of, which the test may change, and a rendering.
func memoInput(t *testing.T) (*xdstest.World, *xds.Input, func(memo *xds.Memo, now time.Time) *xds.Output) {
	t.Helper()
	start := time.Now()
	w, err := xdstest.NewWorld(start)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Write(&catalog.ProxyDefaults{Config: catalog.Opaque{"protocol": "http"}}); err != nil {
		t.Fatal(err)
	}
	caller := xdstest.Sidecar{Service: "web", Port: 8080, PublicPort: 21000}
	for i := range memoServices {
		name := fmt.Sprintf("s%d", i)
		caller.Upstreams = append(caller.Upstreams, catalog.Upstream{DestinationName: name, LocalBindPort: 10000 + i})
		if _, err := w.Register(xdstest.Sidecar{Service: name, Node: "n2", Address: "10.0.0.1", Port: 1, PublicPort: 21000 + i}); err != nil {
			t.Fatal(err)
		}
	}
	proxy, err := w.Register(caller)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := w.Leaf("web")
	if err != nil {
		t.Fatal(err)
	}
	in := &xds.Input{Proxy: proxy, Leaf: leaf, Abilities: xds.Abilities{Weft: true}}
	return w, in, func(memo *xds.Memo, now time.Time) *xds.Output {
		t.Helper()
		in.Txn, in.Memo, in.Now = w.Store.Read().Record(), memo, now
		out, err := xds.Render(*in)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
}

func routerOf(name, path string, until *time.Time) *catalog.ServiceRouter {
	d := &catalog.ServiceRouteDestination{}
	if until != nil {
		d.Fault = &catalog.Fault{Until: until, Abort: &catalog.FaultAbort{Status: 503}}
	}
	return &catalog.ServiceRouter{EntryHead: head(name), Routes: []catalog.ServiceRoute{{
		Match: &catalog.ServiceRouteMatch{HTTP: &httpMatch{PathPrefix: path}}, Destination: d,
	}}}
}

// One changed entry renders the upstream anew that it is about, and changes its routes alone.
func TestOneChangeRendersOneUpstream(t *testing.T) {
	w, render := memoWorld(t)
	now := time.Now()
	memo := &xds.Memo{}
	before := render(memo, now)
	if memo.Rendered() != memoServices {
		t.Fatalf("%d upstreams rendered at first, want all", memo.Rendered())
	}
	if render(memo, now); memo.Rendered() != 0 {
		t.Errorf("%d upstreams rendered though nothing has changed", memo.Rendered())
	}
	if err := w.Write(routerOf("s7", "/x", nil)); err != nil {
		t.Fatal(err)
	}
	after := render(memo, now)
	if memo.Rendered() != 1 {
		t.Errorf("%d upstreams rendered after one router was written, want one", memo.Rendered())
	}
	var changed []string
	for url, all := range after.Resources {
		for i, r := range all {
			if old := before.Resources[url][i]; old.Name != r.Name || old.Version != r.Version {
				changed = append(changed, r.Name)
			}
		}
	}
	if len(changed) != 1 || changed[0] != "s7:127.0.0.1:10007" {
		t.Errorf("changed: %v, want the routes of s7", changed)
	}
	// A fault's end changes what it was in.
	end := now.Add(time.Minute)
	if err := w.Write(routerOf("s8", "/x", &end)); err != nil {
		t.Fatal(err)
	}
	if out := render(memo, now); memo.Rendered() != 1 || !out.Deadline.Equal(end) {
		t.Errorf("%d upstreams rendered, deadline %s", memo.Rendered(), out.Deadline)
	}
	if out := render(memo, now); memo.Rendered() != 0 || !out.Deadline.Equal(end) {
		t.Errorf("%d upstreams rendered, deadline %s of a fault that goes on", memo.Rendered(), out.Deadline)
	}
	if render(memo, end); memo.Rendered() != 1 {
		t.Errorf("%d upstreams rendered when the fault is over", memo.Rendered())
	}
	// What holds for all renders all.
	if err := w.Write(&catalog.ServiceDefaults{EntryHead: head("web"), Protocol: "http", UpstreamConfig: &catalog.UpstreamDefaults{Defaults: &catalog.UpstreamConfig{ConnectTimeoutMs: 7}}}); err != nil {
		t.Fatal(err)
	}
	if render(memo, end); memo.Rendered() != memoServices {
		t.Errorf("%d upstreams rendered after the caller's defaults have changed", memo.Rendered())
	}
}

// What is rendered with a memo is what is rendered without, whatever changes.
func TestMemoChangesNothing(t *testing.T) {
	w, in, render := memoInput(t)
	r := rand.New(rand.NewPCG(3, 4))
	leaves := []*xds.Leaf{in.Leaf}
	other, err := w.Leaf("web")
	if err != nil {
		t.Fatal(err)
	}
	leaves = append(leaves, other)
	// Another proxy of the host, in another zone, whose renderings share what they can with the first's.
	neighbour := *in.Proxy
	neighbour.Locality = &catalog.Locality{Region: "r", Zone: "b"}
	proxies, memos, shared := []*catalog.Service{in.Proxy, &neighbour}, []*xds.Memo{{}, {}}, &xds.Shared{}
	now := time.Now()
	name := func() string { return fmt.Sprintf("s%d", r.IntN(6)) }
	for step := range 400 {
		var err error
		switch r.IntN(12) {
		case 0:
			end := now.Add(time.Duration(r.IntN(20)) * time.Second)
			err = w.Write(routerOf(name(), xdstest.Pick(r, "/a", "/b"), &end))
		case 1:
			err = w.Write(&catalog.ServiceResolver{EntryHead: head(name()), ConnectTimeout: time.Duration(1+r.IntN(3)) * time.Second, Failover: map[string]catalog.ServiceResolverFailover{"*": {Service: name()}}})
		case 2:
			err = w.Write(&catalog.ServiceSplitter{EntryHead: head(name()), Splits: []catalog.ServiceSplit{{Weight: 40, Service: "s10"}, {Weight: 60, Service: "s11"}}})
		case 3:
			_, err = w.Register(xdstest.Sidecar{Service: name(), Node: xdstest.Pick(r, "n2", "n3"), Address: "10.0.0.2", Port: 1, PublicPort: 21000 + r.IntN(3), Status: xdstest.Pick(r, "passing", "critical")})
		case 4:
			err = w.Write(&catalog.ServiceDefaults{EntryHead: head(name()), Protocol: "http", MutualTLSMode: xdstest.Pick(r, "strict", "off")})
		case 5:
			err = w.Apply(catalog.DeleteEntry{Kind: xdstest.Pick(r, catalog.KindServiceRouter, catalog.KindServiceSplitter, catalog.KindServiceResolver), Key: catalog.Scope{}.Default("dc1").Name(name())})
		case 6:
			now = now.Add(time.Duration(r.IntN(10)) * time.Second)
		case 7:
			in.Leaf = xdstest.Pick(r, leaves...)
		case 8:
			in.DenyAll = !in.DenyAll
		case 9:
			err = w.Write(&catalog.ServiceIntentions{EntryHead: head("web"), Sources: []catalog.SourceIntention{{Name: name(), Action: xdstest.Pick(r, "allow", "deny")}}})
		case 10:
			err = w.Write(&catalog.ProxyDefaults{Config: catalog.Opaque{"protocol": "http"}, MutualTLSMode: xdstest.Pick(r, "strict", "off", "permissive")})
		case 11:
			err = w.Write(&catalog.ServiceResolver{EntryHead: head(name()), LoadBalancer: &catalog.LoadBalancer{Policy: xdstest.Pick(r, "random", "ring_hash")}, PrioritizeByLocality: &catalog.PrioritizeByLocality{Mode: xdstest.Pick(r, "failover", "none")}})
		}
		if err != nil {
			t.Fatal(err)
		}
		who := r.IntN(2)
		in.Proxy, in.Shared = proxies[who], shared
		with := render(memos[who], now)
		in.Shared = nil
		without := render(nil, now)
		if with.Hash != without.Hash || !with.Deadline.Equal(without.Deadline) || fmt.Sprint(with.Warnings) != fmt.Sprint(without.Warnings) {
			t.Fatalf("step %d: with a memo %s %s %v, without %s %s %v", step, with.Hash, with.Deadline, with.Warnings, without.Hash, without.Deadline, without.Warnings)
		}
	}
}
