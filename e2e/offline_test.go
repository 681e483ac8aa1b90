// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// newClient is a second host of a world: an agent without a server, which finds the world's by gossip. Its sidecars are of the same
// kind.
func newClient(t *testing.T, servers *World, more string) *World {
	t.Helper()
	c := &World{Kind: servers.Kind, dir: t.TempDir(), client: &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{}}, validations: newValidations()}
	c.http, c.grpc, c.serf = mustPort(t), mustPort(t), mustPort(t)
	conf := fmt.Sprintf(`
node = "two"
data_dir = %q
bind_addr = "127.0.0.1"
advertise_addr = "127.0.0.1"
default_intention_policy = "deny"
log_level = "debug"
retry_join = ["127.0.0.1:%d"]
retry_interval = "1s"
ports {
  http = %d
  grpc = %d
  dns = -1
  serf_lan = %d
  sidecar_min_port = 22000
  sidecar_max_port = 22255
}
proxy {
  shared = %t
  %s
}
`, filepath.Join(c.dir, "data"), servers.serf, c.http, c.grpc, c.serf, c.Kind == Host, more)
	path := filepath.Join(c.dir, "agent.hcl")
	if err := os.WriteFile(path, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	c.args = []string{"agent", "-config-file", path}
	if err := c.startAgent(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.endAll(t) })
	return c
}

// startAlone starts the agent and waits until it answers by itself.
func (w *World) startAlone(t *testing.T) {
	t.Helper()
	p, err := start("agent", w.agentLog(), binary(), w.args...)
	if err != nil {
		t.Fatal(err)
	}
	w.mu.Lock()
	w.agent = p
	w.mu.Unlock()
	until(t, 20*time.Second, func() error {
		if p.ended() {
			t.Fatalf("the agent ended by itself:\n%s", tail(w.agentLog(), 20))
		}
		return w.do(http.MethodGet, "/v1/agent/self", nil, nil)
	})
}

// TestWithoutServers: a host whose agent and sidecars start anew while no server is there goes on serving, from its sealed copy; a copy
// that was cut isn't used; and past the age nobody is let in, until a server is back.
func TestWithoutServers(t *testing.T) {
	enabled(t)
	for _, kind := range kinds {
		t.Run(string(kind), func(t *testing.T) {
			servers := mustWorld(t, kind, "deny")
			host := newClient(t, servers, `offline_max_age = "72h"`)
			p := newPair(t, host, "http")
			sealed := filepath.Join(host.dir, "data", "agent", "sealed")
			since := time.Now()
			p.intend("allow", "other", "api") // something that the copy has to be written for
			until(t, 20*time.Second, func() error {
				if info, err := os.Stat(sealed); err != nil || info.ModTime().Before(since) {
					return errors.Join(errors.New("no new copy"), err)
				}
				return nil
			})
			host.killAgent()
			servers.killAgent()
			data, err := os.ReadFile(sealed)
			if err != nil {
				t.Fatal(err)
			}
			for _, secret := range []string{"PRIVATE KEY", "BEGIN CERTIFICATE", p.name("api")} {
				if bytes.Contains(data, []byte(secret)) {
					t.Errorf("%q can be read in the sealed copy", secret)
				}
			}
			p.endSidecars(t)
			host.startAlone(t)
			p.startSidecars(t)
			for _, i := range []*Instance{p.api, p.web} {
				until(t, 20*time.Second, func() error { return p.settled(i) })
			}
			until(t, 10*time.Second, func() error { return call("http", p.addr) })
			t.Log("served without a server")

			host.killAgent()
			p.endSidecars(t)
			if err := os.WriteFile(sealed, data[:len(data)-1], 0o600); err != nil {
				t.Fatal(err)
			}
			host.startAlone(t)
			until(t, 20*time.Second, func() error {
				if log, err := os.ReadFile(host.agentLog()); err != nil || !bytes.Contains(log, []byte("the sealed copy isn't used")) {
					return errors.Join(errors.New("a cut copy isn't refused in the log"), err)
				}
				return nil
			})
			if st, err := p.status(p.web); err != nil || st.RenderedHash != "" {
				t.Errorf("something is rendered out of a cut copy: %+v %v", st, err)
			}
			host.killAgent()
			if err := os.WriteFile(sealed, data, 0o600); err != nil {
				t.Fatal(err)
			}
			conf := host.args[2]
			text, err := os.ReadFile(conf)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(conf, bytes.Replace(text, []byte(`"72h"`), []byte(`"1s"`), 1), 0o600); err != nil {
				t.Fatal(err)
			}
			host.startAlone(t)
			p.startSidecars(t)
			until(t, 20*time.Second, func() error { return isDenied("http", p.addr) })
			if err := servers.startAgent(); err != nil {
				t.Fatal(err)
			}
			until(t, 40*time.Second, func() error { return call("http", p.addr) })
		})
	}
}

// endSidecars ends the pair's sidecars; the host proxy too.
func (p *pair) endSidecars(t *testing.T) {
	t.Helper()
	for _, i := range []*Instance{p.api, p.web} {
		if i.sidecar != nil {
			i.sidecar.kill()
		}
	}
	if p.kind == Host {
		p.w.killHostProxy(t)
	}
	until(t, 10*time.Second, func() error {
		if call("http", p.addr) == nil {
			return errors.New("a sidecar still serves")
		}
		return nil
	})
}

func (p *pair) startSidecars(t *testing.T) {
	t.Helper()
	if p.kind == Host {
		return // the agent starts it
	}
	for _, i := range []*Instance{p.api, p.web} {
		i.sidecar = p.runSidecar(p.kind, i)
	}
}

// killHostProxy ends the host proxy of a world, as a crash would.
func (w *World) killHostProxy(t *testing.T) {
	t.Helper()
	all, err := processesOf(w.dir + "/")
	if err != nil {
		t.Fatal(err)
	}
	for pid, line := range all {
		if strings.Contains(line, "-shared") {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Error(err)
			}
		}
	}
}
