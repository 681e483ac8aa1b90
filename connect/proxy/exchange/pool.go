// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/weftmesh/weft/connect/identity"
	"github.com/weftmesh/weft/connect/proxy/config"
	"github.com/weftmesh/weft/connect/proxy/h1"
	"github.com/weftmesh/weft/connect/proxy/h2"
	"github.com/weftmesh/weft/connect/proxy/mux"
	"github.com/weftmesh/weft/connect/proxy/reason"
	"github.com/weftmesh/weft/connect/proxy/stream"
	"github.com/weftmesh/weft/internal/records"
)

// pool is the connections of one host.
type pool struct {
	mu       sync.Mutex
	idle     []*single // HTTP/1, the last given back at the end
	multi    []*multi  // HTTP/2
	dialing  *dialing  // an HTTP/2 connection in the making
	refusals refusals
	carriers
	spare chan struct{} // has room for one: that there was an idle connection which isn't the last
}

// single is an HTTP/1 connection.
type single struct {
	client   *h1.Client
	identity string
	born     time.Time
	since    time.Time // idle since
	uses     int
	moved    int64 // what the client has moved, at the last exchange's end
}

// multi is an HTTP/2 connection.
type multi struct {
	client   *h2.Client
	identity string
	born     time.Time
	used     time.Time // last given to somebody; guarded by pool.mu, as uses
	uses     int
}

// dialing is an HTTP/2 connection that several may wait for.
type dialing struct {
	done     chan struct{}
	identity string
	code     reason.Code // set before done is closed, with err
	err      error
}

const (
	poolIdle       = 60 * time.Second
	maxIdle        = 512 // of one host
	defaultConnect = 5 * time.Second
)

// lease is an exchange on a connection of the pool. The zero lease is none.
type lease struct {
	stream.ClientExchange
	endpoint *endpoint
	single   *single
}

var errLimit = errors.New("the limit on connections or on those that wait for one is reached")

// acquire opens an exchange on a connection to ep.
func (v *clusterView) acquire(way slow, ep *endpoint, w wire) (lease, reason.Code, error) {
	if w == http2 {
		return v.acquireMulti(way, ep)
	}
	return v.acquireSingle(way, ep)
}

func (v *clusterView) acquireSingle(way slow, ep *endpoint) (lease, reason.Code, error) {
	s, made, code, err := v.single(way, ep)
	if err != nil {
		return lease{}, code, err
	}
	way.got(v.state.engine)
	open := s.client.AliveExchange // a pooled one was just looked at
	if made {
		open = s.client.Exchange
	}
	return lease{open(), ep, s}, reason.None, nil
}

// single gives an HTTP/1 connection, and whether it was made for this.
func (v *clusterView) single(way slow, ep *endpoint) (s *single, made bool, code reason.Code, err error) {
	if s := ep.take(v, way.leave); s != nil {
		return s, false, reason.None, nil
	}
	leave := 0
	if way.makers != nil {
		s, err := way.enter(v, ep)
		if err != nil {
			return nil, false, reason.UpstreamConnectFailure, err
		}
		if s != nil {
			return s, false, reason.None, nil
		}
		leave = 1
		defer way.makers.left()
	}
	ctx := way.context
	for {
		if s := ep.take(v, leave); s != nil {
			return s, false, reason.None, nil
		}
		if enter(&v.state.connections, v.config.Limits.Connections) {
			break
		}
		leave = 0 // no other can be made
		if !v.awaitSlot(ctx(), func() bool { return ep.hasIdle(1) }) {
			return nil, false, reason.UpstreamOverflow, errLimit
		}
	}
	conn, code, err := v.dial(ctx(), ep, http1)
	if err != nil {
		v.closed(false)
		return nil, false, code, err
	}
	_, carried := conn.(*mux.Stream)
	return &single{client: h1.NewClient(conn, h1.ClientConfig{Reused: carried}), identity: v.identity, born: time.Now()}, true, reason.None, nil
}

// awaitSlot waits for a connection, no longer than one may take to be made.
func (v *clusterView) awaitSlot(ctx context.Context, idle func() bool) bool {
	ctx, cancel := context.WithTimeout(ctx, v.connectTimeout())
	defer cancel()
	return v.state.await(ctx, v.config.Limits.Pending, func() bool {
		return idle() || v.state.connections.Load() < int64(v.config.Limits.Connections)
	})
}

func (v *clusterView) connectTimeout() time.Duration {
	if v.config.ConnectTimeout > 0 {
		return v.config.ConnectTimeout
	}
	return defaultConnect
}

