// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	ucli "github.com/urfave/cli/v2"

	"github.com/weftmesh/weft/agent/rest"
	"github.com/weftmesh/weft/cli/apiclient"
)

func connectCommand(env Env) *ucli.Command {
	which := []ucli.Flag{
		&ucli.StringFlag{Name: "sidecar-for", Usage: "ID of the service to be the sidecar of (CONNECT_SIDECAR_FOR)"},
		&ucli.StringFlag{Name: "proxy-id", Usage: "ID of the proxy's own registration (CONNECT_PROXY_ID)"},
		&ucli.StringFlag{Name: "grpc-addr", Usage: "xDS of the agent: host:port or unix:/path; by default what the agent says (WEFT_GRPC_ADDR)"},
	}
	builtin := append([]ucli.Flag{
		&ucli.StringFlag{Name: "admin-bind", Usage: "where the proxy's admin page listens, by default nowhere"},
		&ucli.StringFlag{Name: "pprof-addr", Usage: "where profiles of the process (/debug/pprof/) are served, by default nowhere"},
		&ucli.StringFlag{Name: "service", Usage: "service to be the proxy of without a registration made before: the proxy makes one that lasts as long as it runs"},
		&ucli.StringFlag{Name: "service-addr", Usage: "where that service listens, as 127.0.0.1:8080 (with -listen)"},
		&ucli.StringFlag{Name: "listen", Usage: "where others reach the proxy, as :21000; without it, it has upstreams alone (with -service)"},
		&ucli.StringSliceFlag{Name: "upstream", Usage: "NAME:[ADDRESS:]PORT: a service to call, and where it is found here (with -service; repeatable)"},
		&ucli.BoolFlag{Name: "register", Usage: "let others find the proxy as one of the service's (with -service and -listen)"},
		&ucli.StringFlag{Name: "register-id", Usage: "end of the registration's ID, to tell it from that of another proxy of the service (with -service)"},
		&ucli.StringFlag{Name: "log-level", Value: "info", Usage: "trace, debug, info, warn or error"},
		&ucli.BoolFlag{Name: "log-json", Usage: "logs as JSON"},
		&ucli.BoolFlag{Name: "shared", Usage: "be the host proxy: sidecar of all services that the agent names on -socket"},
		&ucli.StringFlag{Name: "socket", Usage: "control socket of the host proxy"},
		&ucli.DurationFlag{Name: "upgrade-drain", Value: 15 * time.Minute, Usage: "how long open connections may go on in this process when SIGUSR2 has had a newer one take over"},
	}, which...)
	return group("connect", "run sidecars, transparent ones too; the authority that signs their certificates",
		&ucli.Command{Name: "envoy", Usage: "run Envoy as a sidecar", ArgsUsage: "[-- ARGUMENTS FOR ENVOY]", Flags: clientFlags(append(envoyFlags(), which...)...), Action: func(c *ucli.Context) error { return connectEnvoy(c, env) }},
		&ucli.Command{Name: "proxy", Usage: "run weft's own proxy as a sidecar", Flags: clientFlags(builtin...), Action: func(c *ucli.Context) error { return connectProxy(c, env) }},
		connectRedirect(env), connectCA(env), connectExpose(env),
	)
}

// access finds out how a proxy reaches xDS.
func access(c *ucli.Context, env Env) (rest.Access, error) {
	var a rest.Access
	cl, err := client(c, env)
	if err != nil {
		return a, err
	}
	id := c.String("proxy-id")
	if id == "" {
		id = env.Getenv("CONNECT_PROXY_ID")
	}
	service := c.String("sidecar-for")
	if service == "" {
		service = env.Getenv("CONNECT_SIDECAR_FOR")
	}
	switch {
	case service != "":
		if id, err = sidecarOf(c.Context, cl, service); err != nil {
			return a, err
		}
	case id == "":
		return a, usage("No proxy ID specified. One of -proxy-id or -sidecar-for is required")
	}
	return accessOf(c, env, cl, id)
}

