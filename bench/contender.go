// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"text/template"
	"time"
)

// contender is a way from the client to the backend: two sidecars with mutual TLS between them, or something to compare with.
type contender struct {
	name string
	// protocols are what it can carry: tcp, http, http2, grpc.
	protocols []string
	// features says whether it can have all features on.
	features bool
	// floor: it has no features, and is compared with in any case.
	floor bool
	// memory says whether its memory is of interest.
	memory bool
	start  func(ctx context.Context, r *course) (*running, error)
}

// course is what the contenders run on.
type course struct {
	protocol  string
	features  bool
	backend   int // the port of the backend
	collector int // the port of what takes spans
	weft      string
	envoy     string
	dir       string
	pki       *pki
}

// running is a contender that was started.
type running struct {
	port  int // where the client calls
	pids  []int
	close func()
}

var contenders = []contender{
	{"none", []string{"tcp", "http", "http2", "grpc"}, false, true, false, func(_ context.Context, c *course) (*running, error) {
		return &running{port: c.backend, close: func() {}}, nil
	}},
	{"builtin", []string{"tcp", "http", "http2", "grpc"}, true, false, true, weftAs("builtin")},
	{"host", []string{"tcp", "http", "http2", "grpc"}, true, false, true, weftAs("host")},
	{"envoy", []string{"tcp", "http", "http2", "grpc"}, true, false, true, weftAs("envoy")},
	{"envoy-tuned", []string{"tcp", "http", "http2", "grpc"}, true, false, true, startTunedEnvoy},
	{"haproxy", []string{"tcp", "http", "http2", "grpc"}, false, true, false, startHAProxy},
	{"relay", []string{"tcp", "http", "http2", "grpc"}, false, true, false, startRelay},
}

// weftAs runs a mesh of weft's, with one kind of sidecar.
func weftAs(kind string) func(context.Context, *course) (*running, error) {
	return func(ctx context.Context, c *course) (*running, error) {
		m, err := makeMesh(kind, c.protocol, c.weft, c.envoy)
		if err != nil {
			return nil, err
		}
		m.port, m.features, m.collector = c.backend, c.features, c.collector
		if err := m.start(ctx); err != nil {
			m.close()
			return nil, err
		}
		r := &running{port: m.upstream, close: m.close}
		for _, s := range m.sidecars {
			r.pids = append(r.pids, s.Process.Pid)
		}
		if kind == "host" {
			pid, err := m.hostProxy()
			if err != nil {
				m.close()
				return nil, err
			}
			r.pids = append(r.pids, pid)
		}
		return r, nil
	}
}

// children starts processes for one contender and waits until its port answers.
type children struct {
	dir   string
	procs []*exec.Cmd
}

func (c *children) start(name string, command string, args ...string) error {
	cmd := exec.Command(command, args...)
	log, err := os.Create(filepath.Join(c.dir, name+".log"))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return err
	}
	c.procs = append(c.procs, cmd)
	return nil
}

func (c *children) close() {
	for _, p := range c.procs {
		_ = p.Process.Kill() // they hold nothing
		_ = p.Wait()
	}
}

func (c *children) running(ctx context.Context, port int) (*running, error) {
	err := until(ctx, 20*time.Second, func() error {
		conn, err := net.DialTimeout("tcp", loopbackAddr(port), time.Second)
		if err != nil {
			return err
		}
		return conn.Close()
	})
	if err != nil {
		c.close()
		return nil, err
	}
	r := &running{port: port, close: c.close}
	for _, p := range c.procs {
		r.pids = append(r.pids, p.Process.Pid)
	}
	return r, nil
}

