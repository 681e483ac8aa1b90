// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weftmesh/weft/agent/agenttest"
	"github.com/weftmesh/weft/agent/config"
	"github.com/weftmesh/weft/agent/forward"
	"github.com/weftmesh/weft/agent/tokens"
	"github.com/weftmesh/weft/internal/acl"
	"github.com/weftmesh/weft/internal/api"
	"github.com/weftmesh/weft/internal/gossip"
	"github.com/weftmesh/weft/internal/listen"
	"github.com/weftmesh/weft/internal/logs"
	"github.com/weftmesh/weft/internal/memnet"
	"github.com/weftmesh/weft/internal/plane"
	"github.com/weftmesh/weft/server"
)

const managing = "11111111-2222-3333-4444-555555555555"

// whole is an agent with a server in this process, in virtual time, that is asked as its listeners would ask it.
type whole struct {
	t       *testing.T
	h       http.Handler
	left    bool
	count   int
	private map[string]string // what earlier answers gave: see expand
	agent   *Agent            // once it is there
}

// newWhole starts it; ACLs are on, and everything but what a token says is allowed.
func newWhole(t *testing.T) *whole { return newWholeWith(t, true) }

// newWholeWith says whether what no rule speaks of is allowed.
func newWholeWith(t *testing.T, allow bool) *whole {
	t.Helper()
	level := acl.Write
	if !allow {
		level = acl.Deny
	}
	authority, err := plane.NewAuthority("dc1", rand.Reader, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	list := func(s string) func() []string { return func() []string { return []string{s} } }
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	quiet, w := slog.New(slog.DiscardHandler), &whole{t: t, private: map[string]string{}}
	key := bytes.Repeat([]byte{7}, 32)
	pool := func(wan bool, name string, port uint16) *gossip.Pool {
		at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, 1}), port)
		p, err := gossip.New(gossip.Config{
			WAN: wan, Self: gossip.Self{Name: name, ID: "00000000-0000-4000-8000-000000000001", Datacenter: "dc1", Build: "0.1.0", Server: true, ServerPort: 8300},
			Bind: at, Advertise: at, Network: gossip.Memory(memnet.New()), Keys: [][]byte{key}, Log: quiet,
			OnEvent: func(e gossip.UserEvent) { w.agent.Event(e) },
		})
		ok(err)
		w.run(p.Run)
		<-p.Ready()
		return p
	}
	lan, wan := pool(false, "n1", 8301), pool(true, "n1", 8302)
	servers, err := agenttest.New(server.Config{
		LAN: lan, WAN: wan, ACL: server.ACLConfig{Enabled: true, Allow: allow, DownPolicy: "extend-cache"}, DefaultAllow: true,
		Join: &server.JoinConfig{Domain: "consul", Authority: authority, Servers: list("10.0.0.1:8300"), RetryJoin: list("10.0.0.1:8301"), GossipKeys: list("key")},
	})
	ok(err)
	t.Cleanup(func() { ok(servers.Close()) })
	boot := httptest.NewRequest(http.MethodPut, "/v1/acl/bootstrap", strings.NewReader(`{"BootstrapSecret":"`+managing+`"}`))
	if got := api.Record(servers.Server.Handler(), boot, 0); got.Code != http.StatusOK {
		t.Fatalf("bootstrap: %d %s", got.Code, &got.Body)
	}
	passOn, err := forward.New(forward.Config{Local: servers.Server.Handler(), Node: "n1", Log: quiet})
	ok(err)
	t.Cleanup(passOn.Close)
	known, err := tokens.New(tokens.Config{
		Enabled: true, Servers: passOn, Node: "n1", Default: level, Now: time.Now, Own: map[tokens.Kind]string{tokens.Default: managing},
	})
	ok(err)
	door, err := listen.New(listen.Config{Log: quiet})
	ok(err)
	settings := config.Default()
	settings.Datacenter, settings.Server = "dc1", true
	settings.Ports.HTTP, settings.Ports.GRPC, settings.Ports.GRPCTLS, settings.Ports.HTTPS, settings.Ports.DNS = -1, -1, -1, -1, -1
	a, err := New(Config{
		Settings: settings, NodeName: "n1", NodeID: "00000000-0000-4000-8000-000000000001", Address: "10.0.0.1", Version: "1.2.3",
		Servers: passOn, Conn: servers.Conn, Tokens: known, Door: door, LAN: lan, WAN: wan, Logs: &logs.Tap{}, Metrics: prometheus.NewRegistry(), Log: quiet,
		Leave: func(context.Context) error { w.left = true; return nil }, ReadAgain: func() error { return nil },
	})
	ok(err)
	w.h, w.agent = a.mux, a
	w.run(a.Run)
	return w
}

