// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	ucli "github.com/urfave/cli/v2"

	"github.com/weftmesh/weft/agent/rest"
)

func troubleshootCommand(env Env) *ucli.Command {
	return group("troubleshoot", "find out what is wrong with a proxy or its upstreams",
		&ucli.Command{
			Name: "proxy", Usage: "ask whether this host's proxies have what they should, and whether their certificates last",
			Flags: clientFlags(
				&ucli.StringFlag{Name: "proxy-id", Usage: "one proxy, by default all of this host"},
				&ucli.StringFlag{Name: "envoy-admin-endpoint", Usage: "a proxy's admin page to ask too, as 127.0.0.1:19000, which is asked where an upstream is named"},
				&ucli.StringFlag{Name: "upstream-envoy-id", Usage: "an upstream that the proxy should reach, as its clusters are called: a service, or a whole name"},
				&ucli.StringFlag{Name: "upstream-ip", Usage: "the same by an address that callers dial: virtual, or an instance's"},
			),
			Action: func(c *ucli.Context) error { return troubleshootProxy(c, env) },
		},
		&ucli.Command{
			Name: "upstreams", Usage: "list the upstreams of this host's proxies and how many healthy instances each has",
			Flags: clientFlags(&ucli.StringFlag{Name: "proxy-id", Usage: "one proxy, by default all of this host"},
				&ucli.StringFlag{Name: "envoy-admin-endpoint", Usage: "ask this admin page, as 127.0.0.1:19000, which upstreams its proxy has and how it finds their instances"}),
			Action: func(c *ucli.Context) error { return troubleshootUpstreams(c, env) },
		},
		&ucli.Command{
			Name: "ports", Usage: "try the ports of an agent or server",
			Flags: []ucli.Flag{
				&ucli.StringFlag{Name: "host", Usage: "the host, by default CONSUL_HTTP_ADDR's or 127.0.0.1"},
				&ucli.StringFlag{Name: "ports", Value: "8500,8501,8502,8503,8600,8300,8301,8302", Usage: "TCP ports, separated by commas"},
			},
			Action: func(c *ucli.Context) error { return troubleshootPorts(c, env) },
		})
}

// verdicts prints what was found, and fails if anything of it is bad.
type verdicts struct {
	env Env
	bad int
}

func (v *verdicts) say(good bool, format string, args ...any) {
	mark := "==> ✓ "
	if !good {
		mark = "==> ! "
		v.bad++
	}
	fmt.Fprintf(v.env.Stdout, mark+format+"\n", args...)
}

func (v *verdicts) end() error {
	if v.bad > 0 {
		return &exitError{code: 1}
	}
	return nil
}

func troubleshootProxy(c *ucli.Context, env Env) error {
	cl, err := client(c, env)
	if err != nil {
		return err
	}
	var proxies []rest.ProxyStatus
	var certs []rest.CertificateView
	if _, err := cl.Do(c.Context, http.MethodGet, "/v1/agent/connect/proxies", nil, nil, &proxies); err != nil {
		return err
	}
	if _, err := cl.Do(c.Context, http.MethodGet, "/v1/agent/connect/certificates", nil, nil, &certs); err != nil {
		return err
	}
	v := &verdicts{env: env}
	for _, cert := range certs {
		v.say(cert.Error == "" && cert.Left > 0, "certificate %s %s: %.0f %% of its life is left %s", cert.Kind, cert.Name, 100*cert.Left, cert.Error)
	}
	found := false
	for _, p := range proxies {
		if id := c.String("proxy-id"); id != "" && id != p.ProxyID {
			continue
		}
		found = true
		switch {
		case !p.Connected:
			v.say(false, "proxy %s of %s isn't connected: is it running? (weft connect proxy -proxy-id %s)", p.ProxyID, p.Service, p.ProxyID)
		case p.Refusal != "":
			v.say(false, "proxy %s of %s refused its configuration: %s", p.ProxyID, p.Service, p.Refusal)
		case p.NotReady != "":
			v.say(false, "proxy %s of %s waits: %s", p.ProxyID, p.Service, p.NotReady)
		default:
			v.say(p.AckedHash == p.RenderedHash, "proxy %s of %s has what it should have (index %d)", p.ProxyID, p.Service, p.RenderedIndex)
		}
		for _, w := range p.Warnings {
			fmt.Fprintln(env.Stdout, "      "+w)
		}
	}
	if !found {
		v.say(false, "no such proxy is registered on this host")
	}
	admin := c.String("envoy-admin-endpoint")
	id, ip := c.String("upstream-envoy-id"), c.String("upstream-ip")
	if id != "" || ip != "" {
		admin = cmp.Or(admin, "127.0.0.1:19000")
	}
	if admin == "" {
		return v.end()
	}
	text, err := adminReady(c.Context, admin)
	v.say(err == nil, "admin page %s: %s", admin, text)
	if err != nil || id == "" && ip == "" {
		return v.end()
	}
	if id == "" {
		if id, err = serviceAt(c.Context, cl, ip); err != nil {
			return err
		}
	}
	if err := v.upstream(c.Context, admin, id); err != nil {
		return err
	}
	return v.end()
}

