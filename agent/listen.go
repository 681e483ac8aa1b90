// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"

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

// spec is where a listener goes: an address of its own, or the client address; port -1 is nowhere.
func spec(name, own, client string, port int) (listen.Spec, bool) {
	if path, ok := strings.CutPrefix(own, "unix://"); ok {
		return listen.Spec{Name: name, Network: "unix", Address: path, BodyLimit: api.BodyLimit}, true
	}
	if own == "" {
		own = client
	}
	return listen.Spec{Name: name, Network: "tcp", Address: net.JoinHostPort(own, strconv.Itoa(port)), BodyLimit: api.BodyLimit}, port > 0
}

// listen opens the agent's sockets and serves them in the group.
func (a *Agent) listen(g *run.Group) error {
	s := &a.settings
	if a.keeper != nil {
		if err := os.MkdirAll(filepath.Join(a.runDir()), 0o700); err != nil {
			return err
		}
	}
	if sp, ok := spec("grpc", s.Addresses.GRPC, s.ClientAddr, s.Ports.GRPC); ok {
		l, err := a.c.Door.Stream(g.Context(), sp)
		if err != nil {
			return err
		}
		server := grpc.NewServer(grpcOptions()...)
		a.ads.Register(server)
		g.GoOrdered("grpc", func(ctx context.Context) error {
			stop := context.AfterFunc(ctx, server.Stop)
			defer stop()
			return server.Serve(l)
		})
		a.c.Log.Info("serving", "what", "xds", "address", sp.Address)
	}
	if sp, ok := spec("http", s.Addresses.HTTP, s.ClientAddr, s.Ports.HTTP); ok {
		l, err := a.c.Door.Stream(g.Context(), sp)
		if err != nil {
			return err
		}
		server := a.c.Door.HTTPServer(sp, a.mux)
		g.GoOrdered("http", func(ctx context.Context) error { return serveHTTP(ctx, server, l) })
		a.c.Log.Info("serving", "what", "http", "address", sp.Address)
	}
	return nil
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