// run runs a part until the test ends.
func (w *whole) run(f func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	w.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Error(err)
		}
	})
}

// expand fills in what a row leaves open: {n} is another number each time, {name} what an earlier answer gave.
func (w *whole) expand(s string) string {
	for name, value := range w.private {
		s = strings.ReplaceAll(s, "{"+name+"}", value)
	}
	return strings.ReplaceAll(s, "{n}", strconv.Itoa(w.count))
}

func (w *whole) request(ctx context.Context, method, path string, body io.Reader) *http.Request {
	r := httptest.NewRequestWithContext(ctx, method, "http://127.0.0.1:8500"+path, body)
	r.Header.Set("X-Consul-Token", managing)
	return r
}

func (w *whole) ask(method, path, body string) *api.Recorder {
	return api.Record(w.h, w.request(w.t.Context(), method, w.expand(path), strings.NewReader(w.expand(body))), 0)
}

// do makes a request, as "METHOD path body", that has to succeed.
func (w *whole) do(line string) {
	w.t.Helper()
	w.count++
	method, rest, _ := strings.Cut(line, " ")
	path, body, _ := strings.Cut(rest, " ")
	got := w.ask(method, path, body)
	if got.Code != http.StatusOK {
		w.t.Fatalf("%s: %d %s", line, got.Code, &got.Body)
	}
	if found := regexp.MustCompile(`"ID":"([^"]+)"`).FindStringSubmatch(got.Body.String()); found != nil {
		w.private["made"] = found[1]
	}
}

// row is how a route is tested: a request that it answers, and what the answer has to be.
type row struct {
	tier    int
	ask     string // path and query; "" is the route's path
	body    string
	code    int               // 0 is 200
	also    string            // where it isn't: the test elsewhere that asserts the answer of a request that is granted
	kind    string            // the answer's Content-Type; "" is application/json
	header  map[string]string // of the answer
	want    string            // a part of the body, as a regular expression
	keep    string            // the first group of want is kept as this
	before  []string          // requests that come before
	wake    string            // a write that has to wake who waits
	settle  time.Duration     // until what earlier rows began is over
	still   string            // one that mustn't, as near to it as there is
	filter  string            // an expression that keeps what has kept in it, and leaves out what has gone in it
	kept    string
	gone    string
	bad     map[string]string // query → "status text" of malformed parameters
	differs string            // what differs from Consul's answer, and why
}

func (r *row) path(route api.Route) string {
	return cmp.Or(r.ask, route.Path)
}

// TestEveryRoute asks every route of the table, and checks its answer's status, headers and body; for one that waits, that a change of what was
// asked for wakes it and that another one doesn't; for one that filters, what its filter leaves.
func TestEveryRoute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		t.Cleanup(func() { time.Sleep(time.Minute) }) // what memberlist has on its way ends
		w := newWhole(t)
		time.Sleep(time.Minute) // this node is in the catalog
		for _, line := range fixture {
			w.do(line)
		}
		w.eachRow(func(route api.Route, r *row) {
			w.answers(route, r)
			w.waits(route, r)
			w.filters(route, r)
			w.refuses(route, r)
		})
		if !w.left {
			t.Error("agent/leave has nobody leave")
		}
	})
	for name := range rows {
		if !slices.ContainsFunc(api.Routes, func(r api.Route) bool { return r.Name() == name }) {
			t.Errorf("%s is tested and isn't a route", name)
		}
	}
}

