// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/weftmesh/weft/connect/proxy/config"
	"github.com/weftmesh/weft/connect/proxy/reason"
	"github.com/weftmesh/weft/internal/stormtest"
)

// authorizer is asked by gRPC or by HTTP, and decides by the request's header x-do.
type authorizer struct {
	authv3.UnimplementedAuthorizationServer
	asked atomic.Int64
	mu    sync.Mutex // guards last
	last  *authv3.CheckRequest
}

func (a *authorizer) request() *authv3.AttributeContext {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.last.GetAttributes()
}

func header1(name, value string, add bool) *corev3.HeaderValueOption {
	return &corev3.HeaderValueOption{Header: &corev3.HeaderValue{Key: name, Value: value}, Append: wrapperspb.Bool(add)}
}

func (a *authorizer) Check(ctx context.Context, req *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	a.asked.Add(1)
	a.mu.Lock()
	a.last = req
	a.mu.Unlock()
	switch req.GetAttributes().GetRequest().GetHttp().GetHeaders()["x-do"] {
	case "allow":
		return &authv3.CheckResponse{Status: &rpcstatus.Status{}, HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{
			Headers: []*corev3.HeaderValueOption{header1("x-user", "anna", false), header1("x-do", "twice", true), header1(":path", "/admin", false),
				header1("host", "evil", false), header1("content-length", "9", false), header1("x-bad", "a\r\nb", false)},
			HeadersToRemove:         []string{"x-secret", "host", ":path"},
			ResponseHeadersToAdd:    []*corev3.HeaderValueOption{header1("x-decided", "yes", false)},
			QueryParametersToSet:    []*corev3.QueryParameter{{Key: "who", Value: "anna"}},
			QueryParametersToRemove: []string{"key"},
		}}}, nil
	case "fail":
		return nil, fmt.Errorf("no")
	case "hang":
		<-ctx.Done()
		return nil, ctx.Err()
	case "bare":
		return &authv3.CheckResponse{Status: &rpcstatus.Status{Code: int32(codes.PermissionDenied)}}, nil
	}
	return &authv3.CheckResponse{Status: &rpcstatus.Status{Code: int32(codes.Unauthenticated)}, HttpResponse: &authv3.CheckResponse_DeniedResponse{DeniedResponse: &authv3.DeniedHttpResponse{
		Status:  &typev3.HttpStatus{Code: typev3.StatusCode_Unauthorized},
		Headers: []*corev3.HeaderValueOption{header1("www-authenticate", "Basic", false), header1("transfer-encoding", "chunked", false), header1("x-weft-reason", "mine", false)},
		Body:    "who are you?",
	}}}, nil
}

func (a *authorizer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.asked.Add(1)
	switch r.Header.Get("X-Do") {
	case "allow":
		w.Header().Set("X-User", "anna")
		w.Header().Set("X-Other", "no")
		return
	case "fail":
		w.WriteHeader(500)
		return
	case "hang":
		<-r.Context().Done()
		return
	}
	body, _ := io.ReadAll(r.Body)
	w.Header().Set("Www-Authenticate", "Basic")
	w.WriteHeader(401)
	_, _ = fmt.Fprintf(w, "%s %s %s %s %s", r.Method, r.URL.Path, r.Host, r.Header.Get("X-Tenant"), body)
}

func (a *authorizer) serve(t *testing.T) (grpcAt, httpAt string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	authv3.RegisterAuthorizationServer(s, a)
	var done sync.WaitGroup
	done.Go(func() { _ = s.Serve(ln) })
	t.Cleanup(func() {
		s.Stop()
		done.Wait()
	})
	return ln.Addr().String(), upstream(t, a)
}

func everyString() []config.StringMatch { return []config.StringMatch{{Kind: config.MatchAny}} }