// take takes an idle connection that is alive, unless there are only so many as are to be left.
func (h *host) take(v *clusterView, leave int) *single {
	for {
		h.mu.Lock()
		n := len(h.idle)
		if n <= leave {
			h.mu.Unlock()
			return nil
		}
		s := h.idle[n-1]
		h.idle[n-1] = nil
		h.idle = h.idle[:n-1]
		h.tellSpareLocked()
		h.mu.Unlock()
		if s.identity == v.identity && v.fresh(s.born, s.since) && s.client.Alive() {
			return s
		}
		_ = s.client.Close()
		v.closed(true)
	}
}

// tellSpareLocked tells one who waits for it that there is an idle connection besides the last.
func (h *host) tellSpareLocked() {
	if len(h.idle) < 2 {
		return
	}
	select {
	case h.spare <- struct{}{}:
	default: // it is said already
	}
}

func (h *host) hasIdle(n int) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.idle) >= n
}

// closed counts the end of a connection; made says that it was one.
func (v *clusterView) closed(made bool) {
	v.state.connections.Add(-1)
	if made && !v.config.Local {
		v.edge.Closed()
	}
	v.state.wake()
}

// release gives an exchange's connection back.
func (v *clusterView) release(l lease) {
	reusable := l.Close()
	s := l.single
	if s == nil {
		return
	}
	s.uses++
	if reusable && v.state.engine.base.Err() == nil && v.state.valid(l.endpoint.host, s.identity) && (v.config.MaxPerConn == 0 || s.uses < v.config.MaxPerConn) && v.fresh(s.born, time.Time{}) {
		s.since = time.Now()
		h := l.endpoint.host
		moved := s.client.Moved() - s.moved
		s.moved += moved
		h.mu.Lock()
		if h.carriers.suitsLocked(s, moved) && len(h.idle) < maxIdle {
			h.idle = append(h.idle, s)
			h.tellSpareLocked()
			h.mu.Unlock()
			if !v.state.valid(h, s.identity) || v.state.engine.base.Err() != nil { // it went while the connection was put back
				h.prune(func(id string) bool { return v.state.engine.base.Err() == nil && v.state.valid(h, id) }, time.Time{})
			}
			if s.isLeft() { // as well
				h.end(func(o *single) bool { return o != s })
			}
			v.state.wake()
			return
		}
		h.mu.Unlock()
	}
	_ = s.client.Close()
	v.closed(true)
}

// fresh says whether a connection may carry more: it isn't too old, nor idle (since zero: it isn't) for too long.
func (v *clusterView) fresh(born, since time.Time) bool {
	k := &v.config.Keep
	return (k.Age == 0 || time.Since(born) < k.Age) && (k.Idle == 0 || since.IsZero() || time.Since(since) < k.Idle)
}

// expire closes what of a host's connections is too old, or idle for too long, by the cluster's own word.
func (v *clusterView) expire(h *host) {
	var ended []*single
	h.mu.Lock()
	kept := h.idle[:0]
	for _, s := range h.idle {
		if v.fresh(s.born, s.since) {
			kept = append(kept, s)
		} else {
			ended = append(ended, s)
		}
	}
	clear(h.idle[len(kept):])
	h.idle = kept
	for _, m := range h.multi {
		idle := m.used
		if m.client.Busy() {
			idle = time.Time{}
		}
		if !v.fresh(m.born, idle) {
			m.client.Drain()
		}
	}
	h.mu.Unlock()
	for _, s := range ended {
		_ = s.client.Close()
		v.closed(true)
	}
}

// prune closes idle connections whose identity isn't good any more, or which are idle since before a time.
func (h *host) prune(good func(identity string) bool, before time.Time) {
	h.end(func(s *single) bool { return good(s.identity) && !s.since.Before(before) })
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, m := range h.multi {
		if !good(m.identity) {
			m.client.Drain()
		}
	}
	for _, c := range h.carriers.all {
		if since, idle := c.session.IdleSince(); !good(c.identity) || idle && since.Before(before) {
			c.session.Leave()
		}
	}
}

// end closes the idle connections that aren't to stay.
func (h *host) end(stays func(*single) bool) {
	var ended []*single
	h.mu.Lock()
	kept := h.idle[:0]
	for _, s := range h.idle {
		if stays(s) {
			kept = append(kept, s)
		} else {
			ended = append(ended, s)
		}
	}
	clear(h.idle[len(kept):])
	h.idle = kept
	h.mu.Unlock()
	for _, s := range ended {
		_ = s.client.Close()
		h.cluster.connections.Add(-1)
		if v := h.cluster.current.Load(); v != nil && !v.config.Local {
			v.edge.Closed()
		}
	}
}

