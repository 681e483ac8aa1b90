// SPDX-License-Identifier: Apache-2.0

// Package servers chooses the server that an agent without one of its own asks. It stays with one until that fails or goes;
// then the next is tried at once, and what hangs on the old one is cut. So that servers which come back get their share, it
// chooses anew some time after the set of servers has grown, and now and then. Run owns its one goroutine.
package servers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/weftmesh/weft/internal/gossip"
	"github.com/weftmesh/weft/internal/plane"
)

// Config is what Servers are made of.
type Config struct {
	// Changes tells when the members change: take it before Members.
	Changes func() (version uint64, changed <-chan struct{})
	Members func() []gossip.Member
	// Dial connects to a server and speaks one of plane's protocols.
	Dial func(ctx context.Context, address, protocol string) (net.Conn, error)
	// Moved is called after another server was chosen although the old one answers: what is begun from now on should use new
	// connections. Optional.
	Moved func()
	// Rand gives a number from 0 to n-1.
	Rand func(n int) int
	// Hold is how long Dial waits while no server is known. 0 is 7 s.
	Hold time.Duration
	Log  *slog.Logger
}

// Servers are the servers of this datacenter. Make them with New, and Run them.
type Servers struct {
	c Config

	mu      sync.Mutex
	list    []target // in the order in which they are tried; the first is the one that is asked
	conns   map[*conn]bool
	changed chan struct{} // closed when list changes
}

// target is one server.
type target struct{ id, name, address string }

// ErrNone is the error of a dial while no server is known or none answers.
var ErrNone = errors.New("no server can be reached")

const (
	defaultHold = 7 * time.Second
	// tryTime bounds one attempt while there are others to try.
	tryTime = 3 * time.Second
	// spreadBase and spreadEach are over how long the agents choose anew when there are more servers: a base, and for each node.
	spreadBase = 10 * time.Second
	spreadEach = 15 * time.Millisecond
	// every is how often the choice is made anew at least, half of it to one and a half.
	every = 30 * time.Minute
)

// New makes an empty choice. Run fills it.
func New(c Config) (*Servers, error) {
	if c.Changes == nil || c.Members == nil || c.Dial == nil || c.Rand == nil || c.Log == nil {
		return nil, errors.New("servers: Changes, Members, Dial, Rand and Log must be set")
	}
	if c.Hold == 0 {
		c.Hold = defaultHold
	}
	return &Servers{c: c, conns: map[*conn]bool{}, changed: make(chan struct{})}, nil
}

// Dial connects to the server that is asked, or where it doesn't answer to the next that does, which is asked from then on.
func (s *Servers) Dial(ctx context.Context, protocol string) (net.Conn, error) {
	list, err := s.known(ctx)
	if err != nil {
		return nil, err
	}
	var faults []error
	for i, t := range list {
		c, err := s.try(ctx, t, protocol, i < len(list)-1)
		if err == nil {
			return c, nil
		}
		faults = append(faults, err)
		if ctx.Err() != nil {
			break
		}
		s.failed(t)
	}
	return nil, fmt.Errorf("%w: %w", ErrNone, errors.Join(faults...))
}

