// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Kind is a kind of sidecar.
type Kind string

// The kinds that every row of the table runs on.
const (
	Envoy   Kind = "envoy"   // a process of Envoy for each service
	Builtin Kind = "builtin" // a process of weft's own for each service
	Host    Kind = "host"    // one process of weft's own for all services of the host
)

var kinds = []Kind{Envoy, Builtin, Host}

// World is one host: a durable agent, which is a server too, and sidecars of one kind.
type World struct {
	Kind        Kind
	dir         string
	http, grpc  int
	dns, serf   int
	args        []string
	client      *http.Client
	validations *validations

	mu    sync.Mutex // guards agent
	agent *process

	table   *testing.T // as long as which the lab lives
	labOnce sync.Once
	lab     *Lab
}

// newWorld starts an agent with a default policy for calls that no intention decides, and further configuration. Close it.
func newWorld(kind Kind, policy string, more ...string) (*World, error) {
	dir, err := os.MkdirTemp("", "weft-e2e-")
	if err != nil {
		return nil, err
	}
	w := &World{Kind: kind, dir: dir, client: &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{}}, validations: newValidations()}
	var ports [6]int
	for i := range ports {
		if ports[i], err = freePort(); err != nil {
			return nil, err
		}
	}
	w.http, w.grpc, w.dns, w.serf = ports[0], ports[1], ports[3], ports[4]
	conf := fmt.Sprintf(`
node = "one"
server = true
bootstrap_expect = 1
data_dir = %q
bind_addr = "127.0.0.1"
advertise_addr = "127.0.0.1"
default_intention_policy = %q
log_level = "debug"
ports {
  http = %d
  grpc = %d
  server = %d
  dns = %d
  serf_lan = %d
  serf_wan = -1
  expose_min_port = %[9]d
  expose_max_port = %[9]d
}
proxy { shared = %[8]t }
`, filepath.Join(dir, "data"), policy, w.http, w.grpc, ports[2], w.dns, w.serf, kind == Host, ports[5])
	confDir := filepath.Join(dir, "conf")
	if err := os.Mkdir(confDir, 0o700); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(confDir, "agent.hcl"), []byte(conf), 0o600); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(confDir, "more.hcl"), []byte(strings.Join(more, "\n")), 0o600); err != nil {
		return nil, err
	}
	w.args = []string{"agent", "-config-dir", confDir}
	if err := w.startAgent(); err != nil {
		return nil, errors.Join(err, w.close())
	}
	return w, nil
}

// mustWorld is a world of the test's own.
func mustWorld(t *testing.T, kind Kind, policy string, more ...string) *World {
	t.Helper()
	w, err := newWorld(kind, policy, more...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.endAll(t) })
	return w
}

// endAll ends the world, and wants every configuration of its Envoys to have been valid.
func (w *World) endAll(t *testing.T) {
	t.Helper()
	if n := w.validations.end(t); n > 0 {
		t.Logf("%d configurations of Envoy were validated", n)
	}
	if err := w.close(); err != nil {
		t.Error(err)
	}
}

func (w *World) agentLog() string { return filepath.Join(w.dir, "agent.log") }

// startAgent starts the agent and waits until it answers and has a leader.
func (w *World) startAgent() error {
	p, err := start("agent", w.agentLog(), binary(), w.args...)
	if err != nil {
		return err
	}
	w.mu.Lock()
	w.agent = p
	w.mu.Unlock()
	_, err = tryUntil(20*time.Second, func() error {
		if p.ended() {
			return errors.New("the agent ended by itself")
		}
		var leader string
		if err := w.do(http.MethodGet, "/v1/status/leader", nil, &leader); err != nil {
			return err
		}
		if leader == "" {
			return errors.New("no leader")
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("%w\n%s", err, tail(w.agentLog(), 20))
	}
	return nil
}

// killAgent ends the agent as a crash would.
func (w *World) killAgent() {
	w.mu.Lock()
	p := w.agent
	w.mu.Unlock()
	p.kill()
}

// close ends the agent, and the host proxy, which outlives agents.
func (w *World) close() error {
	var faults []error
	w.mu.Lock()
	if w.agent != nil {
		faults = append(faults, w.agent.stop(10*time.Second))
	}
	w.mu.Unlock()
	left, err := processesOf(w.dir + "/")
	faults = append(faults, err)
	for pid, line := range left {
		if w.Kind != Host || !strings.Contains(line, "-shared") {
			faults = append(faults, fmt.Errorf("process %d is left: %s", pid, line))
		}
		_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended
	}
	return errors.Join(append(faults, os.RemoveAll(w.dir))...)
}

type object = map[string]any

// do calls the agent's API. An answer other than 2xx is an error with its text.
func (w *World) do(method, path string, body, out any) error {
	var payload io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return err
		}
		payload = bytes.NewReader(data)
	}
	req, err := http.NewRequest(method, "http://"+loopback(w.http)+path, payload)
	if err != nil {
		return err
	}
	resp, err := w.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode > 299 {
		return fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, bytes.TrimSpace(data))
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(data, out)
}

