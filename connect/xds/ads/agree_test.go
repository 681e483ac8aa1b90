// SPDX-License-Identifier: Apache-2.0

package ads_test

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/connect/chain"
	"github.com/weftmesh/weft/connect/identity"
	"github.com/weftmesh/weft/connect/intention"
	"github.com/weftmesh/weft/connect/xds/xdstest"
)

// agreeing is a running Envoy beside the rules that it was made of.
type agreeing struct {
	m          *mesh
	up, public int
	clients    map[string]*http.Client // by the service that calls; "" calls in plain text
	round      int
}

// envoyVersion is as "1.40.0".
func envoyVersion(t *testing.T, binary string) string {
	t.Helper()
	out, err := exec.Command(binary, "--version").Output()
	_, said, _ := strings.Cut(string(out), "version: ")
	parts := strings.Split(said, "/")
	if err != nil || len(parts) < 2 {
		t.Fatalf("envoy --version: %q, %v", out, err)
	}
	return parts[1]
}

// called answers every request, as the application and as the instance that is called.
func called(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Protocols: new(http.Protocols), Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Came", "yes")
	})}
	s.Protocols.SetHTTP1(true)
	s.Protocols.SetUnencryptedHTTP2(true)
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close(); <-done })
	return l.Addr().(*net.TCPAddr).Port
}

func newAgreeing(t *testing.T, names []string) *agreeing {
	t.Helper()
	a := &agreeing{m: newMesh(t), up: port(t), public: port(t), clients: map[string]*http.Client{"": {Timeout: 10 * time.Second}}}
	a.m.w.Abilities.Version = envoyVersion(t, a.m.envoy)
	app := called(t)
	if _, err := a.m.w.Register(xdstest.Sidecar{Service: "api", Port: app, PublicPort: app}); err != nil {
		t.Fatal(err)
	}
	web := a.m.add(xdstest.Sidecar{Service: "web", Port: app, PublicPort: a.public, Upstreams: []catalog.Upstream{{DestinationName: "api", LocalBindPort: a.up}}})
	for _, name := range names {
		leaf, err := a.m.w.Leaf(name)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := tls.X509KeyPair([]byte(leaf.CertPEM), []byte(leaf.KeyPEM))
		if err != nil {
			t.Fatal(err)
		}
		a.clients[name] = &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
			ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{Certificates: []tls.Certificate{cert}, InsecureSkipVerify: true}, //nolint:gosec // who it is doesn't matter here
		}}
	}
	a.m.publish(
		&catalog.ProxyDefaults{Config: catalog.Opaque{"protocol": "http2"}},
		&catalog.ServiceDefaults{EntryHead: catalog.EntryHead{Name: "web"}, Protocol: "http2", MutualTLSMode: catalog.MTLSPermissive},
		&catalog.ServiceDefaults{EntryHead: catalog.EntryHead{Name: "api"}, Protocol: "http2", MutualTLSMode: catalog.MTLSOff},
	)
	a.m.start(web)
	return a
}

