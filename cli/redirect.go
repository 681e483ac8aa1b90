// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"os/exec"
	"path"
	"strconv"
	"strings"

	ucli "github.com/urfave/cli/v2"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/cli/apiclient"
	"github.com/weftmesh/weft/internal/redirect"
)

func connectRedirect(env Env) *ucli.Command {
	return &ucli.Command{
		Name: "redirect-traffic", Usage: "have the system hand what programs send and are sent to a transparent proxy, by iptables",
		Flags: clientFlags(
			&ucli.StringFlag{Name: "proxy-uid", Usage: "user that the proxy runs as, whose connections are left alone"},
			&ucli.StringFlag{Name: "proxy-id", Usage: "ID of the proxy's registration: its ports, and what must be left alone, are asked for"},
			&ucli.IntFlag{Name: "proxy-inbound-port", Usage: "the proxy's public listener, without -proxy-id"},
			&ucli.IntFlag{Name: "proxy-outbound-port", Value: catalog.DefaultOutboundPort, Usage: "where the proxy takes what is sent"},
			&ucli.StringSliceFlag{Name: "exclude-inbound-port", Usage: "port of this host that callers reach without the proxy, as 22 (repeatable)"},
			&ucli.StringSliceFlag{Name: "exclude-outbound-port", Usage: "port that is called without the proxy (repeatable)"},
			&ucli.StringSliceFlag{Name: "exclude-outbound-cidr", Usage: "destinations that are called without the proxy, as 10.0.0.0/8 (repeatable)"},
			&ucli.StringSliceFlag{Name: "exclude-uid", Usage: "user whose connections are left alone, as the agent's (repeatable)"},
			&ucli.StringFlag{Name: "consul-dns-ip", Usage: "address that gets what is sent to port 53"},
			&ucli.IntFlag{Name: "consul-dns-port", Usage: "port there (53, or with this flag alone of 127.0.0.1)"},
			&ucli.StringFlag{Name: "netns", Usage: "network namespace, as /var/run/netns/web, in place of this one"},
			&ucli.StringFlag{Name: "node-name", Usage: "node that the proxy is registered on, where that is no agent's"},
			&ucli.BoolFlag{Name: "ipv6", Usage: "IPv6 too; with -proxy-id that is so where the node or the proxy has such an address"},
			&ucli.BoolFlag{Name: "remove", Usage: "take the rules away"},
		),
		Action: func(c *ucli.Context) error { return redirectTraffic(c, env) },
	}
}

func redirectTraffic(c *ucli.Context, env Env) error {
	if c.NArg() > 0 {
		return usage("unexpected argument %q", c.Args().First())
	}
	t := tables{netns: c.String("netns")}
	if c.Bool("remove") {
		return t.remove(c.Context, env.Stdout)
	}
	conf, v6, err := redirection(c, env)
	if err != nil {
		return err
	}
	if err := t.apply(c.Context, conf, v6); err != nil {
		return err
	}
	where := ""
	if t.netns != "" {
		where = " in " + t.netns
	}
	if conf.InboundPort != 0 {
		fmt.Fprintf(env.Stdout, "What is sent to this host over TCP goes to port %d%s.\n", conf.InboundPort, where)
	}
	fmt.Fprintf(env.Stdout, "What users but %s send over TCP goes to port %d%s.\n", conf.ProxyUID, conf.OutboundPort, where)
	if conf.DNS.IsValid() {
		fmt.Fprintf(env.Stdout, "What is sent to port 53 goes to %s%s.\n", conf.DNS, where)
	}
	return nil
}

