// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Lab is what the rows about traffic share in a world, so that they need no sidecars of their own: web calls api (v1 twice and
// v2), spare, raw (TCP, v1 and v2) and calls (gRPC). A row writes config entries, which go with it.
type Lab struct {
	*Mesh
	web                 *Instance
	v1, v1b, v2, spare  *labBackend
	raw1, raw2          *Instance
	api1, api1b         *Instance
	grpc                *Backend
	api, rawAddr, calls string // where web finds them
}

// traffic gives a row the world's lab.
func (w *World) traffic(t *testing.T) *Lab {
	t.Helper()
	w.labOnce.Do(func() { w.lab = newLab(w) })
	if w.lab == nil {
		t.Fatal("the lab could not be made")
	}
	l := *w.lab
	m := *l.Mesh
	m.t = t
	l.Mesh = &m
	return &l
}

func newLab(w *World) *Lab {
	t := w.table
	m := w.mesh(t)
	m.prefix = "lab"
	l := &Lab{Mesh: m, v1: newLabBackend(t, "v1"), v1b: newLabBackend(t, "v1b"), v2: newLabBackend(t, "v2"), spare: newLabBackend(t, "spare")}
	for service, protocol := range map[string]string{"api": "http", "spare": "http", "raw": "tcp", "calls": "grpc"} {
		m.protocol(service, protocol)
		m.intend("allow", "web", service)
	}
	version := func(v string) object { return object{"Meta": object{"version": v}} }
	at := func(v, region, zone string) object {
		return object{"Meta": object{"version": v}, "Locality": object{"Region": region, "Zone": zone}}
	}
	m.put("/v1/config", object{"Kind": "mesh", "AllowEnablingPermissiveMutualTLS": true})
	l.api1 = m.described("api", "api-1", l.v1.port, at("1", "r1", "z1"))
	l.api1b = m.described("api", "api-1b", l.v1b.port, at("1", "r1", "z2"))
	m.described("api", "api-2", l.v2.port, at("2", "r2", "z1"))
	m.instance("spare", "spare", l.spare.port)
	l.raw1 = m.described("raw", "raw-1", namedTCP(t, "1"), version("1"))
	l.raw2 = m.described("raw", "raw-2", namedTCP(t, "2"), version("2"))
	l.grpc = grpcBackend(t)
	m.instance("calls", "calls", l.grpc.Port)
	l.web = m.described("web", "web", mustPort(t), object{"Meta": object{"tier": "gold"}, "Locality": object{"Region": "r1", "Zone": "z1"}}, "api", "raw", "calls", "spare")
	l.api, l.rawAddr, l.calls = l.web.Up["api"], l.web.Up["raw"], l.web.Up["calls"]
	until(t, 30*time.Second, func() error {
		for service, want := range map[string]int{"api": 3, "raw": 2, "calls": 1, "spare": 1} {
			var passing []object
			if err := w.do(http.MethodGet, "/v1/health/connect/"+m.name(service)+"?passing", nil, &passing); err != nil || len(passing) != want {
				return fmt.Errorf("%d instances of %s pass, want %d (%w)", len(passing), service, want, err)
			}
		}
		g, err := l.call("GET", "/")
		if err != nil {
			return err
		}
		return statusIs(http.StatusOK)(g)
	})
	return l
}

// namedTCP answers each connection with its name, and then echoes.
func namedTCP(t *testing.T, name string) int {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	go func() { // ends with the listener
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_, _ = io.WriteString(conn, name)
				_, _ = io.Copy(conn, conn)
			}()
		}
	}()
	return ln.Addr().(*net.TCPAddr).Port
}

// subsets makes api's versions subsets, with what else its resolver is to say.
func (l *Lab) subsets(more object) {
	l.t.Helper()
	fields := object{"Subsets": object{"v1": object{"Filter": `Service.Meta.version == "1"`}, "v2": object{"Filter": `Service.Meta.version == "2"`}}}
	for k, v := range more {
		fields[k] = v
	}
	l.entry("service-resolver", "api", fields)
}

// routes writes api's routes.
func (l *Lab) routes(routes ...object) {
	l.t.Helper()
	l.entry("service-router", "api", object{"Routes": routes})
}

// labBackend says with each answer what it was asked. The header X-Do, as "v1 503" or "* sleep=100ms", makes it (or all) do
// otherwise: a status, a wait, or "reset".
type labBackend struct {
	name string
	port int

	requests atomic.Int64
	now, top atomic.Int64 // requests at the moment, and the most there were
	mu       sync.Mutex   // guards do
	do       string       // as X-Do, for all requests
}

// seen is what a request looked like to the application.
type seen struct {
	Backend, Method, URI, Host string
	Header                     http.Header
	Body                       string
}

func newLabBackend(t *testing.T, name string) *labBackend {
	t.Helper()
	b := &labBackend{name: name}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b.port = ln.Addr().(*net.TCPAddr).Port
	s := &http.Server{Handler: b}
	go func() { _ = s.Serve(ln) }() // ends with Close
	t.Cleanup(func() { _ = s.Close() })
	return b
}

