// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	ucli "github.com/urfave/cli/v2"

	"github.com/weftmesh/weft/agent/local"
	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/cli/apiclient"
)

// ownProxy is a proxy's registration that its process makes, keeps alive and takes back at its end.
type ownProxy struct {
	cl  *apiclient.Client
	log *slog.Logger
	def local.ServiceDefinition
}

const (
	// ownMeta is the key of the registration's meta that says by which flags it was made: a proxy that is started again takes its own over.
	ownMeta = "connect-proxy-flags"
	// ownTTL is how long the registration passes after the process was heard of last, and ownForget how long it then stays.
	ownTTL, ownForget = 30 * time.Second, 10 * time.Minute
	// endWithin bounds taking the registration back.
	endWithin = 5 * time.Second
)

// newOwnProxy reads -service and what belongs to it; nil without them.
func newOwnProxy(c *ucli.Context, env Env, log *slog.Logger) (*ownProxy, error) {
	service := c.String("service")
	if service == "" {
		if name := firstSet(c, "service-addr", "listen", "upstream", "register", "register-id"); name != "" {
			return nil, usage("-%s needs -service; a proxy that is registered takes it from its registration", name)
		}
		return nil, nil
	}
	if name := firstSet(c, "proxy-id", "sidecar-for"); name != "" {
		return nil, usage("-service and -%s exclude each other: -%[1]s names a proxy that is registered", name)
	}
	listen, upstreams := c.String("listen"), c.StringSlice("upstream")
	switch {
	case listen == "" && c.String("service-addr") != "":
		return nil, usage("-service-addr needs -listen: without it nobody calls the service")
	case listen == "" && c.Bool("register"):
		return nil, usage("-register needs -listen: others would find what they can't reach")
	case listen == "" && len(upstreams) == 0:
		return nil, usage("-service needs -listen, for others to call it, or -upstream, for it to call others")
	case listen != "" && c.String("service-addr") == "":
		return nil, usage("-listen needs -service-addr: where the service itself listens")
	}
	p := &catalog.Proxy{DestinationServiceName: service, Config: catalog.Opaque{}}
	def := local.ServiceDefinition{Kind: catalog.KindConnectProxy, Name: service + "-proxy", ID: service + "-proxy", Proxy: p, Namespace: c.String("namespace"), Partition: c.String("partition")}
	if suffix := c.String("register-id"); suffix != "" {
		def.ID += "-" + suffix
	}
	if listen != "" {
		host, port, err := hostPort("-listen", listen)
		if err != nil {
			return nil, err
		}
		if def.Port = port; host != "" {
			p.Config["bind_address"] = host
		}
		if addr, err := netip.ParseAddr(host); err == nil && !addr.IsUnspecified() {
			def.Address = host
		}
		if p.LocalServiceAddress, p.LocalServicePort, err = hostPort("-service-addr", c.String("service-addr")); err != nil {
			return nil, err
		}
	}
	if listen == "" { // a proxy has a listener for callers all the same, at a port that is found later: here nobody else can reach it
		def.Address, p.Config["bind_address"] = "127.0.0.1", "127.0.0.1"
	}
	for _, text := range upstreams {
		u, err := upstreamOf(text)
		if err != nil {
			return nil, err
		}
		p.Upstreams = append(p.Upstreams, u)
	}
	def.Checks = []local.CheckDefinition{{ID: def.ID + "-ttl", Name: "Connect Proxy Running", TTL: ownTTL, Status: catalog.HealthPassing, DeregisterCriticalServiceAfter: ownForget}}
	if !c.Bool("register") {
		def.Checks = append(def.Checks, local.CheckDefinition{
			ID: def.ID + "-unregistered", Name: "Not To Be Called", Notes: "the proxy was started without -register: others don't find it", TTL: 24 * 365 * time.Hour, Status: catalog.HealthCritical,
		})
	}
	cl, err := client(c, env)
	if err != nil {
		return nil, err
	}
	flags, err := json.Marshal(def)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(flags)
	def.Meta = map[string]string{ownMeta: hex.EncodeToString(sum[:8])}
	return &ownProxy{cl: cl, log: log, def: def}, nil
}

