// SPDX-License-Identifier: Apache-2.0

// Package listen is the one door that every socket of the program comes in by.
//
// A Door opens stream and packet listeners and puts the same protection on all
// of them: a cap on connections of an address that hasn't proved who it is, a
// cap per proved identity, deadlines for the TLS handshake and for request
// headers, a bound on the handshakes that calculate at once, limits of header
// and body, and metrics. It also takes over sockets
// from an older process, and says who holds an address that is taken.
//
// It doesn't decide who may do what: it knows an identity only to count it.
// A Listener with TLS owns one accepting goroutine and one per handshake; its
// Close ends and joins them. Connections belong to whoever accepted them.
package listen

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weftmesh/weft/internal/memnet"
)

// The defaults of Limits.
const (
	DefaultMaxUnauthenticatedPerAddr  = 200
	DefaultMaxUnauthenticatedLoopback = 8192
	DefaultMaxPerIdentity             = 1000
	DefaultHandshakeTimeout           = 10 * time.Second
	DefaultHeaderTimeout              = 10 * time.Second
	DefaultIdleTimeout                = 2 * time.Minute
	DefaultMaxHeaderBytes             = 64 << 10
	DefaultMaxBodyBytes               = 8 << 20
)

// ErrTooMany is why a connection was refused: its address or its identity has
// as many as it may have.
var ErrTooMany = errors.New("too many connections")

// Limits of one listener. For each field zero means the default, and a negative
// value means no limit.
type Limits struct {
	// MaxUnauthenticatedPerAddr caps the connections of one address that have
	// not proved an identity: plain ones all their life, TLS ones until the
	// handshake has shown a client certificate. An IPv6 address counts as its
	// /64. Default 200.
	MaxUnauthenticatedPerAddr int
	// MaxUnauthenticatedLoopback is the same for loopback addresses, Unix
	// sockets and in-memory connections, where one address is many programs.
	// Default 8192.
	MaxUnauthenticatedLoopback int
	// MaxPerIdentity caps the connections of one proved identity. Default 1000.
	MaxPerIdentity int
	// HandshakeTimeout ends a TLS handshake. Default 10 s.
	HandshakeTimeout time.Duration
	// HeaderTimeout ends the wait for a request's header (HTTPServer). Default 10 s.
	HeaderTimeout time.Duration
	// IdleTimeout closes a connection without a request (HTTPServer). Default 2 min.
	IdleTimeout time.Duration
	// MaxHeaderBytes caps a request's header (HTTPServer). Default 64 KiB.
	MaxHeaderBytes int
	// MaxBodyBytes caps a request's body (HTTPServer). Default 8 MiB.
	MaxBodyBytes int64
}

func (l Limits) withDefaults() Limits {
	l.MaxUnauthenticatedPerAddr = orDefault(l.MaxUnauthenticatedPerAddr, DefaultMaxUnauthenticatedPerAddr)
	l.MaxUnauthenticatedLoopback = orDefault(l.MaxUnauthenticatedLoopback, DefaultMaxUnauthenticatedLoopback)
	l.MaxPerIdentity = orDefault(l.MaxPerIdentity, DefaultMaxPerIdentity)
	l.HandshakeTimeout = orDefault(l.HandshakeTimeout, DefaultHandshakeTimeout)
	l.HeaderTimeout = orDefault(l.HeaderTimeout, DefaultHeaderTimeout)
	l.IdleTimeout = orDefault(l.IdleTimeout, DefaultIdleTimeout)
	l.MaxHeaderBytes = orDefault(l.MaxHeaderBytes, DefaultMaxHeaderBytes)
	l.MaxBodyBytes = orDefault(l.MaxBodyBytes, DefaultMaxBodyBytes)
	return l
}

func orDefault[T int | int64 | time.Duration](v, def T) T {
	if v == 0 {
		return def
	}
	return v
}

