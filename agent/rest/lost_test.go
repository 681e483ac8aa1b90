// SPDX-License-Identifier: Apache-2.0

package rest

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weftmesh/weft/agent/check"
	"github.com/weftmesh/weft/agent/event"
	"github.com/weftmesh/weft/agent/local"
	"github.com/weftmesh/weft/internal/api"
)

// token is a resolver of one token, which may do everything until it is revoked.
type token struct{ revoked atomic.Bool }

func (k *token) Resolve(context.Context, string) (api.Subject, error) {
	if k.revoked.Load() {
		return nil, fmt.Errorf("%w: it was revoked", api.ErrTokenUnknown)
	}
	return holder{}, nil
}

// holder may do what its functions allow; without one, everything. Unlike api.Open it is somebody.
type holder struct{ deny map[string]bool }

func (h holder) Allow(p api.Permission, name string) error {
	if h.deny[name] {
		return fmt.Errorf("%w: on %q", api.ErrDenied, name)
	}
	return nil
}
func (h holder) In(string) api.Subject { return h }
func (h holder) String() string        { return "a holder" }

// Resolve makes a holder the subject of every request.
func (h holder) Resolve(context.Context, string) (api.Subject, error) { return h, nil }

// withResolver is the rig with another resolver, and with events.
func (r *rig) withResolver(who api.Resolver) (*api.Mux, *event.Events) {
	r.t.Helper()
	events, err := event.New(event.Config{
		Node: "n1", Services: func() map[string][]string { return nil }, Fire: func(string, []byte) error { return nil }, Rand: rand.Reader,
	})
	if err != nil {
		r.t.Fatal(err)
	}
	checks, err := check.New(check.Config{State: r.state, Log: r.log})
	if err != nil {
		r.t.Fatal(err)
	}
	mux, err := api.NewMux(api.MuxConfig{
		Side: api.Agent, Node: "n1", Resolver: who, Datacenter: "dc1",
		Handlers: Handlers(Config{State: r.state, Checks: checks, Proxies: noProxies{}, Metrics: prometheus.NewRegistry(), Node: "n1", Logs: r.tap, Events: events}),
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return mux, events
}

// Answers that go on, and those that wait, end for a token that was revoked meanwhile: within a second, or with nothing in them.
func TestAnswersEndWithTheirToken(t *testing.T) {
	for name, c := range map[string]struct {
		path   string
		change func(*rig) // has the answer be given; nil for one that goes on
	}{
		"monitor": {"/v1/agent/monitor", nil},
		"metrics": {"/v1/agent/metrics/stream", nil},
		"events":  {"/v1/event/list?index=1&wait=1m", func(*rig) {}},
		"service": {"/v1/agent/service/web?wait=1m&hash=", func(r *rig) { r.register(`{"Name":"web","Port":81}`) }},
	} {
		t.Run(name, func(t *testing.T) {
			for _, revoked := range []bool{false, true} {
				synctest.Test(t, func(t *testing.T) {
					r, k := newRig(t), &token{}
					mux, _ := r.withResolver(k)
					r.register(`{"Name":"web","Port":80}`)
					path := c.path
					if strings.HasSuffix(path, "hash=") {
						w := httptest.NewRecorder()
						mux.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/v1/agent/service/web", nil))
						path += w.Header().Get("X-Consul-ContentHash")
					}
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					w, done := httptest.NewRecorder(), make(chan struct{})
					go func() { // ends with the request
						defer close(done)
						mux.ServeHTTP(w, httptest.NewRequestWithContext(ctx, http.MethodGet, path, nil))
					}()
					synctest.Wait()
					k.revoked.Store(revoked)
					if c.change != nil {
						c.change(r)
						<-done
						if want := map[bool]int{false: 200, true: 403}[revoked]; w.Code != want || revoked && strings.Contains(w.Body.String(), `"Port"`) {
							t.Errorf("revoked %v: %d %s", revoked, w.Code, w.Body)
						}
						return
					}
					ended := false
					select {
					case <-done:
						ended = true
					case <-time.After(time.Second):
					}
					if ended != revoked {
						t.Errorf("revoked %v: it ended: %v", revoked, ended)
					}
					cancel()
					<-done
				})
			}
		})
	}
}

// A registration is a write on all that it is about: on the service that it is a proxy of, and on what has its ID, its sidecar's or its checks' now.
func TestARegistrationNeedsAllThatItTouches(t *testing.T) {
	const proxy = `{"Kind":"connect-proxy","ID":"victim-sidecar-proxy","Name":"theirs","Port":9,"Proxy":{"DestinationServiceName":"victim"}}`
	for name, c := range map[string]struct{ body, denied string }{
		"its name":                     {`{"Name":"victim"}`, "victim"},
		"what it is a proxy of":        {`{"Kind":"connect-proxy","Name":"mine","Port":1,"Proxy":{"DestinationServiceName":"victim"}}`, "victim"},
		"what has its ID":              {`{"Name":"mine","ID":"there"}`, "theirs2"},
		"what has its sidecar's ID":    {`{"Name":"mine","ID":"victim","Port":1,"Connect":{"SidecarService":{}}}`, "theirs"},
		"its sidecar's own name":       {`{"Name":"mine","Port":1,"Connect":{"SidecarService":{"Name":"victim"}}}`, "victim"},
		"what has its check's ID":      {`{"Name":"mine","Check":{"CheckID":"their-check","TTL":"1m"}}`, "theirs2"},
		"what has its sidecar's check": {`{"Name":"mine","Port":1,"Connect":{"SidecarService":{"Checks":[{"CheckID":"their-check","TTL":"1m"}]}}}`, "theirs2"},
	} {
		r := newRig(t)
		r.register(proxy)
		r.register(`{"Name":"theirs2","ID":"there","Check":{"CheckID":"their-check","TTL":"1m"}}`)
		for _, path := range []string{"/v1/agent/service/register", "/v1/agent/services/register"} {
			body := c.body
			if strings.HasSuffix(path, "services/register") {
				body = `{"Services":[{"Name":"other"},` + body + `]}`
			}
			for _, may := range []bool{false, true} {
				who := holder{}
				if !may {
					who.deny = map[string]bool{c.denied: true}
				}
				mux, _ := r.withResolver(who)
				w := httptest.NewRecorder()
				mux.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodPut, path, strings.NewReader(body)))
				if want := map[bool]int{false: 403, true: 200}[may]; w.Code != want {
					t.Errorf("%s, %s, may %v: %d %s, want %d", name, path, may, w.Code, w.Body, want)
				}
			}
			r = newRig(t)
			r.register(proxy)
			r.register(`{"Name":"theirs2","ID":"there","Check":{"CheckID":"their-check","TTL":"1m"}}`)
		}
	}
}

