// SPDX-License-Identifier: Apache-2.0

package redirect

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// saved is what iptables-save says after the transaction: as much of netfilter as its rules need.
func saved(t *testing.T, has, transaction string) string {
	t.Helper()
	var names, order []string
	rules := map[string][]string{}
	declare := func(name string) {
		if _, ok := rules[name]; !ok {
			names, rules[name] = append(names, name), nil
		}
	}
	for _, name := range []string{"PREROUTING", "OUTPUT"} {
		declare(name)
	}
	for l := range strings.Lines(has + transaction) {
		l = strings.TrimSpace(l)
		verb, rest, _ := strings.Cut(l, " ")
		name, _, _ := strings.Cut(rest, " ")
		switch {
		case verb == "*nat", verb == "COMMIT", l == "":
		case strings.HasPrefix(verb, ":"):
			declare(verb[1:])
			rules[verb[1:]] = nil
		case verb == "-A":
			rules[name] = append(rules[name], rest)
		case verb == "-F":
			rules[name] = nil
		case verb == "-D":
			was := len(rules[name])
			for i, r := range rules[name] {
				if r == rest {
					rules[name] = append(append([]string{}, rules[name][:i]...), rules[name][i+1:]...)
					break
				}
			}
			if len(rules[name]) == was {
				t.Fatalf("%q: there is no such rule", l)
			}
		case verb == "-X":
			for from, all := range rules {
				for _, r := range all {
					if len(rules[name]) > 0 || strings.HasSuffix(r, " -j "+name) {
						t.Fatalf("%q: %s needs it", l, from)
					}
				}
			}
			delete(rules, name)
		default:
			t.Fatalf("%q isn't known", l)
		}
	}
	for _, name := range names {
		if _, ok := rules[name]; ok {
			order = append(order, ":"+name+" - [0:0]")
		}
	}
	for _, name := range names {
		for _, r := range rules[name] {
			order = append(order, "-A "+r)
		}
	}
	return strings.Join(append(order, ""), "\n")
}

func everything() *Config {
	return &Config{
		ProxyUID: "1234", InboundPort: 20000, OutboundPort: 15001, ExcludeInboundPorts: []int{22}, ExcludeOutboundPorts: []int{5432},
		ExcludeOutboundCIDRs: []netip.Prefix{netip.MustParsePrefix("10.1.2.3/8"), netip.MustParsePrefix("fd00::/8")}, ExcludeUIDs: []string{"consul"},
		DNS: netip.MustParseAddrPort("127.0.0.1:8600"),
	}
}

func TestRules(t *testing.T) {
	want := `*nat
:CONSUL_PROXY_INBOUND - [0:0]
:CONSUL_PROXY_IN_REDIRECT - [0:0]
:CONSUL_PROXY_OUTPUT - [0:0]
:CONSUL_PROXY_REDIRECT - [0:0]
:CONSUL_DNS_REDIRECT - [0:0]
-A CONSUL_DNS_REDIRECT -m owner --uid-owner consul -j RETURN
-A CONSUL_DNS_REDIRECT -p udp -m udp --dport 53 -j DNAT --to-destination 127.0.0.1:8600
-A CONSUL_DNS_REDIRECT -p tcp -m tcp --dport 53 -j DNAT --to-destination 127.0.0.1:8600
-A OUTPUT -p udp -m udp --dport 53 -j CONSUL_DNS_REDIRECT
-A OUTPUT -p tcp -m tcp --dport 53 -j CONSUL_DNS_REDIRECT
-A CONSUL_PROXY_OUTPUT -m owner --uid-owner 1234 -j RETURN
-A CONSUL_PROXY_OUTPUT -m owner --uid-owner consul -j RETURN
-A CONSUL_PROXY_OUTPUT -d 127.0.0.0/8 -j RETURN
-A CONSUL_PROXY_OUTPUT -d 10.0.0.0/8 -j RETURN
-A CONSUL_PROXY_OUTPUT -p tcp -m tcp --dport 5432 -j RETURN
-A CONSUL_PROXY_OUTPUT -j CONSUL_PROXY_REDIRECT
-A CONSUL_PROXY_REDIRECT -p tcp -j REDIRECT --to-ports 15001
-A OUTPUT -p tcp -j CONSUL_PROXY_OUTPUT
-A CONSUL_PROXY_INBOUND -p tcp -m tcp --dport 22 -j RETURN
-A CONSUL_PROXY_INBOUND -j CONSUL_PROXY_IN_REDIRECT
-A CONSUL_PROXY_IN_REDIRECT -p tcp -j REDIRECT --to-ports 20000
-A PREROUTING -p tcp -j CONSUL_PROXY_INBOUND
COMMIT
`
	if d := cmp.Diff(want, everything().Apply("", false)); d != "" {
		t.Error(d)
	}
	v6 := everything().Apply("", true)
	for has, wanted := range map[string]bool{"127.0.0": false, "10.0.0.0": false, "DNS": false, "-d ::1/128 -j RETURN": true, "-d fd00::/8 -j RETURN": true} {
		if strings.Contains(v6, has) != wanted {
			t.Errorf("%q in the rules for IPv6, want %v:\n%s", has, wanted, v6)
		}
	}
	c := everything()
	c.InboundPort = 0
	if out := c.Apply("", false); strings.Contains(out, "-A PREROUTING") {
		t.Errorf("what arrives is redirected to nowhere:\n%s", out)
	}
}