// asking is a rig whose requests are decided about.
func asking(t *testing.T, byGRPC bool, change func(*config.Snapshot, *config.Ask), h http.Handler) (*rig, *authorizer) {
	a := &authorizer{}
	grpcAt, httpAt := a.serve(t)
	r := newRig(t, func(s *config.Snapshot) {
		ask := &config.Ask{Cluster: "authz", Authority: "authz", GRPC: byGRPC, Timeout: 20 * time.Second, Status: 403, Send: everyString(), Deny: everyString(),
			Pass: []config.StringMatch{{Kind: config.MatchExact, Text: "x-user", CaseFold: true}}, Add: []config.HeaderValue{{Name: "x-tenant", Value: "t"}}}
		c := &config.Cluster{Name: "authz", ConnectTimeout: time.Second, Codec: config.HTTP2, Endpoints: []*config.Endpoint{{Network: "tcp", Address: grpcAt, Healthy: true, Weight: 1}}}
		if !byGRPC {
			c.Codec, c.Endpoints[0].Address, ask.PathPrefix = config.HTTP1, httpAt, "/check"
		}
		s.Clusters["authz"] = c
		s.Listeners["l"].Direction = config.Inbound
		s.Listeners["l"].HTTP.Ask = ask
		s.Listeners["l"].HTTP.Websocket = true
		s.Clusters["api"].Local = true
		if change != nil {
			change(s, ask)
		}
	}, upstream(t, h))
	return r, a
}

func do(t *testing.T, c *http.Client, method, url, body string, headers ...string) (*http.Response, string) {
	t.Helper()
	var rd io.Reader
	if body != "" {
		rd = strings.NewReader(body)
	}
	req, err := http.NewRequestWithContext(t.Context(), method, url, rd)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(body0(t, resp))
}

func body0(t *testing.T, resp *http.Response) []byte {
	t.Helper()
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// mirrorOf answers with what the application got.
var mirrorOf = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	data, _ := io.ReadAll(r.Body)
	_, _ = fmt.Fprintf(w, "%s %s|%s|%s|%s|%s|%d", r.Method, r.URL.RequestURI(), r.Host, r.Header.Get("X-User"), strings.Join(r.Header.Values("X-Do"), "+"), r.Header.Get("X-Secret"), len(data))
})

func TestAnotherProgramDecides(t *testing.T) {
	for _, down := range []int{1, 2} {
		for _, byGRPC := range []bool{true, false} {
			t.Run(fmt.Sprintf("h%d grpc %t", down, byGRPC), func(t *testing.T) {
				r, a := asking(t, byGRPC, nil, mirrorOf)
				c := client(t, down)
				resp, got := do(t, c, "GET", r.url("/a?key=1&x=2"), "", "x-do", "allow", "x-secret", "s", "x-user", "root")
				want := "GET /a?x=2&who=anna|" + r.addr + "|anna|allow+twice||0"
				if !byGRPC {
					want = "GET /a?key=1&x=2|" + r.addr + "|anna|allow|s|0"
				}
				if resp.StatusCode != 200 || got != want || byGRPC != (resp.Header.Get("X-Decided") == "yes") {
					t.Errorf("allowed: %d %q %v, want %q", resp.StatusCode, got, resp.Header, want)
				}
				resp, got = do(t, c, "GET", r.url("/b"), "")
				want = "who are you?"
				if !byGRPC {
					want = "GET /check/b " + r.addr + " t "
				}
				if resp.StatusCode != 401 || got != want || resp.Header.Get("Www-Authenticate") != "Basic" || resp.Header.Get(reason.Header) != "ext_authz_denied" {
					t.Errorf("refused: %d %q %v, want %q", resp.StatusCode, got, resp.Header, want)
				}
				resp, got = do(t, c, "GET", r.url("/"), "", "x-do", "fail")
				if resp.StatusCode != 403 || resp.Header.Get(reason.Header) != "ext_authz_error" {
					t.Errorf("failed: %d %q %v", resp.StatusCode, got, resp.Header)
				}
				if n := a.asked.Load(); n != 3 {
					t.Errorf("asked %d times about 3 requests", n)
				}
			})
		}
	}
}

