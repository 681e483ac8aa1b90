// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// decider is a program that decides about requests, by gRPC and by HTTP: who brings "x-key: k" may.
type decider struct {
	authv3.UnimplementedAuthorizationServer
	grpc, http int // ports
	asked      atomic.Int64
	caller     atomic.Value // string: who called, by the last question
	body       atomic.Value // string
	stop       func()
}

func newDecider(t *testing.T) *decider {
	t.Helper()
	d := &decider{}
	listen := func() net.Listener {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return ln
	}
	g, h := listen(), listen()
	d.grpc, d.http = g.Addr().(*net.TCPAddr).Port, h.Addr().(*net.TCPAddr).Port
	server, web := grpc.NewServer(), &http.Server{Handler: d}
	authv3.RegisterAuthorizationServer(server, d)
	go func() { _ = server.Serve(g) }() // ends with Stop
	go func() { _ = web.Serve(h) }()    // ends with Close
	d.stop = func() {
		server.Stop()
		_ = web.Close()
	}
	t.Cleanup(d.stop)
	return d
}

func set(name, value string) *corev3.HeaderValueOption {
	return &corev3.HeaderValueOption{Header: &corev3.HeaderValue{Key: name, Value: value}, Append: wrapperspb.Bool(false)}
}

// Check is asked by gRPC.
func (d *decider) Check(_ context.Context, req *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	d.asked.Add(1)
	at := req.GetAttributes()
	h := at.GetRequest().GetHttp()
	d.caller.Store(at.GetSource().GetPrincipal())
	d.body.Store(h.GetBody() + string(h.GetRawBody()))
	switch h.GetHeaders()["x-key"] {
	case "k":
		return &authv3.CheckResponse{Status: &rpcstatus.Status{}, HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{
			Headers: []*corev3.HeaderValueOption{set("x-user", "anna"), set(":path", "/elsewhere"), set("host", "elsewhere")}, HeadersToRemove: []string{"x-key"},
			ResponseHeadersToAdd: []*corev3.HeaderValueOption{set("x-decided", "yes")},
		}}}, nil
	case "broken":
		return nil, fmt.Errorf("it is broken")
	}
	return &authv3.CheckResponse{Status: &rpcstatus.Status{Code: 16}, HttpResponse: &authv3.CheckResponse_DeniedResponse{DeniedResponse: &authv3.DeniedHttpResponse{
		Status: &typev3.HttpStatus{Code: typev3.StatusCode_Unauthorized}, Headers: []*corev3.HeaderValueOption{set("www-authenticate", "Key")}, Body: "no key",
	}}}, nil
}

// ServeHTTP is asked by HTTP.
func (d *decider) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	d.asked.Add(1)
	d.caller.Store(r.Header.Get("X-Forwarded-Client-Cert"))
	body, _ := io.ReadAll(r.Body)
	d.body.Store(string(body))
	switch r.Header.Get("X-Key") {
	case "k":
		w.Header().Set("X-User", "anna")
		w.Header().Set("X-Secret", "s")
		return
	case "broken":
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	w.Header().Set("Www-Authenticate", "Key")
	w.Header().Set("X-Secret", "s")
	w.WriteHeader(http.StatusUnauthorized)
	_, _ = fmt.Fprintf(w, "no key for %s %s at %s, %s", r.Method, r.URL.Path, r.Host, r.Header.Get("X-Tenant"))
}

// decides writes who decides about api's requests.
func (l *Lab) decides(fields object) {
	l.t.Helper()
	l.t.Cleanup(func() {
		l.put("/v1/config", object{"Kind": "service-defaults", "Name": l.name("api"), "Protocol": "http"})
	})
	l.put("/v1/config", object{"Kind": "service-defaults", "Name": l.name("api"), "Protocol": "http", "ExternalAuthorization": fields})
}

