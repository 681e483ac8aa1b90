// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// fakeTables puts iptables' programs into PATH that keep what they are given in files, and gives a function that reads these.
func fakeTables(t *testing.T, programs ...string) func(program string) string {
	t.Helper()
	dir := t.TempDir()
	for _, p := range programs {
		script := "#!/bin/sh\n"
		if strings.HasSuffix(p, "-restore") {
			script += fmt.Sprintf("{ echo \"$@\"; cat; } >%s/%s.got\n", dir, p)
		}
		if err := os.WriteFile(filepath.Join(dir, p), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir+":/usr/bin:/bin")
	return func(program string) string {
		b, err := os.ReadFile(filepath.Join(dir, program+".got"))
		if err != nil {
			return ""
		}
		return string(b)
	}
}

func TestRedirectTraffic(t *testing.T) {
	proxy := func(node, mode, more string) map[string]string {
		return map[string]string{
			"GET /v1/agent/self": `{"Config":{"NodeName":"n1"}}`,
			"GET /v1/catalog/node-services/n1": fmt.Sprintf(`{"Node":{"Address":%q},"Services":[{"ID":"web"},{"ID":"web-sidecar-proxy","Port":21000,
				"Proxy":{"Mode":%q,"Config":{"envoy_prometheus_bind_addr":"0.0.0.0:9102"%s},"TransparentProxy":{"OutboundListenerPort":15007},"Expose":{"Paths":[{"ListenerPort":21500}]}}}]}`, node, mode, more),
		}
	}
	all := []string{"iptables-save", "iptables-restore", "ip6tables-save", "ip6tables-restore"}
	byID := []string{"connect", "redirect-traffic", "-proxy-uid", "1234", "-proxy-id", "web-sidecar-proxy"}
	for _, c := range []struct {
		name     string
		answers  map[string]string
		programs []string
		args     []string
		v4, v6   []string // what is in the rules; nil: there are none
		errout   string
	}{
		{
			name: "by the registration", answers: proxy("10.0.0.1", "transparent", ""), programs: all, args: append(byID, "-exclude-inbound-port", "22"),
			v4: []string{"--noflush", "--to-ports 21000", "--to-ports 15007", "--dport 22 -j RETURN", "--dport 9102 -j RETURN", "--dport 21500 -j RETURN"},
		},
		{
			name: "the flag's port, bound elsewhere, IPv6", answers: proxy("fd00::1", "transparent", `,"bind_port":22000`), programs: all,
			args: append(byID, "-proxy-outbound-port", "15009"), v4: []string{"--to-ports 22000", "--to-ports 15009", "-d 127.0.0.0/8"}, v6: []string{"--to-ports 15009", "-d ::1/128"},
		},
		{
			name: "without an agent", programs: all[:2],
			args: []string{"connect", "redirect-traffic", "-proxy-uid", "1234", "-proxy-inbound-port", "20000", "-exclude-uid", "99", "-consul-dns-ip", "10.0.0.53"},
			v4:   []string{"--to-ports 20000", "--to-ports 15001", "--uid-owner 99 -j RETURN", "--to-destination 10.0.0.53:53"},
		},
		{name: "not transparent", answers: proxy("10.0.0.1", "direct", ""), programs: all, args: byID, errout: "isn't transparent"},
		{name: "no proxy", answers: proxy("10.0.0.1", "transparent", ""), programs: all, args: append(byID[:5:5], "web"), errout: "is a service, not a proxy"},
		{name: "unknown", answers: proxy("10.0.0.1", "transparent", ""), programs: all, args: append(byID[:5:5], "x"), errout: `no proxy "x" is registered on node "n1"`},
		{name: "no iptables", args: []string{"connect", "redirect-traffic", "-proxy-uid", "1", "-proxy-inbound-port", "2"}, errout: "install iptables"},
		{name: "no user", programs: all, args: []string{"connect", "redirect-traffic", "-proxy-inbound-port", "2"}, errout: "-proxy-uid is required"},
		{name: "no proxy named", programs: all, args: []string{"connect", "redirect-traffic", "-proxy-uid", "1"}, errout: "one of -proxy-id and -proxy-inbound-port"},
		{name: "a bad port", programs: all, args: append(byID, "-exclude-outbound-port", "0"), errout: "-exclude-outbound-port"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := fakeTables(t, c.programs...)
			if len(c.programs) == 0 {
				t.Setenv("PATH", t.TempDir())
			}
			r := weft(t, &fake{answers: c.answers}, "", nil, c.args...)
			if (r.code == 0) != (c.errout == "") || !strings.Contains(r.errout, c.errout) {
				t.Fatalf("%+v, want %q", r, c.errout)
			}
			for program, want := range map[string][]string{"iptables-restore": c.v4, "ip6tables-restore": c.v6} {
				rules := got(program)
				if want == nil && rules != "" {
					t.Errorf("%s got rules:\n%s", program, rules)
				}
				for _, part := range want {
					if !strings.Contains(rules, part) {
						t.Errorf("%s: %q isn't there:\n%s", program, part, rules)
					}
				}
			}
		})
	}
}