// Spec describes one listener.
type Spec struct {
	// Name is what the listener is called in metrics, logs, and when sockets are
	// handed over: "http", "dns". Required, and one listener of the door at a time.
	Name string
	// Network is "tcp", "tcp4", "tcp6" or "unix" for a stream; "udp", "udp4",
	// "udp6" or "unixgram" for packets.
	Network string
	// Address is host:port, where port 0 picks a free one, or a path.
	Address string
	// Mode is the permission of a Unix socket, set before anybody can connect.
	// Default 0600.
	Mode fs.FileMode
	// TLS gives the configuration for the next connection, so that certificates
	// can change; nil for plain connections. Set NextProtos to what is spoken
	// ("h2", "http/1.1"). While it returns nil, connections are closed at once.
	TLS func() *tls.Config
	// Plain says, with TLS, whether the next connection may be in plain text; nil for never. Those that are come as *Conn.
	Plain func() Plain
	// Identity names the peer of a completed handshake, "" if it has proved
	// nothing. Default: the first URI, else the subject, of a client certificate
	// that crypto/tls has verified. Set it where VerifyConnection does the check.
	Identity func(tls.ConnectionState) string
	// Reject may answer a connection over the cap before it is closed
	// (RejectHTTP). It isn't used with TLS. It runs on its own goroutine and has a
	// second. Nil closes silently.
	Reject func(net.Conn)
	// BodyLimit overrides MaxBodyBytes for one request (HTTPServer): 0 means "as
	// MaxBodyBytes", a negative value no limit.
	BodyLimit func(*http.Request) int64
	// Brief says of a request that it is answered soon, and done whoever still waits for its answer: its context doesn't end when the caller
	// goes (HTTPServer, HTTP/1.1 without TLS). Nil: none is.
	Brief func(*http.Request) bool
	// Limits of this listener.
	Limits Limits
}

// Config of a Door.
type Config struct {
	// Log gets refused handshakes (debug) and failing accepts (warn). Required.
	Log *slog.Logger
	// Metrics is where the door's metrics are registered; nil for none. Doors
	// that share a registry share the metrics.
	Metrics prometheus.Registerer
}

// Door opens listeners. Its methods may be called from any goroutine.
type Door struct {
	log     *slog.Logger
	metrics *metrics
	turns   *turns

	mu        sync.Mutex
	inherited map[string]*os.File
	open      map[string]filer // by name; what can be handed over
}

// New returns a door with nothing open.
func New(cfg Config) (*Door, error) {
	if cfg.Log == nil {
		return nil, fmt.Errorf("listen: Config.Log is not set")
	}
	m, err := newMetrics(cfg.Metrics)
	if err != nil {
		return nil, err
	}
	return &Door{log: cfg.Log, metrics: m, turns: newTurns(cfg.Log), inherited: map[string]*os.File{}, open: map[string]filer{}}, nil
}

// Stream opens a stream listener, or takes it over if one of that name and
// address was inherited. ctx bounds only the opening. An address that is taken
// is an *InUseError. The result is a *Listener.
//
// With TLS, accepted connections are *tls.Conn whose handshake is done; their
// NetConn, and plain connections, are *Conn.
func (d *Door) Stream(ctx context.Context, spec Spec) (net.Listener, error) {
	switch spec.Network {
	case "tcp", "tcp4", "tcp6", "unix":
	default:
		return nil, specError(spec, fmt.Errorf("network %q is not one of tcp, tcp4, tcp6, unix", spec.Network))
	}
	return d.stream(spec, func() (net.Listener, error) {
		if l, err := d.inheritedStream(spec); l != nil || err != nil {
			return l, err
		}
		if spec.Network == "unix" {
			return listenUnix(ctx, spec)
		}
		l, err := (&net.ListenConfig{}).Listen(ctx, spec.Network, spec.Address)
		return l, explainInUse(err, spec)
	})
}

// MemStream is Stream on an in-memory network, with the same limits; the spec's
// Network is not used.
func (d *Door) MemStream(n *memnet.Network, spec Spec) (net.Listener, error) {
	return d.stream(spec, func() (net.Listener, error) { return n.Listen(spec.Address) })
}

func (d *Door) stream(spec Spec, open func() (net.Listener, error)) (net.Listener, error) {
	l := &Listener{door: d, spec: spec, limits: spec.Limits.withDefaults(), counts: newCounts()}
	if err := d.claim(spec); err != nil {
		return nil, err
	}
	inner, err := open()
	if err != nil {
		d.release(spec.Name)
		return nil, specError(spec, err)
	}
	l.start(inner)
	d.opened(spec.Name, l)
	return l, nil
}

// claim reserves the name of a listener that is about to be opened.
func (d *Door) claim(spec Spec) error {
	if spec.Name == "" {
		return specError(spec, errors.New("the name is not set"))
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.open[spec.Name] != nil {
		return specError(spec, errors.New("a listener of that name is open already"))
	}
	d.open[spec.Name] = opening{}
	return nil
}

// opened replaces the reservation by what was opened.
func (d *Door) opened(name string, f filer) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.open[name] = f
}

func (d *Door) release(name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.open, name)
}

func specError(spec Spec, err error) error {
	return fmt.Errorf("listener %q: %w", spec.Name, err)
}
