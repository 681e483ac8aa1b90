// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/peer"

	"github.com/weftmesh/weft/agent/config"
	"github.com/weftmesh/weft/internal/api"
	"github.com/weftmesh/weft/internal/gossip"
	"github.com/weftmesh/weft/internal/listen"
	"github.com/weftmesh/weft/internal/plane"
	"github.com/weftmesh/weft/internal/run"
	"github.com/weftmesh/weft/server"
)

// newPlane makes the TLS between nodes. Its secrets are the gossip keys: those of the pool once there is one.
func (n *node) newPlane() error {
	keys, err := gossipKeys(&n.s, keyringFile(&n.s, "local"), n.outer, n.log)
	if err != nil {
		return err
	}
	rpc := n.s.TLS.RPCFiles()
	n.plane, err = plane.New(plane.Config{
		Files: plane.TLSFiles{
			CAFile: rpc.CAFile, CAPath: rpc.CAPath, CertFile: rpc.CertFile, KeyFile: rpc.KeyFile, VerifyIncoming: config.True(rpc.VerifyIncoming),
			VerifyOutgoing: config.True(rpc.VerifyOutgoing), VerifyServerHostname: config.True(rpc.VerifyServerHostname),
		},
		Identity: n.identityFile(), Seal: n.outer, Datacenter: n.s.Datacenter, NodeName: n.s.NodeName, Domain: strings.Trim(n.s.Domain, "."), Server: n.s.Server,
		Secrets: func() [][]byte {
			if p := n.lan.Load(); p != nil {
				return p.Keys()
			}
			return keys
		},
		Log: n.log.With("part", "plane"),
	})
	return err
}

// portLimits are those of the servers' port.
func portLimits(l *config.Limits) listen.Limits {
	most := l.RPCMaxConnsPerClient
	return listen.Limits{HandshakeTimeout: l.RPCHandshakeTimeout, MaxUnauthenticatedPerAddr: most, MaxUnauthenticatedLoopback: most, MaxPerIdentity: most}
}

// serverPort is the name of the servers' port.
const serverPort = "server"

// listen opens the servers' port. Where it is taken on loopback, another one is used.
func (n *node) listen(ctx context.Context) error {
	at, err := netip.ParseAddr(n.s.BindAddr)
	if err != nil {
		return err
	}
	spec := listen.Spec{
		Name: serverPort, Network: "tcp", Address: netip.AddrPortFrom(at, uint16(n.s.Ports.Server)).String(), TLS: n.plane.ServerTLS,
		Identity: n.plane.Identity, Limits: portLimits(&n.s.Limits),
	}
	l, err := n.door.Stream(ctx, spec)
	var taken *listen.InUseError
	if at.IsLoopback() && errors.As(err, &taken) {
		n.log.Warn("the servers' port is taken, another one is used", "error", err)
		spec.Address = netip.AddrPortFrom(at, 0).String()
		l, err = n.door.Stream(ctx, spec)
	}
	if err != nil {
		return err
	}
	bound, err := netip.ParseAddrPort(l.Addr().String())
	if err != nil {
		return errors.Join(err, l.Close())
	}
	n.s.Ports.Server = int(bound.Port())
	n.port = l
	n.demux = plane.NewDemux(l, n.log.With("part", "plane"))
	if !n.plane.Verified() && !at.IsLoopback() {
		n.log.Warn("nodes don't prove who they are: whoever reaches this port is one of the cluster; set encrypt on all nodes", "port", bound.Port())
	}
	return nil
}

