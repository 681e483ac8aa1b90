// SPDX-License-Identifier: Apache-2.0

// Package forward passes API requests on to a server. The request goes as it is, over HTTP/2, authorised by its own token
// only; what is relative to the agent was resolved before. Interactive requests and those that wait long or move much
// have connections of their own, so that a thousand watchers don't hold up a write. Answers that may come
// from a cache (?cached) are kept true by one goroutine each; Close ends them. Beside these it owns no goroutine but those of net/http's
// transport.
package forward

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/weftmesh/weft/internal/api"
	"github.com/weftmesh/weft/internal/logs"
	"github.com/weftmesh/weft/internal/rate"
)

// Hop is the header that marks a forwarded request; one that has it is never forwarded again.
const Hop = "X-Weft-Hop"

// Token is the header that carries a token; ?token= is moved there, so that it doesn't reach any log.
const Token = "X-Consul-Token"

// Config is what a Forwarder is made of.
type Config struct {
	// Local answers in this process, where a server is in it: a request goes to it as it is, with no connection between. With it
	// Dial isn't used.
	Local http.Handler
	// Dial opens a connection to a server that takes HTTP/2 at once.
	Dial func(ctx context.Context) (net.Conn, error)
	// Node is this agent's node, for near=_agent.
	Node string
	// DefaultToken is the token of requests that bring none; nil: there is none.
	DefaultToken func() string
	// Limit bounds how often servers elsewhere are asked; nil: nothing does.
	Limit *rate.Limiter
	// Timeout bounds a request to a server elsewhere that waits for no change and moves little; 0: nothing does.
	Timeout time.Duration
	// Refetch makes the bound of how often one answer that is kept true is asked for anew; nil: there is none.
	Refetch func() *rate.Limiter
	// Now is the clock; nil is the system's.
	Now func() time.Time
	Log *slog.Logger
}

// Forwarder is an http.Handler that passes each request on.
type Forwarder struct {
	c                 Config
	interactive, bulk *httputil.ReverseProxy
	ways              []*way
	cache             *cache
}

// New makes a forwarder. It dials when it is first used.
func New(c Config) (*Forwarder, error) {
	f := &Forwarder{c: c}
	if f.c.Now == nil {
		f.c.Now = time.Now
	}
	f.interactive, f.bulk, f.cache = f.proxy(), f.proxy(), newCache(f)
	return f, nil
}

func (f *Forwarder) proxy() *httputil.ReverseProxy {
	t := &way{new: f.transport}
	t.now.Store(f.transport())
	f.ways = append(f.ways, t)
	return &httputil.ReverseProxy{
		Transport:     t,
		FlushInterval: -1,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: "server"})
			r.Out.Host = r.In.Host
			r.Out.Header.Set(Hop, f.c.Node)
			f.resolve(r.Out)
		},
		ErrorHandler: f.failed,
		ErrorLog:     logs.Std(f.c.Log, slog.LevelDebug, "forward"),
	}
}

func (f *Forwarder) transport() *http.Transport {
	t := &http.Transport{
		DialContext:        func(ctx context.Context, _, _ string) (net.Conn, error) { return f.c.Dial(ctx) },
		DisableCompression: true, IdleConnTimeout: 5 * time.Minute, Protocols: new(http.Protocols),
		HTTP2: &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingTimeout},
	}
	t.Protocols.SetUnencryptedHTTP2(true)
	return t
}

const (
	// pingAfter is how long a connection may be silent until it is asked whether its server is still there.
	pingAfter   = 10 * time.Second
	pingTimeout = 5 * time.Second
	// readTries is how often a read is sent whose connection broke before the answer.
	readTries = 3
)

// way is a transport that can be replaced: what is begun before goes on over the old one.
type way struct {
	now atomic.Pointer[http.Transport]
	new func() *http.Transport
}

// RoundTrip sends a request. A read whose connection breaks before the answer is sent again, elsewhere if need be: so a
// blocking query outlives its server. Whether anything else was done nobody can tell then.
func (w *way) RoundTrip(r *http.Request) (*http.Response, error) {
	for try := 1; ; try++ {
		resp, err := w.now.Load().RoundTrip(r)
		read := (r.Method == http.MethodGet || r.Method == http.MethodHead) && (r.Body == nil || r.Body == http.NoBody)
		if err == nil || !read || try == readTries || r.Context().Err() != nil {
			return resp, err
		}
	}
}

// renew has what begins from now on use new connections.
func (w *way) renew() { w.now.Swap(w.new()).CloseIdleConnections() }

