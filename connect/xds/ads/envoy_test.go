// SPDX-License-Identifier: Apache-2.0

package ads_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	mrand "math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/connect/xds"
	"github.com/weftmesh/weft/connect/xds/ads"
	"github.com/weftmesh/weft/connect/xds/xdstest"
)

// mesh serves real Envoys what a world's catalog says.
type mesh struct {
	t     *testing.T
	w     *xdstest.World
	envoy string
	ads   string

	mu      sync.Mutex
	proxies map[string]*member
	out     map[string]*xds.Output
	changed chan struct{}
	acked   map[string]string
	refused []string
}

type member struct {
	record *catalog.Service
	leaf   *xds.Leaf
}

func newMesh(t *testing.T) *mesh {
	t.Helper()
	envoy := os.Getenv("WEFT_ENVOY")
	if os.Getenv("WEFT_E2E") == "" || envoy == "" {
		t.Skip("needs WEFT_E2E=1 and WEFT_ENVOY, the path of an Envoy")
	}
	w, err := xdstest.NewWorld(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	m := &mesh{t: t, w: w, envoy: envoy, proxies: map[string]*member{}, out: map[string]*xds.Output{}, acked: map[string]string{}, changed: make(chan struct{})}
	s, err := ads.New(ads.Config{Source: m})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m.ads = l.Addr().String()
	g := grpc.NewServer()
	s.Register(g)
	done := make(chan struct{})
	go func() { defer close(done); _ = g.Serve(l) }()
	t.Cleanup(func() { g.Stop(); <-done })
	return m
}

func (m *mesh) Open(_ context.Context, c ads.Claim) (ads.Stream, error) {
	if c.Secret != "s-"+c.NodeID {
		return nil, fmt.Errorf("wrong secret %q", c.Secret)
	}
	return &line{m, c.NodeID}, nil
}

type line struct {
	m  *mesh
	id string
}

func (l *line) Output() (*xds.Output, <-chan struct{}) {
	l.m.mu.Lock()
	defer l.m.mu.Unlock()
	return l.m.out[l.id], l.m.changed
}

func (l *line) Acked(_, hash string) {
	l.m.mu.Lock()
	defer l.m.mu.Unlock()
	l.m.acked[l.id] = hash
}

func (l *line) Refused(url, text string) {
	l.m.mu.Lock()
	defer l.m.mu.Unlock()
	l.m.refused = append(l.m.refused, url+": "+text)
}

func (l *line) Close() {}

func (m *mesh) add(s xdstest.Sidecar) string {
	m.t.Helper()
	rec, err := m.w.Register(s)
	if err != nil {
		m.t.Fatal(err)
	}
	leaf, err := m.w.Leaf(s.Service)
	if err != nil {
		m.t.Fatal(err)
	}
	m.proxies[rec.ID] = &member{rec, leaf}
	return rec.ID
}

// publish renders everything anew and waits until the running proxies have it.
func (m *mesh) publish(entries ...catalog.Entry) {
	m.t.Helper()
	if err := m.w.Write(entries...); err != nil {
		m.t.Fatal(err)
	}
	m.mu.Lock()
	for id, p := range m.proxies {
		out, err := m.w.Render(p.record, p.leaf)
		if err != nil {
			m.mu.Unlock()
			m.t.Fatal(err)
		}
		m.out[id] = out
	}
	close(m.changed)
	m.changed = make(chan struct{})
	m.mu.Unlock()
}

func (m *mesh) settled() {
	m.t.Helper()
	m.until(15*time.Second, "every proxy has its configuration", func() bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		for id := range m.proxies {
			if m.out[id].Hash != m.acked[id] {
				return false
			}
		}
		return true
	})
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.refused) > 0 {
		m.t.Fatalf("refused: %s", m.refused)
	}
}

func (m *mesh) until(d time.Duration, what string, ok func() bool) {
	m.t.Helper()
	deadline, tick := time.After(d), time.NewTicker(20*time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			m.t.Fatalf("not in %s: %s (refused: %s)", d, what, m.refused)
		}
	}
}

