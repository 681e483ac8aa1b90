// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weftmesh/weft/internal/rate"
)

// changing is a server whose answer changes when it is told to, and that can be down.
type changing struct {
	mu      sync.Mutex
	index   int
	code    int
	asked   int
	changed chan struct{}
}

func (c *changing) set(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *changing) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	index, _ := strconv.Atoi(r.URL.Query().Get("index"))
	wait, _ := time.ParseDuration(r.URL.Query().Get("wait"))
	c.mu.Lock()
	c.asked++
	for index >= c.index && c.code == 200 && wait > 0 {
		changed := c.changed
		c.mu.Unlock()
		timer := time.NewTimer(wait)
		select {
		case <-changed:
		case <-timer.C:
			wait = 0
		case <-r.Context().Done():
			return
		}
		c.mu.Lock()
	}
	defer c.mu.Unlock()
	w.Header().Set("X-Consul-Index", strconv.Itoa(c.index))
	w.WriteHeader(c.code)
	_, _ = io.WriteString(w, fmt.Sprint("v", c.index))
}

// What is kept true is asked for anew no more often than is allowed, however often it changes.
func TestCacheRefetches(t *testing.T) {
	server := &changing{index: 1, code: 200}
	bubble(t, server, func(t *testing.T, agent http.Handler, _ *int) {
		server.changed = make(chan struct{}) // of the bubble
		f, _ := agent.(*Forwarder)
		f.c.Refetch = func() *rate.Limiter { return rate.New(0.5, 2) }
		get(agent, "/v1/health/service/web?cached")
		synctest.Wait()
		before := server.asked
		for range 100 {
			time.Sleep(100 * time.Millisecond)
			server.set(func() { server.index++ })
			synctest.Wait()
		}
		if n := server.asked - before; n < 4 || n > 8 { // two at once, and one every two seconds
			t.Errorf("asked %d times in ten seconds", n)
		}
	})
}

func TestCache(t *testing.T) {
	server := &changing{index: 1, code: 200}
	bubble(t, server, func(t *testing.T, agent http.Handler, _ *int) {
		server.changed = make(chan struct{}) // of the bubble
		step := func(what, target, body, cache, age string, header ...string) {
			t.Helper()
			w := get(agent, target, header...)
			if w.Body.String() != body || w.Header().Get("X-Cache") != cache || w.Header().Get("Age") != age {
				t.Errorf("%s: %q %q %q, want %q %q %q", what, w.Body, w.Header().Get("X-Cache"), w.Header().Get("Age"), body, cache, age)
			}
			synctest.Wait()
		}
		const path = "/v1/health/service/web?cached"
		step("not asked to be cached", "/v1/health/service/web", "v1", "", "")
		step("first", path, "v1", "MISS", "")
		time.Sleep(time.Minute)
		step("again, followed", path, "v1", "HIT", "0")
		server.set(func() { server.index = 2 })
		synctest.Wait()
		step("changed meanwhile", path, "v2", "HIT", "0", "Cache-Control", "max-age=5")
		step("of another token", path, "v2", "MISS", "", Token, "other")
		step("not of the list", "/v1/catalog/nodes?cached", "v2", "", "")

		// The servers are gone: the answer gets older, and is given as long as the caller allows.
		server.set(func() { server.code = 500 })
		synctest.Wait()
		time.Sleep(10 * time.Second)
		step("unreachable", path, "v2", "HIT", "10")
		step("unreachable, at most 5 s", path, "v2", "MISS", "", "Cache-Control", "max-age=5")
		step("unreachable, stale if error", path, "v2", "HIT", "10", "Cache-Control", "max-age=5, stale-if-error=60")
		server.set(func() { server.code, server.index = 200, 3 })
		time.Sleep(3 * time.Second)
		synctest.Wait()
		step("back", path, "v3", "HIT", "0")

		// What the caller may no longer see is forgotten.
		server.set(func() { server.code = 403 })
		synctest.Wait()
		step("forbidden", path, "v3", "MISS", "")
		server.set(func() { server.code = 200 })

		// What can't be followed is old after a while.
		step("simple", "/v1/query/q/execute?cached", "v3", "MISS", "")
		time.Sleep(2 * time.Second)
		step("simple again", "/v1/query/q/execute?cached", "v3", "HIT", "2")
		time.Sleep(2 * time.Second)
		step("simple, old", "/v1/query/q/execute?cached", "v3", "MISS", "")

		// Nobody asks any more: nobody follows.
		step("once more", path, "v3", "MISS", "")
		time.Sleep(followFor + 2*followWait)
		server.mu.Lock()
		before := server.asked
		server.mu.Unlock()
		time.Sleep(time.Hour)
		server.mu.Lock()
		if server.asked != before {
			t.Errorf("%d requests that nobody asked for", server.asked-before)
		}
		server.mu.Unlock()
	})
}
