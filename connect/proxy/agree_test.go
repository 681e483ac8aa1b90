// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
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

func pick[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }

var (
	somePaths    = []string{"/a", "/b", "/b/c", "/a/c?x=/b", "/", "/a/b?q=1&r=2", "/A", "/x.V1/Get", "/x.V1/Put?q=2"}
	someHeaders  = []string{"x-one", "X-Two"}
	someValues   = []string{"a", "B", "ab", "7", "-3", ""}
	somePatterns = []string{"a+", "(?i)b", "a|b|", "[0-9]+", ".*"}
)

func randomRequest(r *rand.Rand) chain.Request {
	req := chain.Request{
		Method: pick(r, "GET", "PUT", "DELETE"), Path: pick(r, somePaths...), Authority: pick(r, "api", "api:80", "api:8080", "shop.example", "[::1]:8080"),
		Scheme: "http", Header: http.Header{},
	}
	for _, name := range someHeaders {
		for range r.IntN(3) {
			req.Header.Add(name, pick(r, someValues...))
		}
	}
	if r.IntN(3) == 0 {
		req.Header.Set("Content-Type", pick(r, "application/grpc", "application/grpc+proto", "text/plain"))
	}
	return req
}

func randomMatch(r *rand.Rand, grpc bool) *catalog.ServiceRouteHTTPMatch {
	m := &catalog.ServiceRouteHTTPMatch{CaseInsensitive: r.IntN(4) == 0}
	switch r.IntN(5) {
	case 0:
		m.PathExact = pick(r, "/a", "/b/c", "/A")
	case 1:
		m.PathPrefix = pick(r, "/a", "/b", "/")
	case 2:
		m.PathRegex = pick(r, "/a|/b", "/[ab]/.*", "/a(/c)?")
	case 3:
		if grpc {
			m.GRPC = &catalog.GRPCMatch{Service: pick(r, "", "x.V1"), Method: pick(r, "Get", "Put")}
			m.CaseInsensitive = false
		}
	}
	for range r.IntN(3) {
		h := catalog.ServiceRouteHTTPMatchHeader{Name: pick(r, someHeaders...), Invert: r.IntN(3) == 0}
		v := pick(r, "a", "B", "ab")
		switch r.IntN(7) {
		case 0:
			h.Present = true
		case 1:
			h.Exact = v
		case 2:
			h.Prefix = v
		case 3:
			h.Suffix = v
		case 4:
			h.Contains = v
		case 5:
			h.Regex = pick(r, somePatterns...)
		case 6:
			h.Range = &catalog.Range{From: int64(r.IntN(9)) - 5, To: 8}
		}
		h.IgnoreCase = r.IntN(2) == 0 && !h.Present && h.Regex == "" && h.Range == nil
		m.Header = append(m.Header, h)
	}
	if r.IntN(4) == 0 {
		q := catalog.ServiceRouteHTTPMatchQueryParam{Name: pick(r, "x", "q", "r")}
		switch r.IntN(4) {
		case 0:
			q.Present = true
		case 1:
			q.Exact = pick(r, "1", "/b")
		case 2:
			q.Prefix = "/"
		case 3:
			q.Regex = "[0-9]"
		}
		m.QueryParam = append(m.QueryParam, q)
	}
	if r.IntN(4) == 0 {
		m.Methods = pick(r, []string{"GET"}, []string{"GET", "PUT"})
	}
	if r.IntN(6) == 0 {
		m.Port = pick(r, 80, 8080, 443)
	}
	if r.IntN(6) == 0 {
		m.Authority = &catalog.StringMatch{Suffix: ".example"}
	}
	if r.IntN(8) == 0 {
		m.Scheme = pick(r, "http", "https")
	}
	return m
}

