// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/weftmesh/weft/cli/apiclient"
)

type object = map[string]any

// mesh is an agent, web and api with their sidecars, and api's backends, which are in this process.
type mesh struct {
	kind, protocol, weft, envoy string
	logLevel                    string // of the sidecars
	dir                         string
	http, grpc, upstream        int
	api                         *apiclient.Client
	agent                       *exec.Cmd
	sidecars                    map[string]*exec.Cmd // by proxy ID; "host" for the host proxy
	backends                    []*backend
	seen                        sync.Map // request id → *atomic.Int32
	port                        int      // of a backend that is there already; 0: one is made
	features                    bool     // all of features.json
	collector                   int      // the port of what takes spans, with features
}

// backend is one instance of api.
type backend struct {
	id   string
	port int
	l    net.Listener
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

func newMesh(ctx context.Context, kind, protocol, level, weft, envoy string) (*mesh, error) {
	m, err := makeMesh(kind, protocol, weft, envoy)
	if err != nil {
		return nil, err
	}
	m.logLevel = level
	return m, m.start(ctx)
}

// makeMesh is a mesh that isn't started.
func makeMesh(kind, protocol, weft, envoy string) (*mesh, error) {
	dir, err := os.MkdirTemp("", "weft-bench-")
	if err != nil {
		return nil, err
	}
	m := &mesh{kind: kind, protocol: protocol, logLevel: "info", weft: weft, envoy: envoy, dir: dir, sidecars: map[string]*exec.Cmd{}}
	for _, p := range []*int{&m.http, &m.grpc, &m.upstream} {
		if *p, err = freePort(); err != nil {
			return nil, err
		}
	}
	m.api, err = apiclient.New(apiclient.Config{Address: "127.0.0.1:" + strconv.Itoa(m.http), Getenv: func(string) string { return "" }})
	if err != nil {
		return nil, err
	}
	return m, err
}

func (m *mesh) start(ctx context.Context) error {
	conf := fmt.Sprintf("server = true\ndata_dir = %q\nbind_addr = \"127.0.0.1\"\nnode_name = \"bench\"\nports { http = %d grpc = %d dns = -1 sidecar_min_port = 27000 sidecar_max_port = 27255 }\nproxy { shared = %v }\n",
		filepath.Join(m.dir, "data"), m.http, m.grpc, m.kind == "host")
	if err := os.WriteFile(filepath.Join(m.dir, "agent.hcl"), []byte(conf), 0o600); err != nil {
		return err
	}
	if err := m.startAgent(ctx); err != nil {
		return err
	}
	if m.protocol != "tcp" {
		for _, s := range []string{"api", "web"} {
			if err := m.put(ctx, "/v1/config", object{"Kind": "service-defaults", "Name": s, "Protocol": m.protocol}); err != nil {
				return err
			}
		}
	}
	if m.features && m.protocol != "tcp" {
		if err := m.writeFeatures(ctx); err != nil {
			return err
		}
	} else if err := m.put(ctx, "/v1/connect/intentions/exact?source=web&destination=api", object{"Action": "allow"}); err != nil {
		return err
	}
	if err := m.addBackend(ctx, "api-1"); err != nil {
		return err
	}
	if err := m.put(ctx, "/v1/agent/service/register", object{"Name": "web", "Port": 1, "Address": "127.0.0.1", "Connect": object{"SidecarService": object{
		"Proxy": object{"Upstreams": []object{{"DestinationName": "api", "LocalBindPort": m.upstream}}},
	}}}); err != nil {
		return err
	}
	if err := m.startSidecar(ctx, "web"); err != nil {
		return err
	}
	if m.port != 0 {
		return until(ctx, 20*time.Second, func() error {
			return errors.Join(m.ready(ctx, "web-sidecar-proxy"), m.ready(ctx, "api-1-sidecar-proxy"))
		})
	}
	return until(ctx, 20*time.Second, func() error { return m.call(ctx) })
}

// writeFeatures writes the config entries of features.json, the access logs to a file of this mesh's.
func (m *mesh) writeFeatures(ctx context.Context) error {
	data, err := os.ReadFile("bench/features.json")
	if err != nil {
		return err
	}
	var entries []object
	data = bytes.ReplaceAll(data, []byte("ACCESS_LOG"), []byte(filepath.Join(m.dir, "access.log")))
	data = bytes.ReplaceAll(data, []byte("COLLECTOR"), []byte("http://"+loopbackAddr(m.collector)))
	if err := json.Unmarshal(data, &entries); err != nil {
		return fmt.Errorf("bench/features.json: %w", err)
	}
	for _, e := range entries {
		if err := m.put(ctx, "/v1/config", e); err != nil {
			return fmt.Errorf("%v %v: %w", e["Kind"], e["Name"], err)
		}
	}
	return nil
}

func (m *mesh) startAgent(ctx context.Context) error {
	m.agent = m.command("agent", "agent", "-config-dir", m.dir)
	if err := m.agent.Start(); err != nil {
		return err
	}
	return until(ctx, 20*time.Second, func() error {
		var leader string
		_, err := m.api.Do(ctx, http.MethodGet, "/v1/status/leader", nil, nil, &leader)
		if err == nil && leader == "" {
			err = errors.New("no leader")
		}
		return err
	})
}

// command is a child whose output goes to a file; it dies with this process.
func (m *mesh) command(name string, args ...string) *exec.Cmd {
	c := exec.Command(m.weft, args...)
	if f, err := os.OpenFile(filepath.Join(m.dir, name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err == nil {
		c.Stdout, c.Stderr = f, f
	}
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return c
}

func (m *mesh) put(ctx context.Context, path string, body any) error {
	p, query, _ := strings.Cut(path, "?")
	q := map[string][]string{}
	for kv := range strings.SplitSeq(query, "&") {
		if k, v, ok := strings.Cut(kv, "="); ok {
			q[k] = []string{v}
		}
	}
	_, err := m.api.Do(ctx, http.MethodPut, p, q, body, nil)
	return err
}

func (m *mesh) startSidecar(_ context.Context, id string) error {
	if m.kind == "host" {
		return nil // the agent's host proxy is its sidecar
	}
	args := []string{"connect", "proxy", "-http-addr", "127.0.0.1:" + strconv.Itoa(m.http), "-sidecar-for", id, "-log-level", m.logLevel}
	if m.kind == "envoy" {
		port, err := freePort()
		if err != nil {
			return err
		}
		args = []string{
			"connect", "envoy", "-http-addr", "127.0.0.1:" + strconv.Itoa(m.http), "-sidecar-for", id, "-envoy-binary", m.envoy,
			"-admin-bind", "127.0.0.1:" + strconv.Itoa(port), "--", "--concurrency", "1",
		}
	}
	c := m.command(id, args...)
	m.sidecars[id] = c
	return c.Start()
}

// addBackend starts an instance of api, registers it, and starts its sidecar.
func (m *mesh) addBackend(ctx context.Context, id string) error {
	if m.port != 0 {
		b := &backend{id: id, port: m.port}
		m.backends = append(m.backends, b)
		return errors.Join(m.put(ctx, "/v1/agent/service/register", m.registration(b)), m.startSidecar(ctx, id))
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	b := &backend{id: id, port: l.Addr().(*net.TCPAddr).Port, l: l}
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if rid := r.Header.Get("x-bench-id"); rid != "" {
			n, _ := m.seen.LoadOrStore(rid, &atomic.Int32{})
			n.(*atomic.Int32).Add(1)
		}
		_, _ = io.WriteString(w, "ok") // the client may be gone
	})}
	go func() { _ = server.Serve(l) }() // ends with the listener
	m.backends = append(m.backends, b)
	if err := m.put(ctx, "/v1/agent/service/register", m.registration(b)); err != nil {
		return err
	}
	return m.startSidecar(ctx, id)
}

func (m *mesh) registration(b *backend) object {
	return object{"ID": b.id, "Name": "api", "Port": b.port, "Address": "127.0.0.1", "Connect": object{"SidecarService": object{
		"Checks": []object{{"Name": "sidecar", "AliasService": b.id}},
	}}}
}

// call makes one request through web's sidecar on a connection of its own.
func (m *mesh) call(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, m.url(), nil)
	if err != nil {
		return err
	}
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("answered %s", resp.Status)
	}
	return nil
}

func (m *mesh) url() string { return "http://127.0.0.1:" + strconv.Itoa(m.upstream) + "/" }

func (m *mesh) close() {
	for _, c := range m.sidecars {
		_ = c.Process.Signal(syscall.SIGTERM)
		_ = c.Wait()
	}
	if m.agent != nil && m.agent.Process != nil {
		_ = m.agent.Process.Signal(syscall.SIGTERM)
		_ = m.agent.Wait()
	}
	if pid, err := m.hostProxy(); err == nil {
		_ = syscall.Kill(pid, syscall.SIGTERM)
		_ = until(context.Background(), 15*time.Second, func() error { // its ports are wanted by the next mesh
			if syscall.Kill(pid, 0) == nil {
				return errors.New("it drains")
			}
			return nil
		})
	}
	if os.Getenv("BENCH_KEEP") == "" {
		_ = os.RemoveAll(m.dir)
	}
}

// until tries f again and again until it succeeds.
func until(ctx context.Context, d time.Duration, f func() error) error {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	for {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("after %v: %w", d, err)
		}
	}
}
