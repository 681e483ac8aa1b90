// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"bytes"
	"context"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/weftmesh/weft/internal/api"
	"github.com/weftmesh/weft/internal/rate"
)

// The bounds of the cache of answers.
const (
	maxCached     = 1024             // answers
	maxCachedBody = 4 << 20          // bytes of one
	followFor     = 10 * time.Minute // how long an answer is kept true that nobody asks for
	followWait    = 5 * time.Minute
	simpleAge     = 3 * time.Second // of an answer that can't be followed, where the caller doesn't say
	followRetry   = 2 * time.Second
	paceLook      = 100 * time.Millisecond // between looks whether an answer may be asked for again
)

// cache holds answers to reads that allow it (?cached). What can be waited for is kept true by a blocking query, as long as somebody
// asks for it; the rest is old after a while.
type cache struct {
	f      *Forwarder
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup // the goroutines that follow

	mu      sync.Mutex
	entries map[string]*cached
}

// cached is one answer. Its fields are guarded by the cache's mutex; what they point to isn't changed.
type cached struct {
	answer    *recorded
	at        time.Time // when it was last known to be true
	used      time.Time
	following bool // a blocking query is out, so it is true now
}

func newCache(f *Forwarder) *cache {
	c := &cache{f: f, entries: map[string]*cached{}}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return c
}

// close ends what follows.
func (c *cache) close() {
	c.cancel()
	c.wg.Wait()
}

// cacheable says whether a path's answers are cached, and whether they can be waited for and mean the same each time.
func cacheable(r *http.Request) (ok, follow bool) {
	if r.Method != http.MethodGet {
		return false, false
	}
	if q := api.QueryOf(r); !q.Has("cached") || q.Has("consistent") { // both at once a server refuses
		return false, false
	}
	path := r.URL.Path
	for _, prefix := range []string{
		"/v1/catalog/service/", "/v1/catalog/connect/", "/v1/health/service/", "/v1/health/connect/", "/v1/health/ingress/", "/v1/discovery-chain/",
	} {
		if strings.HasPrefix(path, prefix) {
			return true, true
		}
	}
	switch {
	case path == "/v1/catalog/services", path == "/v1/connect/intentions/match":
		return true, true
	case path == "/v1/catalog/datacenters", strings.HasPrefix(path, "/v1/query/") && strings.HasSuffix(path, "/execute"):
		return true, false
	}
	return false, false
}

// control is what a request's Cache-Control says; -1 is nothing.
type control struct{ maxAge, staleIfError time.Duration }

func controlOf(r *http.Request) control {
	c := control{-1, -1}
	for part := range strings.SplitSeq(r.Header.Get("Cache-Control"), ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		seconds, err := strconv.Atoi(value)
		switch strings.ToLower(name) {
		case "max-age":
			if err == nil && seconds >= 0 {
				c.maxAge = time.Duration(seconds) * time.Second
			}
		case "stale-if-error":
			if err == nil && seconds >= 0 {
				c.staleIfError = time.Duration(seconds) * time.Second
			}
		case "must-revalidate", "no-cache":
			c.maxAge = 0
		}
	}
	return c
}

func (c *cache) serve(w http.ResponseWriter, r *http.Request, follow bool) {
	limits := controlOf(r)
	inner := r.Clone(r.Context())
	q := inner.URL.Query()
	q.Del("cached")
	inner.URL.RawQuery = q.Encode()
	token := r.Header.Get(Token) + "\x00" + r.Header.Get("Authorization")
	if c.f.c.DefaultToken != nil {
		token += "\x00" + c.f.c.DefaultToken()
	}
	key := token + "\x00" + r.Header.Get("X-Consul-Namespace") + "\x00" + r.Header.Get("X-Consul-Partition") + "\x00" + inner.URL.RequestURI()

	old, age := c.look(key)
	most := limits.maxAge
	if most < 0 && !follow {
		most = simpleAge
	}
	if old != nil && (most < 0 || age <= most) {
		old.write(w, "HIT", age)
		return
	}
	answer := c.f.record(inner)
	switch {
	case answer.code == http.StatusOK && len(answer.body) <= maxCachedBody:
		c.keep(key, answer, inner, follow)
	case answer.code >= http.StatusInternalServerError && old != nil && age <= limits.staleIfError:
		old.write(w, "HIT", age)
		return
	}
	answer.write(w, "MISS", 0)
}