func (b *labBackend) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b.requests.Add(1)
	now := b.now.Add(1)
	defer b.now.Add(-1)
	for top := b.top.Load(); now > top && !b.top.CompareAndSwap(top, now); top = b.top.Load() {
	}
	body, _ := io.ReadAll(r.Body)
	b.mu.Lock()
	do := b.do
	b.mu.Unlock()
	status := http.StatusOK
	for _, order := range append(r.Header.Values("X-Do"), do) {
		who, what, _ := strings.Cut(order, " ")
		if who != "*" && who != b.name {
			continue
		}
		if d, ok := strings.CutPrefix(what, "sleep="); ok {
			wait, _ := time.ParseDuration(d)
			select {
			case <-time.After(wait):
			case <-r.Context().Done():
				return
			}
		} else if d, ok := strings.CutPrefix(what, "after="); ok {
			w.Header().Set("Retry-After", d)
		} else if what == "reset" {
			panic(http.ErrAbortHandler)
		} else if n, err := strconv.Atoi(what); err == nil {
			status = n
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Backend", b.name)
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(seen{b.name, r.Method, r.RequestURI, r.Host, r.Header, string(body)})
}

// always makes the backend do so for every request, until the row ends.
func (b *labBackend) always(t *testing.T, what string) {
	set := func(s string) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.do = s
	}
	set("* " + what)
	t.Cleanup(func() { set("") })
}

// got is an answer.
type got struct {
	Status int
	Header http.Header
	Seen   seen // where an application answered
	Body   string
}

var labClient = &http.Client{
	Timeout: 20 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 64, DisableCompression: true},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// call calls api. Headers are "name: value"; ":authority" sets the host.
func (l *Lab) call(method, path string, headers ...string) (got, error) {
	return callAt(l.api, method, path, "", headers...)
}

func callAt(addr, method, path, body string, headers ...string) (got, error) {
	var rd io.Reader
	if body != "" {
		rd = strings.NewReader(body)
	}
	req, err := http.NewRequest(method, "http://"+addr+path, rd)
	if err != nil {
		return got{}, err
	}
	req.Host = "api.shop"
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		if name == ":authority" {
			req.Host = value
		} else {
			req.Header.Add(name, value)
		}
	}
	resp, err := labClient.Do(req)
	if err != nil {
		return got{}, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	g := got{Status: resp.StatusCode, Header: resp.Header, Body: string(data)}
	if err == nil && resp.Header.Get("X-Backend") != "" {
		err = json.Unmarshal(data, &g.Seen)
	}
	return g, err
}

// route is the header by which the rows' routes say which of them it was.
const route = "X-Route"

// marked is a route of the rows, which says its name.
func marked(name string, match object) object {
	return object{"Match": match, "Destination": object{"ResponseHeaders": object{"Set": object{route: name}}}}
}

// comes waits until calls are answered as f wants.
func (l *Lab) comes(method, path string, f func(got) error, headers ...string) {
	l.t.Helper()
	until(l.t, callWithin, func() error {
		g, err := l.call(method, path, headers...)
		if err != nil {
			return err
		}
		return f(g)
	})
}

// everywhere waits until each of api's instances, which have sidecars of their own, answers as f wants.
func (l *Lab) everywhere(path string, f func(got) error, headers ...string) {
	l.t.Helper()
	until(l.t, callWithin, func() error {
		for range 9 {
			g, err := l.call("GET", path, headers...)
			if err == nil {
				err = f(g)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

func byRoute(name string) func(got) error {
	return func(g got) error {
		if r := g.Header.Get(route); r != name {
			return fmt.Errorf("status %d by route %q, want %q", g.Status, r, name)
		}
		return nil
	}
}

// is makes one call and wants it to be answered so.
func (l *Lab) is(f func(got) error, method, path string, headers ...string) {
	l.t.Helper()
	g, err := l.call(method, path, headers...)
	if err == nil {
		err = f(g)
	}
	if err != nil {
		l.t.Errorf("%s %s %v: %v", method, path, headers, err)
	}
}

func statusIs(code int) func(got) error {
	return func(g got) error {
		if g.Status != code {
			return fmt.Errorf("%d %q, want %d", g.Status, g.Body, code)
		}
		return nil
	}
}

// metric sums what a page of metrics says under a name that begins so, in lines that hold all of the texts.
func metric(url, name string, holds ...string) (int, error) {
	resp, err := labClient.Get(url)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	page, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err
	}
	sum := 0.0
lines:
	for line := range strings.Lines(string(page)) {
		if !strings.HasPrefix(line, name) {
			continue
		}
		for _, text := range holds {
			if !strings.Contains(line, text) {
				continue lines
			}
		}
		n, err := strconv.ParseFloat(strings.TrimSpace(line[strings.LastIndexByte(line, ' '):]), 64)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return int(sum), nil
}

// because wants an answer that a proxy made itself, for this reason.
func because(reason string) func(got) error {
	return func(g got) error {
		if have := g.Header.Get("X-Weft-Reason"); have != reason {
			return fmt.Errorf("%d for the reason %q, want %q", g.Status, have, reason)
		}
		return nil
	}
}