// eachRow calls f for every route with its row, once the requests that come before it are done. A route without a row fails the test.
func (w *whole) eachRow(f func(api.Route, *row)) {
	w.t.Helper()
	for _, route := range api.Routes {
		r, ok := rows[route.Name()]
		if !ok {
			w.t.Errorf("%s has no row in the table of tests", route.Name())
			continue
		}
		for _, line := range r.before {
			w.do(line)
		}
		if len(r.before) > 0 {
			time.Sleep(time.Second) // an event comes a little later
		}
		f(route, &r)
	}
}

func (w *whole) answers(route api.Route, r *row) {
	w.t.Helper()
	w.count++
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Second) // for those that stream
	defer cancel()
	got := api.Record(w.h, w.request(ctx, route.Method, w.expand(r.path(route)), strings.NewReader(w.expand(r.body))), 0)
	want := regexp.MustCompile("(?s)" + w.expand(r.want))
	found := want.FindStringSubmatch(got.Body.String())
	if got.Code != cmp.Or(r.code, http.StatusOK) || found == nil {
		w.t.Errorf("%s: %d %.600s\nwant %d with %s", route.Name(), got.Code, &got.Body, cmp.Or(r.code, http.StatusOK), want)
		return
	}
	if r.keep != "" {
		w.private[r.keep] = found[1]
	}
	kind := r.kind
	switch {
	case kind == "" && got.Code != http.StatusOK:
		kind = "text/plain; charset=utf-8"
	case kind == "" && got.Body.Len() > 0:
		kind = "application/json"
	}
	h := got.Header()
	if h.Get("Content-Type") != kind {
		w.t.Errorf("%s: Content-Type %q, want %q", route.Name(), h.Get("Content-Type"), kind)
	}
	if kind == "application/json" && got.Code == http.StatusOK && !json.Valid(got.Body.Bytes()) {
		w.t.Errorf("%s: no JSON: %.200s", route.Name(), &got.Body)
	}
	for name, value := range r.header {
		if h.Get(name) != value {
			w.t.Errorf("%s: %s %q, want %q", route.Name(), name, h.Get(name), value)
		}
	}
	if got := h.Get("X-Consul-Default-ACL-Policy"); route.Side == api.Server && got != "allow" {
		w.t.Errorf("%s: X-Consul-Default-ACL-Policy %q", route.Name(), got)
	}
	if route.Side == api.Server && route.Blocking {
		for name, value := range map[string]string{
			"X-Consul-KnownLeader": "true", "X-Consul-LastContact": "0", "X-Consul-Effective-Consistency": "leader", "X-Consul-Query-Backend": "blocking-query",
		} {
			if h.Get(name) != value {
				w.t.Errorf("%s: %s %q, want %q", route.Name(), name, h.Get(name), value)
			}
		}
	}
}

// with adds parameters to a path.
func with(path, query string) string {
	if strings.Contains(path, "?") {
		return path + "&" + query
	}
	return path + "?" + query
}

// waits checks the blocking form: what is written elsewhere wakes nobody, what is written here does.
func (w *whole) waits(route api.Route, r *row) {
	w.t.Helper()
	if !route.Blocking {
		if r.wake != "" || r.still != "" {
			w.t.Errorf("%s doesn't wait", route.Name())
		}
		return
	}
	if r.wake == "" || r.still == "" {
		w.t.Errorf("%s waits: its row needs a write that wakes it and one that doesn't", route.Name())
		return
	}
	time.Sleep(r.settle)
	path := w.expand(r.path(route))
	first := w.ask(route.Method, path, r.body)
	query := "wait=5m&index=" + first.Header().Get("X-Consul-Index")
	if hash := first.Header().Get("X-Consul-ContentHash"); hash != "" {
		query = "wait=5m&hash=" + hash
	} else if index, err := strconv.ParseUint(first.Header().Get("X-Consul-Index"), 10, 64); err != nil || index == 0 {
		w.t.Errorf("%s: X-Consul-Index %q", route.Name(), first.Header().Get("X-Consul-Index"))
		return
	}
	answer := make(chan *api.Recorder, 1)
	go func() { answer <- w.ask(route.Method, with(path, query), r.body) }()
	synctest.Wait()
	woken := func(d time.Duration) *api.Recorder {
		select {
		case got := <-answer:
			return got
		case <-time.After(d):
			return nil
		}
	}
	if got := woken(time.Second); got != nil {
		w.t.Errorf("%s: it doesn't wait: %d %.200s", route.Name(), got.Code, &got.Body)
		return
	}
	w.do(r.still)
	if got := woken(10 * time.Second); got != nil {
		w.t.Errorf("%s: woken by %s\nbefore: %.400s\nafter:  %.400s", route.Name(), r.still, &first.Body, &got.Body)
		return
	}
	w.do(r.wake)
	got := woken(10 * time.Second)
	if got == nil {
		w.t.Errorf("%s: not woken by %s", route.Name(), r.wake)
		<-answer
		return
	}
	if bytes.Equal(got.Body.Bytes(), first.Body.Bytes()) {
		w.t.Errorf("%s: the answer after %s is what it was: %d %.300s", route.Name(), r.wake, got.Code, &got.Body)
	}
}

