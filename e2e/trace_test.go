// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/weftmesh/weft/connect/proxy/trace/tracetest"
)

// spanOf finds the span of a service's sidecar in a trace.
func spanOf(spans []tracetest.Span, trace, service string) (tracetest.Span, error) {
	for _, s := range spans {
		if s.Trace == trace && s.Service == service {
			return s, nil
		}
	}
	return tracetest.Span{}, fmt.Errorf("no span of %s in trace %s among %d", service, trace, len(spans))
}

// TestTraces: both sidecars send spans of a sampled request, which tell who called whom, and how it ended.
func TestTraces(t *testing.T) {
	enabled(t)
	for _, k := range kinds {
		t.Run(string(k), func(t *testing.T) {
			t.Parallel()
			c := &tracetest.Collector{}
			server := httptest.NewServer(c)
			t.Cleanup(server.Close)
			w := mustWorld(t, k, "deny")
			defaults := func(share float64) {
				t.Helper()
				body := object{"Kind": "proxy-defaults", "Name": "global", "Tracing": object{"Collector": server.URL, "Sampling": share}}
				if err := w.do("PUT", "/v1/config", body, nil); err != nil {
					t.Fatal(err)
				}
			}
			defaults(0)
			p := newPair(t, w, "http")
			const parent = "00f067aa0ba902b7"
			n := 0
			call := func(want int, flags string) (trace string, err error) {
				n++
				trace = fmt.Sprintf("4bf92f3577b34da6a3ce929d%08x", n)
				g, err := callAt(p.addr, "GET", "/page?secret=1", "", "traceparent: 00-"+trace+"-"+parent+"-"+flags)
				if err != nil {
					return trace, err
				}
				return trace, statusIs(want)(g)
			}
			both := func(trace string) (web, api tracetest.Span) {
				t.Helper()
				until(t, 15*time.Second, func() (err error) { // an Envoy sends every five seconds
					if web, err = spanOf(c.Spans(), trace, p.name("web")); err == nil {
						api, err = spanOf(c.Spans(), trace, p.name("api"))
					}
					return err
				})
				return web, api
			}
			want := func(what string, got, want any) {
				t.Helper()
				if got != want {
					t.Errorf("%s: %v, want %v", what, got, want)
				}
			}
			silent, err := call(200, "00")
			if err != nil {
				t.Fatal(err)
			}
			trace, err := call(200, "01")
			if err != nil {
				t.Fatal(err)
			}
			web, api := both(trace)
			want("the parent of web's span", web.Parent, parent)
			want("the parent of api's span", api.Parent, web.ID)
			want("web's kind", web.Kind, 3)
			want("api's kind", api.Kind, 2)
			for _, s := range []tracetest.Span{web, api} {
				want(s.Service+"'s status code", s.Attributes["http.response.status_code"], "200")
				want(s.Service+" failed", s.Status == 2, false)
			}
			p.intend("deny", "web", "api")
			until(t, effect+slack, func() error {
				trace, err = call(403, "01")
				return err
			})
			web, api = both(trace)
			want("the parent of api's span when it refuses", api.Parent, web.ID)
			want("api's status code when it refuses", api.Attributes["http.response.status_code"], "403")
			want("api's reason when it refuses", api.Attributes["weft.reason"], "rbac_denied")
			for _, s := range c.Spans() {
				if s.Trace == silent {
					t.Errorf("a trace that isn't sampled has the span %+v", s)
				}
				if s.Parent == "" {
					t.Errorf("with a share of 0 a trace began: %+v", s)
				}
			}
			defaults(100)
			until(t, effect+slack+10*time.Second, func() error {
				if _, err := callAt(p.addr, "GET", "/page", ""); err != nil {
					return err
				}
				all := c.Spans()
				for _, s := range all {
					if s.Parent == "" && s.Service == p.name("web") {
						if _, err := spanOf(all, s.Trace, p.name("api")); err == nil {
							return nil
						}
					}
				}
				return fmt.Errorf("with a share of 100 no trace of both began, among %d spans", len(all))
			})
		})
	}
}