// servePort serves what agents and other servers ask at the port. When it ends, nobody is let in any more first; those who are
// connected are told to go elsewhere then, while they still get their answers.
func (n *node) servePort(g *run.Group) {
	rpc := grpc.NewServer(append(serverOptions(n.server), grpc.Creds(listen.GRPCCredentials()))...)
	n.server.RegisterGRPC(rpc)
	g.GoOrdered("servers' port (grpc)", func(ctx context.Context) error {
		defer context.AfterFunc(ctx, rpc.Stop)()
		if err := rpc.Serve(n.demux.Listener(plane.GRPC)); !errors.Is(err, net.ErrClosed) {
			return err
		}
		<-ctx.Done() // the port is closed, but not yet what is connected
		return nil
	})
	var draining atomic.Bool
	web := n.door.HTTPServer(listen.Spec{Name: serverPort, BodyLimit: api.BodyLimit}, leaving(&draining, n.server.Handler()))
	web.ConnContext = n.plane.ConnContext
	g.GoOrdered("servers' port (http)", func(ctx context.Context) error {
		if err := web.Serve(plane.Plain(n.demux.Listener(plane.HTTP))); !errors.Is(err, net.ErrClosed) {
			return err
		}
		<-ctx.Done()
		return drain(ctx, web, &draining)
	})
	way := n.door.HTTPServer(listen.Spec{Name: serverPort, BodyLimit: func(*http.Request) int64 { return joinLimit }}, n.server.JoinHandler())
	way.ConnContext = n.plane.ConnContext
	g.GoOrdered("servers' port (join)", func(ctx context.Context) error {
		defer context.AfterFunc(ctx, func() { _ = way.Close() })()
		if err := way.Serve(plane.Plain(n.demux.Listener(plane.Join))); !errors.Is(err, net.ErrClosed) && !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		<-ctx.Done()
		return nil
	})
	g.GoOrdered("servers' port", n.demux.Run)
}

// joinLimit bounds what who joins may send.
const joinLimit = 16 << 10

const (
	// sayGoodbye is how long connections are told with their next answer that they end, and drainTime what is under way then gets.
	sayGoodbye = 500 * time.Millisecond
	drainTime  = 2 * time.Second
)

// leaving ends each connection after its next answer, once it is time: in HTTP/2 the client learns which requests were never taken.
func leaving(draining *atomic.Bool, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if draining.Load() {
			w.Header().Set("Connection", "close")
		}
		h.ServeHTTP(w, r)
	})
}

func drain(ctx context.Context, web *http.Server, draining *atomic.Bool) error {
	draining.Store(true)
	said := time.NewTimer(sayGoodbye)
	defer said.Stop()
	<-said.C
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
	defer cancel()
	if web.Shutdown(ctx) != nil {
		_ = web.Close() // what still waits is cut
	}
	return nil
}

// readBuffer is what gRPC keeps for each connection to read into. Agents send little, and mostly wait; beneath it crypto/tls reads whole records
// in any case. gRPC's own 32 KiB were a third of what an agent that follows a feed takes at its server.
const readBuffer = 4 << 10

// serverOptions are those of every gRPC server that serves agents.
func serverOptions(srv *server.Server) []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.MaxRecvMsgSize(maxMessage), grpc.ReadBufferSize(readBuffer), grpc.UnaryInterceptor(srv.UnaryInterceptor),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: keepaliveTime, Timeout: keepaliveTimeout}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: keepaliveTime / 2, PermitWithoutStream: true}),
	}
}

// fromServer says whether a gRPC call came from a server of this datacenter: this host's own agent counts as one. Where nodes
// don't prove who they are, everybody does.
func (n *node) fromServer(ctx context.Context) bool {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return false
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok {
		return true // in memory
	}
	who, proved := n.plane.PeerOf(info.State)
	return !proved && !n.plane.Verified() || who.Server && who.Datacenter == n.s.Datacenter
}

// lanMembers is the LAN pool as servers see it.
type lanMembers struct{ pool *gossip.Pool }

func (m lanMembers) Members() []server.Member {
	list := m.pool.Members()
	if len(list) == 0 { // it begins: this node is there already
		local := m.pool.Local()
		local.Status = gossip.StatusAlive
		list = []gossip.Member{local}
	}
	out := make([]server.Member, 0, len(list))
	for i := range list {
		g := &list[i]
		out = append(out, server.Member{
			Name: g.Name, ID: g.ID, Datacenter: g.Datacenter, Address: g.Address, Status: server.Status(g.Status.String()),
			Server: g.Server, ServerPort: g.ServerPort, Expect: g.Expect, NonVoter: g.ReadReplica, Version: g.Build,
		})
	}
	return out
}

func (m lanMembers) Changed() <-chan struct{} {
	_, changed := m.pool.Changes()
	return changed
}

func (m lanMembers) ForceLeave(name string) error { return m.pool.ForceLeave(name, false) }

func (n *node) serverAddress() string {
	return net.JoinHostPort(n.address, strconv.Itoa(n.s.Ports.Server))
}
