// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weftmesh/weft/connect/proxy/reason"
)

// TestProxyHour has traffic of every protocol go through the built-in proxy, and then the host proxy, while the configuration changes
// each 100 ms: every answer is right, each that a proxy made says a reason which the changes explain, no connection that a change doesn't
// concern ends, and afterwards a proxy has what it had before. `make proxy-hour` runs it with a weft that has the race detector in it.
func TestProxyHour(t *testing.T) {
	enabled(t)
	d, err := time.ParseDuration(os.Getenv("WEFT_PROXY_HOUR"))
	if err != nil {
		t.Skip("as long as WEFT_PROXY_HOUR says: run `make proxy-hour`")
	}
	for _, kind := range []Kind{Builtin, Host} {
		t.Run(string(kind), func(t *testing.T) { newHour(t, mustWorld(t, kind, "deny")).run(d / 2) })
	}
}

// hour is one run of it.
type hour struct {
	*Mesh
	web     *Instance
	addr    map[string]string // where web finds each service
	proxies map[string]*proxyAt

	route   atomic.Int64    // the version of the route that was written last
	guards  atomic.Int64    // how often the guarded services' intentions were changed: an odd number, and they are denied
	changed atomic.Int64    // when, in Unix nanoseconds
	second  *Instance       // of moving; it comes and goes
	there   bool            // it has come
	comes   *Backend        // its application
	ended   context.Context // when the traffic ends

	mu     sync.Mutex     // guards those below
	counts map[string]int // what was done, and what was answered by proxies
	wrong  []string
	most   map[string]time.Duration // how long it took at most
}

// patience is how long an answer may take. A machine that has other work makes none wrong; what is lost is lost after a minute, too.
const patience = time.Minute

// proxyAt is a proxy's process, as it is looked at from outside.
type proxyAt struct {
	pid   int
	admin string
	log   string
}

func newHour(t *testing.T, w *World) *hour {
	h := &hour{Mesh: w.mesh(t), addr: map[string]string{}, proxies: map[string]*proxyAt{}, counts: map[string]int{}, most: map[string]time.Duration{}}
	h.prefix = "hour"
	if w.Kind == Host {
		h.ownHostProxy()
	}
	for service, protocol := range map[string]string{"api": "http", "moving": "http", "shut": "http", "streams": "http2", "calls": "grpc", "raw": "tcp", "guarded": "tcp", "one": "tcp", "two": "tcp"} {
		h.must(h.defaults(service, protocol, 1000))
		h.must(h.intended(service, "allow"))
	}
	version := func(v string) object { return object{"Meta": object{"version": v}} }
	all := []*Instance{h.described("api", "api-1", httpBackend(t, "v1").Port, version("1")), h.described("api", "api-2", httpBackend(t, "v2").Port, version("2"))}
	all = append(all, h.instance("moving", "moving-1", httpBackend(t, "moving").Port), h.instance("streams", "streams", httpBackend(t, "streams").Port),
		h.instance("shut", "shut", httpBackend(t, "shut").Port),
		h.instance("calls", "calls", grpcBackend(t).Port), h.instance("raw", "raw", tcpBackend(t).Port), h.instance("guarded", "guarded", tcpBackend(t).Port))
	tlsOne, _ := tlsBackend(t, "one.example.com")
	tlsTwo, _ := tlsBackend(t, "two.example.com")
	all = append(all, h.instance("one", "one", tlsOne.Port), h.instance("two", "two", tlsTwo.Port))
	h.put("/v1/config", object{"Kind": "service-resolver", "Name": h.name("api"), "Subsets": object{
		"v1": object{"Filter": `Service.Meta.version == "1"`}, "v2": object{"Filter": `Service.Meta.version == "2"`},
	}})
	h.must(h.split(50))
	h.must(h.routed())
	h.comes = httpBackend(t, "moving")
	h.second = &Instance{ID: h.name("moving-2"), Name: h.name("moving"), Public: mustPort(t), Port: h.comes.Port}
	h.must(h.move(true))
	h.sidecar(h.second)
	t.Cleanup(func() { h.remove(h.second) })
	h.web = h.caller()
	for _, i := range append(all, h.web, h.second) {
		if i.sidecar != nil {
			h.proxies[i.ID] = &proxyAt{i.sidecar.cmd.Process.Pid, i.admin, i.sidecar.log}
		}
	}
	until(t, 60*time.Second, h.all)
	return h
}