// redirection is what the flags want, with what the proxy's registration says.
func redirection(c *ucli.Context, env Env) (conf redirect.Config, v6 bool, err error) {
	id := c.String("proxy-id")
	switch {
	case c.String("proxy-uid") == "":
		return conf, false, usage("-proxy-uid is required: without it the proxy's own connections would be handed to it for ever")
	case id == "" && c.Int("proxy-inbound-port") == 0:
		return conf, false, usage("one of -proxy-id and -proxy-inbound-port is required")
	case id != "" && c.Int("proxy-inbound-port") != 0:
		return conf, false, usage("-proxy-id and -proxy-inbound-port exclude each other")
	case id == "" && c.String("node-name") != "":
		return conf, false, usage("-node-name is for -proxy-id")
	}
	conf = redirect.Config{ProxyUID: c.String("proxy-uid"), InboundPort: c.Int("proxy-inbound-port"), OutboundPort: c.Int("proxy-outbound-port"), ExcludeUIDs: c.StringSlice("exclude-uid")}
	var errs [3]error
	conf.ExcludeInboundPorts, errs[0] = redirect.Ports("-exclude-inbound-port", c.StringSlice("exclude-inbound-port"))
	conf.ExcludeOutboundPorts, errs[1] = redirect.Ports("-exclude-outbound-port", c.StringSlice("exclude-outbound-port"))
	conf.ExcludeOutboundCIDRs, errs[2] = redirect.CIDRs("-exclude-outbound-cidr", c.StringSlice("exclude-outbound-cidr"))
	if err := errors.Join(errs[:]...); err != nil {
		return conf, false, err
	}
	if conf.DNS, err = dnsTarget(c.String("consul-dns-ip"), c.Int("consul-dns-port")); err != nil {
		return conf, false, err
	}
	v6 = c.Bool("ipv6")
	if id != "" {
		p, err := transparentProxy(c, env, id)
		if err != nil {
			return conf, false, err
		}
		p.complete(&conf, c.IsSet("proxy-outbound-port"))
		v6 = v6 || p.v6()
	}
	return conf, v6, conf.Validate()
}

func dnsTarget(ip string, port int) (netip.AddrPort, error) {
	if ip == "" && port == 0 {
		return netip.AddrPort{}, nil
	}
	addr, err := netip.ParseAddr(cmp.Or(ip, "127.0.0.1"))
	if err != nil || addr.Zone() != "" {
		return netip.AddrPort{}, usage("-consul-dns-ip %q isn't an IP address", ip)
	}
	if port < 0 || port > 65535 {
		return netip.AddrPort{}, usage("-consul-dns-port %d: want 1 to 65535", port)
	}
	return netip.AddrPortFrom(addr.Unmap(), uint16(cmp.Or(port, 53))), nil
}

// registeredProxy is what of a proxy's registration matters here, with what config entries say.
type registeredProxy struct {
	node    string // its address
	ID      string
	Address string
	Port    int
	Proxy   *struct {
		Mode             string
		Config           map[string]any
		TransparentProxy struct{ OutboundListenerPort int }
		Expose           struct{ Paths []struct{ ListenerPort int } }
	}
}

func transparentProxy(c *ucli.Context, env Env, id string) (*registeredProxy, error) {
	cl, err := client(c, env)
	if err != nil {
		return nil, err
	}
	node := c.String("node-name")
	if node == "" {
		var self struct{ Config struct{ NodeName string } }
		if _, err := cl.Do(c.Context, http.MethodGet, "/v1/agent/self", nil, nil, &self); err != nil {
			return nil, err
		}
		node = self.Config.NodeName
	}
	var on struct {
		Node     *struct{ Address string }
		Services []*registeredProxy
	}
	_, err = cl.Do(c.Context, http.MethodGet, "/v1/catalog/node-services/"+url.PathEscape(node), url.Values{"merge-central-config": {""}}, nil, &on)
	if err != nil && !apiclient.IsStatus(err, http.StatusNotFound) {
		return nil, err
	}
	for _, p := range on.Services {
		switch {
		case p.ID != id:
			continue
		case p.Proxy == nil:
			return nil, fmt.Errorf("%q is a service, not a proxy: -proxy-id wants the ID of its sidecar's registration", id)
		case p.Proxy.Mode != catalog.ModeTransparent:
			return nil, fmt.Errorf("proxy %q isn't transparent, so that nothing would take what is redirected: register it with mode = \"transparent\", or say so in service-defaults or proxy-defaults", id)
		}
		if on.Node != nil {
			p.node = on.Node.Address
		}
		return p, nil
	}
	return nil, fmt.Errorf("no proxy %q is registered on node %q: register it first, as with `weft services register`", id, node)
}

