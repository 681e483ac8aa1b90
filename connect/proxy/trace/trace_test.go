// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weftmesh/weft/connect/proxy/trace/tracetest"
)

func TestParse(t *testing.T) {
	const good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	for in, ok := range map[string]bool{
		good: true, good[:53] + "00": true, "01" + good[2:]: true, "01" + good[2:] + "-more": true, good[:53] + "ff": true,
		"": false, good[:54]: false, good + "-more": false, "ff" + good[2:]: false, "01" + good[2:] + "x": false, "0g" + good[2:]: false,
		"00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01":  false,
		"00-00000000000000000000000000000000-00f067aa0ba902b7-01":  false,
		"00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01":  false,
		"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0x":  false,
		"00-4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7-01":  false,
		"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01 ": false,
	} {
		c, got := Parse(in)
		if got != ok {
			t.Errorf("%q: %v, want %v", in, got, ok)
		}
		if in == good && c.String() != good {
			t.Errorf("%q became %q", good, c)
		}
	}
	begun := Begin(false)
	if again, ok := Parse(begun.String()); !ok || again != begun {
		t.Errorf("%v became %v", begun, again)
	}
	if child := begun.Child(); child.Trace != begun.Trace || child.Span == begun.Span {
		t.Errorf("%v has the child %v", begun, child)
	}
}

// handler is a collector without a network.
type handler struct{ http.Handler }

func (h handler) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result(), nil
}

func TestExport(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &tracetest.Collector{}
		var busy atomic.Bool
		e := New(Config{Client: &http.Client{Transport: handler{http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if busy.Load() {
				http.Error(w, "later", http.StatusServiceUnavailable)
				return
			}
			c.ServeHTTP(w, r)
		})}}})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- e.Run(ctx) }()
		to := Target{URL: "http://collector/v1/traces", Service: "web"}
		parent := Begin(true)
		s := Span{
			Context: parent.Child(), Parent: parent.Span, Name: "GET api", Kind: Client, Begin: time.Now(), End: time.Now(), Error: "no_route",
			Attributes: []Attribute{{Key: "url.path", Text: "/"}, {Key: "http.response.status_code", Int: 404}},
		}
		busy.Store(true)
		e.Add(to, &s)
		time.Sleep(3 * time.Second)
		if n := len(c.Spans()); n != 0 {
			t.Fatalf("%d spans from a collector that was busy", n)
		}
		busy.Store(false)
		time.Sleep(sendEvery)
		synctest.Wait()
		want := []tracetest.Span{{
			Service: "web", Trace: parent.String()[3:35], ID: s.String()[36:52], Parent: parent.String()[36:52], Name: "GET api", Kind: 3, Status: 2,
			Attributes: map[string]string{"url.path": "/", "http.response.status_code": "404"},
		}}
		if diff := cmp.Diff(want, c.Spans()); diff != "" {
			t.Error(diff)
		}
		busy.Store(true)
		const many = 3 * maxSpans
		for range many {
			e.Add(to, &s)
		}
		synctest.Wait()
		busy.Store(false)
		cancel()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		arrived, dropped := len(c.Spans())-1, int(e.Dropped())
		if arrived+dropped != many || arrived == 0 || arrived > maxSpans {
			t.Errorf("of %d spans %d arrived and %d were dropped, want at most %d to arrive", many, arrived, dropped, maxSpans)
		}
	})
}