// caller is web, whose upstreams one and two share a port.
func (h *hour) caller() *Instance {
	i := &Instance{ID: h.name("web"), Name: h.name("web"), Public: mustPort(h.t), Port: mustPort(h.t), Up: map[string]string{}}
	var ups []object
	for _, service := range []string{"api", "moving", "shut", "streams", "calls", "raw", "guarded", "tls"} {
		port := mustPort(h.t)
		h.addr[service] = loopback(port)
		if service != "tls" {
			ups = append(ups, object{"DestinationName": h.name(service), "LocalBindPort": port, "Config": object{"connect_timeout_ms": patience.Milliseconds()}})
			continue
		}
		for _, name := range []string{"one", "two"} {
			ups = append(ups, object{"DestinationName": h.name(name), "LocalBindPort": port, "Config": object{"sni": name + ".example.com", "connect_timeout_ms": patience.Milliseconds()}})
		}
	}
	h.put("/v1/agent/service/register", object{
		"ID": i.ID, "Name": i.Name, "Port": i.Port,
		"Connect": object{"SidecarService": object{"Port": i.Public, "Proxy": object{"Upstreams": ups}}},
	})
	h.t.Cleanup(func() { h.remove(i) })
	h.sidecar(i)
	return i
}

// ownHostProxy puts a host proxy with an admin page in the place of the one that the agent has started.
func (h *hour) ownHostProxy() {
	run := filepath.Join(h.w.dir, "data", "run")
	h.w.killAgent()
	left, err := processesOf("-socket " + run)
	if err != nil {
		h.t.Fatal(err)
	}
	for pid := range left {
		p, err := os.FindProcess(pid)
		if err == nil {
			_ = p.Kill() // it may have ended
		}
	}
	at := &proxyAt{admin: loopback(mustPort(h.t)), log: filepath.Join(run, "proxy.log")}
	p, err := start("host proxy", at.log, binary(), "connect", "proxy", "-shared", "-socket", filepath.Join(run, "proxy.sock"), "-admin-bind", at.admin)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(p.kill)
	at.pid = p.cmd.Process.Pid
	h.proxies["host"] = at
	until(h.t, 15*time.Second, func() error { _, err := os.Stat(filepath.Join(run, "proxy.sock")); return err })
	if err := h.w.startAgent(); err != nil {
		h.t.Fatal(err)
	}
}

func (h *hour) must(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

// all makes one call of each kind of traffic.
func (h *hour) all() error {
	for name, tr := range h.traffic() {
		c := newCaller()
		err := tr(h, c)
		if c.close(); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// run is traffic and changes for d, then quiet, and then what is left of it in the proxies.
func (h *hour) run(d time.Duration) {
	t := h.t
	before := map[string]usage{}
	for name, p := range h.proxies {
		u, err := p.usage()
		h.must(err)
		before[name] = u
	}
	var cancel context.CancelFunc
	h.ended, cancel = context.WithTimeout(t.Context(), d)
	defer cancel()
	var wg sync.WaitGroup
	for name, tr := range h.traffic() {
		for range 3 {
			wg.Go(func() { h.drive(name, tr) })
		}
	}
	for name, tr := range h.held() {
		for range 4 {
			wg.Go(func() { h.hold(name, tr) })
		}
	}
	wg.Go(h.change)
	wg.Go(func() { h.tell(d / 12) })
	wg.Wait()
	if h.guards.Load()%2 == 1 {
		h.must(h.guard())
	}
	h.must(h.move(true))
	until(t, patience, h.all)
	h.told()
	if len(h.wrong) > 0 {
		t.Errorf("%d wrong:\n%s", len(h.wrong), strings.Join(h.wrong[:min(len(h.wrong), 30)], "\n"))
	}
	if want := int(d / (100 * time.Millisecond) / 3); h.counts["changes"] < want || h.counts["guarded: denied"] == 0 {
		t.Errorf("%d changes were made, want %d and more; %d calls were denied", h.counts["changes"], want, h.counts["guarded: denied"])
	}
	if h.comes.count() == 0 {
		t.Error("the instance that comes and goes was never called")
	}
	h.idle(before)
	h.logs()
}

// tell says now and then how it is going.
func (h *hour) tell(each time.Duration) {
	tick := time.NewTicker(each)
	defer tick.Stop()
	for {
		select {
		case <-h.ended.Done():
			return
		case <-tick.C:
		}
		h.told()
		for _, name := range slices.Sorted(maps.Keys(h.proxies)) {
			u, err := h.proxies[name].usage()
			h.t.Logf("%s: %+v %v", name, u, err)
		}
	}
}

func (h *hour) told() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(h.counts)) {
		h.t.Logf("%9d %s, %s at the most", h.counts[name], name, h.most[name].Round(time.Millisecond))
	}
	h.t.Logf("%9d wrong", len(h.wrong))
}

// drive has one client call over and over. A fault ends it no more than the traffic does.
func (h *hour) drive(name string, tr traffic) {
	c := newCaller()
	defer c.close()
	for h.ended.Err() == nil {
		began := time.Now()
		h.note(name, began, tr(h, c))
		select {
		case <-h.ended.Done():
		case <-time.After(time.Duration(rand.IntN(10)) * time.Millisecond):
		}
	}
}

// byDesign is an answer that a proxy made itself, for a reason that the changes explain.
type byDesign struct{ what string }

func (e *byDesign) Error() string { return e.what }

// note counts what was called at a time and has been answered now; what is wrong is told at once.
func (h *hour) note(name string, began time.Time, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	took := time.Since(began)
	var why *byDesign
	switch {
	case errors.As(err, &why):
		name += ": " + why.what
	case err != nil:
		what := fmt.Sprintf("%s %s, after %s: %v", time.Now().Format("15:04:05.000"), name, took.Round(time.Millisecond), err)
		h.t.Log(what)
		h.wrong = append(h.wrong, what)
		return
	}
	h.counts[name]++
	h.most[name] = max(h.most[name], took)
}

// usage is what a process holds. The race detector has memory of its own, which grows, beside what Go has of the system.
type usage struct{ goroutines, files, heap, system, resident int }

func (p *proxyAt) usage() (u usage, err error) {
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.pid))
	if err != nil {
		return u, err
	}
	u.files = len(fds)
	for name, into := range map[string]*int{"go_goroutines": &u.goroutines, "go_memstats_heap_alloc_bytes": &u.heap, "go_memstats_sys_bytes": &u.system, "process_resident_memory_bytes": &u.resident} {
		if *into, err = metric("http://"+p.admin+"/metrics", name); err != nil || *into == 0 {
			return u, fmt.Errorf("%s is %d: %w", name, *into, err)
		}
	}
	return u, nil
}