// What the program would say of a request in a field, nobody else says there: neither where its answer lacks the field, nor where it isn't
// asked, nor where nobody answers and the request passes.
func TestC32_FieldsThatAnAnswerLacks(t *testing.T) {
	for name, change := range map[string]func(*config.Snapshot, *config.Ask){
		"the answer lacks it": func(_ *config.Snapshot, a *config.Ask) {
			a.Pass = append(a.Pass, config.StringMatch{Kind: config.MatchPrefix, Text: "x-s", CaseFold: true})
		},
		"it isn't asked": func(_ *config.Snapshot, a *config.Ask) {
			a.Pass = []config.StringMatch{{Kind: config.MatchAny}}
			a.Only = &config.Policies{Allow: true}
		},
		"nobody decides": func(s *config.Snapshot, a *config.Ask) {
			a.Pass, a.Open = []config.StringMatch{{Kind: config.MatchPrefix, Text: "x-", CaseFold: true}}, true
			s.Clusters["authz"].Endpoints = nil
		},
	} {
		r, _ := asking(t, false, change, mirrorOf)
		resp, got := do(t, client(t, 1), "GET", r.url("/"), "", "x-do", "allow", "x-secret", "forged", "authorization", "mine")
		if parts := strings.Split(got, "|"); resp.StatusCode != 200 || len(parts) != 6 || parts[4] != "" {
			t.Errorf("%s: %s %q: the caller's field is there", name, resp.Status, got)
		}
	}
	// The control: a field that the program has no word about.
	r, _ := asking(t, false, nil, mirrorOf)
	if resp, got := do(t, client(t, 1), "GET", r.url("/"), "", "x-do", "allow", "x-secret", "s"); resp.StatusCode != 200 || strings.Split(got, "|")[4] != "s" {
		t.Errorf("the control: %s %q", resp.Status, got)
	}
}

func TestWhatAProgramIsTold(t *testing.T) {
	r, a := asking(t, true, func(_ *config.Snapshot, ask *config.Ask) {
		ask.MaxBody, ask.Hide = 8, []config.StringMatch{{Kind: config.MatchExact, Text: "cookie", CaseFold: true}}
	}, mirrorOf)
	r.peer.Store(&config.Peer{URI: "spiffe://td/ns/default/dc/dc1/svc/web"})
	resp, got := do(t, client(t, 1), "POST", r.url("/p?q=1"), "12345678", "x-do", "allow", "cookie", "c", "X-One", "1")
	if resp.StatusCode != 200 || !strings.HasSuffix(got, "|8") {
		t.Fatal(resp.Status, got)
	}
	at := a.request()
	h := at.GetRequest().GetHttp()
	_, cookie := h.GetHeaders()["cookie"]
	if h.GetMethod() != "POST" || h.GetPath() != "/p?q=1" || h.GetHost() != r.addr || h.GetScheme() != "http" || h.GetSize() != 8 || h.GetProtocol() != "HTTP/1.1" ||
		string(h.GetRawBody()) != "12345678" || h.GetHeaders()["x-one"] != "1" || h.GetHeaders()[":method"] != "POST" || h.GetHeaders()[partialBody] != "false" || cookie ||
		at.GetSource().GetPrincipal() != "spiffe://td/ns/default/dc/dc1/svc/web" || at.GetRequest().GetTime().GetSeconds() == 0 {
		t.Errorf("%v", at)
	}
}