// look gives what is there, and how old it is.
func (c *cache) look(key string) (*recorded, time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.entries[key]
	if e == nil {
		return nil, 0
	}
	now := c.f.c.Now()
	e.used = now
	if e.following {
		return e.answer, 0
	}
	return e.answer, now.Sub(e.at)
}

// keep stores an answer, and begins to follow it.
func (c *cache) keep(key string, answer *recorded, r *http.Request, follow bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.f.c.Now()
	if e := c.entries[key]; e != nil {
		e.answer, e.at = answer, now
		return
	}
	if len(c.entries) >= maxCached {
		maps.DeleteFunc(c.entries, func(_ string, e *cached) bool { return !e.following && now.Sub(e.used) > followFor })
	}
	if len(c.entries) >= maxCached || c.ctx.Err() != nil {
		return
	}
	index := answer.header.Get("X-Consul-Index")
	follow = follow && index != ""
	c.entries[key] = &cached{answer: answer, at: now, used: now, following: follow}
	if follow {
		c.wg.Add(1)
		go c.follow(key, r.Clone(c.ctx), index)
	}
}

// follow keeps an answer true until nobody has asked for it for a while.
func (c *cache) follow(key string, r *http.Request, index string) {
	defer c.wg.Done()
	defer c.drop(key)
	q := r.URL.Query()
	var pace *rate.Limiter
	if c.f.c.Refetch != nil {
		pace = c.f.c.Refetch()
	}
	for {
		for !pace.Allow(c.f.c.Now()) {
			if !c.pause(paceLook) {
				return
			}
		}
		used, ok := c.lastUse(key)
		if !ok || c.f.c.Now().Sub(used) > followFor {
			return
		}
		q.Set("index", index)
		q.Set("wait", followWait.String())
		next := r.Clone(c.ctx)
		next.URL = &url.URL{Path: r.URL.Path, RawPath: r.URL.RawPath, RawQuery: q.Encode()}
		answer := c.f.record(next)
		if c.ctx.Err() != nil {
			return
		}
		if answer.code < http.StatusInternalServerError && answer.code != http.StatusOK || len(answer.body) > maxCachedBody {
			return // what asked may no longer, or there is no such thing: the next one asks anew
		}
		if answer.code != http.StatusOK {
			c.update(key, nil)
			if !c.pause(followRetry) {
				return
			}
			index = "0" // whatever it is now
			continue
		}
		index = answer.header.Get("X-Consul-Index")
		c.update(key, answer)
	}
}

// pause waits; false is the end of the cache.
func (c *cache) pause(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-c.ctx.Done():
		return false
	}
}

// lastUse says when somebody asked for an answer last; ok is false if it is gone.
func (c *cache) lastUse(key string) (used time.Time, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.entries[key]
	if e == nil {
		return used, false
	}
	return e.used, true
}

// update stores a newer answer; nil says that it isn't known any more whether the one that is there is true.
func (c *cache) update(key string, answer *recorded) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.entries[key]
	if e == nil {
		return
	}
	if answer == nil {
		if e.following {
			e.at, e.following = c.f.c.Now(), false // up to here it was
		}
		return
	}
	e.answer, e.at, e.following = answer, c.f.c.Now(), true
}

func (c *cache) drop(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.entries, key)
}

// recorded is a whole answer.
type recorded struct {
	code   int
	header http.Header
	body   []byte
}

// record passes a request on and keeps the answer.
func (f *Forwarder) record(r *http.Request) *recorded {
	w := api.Record(http.HandlerFunc(f.pass), r, 0)
	return &recorded{w.Code, w.Header(), w.Body.Bytes()}
}

func (a *recorded) write(w http.ResponseWriter, hit string, age time.Duration) {
	h := w.Header()
	for name, values := range a.header {
		h[name] = values
	}
	h.Set("X-Cache", hit)
	if hit == "HIT" {
		h.Set("Age", strconv.Itoa(int(max(0, age).Seconds())))
	}
	w.WriteHeader(a.code)
	_, _ = io.Copy(w, bytes.NewReader(a.body)) // the client may be gone
}
