// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
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