// start runs an Envoy for a proxy.
func (m *mesh) start(id string, args ...string) {
	m.t.Helper()
	boot, err := xds.Bootstrap(xds.BootstrapConfig{
		ProxyID: id, Service: m.proxies[id].record.Proxy.DestinationServiceName, ADSAddress: m.ads, Secret: "s-" + id,
		AdminAddress: fmt.Sprintf("127.0.0.1:%d", port(m.t)), Prometheus: xds.PrometheusListener{Address: fmt.Sprintf("127.0.0.1:%d", port(m.t))},
	})
	if err != nil {
		m.t.Fatal(err)
	}
	file := filepath.Join(m.t.TempDir(), id+".json")
	if err := os.WriteFile(file, boot, 0o600); err != nil {
		m.t.Fatal(err)
	}
	if out, err := exec.Command(m.envoy, "--mode", "validate", "-c", file, "--log-level", "error").CombinedOutput(); err != nil {
		m.t.Fatalf("bootstrap: %v\n%s", err, out)
	}
	if args == nil {
		args = xds.EnvoyArgs
	}
	cmd := exec.Command(m.envoy, append([]string{"-c", file, "--disable-hot-restart", "--concurrency", "1", "--log-level", "warning"}, args...)...)
	log, err := os.Create(filepath.Join(m.t.TempDir(), id+".log"))
	if err != nil {
		m.t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if text, _ := os.ReadFile(log.Name()); m.t.Failed() {
			m.t.Logf("%s:\n%s", id, text)
		}
		_ = log.Close()
	})
}

// lastPort is the last port that was given out: of a range from which neither the kernel takes ports for outgoing connections, which
// would have them when an Envoy wants to listen, nor the end-to-end tests.
var lastPort atomic.Int32

const firstPort, portsEnd = 28000, 32000

// port is one of loopback on which nobody listens now, and that no other test gets.
func port(t *testing.T) int {
	t.Helper()
	lastPort.CompareAndSwap(0, firstPort+mrand.Int32N((portsEnd-firstPort)/2))
	for p := int(lastPort.Add(1)); p < portsEnd; p = int(lastPort.Add(1)) {
		if l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", p)); err == nil {
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			return p
		}
	}
	t.Fatal("no port is free")
	return 0
}

// echo is an application that says each line again.
func echo(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); _, _ = io.Copy(c, c) }()
		}
	}()
	return l.Addr().(*net.TCPAddr).Port
}

// talk is a connection on which a line was answered; nil if there was no answer.
func talk(at int) (net.Conn, *bufio.Reader) {
	c, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", at), time.Second)
	if err != nil {
		return nil, nil
	}
	r := bufio.NewReader(c)
	if !answers(c, r) {
		_ = c.Close()
		return nil, nil
	}
	return c, r
}

func answers(c net.Conn, r *bufio.Reader) bool {
	_ = c.SetDeadline(time.Now().Add(2 * time.Second))
	if _, err := io.WriteString(c, "hello\n"); err != nil {
		return false
	}
	s, err := r.ReadString('\n')
	return err == nil && s == "hello\n"
}

func allowing(dst string, sources ...string) *catalog.ServiceIntentions {
	e := &catalog.ServiceIntentions{EntryHead: catalog.EntryHead{Name: dst}}
	for _, s := range sources {
		e.Sources = append(e.Sources, catalog.SourceIntention{Name: s, Action: "allow"})
	}
	return withDenied(e, "nobody")
}

func withDenied(e *catalog.ServiceIntentions, denied string) *catalog.ServiceIntentions {
	e.Sources = append(e.Sources, catalog.SourceIntention{Name: denied, Action: "deny"})
	return e
}

// cutAfter says how long a connection lives on, at most limit.
func cutAfter(c net.Conn, limit time.Duration) time.Duration {
	start := time.Now()
	_ = c.SetReadDeadline(start.Add(limit))
	_, _ = c.Read(make([]byte, 1))
	return time.Since(start)
}

