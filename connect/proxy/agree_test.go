// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/anypb"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/connect/chain"
	"github.com/weftmesh/weft/connect/identity"
	"github.com/weftmesh/weft/connect/intention"
	"github.com/weftmesh/weft/connect/proxy/config"
	"github.com/weftmesh/weft/connect/proxy/exchange"
	"github.com/weftmesh/weft/connect/proxy/intake"
	"github.com/weftmesh/weft/connect/proxy/stream"
	"github.com/weftmesh/weft/connect/xds"
	"github.com/weftmesh/weft/connect/xds/xdstest"
	proxyv1 "github.com/weftmesh/weft/proto/weft/proxy/v1"
)

// trio is one configuration as each of the three has it.
type trio struct {
	chain     *chain.Chain
	rules     intention.Rules
	simulator *xdstest.Proxy
	engine    *exchange.Engine
	listener  map[string]string // by its name's beginning
	w         *xdstest.World
	mode      string // of mutual TLS
	decides   *catalog.ExternalAuthorization
}

func newTrio(t *testing.T, r *rand.Rand, allow bool) *trio {
	t.Helper()
	must := func(err error) {
		if err != nil {
			t.Helper()
			t.Fatal(err)
		}
	}
	w, err := xdstest.NewWorld(time.Now())
	must(err)
	w.DefaultAllow, w.Abilities = allow, xds.Abilities{Weft: true}
	protocol := xdstest.Pick(r, "http", "http2", "grpc")
	x := &trio{w: w, listener: map[string]string{}, mode: xdstest.Pick(r, catalog.MTLSStrict, catalog.MTLSPermissive, catalog.MTLSOff)}
	x.decides = xdstest.RandomAuthorization(r)
	must(w.Write(&catalog.ServiceDefaults{EntryHead: catalog.EntryHead{Name: "web"}, ExternalAuthorization: x.decides}))
	must(w.Write(&catalog.ProxyDefaults{Config: catalog.Opaque{"protocol": protocol}, MutualTLSMode: x.mode}))
	must(w.Write(xdstest.RandomSets(r, xdstest.RandomRouter(r, protocol != "http"), xdstest.RandomIntentions(r))...))
	proxy, err := w.Register(xdstest.Sidecar{Service: "web", Port: 8080, PublicPort: 21000, Upstreams: []catalog.Upstream{{DestinationName: "api", LocalBindPort: 9000}}})
	must(err)
	leaf, err := w.Leaf("web")
	must(err)
	out, err := w.Render(proxy, leaf)
	must(err)
	x.simulator, err = xdstest.Load(out)
	must(err)
	x.chain, err = chain.Compile(w.Store.Read(), catalog.Scope{}.Name("api"), chain.Overrides{})
	must(err)
	x.rules, err = intention.Match(w.Store.Read(), catalog.Scope{}.Name("web"))
	must(err)
	resources := map[string]map[string]*anypb.Any{}
	for url, all := range out.Resources {
		resources[url] = map[string]*anypb.Any{}
		for _, res := range all {
			resources[url][res.Name] = res.Any
		}
	}
	s, err := intake.Compile(resources, time.Now)
	must(err)
	for name := range s.Listeners {
		begin, _, _ := strings.Cut(name, ":")
		x.listener[begin] = name
	}
	x.engine, err = exchange.New(exchange.Config{Snapshot: func() *config.Snapshot { return s }})
	must(err)
	return x
}

func head(req chain.Request) *stream.RequestHead {
	h := &stream.RequestHead{Method: req.Method, Path: req.Path, Authority: req.Authority, Scheme: req.Scheme}
	for name, values := range req.Header {
		for _, v := range values {
			h.Fields.Add(name, v)
		}
	}
	return h
}

// calls compares what the three say of a request through the upstream's listener.
func (x *trio) calls(req chain.Request) error {
	want, err := x.chain.Walk(chain.Caller{Service: catalog.Scope{}.Default("dc1").Name("web"), Identity: x.w.ID("web").String()}, req)
	if err != nil {
		return err
	}
	a, err := x.simulator.Outbound("api", intention.Request{Method: req.Method, Path: req.Path, Header: req.Header, Authority: req.Authority, Scheme: req.Scheme})
	if err != nil {
		return err
	}
	info := &proxyv1.RouteInfo{}
	if err := a.Route.GetMetadata().GetTypedFilterMetadata()["weft.proxy.v1.route"].UnmarshalTo(info); err != nil {
		return err
	}
	r, _ := x.engine.Consider(x.listener["api"], nil, head(req))
	route := want.Route
	if route == "" {
		route = "service api"
	}
	if r == nil || info.GetSource() != route || r.Source != route {
		return fmt.Errorf("routes: %q, simulator %q, proxy %+v; of %+v", route, info.GetSource(), r, want.Steps)
	}
	return nil
}

// comes compares what they say of a request of src to the public listener.
func (x *trio) comes(src identity.Service, req chain.Request) error {
	asked := intention.Request{Method: req.Method, Path: req.Path, Header: req.Header, Authority: req.Authority, Scheme: req.Scheme}
	want, err := x.rules.DecideRequest(src, asked, x.w.DefaultAllow)
	if err != nil {
		return err
	}
	a, err := x.simulator.Inbound(src, asked)
	if err != nil {
		return err
	}
	peer := &config.Peer{}
	if src != (identity.Service{}) {
		peer = &config.Peer{Identity: src, URI: src.String()}
	}
	_, ok := x.engine.Consider(x.listener["public_listener"], peer, head(req))
	if a.Allowed != want.Allowed || ok != want.Allowed {
		return fmt.Errorf("rules say %+v, simulator %t, proxy %t", want, a.Allowed, ok)
	}
	if !ok || x.decides == nil {
		return nil
	}
	asks, why, err := intention.Asked(x.decides, asked)
	if got := x.engine.Asks(x.listener["public_listener"], peer, head(req)); err != nil || a.Asked != asks || got != asks {
		return fmt.Errorf("ask %t (%s, %w), simulator %t, proxy %t; of %+v", asks, why, err, a.Asked, got, x.decides)
	}
	return nil
}

// The rules, what is rendered of them, and what the built-in proxy makes of that, agree on random pairs of policy and request;
// WEFT_PAIRS says on how many (make agree: a million).
func TestC35_EverybodyAgrees(t *testing.T) {
	pairs := 4000
	if n, err := strconv.Atoi(os.Getenv("WEFT_PAIRS")); err == nil {
		pairs = n
	}
	const each = 400
	r := rand.New(rand.NewPCG(7, uint64(pairs)))
	for round := 0; round*each < pairs; round++ {
		x := newTrio(t, r, round%2 == 0)
		for range each / 2 {
			req := xdstest.RandomRequest(r)
			if err := x.calls(req); err != nil {
				t.Fatalf("round %d, %+v: %v", round, req, err)
			}
			src := x.w.ID(xdstest.Pick(r, "first", "shop", "SHOP", "api.v2", "apixv2", "nobody"))
			if x.mode == catalog.MTLSOff || x.mode == catalog.MTLSPermissive && r.IntN(4) == 0 {
				src = identity.Service{} // in plain text
			}
			if err := x.comes(src, req); err != nil {
				t.Fatalf("round %d, %+v: %v", round, req, err)
			}
		}
	}
}