// Mesh is what one row makes in a world: names of its own, and an end to all of it.
type Mesh struct {
	t      *testing.T
	w      *World
	prefix string
	kind   Kind   // of the sidecars that are started from now on
	uid    uint32 // whose they are; 0: the test's
}

// mesh begins a row's part of the world.
func (w *World) mesh(t *testing.T) *Mesh {
	t.Helper()
	parts := strings.Split(t.Name(), "/")
	slug := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, strings.ToLower(parts[min(1, len(parts)-1)]))
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("end of the agent's log:\n%s", tail(w.agentLog(), 25))
			if w.Kind == Host {
				t.Logf("end of the host proxy's log:\n%s", tail(filepath.Join(w.dir, "data", "run", "proxy.log"), 25))
			}
		}
	})
	return &Mesh{t: t, w: w, prefix: slug[:min(len(slug), 36)], kind: w.Kind}
}

// name is a service's name in this row.
func (m *Mesh) name(s string) string {
	if s == "*" {
		return s
	}
	return strings.Trim(m.prefix, "-") + "-" + s
}

func (m *Mesh) put(path string, body any) {
	m.t.Helper()
	if err := m.w.do(http.MethodPut, path, body, nil); err != nil {
		m.t.Fatal(err)
	}
}

// entry writes a config entry for a service of the row, until the row ends.
func (m *Mesh) entry(kind, service string, fields object) {
	m.t.Helper()
	body := object{"Kind": kind, "Name": m.name(service)}
	for k, v := range fields {
		body[k] = v
	}
	m.put("/v1/config", body)
	m.t.Cleanup(func() {
		if err := m.w.do(http.MethodDelete, "/v1/config/"+kind+"/"+m.name(service), nil, nil); err != nil {
			m.t.Error(err)
		}
	})
}

func (m *Mesh) protocol(service, protocol string) {
	m.t.Helper()
	m.entry("service-defaults", service, object{"Protocol": protocol})
}

// intend sets an intention between services of the row; "*" is everybody.
func (m *Mesh) intend(action, src, dst string) {
	m.t.Helper()
	path := "/v1/connect/intentions/exact?source=" + m.name(src) + "&destination=" + m.name(dst)
	m.put(path, object{"Action": action})
	m.t.Cleanup(func() {
		// Setting it twice has two clean-ups; the second finds nothing.
		if err := m.w.do(http.MethodDelete, path, nil, nil); err != nil && !strings.Contains(err.Error(), "404") {
			m.t.Error(err)
		}
	})
}

func (m *Mesh) forget(src, dst string) {
	m.t.Helper()
	if err := m.w.do(http.MethodDelete, "/v1/connect/intentions/exact?source="+m.name(src)+"&destination="+m.name(dst), nil, nil); err != nil {
		m.t.Fatal(err)
	}
}

// Instance is a registered service with its sidecar.
type Instance struct {
	ID, Name string // as registered
	space    string // namespace, "" for the default one
	Public   int    // where its sidecar takes mutual TLS
	Port     int    // where the application listens
	Up       map[string]string
	admin    string // of its sidecar, where that is a process of its own
	sidecar  *process
	envoy    bool // it is an Envoy
}

// instance registers a service with a sidecar, runs the sidecar, and waits until it has its configuration.
func (m *Mesh) instance(service, id string, port int, ups ...string) *Instance {
	m.t.Helper()
	return m.described(service, id, port, nil, ups...)
}