// Two Envoys, TCP: who isn't allowed any more is cut within the drain time that EnvoyArgs sets.
func TestEnvoyTCP(t *testing.T) {
	m := newMesh(t)
	app, up := echo(t), port(t)
	db := m.add(xdstest.Sidecar{Service: "db", Port: app, PublicPort: port(t)})
	web := m.add(xdstest.Sidecar{Service: "web", Port: 1, PublicPort: port(t), Upstreams: []catalog.Upstream{{DestinationName: "db", LocalBindPort: up}}})
	m.publish(allowing("db", "web"))
	m.start(db)
	m.start(web)
	m.settled()
	var c net.Conn
	m.until(10*time.Second, "web reaches db", func() bool { c, _ = talk(up); return c != nil })
	defer c.Close()
	m.publish(allowing("db", "other"))
	cut := cutAfter(c, 10*time.Second)
	t.Logf("the denied connection was cut after %s", cut)
	if cut > 3*time.Second {
		t.Errorf("it took %s to cut a connection that isn't allowed any more", cut)
	}
	m.settled()
	if c, _ := talk(up); c != nil {
		t.Error("a new connection is allowed")
	}
	m.publish(allowing("db", "web"))
	m.settled()
	m.until(5*time.Second, "web reaches db again", func() bool { c, _ = talk(up); return c != nil })
	defer c.Close()
	m.publish(allowing("db", "web", "more"))
	t.Logf("an allowed connection lived on for %s after an unrelated change (at most 5 s are looked at)", cutAfter(c, 5*time.Second))
}

// Two Envoys, HTTP: rules by request, split, rewrite, and a change without a lost connection.
// everyKind is an entry of each kind that bears on api.
func everyKind(rules *catalog.ServiceIntentions) []catalog.Entry {
	return []catalog.Entry{
		&catalog.ServiceDefaults{EntryHead: catalog.EntryHead{Name: "api"}, Protocol: "http"}, rules,
		&catalog.ProxyDefaults{AccessLogs: &catalog.AccessLogs{Enabled: true}},
		&catalog.ServiceResolver{
			EntryHead: catalog.EntryHead{Name: "api"}, Subsets: map[string]catalog.ServiceResolverSubset{
				"v1": {Filter: `Service.Meta.v == "1"`, OnlyPassing: true}, "v2": {Filter: `Service.Meta.v == "2"`},
			}, Failover: map[string]catalog.ServiceResolverFailover{"v2": {ServiceSubset: "v1"}},
			LoadBalancer: &catalog.LoadBalancer{Policy: "ring_hash", HashPolicies: []catalog.HashPolicy{{Field: "header", FieldValue: "x-user"}, {Field: "cookie", FieldValue: "c", CookieConfig: &catalog.CookieConfig{Session: true}}}},
		},
		&catalog.ServiceSplitter{EntryHead: catalog.EntryHead{Name: "api"}, Splits: []catalog.ServiceSplit{{Weight: 50, ServiceSubset: "v1"}, {Weight: 50, ServiceSubset: "v2"}}},
		&catalog.ServiceRouter{EntryHead: catalog.EntryHead{Name: "api"}, Routes: []catalog.ServiceRoute{{
			Match: &catalog.ServiceRouteMatch{HTTP: &catalog.ServiceRouteHTTPMatch{PathPrefix: "/old", QueryParam: []catalog.ServiceRouteHTTPMatchQueryParam{{Name: "q", Present: true}}}},
			Destination: &catalog.ServiceRouteDestination{
				PrefixRewrite: "/ok", NumRetries: 2, RetryOn: []string{"5xx"}, RetryOnStatusCodes: []uint32{503},
				RequestHeaders: &catalog.HTTPHeaderModifiers{Set: map[string]string{"x-set": "1"}, Add: map[string]string{"x-add": "2"}, Remove: []string{"x-gone"}},
			},
		}}},
	}
}