// refusedBy wants an answer of who decides.
func refusedBy(body string) func(got) error {
	return func(g got) error {
		if g.Header.Get("Www-Authenticate") != "Key" {
			return fmt.Errorf("%v has nothing of the answer's headers", g.Header)
		}
		return refusedBare(body)(g)
	}
}

// refusedBare is refusedBy for an Envoy that keeps the headers of who decides from the caller: 1.37.0 does, over HTTP.
func refusedBare(body string) func(got) error {
	return func(g got) error {
		if g.Status != http.StatusUnauthorized || g.Body != body {
			return fmt.Errorf("%d %q, want 401 %q", g.Status, g.Body, body)
		}
		return because("ext_authz_denied")(g)
	}
}

func passed(g got) error {
	if g.Status != 200 || g.Seen.Header.Get("X-User") != "anna" || g.Seen.URI != "/x" || g.Seen.Host != "api.shop" {
		return fmt.Errorf("%d, the application got %q %q for %q", g.Status, g.Seen.URI, g.Seen.Header, g.Seen.Host)
	}
	return nil
}

// protectByProgram: another program is asked by gRPC about some requests, and all of what it says is done; without it nobody passes, or
// everybody.
func protectByProgram(t *testing.T, w *World) {
	l := w.traffic(t)
	d := newDecider(t)
	at := fmt.Sprintf("127.0.0.1:%d", d.grpc)
	l.decides(object{"Address": at, "MaxBodyBytes": 100, "Timeout": "5s", "Except": []object{{"PathPrefix": "/open"}, {"Methods": []string{"PUT"}, "Header": []object{{"Name": "x-pass", "Exact": "1"}}}}})
	l.everywhere("/x", refusedBy("no key"))
	l.is(passed, "GET", "/x", "x-key: k", "x-user: root")
	l.is(func(g got) error {
		if g.Header.Get("X-Decided") != "yes" || g.Seen.Header.Get("X-Key") != "" {
			return fmt.Errorf("%d %v, the application got %v", g.Status, g.Header, g.Seen.Header)
		}
		return nil
	}, "GET", "/x", "x-key: k")
	if who, _ := d.caller.Load().(string); !strings.HasSuffix(who, "/svc/"+l.name("web")) {
		t.Errorf("it was told that %q calls", who)
	}
	l.is(refusedBy("no key"), "GET", "/open/../x")
	l.is(refusedBy("no key"), "GET", "//x")
	asked := d.asked.Load()
	l.is(statusIs(200), "GET", "/open")
	l.is(statusIs(200), "PUT", "/x", "x-pass: 1")
	if n := d.asked.Load() - asked; n != 0 {
		t.Errorf("it was asked %d times about what it isn't to decide", n)
	}
	l.is(refusedBy("no key"), "POST", "/x", "x-pass: 1")
	if g, err := callAt(l.api, "POST", "/x", "hello", "x-key: k"); err != nil || g.Seen.Body != "hello" || d.body.Load() != "hello" {
		t.Errorf("%d %+v %v, it was told %q", g.Status, g.Seen, err, d.body.Load())
	}
	if g, err := callAt(l.api, "POST", "/x", strings.Repeat("x", 101), "x-key: k"); err != nil || g.Status != http.StatusRequestEntityTooLarge || g.Header.Get("X-Weft-Reason") != "ext_authz_body" {
		t.Errorf("too large a body: %d %v %v", g.Status, g.Header, err)
	}
	l.is(because("ext_authz_error"), "GET", "/x", "x-key: broken")
	// What intentions refuse isn't asked about.
	l.rules(object{"Sources": []object{{"Name": l.name("web"), "Permissions": []object{{"Action": "deny", "HTTP": object{"PathPrefix": "/no"}}, {"Action": "allow", "HTTP": object{"PathPrefix": "/"}}}}}})
	l.everywhere("/no", because("rbac_denied"))
	asked = d.asked.Load()
	l.is(because("rbac_denied"), "GET", "/no", "x-key: k")
	if d.asked.Load() != asked {
		t.Error("it was asked about what the intentions refuse")
	}
	d.stop()
	l.is(because("ext_authz_error"), "GET", "/x", "x-key: k")
	l.is(statusIs(403), "GET", "/x", "x-key: k")
	l.decides(object{"Address": at, "StatusOnError": 503})
	l.everywhere("/x", statusIs(503), "x-key: k")
	l.decides(object{"Address": at, "FailOpen": true})
	l.everywhere("/x", statusIs(200))
}