// described is instance with more fields of the service's registration.
func (m *Mesh) described(service, id string, port int, fields object, ups ...string) *Instance {
	m.t.Helper()
	i := &Instance{ID: m.name(id), Name: m.name(service), Public: mustPort(m.t), Port: port, Up: map[string]string{}}
	var upstreams []object
	for _, u := range ups {
		p := mustPort(m.t)
		i.Up[u] = loopback(p)
		upstreams = append(upstreams, object{"DestinationName": m.name(u), "LocalBindPort": p})
	}
	body := object{
		"ID": i.ID, "Name": i.Name, "Port": port,
		"Connect": object{"SidecarService": object{
			"Port": i.Public, "Proxy": object{"Upstreams": upstreams},
			"Checks": []object{
				{"Name": "listening " + i.ID, "TCP": loopback(i.Public), "Interval": "1s", "Timeout": "5s"},
				{"Name": "alias " + i.ID, "AliasService": i.ID},
			},
		}},
	}
	for k, v := range fields {
		body[k] = v
	}
	i.space, _ = fields["Namespace"].(string)
	m.put("/v1/agent/service/register", body)
	m.t.Cleanup(func() { m.remove(i) })
	m.sidecar(i)
	return i
}

// remove deregisters an instance, and ends its sidecar.
func (m *Mesh) remove(i *Instance) {
	if i.envoy && i.sidecar != nil && !i.sidecar.ended() {
		m.validate(i)
	}
	m.deregister(i)
	if i.sidecar != nil {
		if err := i.sidecar.stop(10 * time.Second); err != nil {
			m.t.Error(err)
		}
		i.sidecar = nil
	}
}

func (m *Mesh) deregister(i *Instance) {
	if err := m.w.do(http.MethodPut, "/v1/agent/service/deregister/"+i.ID, nil, nil); err != nil && !strings.Contains(err.Error(), "404") {
		m.t.Error(err)
	}
}

// sidecar runs an instance's sidecar.
func (m *Mesh) sidecar(i *Instance) {
	m.t.Helper()
	if m.kind != Host {
		i.sidecar = m.runSidecar(m.kind, i)
	}
	until(m.t, 15*time.Second, func() error { return m.settled(i) })
	if m.kind == Envoy { // the program is what the row's name says
		if exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", i.sidecar.cmd.Process.Pid)); err != nil || !strings.Contains(filepath.Base(exe), "envoy") {
			m.t.Fatalf("the sidecar of %s runs %q (%v), want Envoy", i.ID, exe, err)
		}
		m.validate(i)
	}
}

func (m *Mesh) runSidecar(kind Kind, i *Instance) *process {
	m.t.Helper()
	args := []string{"connect", "proxy"}
	if kind == Envoy {
		args = []string{"connect", "envoy", "-envoy-binary", envoy()}
	}
	i.admin, i.envoy = loopback(mustPort(m.t)), kind == Envoy
	args = append(args, "-http-addr", loopback(m.w.http), "-sidecar-for", i.ID, "-admin-bind", i.admin)
	if i.space != "" {
		args = append(args, "-namespace", i.space)
	}
	if kind == Envoy {
		args = append(args, "--", "--concurrency", "1", "-l", "warning")
	}
	log := filepath.Join(m.w.dir, "sidecar-"+i.ID+".log")
	p, err := startAs(m.uid, "sidecar of "+i.ID, log, binary(), args...)
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() {
		p.kill()
		if m.t.Failed() {
			m.t.Logf("end of the log of %s:\n%s", p.name, tail(log, 15))
		}
	})
	return p
}

// proxyStatus is what the agent knows of a proxy.
type proxyStatus struct {
	ProxyID, RenderedHash, AckedHash, Refusal, NotReady string
	Connected                                           bool
}

func (m *Mesh) status(i *Instance) (proxyStatus, error) {
	var all []proxyStatus
	if err := m.w.do(http.MethodGet, "/v1/agent/connect/proxies?ns=*", nil, &all); err != nil {
		return proxyStatus{}, err
	}
	for _, p := range all {
		if p.ProxyID == i.ID+"-sidecar-proxy" {
			return p, nil
		}
	}
	return proxyStatus{}, fmt.Errorf("no proxy of %s is known", i.ID)
}

// settled says whether an instance's sidecar has the newest configuration.
func (m *Mesh) settled(i *Instance) error {
	p, err := m.status(i)
	switch {
	case err != nil:
		return err
	case i.sidecar != nil && i.sidecar.ended():
		m.t.Fatalf("%s ended by itself:\n%s", i.sidecar.name, tail(i.sidecar.log, 15))
	case p.Refusal != "":
		return fmt.Errorf("the sidecar of %s refuses its configuration: %s", i.ID, p.Refusal)
	case !p.Connected || p.RenderedHash == "" || p.RenderedHash != p.AckedHash:
		return fmt.Errorf("the sidecar of %s hasn't its configuration: %+v", i.ID, p)
	}
	return nil
}
