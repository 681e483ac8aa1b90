// SPDX-License-Identifier: Apache-2.0

package plane

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"sync"
)

// waiting is how many connections of one protocol may wait to be accepted; further ones are closed.
const waiting = 256

// Demux splits the connections of a TLS listener by the protocol that they have agreed on.
type Demux struct {
	inner net.Listener
	log   *slog.Logger
	subs  map[string]*Sub
}

// NewDemux splits a listener whose connections are *tls.Conn with the handshake done. Run moves them.
func NewDemux(inner net.Listener, log *slog.Logger) *Demux {
	d := &Demux{inner: inner, log: log, subs: map[string]*Sub{}}
	for _, proto := range []string{Raft, Reads, GRPC, HTTP, Join} {
		d.subs[proto] = &Sub{addr: inner.Addr(), ready: make(chan net.Conn, waiting), done: make(chan struct{})}
	}
	return d
}

// Listener gives the connections of one protocol. Its Close refuses further ones; it leaves the port open for the others.
func (d *Demux) Listener(protocol string) net.Listener { return d.subs[protocol] }

// Run accepts until ctx ends, and then closes the listener and all that nobody has accepted.
func (d *Demux) Run(ctx context.Context) error {
	defer context.AfterFunc(ctx, func() { _ = d.inner.Close() })() // ends Accept below
	for {
		conn, err := d.inner.Accept()
		if err != nil {
			for _, s := range d.subs {
				_ = s.Close() // never fails
			}
			if errors.Is(err, net.ErrClosed) {
				return nil
			}
			return err
		}
		t, ok := conn.(*tls.Conn)
		if !ok || !d.subs[t.ConnectionState().NegotiatedProtocol].offer(t) {
			d.log.Debug("connection closed: nobody takes it", "remote", conn.RemoteAddr().String())
			_ = conn.Close() // nothing can be done about it
		}
	}
}

// Sub is the listener of one protocol.
type Sub struct {
	addr  net.Addr
	ready chan net.Conn

	mu     sync.Mutex
	closed bool
	done   chan struct{}
}

func (s *Sub) offer(conn net.Conn) bool {
	if s == nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	select {
	case s.ready <- conn:
		return true
	default:
		return false
	}
}

// Accept blocks until there is a connection or the listener is closed.
func (s *Sub) Accept() (net.Conn, error) {
	select {
	case c := <-s.ready:
		return c, nil
	case <-s.done:
		return nil, &net.OpError{Op: "accept", Net: "tcp", Addr: s.addr, Err: net.ErrClosed}
	}
}

// Close ends Accept and closes what it hasn't returned.
func (s *Sub) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	close(s.done)
	for {
		select {
		case c := <-s.ready:
			_ = c.Close() // nobody has it yet
		default:
			return nil
		}
	}
}

// Addr is the port's address.
func (s *Sub) Addr() net.Addr { return s.addr }

// Plain hides from its user that a listener's connections are TLS: net/http takes HTTP/2 at once only from those that aren't.
func Plain(l net.Listener) net.Listener { return plainListener{l} }

type plainListener struct{ net.Listener }

func (l plainListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if t, ok := c.(*tls.Conn); ok && err == nil {
		return plainConn{t, t}, nil
	}
	return c, err
}

type plainConn struct {
	net.Conn
	tls *tls.Conn
}