// A second run leaves what the first made, one with other settings nothing of it, and what others have written stays.
func TestAgainAndAway(t *testing.T) {
	others := ":PREROUTING - [0:0]\n:OUTPUT - [0:0]\n:DOCKER - [0:0]\n-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER\n-A OUTPUT -d 192.0.2.1/32 -j DOCKER\n-A DOCKER -i docker0 -j RETURN\n"
	first := saved(t, others, everything().Apply(others, false))
	if again := saved(t, first, everything().Apply(first, false)); again != first {
		t.Error(cmp.Diff(first, again))
	}
	less := &Config{ProxyUID: "7", OutboundPort: 15002}
	changed := saved(t, first, less.Apply(first, false))
	if fresh := saved(t, others, less.Apply(others, false)); changed != fresh {
		t.Error(cmp.Diff(fresh, changed))
	}
	for _, has := range []string{first, changed} {
		if left := saved(t, has, Remove(has)); left != others {
			t.Error(cmp.Diff(others, left))
		}
	}
	if out := Remove(others); out != "" {
		t.Errorf("%q, where there is nothing", out)
	}
}

func TestInvalid(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"no user": func(c *Config) { c.ProxyUID = "" }, "lines in a user": func(c *Config) { c.ProxyUID = "1\n-A OUTPUT -j DROP" },
		"a user to exclude": func(c *Config) { c.ExcludeUIDs = []string{"a b"} }, "no port": func(c *Config) { c.OutboundPort = 0 },
		"a port": func(c *Config) { c.InboundPort = 70000 }, "a port to exclude": func(c *Config) { c.ExcludeOutboundPorts = []int{-1} },
	} {
		c := everything()
		if change(c); !errors.Is(c.Validate(), ErrInvalid) {
			t.Errorf("%s: %v", name, c.Validate())
		}
	}
	if err := everything().Validate(); err != nil {
		t.Error(err)
	}
	for _, given := range []string{"", "x", "0", "65536", "22 -j ACCEPT"} {
		if _, err := Ports("-p", []string{given}); !errors.Is(err, ErrInvalid) {
			t.Errorf("port %q: %v", given, err)
		}
	}
	for given, want := range map[string]string{"10.0.0.0/8": "10.0.0.0/8", "192.0.2.1": "192.0.2.1/32", "fd00::1": "fd00::1/128", "fe80::1%eth0": "", "x": ""} {
		got, err := CIDRs("-c", []string{given})
		if (err != nil) != (want == "") || err == nil && got[0].String() != want {
			t.Errorf("%q: %v, %v", given, got, err)
		}
	}
}
