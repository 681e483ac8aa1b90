// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
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
	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/cli/apiclient"
	"github.com/weftmesh/weft/connect/xds"
)

func envoyFlags() []ucli.Flag {
	flags := []ucli.Flag{
		&ucli.BoolFlag{Name: "bootstrap", Usage: "print Envoy's bootstrap and start nothing"},
		&ucli.StringFlag{Name: "envoy-binary", Usage: "Envoy, by default the one in PATH"},
		&ucli.StringFlag{Name: "envoy-version", Usage: "version that the bootstrap is for: one that weft isn't tested with is refused"},
		&ucli.StringFlag{Name: "admin-bind", Value: "localhost:19000", Usage: "where Envoy's admin page listens"},
		&ucli.StringFlag{Name: "admin-access-log-path", Value: "/dev/null", Usage: "where accesses to the admin page are logged"},
		&ucli.BoolFlag{Name: "ignore-envoy-compatibility", Usage: "run a version of Envoy that weft isn't tested with"},
		&ucli.StringFlag{Name: "node-name", Usage: "node that the proxy is registered on: another than the agent's is refused, which serves its own host alone"},
		&ucli.StringFlag{Name: "grpc-ca-file", Usage: "certificates of which that of xDS over TLS must come (WEFT_GRPC_CACERT)"},
		&ucli.StringFlag{Name: "grpc-ca-path", Usage: "folder of such files (WEFT_GRPC_CAPATH)"},
		&ucli.BoolFlag{Name: "no-central-config", Usage: "don't add what proxy-defaults has to the proxy's own config"},
		&ucli.BoolFlag{Name: "omit-deprecated-tags", Usage: "leave out the tags of Envoy's statistics by their names before Consul 1.9"},
		&ucli.StringFlag{Name: "prometheus-backend-port", Usage: "port on this host that has the metrics, instead of Envoy's admin page (with envoy_prometheus_bind_addr)"},
		&ucli.StringFlag{Name: "prometheus-scrape-path", Usage: "path of the metrics, by default /metrics (with envoy_prometheus_bind_addr)"},
		&ucli.StringFlag{Name: "prometheus-ca-file", Usage: "certificates of which that of who scrapes over TLS must come"},
		&ucli.StringFlag{Name: "prometheus-ca-path", Usage: "folder of such files"},
		&ucli.StringFlag{Name: "prometheus-cert-file", Usage: "certificate to show to who scrapes"},
		&ucli.StringFlag{Name: "prometheus-key-file", Usage: "its key"},
		&ucli.StringFlag{Name: "envoy-ready-bind-address", Usage: "where GET /ready is answered, with -envoy-ready-bind-port"},
		&ucli.IntFlag{Name: "envoy-ready-bind-port", Usage: "port of it"},
		&ucli.BoolFlag{Name: "enable-config-gen-logging", Usage: "say on standard error what the bootstrap is made of"},
	}
	for _, name := range gatewayFlags {
		if name == "register" || name == "expose-servers" {
			flags = append(flags, &ucli.BoolFlag{Name: name, Usage: "of gateways, which weft hasn't yet: refused"})
			continue
		}
		flags = append(flags, &ucli.StringSliceFlag{Name: name, Usage: "of gateways, which weft hasn't yet: refused"})
	}
	return flags
}

// gatewayFlags are Consul's about gateways.
var gatewayFlags = []string{"gateway", "mesh-gateway", "register", "service", "address", "wan-address", "bind-address", "expose-servers", "deregister-after-critical"}

func connectEnvoy(c *ucli.Context, env Env) error {
	for _, name := range gatewayFlags {
		if c.IsSet(name) {
			return usage("-%s is about gateways, and weft renders none yet: run a sidecar, with -sidecar-for or -proxy-id", name)
		}
	}
	if err := envoyKnown(c, c.String("envoy-version")); err != nil {
		return err
	}
	note := func(string, ...any) {}
	if c.Bool("enable-config-gen-logging") {
		note = func(format string, args ...any) { fmt.Fprintf(env.Stderr, "bootstrap: "+format+"\n", args...) }
	}
	a, err := access(c, env)
	if err != nil {
		return err
	}
	note("proxy %s of service %s, xDS at %s", a.ProxyID, a.Service, a.ADSAddress)
	conf, err := bootstrapOf(c, env, a, note)
	if err != nil {
		return err
	}
	var secrets []string
	if !c.Bool("bootstrap") { // who starts an Envoy by himself has its environment in his hands
		secrets = inEnvironment(&conf)
	}
	bootstrap, err := xds.Bootstrap(conf)
	if err != nil {
		return err
	}
	note("%d bytes", len(bootstrap))
	if c.Bool("bootstrap") {
		_, err := fmt.Fprintln(env.Stdout, string(bootstrap))
		return err
	}
	binary, err := envoyBinary(c)
	if err != nil {
		return err
	}
	if err := keepMemory(env); err != nil {
		return err
	}
	return execEnvoy(binary, bootstrap, c.Args().Slice(), secrets)
}

