// SPDX-License-Identifier: Apache-2.0

// Package redirect writes the rules of netfilter by which a transparent proxy gets what a host's, or a network namespace's, programs
// send and are sent, in the form that iptables-restore takes. It runs nothing and knows no system: a function from what is wanted and
// what is there to the text of one transaction. The chains have Consul's names, so that either takes the other's place.
package redirect

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// The chains of table nat.
const (
	chainInbound    = "CONSUL_PROXY_INBOUND"
	chainInRedirect = "CONSUL_PROXY_IN_REDIRECT"
	chainOutput     = "CONSUL_PROXY_OUTPUT"
	chainRedirect   = "CONSUL_PROXY_REDIRECT"
	chainDNS        = "CONSUL_DNS_REDIRECT"
)

var chains = []string{chainInbound, chainInRedirect, chainOutput, chainRedirect, chainDNS}

// ErrInvalid is wrapped by errors of a Config; the text names the flag.
var ErrInvalid = errors.New("invalid redirection")

// Config is what is to be redirected, and where to.
type Config struct {
	ProxyUID string // the user whose connections aren't captured: the proxy itself
	// InboundPort is the proxy's public listener, 0 to leave alone what arrives; OutboundPort gets what is sent.
	InboundPort, OutboundPort int
	// What is left alone: ports that are called here, ports that are called elsewhere, destinations, users.
	ExcludeInboundPorts, ExcludeOutboundPorts []int
	ExcludeOutboundCIDRs                      []netip.Prefix
	ExcludeUIDs                               []string
	// DNS, if it is valid, gets what is sent to port 53 of anybody.
	DNS netip.AddrPort
}