// complete takes the proxy's ports, and leaves alone what it serves by itself.
func (p *registeredProxy) complete(conf *redirect.Config, outboundSaid bool) {
	conf.InboundPort = p.Port
	if n := portOf(p.Proxy.Config["bind_port"]); n > 0 {
		conf.InboundPort = n
	}
	if n := p.Proxy.TransparentProxy.OutboundListenerPort; n > 0 && !outboundSaid {
		conf.OutboundPort = n
	}
	for _, key := range []string{"envoy_prometheus_bind_addr", "envoy_stats_bind_addr"} {
		if at, ok := p.Proxy.Config[key].(string); ok {
			if n := portOf(at[strings.LastIndex(at, ":")+1:]); n > 0 {
				conf.ExcludeInboundPorts = append(conf.ExcludeInboundPorts, n)
			}
		}
	}
	for _, e := range p.Proxy.Expose.Paths {
		if e.ListenerPort > 0 {
			conf.ExcludeInboundPorts = append(conf.ExcludeInboundPorts, e.ListenerPort)
		}
	}
}

func portOf(v any) int {
	switch v := v.(type) {
	case float64:
		return int(v)
	case string:
		n, err := strconv.Atoi(v)
		if err == nil && n < 1<<16 {
			return n
		}
	}
	return 0
}

// v6 says whether the proxy takes what is sent over IPv6, by the rule by which it is configured so.
func (p *registeredProxy) v6() bool {
	for _, a := range []string{p.Address, p.node} {
		if ip, err := netip.ParseAddr(a); err == nil && ip.Unmap().Is6() {
			return true
		}
	}
	return false
}

// tables are netfilter's, of a network namespace or of this one.
type tables struct{ netns string }

// families are the programs for IPv4 and IPv6.
var families = [...]struct {
	program string
	v6      bool
}{{"ip6tables", true}, {"iptables", false}}

// apply puts the rules in force. One family is one transaction; if the second fails, the first is taken back.
func (t tables) apply(ctx context.Context, conf redirect.Config, v6 bool) error {
	for _, f := range families {
		if f.v6 && !v6 {
			if err := t.removeOne(ctx, f.program); err != nil && !errors.Is(err, exec.ErrNotFound) {
				return err // of an earlier run
			}
			continue
		}
		has, err := t.run(ctx, "", f.program+"-save", "-t", "nat")
		if err == nil {
			_, err = t.run(ctx, conf.Apply(has, f.v6), f.program+"-restore", "--noflush", "--wait=5")
		}
		if err != nil {
			if !f.v6 && v6 {
				err = errors.Join(err, t.removeOne(ctx, "ip6tables"))
			}
			return err
		}
	}
	return nil
}

func (t tables) removeOne(ctx context.Context, program string) error {
	has, err := t.run(ctx, "", program+"-save", "-t", "nat")
	if err != nil {
		return err
	}
	if rules := redirect.Remove(has); rules != "" {
		_, err = t.run(ctx, rules, program+"-restore", "--noflush", "--wait=5")
	}
	return err
}

func (t tables) remove(ctx context.Context, w io.Writer) error {
	for _, f := range families {
		if err := t.removeOne(ctx, f.program); err != nil && (!f.v6 || !errors.Is(err, exec.ErrNotFound)) {
			return err
		}
	}
	_, err := fmt.Fprintln(w, "Nothing is redirected any more.")
	return err
}

// run runs a program, in the namespace, and gives what it prints.
func (t tables) run(ctx context.Context, stdin, program string, args ...string) (string, error) {
	if _, err := exec.LookPath(program); err != nil {
		return "", fmt.Errorf("%s isn't there: install iptables (the package has this name on Debian, Ubuntu, Fedora and Alpine), by which the rules are made: %w", program, err)
	}
	all := append([]string{program}, args...)
	if t.netns != "" {
		at := t.netns
		if !strings.Contains(at, "/") {
			at = "/var/run/netns/" + at
		}
		if _, err := exec.LookPath("nsenter"); err == nil {
			all = append([]string{"nsenter", "--net=" + at, "--"}, all...)
		} else {
			all = append([]string{"ip", "netns", "exec", path.Base(at)}, all...)
		}
	}
	cmd := exec.CommandContext(ctx, all[0], all[1:]...)
	var out, fault bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &fault
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", strings.Join(all, " "), err, bytes.TrimSpace(fault.Bytes()))
	}
	return out.String(), nil
}
