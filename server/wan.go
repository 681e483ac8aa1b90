// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/weftmesh/weft/internal/api"
	"github.com/weftmesh/weft/internal/gossip"
	"github.com/weftmesh/weft/internal/logs"
	"github.com/weftmesh/weft/internal/plane"
)

// wanHop marks a request that was passed on to another datacenter, with the one that it came from: it isn't passed on again.
const wanHop = "X-Weft-Datacenter-Hop"

// wan passes requests on to the servers of other datacenters.
type wan struct {
	s *Server

	mu   sync.Mutex
	ways map[string]*wanWay // by datacenter
}

// wanWay is the way to one datacenter. It stays with a server until that doesn't answer.
type wanWay struct {
	w                 *wan
	dc                string
	interactive, bulk *httputil.ReverseProxy
	transports        []*http.Transport

	mu   sync.Mutex
	last string // address of the server that answered
}

// The timing of connections to other datacenters.
const (
	wanTryTime     = 5 * time.Second
	wanPingAfter   = 15 * time.Second
	wanPingTimeout = 10 * time.Second
	wanReadTries   = 3
)

// errNoPath says that nobody knows a server of the datacenter; errNoServer that none of them answers. Consul's texts.
var (
	errNoPath   = errors.New("No path to datacenter")
	errNoServer = errors.New("Remote DC has no server currently reachable")
)

// elsewhere is the other datacenter that a request is for, "" if it is for this one.
func (s *Server) elsewhere(r *http.Request) string {
	q := api.QueryOf(r)
	dc := q.Get("dc")
	if dc == "" {
		dc = q.Get("datacenter")
	}
	dc = strings.ToLower(dc)
	if s.c.Primary != "" && api.AtPrimary(r) { // whichever datacenter it names: from a secondary it would come back
		dc = s.c.Primary
	}
	if dc == s.c.Datacenter {
		return ""
	}
	return dc
}

// own is a request that this datacenter answers as the primary, without the name of the other one that it was for: nothing is of that one.
func (s *Server) own(r *http.Request) *http.Request {
	q := api.QueryOf(r)
	if s.c.Primary != s.c.Datacenter || !q.Has("dc") && !q.Has("datacenter") || !api.AtPrimary(r) {
		return r
	}
	q.Del("dc")
	q.Del("datacenter")
	here, at := r.WithContext(r.Context()), *r.URL
	at.RawQuery = q.Encode()
	here.URL = &at
	return here
}

func (w *wan) serve(rw http.ResponseWriter, r *http.Request, dc string) {
	if from := r.Header.Get(wanHop); from != "" {
		http.Error(rw, fmt.Sprintf("forwarded twice: %s passed this on, but this server is of %s, not of %s", from, w.s.c.Datacenter, dc), http.StatusLoopDetected)
		return
	}
	if len(w.servers(dc)) == 0 {
		http.Error(rw, errNoPath.Error(), http.StatusInternalServerError)
		return
	}
	way := w.way(dc)
	if api.Bulk(r) {
		way.bulk.ServeHTTP(rw, r)
		return
	}
	way.interactive.ServeHTTP(rw, r)
}

// Ask has a server of another datacenter answer a request of this server's own; its URL is a path with a query.
func (s *Server) Ask(dc string, r *http.Request) (*http.Response, error) {
	if len(s.wan.servers(dc)) == 0 {
		return nil, errNoPath
	}
	r.URL.Scheme, r.URL.Host = "http", "server"
	r.Header.Set(wanHop, s.c.Datacenter)
	transports := s.wan.way(dc).transports
	if api.Bulk(r) {
		return again{transports[1]}.RoundTrip(r)
	}
	return again{transports[0]}.RoundTrip(r)
}

// servers are the addresses of a datacenter's servers that gossip knows; those that are alive, or where none is, those that failed.
func (w *wan) servers(dc string) []string {
	if w.s.c.WAN == nil || w.s.c.DialWAN == nil {
		return nil
	}
	var alive, failed []string
	members := w.s.c.WAN.Members()
	for i := range members {
		m := &members[i]
		switch a := m.ServerAddress(); {
		case m.Datacenter != dc || a == "":
		case m.Status == gossip.StatusAlive:
			alive = append(alive, a)
		case m.Status == gossip.StatusFailed:
			failed = append(failed, a)
		}
	}
	if len(alive) == 0 {
		return failed
	}
	return alive
}

func (w *wan) way(dc string) *wanWay {
	w.mu.Lock()
	defer w.mu.Unlock()
	if way := w.ways[dc]; way != nil {
		return way
	}
	way := &wanWay{w: w, dc: dc}
	way.interactive, way.bulk = way.proxy(), way.proxy()
	if w.ways == nil {
		w.ways = map[string]*wanWay{}
	}
	w.ways[dc] = way
	return way
}

