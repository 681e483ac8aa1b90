// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"

	"github.com/weftmesh/weft/agent/config"
	"github.com/weftmesh/weft/agent/dns"
	"github.com/weftmesh/weft/agent/tokens"
	"github.com/weftmesh/weft/internal/api"
	"github.com/weftmesh/weft/internal/listen"
	"github.com/weftmesh/weft/internal/run"
)

// dialable is an address as a neighbour on this host dials it.
func dialable(addr string, port int) string {
	if ip, err := netip.ParseAddr(addr); err == nil && ip.IsUnspecified() {
		addr = "127.0.0.1"
	}
	return net.JoinHostPort(addr, strconv.Itoa(port))
}

// specs are where listeners go: addresses of their own, or the client addresses; port -1 is nowhere but on Unix sockets.
func (a *Agent) specs(name, own string, port int) []listen.Spec {
	s := &a.settings
	if own == "" {
		own = s.ClientAddr
	}
	var out []listen.Spec
	for i, addr := range strings.Fields(own) {
		sp := listen.Spec{
			Name: name, Network: "tcp", Address: net.JoinHostPort(addr, strconv.Itoa(port)), BodyLimit: api.BodyLimit, Brief: api.Brief,
			Limits: listen.Limits{
				MaxHeaderBytes: s.HTTPConfig.MaxHeaderBytes, HandshakeTimeout: s.Limits.HTTPSHandshakeTimeout,
				MaxUnauthenticatedPerAddr: s.Limits.HTTPMaxConnsPerClient, MaxUnauthenticatedLoopback: s.Limits.HTTPMaxConnsPerClient,
			},
			Reject: listen.RejectHTTP("Your IP is issuing too many concurrent connections, please rate limit your calls"),
		}
		if i > 0 {
			sp.Name += "-" + strconv.Itoa(i+1)
		}
		if path, ok := strings.CutPrefix(addr, "unix://"); ok {
			sp.Network, sp.Address = "unix", path
		} else if port <= 0 {
			continue
		}
		out = append(out, sp)
	}
	return out
}

// open opens one of the agent's listeners; a Unix socket gets its owner.
func (a *Agent) open(ctx context.Context, sp listen.Spec) (net.Listener, error) {
	if sp.Network != "unix" {
		return a.c.Door.Stream(ctx, sp)
	}
	uid, gid, mode, err := a.settings.UnixSockets.Owner()
	if err != nil {
		return nil, err
	}
	sp.Mode = mode
	l, err := a.c.Door.Stream(ctx, sp)
	if err == nil && (uid >= 0 || gid >= 0) {
		if err := os.Chown(sp.Address, uid, gid); err != nil {
			return nil, errors.Join(fmt.Errorf("unix_sockets: %w", err), l.Close())
		}
	}
	return l, err
}

// listen opens the agent's sockets and serves them in the group.
func (a *Agent) listen(g *run.Group) error {
	s := &a.settings
	if a.keeper != nil {
		if err := os.MkdirAll(filepath.Join(a.runDir()), 0o700); err != nil {
			return err
		}
	}
	if err := a.loadTLS(s); err != nil {
		return err
	}
	for _, l := range []struct {
		name, own string
		port      int
		tls       func() *tls.Config
		serve     func(sp listen.Spec, l net.Listener) func(context.Context) error
	}{
		{"grpc", s.Addresses.GRPC, s.Ports.GRPC, nil, a.serveGRPC},
		{"grpc_tls", s.Addresses.GRPCTLS, s.Ports.GRPCTLS, a.grpcTLS.Load, a.serveGRPC},
		{"http", s.Addresses.HTTP, s.Ports.HTTP, nil, a.serveAPI},
		{"https", s.Addresses.HTTPS, s.Ports.HTTPS, a.httpsTLS.Load, a.serveAPI},
	} {
		if l.tls != nil && l.port <= 0 {
			continue
		}
		for _, sp := range a.specs(l.name, l.own, l.port) {
			sp.TLS = l.tls
			opened, err := a.open(g.Context(), sp)
			if err != nil {
				return err
			}
			g.GoOrdered(sp.Name, l.serve(sp, opened))
			a.c.Log.Info("serving", "what", l.name, "address", sp.Address)
		}
	}
	return nil
}

// loadTLS reads the certificates of the listeners: handshakes from now on use them. With an error, the old ones stay.
func (a *Agent) loadTLS(s *config.Config) error {
	if s.Ports.HTTPS > 0 {
		c, err := s.TLS.HTTPSFiles().Server("tls.https", "h2", "http/1.1")
		if err != nil {
			return err
		}
		a.httpsTLS.Store(c)
	}
	if s.Ports.GRPCTLS > 0 {
		c, err := s.TLS.GRPCServer(a.c.AutoCertificate)
		if err != nil {
			return err
		}
		a.grpcTLS.Store(c)
	}
	return nil
}

func (a *Agent) serveGRPC(_ listen.Spec, l net.Listener) func(context.Context) error {
	server := grpc.NewServer(grpcOptions(a.settings.Performance)...)
	a.ads.Register(server)
	return func(ctx context.Context) error {
		stop := context.AfterFunc(ctx, server.Stop)
		defer stop()
		return server.Serve(l)
	}
}

func (a *Agent) serveAPI(sp listen.Spec, l net.Listener) func(context.Context) error {
	server := a.c.Door.HTTPServer(sp, guarded(a.guard.Load, a.mux))
	return func(ctx context.Context) error { return serveHTTP(ctx, server, l) }
}

// drainHTTP is how long requests that run may take to end when the agent stops.
const drainHTTP = 2 * time.Second

func serveHTTP(ctx context.Context, server *http.Server, l net.Listener) error {
	base, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	server.BaseContext = func(net.Listener) context.Context { return base }
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }() // ends with Shutdown or Close
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	end() // blocking queries answer now
	sctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainHTTP)
	defer cancel()
	err := server.Shutdown(sctx)
	if errors.Is(err, context.DeadlineExceeded) {
		err = server.Close()
	}
	if serr := <-done; !errors.Is(serr, http.ErrServerClosed) {
		err = errors.Join(err, serr)
	}
	return err
}

// newDNS makes the DNS server, unless ports.dns is off.
func (a *Agent) newDNS() error {
	s := &a.settings
	if s.Ports.DNS <= 0 {
		return nil
	}
	addresses := s.Addresses.DNS
	if addresses == "" {
		addresses = s.ClientAddr
	}
	var on []string
	for addr := range strings.FieldsSeq(addresses) {
		on = append(on, net.JoinHostPort(addr, strconv.Itoa(s.Ports.DNS)))
	}
	var err error
	a.dns, err = dns.New(dns.Config{
		Servers: a.c.Servers, NodeName: a.c.NodeName, Address: a.c.Address, Datacenter: s.Datacenter, Listen: on, Door: a.c.Door,
		Token: func() string { return a.c.Tokens.Own(tokens.DNS) }, Metrics: a.c.Metrics, Log: a.c.Log.With("part", "dns"),
	}, s.Zones())
	return err
}