// The body is told up to its bound, and the application gets all of it; a larger one is refused, or cut off for the program alone.
func TestBodiesThatAreDecidedAbout(t *testing.T) {
	for _, down := range []int{1, 2} {
		for _, partial := range []bool{false, true} {
			r, a := asking(t, true, func(_ *config.Snapshot, ask *config.Ask) { ask.MaxBody, ask.Partial = 1000, partial }, mirrorOf)
			c := client(t, down)
			for _, size := range []int{0, 1, 999, 1000, 1001, 1511, 5000, 300_000} {
				for _, known := range []bool{true, false} {
					text := strings.Repeat("x", size)
					var rd io.Reader = strings.NewReader(text)
					if !known {
						rd = io.MultiReader(rd)
					}
					req, err := http.NewRequestWithContext(t.Context(), "POST", r.url("/"), rd)
					if err != nil {
						t.Fatal(err)
					}
					req.Header.Set("X-Do", "allow")
					before := a.asked.Load()
					resp, err := c.Do(req)
					if err != nil {
						if size > 1000 && !partial { // it was answered while the body was on its way
							continue
						}
						t.Fatal(down, partial, size, known, err)
					}
					got := string(body0(t, resp))
					if size > 1000 && !partial {
						if resp.StatusCode != 413 || resp.Header.Get(reason.Header) != "ext_authz_body" || a.asked.Load() != before {
							t.Errorf("h%d %d known %t: %s %v", down, size, known, resp.Status, resp.Header)
						}
						continue
					}
					h := a.request().GetRequest().GetHttp()
					if resp.StatusCode != 200 || !strings.HasSuffix(got, fmt.Sprintf("|%d", size)) || len(h.GetRawBody()) != min(size, 1000) {
						t.Errorf("h%d partial %t %d known %t: %s %q, told %d", down, partial, size, known, resp.Status, got, len(h.GetRawBody()))
					}
					if want := fmt.Sprint(size > 1000); h.GetHeaders()[partialBody] != want {
						t.Errorf("h%d %d known %t: partial is %q, want %s", down, size, known, h.GetHeaders()[partialBody], want)
					}
				}
			}
		}
	}
}

func TestNobodyDecides(t *testing.T) {
	for name, change := range map[string]func(*config.Snapshot, *config.Ask){
		"down":       func(s *config.Snapshot, _ *config.Ask) { s.Clusters["authz"].Endpoints[0].Address = "127.0.0.1:1" },
		"nobody":     func(s *config.Snapshot, _ *config.Ask) { s.Clusters["authz"].Endpoints = nil },
		"no cluster": func(s *config.Snapshot, _ *config.Ask) { delete(s.Clusters, "authz") },
		"no grpc": func(s *config.Snapshot, _ *config.Ask) {
			s.Clusters["authz"].Endpoints[0].Address = s.Clusters["api"].Endpoints[0].Address
		},
		"slow": func(_ *config.Snapshot, a *config.Ask) { a.Timeout = 50 * time.Millisecond },
	} {
		for _, open := range []bool{false, true} {
			r, _ := asking(t, true, func(s *config.Snapshot, a *config.Ask) {
				change(s, a)
				a.Open, a.Status = open, 503
			}, mirrorOf)
			resp, got := do(t, client(t, 1), "GET", r.url("/"), "", "x-do", "hang")
			want, why := 503, "ext_authz_error"
			if open {
				want, why = 200, ""
			}
			if resp.StatusCode != want || resp.Header.Get(reason.Header) != why {
				t.Errorf("%s, open %t: %s %q %q", name, open, resp.Status, resp.Header.Get(reason.Header), got)
			}
		}
	}
}

// A program is asked about some requests only, by the form that routes and intentions see.
func TestOnlySomeRequestsAreDecidedAbout(t *testing.T) {
	path := func(prefix string) config.Rule {
		return config.Rule{Kind: config.PathIs, String: config.StringMatch{Kind: config.MatchPrefix, Text: prefix}}
	}
	r, a := asking(t, true, func(_ *config.Snapshot, ask *config.Ask) {
		ask.Only = &config.Policies{Allow: true, Policies: []config.Policy{{Permission: path("/admin"), Principal: config.Rule{Kind: config.Any}}}}
	}, mirrorOf)
	c := client(t, 1)
	for path, want := range map[string]int{"/open": 200, "/admin": 401, "/x/..//admin": 401, "/%61dmin": 401, "//admin/x": 401} {
		if resp, got := do(t, c, "GET", r.url(path), ""); resp.StatusCode != want {
			t.Errorf("%s: %s %q, want %d", path, resp.Status, got, want)
		}
	}
	if n := a.asked.Load(); n != 4 {
		t.Errorf("asked %d times, want 4", n)
	}
}

