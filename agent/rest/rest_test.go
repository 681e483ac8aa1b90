// SPDX-License-Identifier: Apache-2.0

package rest

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weftmesh/weft/agent/check"
	"github.com/weftmesh/weft/agent/leaf"
	"github.com/weftmesh/weft/agent/local"
	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/internal/api"
	"github.com/weftmesh/weft/internal/logs"
)

type noProxies struct{}

func (noProxies) Access(id string) (Access, error) {
	if id == "kept-sidecar-proxy" {
		return Access{ProxyID: id, Service: "kept", Key: catalog.Scope{}.Name("kept")}, nil
	}
	if id != "web-sidecar-proxy" {
		return Access{}, local.ErrUnknown
	}
	return Access{ProxyID: id, Service: "web", Secret: "s"}, nil
}

// Permit lets nobody have what the proxies of "kept" have.
func (noProxies) Permit(_ context.Context, _ string, service catalog.Key) error {
	if service.Name == "kept" {
		return errors.New("it is another's")
	}
	return nil
}

// PermitChange lets nobody change what is "kept".
func (p noProxies) PermitChange(ctx context.Context, what string, service catalog.Key) error {
	return p.Permit(ctx, what, service)
}

func (noProxies) Status() []ProxyStatus {
	return []ProxyStatus{{ProxyID: "web-sidecar-proxy", Service: "web"}}
}

type rig struct {
	t     *testing.T
	state *local.State
	mux   *api.Mux
	tap   *logs.Tap
	log   *slog.Logger
}

func newRig(t *testing.T) *rig {
	t.Helper()
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	quiet := slog.New(slog.DiscardHandler)
	r := &rig{t: t, tap: &logs.Tap{}}
	r.log = slog.New(r.tap.Handler(quiet.Handler()))
	var err error
	r.state, err = local.New(local.Config{Node: catalog.Node{Scope: catalog.Scope{}.Default("dc1"), Node: "n1", Address: "10.0.0.1"}, Log: quiet})
	ok(err)
	checks, err := check.New(check.Config{State: r.state, Log: quiet})
	ok(err)
	store, err := catalog.New(catalog.Config{Datacenter: "dc1", Replica: true})
	ok(err)
	leaves, err := leaf.New(leaf.Config{Node: "n1", Store: store, Log: quiet})
	ok(err)
	r.mux, err = api.NewMux(api.MuxConfig{
		Side: api.Agent, Node: "n1", Resolver: api.Open{}, Datacenter: "dc1",
		Handlers: Handlers(Config{
			State: r.state, Checks: checks, Leaves: leaves, Store: store, Proxies: noProxies{}, Metrics: prometheus.NewRegistry(), Node: "n1", Logs: r.tap,
		}),
	})
	ok(err)
	return r
}

func (r *rig) do(method, path, body string) *httptest.ResponseRecorder {
	r.t.Helper()
	w := httptest.NewRecorder()
	r.mux.ServeHTTP(w, httptest.NewRequestWithContext(r.t.Context(), method, path, strings.NewReader(body)))
	return w
}

func (r *rig) register(body string) {
	r.t.Helper()
	if w := r.do(http.MethodPut, "/v1/agent/service/register", body); w.Code != http.StatusOK {
		r.t.Fatal(w.Code, w.Body)
	}
}