// close closes connections that nobody uses.
func (w *wan) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, way := range w.ways {
		for _, t := range way.transports {
			t.CloseIdleConnections()
		}
	}
}

func (d *wanWay) proxy() *httputil.ReverseProxy {
	t := &http.Transport{
		DialContext:        func(ctx context.Context, _, _ string) (net.Conn, error) { return d.dial(ctx) },
		DisableCompression: true, IdleConnTimeout: 5 * time.Minute, Protocols: new(http.Protocols),
		HTTP2: &http.HTTP2Config{SendPingTimeout: wanPingAfter, PingTimeout: wanPingTimeout},
	}
	t.Protocols.SetUnencryptedHTTP2(true) // over connections that are TLS already
	d.transports = append(d.transports, t)
	log := d.w.s.c.Log
	return &httputil.ReverseProxy{
		Transport: again{t}, FlushInterval: -1,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: "server"})
			r.Out.Host = r.In.Host
			r.Out.Header.Set(wanHop, d.w.s.c.Datacenter)
			r.Out.Header.Del(hop)
			q := r.Out.URL.Query()
			q.Del("datacenter")
			q.Set("dc", d.dc) // as it is written there
			r.Out.URL.RawQuery = q.Encode()
		},
		ModifyResponse: func(resp *http.Response) error {
			if api.AtPrimary(resp.Request) { // another datacenter's index says nothing of the proxies here
				resp.Header.Del(api.IndexHeader)
			}
			return nil
		},
		ErrorHandler: func(rw http.ResponseWriter, r *http.Request, err error) {
			if r.Context().Err() != nil {
				return // the client went away
			}
			log.Warn("another datacenter doesn't answer", "datacenter", d.dc, "path", r.URL.Path, "error", err)
			if !errors.Is(err, errNoServer) {
				err = fmt.Errorf("the answer of datacenter %s was lost, what was asked may have been done: %w", d.dc, err)
			}
			http.Error(rw, err.Error(), http.StatusInternalServerError)
		},
		ErrorLog: logs.Std(log, slog.LevelDebug, "forward"),
	}
}

// again sends a read again whose connection broke before the answer.
type again struct{ t *http.Transport }

func (a again) RoundTrip(r *http.Request) (*http.Response, error) {
	for try := 1; ; try++ {
		resp, err := a.t.RoundTrip(r)
		read := (r.Method == http.MethodGet || r.Method == http.MethodHead) && (r.Body == nil || r.Body == http.NoBody)
		if err == nil || !read || try == wanReadTries || r.Context().Err() != nil || errors.Is(err, errNoServer) {
			return resp, err
		}
	}
}

// dial connects to the server that answered last, or to the next that does.
func (d *wanWay) dial(ctx context.Context) (net.Conn, error) {
	list := d.w.servers(d.dc)
	d.mu.Lock()
	last := d.last
	d.mu.Unlock()
	if i := slices.Index(list, last); i > 0 {
		list[0], list[i] = list[i], list[0]
	}
	var faults []error
	for _, address := range list {
		conn, err := func() (net.Conn, error) {
			ctx, cancel := context.WithTimeout(ctx, wanTryTime)
			defer cancel()
			return d.w.s.c.DialWAN(ctx, address, d.dc, plane.HTTP)
		}()
		if err == nil {
			d.mu.Lock()
			d.last = address
			d.mu.Unlock()
			return conn, nil
		}
		faults = append(faults, err)
		if ctx.Err() != nil {
			break
		}
	}
	return nil, fmt.Errorf("%w: %w", errNoServer, errors.Join(faults...))
}

// Datacenters lists the datacenters that gossip knows, this one first and the others by how far their servers are, those of which
// nobody knows last.
func (s *Server) Datacenters() []string {
	distances := map[string][]time.Duration{s.c.Datacenter: nil}
	if s.c.WAN != nil {
		own, located := s.c.WAN.Coordinate()
		for _, m := range s.c.WAN.Members() {
			if m.Status == gossip.StatusLeft {
				continue
			}
			if _, ok := distances[m.Datacenter]; !ok {
				distances[m.Datacenter] = nil
			}
			c, ok := s.c.WAN.CoordinateOf(m.Name)
			if !located || !ok {
				continue
			}
			if d, ok := distance(own, c); ok {
				distances[m.Datacenter] = append(distances[m.Datacenter], d)
			}
		}
	}
	return byDistance(s.c.Datacenter, distances)
}
