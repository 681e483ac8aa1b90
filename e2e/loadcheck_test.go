// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
)

// TestLoadSees checks the load client itself, on a way that loses and doubles: what goes wrong is seen, and nothing is sent
// again. It needs no other program.
func TestLoadSees(t *testing.T) {
	for _, c := range []struct {
		name  string
		fault func(n int64, w http.ResponseWriter, again func()) (handled bool)
		want  string
	}{
		{"nothing", func(int64, http.ResponseWriter, func()) bool { return false }, ""},
		{"a lost request", func(n int64, w http.ResponseWriter, _ func()) bool {
			if n == 7 {
				panic(http.ErrAbortHandler)
			}
			return false
		}, "1 of"},
		{"an answer that reached nobody", func(n int64, w http.ResponseWriter, _ func()) bool {
			if n == 7 {
				w.WriteHeader(http.StatusOK)
			}
			return n == 7
		}, "answered with"},
		{"a doubled request", func(n int64, _ http.ResponseWriter, again func()) bool {
			if n == 7 {
				again()
			}
			return false
		}, "2 times"},
		{"a refusal", func(n int64, w http.ResponseWriter, _ func()) bool {
			if n == 7 {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
			return n == 7
		}, "503"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBackend("api")
			var n atomic.Int64
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if !c.fault(n.Add(1), w, func() { b.note(r.Header.Get(idHeader)) }) {
					b.echo(w, r)
				}
			}))
			defer server.Close()
			l := load(t, server.URL, 500)
			l.more(20)
			err := l.agree(nil, b)
			switch {
			case c.want == "" && err != nil:
				t.Error(err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("agree: %v; want %q in it", err, c.want)
			}
			if sent := l.seq.Load(); n.Load() != sent {
				t.Errorf("%d requests were sent and %d arrived", sent, n.Load())
			}
		})
	}
}