func TestEnvoyHTTP(t *testing.T) {
	m := newMesh(t)
	up := port(t)
	app := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Server", "app")
		fmt.Fprintf(w, "%s %s xfcc=%s id=%s", r.Method, r.URL.Path, r.Header.Get("X-Forwarded-Client-Cert"), r.Header.Get("X-Request-Id"))
	})}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = app.Serve(l) }()
	t.Cleanup(func() { _ = app.Close(); <-done })
	api := m.add(xdstest.Sidecar{Service: "api", Port: l.Addr().(*net.TCPAddr).Port, PublicPort: port(t), Meta: map[string]string{"v": "1"}, Status: "passing"})
	web := m.add(xdstest.Sidecar{Service: "web", Port: 1, PublicPort: port(t), Upstreams: []catalog.Upstream{{
		DestinationName: "api", LocalBindPort: up, Config: catalog.Opaque{
			"connect_timeout_ms": int64(900), "limits": map[string]any{"max_connections": int64(10)},
			"passive_health_check": map[string]any{"interval": "5s", "max_failures": int64(3)},
		},
	}}})
	rules := func(action string) *catalog.ServiceIntentions {
		return &catalog.ServiceIntentions{EntryHead: catalog.EntryHead{Name: "api"}, Sources: []catalog.SourceIntention{{
			Name: "web",
			Permissions: []catalog.IntentionPermission{
				{Action: "deny", HTTP: &catalog.IntentionHTTPPermission{PathPrefix: "/admin"}},
				{Action: "allow", HTTP: &catalog.IntentionHTTPPermission{Header: []catalog.IntentionHTTPHeader{{Name: "x-inv", Exact: "v", Invert: true}}, PathPrefix: "/inv"}},
				{Action: action, HTTP: &catalog.IntentionHTTPPermission{PathPrefix: "/ok", Methods: []string{"GET"}}},
			},
		}}}
	}
	m.publish(everyKind(rules("allow"))...)
	m.start(api)
	m.start(web)
	m.settled()
	get := func(method, path, header string) (int, string, string) {
		req, err := http.NewRequest(method, fmt.Sprintf("http://127.0.0.1:%d%s", up, path), nil)
		if err != nil {
			t.Fatal(err)
		}
		if k, v, ok := strings.Cut(header, "="); ok {
			req.Header.Set(k, v)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return 0, err.Error(), ""
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(body), resp.Header.Get("Server")
	}
	m.until(10*time.Second, "web reaches api", func() bool { code, _, _ := get("GET", "/ok", ""); return code == 200 })
	for _, c := range []struct {
		method, path, header string
		code                 int
		body                 string
	}{
		{"GET", "/ok/x", "x-request-id=abc", 200, "GET /ok/x xfcc="},
		{"GET", "/old/x?q=1", "", 200, "GET /ok/x"},
		{"GET", "/old/x", "", 403, ""},
		{"POST", "/ok", "", 403, ""},
		{"GET", "/ok/../admin", "", 403, ""},
		{"GET", "/ok/%2e%2e/admin", "", 403, ""},
		{"GET", "//admin", "", 403, ""},
		{"GET", "/inv", "", 403, ""}, // an inverted match of an absent header
		{"GET", "/inv", "x-inv=w", 200, "GET /inv"},
		{"GET", "/inv", "x-inv=v", 403, ""},
	} {
		for range 4 { // both legs of the split
			code, body, server := get(c.method, c.path, c.header)
			if code != c.code || !strings.HasPrefix(body, c.body) {
				t.Errorf("%s %s %s: %d %q, want %d %q", c.method, c.path, c.header, code, body, c.code, c.body)
			}
			if code == 200 && server != "app" {
				t.Errorf("server: %q", server)
			}
			if code == 200 && !strings.Contains(body, "URI="+m.w.ID("web").String()) {
				t.Errorf("no caller in %q", body)
			}
			if strings.HasPrefix(c.header, "x-request-id") && !strings.HasSuffix(body, "id=abc") {
				t.Errorf("the request's ID was changed: %q", body)
			}
		}
	}
	m.publish(rules("deny"))
	m.settled()
	m.until(2*time.Second, "the denied request is refused", func() bool { code, _, _ := get("GET", "/ok", ""); return code == 403 })
}
