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

// What holds keys in memory leaves no core file when it dies, and isn't opened to others of its user; what it becomes, an Envoy, leaves none either.
// The control is the same agent that is told to: it leaves one, and its token is in it.
func TestNoCoreFiles(t *testing.T) {
	enabled(t)
	pattern, err := os.ReadFile("/proc/sys/kernel/core_pattern")
	if err != nil {
		t.Fatal(err)
	}
	here := !strings.ContainsAny(string(pattern), "/|") // files lie where a process works
	var most syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_CORE, &most); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{Cur: most.Max, Max: most.Max}); err != nil {
		t.Fatal(err)
	}
	defer syscall.Setrlimit(syscall.RLIMIT_CORE, &most) //nolint:errcheck // it was so
	t.Setenv("GOTRACEBACK", "crash")
	const canary = "5ca1ab1e-0000-4000-8000-00000000ca9a"
	for _, allowed := range []bool{false, true} {
		t.Run(fmt.Sprint("allowed ", allowed), func(t *testing.T) {
			t.Setenv("WEFT_CORE_DUMPS", map[bool]string{true: "1"}[allowed])
			t.Chdir(t.TempDir())
			dir, httpPort, grpcPort := t.TempDir(), mustPort(t), mustPort(t)
			config := filepath.Join(dir, "a.hcl")
			text := fmt.Sprintf(`acl { tokens { default = %q } }
				ports { http = %d  grpc = %d  grpc_tls = -1  dns = -1  server = %d  serf_lan = %d  serf_wan = -1 }
				service { name = "web"  port = 1  connect { sidecar_service { port = %d } } }`, canary, httpPort, grpcPort, mustPort(t), mustPort(t), mustPort(t))
			if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			begun := map[string]*process{}
			begin := func(name string, args ...string) {
				t.Helper()
				p, err := start(name, filepath.Join(dir, name+".log"), binary(), args...)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(p.kill)
				begun[name] = p
			}
			begin("agent", "agent", "-dev", "-bind", "127.0.0.1", "-config-file", config)
			admins := map[string]string{"proxy": loopback(mustPort(t)), "envoy": loopback(mustPort(t))}
			until(t, 20*time.Second, func() error {
				_, err := get(http.DefaultClient, "http://"+loopback(httpPort)+"/v1/agent/connect/proxy/web-sidecar-proxy", 200)
				return err
			})
			begin("proxy", "connect", "proxy", "-http-addr", loopback(httpPort), "-sidecar-for", "web", "-admin-bind", admins["proxy"])
			begin("envoy", "connect", "envoy", "-envoy-binary", envoy(), "-http-addr", loopback(httpPort), "-sidecar-for", "web", "-admin-bind", admins["envoy"])
			for name, admin := range admins {
				until(t, 20*time.Second, func() error {
					_, err := get(http.DefaultClient, "http://"+admin+map[string]string{"proxy": "/metrics", "envoy": "/server_info"}[name], 200)
					return err
				})
			}
			cores, found := 0, false
			for name, p := range begun {
				limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", p.cmd.Process.Pid))
				if err != nil {
					t.Fatal(err)
				}
				if none := strings.Contains(strings.Join(strings.Fields(string(limits)), " "), "Max core file size 1 1 "); none == allowed {
					t.Errorf("%s: %s", name, limits)
				}
				if err := p.cmd.Process.Signal(syscall.SIGABRT); err != nil {
					t.Fatal(err)
				}
				<-p.done
				files, err := filepath.Glob("core*")
				if err != nil {
					t.Fatal(err)
				}
				for _, file := range files { // the next one's may have the same name
					data, err := os.ReadFile(file)
					if err := errors.Join(err, os.Remove(file)); err != nil {
						t.Fatal(err)
					}
					found = found || bytes.Contains(data, []byte(canary))
				}
				cores += len(files)
			}
			switch {
			case !allowed && cores > 0:
				t.Errorf("%d core files", cores)
			case allowed && here && most.Max > 1<<30 && !found:
				t.Errorf("the control: the token is in none of %d core files", cores)
			}
		})
	}
}
