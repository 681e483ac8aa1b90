// SPDX-License-Identifier: Apache-2.0

// Package memnet is a network inside one process: named listeners, stream
// connections with buffers, deadlines and half-close, and packets that get lost
// when their receiver doesn't keep up. In -dev it joins the agent and the
// server; in tests it replaces loopback, also inside testing/synctest bubbles,
// where everything that blocks here counts as durably blocked.
//
// It has no latency, no authentication and no limits of its own (internal/listen
// puts the product's limits on top), and starts no goroutine. Inside a bubble,
// make the Network there too.
package memnet

import (
	"context"
	"fmt"
	"net"
	"sync"
	"syscall"
)

// network is what Addr.Network returns.
const network = "mem"

// backlog is how many dialled connections a listener holds before Accept; the
// next dial blocks, as with TCP.
const backlog = 128

// Addr is a name on a Network. Its Network() is "mem".
type Addr string

// Network returns "mem".
func (Addr) Network() string { return network }

// String returns the name.
func (a Addr) String() string { return string(a) }

// Network is a set of names that can be listened on and dialled. Make one with
// New. Its methods may be called from any goroutine.
type Network struct {
	mu        sync.Mutex
	listeners map[string]*Listener
	packets   map[string]*PacketConn
	dials     int // for names of dialling ends
}

// New returns an empty network.
func New() *Network {
	return &Network{listeners: map[string]*Listener{}, packets: map[string]*PacketConn{}}
}

// Listen takes a name for stream connections until the listener is closed. A
// taken name is an error that wraps syscall.EADDRINUSE. Any non-empty name will
// do; "host:port" is best where a library splits it.
func (n *Network) Listen(name string) (net.Listener, error) {
	if name == "" {
		return nil, opError("listen", name, fmt.Errorf("the name is empty"))
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.listeners[name] != nil {
		return nil, opError("listen", name, syscall.EADDRINUSE)
	}
	l := &Listener{net: n, name: name, queue: make(chan *Conn, backlog), done: make(chan struct{})}
	n.listeners[name] = l
	return l, nil
}

// DialContext connects to the listener of that name. The near end gets a name
// of its own, "dialer:1" and so on. Where nobody listens the error wraps
// syscall.ECONNREFUSED; it blocks, until ctx ends, only while the listener's
// backlog is full.
func (n *Network) DialContext(ctx context.Context, name string) (net.Conn, error) {
	n.mu.Lock()
	n.dials++
	from := fmt.Sprintf("dialer:%d", n.dials)
	n.mu.Unlock()
	return n.DialFrom(ctx, from, name)
}

// DialFrom is DialContext with a name for the near end, which the far end sees
// as its RemoteAddr.
func (n *Network) DialFrom(ctx context.Context, from, name string) (net.Conn, error) {
	n.mu.Lock()
	l := n.listeners[name]
	n.mu.Unlock()
	if err := context.Cause(ctx); err != nil {
		return nil, opError("dial", name, err)
	}
	if l == nil {
		return nil, opError("dial", name, syscall.ECONNREFUSED)
	}
	near, far := Pipe(Addr(from), Addr(name))
	select {
	case l.queue <- far:
	case <-l.done:
		return nil, opError("dial", name, syscall.ECONNREFUSED)
	case <-ctx.Done():
		return nil, opError("dial", name, context.Cause(ctx))
	}
	select {
	case <-l.done: // Close may have emptied the queue before far was in it
		l.refuseQueued()
		return nil, opError("dial", name, syscall.ECONNREFUSED)
	default:
	}
	return near, nil
}

// Listener accepts the connections dialled to one name.
type Listener struct {
	net   *Network
	name  string
	queue chan *Conn
	done  chan struct{}
	once  sync.Once
}

// Accept blocks until a connection was dialled or the listener is closed, and
// then returns an error that wraps net.ErrClosed.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case <-l.done:
		return nil, opError("accept", l.name, net.ErrClosed)
	default:
	}
	select {
	case c := <-l.queue:
		return c, nil
	case <-l.done:
		return nil, opError("accept", l.name, net.ErrClosed)
	}
}

// Close frees the name and resets connections that nobody has accepted. Those
// accepted live on. A second call does nothing.
func (l *Listener) Close() error {
	l.once.Do(func() {
		l.net.mu.Lock()
		delete(l.net.listeners, l.name)
		l.net.mu.Unlock()
		close(l.done)
		l.refuseQueued()
	})
	return nil
}

// Addr returns the name as an Addr.
func (l *Listener) Addr() net.Addr { return Addr(l.name) }

func (l *Listener) refuseQueued() {
	for {
		select {
		case c := <-l.queue:
			c.reset()
		default:
			return
		}
	}
}

func opError(op, name string, err error) error {
	return &net.OpError{Op: op, Net: network, Addr: Addr(name), Err: err}
}