func (v *clusterView) acquireMulti(way slow, ep *endpoint) (lease, reason.Code, error) {
	ctx, made := way.context, false
	for range 8 {
		m, full, d := ep.multiplexed(v)
		var refused error
		if m == nil {
			var code reason.Code
			if code, refused = ep.refuses(); refused != nil && way.elsewhere {
				return lease{}, code, refused
			}
		}
		if m == nil && d == nil {
			if full != nil && (made && !full.client.Busy() || refused != nil) {
				m = full // a server that lets no stream begin for now, or takes no further connections: another one would be the same
			} else if enter(&v.state.connections, v.config.Limits.Connections) {
				d = v.start(ep)
			} else if m = full; m == nil {
				if !v.awaitSlot(ctx(), func() bool { return false }) {
					return lease{}, reason.UpstreamOverflow, errLimit
				}
				continue
			}
		}
		if m == nil {
			wait := ctx()
			select {
			case <-d.done:
			case <-wait.Done():
				return lease{}, reason.UpstreamConnectFailure, context.Cause(wait)
			}
			if d.err == nil {
				made = true
				continue
			}
			if m = full; m == nil || way.elsewhere {
				return lease{}, d.code, d.err
			}
		}
		open := context.Background()
		if m == full || m.client.Available() == 0 {
			open = ctx()
		}
		x, err := m.client.Open(open)
		if err == nil {
			return lease{x, ep, nil}, reason.None, nil
		}
		if cause := context.Cause(open); cause != nil {
			return lease{}, reason.UpstreamOverflow, cause
		}
	}
	return lease{}, reason.UpstreamReset, fmt.Errorf("%w: each HTTP/2 connection went away before it was used", stream.ErrNotSent)
}

// multiplexed finds a connection with a free stream; else a full one, and the one that is being made.
func (h *host) multiplexed(v *clusterView) (free, full *multi, d *dialing) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, m := range h.multi {
		switch {
		case m.identity != v.identity || !m.client.Usable():
		case v.config.MaxPerConn > 0 && m.uses >= v.config.MaxPerConn || !v.fresh(m.born, time.Time{}):
			m.client.Drain()
		case m.client.Available() > 0:
			m.uses++
			m.used = time.Now()
			return m, nil, nil
		default:
			full = m
		}
	}
	if h.dialing != nil && h.dialing.identity == v.identity {
		return nil, full, h.dialing
	}
	return nil, full, nil
}

// start has a connection made, which all who want one wait for. A slot has been taken for it.
func (v *clusterView) start(ep *endpoint) *dialing {
	h := ep.host
	d := &dialing{done: make(chan struct{}), identity: v.identity}
	h.mu.Lock()
	if other := h.dialing; other != nil && other.identity == v.identity {
		h.mu.Unlock()
		v.closed(false)
		return other
	}
	h.dialing = d
	h.mu.Unlock()
	v.state.engine.spawn(func(ctx context.Context) { v.runMulti(ctx, ep, d) }, func() {
		d.code, d.err = reason.Draining, errStopped
		v.dialed(h, d, nil)
		v.closed(false)
	})
	return d
}

var errStopped = errors.New("the proxy is stopping")

func (v *clusterView) dialed(h *host, d *dialing, m *multi) {
	h.mu.Lock()
	if h.dialing == d {
		h.dialing = nil
	}
	if m != nil {
		h.multi = append(h.multi, m)
		h.refusals = refusals{}
	}
	h.mu.Unlock()
	close(d.done)
}

// runMulti makes a connection and reads it until it ends. The connection counts as made once the server's SETTINGS have come, at the price
// of a round trip: a server that is stopping leaves connections unaccepted, and of a call that is lost with one of these nobody could say that
// it wasn't begun.
func (v *clusterView) runMulti(ctx context.Context, ep *endpoint, d *dialing) {
	fail := func(code reason.Code, err error) {
		d.code, d.err = code, err
		v.dialed(ep.host, d, nil)
	}
	ep.backOff(ctx)
	conn, code, err := v.dial(ctx, ep, http2)
	if err != nil {
		fail(code, err)
		v.closed(false)
		return
	}
	defer v.closed(true)
	var m *multi
	cfg := pings(&v.config.Keep)
	cfg.SettingsTimeout = v.connectTimeout()
	cfg.OnSettled = func() {
		m.born = time.Now()
		m.used = m.born
		v.dialed(ep.host, d, m)
		if !v.state.valid(ep.host, v.identity) {
			m.client.Drain()
		}
	}
	client, err := h2.NewClient(conn, cfg)
	if err != nil {
		_ = conn.Close()
		fail(reason.UpstreamProtocol, err)
		return
	}
	m = &multi{client: client, identity: v.identity}
	err = client.Run(ctx)
	if m.born.IsZero() {
		v.failed(ctx, ep)
		code, err := unsettled(ctx, ep, err)
		ep.refused(code, err)
		fail(code, err)
		return
	}
	if err != nil && ctx.Err() == nil {
		v.state.engine.config.Log.Debug("upstream connection ended", "cluster", v.config.Name, "endpoint", ep.config.Address, "error", err)
	}
	h := ep.host
	h.mu.Lock()
	defer h.mu.Unlock()
	for i, o := range h.multi {
		if o == m {
			h.multi = append(h.multi[:i:i], h.multi[i+1:]...)
			break
		}
	}
}

