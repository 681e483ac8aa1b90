// SPDX-License-Identifier: Apache-2.0

// Package hostproxy keeps a host proxy told which services to be a sidecar for. The host proxy is a process of its own that
// outlives the agent: it is started only if none answers on its socket, and never stopped from here. Keeper.Run is its
// only goroutine.
package hostproxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/weftmesh/weft/agent/local"
	"github.com/weftmesh/weft/catalog"
	proxyv1 "github.com/weftmesh/weft/proto/weft/proxy/v1"
)

// Protocol is the newest version of the exchange on the control socket that this agent speaks.
const Protocol = 1

// Config is what a Keeper is made of.
type Config struct {
	Socket     string // the control socket's path
	ADSAddress string // what the members are told: unix:path or host:port
	Version    string // of this binary
	State      State
	Secret     func(proxyID string) string
	// Start starts a host proxy that serves Socket and outlives this process. It returns when the process runs, not when
	// it answers.
	Start func(ctx context.Context) error
	Log   *slog.Logger
}

// State is where the proxies of this host are known.
type State interface {
	Wanted() (local.Wanted, <-chan struct{})
}

// Keeper tells the host proxy what to be.
type Keeper struct{ c Config }

// New makes a keeper. It starts nothing.
func New(c Config) (*Keeper, error) {
	if c.Socket == "" {
		return nil, errors.New("host proxy: the socket's path is missing")
	}
	return &Keeper{c: c}, nil
}

// Intervals of the loop: how often a host proxy that didn't change is asked again whether it is there, and how long to
// wait after a failure.
const (
	again = 10 * time.Second
	retry = 200 * time.Millisecond
	call  = 5 * time.Second
)

// Run follows the host's proxies until ctx ends. The host proxy stays as it is then.
func (k *Keeper) Run(ctx context.Context) error {
	conn, err := grpc.NewClient("passthrough:///hostproxy", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", k.c.Socket)
		}))
	if err != nil {
		return fmt.Errorf("host proxy: %w", err)
	}
	defer conn.Close()
	client := proxyv1.NewHostProxyClient(conn)
	var pace local.Pace
	for {
		wanted, changed := k.c.State.Wanted()
		wait := again
		if err := k.tell(ctx, client, &wanted); err != nil && ctx.Err() == nil {
			k.c.Log.Warn("host proxy isn't up to date", "error", err)
			wait = retry
			if err := k.ensure(ctx); err != nil {
				k.c.Log.Error("host proxy can't be started", "error", err)
				wait = again
			}
		}
		timer := time.NewTimer(wait)
		select {
		case <-changed:
			pace.Wait(ctx)
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil
		}
		timer.Stop()
	}
}

// ensure starts a host proxy if nobody listens on the socket.
func (k *Keeper) ensure(ctx context.Context) error {
	if conn, err := (&net.Dialer{}).DialContext(ctx, "unix", k.c.Socket); err == nil {
		return conn.Close()
	}
	return k.c.Start(ctx)
}

func (k *Keeper) tell(ctx context.Context, client proxyv1.HostProxyClient, wanted *local.Wanted) error {
	ctx, cancel := context.WithTimeout(ctx, call)
	defer cancel()
	hello, err := client.Hello(ctx, &proxyv1.HostHello{Protocol: Protocol, Version: k.c.Version})
	if err != nil {
		return err
	}
	if hello.GetProtocol() < 1 {
		return fmt.Errorf("it speaks no version of the control protocol that this agent knows (it is weft %s)", hello.GetVersion())
	}
	c := &proxyv1.HostConfig{Generation: wanted.Version}
	for id, s := range wanted.Services {
		if s.Record.Kind != catalog.KindConnectProxy {
			continue
		}
		c.Members = append(c.Members, &proxyv1.HostMember{
			ProxyId: id, Service: s.Record.Proxy.DestinationServiceName, AdsAddress: k.c.ADSAddress,
			Secret: k.c.Secret(id), Token: s.Token,
		})
	}
	status, err := client.Configure(ctx, c)
	if err != nil {
		return err
	}
	for _, m := range status.GetMembers() {
		if m.GetError() != "" {
			k.c.Log.Warn("a proxy of the host proxy has trouble", "proxy", m.GetProxyId(), "error", m.GetError())
		}
	}
	return nil
}