// user is a user's number, name, or a range of numbers.
var user = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*\$?$`)

// Validate finds what can't be written as rules.
func (c *Config) Validate() error {
	if !user.MatchString(c.ProxyUID) {
		return fmt.Errorf("%w: -proxy-uid %q isn't a user", ErrInvalid, c.ProxyUID)
	}
	for _, u := range c.ExcludeUIDs {
		if !user.MatchString(u) {
			return fmt.Errorf("%w: -exclude-uid %q isn't a user", ErrInvalid, u)
		}
	}
	check := func(flag string, least int, ports ...int) error {
		for _, p := range ports {
			if p < least || p > 65535 {
				return fmt.Errorf("%w: %s %d: want %d to 65535", ErrInvalid, flag, p, max(least, 1))
			}
		}
		return nil
	}
	return errors.Join(check("-proxy-inbound-port", 0, c.InboundPort), check("-proxy-outbound-port", 1, c.OutboundPort),
		check("-exclude-inbound-port", 1, c.ExcludeInboundPorts...), check("-exclude-outbound-port", 1, c.ExcludeOutboundPorts...))
}

// Apply is the transaction that puts the rules in force for IPv4, or for IPv6, in place of what of them there is. Has is what
// iptables-save says of the table nat.
func (c *Config) Apply(has string, v6 bool) string {
	dns := c.DNS.IsValid() && c.DNS.Addr().Is6() == v6
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("*nat")
	for _, chain := range chains {
		if chain != chainDNS || dns {
			line(":%s - [0:0]", chain) // made, or emptied
		}
	}
	for _, j := range jumps(has) {
		line("-D %s", j)
	}
	if !dns && slices.Contains(present(has), chainDNS) {
		line("-F %s", chainDNS)
		line("-X %s", chainDNS)
	}
	if dns {
		c.dns(line)
	}
	c.outbound(line, v6)
	c.inbound(line)
	line("COMMIT")
	return b.String()
}

func (c *Config) dns(line func(string, ...any)) {
	for _, uid := range c.ExcludeUIDs {
		line("-A %s -m owner --uid-owner %s -j RETURN", chainDNS, uid)
	}
	for _, p := range []string{"udp", "tcp"} {
		line("-A %s -p %s -m %s --dport 53 -j DNAT --to-destination %s", chainDNS, p, p, c.DNS)
	}
	for _, p := range []string{"udp", "tcp"} {
		line("-A OUTPUT -p %s -m %s --dport 53 -j %s", p, p, chainDNS)
	}
}

func (c *Config) outbound(line func(string, ...any), v6 bool) {
	for _, uid := range append([]string{c.ProxyUID}, c.ExcludeUIDs...) {
		line("-A %s -m owner --uid-owner %s -j RETURN", chainOutput, uid)
	}
	own := "127.0.0.0/8"
	if v6 {
		own = "::1/128"
	}
	line("-A %s -d %s -j RETURN", chainOutput, own)
	for _, p := range c.ExcludeOutboundCIDRs {
		if p.Addr().Is6() == v6 {
			line("-A %s -d %s -j RETURN", chainOutput, p.Masked())
		}
	}
	for _, p := range c.ExcludeOutboundPorts {
		line("-A %s -p tcp -m tcp --dport %d -j RETURN", chainOutput, p)
	}
	line("-A %s -j %s", chainOutput, chainRedirect)
	line("-A %s -p tcp -j REDIRECT --to-ports %d", chainRedirect, c.OutboundPort)
	line("-A OUTPUT -p tcp -j %s", chainOutput)
}

func (c *Config) inbound(line func(string, ...any)) {
	if c.InboundPort == 0 {
		return
	}
	for _, p := range c.ExcludeInboundPorts {
		line("-A %s -p tcp -m tcp --dport %d -j RETURN", chainInbound, p)
	}
	line("-A %s -j %s", chainInbound, chainInRedirect)
	line("-A %s -p tcp -j REDIRECT --to-ports %d", chainInRedirect, c.InboundPort)
	line("-A PREROUTING -p tcp -j %s", chainInbound)
}

// Remove is the transaction that takes the rules away; "" if there are none.
func Remove(has string) string {
	mine := present(has)
	if len(mine) == 0 {
		return ""
	}
	lines := []string{"*nat"}
	for _, j := range jumps(has) {
		lines = append(lines, "-D "+j)
	}
	for _, flag := range []string{"-F ", "-X "} {
		for _, chain := range mine {
			lines = append(lines, flag+chain)
		}
	}
	return strings.Join(append(lines, "COMMIT", ""), "\n")
}

// present are our chains that are there.
func present(has string) (out []string) {
	for l := range strings.Lines(has) {
		name, _, _ := strings.Cut(strings.TrimPrefix(l, ":"), " ")
		if strings.HasPrefix(l, ":") && slices.Contains(chains, name) {
			out = append(out, name)
		}
	}
	return out
}

// jumps are the rules of other chains that lead to ours, without their -A.
func jumps(has string) (out []string) {
	for l := range strings.Lines(has) {
		rule, ok := strings.CutPrefix(strings.TrimSpace(l), "-A ")
		from, _, _ := strings.Cut(rule, " ")
		_, to, leads := strings.Cut(rule, " -j ")
		if to, _, _ = strings.Cut(to, " "); ok && leads && slices.Contains(chains, to) && !slices.Contains(chains, from) {
			out = append(out, rule)
		}
	}
	return out
}

// Ports reads ports as flags give them.
func Ports(flag string, given []string) (out []int, err error) {
	for _, g := range given {
		n, err := strconv.Atoi(g)
		if err != nil || n < 1 || n > 65535 {
			return nil, fmt.Errorf("%w: %s %q: want 1 to 65535", ErrInvalid, flag, g)
		}
		out = append(out, n)
	}
	return out, nil
}

// CIDRs reads destinations as flags give them: prefixes, or addresses.
func CIDRs(flag string, given []string) (out []netip.Prefix, err error) {
	for _, g := range given {
		p, err := netip.ParsePrefix(g)
		if err != nil {
			a, aerr := netip.ParseAddr(g)
			if aerr != nil || a.Zone() != "" {
				return nil, fmt.Errorf("%w: %s %q: want a prefix, as 10.0.0.0/8, or an address", ErrInvalid, flag, g)
			}
			p = netip.PrefixFrom(a, a.BitLen())
		}
		out = append(out, p)
	}
	return out, nil
}
