// SPDX-License-Identifier: Apache-2.0

package dns

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weftmesh/weft/internal/api"
)

// topic is something that is followed: a list of a datacenter, or the instances of one name.
type topic struct {
	what string // a key of paths
	name string // folded; "" for lists
	place
}

// view is what is known of a topic: immutable once published.
type view struct {
	nodes     map[string]*node  // by folded name
	addresses map[string]string // of nodes, to their names
	names     map[string]bool   // of services, folded
	instances []*instance
	up        []*instance // of them those that aren't critical
	passing   []*instance
}

// entry is one topic that is followed, from its first question until nobody asks any more.
type entry struct {
	topic topic
	token string        // what it is read with
	drop  func()        // ends its goroutine
	used  atomic.Int64  // when it was last asked for, in ns
	ready chan struct{} // closed when there was a first answer, good or bad

	mu    sync.Mutex // guards those below; the hot path reads state
	state atomic.Pointer[state]
}

// state is what an entry's last reads gave.
type state struct {
	view *view     // nil: never any
	err  error     // of the last read, nil if it went well
	asOf time.Time // the view was true then; the zero time: it is now
}

const (
	maxTopics    = 8192             // followed at once; what is asked beyond is read each time
	idleTopic    = 10 * time.Minute // without a question, a topic isn't followed any more
	idleFailed   = time.Minute      // the same for one of which nothing is known
	pollWait     = 5 * time.Minute
	betweenReads = 100 * time.Millisecond
	betweenPolls = 10 * time.Second
	retryFirst   = 100 * time.Millisecond
	retryLast    = 5 * time.Second
	maxView      = 256 << 20
)

// source follows what is asked for by blocking reads of the servers' API. Its goroutines, one per topic, end with the context
// that run was given.
type source struct {
	servers http.Handler
	token   func() string
	log     *slog.Logger
	stale   func() bool

	mu      sync.RWMutex // guards entries and ctx
	entries map[topic]*entry
	ctx     context.Context
	work    sync.WaitGroup
}

var errNotRunning = errors.New("the DNS server isn't running")

// run lets topics be followed until ctx ends, and waits for their goroutines.
func (s *source) run(ctx context.Context) {
	s.mu.Lock()
	s.ctx = ctx
	s.mu.Unlock()
	<-ctx.Done()
	s.mu.Lock()
	s.ctx = nil
	s.mu.Unlock()
	s.work.Wait()
}

// find gives the entry of a topic, followed from now on if it wasn't, or was by another token than ours is now; nil where too many are.
func (s *source) find(t topic, now time.Time) (*entry, error) {
	token := s.token()
	s.mu.RLock()
	e := s.entries[t]
	s.mu.RUnlock()
	if e == nil || e.token != token {
		var err error
		if e, err = s.begin(t, token, now); e == nil {
			return nil, err
		}
	}
	e.used.Store(now.UnixNano())
	return e, nil
}

func (s *source) begin(t topic, token string, now time.Time) (*entry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx == nil {
		return nil, errNotRunning
	}
	switch old := s.entries[t]; {
	case old != nil && old.token == token:
		return old, nil
	case old != nil:
		old.drop()
	case len(s.entries) >= maxTopics:
		return nil, nil
	}
	ctx, cancel := context.WithCancel(s.ctx)
	e := &entry{topic: t, token: token, drop: cancel, ready: make(chan struct{})}
	e.used.Store(now.UnixNano())
	s.entries[t] = e
	s.work.Go(func() {
		defer cancel()
		s.follow(ctx, e)
	})
	return e, nil
}