// accessOf asks the agent how a registered proxy reaches xDS.
func accessOf(c *ucli.Context, env Env, cl *apiclient.Client, id string) (a rest.Access, err error) {
	_, err = cl.Do(c.Context, http.MethodGet, "/v1/agent/connect/proxy/"+url.PathEscape(id), nil, nil, &a)
	if apiclient.IsStatus(err, http.StatusNotFound) {
		return a, fmt.Errorf("no proxy %q is registered on this agent: register it with `weft services register` first", id)
	}
	if addr := cmp.Or(c.String("grpc-addr"), env.Getenv("WEFT_GRPC_ADDR"), env.Getenv("CONSUL_GRPC_ADDR")); addr != "" {
		a.ADSAddress = strings.TrimPrefix(addr, "http://")
	}
	return a, err
}

// sidecarOf is the ID of the one proxy that is registered for a service.
func sidecarOf(ctx context.Context, cl *apiclient.Client, service string) (string, error) {
	var services map[string]struct {
		ID    string
		Proxy *struct{ DestinationServiceID, DestinationServiceName string }
	}
	if _, err := cl.Do(ctx, http.MethodGet, "/v1/agent/services", nil, nil, &services); err != nil {
		return "", err
	}
	var found []string
	for id, s := range services {
		if s.Proxy != nil && (s.Proxy.DestinationServiceID == service || (s.Proxy.DestinationServiceID == "" && s.Proxy.DestinationServiceName == service)) {
			found = append(found, id)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		if _, ok := services[service]; ok {
			return "", fmt.Errorf("No sidecar proxy registered for %s: add `connect { sidecar_service {} }` to its registration", service) //nolint:staticcheck // Consul's text
		}
		return "", fmt.Errorf("No sidecar proxy registered for %s: no service of this ID is registered on this agent", service) //nolint:staticcheck // Consul's text
	}
	return "", fmt.Errorf("More than one sidecar proxy registered for %s. Start proxy with -proxy-id and one of these IDs: %s", service, strings.Join(found, ", ")) //nolint:staticcheck // Consul's text
}

func connectProxy(c *ucli.Context, env Env) error {
	log, err := newLog(env.Stdout, c.String("log-level"), c.Bool("log-json"))
	if err != nil {
		return err
	}
	ctx := c.Context
	r := proxyRun{token: c.String("token"), admin: c.String("admin-bind"), pprof: c.String("pprof-addr"), retirement: c.Duration("upgrade-drain")}
	if c.Bool("shared") {
		if c.String("socket") == "" {
			return usage("-shared needs -socket, where the agent says which services there are")
		}
		if name := firstSet(c, "service", "service-addr", "listen", "upstream", "register", "register-id"); name != "" {
			return usage("-%s is for the proxy of one service: -shared takes its services from the agent", name)
		}
		socket := c.String("socket")
		return env.after(func() error { return runHostProxy(ctx, env, socket, r, log) })
	}
	if c.String("socket") != "" {
		return usage("-socket is only for -shared")
	}
	if r.own, err = newOwnProxy(c, env, log); err != nil {
		return err
	}
	if r.own == nil {
		a, err := access(c, env)
		if err != nil {
			return err
		}
		return env.after(func() error { return runProxy(ctx, env, a, r, log) })
	}
	if err := r.own.register(ctx); err != nil {
		return err
	}
	a, err := accessOf(c, env, r.own.cl, r.own.def.ID)
	if err != nil {
		return errors.Join(err, r.own.deregister())
	}
	return env.after(func() error { return runProxy(ctx, env, a, r, log) })
}

// firstSet is the first of the flags that is given, or "".
func firstSet(c *ucli.Context, names ...string) string {
	for _, name := range names {
		if c.IsSet(name) {
			return name
		}
	}
	return ""
}