// Without ACLs, what a registration says is some processes' is changed by these alone, in no way; with them, tokens say who may.
func TestWhatIsKeptIsChangedByItsProcessesAlone(t *testing.T) {
	r := newRig(t)
	if _, err := r.state.Register(local.ServiceDefinition{
		Name: "kept", Port: 79, Check: &local.CheckDefinition{ID: "kept-check", TTL: time.Minute}, Connect: &local.ConnectDefinition{SidecarService: &local.ServiceDefinition{}},
	}, "", false); err != nil {
		t.Fatal(err)
	}
	r.register(`{"Name":"web","Port":80,"Check":{"CheckID":"web-check","TTL":"1m"}}`)
	mux, _ := r.withResolver(holder{})
	for _, c := range [][3]string{
		{"PUT", "/v1/agent/service/register", `{"Name":"kept","Port":1}`},
		{"PUT", "/v1/agent/service/register", `{"Name":"kept","ID":"another","Port":1}`},
		{"PUT", "/v1/agent/service/register", `{"Kind":"connect-proxy","Name":"p","Port":1,"Proxy":{"DestinationServiceName":"kept","LocalIdentity":{"Proxy":{"UIDs":[1]}}}}`},
		{"PUT", "/v1/agent/service/register", `{"Name":"mine","ID":"kept","Port":1}`},
		{"PUT", "/v1/agent/service/register", `{"Name":"mine","Check":{"CheckID":"kept-check","TTL":"1m"}}`},
		{"PUT", "/v1/agent/services/register", `{"Services":[{"Name":"x"},{"Name":"kept","Port":1}]}`},
		{"PUT", "/v1/agent/check/register", `{"Name":"more","ServiceID":"kept","TTL":"1m"}`},
		{"PUT", "/v1/agent/check/register", `{"CheckID":"kept-check","Name":"c","TTL":"1m"}`},
		{"PUT", "/v1/agent/check/fail/kept-check", ``},
		{"PUT", "/v1/agent/check/update/kept-check", `{"Status":"critical"}`},
		{"PUT", "/v1/agent/check/deregister/kept-check", ``},
		{"PUT", "/v1/agent/service/maintenance/kept?enable=true", ``},
		{"PUT", "/v1/agent/service/maintenance/kept-sidecar-proxy?enable=true", ``},
		{"PUT", "/v1/agent/service/deregister/kept-sidecar-proxy", ``},
		{"PUT", "/v1/agent/service/deregister/kept", ``},
	} {
		if w := r.do(c[0], c[1], c[2]); w.Code != 403 || !strings.Contains(w.Body.String(), "it is another's") {
			t.Errorf("%s %s %s: %d %s", c[0], c[1], c[2], w.Code, w.Body)
		}
		if control := strings.NewReplacer("kept", "web").Replace(c[1] + " " + c[2]); strings.Contains(c[1], "service/register") || strings.Contains(c[1], "fail") {
			path, body, _ := strings.Cut(control, " ")
			if w := r.do(c[0], path, body); w.Code != 200 {
				t.Errorf("the control: %s: %d %s", control, w.Code, w.Body)
			}
		}
	}
	w := httptest.NewRecorder()
	mux.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodPut, "/v1/agent/service/deregister/kept", nil))
	if w.Code != 200 {
		t.Errorf("by a token: %d %s", w.Code, w.Body)
	}
}