// Renew has what begins from now on use new connections, as after another server was chosen.
func (f *Forwarder) Renew() {
	for _, w := range f.ways {
		w.renew()
	}
}

// ServeHTTP passes the request on and its answer back. A client that hangs up cancels the wait at the server too.
func (f *Forwarder) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if len(r.Header[Hop]) > 0 {
		http.Error(w, "forwarded twice: the server that this agent forwards to is an agent itself", http.StatusLoopDetected)
		return
	}
	if ok, follow := cacheable(r); ok && api.QueryOf(r).Get("index") == "" {
		f.cache.serve(w, r, follow)
		return
	}
	if f.c.Local == nil {
		var err error
		if r, err = rewindable(r); err != nil {
			http.Error(w, "the request ended too early: "+err.Error(), http.StatusBadRequest)
			return
		}
	}
	f.pass(w, r)
}

// pass passes a request on, by the connections that are for its like.
func (f *Forwarder) pass(w http.ResponseWriter, r *http.Request) {
	if f.c.Local != nil {
		url, body := r.URL, r.Body // a request that waits costs what it holds: the caller's goes on, who gets it back as it was
		token, had := r.Header[Token]
		r.Header[Hop] = []string{f.c.Node}
		f.resolve(r)
		f.c.Local.ServeHTTP(w, r)
		r.URL, r.Body = url, body
		delete(r.Header, Hop)
		if had {
			r.Header[Token] = token
		} else {
			delete(r.Header, Token)
		}
		return
	}
	if !f.c.Limit.Allow(f.c.Now()) {
		http.Error(w, "RPC rate limit exceeded", http.StatusTooManyRequests)
		return
	}
	if bulk(r) {
		f.bulk.ServeHTTP(w, r)
		return
	}
	if f.c.Timeout > 0 {
		ctx, cancel := context.WithTimeoutCause(r.Context(), f.c.Timeout, errTimeout)
		defer cancel()
		r = r.WithContext(ctx)
	}
	f.interactive.ServeHTTP(w, r)
}

// errTimeout is why a request ended that no server answered in time.
var errTimeout = errors.New("no server has answered within limits.rpc_client_timeout")

// keptBody is the longest body that is kept until the request is sent.
const keptBody = 1 << 20

// rewindable keeps a small body, so that the transport can send it again over another connection where it is certain that the
// server never took the request: a server that stops says so.
func rewindable(r *http.Request) (*http.Request, error) {
	if r.Body == nil || r.ContentLength <= 0 || r.ContentLength > keptBody {
		return r, nil
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	out := r.WithContext(r.Context())
	out.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	out.Body, err = out.GetBody()
	return out, err
}

// Close ends what keeps cached answers true, and closes the connections to servers that nobody uses.
func (f *Forwarder) Close() {
	f.cache.close()
	for _, w := range f.ways {
		w.now.Load().CloseIdleConnections()
	}
}

// bulk says whether a request may wait long or move much.
func bulk(r *http.Request) bool {
	q := api.QueryOf(r)
	switch r.URL.Path {
	case "/v1/snapshot", "/v1/agent/monitor":
		return true
	}
	return q.Get("index") != "" || q.Get("hash") != ""
}

// resolve turns what is relative to this agent into what a server can answer.
func (f *Forwarder) resolve(r *http.Request) {
	q := api.QueryOf(r)
	changed := false
	if q.Get("near") == "_agent" {
		q.Set("near", f.c.Node)
		changed = true
	}
	if token := q.Get("token"); token != "" {
		r.Header.Set(Token, token)
		q.Del("token")
		changed = true
	}
	if f.c.DefaultToken != nil && r.Header.Get(Token) == "" && r.Header.Get("Authorization") == "" {
		if token := f.c.DefaultToken(); token != "" {
			r.Header.Set(Token, token)
		}
	}
	if changed {
		u := *r.URL
		u.RawQuery = q.Encode()
		r.URL = &u
	}
}

func (f *Forwarder) failed(w http.ResponseWriter, r *http.Request, err error) {
	if errors.Is(context.Cause(r.Context()), errTimeout) {
		http.Error(w, errTimeout.Error(), http.StatusGatewayTimeout)
		return
	}
	if r.Context().Err() != nil || errors.Is(err, context.Canceled) {
		return // the client went away
	}
	f.c.Log.Warn("request can't be forwarded", "path", r.URL.Path, "error", err)
	http.Error(w, "no server can be reached: "+err.Error(), http.StatusServiceUnavailable)
}