// known waits until some server is.
func (s *Servers) known(ctx context.Context) ([]target, error) {
	timer := time.NewTimer(s.c.Hold)
	defer timer.Stop()
	for {
		s.mu.Lock()
		list, changed := slices.Clone(s.list), s.changed
		s.mu.Unlock()
		if len(list) > 0 {
			return list, nil
		}
		select {
		case <-changed:
		case <-timer.C:
			return nil, fmt.Errorf("%w: gossip knows of none; has this agent joined any (retry_join)?", ErrNone)
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

func (s *Servers) try(ctx context.Context, t target, protocol string, others bool) (net.Conn, error) {
	if others {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, tryTime)
		defer cancel()
	}
	inner, err := s.c.Dial(ctx, t.address, protocol)
	if err != nil {
		return nil, fmt.Errorf("server %s: %w", t.name, err)
	}
	c := &conn{Conn: inner, of: s, id: t.id, protocol: protocol}
	s.mu.Lock()
	s.conns[c] = true
	s.mu.Unlock()
	return c, nil
}

// failed puts a server last.
func (s *Servers) failed(t target) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.Index(s.list, t)
	if i < 0 || len(s.list) == 1 {
		return
	}
	s.list = append(slices.Delete(s.list, i, i+1), t)
	s.c.Log.Info("a server doesn't answer, another one is asked", "server", t.name, "next", s.list[0].name)
}

// Run follows the members until ctx ends.
func (s *Servers) Run(ctx context.Context) error {
	anew := time.NewTimer(s.pause())
	defer anew.Stop()
	for {
		_, changed := s.c.Changes()
		if grown := s.take(s.c.Members()); grown {
			anew.Reset(time.Duration(s.c.Rand(int(s.spread()))))
		}
		select {
		case <-changed:
		case <-anew.C:
			s.choose(ctx)
			anew.Reset(s.pause())
		case <-ctx.Done():
			s.cut(func(*conn) bool { return true })
			return nil
		}
	}
}

func (s *Servers) pause() time.Duration { return every/2 + time.Duration(s.c.Rand(int(every))) }

func (s *Servers) spread() time.Duration {
	return spreadBase + time.Duration(len(s.c.Members()))*spreadEach
}

// take brings the list in line with the members: who went is taken out and its connections are cut, who came is put in at a
// random place behind the first. grown says that there are more than before, and it wasn't empty.
func (s *Servers) take(members []gossip.Member) (grown bool) {
	there := map[string]target{}
	for i := range members {
		m := &members[i]
		if a := m.ServerAddress(); a != "" && m.Status == gossip.StatusAlive {
			there[m.ID] = target{m.ID, m.Name, a}
		}
	}
	s.mu.Lock()
	had := len(s.list)
	gone := map[string]bool{}
	s.list = slices.DeleteFunc(s.list, func(t target) bool {
		gone[t.id] = there[t.id] != t
		return gone[t.id]
	})
	kept := map[string]bool{}
	for _, t := range s.list {
		kept[t.id] = true
	}
	came := 0
	for id, t := range there {
		if kept[id] {
			continue
		}
		came++
		at := s.c.Rand(len(s.list) + 1)
		if had > 0 && at == 0 && len(s.list) > 0 {
			at = len(s.list) // the one that is asked stays
		}
		s.list = slices.Insert(s.list, at, t)
	}
	if came > 0 || len(gone) > 0 {
		close(s.changed)
		s.changed = make(chan struct{})
	}
	s.mu.Unlock()
	s.cut(func(c *conn) bool { return gone[c.id] })
	return came > 0 && had > 0
}

// choose makes the choice anew. A server that doesn't answer isn't chosen.
func (s *Servers) choose(ctx context.Context) {
	s.mu.Lock()
	n := len(s.list)
	if n < 2 {
		s.mu.Unlock()
		return
	}
	old, next := s.list[0], s.list[s.c.Rand(n)]
	s.mu.Unlock()
	if next == old {
		return
	}
	probe, err := s.try(ctx, next, plane.GRPC, true)
	if err != nil {
		s.c.Log.Debug("the server that was chosen doesn't answer", "server", next.name, "error", err)
		return
	}
	probe.Close()
	s.mu.Lock()
	i := slices.Index(s.list, next)
	if i > 0 {
		s.list[0], s.list[i] = s.list[i], s.list[0]
	}
	s.mu.Unlock()
	if i <= 0 {
		return
	}
	s.c.Log.Debug("another server is asked, so that each has its share", "server", next.name)
	if s.c.Moved != nil {
		s.c.Moved()
	}
	s.cut(func(c *conn) bool { return c.id == old.id && c.protocol == plane.GRPC }) // its user connects anew at once
}

// cut closes connections.
func (s *Servers) cut(which func(*conn) bool) {
	s.mu.Lock()
	var list []*conn
	for c := range s.conns {
		if which(c) {
			list = append(list, c)
		}
	}
	s.mu.Unlock()
	for _, c := range list {
		c.Close()
	}
}

// Current is the name of the server that is asked, "" for none.
func (s *Servers) Current() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.list) == 0 {
		return ""
	}
	return s.list[0].name
}

// conn is a connection to a server, until it is closed.
type conn struct {
	net.Conn
	of           *Servers
	id, protocol string
}

func (c *conn) Close() error {
	c.of.mu.Lock()
	delete(c.of.conns, c)
	c.of.mu.Unlock()
	return c.Conn.Close()
}