// inEnvironment moves a bootstrap's secrets to the environment, from where Envoy takes them: its admin port shows the bootstrap to all processes
// of the host, and a process's environment is its user's alone.
func inEnvironment(c *xds.BootstrapConfig) (env []string) {
	c.FromEnvironment = true
	for name, secret := range map[string]*string{"WEFT_PROXY_SECRET": &c.Secret, "WEFT_PROXY_TOKEN": &c.Token} {
		if *secret != "" {
			env = append(env, name+"="+*secret)
			*secret = name
		}
	}
	return env
}

// bootstrapOf is what flags, the registration and proxy-defaults say of the bootstrap.
func bootstrapOf(c *ucli.Context, env Env, a rest.Access, note func(string, ...any)) (xds.BootstrapConfig, error) {
	conf := xds.BootstrapConfig{
		ProxyID: a.ProxyID, Service: a.Service, Namespace: a.Namespace, ADSAddress: a.ADSAddress, Secret: a.Secret, Token: c.String("token"),
		AdminAccessLogPath: c.String("admin-access-log-path"), OmitDeprecatedTags: c.Bool("omit-deprecated-tags"),
	}
	cl, err := client(c, env)
	if err != nil {
		return conf, err
	}
	if name := c.String("node-name"); name != "" {
		var self struct{ Config struct{ NodeName string } }
		if _, err := cl.Do(c.Context, http.MethodGet, "/v1/agent/self", nil, nil, &self); err != nil {
			return conf, err
		}
		if self.Config.NodeName != name {
			return conf, usage("-node-name %q: this agent's node is %q, and a proxy is served by the agent of its own host: name that one with -http-addr", name, self.Config.NodeName)
		}
	}
	if conf.AdminAddress, err = resolve(c.Context, c.String("admin-bind")); err != nil {
		return conf, fmt.Errorf("-admin-bind: %w", err)
	}
	if err := adsOver(c, env, &conf); err != nil {
		return conf, err
	}
	config := a.Config
	if !c.Bool("no-central-config") {
		if config, err = centralConfig(c.Context, env, cl, a.Config, note); err != nil {
			return conf, err
		}
	}
	if conf.Prometheus, err = prometheusOf(c, config); err != nil {
		return conf, err
	}
	if conf.Keys, err = xds.KeysOf(config, env.Getenv); err != nil {
		return conf, err
	}
	address, port := c.String("envoy-ready-bind-address"), c.Int("envoy-ready-bind-port")
	switch {
	case (address == "") != (port == 0):
		return conf, usage("-envoy-ready-bind-address and -envoy-ready-bind-port belong together: give both")
	case address != "":
		conf.ReadyAddress = net.JoinHostPort(address, strconv.Itoa(port))
	}
	return conf, nil
}

// adsOver settles how ADS is reached: an address that is one, and over TLS where a CA or https:// says so.
func adsOver(c *ucli.Context, env Env, conf *xds.BootstrapConfig) error {
	file := cmp.Or(c.String("grpc-ca-file"), env.Getenv("WEFT_GRPC_CACERT"), env.Getenv("CONSUL_GRPC_CACERT"))
	path := cmp.Or(c.String("grpc-ca-path"), env.Getenv("WEFT_GRPC_CAPATH"), env.Getenv("CONSUL_GRPC_CAPATH"))
	addr, secure := strings.CutPrefix(conf.ADSAddress, "https://")
	if file+path == "" && secure {
		return usage("-grpc-addr %s is over TLS: say with -grpc-ca-file or -grpc-ca-path whose certificate it may show", conf.ADSAddress)
	}
	if !strings.HasPrefix(addr, "unix:") {
		var err error
		if addr, err = resolve(c.Context, addr); err != nil {
			return fmt.Errorf("-grpc-addr: %w", err)
		}
	}
	conf.ADSAddress = addr
	if file+path == "" {
		return nil
	}
	var err error
	conf.ADSCA, err = certificates(file, path)
	conf.ADSName = c.String("tls-server-name")
	return err
}

// centralWithin is how long a sidecar's start waits for proxy-defaults.
const centralWithin = 5 * time.Second