// idle waits until no proxy holds more than before the traffic, within what pools and histograms may keep.
func (h *hour) idle(before map[string]usage) {
	for name, p := range h.proxies {
		b, u := before[name], usage{}
		took, err := tryUntil(5*time.Minute, func() error {
			var err error
			if u, err = p.usage(); err != nil {
				return err
			}
			if u.goroutines > b.goroutines+12 || u.files > b.files+12 || u.heap > b.heap+12<<20 || u.system > b.system+64<<20 {
				return fmt.Errorf("%s holds %+v, before the traffic %+v", name, u, b)
			}
			return nil
		})
		if err != nil {
			h.t.Error(err)
		}
		h.t.Logf("%s: %+v, before the traffic %+v (after %s)", name, u, b, took.Round(time.Second))
	}
}

// logs looks for what no proxy may say, and for reasons that nobody can look up.
func (h *hour) logs() {
	for name, p := range h.proxies {
		data, err := os.ReadFile(p.log)
		if err != nil {
			h.t.Fatal(err)
		}
		for _, bad := range []string{"DATA RACE", "panic:", "level=ERROR", "goroutine stack exceeds"} {
			if at := strings.Index(string(data), bad); at >= 0 {
				h.t.Errorf("%s says %q:\n%s", name, bad, data[max(0, at-200):min(len(data), at+4000)])
			}
		}
	}
	data, err := os.ReadFile(h.w.agentLog())
	if err != nil {
		h.t.Fatal(err)
	}
	if at := strings.Index(string(data), "DATA RACE"); at >= 0 {
		h.t.Errorf("the agent has a race:\n%s", data[at:min(len(data), at+4000)])
	}
}

// made says what an answer with another status is: by design if its reason is one of these.
func made(resp *http.Response, body []byte, allowed ...reason.Code) error {
	code := reason.Code(resp.Header.Get(reason.Header))
	if _, known := reason.Explanations[code]; known && slices.Contains(allowed, code) {
		return &byDesign{strconv.Itoa(resp.StatusCode) + " " + string(code)}
	}
	return fmt.Errorf("%s, reason %q: %.200s", resp.Status, code, body)
}

// random is some bytes, mostly few.
func random() []byte {
	n := 1 + rand.IntN(2000)
	if rand.IntN(20) == 0 {
		n = rand.IntN(300_000)
	}
	out := make([]byte, n)
	for i := range out {
		out[i] = byte('a' + rand.IntN(26))
	}
	return out
}

// echoed writes to a connection and wants it back.
func echoed(c io.ReadWriter, out []byte) error {
	done := make(chan error, 1)
	go func() { _, err := c.Write(out); done <- err }() // ends with the connection at the latest
	got := make([]byte, len(out))
	_, err := io.ReadFull(c, got)
	switch {
	case err != nil:
		return err
	case string(got) != string(out):
		return fmt.Errorf("%d bytes came back changed", len(out))
	}
	return <-done
}