// Nothing gets around the question: an upgrade, further requests of a connection, a body that isn't read, gRPC; tries count once.
func TestNothingGetsAroundTheQuestion(t *testing.T) {
	var calls atomic.Int64
	r, a := asking(t, true, func(s *config.Snapshot, _ *config.Ask) {
		routeOf(s).Forward.Retry = &config.Retry{Attempts: 2, On5xx: true, BackOff: time.Millisecond}
	}, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		calls.Add(1)
		w.WriteHeader(503)
	}))
	conn, err := net.Dial("tcp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	in := bufio.NewReader(conn)
	for i, text := range []string{
		"GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: a\r\nSec-WebSocket-Version: 13\r\n\r\n",
		"POST /post HTTP/1.1\r\nHost: x\r\nContent-Length: 52\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: x\r\nX-Do: allow\r\n\r\n-----",
		"GET /again HTTP/1.1\r\nHost: x\r\n\r\n",
	} {
		_, _ = io.WriteString(conn, text)
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			break // a body that nobody read ends the connection
		}
		if _ = body0(t, resp); resp.StatusCode != 401 {
			t.Errorf("%d: %s", i, resp.Status)
		}
	}
	if calls.Load() != 0 {
		t.Fatalf("the application got %d requests", calls.Load())
	}
	if resp, _ := do(t, client(t, 2), "POST", r.url("/x.Y/Z"), "abc", "content-type", "application/grpc"); resp.Header.Get("Grpc-Status") != "16" || resp.Header.Get("Grpc-Message") != "who are you?" {
		t.Errorf("gRPC: %s %v", resp.Status, resp.Header)
	}
	asked := a.asked.Load()
	if resp, _ := do(t, client(t, 1), "GET", r.url("/"), "", "x-do", "allow"); resp.StatusCode != 503 || calls.Load() != 3 || a.asked.Load() != asked+1 {
		t.Errorf("%s after %d tries, asked %d times", resp.Status, calls.Load(), a.asked.Load()-asked)
	}
	if resp, _ := do(t, client(t, 1), "GET", r.url("/"), "", "x-do", "bare"); resp.StatusCode != 403 {
		t.Errorf("a refusal without words: %s", resp.Status)
	}
}

// A client that goes away while it is decided about ends the question.
func TestAClientLeavesWhileItIsDecidedAbout(t *testing.T) {
	r, a := asking(t, true, nil, mirrorOf)
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, "GET", r.url("/"), nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Do", "hang")
	ended := make(chan error, 1)
	go func() {
		_, err := client(t, 2).Do(req)
		ended <- err
	}()
	for a.asked.Load() == 0 {
		if t.Context().Err() != nil {
			t.Fatal("it wasn't asked")
		}
	}
	cancel()
	if err := <-ended; err == nil {
		t.Error("it was answered")
	}
}

func FuzzParseCheck(f *testing.F) {
	f.Add([]byte{0x0a, 2, 8, 7, 0x12, 4, 0x0a, 2, 8, 1})
	f.Add([]byte{0x1a, 6, 0x12, 4, 0x0a, 2, 0x0a, 0})
	stormtest.Fuzz(f, func(_ *testing.T, data []byte) {
		if d, err := parseCheck(data); err == nil && d == nil {
			panic("no decision and no error")
		}
	})
}

// A body that stops coming while it is to be decided about is given up as any other, and doesn't hold its memory.
func TestABodyThatStopsBeforeTheQuestion(t *testing.T) {
	r, a := asking(t, true, func(s *config.Snapshot, ask *config.Ask) {
		ask.MaxBody = 1000
		s.Listeners["l"].HTTP.StreamIdle = 100 * time.Millisecond
	}, mirrorOf)
	conn, err := net.Dial("tcp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, "POST / HTTP/1.1\r\nHost: x\r\nX-Do: allow\r\nContent-Length: 100\r\n\r\nhalf")
	_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || resp.StatusCode != 408 || resp.Header.Get(reason.Header) != "stream_idle_timeout" {
		t.Error(resp, err)
	}
	stalled, end := io.Pipe()
	defer end.Close()
	req, err := http.NewRequestWithContext(t.Context(), "POST", r.url("/"), stalled)
	if err != nil {
		t.Fatal(err)
	}
	if resp, err := client(t, 2).Do(req); err == nil {
		_ = resp.Body.Close()
		if resp.StatusCode != 408 {
			t.Error(resp.Status)
		}
	}
	if a.asked.Load() != 0 {
		t.Error("it was asked about a body that isn't there")
	}
}
