// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	"github.com/weftmesh/weft/internal/api"
	"github.com/weftmesh/weft/internal/plane"
	weftv1 "github.com/weftmesh/weft/proto/weft/v1"
)

// maxMessage bounds what servers send each other at once: a host with very many services.
const maxMessage = 64 << 20

// peers are the connections to the other servers.
type peers struct {
	dial func(ctx context.Context, address, protocol string) (net.Conn, error)

	mu    sync.Mutex
	conns map[string]*grpc.ClientConn // by address

	interactive, bulk *http.Transport
}

// errUndialled marks what was never sent.
var errUndialled = errors.New("no connection")

func newPeers(dial func(ctx context.Context, address, protocol string) (net.Conn, error)) *peers {
	p := &peers{dial: dial, conns: map[string]*grpc.ClientConn{}}
	if dial == nil {
		p.dial = func(_ context.Context, address, _ string) (net.Conn, error) {
			return nil, fmt.Errorf("%w to %s: this server is alone", errUndialled, address)
		}
	}
	p.interactive, p.bulk = p.transport(), p.transport()
	return p
}

func (p *peers) transport() *http.Transport {
	t := &http.Transport{
		DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
			conn, err := p.dial(ctx, address, plane.HTTP)
			if err != nil {
				return nil, fmt.Errorf("%w: %w", errUndialled, err)
			}
			return conn, nil
		},
		DisableCompression: true, IdleConnTimeout: 5 * time.Minute, Protocols: new(http.Protocols),
	}
	t.Protocols.SetUnencryptedHTTP2(true)
	return t
}

// grpc gives the connection to a server's gRPC.
func (p *peers) grpc(address string) (*grpc.ClientConn, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c := p.conns[address]; c != nil {
		return c, nil
	}
	c, err := grpc.NewClient("passthrough:///"+address,
		grpc.WithTransportCredentials(insecure.NewCredentials()), // the connections are TLS already
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return p.dial(ctx, address, plane.GRPC) }),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second}, MinConnectTimeout: 2 * time.Second,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}))
	if err != nil {
		return nil, err
	}
	p.conns[address] = c
	return c, nil
}

// servers is a client of another server.
func (p *peers) servers(address string) (weftv1.ServersClient, error) {
	c, err := p.grpc(address)
	if err != nil {
		return nil, err
	}
	return weftv1.NewServersClient(c), nil
}

func (p *peers) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for address, c := range p.conns {
		_ = c.Close() // nothing can be done about it
		delete(p.conns, address)
	}
	p.interactive.CloseIdleConnections()
	p.bulk.CloseIdleConnections()
}

// leader is the leader's ID and address, as far as this server knows.
func (s *Server) leader() (id, address string) {
	id, known := s.raftLeader()
	if id == "" {
		return "", ""
	}
	return id, s.addressOf(id, known)
}

// raftLeader is the leader's ID, and the address that Raft knows it by.
func (s *Server) raftLeader() (id, known string) {
	node := s.raft.Load()
	if node == nil {
		return "", ""
	}
	addr, leader := node.LeaderWithID()
	return string(leader), string(addr)
}

// leaderToAsk is leader without an address where it is this server: to look its own up among the members was a hundredth of a write's cost.
func (s *Server) leaderToAsk() (id, address string) {
	id, known := s.raftLeader()
	if id == "" || id == s.c.NodeID {
		return id, ""
	}
	return id, s.addressOf(id, known)
}

// leads says whether this server leads and has caught up with what was agreed before.
func (s *Server) leads() bool { return s.office.Load() != 0 }

// atLeader calls f until it has done its work or time is over: f is called with the leader's ID and address, which is ""
// for this server. It answers again false if its error is final.
func (s *Server) atLeader(ctx context.Context, f func(id, address string) (again bool, err error)) error {
	if s.raft.Load() == nil {
		return api.ErrNoLeader // it doesn't run
	}
	var over *time.Timer // nil until something has to be waited for: a timer for each write was a thirtieth of its cost
	for {
		change := s.elections.next()
		id, address := s.leaderToAsk()
		var again bool
		err := error(api.ErrNoLeader)
		switch {
		case id == s.c.NodeID && s.leads():
			again, err = f(id, "")
		case id == s.c.NodeID || id == "":
			again = true // it takes office, or there is an election
		default:
			again, err = f(id, address)
		}
		if err == nil || !again {
			return err
		}
		if over == nil {
			over = time.NewTimer(s.c.Hold)
			defer over.Stop()
		}
		timer := time.NewTimer(askAgain)
		select {
		case <-change:
		case <-timer.C:
		case <-over.C:
			timer.Stop()
			return err
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		}
		timer.Stop()
	}
}

// askAgain is how soon a leader is looked for again.
const askAgain = 25 * time.Millisecond

// broadcast wakes all who wait for something to change.
type broadcast struct {
	mu sync.Mutex
	ch chan struct{}
}

// next is closed at the next change.
func (b *broadcast) next() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ch == nil {
		b.ch = make(chan struct{})
	}
	return b.ch
}

func (b *broadcast) send() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ch != nil {
		close(b.ch)
		b.ch = nil
	}
}
