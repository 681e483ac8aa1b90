// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"maps"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/weftmesh/weft/internal/plane"
)

// streams is Raft's way to the other servers: connections of the plane.
type streams struct {
	net.Listener
	address string // of this server, as others reach it
	dial    func(ctx context.Context, address, protocol string) (net.Conn, error)

	mu     sync.Mutex
	open   map[*stream]bool // Raft leaves some to their other end, which may be gone
	closed bool
}

// stream is one connection, until it is closed.
type stream struct {
	net.Conn
	of *streams
}

func (c *stream) Close() error {
	c.of.mu.Lock()
	delete(c.of.open, c)
	c.of.mu.Unlock()
	return c.Conn.Close()
}

func (s *streams) keep(c net.Conn) (net.Conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, errors.Join(net.ErrClosed, c.Close())
	}
	if s.open == nil {
		s.open = map[*stream]bool{}
	}
	kept := &stream{c, s}
	s.open[kept] = true
	return kept, nil
}

func (s *streams) Accept() (net.Conn, error) {
	c, err := s.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return s.keep(c)
}

// Close ends accepting, and every connection.
func (s *streams) Close() error {
	s.mu.Lock()
	s.closed = true
	open := slices.Collect(maps.Keys(s.open))
	s.mu.Unlock()
	for _, c := range open {
		_ = c.Close() // nothing can be done about it
	}
	return s.Listener.Close()
}

var _ raft.StreamLayer = (*streams)(nil)

func (s *streams) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	c, err := s.dial(ctx, string(address), plane.Raft)
	if err != nil {
		return nil, err
	}
	return s.keep(c)
}

func (s *streams) Addr() net.Addr { return named(s.address) }

type named string

func (named) Network() string  { return "tcp" }
func (n named) String() string { return string(n) }

// addresses finds servers by ID, so that one that has moved is found before Raft's configuration knows.
type addresses struct{ s *Server }

func (a addresses) ServerAddr(id raft.ServerID) (raft.ServerAddress, error) {
	if m, ok := a.s.servers()[string(id)]; ok && m.Status != Left {
		return raft.ServerAddress(m.address()), nil
	}
	return "", errUnknownServer // Raft takes what its configuration says
}
