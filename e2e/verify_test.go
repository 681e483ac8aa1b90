// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// ask runs a command against the world's agent, wants an exit code, and each of these texts in its output.
func (m *Mesh) ask(stdin string, code int, args []string, want ...string) string {
	m.t.Helper()
	args = append(args[:len(args):len(args)], "-http-addr", loopback(m.w.http))
	stdout, stderr, err := weft(nil, stdin, flagsFirst(args)...)
	got := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else if err != nil {
		m.t.Fatal(err)
	}
	for _, w := range want {
		if !strings.Contains(stdout+stderr, w) {
			m.t.Errorf("weft %v: want %q in\n%s%s", args, w, stdout, stderr)
		}
	}
	if got != code {
		m.t.Errorf("weft %v: exit code %d, want %d\n%s%s", args, got, code, stdout, stderr)
	}
	return stdout
}

// flagsFirst puts arguments that are no flags last, where commands want them.
func flagsFirst(args []string) []string {
	var commands, flags, rest []string
	for i := 0; i < len(args); i++ {
		switch {
		case strings.HasPrefix(args[i], "-") && args[i] != "-":
			flags = append(flags, args[i])
			if !strings.Contains(args[i], "=") && i+1 < len(args) && args[i] != "-deny" && args[i] != "-replace" {
				i++
				flags = append(flags, args[i])
			}
		case len(flags) == 0 && len(rest) == 0 && args[i] != "-" && len(commands) < 2 && !strings.Contains(args[i], "/"):
			commands = append(commands, args[i])
		default:
			rest = append(rest, args[i])
		}
	}
	return append(append(commands, flags...), rest...)
}

// TestVerify: any server can say what each proxy should have; writes wait for the proxies that they concern.
func TestVerify(t *testing.T) {
	enabled(t)
	for _, kind := range kinds {
		t.Run(string(kind), func(t *testing.T) {
			w := mustWorld(t, kind, "deny")
			p := newPair(t, w, "http")
			web, api := p.web.ID+"-sidecar-proxy", p.api.ID+"-sidecar-proxy"
			until(t, 10*time.Second, func() error { // the API server's checks may still change
				_, _, err := weft(nil, "", "verify", "-http-addr", loopback(w.http))
				return err
			})
			p.ask("", 0, []string{"verify"}, web, api, "in-sync", "All 2 proxies have what they should have.")

			// What a write waited for is in force when it returns.
			client, end := h1()
			defer end()
			for _, deny := range []bool{true, false, true, false} {
				args, status := []string{"intention", "create", "-replace", "-wait", "10s"}, 200
				if deny {
					args, status = append(args, "-deny"), 403
				}
				p.ask("", 0, append(args, p.name("web"), p.name("api")), api+" on one: applied", "All 1 proxies that this concerns have it.")
				if err := wantStatus(client, "http://"+p.addr+"/", status); err != nil {
					t.Error(err)
				}
			}
			p.ask(`kind = "service-defaults" name = "nobody" protocol = "http"`, 0, []string{"config", "write", "-wait", "10s", "-"}, "All 0 proxies")

			if kind == Envoy {
				taken, err := net.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					t.Fatal(err)
				}
				defer taken.Close()
				refusing := p.refusing("cold", taken.Addr().(*net.TCPAddr).Port)
				until(t, 15*time.Second, func() error {
					if st, err := p.status(refusing); err != nil || st.Refusal == "" {
						return errors.Join(errors.New("it hasn't refused yet"), err)
					}
					return nil
				})
				p.ask("", 2, []string{"verify", "-service", refusing.Name}, "refused", "it keeps what it had, because:", "1 of 1 proxies don't have")
				p.remove(refusing)
			}
			if kind == Host {
				return // its sidecars are one process
			}
			if err := p.web.sidecar.stop(10 * time.Second); err != nil {
				t.Fatal(err)
			}
			p.web.sidecar = nil
			until(t, 10*time.Second, func() error {
				st, err := p.status(p.web)
				if err == nil && st.Connected {
					err = errors.New("the agent hasn't noticed")
				}
				return err
			})
			p.ask("", 2, []string{"verify"}, web+" on one: unreachable", "does it run?", "1 of 2 proxies don't have")
			began := time.Now()
			p.ask(`kind = "service-defaults" name = "`+p.name("api")+`" protocol = "http2"`, 2, []string{"config", "write", "-wait", "60s", "-"},
				web+" on one: unreachable", api+" on one: applied", "written, but 1 of 2 proxies don't have it")
			if took := time.Since(began); took > 20*time.Second {
				t.Errorf("what can't be reached was waited for: %s", took)
			}
		})
	}
}

// refusing is an instance whose sidecar can't take its configuration: the port for its upstream is taken.
func (m *Mesh) refusing(name string, port int) *Instance {
	m.t.Helper()
	i := &Instance{ID: m.name(name), Name: m.name(name), Public: mustPort(m.t), Port: mustPort(m.t)}
	m.put("/v1/agent/service/register", object{
		"ID": i.ID, "Name": i.Name, "Port": i.Port,
		"Connect": object{"SidecarService": object{"Port": i.Public, "Proxy": object{
			"Upstreams": []object{{"DestinationName": m.name("api"), "LocalBindPort": port}},
		}}},
	})
	i.sidecar = m.runSidecar(Envoy, i)
	return i
}