// filters checks ?filter: what it leaves, what it can't be, and that one made to cost much is refused.
func (w *whole) filters(route api.Route, r *row) {
	w.t.Helper()
	if r.filter == "" {
		return
	}
	path := r.path(route)
	all := w.ask(route.Method, path, r.body).Body.String()
	if !strings.Contains(all, w.expand(r.kept)) || !strings.Contains(all, w.expand(r.gone)) {
		w.t.Errorf("%s: %s or %s isn't in the whole answer: %.500s", route.Name(), r.kept, r.gone, all)
	}
	filtered := func(expr string) *api.Recorder {
		return w.ask(route.Method, with(path, "filter="+urlEncoded(expr)), r.body)
	}
	if got := filtered(r.filter); got.Code != http.StatusOK || !strings.Contains(got.Body.String(), w.expand(r.kept)) || strings.Contains(got.Body.String(), w.expand(r.gone)) {
		w.t.Errorf("%s: filter %s: %d %.500s", route.Name(), r.filter, got.Code, &got.Body)
	}
	for expr, code := range map[string]int{
		r.filter + " or": 500, "NoSuchField == 1": 500, strings.Repeat("(", 60) + r.filter + strings.Repeat(")", 60): 500,
		strings.Repeat("not ", 5000) + r.filter: 400,
	} {
		if got := filtered(expr); got.Code != code || got.Body.Len() == 0 || strings.HasPrefix(got.Header().Get("Content-Type"), "application/json") {
			w.t.Errorf("%s: filter %.40s: %d %.300s, want %d", route.Name(), expr, got.Code, &got.Body, code)
		}
	}
}

func urlEncoded(s string) string {
	var out strings.Builder
	for _, c := range []byte(s) {
		fmt.Fprintf(&out, "%%%02X", c)
	}
	return out.String()
}

// refuses checks what is malformed: each gets its status and says why.
func (w *whole) refuses(route api.Route, r *row) {
	w.t.Helper()
	bad := map[string]string{
		"stale&consistent": "400 Cannot specify ?stale with ?consistent, conflicting semantics.", "cached&consistent": "400 Cannot specify ?cached with ?consistent",
		"node-meta=x": "400 Invalid node-meta", "max_stale=x": "400 Invalid max_stale", "a=%zz": "400 the query string can't be read",
		"index=x": "400 Invalid index", "index=-1": "400 Invalid index", "wait=x": "400 Invalid wait time", "wait=-1s": "400 Invalid wait time",
	}
	for query, want := range r.bad {
		bad[query] = want
	}
	for query, want := range bad {
		path, _, _ := strings.Cut(r.path(route), "?")
		got := w.ask(route.Method, path+"?"+query, r.body)
		if text := fmt.Sprint(got.Code, " ", got.Body.String()); !strings.HasPrefix(text, want) {
			w.t.Errorf("%s?%s: %.300s, want %s", route.Name(), query, text, want)
		}
	}
}