// Each bad request gets its status and says what is wrong with it, and nothing of it is applied.
func TestBadRequests(t *testing.T) {
	r := newRig(t)
	r.register(`{"Name":"web","Port":80,"Check":{"CheckID":"http","HTTP":"http://127.0.0.1:1","Interval":"1h"}}`)
	before, _ := r.state.Wanted()
	for _, c := range []struct {
		method, path, body string
		code               int
		want               string
	}{
		{"PUT", "/v1/agent/service/register", `{"Name":"x","Prot":1}`, 400, "Prot"},
		{"PUT", "/v1/agent/service/register", `{"Name":"x","Port":"many"}`, 400, "Port"},
		{"PUT", "/v1/agent/service/register", `{"Name":"x"`, 400, "Request decode failed"},
		{"PUT", "/v1/agent/service/register", ``, 400, "Request decode failed"},
		{"PUT", "/v1/agent/service/register", "{\"Name\":\"x\xff\"}", 400, "UTF-8"},
		{"PUT", "/v1/agent/service/register", `{}`, 400, "Missing service name"},
		{"PUT", "/v1/agent/service/register", `{"Name":"x","Port":70000}`, 400, "want 0 to 65535, got 70000"},
		{"PUT", "/v1/agent/service/register", `{"Name":"x","Check":{"HTTP":"http://x"}}`, 400, "Interval must be > 0"},
		{"PUT", "/v1/agent/service/register", `{"Name":"x","Connect":{"SidecarService":{"Proxy":{"Upstreams":[{"DestinationName":"x","LocalBindPort":1}]}}}}`, 400, "can't be an upstream of itself"},
		{"PUT", "/v1/agent/service/register", `{"Name":"p","Kind":"connect-proxy","Port":1,"Proxy":{"DestinationServiceName":"x","DestinationServiceID":"none"}}`, 400, `"none" isn't registered`},
		{"PUT", "/v1/agent/service/register?replace-existing-checks=maybe", `{"Name":"x"}`, 400, "replace-existing-checks"},
		{"PUT", "/v1/agent/services/register", `{"Services":[{"Name":"x"},{"Name":"y","Port":-1}]}`, 400, `service "y": Invalid Port`},
		{"GET", "/v1/agent/connect/ca/leaf/kept", ``, 403, "another's"},
		{"GET", "/v1/agent/connect/proxy/kept-sidecar-proxy", ``, 403, "another's"},
		{"GET", "/v1/agent/connect/ca/leaf/a%20b", ``, 400, `invalid identity: service "a b"`},
		{"PUT", "/v1/agent/services/register", `{"Services":[{"Name":"x"},{"Name":"x"}]}`, 400, "another id"},
		{"PUT", "/v1/agent/services/register", `[{"Name":"x"}]`, 400, "must be an object"},
		{"PUT", "/v1/agent/service/deregister/none", "", 404, `Unknown service ID "none"`},
		{"PUT", "/v1/agent/service/maintenance/web", "", 400, "Missing value for enable"},
		{"PUT", "/v1/agent/service/maintenance/none?enable=true", "", 404, "none"},
		{"PUT", "/v1/agent/maintenance?enable=maybe", "", 400, "enable"},
		{"PUT", "/v1/agent/check/register", `{"Name":"c","ServiceID":"none","TTL":"1s"}`, 404, `"none" does not exist`},
		{"PUT", "/v1/agent/check/register", `{"Name":"c","TTL":"1s","Interval":"1s"}`, 400, "cannot both be specified"},
		{"PUT", "/v1/agent/check/deregister/none", "", 404, `Unknown check ID "none"`},
		{"PUT", "/v1/agent/check/pass/none", "", 404, `Unknown check ID "none"`},
		{"PUT", "/v1/agent/check/pass/http", "", 500, "does not have associated TTL"},
		{"PUT", "/v1/agent/check/update/http", `{"Status":"fine"}`, 500, "TTL"},
		{"GET", "/v1/agent/service/none", "", 404, "unknown service ID: none"},
		{"GET", "/v1/agent/health/service/id/none", "", 404, "none not found"},
		{"GET", "/v1/agent/health/service/name/none?format=text", "", 404, "none Not Found"},
		{"GET", "/v1/agent/services?filter=Nonsense", "", 500, "Failed to create boolean expression evaluator"},
		{"GET", "/v1/agent/monitor?loglevel=loud", "", 400, "Unknown log level: loud"},
		{"GET", "/debug/pprof/heap", "", 404, "enable_debug"},
		{"GET", "/v1/agent/connect/proxy/none", "", 404, ""},
		{"POST", "/v1/agent/connect/authorize", `{}`, 400, "Target service must be specified"},
		{"POST", "/v1/agent/connect/authorize", `{"Target":"web","ClientCertURI":"http://x"}`, 400, "not a valid Connect identifier"},
		{"POST", "/v1/agent/service/register", `{}`, 405, ""},
	} {
		w := r.do(c.method, c.path, c.body)
		if w.Code != c.code || !strings.Contains(w.Body.String(), c.want) {
			t.Errorf("%s %s %s: %d %q, want %d %q", c.method, c.path, c.body, w.Code, w.Body, c.code, c.want)
		}
	}
	if after, _ := r.state.Wanted(); after.Version != before.Version {
		t.Errorf("something was applied: %d services, %d checks", len(after.Services), len(after.Checks))
	}
}