func troubleshootUpstreams(c *ucli.Context, env Env) error {
	if admin := c.String("envoy-admin-endpoint"); admin != "" {
		if c.String("proxy-id") != "" {
			return usage("-envoy-admin-endpoint asks the proxy that it is of: leave -proxy-id out")
		}
		return adminUpstreams(c.Context, env, admin)
	}
	cl, err := client(c, env)
	if err != nil {
		return err
	}
	type upstream struct {
		DestinationName, LocalBindAddress, LocalBindSocketPath string
		LocalBindPort                                          int
	}
	var services map[string]struct {
		ID    string
		Proxy *struct{ Upstreams []upstream }
	}
	if _, err := cl.Do(c.Context, http.MethodGet, "/v1/agent/services", nil, nil, &services); err != nil {
		return err
	}
	var rows [][]string
	missing := false
	for id, s := range services {
		if s.Proxy == nil || c.String("proxy-id") != "" && c.String("proxy-id") != id {
			continue
		}
		for _, u := range s.Proxy.Upstreams {
			var all []struct{}
			if _, err := cl.Do(c.Context, http.MethodGet, "/v1/health/connect/"+url.PathEscape(u.DestinationName), url.Values{"passing": {"1"}}, nil, &all); err != nil {
				return err
			}
			at := u.LocalBindSocketPath
			if at == "" {
				at = net.JoinHostPort(cmp.Or(u.LocalBindAddress, "127.0.0.1"), strconv.Itoa(u.LocalBindPort))
			}
			missing = missing || len(all) == 0
			rows = append(rows, []string{id, u.DestinationName, at, strconv.Itoa(len(all))})
		}
	}
	if err := table(env.Stdout, []string{"Proxy", "Upstream", "Listens at", "Healthy"}, rows); err != nil {
		return err
	}
	if missing {
		return &exitError{code: 1, text: "An upstream has no healthy instance: see `weft catalog services`, and the checks of that service."}
	}
	return nil
}

func troubleshootPorts(c *ucli.Context, env Env) error {
	host := c.String("host")
	if host == "" {
		host = "127.0.0.1"
		if h, _, err := net.SplitHostPort(env.Getenv("CONSUL_HTTP_ADDR")); err == nil && h != "" {
			host = h
		}
	}
	var wrong []string
	d := &net.Dialer{Timeout: 5 * time.Second}
	for _, port := range strings.Split(c.String("ports"), ",") {
		port = strings.TrimSpace(port)
		if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
			return usage("-ports %q: want numbers from 1 to 65535, separated by commas", c.String("ports"))
		}
		conn, err := d.DialContext(c.Context, "tcp", net.JoinHostPort(host, port))
		if err != nil {
			wrong = append(wrong, port)
			fmt.Fprintf(env.Stdout, "TCP: Port %s on %s is closed, unreachable, or the connection timed out: %v\n", port, host, err)
			continue
		}
		_ = conn.Close() // nothing was said
		fmt.Fprintf(env.Stdout, "TCP: Port %s on %s is open\n", port, host)
	}
	if len(wrong) > 0 {
		return &exitError{code: 1}
	}
	return nil
}
