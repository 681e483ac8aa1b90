// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/weftmesh/weft/connect/proxy/config"
	"github.com/weftmesh/weft/connect/proxy/trace"
	"github.com/weftmesh/weft/connect/proxy/trace/tracetest"
)

func TestSpans(t *testing.T) {
	const id, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
	collector := &tracetest.Collector{}
	to := httptest.NewServer(collector)
	t.Cleanup(to.Close)
	var got, state string
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got, state = r.Header.Get("traceparent"), r.Header.Get("tracestate")
		w.WriteHeader(http.StatusTeapot)
	}))
	t.Cleanup(up.Close)
	for _, c := range []struct {
		name, in string
		share    config.Share
		sampled  bool
		trace    string // "" for a new one
	}{
		{"none, all are sampled", "", config.Whole, true, ""},
		{"none, none is sampled", "", 0, false, ""},
		{"sampled", "00-" + id + "-" + parent + "-01", 0, true, id},
		{"not sampled", "00-" + id + "-" + parent + "-00", config.Whole, false, id},
		{"unreadable", "00-x", config.Whole, true, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, func(s *config.Snapshot) {
				s.Listeners["l"].HTTP.Spans = &config.Spans{To: trace.Target{URL: to.URL, Service: c.name}, Share: c.share}
			}, strings.TrimPrefix(up.URL, "http://"))
			req, err := http.NewRequestWithContext(t.Context(), "GET", r.url("/a?secret"), nil)
			if err != nil {
				t.Fatal(err)
			}
			if c.in != "" {
				req.Header.Set("traceparent", c.in)
				req.Header.Set("tracestate", "a=b")
			}
			resp, err := client(t, 1).Do(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			now, ok := trace.Parse(got)
			if !ok || now.Sampled != c.sampled || c.trace != "" && got[3:35] != c.trace || (state == "") != (c.trace == "") {
				t.Fatalf("sent on as %q with the state %q", got, state)
			}
			if !c.sampled {
				if c.trace != "" && got != c.in {
					t.Errorf("a trace that isn't sampled became %q", got)
				}
				return
			}
			for len(spansOf(collector, c.name)) == 0 {
				if t.Context().Err() != nil {
					t.Fatal("no span came")
				}
				<-time.After(10 * time.Millisecond)
			}
			s := spansOf(collector, c.name)[0]
			want := ""
			if c.trace != "" {
				want = parent
			}
			if s.Trace != got[3:35] || s.ID != got[36:52] || s.Parent != want || s.Kind != 3 || s.Status != 2 ||
				s.Attributes["http.response.status_code"] != "418" || s.Attributes["url.path"] != "/a" || s.Attributes["weft.destination"] != "api" {
				t.Errorf("the span is %+v, the request went on with %q", s, got)
			}
		})
	}
}

func spansOf(c *tracetest.Collector, service string) (out []tracetest.Span) {
	for _, s := range c.Spans() {
		if s.Service == service {
			out = append(out, s)
		}
	}
	return out
}