// The forms of the answers, as Consul's clients read them.
func TestViews(t *testing.T) {
	r := newRig(t)
	r.register(`{"ID":"w1","Name":"web","Port":80,"Meta":{"k":"v"},"Check":{"CheckID":"beat","TTL":"1h","Notes":"n"},"Connect":{"SidecarService":{"Port":21000}}}`)
	for _, c := range []struct {
		path string
		code int
		want []string
	}{
		{"/v1/agent/services", 200, []string{`"w1":{"ID":"w1","Service":"web","Tags":[],"Meta":{"k":"v"},"Port":80,"Address":""`, `"w1-sidecar-proxy":{"Kind":"connect-proxy"`}},
		{"/v1/agent/services?filter=Meta.k==v+and+Port==81", 200, []string{"{}"}},
		{"/v1/agent/service/w1", 200, []string{`"ContentHash":"`, `"Datacenter":"dc1"`, `"Weights":{"Passing":1,"Warning":1}`}},
		{"/v1/agent/checks", 200, []string{`"beat":{"Node":"n1","CheckID":"beat"`, `"Status":"critical","Notes":"n"`, `"ServiceID":"w1","ServiceName":"web","ServiceTags":[],"Type":"ttl"`, `"Definition":{}`}},
		{"/v1/agent/health/service/id/w1", 503, []string{`"AggregatedStatus":"critical"`, `"CheckID":"beat"`}},
		{"/v1/agent/health/service/name/web?format=text", 503, []string{"critical"}},
		{"/v1/agent/connect/proxy/web-sidecar-proxy", 200, []string{`"Secret":"s"`}},
		{"/v1/agent/connect/proxies", 200, []string{`[{"ProxyID":"web-sidecar-proxy","Service":"web","Connected":false`}},
		{"/v1/agent/connect/certificates", 503, nil}, // the roots aren't there yet
	} {
		w := r.do(http.MethodGet, c.path, "")
		if w.Code != c.code {
			t.Errorf("%s: %d %s, want %d", c.path, w.Code, w.Body, c.code)
		}
		for _, want := range c.want {
			if !strings.Contains(w.Body.String(), want) {
				t.Errorf("%s: no %s in %s", c.path, want, w.Body)
			}
		}
	}
	for _, s := range []struct {
		path, status string
		code         int
	}{
		{"pass/beat?note=well", "passing", 200}, {"warn/beat", "warning", 429}, {"fail/beat", "critical", 503},
	} {
		if w := r.do(http.MethodPut, "/v1/agent/check/"+s.path, ""); w.Code != http.StatusOK {
			t.Errorf("%s: %d %s", s.path, w.Code, w.Body)
		}
		if w := r.do(http.MethodGet, "/v1/agent/health/service/id/w1?format=text", ""); w.Code != s.code || w.Body.String() != s.status {
			t.Errorf("%s: %d %s, want %d %s", s.path, w.Code, w.Body, s.code, s.status)
		}
	}
	if w := r.do(http.MethodPut, "/v1/agent/service/maintenance/w1?enable=true&reason=why", ""); w.Code != http.StatusOK {
		t.Error(w.Code, w.Body)
	}
	if w := r.do(http.MethodGet, "/v1/agent/health/service/id/w1", ""); w.Code != 503 || !strings.Contains(w.Body.String(), `"AggregatedStatus":"maintenance"`) {
		t.Errorf("maintenance: %d %s", w.Code, w.Body)
	}
}

// A wait by hash ends when the registration is another, or with its time.
// What the agent shows of a check can be registered again: that is how Ansible's module changes one.
func TestShownCheckRegistersAgain(t *testing.T) {
	r := newRig(t)
	for range 2 {
		body := `{"ID":"c1","Name":"c","Notes":"n","ServiceID":"","Interval":"","Timeout":"","TTL":"30s"}`
		if w := r.do(http.MethodPut, "/v1/agent/check/register", body); w.Code != http.StatusOK {
			t.Errorf("%d %s", w.Code, w.Body)
		}
	}
	if w := r.do(http.MethodPut, "/v1/agent/check/register", `{"Name":"c","TTL":"soon"}`); w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), "invalid duration") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// Programs that start proxies learn from agent/self where xDS is, in plain text and over TLS.
func TestXDSPorts(t *testing.T) {
	c := Config{GRPCPort: 8502, GRPCTLSPort: 8503}
	got := c.xds()
	if ports, _ := got["Ports"].(map[string]int); got["Port"] != 8502 || ports["Plaintext"] != 8502 || ports["TLS"] != 8503 {
		t.Error(got)
	}
}

func TestWaitByHash(t *testing.T) {
	r := newRig(t)
	r.register(`{"Name":"web","Port":80}`)
	var v struct {
		ContentHash string
		Port        int
	}
	read := func(w *httptest.ResponseRecorder) {
		t.Helper()
		if err := json.Unmarshal(w.Body.Bytes(), &v); err != nil || w.Header().Get("X-Consul-ContentHash") != v.ContentHash {
			t.Fatal(w.Code, w.Body, err)
		}
	}
	read(r.do(http.MethodGet, "/v1/agent/service/web", ""))
	first := v.ContentHash
	read(r.do(http.MethodGet, "/v1/agent/service/web?hash="+first+"&wait=10ms", ""))
	if v.ContentHash != first {
		t.Error("nothing has changed, and the hash has")
	}
	answered := make(chan *httptest.ResponseRecorder, 1)
	go func() { answered <- r.do(http.MethodGet, "/v1/agent/service/web?hash="+first+"&wait=1m", "") }()
	r.register(`{"Name":"web","Port":81}`)
	select {
	case w := <-answered:
		read(w)
	case <-time.After(20 * time.Second):
		t.Fatal("the change wakes nobody")
	}
	if v.Port != 81 || v.ContentHash == first {
		t.Errorf("%+v", v)
	}
}

// The log is streamed as it is written, from a level on, until the client goes.
func TestMonitor(t *testing.T) {
	r := newRig(t)
	s := httptest.NewServer(r.mux)
	defer s.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL+"/v1/agent/monitor?loglevel=warn&logjson", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := s.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	r.log.Info("small")
	r.log.Warn("large", "n", 1)
	line, err := bufio.NewReader(resp.Body).ReadString('\n')
	if err != nil || !strings.Contains(line, `"msg":"large","n":1`) {
		t.Errorf("%q %v", line, err)
	}
	cancel()
	for r.log.Enabled(t.Context(), slog.LevelWarn) { // until the watcher has gone
		<-time.After(time.Millisecond)
	}
}