// Each path refuses other methods than its own, and says which it has; a path that isn't there is 404.
func TestMethodsAndPaths(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		t.Cleanup(func() { time.Sleep(time.Minute) })
		w := newWhole(t)
		methods := map[string][]string{}
		for _, r := range api.Routes {
			methods[r.Path] = append(methods[r.Path], r.Method)
		}
		fill := strings.NewReplacer("{name...}", "x", "{id...}", "x", "{name}", "x", "{id}", "x", "{kind}", "service-defaults", "{address}", "10.9.9.9")
		for path, has := range methods {
			for _, method := range []string{"GET", "PUT", "POST", "DELETE", "PATCH", "OPTIONS", "TRACE", "ODD"} {
				if slices.Contains(has, method) {
					continue
				}
				got := w.ask(method, fill.Replace(path), "")
				code, text := http.StatusMethodNotAllowed, "method "+method+" not allowed\n"
				if method == http.MethodOptions {
					code, text = http.StatusOK, ""
				}
				allow := strings.Split(got.Header().Get("Allow"), ",")
				slices.Sort(allow)
				want := append([]string{http.MethodOptions}, has...)
				slices.Sort(want)
				if got.Code != code || got.Body.String() != text || !slices.Equal(allow, want) {
					t.Errorf("%s %s: %d %q, Allow %v, want %v", method, path, got.Code, &got.Body, allow, want)
				}
			}
		}
		for _, path := range []string{"/", "/v1", "/v1/none", "/v1/agent/none", "/v1/acl/none/x", "/v2/kv/a", "/kv/a", "/v1/partitions", "/v1/operator/license"} {
			if got := w.ask("GET", path, ""); got.Code != http.StatusNotFound || !strings.HasPrefix(got.Body.String(), "Invalid URL path: not a recognized HTTP API endpoint") {
				t.Errorf("%s: %d %s", path, got.Code, &got.Body)
			}
		}
	})
}

// endless is a body that is as long as it may be and longer, and counts what is read of it.
type endless struct{ left int }

func (e *endless) Read(p []byte) (int, error) {
	if e.left <= 0 {
		return 0, io.EOF
	}
	n := min(len(p), e.left)
	for b := p[:n]; len(b) > 0; { // by the piece: the race detector looks at each byte that is set alone
		b = b[copy(b, "                                                                "):]
	}
	e.left -= n
	return n, nil
}

// A body that is too long is refused, whether its length is declared or comes out as it is read.
func TestBodiesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		t.Cleanup(func() { time.Sleep(time.Minute) })
		w := newWhole(t)
		const long = api.DefaultMaxBody + 1
		for _, route := range api.Routes {
			r := rows[route.Name()]
			if r.body == "" || route.Name() == "PUT /v1/snapshot" { // an archive may be as long as it is: it goes to the disk
				continue
			}
			for _, declared := range []int64{long, -1} {
				body := &endless{left: long}
				path := strings.NewReplacer("{name...}", "x", "{id...}", "x", "{name}", "x", "{id}", "x").Replace(r.path(route))
				req := w.request(t.Context(), route.Method, path, body)
				req.ContentLength = declared
				got := api.Record(w.h, req, 0)
				want := http.StatusRequestEntityTooLarge
				if declared < 0 && route.Name() == "PUT /v1/event/fire/{name}" {
					want = http.StatusBadRequest // far less fits in a packet
				}
				if got.Code != want && got.Code != http.StatusNotFound {
					t.Errorf("%s, %d declared: %d %.200s, %d bytes weren't read", route.Name(), declared, got.Code, &got.Body, body.left)
				}
			}
		}
	})
}

