// SPDX-License-Identifier: Apache-2.0

// Package agenttest is a server for the tests of an agent's parts: a real one, in memory, over an in-memory network that a test can
// cut. It works in testing/synctest. Servers owns its goroutines; Close ends them.
package agenttest

import (
	"context"
	"errors"
	"net"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/connect/xds"
	"github.com/weftmesh/weft/internal/memnet"
	"github.com/weftmesh/weft/server"
)

// Servers is one server that an agent reaches by Conn.
type Servers struct {
	Server *server.Server
	Conn   *grpc.ClientConn

	network *memnet.Network
	cancel  context.CancelFunc
	ended   chan error

	mu     sync.Mutex // guards all below
	up     *grpc.Server
	served chan struct{}
}

const name = "server"

// New starts a server, and waits until it leads.
func New(c server.Config) (*Servers, error) {
	s := &Servers{network: memnet.New(), ended: make(chan error, 1)}
	var err error
	s.Conn, err = grpc.NewClient("passthrough:///server", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 1e6, MaxDelay: 1e8, Multiplier: 2}}),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return s.network.DialContext(ctx, name) }))
	if err != nil {
		return nil, err
	}
	return s, s.Replace(c)
}

// Replace puts another server, which knows nothing, in the place of the one that runs.
func (s *Servers) Replace(c server.Config) error {
	if s.Server != nil {
		s.Cut()
		s.cancel()
		if err := <-s.ended; err != nil {
			return err
		}
	}
	c.Datacenter, c.NodeName = "dc1", "s1"
	c.Closure = func(t *catalog.Txn, p *catalog.Service) error { _, err := xds.Gather(t, p, c.DefaultAllow); return err }
	var err error
	if s.Server, err = server.New(c); err != nil {
		return err
	}
	var ctx context.Context
	ctx, s.cancel = context.WithCancel(context.Background())
	run := s.Server.Run
	go func() { s.ended <- run(ctx) }() // ends with Close or Replace
	select {
	case <-s.Server.Ready():
	case err := <-s.ended:
		return errors.Join(errors.New("the server ended"), err)
	}
	return s.Mend()
}

// Mend makes the server reachable.
func (s *Servers) Mend() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	l, err := s.network.Listen(name)
	if err != nil {
		return err
	}
	up, served := grpc.NewServer(), make(chan struct{})
	s.Server.RegisterGRPC(up)
	s.up, s.served = up, served
	go func() { defer close(served); _ = up.Serve(l) }() // ends with Cut
	return nil
}

// Cut makes the server unreachable, and breaks what is open.
func (s *Servers) Cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.up == nil {
		return
	}
	s.up.Stop()
	<-s.served
	s.up = nil
}

// Write has commands ordered.
func (s *Servers) Write(ctx context.Context, bodies ...catalog.Body) error {
	for _, b := range bodies {
		if _, err := s.Server.Propose(ctx, b); err != nil {
			return err
		}
	}
	return nil
}

// Close ends all of it.
func (s *Servers) Close() error {
	s.Cut()
	err := s.Conn.Close()
	s.cancel()
	return errors.Join(err, <-s.ended)
}