// follow reads a topic again and again until nobody asks for it.
func (s *source) follow(ctx context.Context, e *entry) {
	told := false
	defer func() {
		if !told {
			close(e.ready)
		}
		s.mu.Lock()
		if s.entries[e.topic] == e {
			delete(s.entries, e.topic)
		}
		s.mu.Unlock()
	}()
	index, retry := uint64(0), retryFirst
	var known *view
	asOf := time.Now()
	for ctx.Err() == nil {
		began := time.Now()
		a, err := s.read(ctx, e.token, e.topic, index)
		if ctx.Err() != nil {
			return
		}
		pause := betweenReads - time.Since(began)
		if e.topic.what == "datacenters" { // there is no waiting for these
			pause = betweenPolls
		}
		if err != nil {
			s.log.Debug("read for DNS failed", "topic", e.topic.what, "name", e.topic.name, "error", err)
			if nothing(err) { // a refusal isn't an outage: what was seen before may not be seen any more
				known = nil
			}
			e.state.Store(&state{view: known, err: err, asOf: asOf})
			pause, retry, index = retry/2+rand.N(retry/2+1), min(2*retry, retryLast), 0
		} else {
			asOf, retry = time.Now().Add(-a.age), retryFirst
			if known == nil || a.index == 0 || a.index != index {
				known = a.view
			}
			if a.index < index {
				a.index = 0 // a restored catalog begins anew
			}
			index = a.index
			st := &state{view: known}
			if a.age > 0 {
				st.asOf = asOf
			}
			e.state.Store(st)
		}
		if !told {
			close(e.ready)
			told = true
		}
		idle := time.Since(time.Unix(0, e.used.Load()))
		if idle > idleTopic || known == nil && idle > idleFailed {
			return
		}
		if pause > 0 {
			wait(ctx, pause)
		}
	}
}

func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// answer is what a read gave.
type answer struct {
	view  *view
	index uint64
	age   time.Duration // since the server that answered heard of a leader
}

var paths = map[string]string{
	"nodes": "/v1/catalog/nodes", "services": "/v1/catalog/services", "datacenters": "/v1/catalog/datacenters",
	"service": "/v1/health/service/", "connect": "/v1/health/connect/", "ingress": "/v1/health/ingress/",
}

// read asks the servers once, waiting for news if index isn't 0.
func (s *source) read(ctx context.Context, token string, t topic, index uint64) (answer, error) {
	q := t.query()
	if index > 0 {
		q.Set("index", strconv.FormatUint(index, 10))
		q.Set("wait", pollWait.String())
	}
	if s.stale() {
		q.Set("stale", "")
	}
	w, err := s.get(ctx, token, paths[t.what]+url.PathEscape(t.name), q, nil)
	if err != nil {
		return answer{}, err
	}
	v, err := decodeView(t.what, w.Body.Bytes())
	if err != nil {
		return answer{}, err
	}
	a := answer{view: v}
	a.index, _ = strconv.ParseUint(w.Header().Get("X-Consul-Index"), 10, 64)
	if ms, err := strconv.ParseInt(w.Header().Get("X-Consul-LastContact"), 10, 64); err == nil && w.Header().Get("X-Consul-KnownLeader") == "false" {
		a.age = time.Duration(ms) * time.Millisecond
	}
	return a, nil
}

func (p place) query() url.Values {
	q := url.Values{}
	for key, v := range map[string]string{"dc": p.dc, "peer": p.peer, "ns": p.namespace, "partition": p.partition} {
		if v != "" {
			q.Set(key, v)
		}
	}
	return q
}

// statusError is an answer of the servers that isn't a success.
type statusError struct {
	path string
	code int
	text string
}

func (e *statusError) Error() string { return fmt.Sprintf("%s: %d %s", e.path, e.code, e.text) }

// get makes one request of the servers' API.
func (s *source) get(ctx context.Context, token, path string, q url.Values, header http.Header) (*api.Recorder, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1"+path, nil)
	if err != nil {
		return nil, err
	}
	req.URL.RawQuery = q.Encode()
	req.RemoteAddr = "127.0.0.1:0"
	for k, v := range header {
		req.Header[k] = v
	}
	if token != "" {
		req.Header.Set("X-Consul-Token", token)
	}
	w := api.Record(s.servers, req, maxView)
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if w.TooLong {
		return nil, fmt.Errorf("%s: the answer is longer than %d MiB", path, maxView>>20)
	}
	if w.Code != http.StatusOK {
		return nil, &statusError{path, w.Code, string(bytes.TrimSpace(w.Body.Bytes()[:min(w.Body.Len(), 200)]))}
	}
	return w, nil
}