func hostPort(flag, text string) (string, int, error) {
	host, port, err := net.SplitHostPort(text)
	n, perr := strconv.ParseUint(port, 10, 16)
	if err != nil || perr != nil || n == 0 {
		return "", 0, usage("%s %q: want ADDRESS:PORT, as 127.0.0.1:8080", flag, text)
	}
	if _, err := netip.ParseAddr(host); host != "" && err != nil {
		return "", 0, usage("%s %q: %q isn't an IP address", flag, text, host)
	}
	return host, int(n), nil
}

// upstreamOf reads NAME:[ADDRESS:]PORT.
func upstreamOf(text string) (u catalog.Upstream, err error) {
	name, at, ok := strings.Cut(text, ":")
	if !ok || name == "" {
		return u, usage("-upstream %q: want NAME:PORT or NAME:ADDRESS:PORT, as db:9191", text)
	}
	if strings.HasSuffix(name, ".query") {
		return u, usage("-upstream %q: weft's proxies call services, not prepared queries; failover stands in a service-resolver", text)
	}
	if !strings.Contains(at, ":") {
		at = ":" + at
	}
	u.DestinationName = name
	u.LocalBindAddress, u.LocalBindPort, err = hostPort("-upstream "+name, at)
	return u, err
}

// register makes the registration, or takes over what the same flags made before. One of other flags is left alone.
func (o *ownProxy) register(ctx context.Context) error {
	var was struct {
		Port int
		Meta map[string]string
	}
	_, err := o.cl.Do(ctx, http.MethodGet, "/v1/agent/service/"+url.PathEscape(o.def.ID), nil, nil, &was)
	switch {
	case apiclient.IsStatus(err, http.StatusNotFound):
	case err != nil:
		return err
	case was.Meta[ownMeta] != o.def.Meta[ownMeta]:
		return usage("%s is registered already, by another proxy or by hand: give -register-id, or run what is registered with -proxy-id %[1]s", o.def.ID)
	case o.def.Port == 0:
		o.def.Port = was.Port
	}
	if o.def.Port == 0 {
		if o.def.Port, err = freePort(ctx); err != nil {
			return err
		}
	}
	_, err = o.cl.Do(ctx, http.MethodPut, "/v1/agent/service/register", nil, o.def, nil)
	return err
}

func freePort(ctx context.Context) (int, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	addr, _ := l.Addr().(*net.TCPAddr)
	return addr.Port, l.Close()
}

// keep says that the process runs, until ctx ends, and takes the registration back, unless a successor has taken it over. An agent that has
// forgotten it is told again.
func (o *ownProxy) keep(ctx context.Context, retired <-chan struct{}) error {
	tick := time.NewTicker(ownTTL / 3)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if err := o.pass(ctx); err != nil && ctx.Err() == nil {
				o.log.Warn("the agent can't be told that the proxy runs", "error", err)
			}
		case <-retired:
			<-ctx.Done() // the successor keeps it
			return nil
		case <-ctx.Done():
			select {
			case <-retired:
				return nil
			default:
				return o.deregister()
			}
		}
	}
}

func (o *ownProxy) pass(ctx context.Context) error {
	_, err := o.cl.Do(ctx, http.MethodPut, "/v1/agent/check/pass/"+url.PathEscape(o.def.Checks[0].ID), nil, nil, nil)
	if apiclient.IsStatus(err, http.StatusNotFound) {
		return o.register(ctx)
	}
	return err
}

func (o *ownProxy) deregister() error {
	ctx, cancel := context.WithTimeout(context.Background(), endWithin)
	defer cancel()
	_, err := o.cl.Do(ctx, http.MethodPut, "/v1/agent/service/deregister/"+url.PathEscape(o.def.ID), nil, nil, nil)
	if apiclient.IsStatus(err, http.StatusNotFound) {
		return nil
	}
	return err
}