// unsettled is why a connection ended before the server's SETTINGS came. One that the server closed may have been left to a process that is
// stopping: another to the same address is worth a try soon.
func unsettled(ctx context.Context, ep *endpoint, err error) (reason.Code, error) {
	why := fmt.Errorf("%s said no SETTINGS: %w", ep.config.Address, cmp.Or(err, io.EOF))
	var bad *h2.ConnError
	switch {
	case ctx.Err() != nil:
		return reason.Draining, why
	case errors.As(err, &bad):
		return reason.UpstreamProtocol, why
	case errors.Is(err, h2.ErrTimeout):
		return reason.UpstreamConnectFailure, why
	}
	return reason.UpstreamConnectFailure, fmt.Errorf("%w: %w", stream.ErrNotSent, why)
}

// dial makes a connection, TLS included, counts it, and reports a failure to the outlier detection.
func (v *clusterView) dial(ctx context.Context, ep *endpoint, w wire) (net.Conn, reason.Code, error) {
	ctx, cancel := context.WithTimeout(ctx, v.connectTimeout())
	defer cancel()
	conn, code, err := v.connect(ctx, ep, w)
	if v.config.Local || err != nil && unwanted(ctx) {
		return conn, code, err
	}
	switch code {
	case reason.None:
		v.edge.Connection(Connected)
	case reason.UpstreamTLSFailure:
		v.edge.Connection(TLSFailed)
	default:
		v.edge.Connection(ConnectFailed)
	}
	return conn, code, err
}

func (v *clusterView) connect(ctx context.Context, ep *endpoint, w wire) (net.Conn, reason.Code, error) {
	switch {
	case v.config.TLS == nil || ep.config.Plain:
		return v.plain(ctx, ep)
	case w == http1:
		return v.carried(ctx, ep)
	}
	conn, code, err := v.secure(ctx, ep, w)
	if err != nil {
		return nil, code, err
	}
	return conn, code, nil
}

func (v *clusterView) plain(ctx context.Context, ep *endpoint) (net.Conn, reason.Code, error) {
	conn, err := v.state.engine.config.Dial(ctx, ep.key.network, ep.key.address)
	if err != nil {
		v.failed(ctx, ep)
		return nil, reason.UpstreamConnectFailure, fmt.Errorf("connecting to %s: %w", ep.key.address, err)
	}
	if c, ok := conn.(interface {
		SetKeepAliveConfig(net.KeepAliveConfig) error
	}); ok && v.config.Keep.TCP != nil {
		_ = c.SetKeepAliveConfig(*v.config.Keep.TCP) // without it, the system's
	}
	return conn, reason.None, nil
}

func (v *clusterView) secure(ctx context.Context, ep *endpoint, w wire) (*tls.Conn, reason.Code, error) {
	conn, code, err := v.plain(ctx, ep)
	if err != nil {
		return nil, code, err
	}
	tc := tls.Client(records.Under(conn), v.tls[w])
	if err := tc.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		v.failed(ctx, ep)
		return nil, reason.UpstreamTLSFailure, fmt.Errorf("TLS with %s: %w", ep.key.address, err)
	}
	v.state.secured.add(tc)
	if gone := v.config.TLS.Gone; gone != nil {
		if out, _ := gone(tc.ConnectionState().PeerCertificates, ""); out { // since the handshake
			_ = conn.Close()
			return nil, reason.UpstreamTLSFailure, fmt.Errorf("TLS with %s: %w", ep.key.address, identity.ErrRevoked)
		}
	}
	return tc, reason.None, nil
}

// upstreamWire is what is spoken with a cluster for a request that came in as p.
func (v *clusterView) upstreamWire(p stream.Proto) wire {
	switch {
	case v.config.Codec == config.HTTP2, v.config.Codec == config.Auto && p == stream.HTTP2:
		return http2
	}
	return http1
}

func pings(k *config.Keep) h2.ClientConfig {
	return h2.ClientConfig{
		PingEvery: cmp.Or(k.PingEvery, 30*time.Second), PingTimeout: k.PingTimeout, Limits: stream.Limits{Streams: k.Streams},
	}
}