func randomRouter(r *rand.Rand, grpc bool) *catalog.ServiceRouter {
	e := &catalog.ServiceRouter{EntryHead: catalog.EntryHead{Name: "api"}}
	for range 1 + r.IntN(5) {
		route := catalog.ServiceRoute{Priority: r.IntN(3)}
		if r.IntN(4) == 0 {
			route.MatchAny = []catalog.ServiceRouteMatch{{HTTP: randomMatch(r, grpc)}, {HTTP: randomMatch(r, grpc)}}
		} else {
			route.Match = &catalog.ServiceRouteMatch{HTTP: randomMatch(r, grpc)}
			if r.IntN(4) == 0 {
				route.Match.Source = &catalog.RouteSource{Services: []string{pick(r, "web", "other")}}
			}
		}
		e.Routes = append(e.Routes, route)
	}
	return e
}

func randomPermission(r *rand.Rand) catalog.IntentionPermission {
	m := randomMatch(r, false)
	h := &catalog.IntentionHTTPPermission{PathExact: m.PathExact, PathPrefix: m.PathPrefix, PathRegex: m.PathRegex, Methods: m.Methods}
	for _, x := range m.Header {
		if x.Range == nil {
			h.Header = append(h.Header, catalog.IntentionHTTPHeader{
				Name: x.Name, Present: x.Present, Exact: x.Exact, Prefix: x.Prefix, Suffix: x.Suffix, Contains: x.Contains, Regex: x.Regex,
				Invert: x.Invert, IgnoreCase: x.IgnoreCase,
			})
		}
	}
	if h.PathExact+h.PathPrefix+h.PathRegex == "" && len(h.Methods)+len(h.Header) == 0 {
		h.PathPrefix = "/"
	}
	return catalog.IntentionPermission{Action: pick(r, "allow", "deny"), HTTP: h}
}

func randomIntentions(r *rand.Rand) *catalog.ServiceIntentions {
	e := &catalog.ServiceIntentions{EntryHead: catalog.EntryHead{Name: "web"}, Sources: []catalog.SourceIntention{{Name: "first", Action: "allow"}}}
	for _, name := range []string{"shop", "*", "api.v2"} {
		s := catalog.SourceIntention{Name: name}
		if r.IntN(2) == 0 {
			s.Action = pick(r, "allow", "deny")
		} else {
			for range 1 + r.IntN(3) {
				s.Permissions = append(s.Permissions, randomPermission(r))
			}
		}
		e.Sources = append(e.Sources, s)
	}
	return e
}

// trio is one configuration as each of the three has it.
type trio struct {
	chain     *chain.Chain
	rules     intention.Rules
	simulator *xdstest.Proxy
	engine    *exchange.Engine
	listener  map[string]string // by its name's beginning
	w         *xdstest.World
	mode      string // of mutual TLS
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
	protocol := pick(r, "http", "http2", "grpc")
	x := &trio{w: w, listener: map[string]string{}, mode: pick(r, catalog.MTLSStrict, catalog.MTLSPermissive, catalog.MTLSOff)}
	must(w.Write(&catalog.ProxyDefaults{Config: catalog.Opaque{"protocol": protocol}, MutualTLSMode: x.mode}, randomRouter(r, protocol != "http"), randomIntentions(r)))
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
	return nil
}

// The rules, what is rendered of them, and what the built-in proxy makes of that, agree on random pairs of policy and request;
// WEFT_PAIRS says on how many (make agree: a million).
func TestEverybodyAgrees(t *testing.T) {
	pairs := 4000
	if n, err := strconv.Atoi(os.Getenv("WEFT_PAIRS")); err == nil {
		pairs = n
	}
	const each = 400
	r := rand.New(rand.NewPCG(7, uint64(pairs)))
	for round := 0; round*each < pairs; round++ {
		x := newTrio(t, r, round%2 == 0)
		for range each / 2 {
			req := randomRequest(r)
			if err := x.calls(req); err != nil {
				t.Fatalf("round %d, %+v: %v", round, req, err)
			}
			src := x.w.ID(pick(r, "first", "shop", "SHOP", "api.v2", "apixv2", "nobody"))
			if x.mode == catalog.MTLSOff || x.mode == catalog.MTLSPermissive && r.IntN(4) == 0 {
				src = identity.Service{} // in plain text
			}
			if err := x.comes(src, req); err != nil {
				t.Fatalf("round %d, %+v: %v", round, req, err)
			}
		}
	}
}