// centralConfig is a proxy's own config with that of proxy-defaults beneath.
func centralConfig(ctx context.Context, env Env, cl *apiclient.Client, own catalog.Opaque, note func(string, ...any)) (catalog.Opaque, error) {
	var defaults struct{ Config catalog.Opaque }
	soon, cancel := context.WithTimeout(ctx, centralWithin)
	defer cancel()
	_, err := cl.Do(soon, http.MethodGet, "/v1/config/proxy-defaults/global", nil, nil, &defaults)
	switch {
	case apiclient.IsStatus(err, http.StatusNotFound):
		note("no proxy-defaults")
		return own, nil
	case apiclient.IsStatus(err, http.StatusForbidden):
		fmt.Fprintln(env.Stderr, "Warning: proxy-defaults can't be read with this token: the proxy's own config holds alone")
		return own, nil
	case err != nil: // a sidecar starts without the servers too
		fmt.Fprintf(env.Stderr, "Warning: proxy-defaults can't be read now, so that what they say of the bootstrap is missing until the next start: %v\n", err)
		return own, nil
	}
	merged := catalog.Opaque{}
	maps.Copy(merged, defaults.Config)
	maps.Copy(merged, own)
	note("%d keys of proxy-defaults, %d of the proxy's own", len(defaults.Config), len(own))
	return merged, nil
}

// prometheusOf is the listener with metrics that the proxy's config asks for.
func prometheusOf(c *ucli.Context, config catalog.Opaque) (xds.PrometheusListener, error) {
	p := xds.PrometheusListener{ScrapePath: c.String("prometheus-scrape-path")}
	p.Address, _ = config["envoy_prometheus_bind_addr"].(string)
	if port := c.String("prometheus-backend-port"); port != "" {
		p.Backend = net.JoinHostPort("127.0.0.1", port)
	}
	cert, key := c.String("prometheus-cert-file"), c.String("prometheus-key-file")
	file, path := c.String("prometheus-ca-file"), c.String("prometheus-ca-path")
	if cert+key+file+path == "" {
		return p, nil
	}
	if cert == "" || key == "" || file+path == "" {
		return p, usage("metrics over TLS need -prometheus-cert-file, -prometheus-key-file and one of -prometheus-ca-file and -prometheus-ca-path")
	}
	ca, err := certificates(file, path)
	if err != nil {
		return p, err
	}
	for _, name := range []*string{&cert, &key} {
		if *name, err = filepath.Abs(*name); err == nil {
			_, err = os.Stat(*name)
		}
		if err != nil {
			return p, err
		}
	}
	p.TLS = &xds.ListenerTLS{CertFile: cert, KeyFile: key, ClientCA: ca}
	return p, nil
}

// certificates are those of a file, and of a folder's files, in PEM.
func certificates(file, folder string) (string, error) {
	var files []string
	if file != "" {
		files = append(files, file)
	}
	if folder != "" {
		entries, err := os.ReadDir(folder)
		if err != nil {
			return "", err
		}
		for _, e := range entries {
			if e.Type().IsRegular() {
				files = append(files, filepath.Join(folder, e.Name()))
			}
		}
	}
	var all strings.Builder
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			return "", err
		}
		if !strings.Contains(string(data), "-----BEGIN CERTIFICATE-----") {
			return "", fmt.Errorf("%s: there is no certificate in PEM in it", name)
		}
		all.WriteString(strings.TrimSpace(string(data)) + "\n")
	}
	if all.Len() == 0 {
		return "", fmt.Errorf("%s: there is no file in it", folder)
	}
	return all.String(), nil
}

// The versions of Envoy that weft is tested with.
const (
	envoyMinor    = 36
	envoyMaxMinor = 40
)

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
	if err := envoyKnown(c, strings.Join(m[1:4], ".")); err != nil {
		return "", fmt.Errorf("%s is %w", binary, err)
	}
	return binary, nil
}

// envoyKnown refuses a version that weft isn't tested with, unless it is told not to; "" is none.
func envoyKnown(c *ucli.Context, version string) error {
	if version == "" {
		return nil
	}
	parts := strings.Split(version, ".")
	numbers := make([]int, len(parts))
	for i, part := range parts {
		n, err := strconv.Atoi(part)
		if err != nil {
			return usage("Envoy %q: want a version, as 1.%d.0", version, envoyMaxMinor)
		}
		numbers[i] = n
	}
	if len(parts) < 2 {
		return usage("Envoy %q: want a version, as 1.%d.0", version, envoyMaxMinor)
	}
	if (numbers[0] != 1 || numbers[1] < envoyMinor || numbers[1] > envoyMaxMinor) && !c.Bool("ignore-envoy-compatibility") {
		return fmt.Errorf("Envoy %s, and weft is tested with 1.%d to 1.%d: install one of these, or try it with -ignore-envoy-compatibility", //nolint:staticcheck // a name
			version, envoyMinor, envoyMaxMinor)
	}
	return nil
}

// execEnvoy replaces this process by Envoy. The bootstrap holds the proxy's secret: it is written to a file that only this user
// may read, is open already when Envoy starts, and has no name any more.
func execEnvoy(binary string, bootstrap []byte, more, env []string) error {
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
	return syscall.Exec(binary, append(args, more...), append(os.Environ(), env...))
}

func contains(args []string, flag string) bool {
	for _, a := range args {
		if a == flag || strings.HasPrefix(a, flag+"=") {
			return true
		}
	}
	return false
}