func (a *agreeing) do(c *http.Client, url string, req chain.Request) (*http.Response, error) {
	r, err := http.NewRequest(req.Method, url+req.Path, nil)
	if err != nil {
		return nil, err
	}
	r.Host, r.Header = req.Authority, req.Header
	resp, err := c.Do(r)
	if err != nil {
		return nil, err
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp, resp.Body.Close()
}

// marker is asked for until an Envoy has a round's rules in force: by a route for it, and by a caller who may come every other round.
const marker = "/which-round"

func (a *agreeing) put(router *catalog.ServiceRouter, rules *catalog.ServiceIntentions) {
	a.m.t.Helper()
	a.round++
	says := strconv.Itoa(a.round)
	router.Routes = append(router.Routes, catalog.ServiceRoute{
		Priority: -1, Match: &catalog.ServiceRouteMatch{HTTP: &catalog.ServiceRouteHTTPMatch{PathExact: marker}}, Response: &catalog.HTTPResponse{Status: 200 + a.round%2},
	})
	action := map[bool]string{true: "allow", false: "deny"}[a.round%2 == 0]
	rules.Sources = append(rules.Sources, catalog.SourceIntention{Name: "probe", Action: action})
	a.m.publish(router, rules)
	a.m.settled()
	ask := chain.Request{Method: "GET", Path: marker, Authority: "api", Header: http.Header{}}
	a.m.until(10*time.Second, "the rules of round "+says+" are in force", func() bool {
		out, err := a.do(a.clients[""], fmt.Sprintf("http://127.0.0.1:%d", a.up), ask)
		if err != nil || out.StatusCode != 200+a.round%2 {
			return false
		}
		in, err := a.do(a.clients["probe"], fmt.Sprintf("https://127.0.0.1:%d", a.public), ask)
		return err == nil && (in.Header.Get("X-Came") != "") == (a.round%2 == 0)
	})
}

// calls compares where a request goes by the chain with where it went.
func (a *agreeing) calls(c *chain.Chain, req chain.Request) error {
	want, err := c.Walk(chain.Caller{Service: catalog.Scope{}.Default("dc1").Name("web"), Identity: a.m.w.ID("web").String()}, req)
	if err != nil {
		return err
	}
	resp, err := a.do(a.clients[""], fmt.Sprintf("http://127.0.0.1:%d", a.up), req)
	if err != nil {
		return err
	}
	route := want.Route
	if route == "service api" {
		route = ""
	}
	if have := resp.Header.Get("X-Route"); resp.StatusCode != 200 || resp.Header.Get("X-Came") == "" || have != route {
		return fmt.Errorf("%d by route %q, want %q; of %+v", resp.StatusCode, have, want.Route, want.Steps)
	}
	return nil
}

// comes compares what the rules say of a request with what became of it.
func (a *agreeing) comes(rules intention.Rules, src string, req chain.Request) error {
	who, scheme := identity.Service{}, "http"
	if src != "" {
		who, scheme = a.m.w.ID(src), "https"
	}
	asked := intention.Request{Method: req.Method, Path: req.Path, Header: req.Header, Authority: req.Authority, Scheme: req.Scheme}
	want, err := rules.DecideRequest(who, asked, a.m.w.DefaultAllow)
	if err != nil {
		return err
	}
	resp, err := a.do(a.clients[src], fmt.Sprintf("%s://127.0.0.1:%d", scheme, a.public), req)
	if err != nil {
		return err
	}
	came := resp.Header.Get("X-Came") != ""
	if refused := resp.StatusCode == 403 || resp.Header.Get("Grpc-Status") == "7"; came != want.Allowed || refused == came {
		return fmt.Errorf("%d, let through: %t; the rules say %+v", resp.StatusCode, came, want)
	}
	return nil
}

func repeats(req chain.Request) bool {
	for _, values := range req.Header {
		if len(values) > 1 {
			return true
		}
	}
	return false
}

func ranges(e *catalog.ServiceRouter) bool { return strings.Contains(text(e), `"Range"`) }

func text(e catalog.Entry) string {
	data, err := json.Marshal(e)
	if err != nil {
		return err.Error()
	}
	return string(data)
}

// TestEnvoyAgrees: a real Envoy does with random requests what the rules say that it is configured by. WEFT_ENVOY_PAIRS says how many
// (make agree: ten thousand).
func TestEnvoyAgrees(t *testing.T) {
	pairs := 1600
	if n, err := strconv.Atoi(os.Getenv("WEFT_ENVOY_PAIRS")); err == nil {
		pairs = n
	}
	names := []string{"first", "shop", "SHOP", "api.v2", "apixv2", "nobody", "probe"}
	a := newAgreeing(t, names)
	minor, err := strconv.Atoi(strings.Split(a.m.w.Abilities.Version, ".")[1])
	if err != nil {
		t.Fatal(err)
	}
	old := minor < 39
	const each = 200
	r := rand.New(rand.NewPCG(11, uint64(pairs)))
	began := time.Now()
	for done := 0; done < pairs; done += each {
		a.m.w.DefaultAllow = done/each%2 == 0
		router, rules := xdstest.RandomRouter(r, true), xdstest.RandomIntentions(r)
		a.put(router, rules)
		c, err := chain.Compile(a.m.w.Store.Read(), catalog.Scope{}.Name("api"), chain.Overrides{})
		if err != nil {
			t.Fatal(err)
		}
		decided, err := intention.Match(a.m.w.Store.Read(), catalog.Scope{}.Name("web"))
		if err != nil {
			t.Fatal(err)
		}
		for range each / 2 {
			req := xdstest.RandomRequest(r)
			if old && repeats(req) && ranges(router) {
				continue // before 1.39 Envoy joins values by commas, and a range has no other form
			}
			if err := a.calls(c, req); err != nil {
				t.Fatalf("round %d, %+v: %v\n%s", a.round, req, err, text(router))
			}
			src := xdstest.Pick(r, append(names[:6:6], "")...)
			if err := a.comes(decided, src, req); err != nil {
				t.Fatalf("round %d, %q, %+v: %v\n%s", a.round, src, req, err, text(rules))
			}
		}
	}
	t.Logf("%d pairs in %s", pairs, time.Since(began).Round(time.Millisecond))
}