// A path is decoded once: what was encoded twice is still encoded then, and so is another name. Names hold any byte that can be printed.
func TestNamesInPaths(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		t.Cleanup(func() { time.Sleep(time.Minute) })
		w := newWhole(t)
		for b := range 256 {
			key := fmt.Sprintf("odd/%%%02X/end", b)
			put := w.ask("PUT", "/v1/kv/"+key, strconv.Itoa(b))
			if b < 0x20 || b == 0x7f {
				if put.Code != http.StatusBadRequest || put.Body.Len() == 0 {
					t.Errorf("byte %d: %d %s", b, put.Code, &put.Body)
				}
				continue
			}
			if got := w.ask("GET", "/v1/kv/"+key+"?raw", ""); put.Code != http.StatusOK || got.Body.String() != strconv.Itoa(b) {
				t.Errorf("byte %d: %d %s, then %d %s", b, put.Code, &put.Body, got.Code, &got.Body)
			}
		}
		for _, path := range []string{"/v1/kv/a%252Fb", "/v1/kv/a//b", "/v1/kv/a/../b", "/v1/kv//a", "/v1/kv/%2541", "/v1/kv/a%00", "/v1/kv/ü"} {
			before := w.ask("GET", path, "").Code
			if got := w.ask("PUT", path, "x"); got.Code == http.StatusOK && before != http.StatusNotFound {
				t.Errorf("%s: another key's value was found there", path)
			}
		}
		w.do(`PUT /v1/agent/service/register {"ID":"a/b","Name":"slashed"}`)
		w.do(`PUT /v1/agent/service/register {"ID":"a%2Fb","Name":"encoded"}`)
		w.do(`PUT /v1/config {"Kind":"service-defaults","Name":"a/b","Meta":{"as":"slashed"}}`)
		w.do(`PUT /v1/config {"Kind":"service-defaults","Name":"a%2Fb","Meta":{"as":"encoded"}}`)
		w.do(`PUT /v1/catalog/register {"Node":"a/b","Address":"1.1.1.1","NodeMeta":{"as":"slashed"}}`)
		w.do(`PUT /v1/catalog/register {"Node":"a%2Fb","Address":"1.1.1.1","NodeMeta":{"as":"encoded"}}`)
		for _, path := range []string{"/v1/agent/service/", "/v1/config/service-defaults/", "/v1/catalog/node/", "/v1/internal/ui/node/"} {
			for name, want := range map[string]string{"a/b": "slashed", "a%2Fb": "slashed", "a%252Fb": "encoded"} {
				if got := w.ask("GET", path+name, ""); got.Code != http.StatusOK || !strings.Contains(got.Body.String(), want) {
					t.Errorf("%s%s: %d %.300s, want the %s one", path, name, got.Code, &got.Body, want)
				}
			}
		}
	})
}

// testNames are the names of all tests of the module.
func testNames(t *testing.T) (names []string) {
	t.Helper()
	found := regexp.MustCompile(`(?m)^func (Test\w+)\(`)
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && strings.HasPrefix(d.Name(), ".") && path != "..":
			return fs.SkipDir
		case d.IsDir() || !strings.HasSuffix(path, "_test.go"):
			return nil
		}
		text, err := os.ReadFile(path)
		for _, m := range found.FindAllSubmatch(text, -1) {
			names = append(names, string(m[1]))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// The table of routes in the page about the API is the one that is routed and tested by. WEFT_WRITE=1 writes it.
func TestRoutesPage(t *testing.T) {
	const page, begin, end = "../website/docs/http-api.md", "<!-- routes: written by TestRoutesPage -->\n", "<!-- end of routes -->\n"
	data, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, ok := strings.Cut(string(data), begin)
	old, tail, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatal("the page has no place for the table")
	}
	tests := testNames(t)
	var table strings.Builder
	table.WriteString("| | route | tier | needs | asserted | what differs, and why |\n| --- | --- | --- | --- | --- | --- |\n")
	for _, route := range api.Routes {
		r, ok := rows[route.Name()]
		if !ok {
			t.Errorf("%s has no row in the table of tests", route.Name())
		}
		asserted := "answer"
		if r.code != 0 {
			if !slices.Contains(tests, r.also) {
				t.Errorf("%s: %q isn't a test: which one asserts the answer of a request that is granted?", route.Name(), r.also)
			}
			asserted = "refusal, answer (`" + r.also + "`)"
		}
		if r.wake != "" {
			asserted += ", wake"
		}
		if r.filter != "" {
			asserted += ", filter"
		}
		tier := "own"
		if r.tier > 0 {
			tier = strconv.Itoa(r.tier)
		}
		fmt.Fprintf(&table, "| %s | `%s` | %s | %s | %s | %s |\n", route.Method, route.Path, tier, route.Need, asserted, r.differs)
	}
	if table.String() == old {
		return
	}
	if os.Getenv("WEFT_WRITE") == "" {
		t.Errorf("the table in %s isn't the one of the routes: run WEFT_WRITE=1 go test ./agent -run TestRoutesPage", page)
		return
	}
	if err := errors.Join(os.WriteFile(page, []byte(head+begin+table.String()+end+tail), 0o600), os.Chmod(page, 0o644)); err != nil {
		t.Error(err)
	}
}
