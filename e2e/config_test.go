// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// An agent behind TLS, on a Unix socket, with http_config, a script check and a watch, all from its files.
func TestConfiguration(t *testing.T) {
	enabled(t)
	dir := t.TempDir()
	run := func(args ...string) string {
		t.Helper()
		cmd := exec.Command(binary(), args...)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("weft %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	run("tls", "ca", "create")
	run("tls", "cert", "create", "-server")
	run("tls", "cert", "create", "-cli")
	https, seen, socket, logs := mustPort(t), filepath.Join(dir, "seen"), filepath.Join(dir, "api.sock"), filepath.Join(dir, "logs")
	if err := os.Mkdir(logs, 0o700); err != nil {
		t.Fatal(err)
	}
	w := mustWorld(t, Builtin, "allow", fmt.Sprintf(`
ports { https = %d }
addresses { http = "127.0.0.1 unix://%s" }
unix_sockets { mode = "0660" }
tls { https {
  ca_file = "%[3]s/consul-agent-ca.pem"
  cert_file = "%[3]s/dc1-server-consul-0.pem"
  key_file = "%[3]s/dc1-server-consul-0-key.pem"
  verify_incoming = true
} }
http_config {
  response_headers { "X-Own" = "yes" }
  block_endpoints = ["/v1/status/peers"]
  allow_write_http_from = ["127.0.0.0/8"]
}
enable_local_script_checks = true
check { name = "disk" args = ["/bin/sh", "-c", "echo nearly full; exit 1"] interval = "1s" }
watches = [{ type = "services" handler = "cat >> %s" }]
log_file = "%s/"
pid_file = "%[3]s/weft.pid"
`, https, socket, dir, seen, logs))
	tls := []string{
		"-http-addr", "https://" + loopback(https), "-ca-file", "consul-agent-ca.pem", "-client-cert", "dc1-cli-consul-0.pem",
		"-client-key", "dc1-cli-consul-0-key.pem",
	}
	if out := run(append([]string{"catalog", "datacenters"}, tls...)...); out != "dc1\n" {
		t.Errorf("over TLS: %q", out)
	}
	if out, err := exec.Command(binary(), append([]string{"catalog", "datacenters"}, tls[:4]...)...).CombinedOutput(); err == nil {
		t.Errorf("over TLS without a certificate: %s", out)
	}
	if out := run("catalog", "datacenters", "-http-addr", "unix://"+socket); out != "dc1\n" {
		t.Errorf("over the socket: %q", out)
	}
	if info, err := os.Stat(socket); err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("the socket's mode: %v, %v", info, err)
	}
	resp, err := http.Get("http://" + loopback(w.http) + "/v1/status/peers")
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusForbidden || resp.Header.Get("X-Own") != "yes" {
		t.Errorf("a blocked path: %s, %v", resp.Status, resp.Header)
	}
	until(t, 20*time.Second, func() error {
		var checks map[string]struct{ Status, Output string }
		if err := w.do(http.MethodGet, "/v1/agent/checks", nil, &checks); err != nil {
			return err
		}
		if c := checks["disk"]; c.Status != "warning" || c.Output != "nearly full\n" {
			return fmt.Errorf("the script's check: %+v", c)
		}
		return nil
	})
	if err := w.do(http.MethodPut, "/v1/agent/check/register", object{"Name": "x", "ScriptArgs": []string{"true"}, "Interval": "1s"}, nil); err == nil {
		t.Error("the API may have programs run")
	}
	if err := w.do(http.MethodPut, "/v1/agent/service/register", object{"Name": "watched"}, nil); err != nil {
		t.Fatal(err)
	}
	until(t, 20*time.Second, func() error {
		if b, err := os.ReadFile(seen); err != nil || !strings.Contains(string(b), `"watched"`) {
			return fmt.Errorf("the watch's handler got %q, %v", b, err)
		}
		return nil
	})
	if b, err := os.ReadFile(filepath.Join(logs, "weft.log")); err != nil || !strings.Contains(string(b), "serving") {
		t.Errorf("the log file: %d bytes, %v", len(b), err)
	}
	if _, err := os.Stat(filepath.Join(dir, "weft.pid")); err != nil {
		t.Error(err)
	}
}

// weft reload, and SIGHUP, put changed files in force while the agent runs; what is wrong in them changes nothing.
func TestReload(t *testing.T) {
	enabled(t)
	w := mustWorld(t, Builtin, "allow", `
service { name = "old" port = 1 }
check { name = "up" ttl = "1h" status = "passing" }
node_meta { rack = "r1" }
`)
	rewrite := func(text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(w.dir, "conf", "more.hcl"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	reload := func() (string, error) {
		out, err := exec.Command(binary(), "reload", "-http-addr", loopback(w.http)).CombinedOutput()
		return string(out), err
	}
	state := func() string {
		var services map[string]any
		var checks map[string]struct{ Status string }
		var nodes []struct{ Meta map[string]string }
		for path, into := range map[string]any{"/v1/agent/services": &services, "/v1/agent/checks": &checks, "/v1/catalog/nodes": &nodes} {
			if err := w.do(http.MethodGet, path, nil, into); err != nil {
				return err.Error()
			}
		}
		var names []string
		for n := range services {
			names = append(names, n)
		}
		if len(nodes) != 1 {
			return fmt.Sprint(nodes)
		}
		return fmt.Sprintf("%s %s %s", strings.Join(names, ","), checks["up"].Status, nodes[0].Meta["rack"])
	}
	is := func(want string) {
		t.Helper()
		until(t, 20*time.Second, func() error {
			if got := state(); got != want {
				return fmt.Errorf("%q, want %q", got, want)
			}
			return nil
		})
	}
	is("old passing r1")
	if err := w.do(http.MethodPut, "/v1/agent/check/warn/up", nil, nil); err != nil {
		t.Fatal(err)
	}
	rewrite(`service { name = "new" port = 2 }
check { name = "up" ttl = "1h" }
node_meta { rack = "r2" }
log_level = "warn"
domain = "mesh.test"`)
	if out, err := reload(); err != nil || out != "Configuration reload triggered\n" {
		t.Fatalf("%q, %v", out, err)
	}
	is("new warning r2") // the check goes on where it was
	if got := dig(t, w.dns, "new.service.mesh.test").status; got != "NOERROR" {
		t.Errorf("the new domain: %s", got)
	}
	rewrite("service {\n nam = \"x\"\n}\n")
	if out, err := reload(); err == nil || !strings.Contains(out, "more.hcl:2: service[0].nam: unknown field") {
		t.Errorf("a file with a fault: %q, %v", out, err)
	}
	is("new warning r2")
	rewrite(`service { name = "third" port = 3 }`)
	w.mu.Lock()
	err := w.agent.cmd.Process.Signal(syscall.SIGHUP)
	w.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	is("third  ")
}

// With auto_reload_config a file that changes is enough.
func TestAutoReload(t *testing.T) {
	enabled(t)
	w := mustWorld(t, Builtin, "allow", "auto_reload_config = true")
	if err := os.WriteFile(filepath.Join(w.dir, "conf", "services.hcl"), []byte(`service { name = "seen" port = 1 }`), 0o600); err != nil {
		t.Fatal(err)
	}
	until(t, 30*time.Second, func() error { return w.do(http.MethodGet, "/v1/agent/service/seen", nil, new(any)) })
}