// protectByProgramHTTP: the same by HTTP, as Consul's extension says it, and in weft's own words.
func protectByProgramHTTP(t *testing.T, w *World) {
	l, refused := w.traffic(t), refusedBy
	if w.Kind == Envoy {
		if version, err := exec.Command(envoy(), "--version").Output(); err != nil || strings.Contains(string(version), "/1.37.0/") {
			refused = refusedBare
		}
	}
	d := newDecider(t)
	at := fmt.Sprintf("127.0.0.1:%d", d.http)
	l.t.Cleanup(func() {
		l.put("/v1/config", object{"Kind": "service-defaults", "Name": l.name("api"), "Protocol": "http"})
	})
	l.put("/v1/config", object{"Kind": "service-defaults", "Name": l.name("api"), "Protocol": "http", "EnvoyExtensions": []object{{"Name": "builtin/ext-authz", "Arguments": object{
		"ProxyType": "connect-proxy", "Config": object{"HttpService": object{
			"Target": object{"URI": at, "Timeout": "5s"}, "PathPrefix": "/check",
			"AuthorizationRequest":  object{"AllowedHeaders": []object{{"Exact": "x-key"}}, "HeadersToAdd": []object{{"Key": "x-tenant", "Value": "t"}}},
			"AuthorizationResponse": object{"AllowedUpstreamHeaders": []object{{"Prefix": "x-u"}}, "AllowedClientHeaders": []object{{"Exact": "www-authenticate"}}},
		}},
	}}}})
	l.everywhere("/x", refused("no key for GET /check/x at api.shop, t"))
	l.is(passed, "GET", "/x", "x-key: k", "x-user: root")
	l.is(because("ext_authz_error"), "GET", "/x", "x-key: broken")
	if who, _ := d.caller.Load().(string); who != "" {
		t.Errorf("it was told %q, which isn't among AllowedHeaders", who)
	}
	l.decides(object{"Address": at, "Protocol": "http", "Timeout": "5s", "MaxBodyBytes": 4, "PartialBody": true, "Requests": []object{{"PathPrefix": "/x"}}, "PassHeaders": []string{"x-user"}})
	l.everywhere("/x", refused("no key for GET /x at api.shop, "))
	l.is(statusIs(200), "GET", "/y")
	l.is(passed, "GET", "/x", "x-key: k")
	if who, _ := d.caller.Load().(string); !strings.Contains(who, "/svc/"+l.name("web")) {
		t.Errorf("it was told that %q calls", who)
	}
	if g, err := callAt(l.api, "POST", "/x", "hello", "x-key: k"); err != nil || g.Seen.Body != "hello" || d.body.Load() != "hell" {
		t.Errorf("%d %+v %v, it was told %q", g.Status, g.Seen, err, d.body.Load())
	}
}

// protectByService: who decides is a service of the mesh, and has to allow itself to be called.
func protectByService(t *testing.T, w *World) {
	l := w.traffic(t)
	d := newDecider(t)
	l.protocol("decider", "grpc")
	l.instance("decider", "decider", d.grpc)
	l.decides(object{"Service": l.name("decider"), "Timeout": "5s"})
	l.everywhere("/x", because("ext_authz_error")) // no intention lets api call it
	l.intend("allow", "api", "decider")
	l.everywhere("/x", refusedBy("no key"))
	l.is(passed, "GET", "/x", "x-key: k")
}
