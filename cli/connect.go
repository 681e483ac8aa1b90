// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	ucli "github.com/urfave/cli/v2"

	"github.com/weftmesh/weft/agent/rest"
	"github.com/weftmesh/weft/cli/apiclient"
	"github.com/weftmesh/weft/connect/xds"
)

func connectCommand(env Env) *ucli.Command {
	which := []ucli.Flag{
		&ucli.StringFlag{Name: "sidecar-for", Usage: "ID of the service to be the sidecar of (CONNECT_SIDECAR_FOR)"},
		&ucli.StringFlag{Name: "proxy-id", Usage: "ID of the proxy's own registration (CONNECT_PROXY_ID)"},
		&ucli.StringFlag{Name: "grpc-addr", Usage: "xDS of the agent: host:port or unix:/path; by default what the agent says"},
	}
	envoy := append([]ucli.Flag{
		&ucli.BoolFlag{Name: "bootstrap", Usage: "print Envoy's bootstrap and start nothing"},
		&ucli.StringFlag{Name: "envoy-binary", Usage: "Envoy, by default the one in PATH"},
		&ucli.StringFlag{Name: "admin-bind", Value: "localhost:19000", Usage: "where Envoy's admin page listens"},
		&ucli.StringFlag{Name: "admin-access-log-path", Value: "/dev/null", Usage: "where accesses to the admin page are logged"},
		&ucli.BoolFlag{Name: "ignore-envoy-compatibility", Usage: "run a version of Envoy that weft isn't tested with"},
	}, which...)
	builtin := append([]ucli.Flag{
		&ucli.StringFlag{Name: "admin-bind", Usage: "where the proxy's admin page listens, by default nowhere"},
		&ucli.StringFlag{Name: "log-level", Value: "info", Usage: "trace, debug, info, warn or error"},
		&ucli.BoolFlag{Name: "log-json", Usage: "logs as JSON"},
		&ucli.BoolFlag{Name: "shared", Usage: "be the host proxy: sidecar of all services that the agent names on -socket"},
		&ucli.StringFlag{Name: "socket", Usage: "control socket of the host proxy"},
		&ucli.DurationFlag{Name: "upgrade-drain", Value: 15 * time.Minute, Usage: "how long open connections may go on in this process when SIGUSR2 has had a newer one take over"},
	}, which...)
	return group("connect", "run sidecars; the authority that signs their certificates",
		&ucli.Command{Name: "envoy", Usage: "run Envoy as a sidecar", ArgsUsage: "[-- ARGUMENTS FOR ENVOY]", Flags: clientFlags(envoy...), Action: func(c *ucli.Context) error { return connectEnvoy(c, env) }},
		&ucli.Command{Name: "proxy", Usage: "run weft's own proxy as a sidecar", Flags: clientFlags(builtin...), Action: func(c *ucli.Context) error { return connectProxy(c, env) }},
		connectCA(env), connectExpose(env),
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
	_, err = cl.Do(c.Context, http.MethodGet, "/v1/agent/connect/proxy/"+url.PathEscape(id), nil, nil, &a)
	if apiclient.IsStatus(err, http.StatusNotFound) {
		return a, fmt.Errorf("no proxy %q is registered on this agent: register it with `weft services register` first", id)
	}
	if addr := c.String("grpc-addr"); addr != "" {
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

// The versions of Envoy that weft is tested with.
const (
	envoyMinor    = 36
	envoyMaxMinor = 40
)

func connectEnvoy(c *ucli.Context, env Env) error {
	a, err := access(c, env)
	if err != nil {
		return err
	}
	admin, err := resolve(c.Context, c.String("admin-bind"))
	if err != nil {
		return fmt.Errorf("-admin-bind: %w", err)
	}
	conf := xds.BootstrapConfig{
		ProxyID: a.ProxyID, Service: a.Service, ADSAddress: a.ADSAddress, Secret: a.Secret, Token: c.String("token"),
		AdminAddress: admin, AdminAccessLogPath: c.String("admin-access-log-path"),
	}
	if bind, ok := a.Config["envoy_prometheus_bind_addr"].(string); ok {
		conf.PrometheusBindAddress = bind
	}
	bootstrap, err := xds.Bootstrap(conf)
	if err != nil {
		return err
	}
	if c.Bool("bootstrap") {
		_, err := fmt.Fprintln(env.Stdout, string(bootstrap))
		return err
	}
	binary, err := envoyBinary(c)
	if err != nil {
		return err
	}
	return execEnvoy(binary, bootstrap, c.Args().Slice())
}

func resolve(ctx context.Context, hostport string) (string, error) {
	host, port, err := net.SplitHostPort(hostport)
	if err != nil {
		return "", err
	}
	addrs, err := net.DefaultResolver.LookupHost(ctx, host)
	if err != nil {
		return "", err
	}
	for _, a := range addrs {
		if net.ParseIP(a).To4() != nil {
			return net.JoinHostPort(a, port), nil
		}
	}
	return net.JoinHostPort(addrs[0], port), nil
}

var envoyVersion = regexp.MustCompile(`/(\d+)\.(\d+)\.(\d+)[^/]*/`)

// envoyBinary finds Envoy and refuses a version that weft isn't tested with.
func envoyBinary(c *ucli.Context) (string, error) {
	name := c.String("envoy-binary")
	if name == "" {
		name = "envoy"
	}
	binary, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("Envoy isn't there: %w; install it (1.%d to 1.%d), name it with -envoy-binary, or run weft's own: weft connect proxy", err, envoyMinor, envoyMaxMinor)
	}
	out, err := exec.CommandContext(c.Context, binary, "--version").Output()
	if err != nil {
		return "", fmt.Errorf("%s --version: %w; is it Envoy?", binary, err)
	}
	m := envoyVersion.FindStringSubmatch(string(out))
	if m == nil {
		return "", fmt.Errorf("%s --version says %q: is it Envoy?", binary, strings.TrimSpace(string(out)))
	}
	minor, _ := strconv.Atoi(m[2])
	if (m[1] != "1" || minor < envoyMinor || minor > envoyMaxMinor) && !c.Bool("ignore-envoy-compatibility") {
		return "", fmt.Errorf("%s is Envoy %s.%s.%s, and weft is tested with 1.%d to 1.%d: install one of these, or try it with -ignore-envoy-compatibility",
			binary, m[1], m[2], m[3], envoyMinor, envoyMaxMinor)
	}
	return binary, nil
}

// execEnvoy replaces this process by Envoy. The bootstrap holds the proxy's secret: it is written to a file that only this user
// may read, is open already when Envoy starts, and has no name any more.
func execEnvoy(binary string, bootstrap []byte, more []string) error {
	f, err := os.CreateTemp("", "weft-envoy-*.json") // 0600
	if err != nil {
		return err
	}
	if _, err := f.Write(bootstrap); err != nil {
		return err
	}
	if err := os.Remove(f.Name()); err != nil {
		return err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	fd, err := syscall.Dup(int(f.Fd())) // without close-on-exec
	if err != nil {
		return err
	}
	args := []string{filepath.Base(binary), "--config-path", fmt.Sprintf("/dev/fd/%d", fd)}
	args = append(args, xds.EnvoyArgs...)
	if !contains(more, "--restart-epoch") {
		args = append(args, "--disable-hot-restart")
	}
	return syscall.Exec(binary, append(args, more...), os.Environ())
}

func contains(args []string, flag string) bool {
	for _, a := range args {
		if a == flag || strings.HasPrefix(a, flag+"=") {
			return true
		}
	}
	return false
}

func connectProxy(c *ucli.Context, env Env) error {
	log, err := newLog(env.Stdout, c.String("log-level"), c.Bool("log-json"))
	if err != nil {
		return err
	}
	if c.Bool("shared") {
		if c.String("socket") == "" {
			return usage("-shared needs -socket, where the agent says which services there are")
		}
		return runHostProxy(c.Context, env, c.String("socket"), c.String("admin-bind"), c.Duration("upgrade-drain"), log)
	}
	if c.String("socket") != "" {
		return usage("-socket is only for -shared")
	}
	a, err := access(c, env)
	if err != nil {
		return err
	}
	return errors.Join(runProxy(c.Context, env, a, c.String("token"), c.String("admin-bind"), c.Duration("upgrade-drain"), log))
}