func loopbackAddr(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// twoPorts are those of the outer and the inner proxy.
func twoPorts() (outer, inner int, err error) {
	outer, e1 := freePort()
	inner, e2 := freePort()
	return outer, inner, errors.Join(e1, e2)
}

// startRelay runs the floor: two processes that only copy bytes, with mutual TLS between them.
func startRelay(ctx context.Context, c *course) (*running, error) {
	outer, inner, err := twoPorts()
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	k := &children{dir: c.dir}
	err = errors.Join(
		k.start("relay-in", self, "-relay", "in", "-from", loopbackAddr(inner), "-to", loopbackAddr(c.backend), "-pki", c.pki.dir),
		k.start("relay-out", self, "-relay", "out", "-from", loopbackAddr(outer), "-to", loopbackAddr(inner), "-pki", c.pki.dir))
	if err != nil {
		k.close()
		return nil, err
	}
	return k.running(ctx, outer)
}

// startHAProxy runs two HAProxies.
func startHAProxy(ctx context.Context, c *course) (*running, error) {
	binary, err := exec.LookPath("haproxy")
	if err != nil {
		return nil, errNoProgram{"haproxy", "apt-get install haproxy"}
	}
	outer, inner, err := twoPorts()
	if err != nil {
		return nil, err
	}
	k := &children{dir: c.dir}
	mode, alpn, inAlpn, proto := "tcp", "", "", ""
	switch c.protocol {
	case "http":
		mode = "http"
	case "http2", "grpc":
		mode, alpn, inAlpn, proto = "http", " alpn h2", " proto h2", " proto h2"
	}
	const head = "global\n  nbthread 2\n  maxconn 4000\ndefaults\n  mode %s\n  timeout connect 5s\n  timeout client 300s\n  timeout server 300s\n  timeout tunnel 300s\n"
	in := fmt.Sprintf(head+"frontend in\n  bind 127.0.0.1:%d ssl crt %s/both.pem ca-file %s/ca.pem verify required ssl-min-ver TLSv1.3%s\n  default_backend b\nbackend b\n  server s 127.0.0.1:%d%s\n",
		mode, inner, c.pki.dir, c.pki.dir, alpn, c.backend, inAlpn)
	out := fmt.Sprintf(head+"frontend in\n  bind 127.0.0.1:%d%s\n  default_backend b\nbackend b\n  server s 127.0.0.1:%d ssl crt %s/both.pem ca-file %s/ca.pem verify required sni str(localhost)%s\n",
		mode, outer, proto, inner, c.pki.dir, c.pki.dir, alpn)
	for name, text := range map[string]string{"haproxy-in": in, "haproxy-out": out} {
		path := filepath.Join(c.dir, name+".cfg")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			return nil, err
		}
		if err := k.start(name, binary, "-db", "-f", path); err != nil {
			k.close()
			return nil, err
		}
	}
	return k.running(ctx, outer)
}

type errNoProgram struct{ name, remedy string }

func (e errNoProgram) Error() string { return e.name + " isn't there: " + e.remedy }

// startTunedEnvoy runs two Envoys from a configuration written by hand, with HTTP/2 between them.
func startTunedEnvoy(ctx context.Context, c *course) (*running, error) {
	outer, inner, err := twoPorts()
	if err != nil {
		return nil, err
	}
	t, err := template.New("envoy-tuned.yaml").ParseFiles("bench/envoy-tuned.yaml")
	if err != nil {
		return nil, err
	}
	k := &children{dir: c.dir}
	for _, side := range []struct {
		name     string
		from, to int
		inbound  bool
	}{{"in", inner, c.backend, true}, {"out", outer, inner, false}} {
		var b strings.Builder
		if err := t.Execute(&b, map[string]any{
			"From": side.from, "To": side.to, "Inbound": side.inbound, "Protocol": c.protocol, "Features": c.features, "PKI": c.pki.dir,
			"Log": filepath.Join(c.dir, "access-"+side.name+".log"), "Collector": "http://" + loopbackAddr(c.collector), "CollectorPort": c.collector,
		}); err != nil {
			return nil, err
		}
		path := filepath.Join(c.dir, "envoy-"+side.name+".yaml")
		if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
			return nil, err
		}
		if err := k.start("envoy-"+side.name, c.envoy, "-c", path, "--concurrency", "1", "--disable-hot-restart", "-l", "warning"); err != nil {
			k.close()
			return nil, err
		}
	}
	return k.running(ctx, outer)
}
