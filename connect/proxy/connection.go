// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"cmp"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weftmesh/weft/connect/proxy/config"
	"github.com/weftmesh/weft/connect/proxy/exchange"
	"github.com/weftmesh/weft/connect/proxy/lounge"
	"github.com/weftmesh/weft/connect/proxy/mux"
	"github.com/weftmesh/weft/connect/proxy/opening"
	"github.com/weftmesh/weft/connect/proxy/reason"
	"github.com/weftmesh/weft/internal/guard"
	"github.com/weftmesh/weft/internal/listen"
	"github.com/weftmesh/weft/internal/run"
)

// connection is one accepted connection. It is served in turns: between two of them, while nothing moves on it, it rests in the lounge.
type connection struct {
	p        *Proxy
	conn     net.Conn
	listener string
	peer     *config.Peer
	share    *share                           // of one that is carried, else nil
	owner    atomic.Pointer[listen.Owner]     // whose process opened it; nil: nobody has asked
	suits    atomic.Pointer[listen.Processes] // for whom it was found to be last
	leaving  atomic.Int64                     // since when, in Unix nanoseconds; 0: it stays
	denied   atomic.Pointer[reason.Code]      // why it was cut
	looked   atomic.Value                     // string: what the last look at its certificate gave

	// What is carried, once that is known.
	http   *exchange.Downstream
	tunnel *tunnel

	guest lounge.Guest
	mu    sync.Mutex         // guards end
	end   context.CancelFunc // of the turn; nil between two
}

// restAfter is how long nothing moves on a connection until it rests: well below the two seconds after which a quiet process gives memory
// back, so that it is what resting set free that is given back. A turn begins with a goroutine and some KB, which is nothing once a second.
const restAfter = time.Second

// serve serves one connection until it ends or rests. One that comes when its listener is gone (it was accepted, or its handshake was
// under way) is served as the listener was last, and leaves.
func (p *Proxy) serve(ctx context.Context, served *run.Group, conn net.Conn, name string, last *config.Listener) {
	l := p.listener(name)
	gone := l == nil
	if gone {
		l = last
	}
	peer, alpn, err := peerOf(conn)
	if err != nil {
		_ = conn.Close() // nobody is served
		p.c.Log.Debug("connection refused", "listener", name, "error", err)
		return
	}
	var prefix []byte
	if l.Captured != nil {
		if l, prefix = p.captured(ctx, conn, l, peer); l == nil {
			reset(conn)
			_ = conn.Close() // what was beneath it is closed; now it isn't counted any more
			return
		}
		name = l.Name
	}
	c := p.newConnection(served, conn, name, peer)
	if alpn == mux.ALPN {
		p.carry(ctx, served, c, l, last)
		_ = conn.Close() // it is over
		return
	}
	p.begins(ctx, c, l, gone, alpn, prefix)
}

// newConnection makes what is known of a connection.
func (p *Proxy) newConnection(served *run.Group, conn net.Conn, name string, peer *config.Peer) *connection {
	c := &connection{p: p, conn: conn, listener: name, peer: peer}
	c.guest.Conns[0] = conn
	c.guest.Resume = func() { served.Go("connection", func(ctx context.Context) error { c.turn(ctx, c.again); return nil }) }
	return c
}

// begins counts a connection in, and serves its first turn. The prefix has been read from the client already.
func (p *Proxy) begins(ctx context.Context, c *connection, l *config.Listener, gone bool, alpn string, prefix []byte) {
	if !p.enter(c, l) { // there are too many
		if st, ok := c.conn.(*mux.Stream); ok {
			st.Refuse() // nothing of it was looked at, so that it may be sent elsewhere, whatever it is
		}
		_ = c.conn.Close()
		return
	}
	if gone {
		c.beginDrain()
	}
	c.turn(ctx, func(ctx context.Context) bool { return c.begin(ctx, l, alpn, prefix) })
}

// turn has serve serve the connection until it gives false, as the connection has ended, or true, as it is to rest.
func (c *connection) turn(ctx context.Context, serve func(context.Context) bool) {
	ctx, cancel := context.WithCancel(ctx)
	rests := false
	defer func() {
		if !rests {
			c.over()
		}
	}()
	defer cancel()
	c.mu.Lock()
	c.end = cancel
	c.mu.Unlock()
	for serve(ctx) {
		c.mu.Lock()
		rests = ctx.Err() == nil && c.rests() // whoever denies it meanwhile waits for mu, and finds it resting
		if rests {
			c.end = nil
		}
		c.mu.Unlock()
		if rests || ctx.Err() != nil {
			return
		}
		serve = c.again // it can't rest, and waits as it is
	}
}

// over ends what a connection has, once.
func (c *connection) over() {
	switch {
	case c.http != nil:
		c.http.Close()
	case c.tunnel != nil:
		c.tunnel.over(c)
	}
	_ = c.conn.Close() // it is over
	c.p.leave(c)
}

// cut ends the turn at once, and so the connection, which has been reset.
func (c *connection) cut() {
	c.mu.Lock()
	end := c.end
	c.mu.Unlock()
	if end != nil {
		end()
	}
	c.wake()
}

// begin is the first turn. The prefix has been read from the client already, to choose the listener by it.
func (c *connection) begin(ctx context.Context, l *config.Listener, alpn string, prefix []byte) (rests bool) {
	p := c.p
	if bare(l, c.peer) || c.gone(l) || !p.allowed(l, c.peer) {
		c.deny(reason.RBACDenied)
		p.engine.LogTunnel(l, c.peer, "", "", time.Now(), 0, 0, reason.RBACDenied)
		return false
	}
	if c.stranger(l) {
		c.deny(reason.LocalIdentity)
		p.engine.LogTunnel(l, c.peer, "", "", time.Now(), 0, 0, reason.LocalIdentity)
		return false
	}
	p.engine.Audit(l.Authorize, c.peer)
	if l.Detect && len(prefix) == 0 {
		return c.detect(ctx, l)
	}
	if l.HTTP != nil && !l.Detect {
		return c.openHTTP(ctx, l, alpn, prefix)
	}
	t := l.TCP
	if l.Named != nil {
		if prefix, t = c.byName(ctx, l); t == nil {
			reset(c.conn)
			return false
		}
	}
	return c.carryTo(ctx, l, t, prefix)
}

// again is a turn after a rest.
func (c *connection) again(ctx context.Context) (rests bool) {
	if c.tunnel != nil {
		return c.tunnel.carry(ctx, c, nil, nil)
	}
	return c.serveHTTP(ctx)
}

// openHTTP serves the connection as HTTP from now on. Opening is what has been read already.
func (c *connection) openHTTP(ctx context.Context, l *config.Listener, alpn string, opening []byte) (rests bool) {
	m := exchange.Manner{ALPN: alpn, Opening: opening, Drains: c.drain}
	if canRest(c.conn) {
		m.RestAfter, m.Wake = c.p.restAfter, c.wake
	}
	if c.share != nil {
		m.Heads = &c.share.heads
	}
	var err error
	if c.http, err = c.p.engine.Open(c.conn, l, c.peer, m); err != nil {
		c.p.c.Log.Debug("connection ended", "listener", l.Name, "error", err)
		return false
	}
	return c.serveHTTP(ctx)
}

func (c *connection) serveHTTP(ctx context.Context) (rests bool) {
	err := c.http.Serve(ctx)
	if rest := new(exchange.Rest); errors.As(err, &rest) {
		c.guest.Until = rest.Until
		return true
	}
	if err != nil && ctx.Err() == nil {
		c.p.c.Log.Debug("connection ended", "listener", c.listener, "error", err)
	}
	return false
}

// captured chooses who has a connection by where it was going; nil: nobody has. What was read of the client for that is given too.
func (p *Proxy) captured(ctx context.Context, conn net.Conn, l *config.Listener, peer *config.Peer) (*config.Listener, []byte) {
	to, err := p.c.Original(conn)
	if err != nil || to == peer.Local { // somebody has dialled this proxy itself: to go on there would never end
		p.c.Log.Warn("a connection to the port of captured ones wasn't captured", "listener", l.Name, "from", peer.Remote.String(), "error", err)
		p.engine.Refused(l.Direction, peer, reason.NoDestination)
		return nil, nil
	}
	peer.Local, peer.Original = to, to
	inner, prefix := (*config.Listener)(nil), []byte(nil)
	if l.Captured.Choose == nil {
		inner = l.Captured.For(to.Addr())
	} else {
		inner, prefix = choose(ctx, conn, l.Captured, peer)
	}
	if inner == nil {
		p.c.Log.Info("a captured connection is for nobody that the service reaches", "listener", l.Name, "to", to.String(), "name", peer.SNI, "reason", string(reason.NoDestination))
		p.engine.Refused(l.Direction, peer, reason.NoDestination)
	}
	return inner, prefix
}

// choose looks at what counts of a captured connection, as far as its ClientHello.
func choose(ctx context.Context, conn net.Conn, c *config.Captured, peer *config.Peer) (_ *config.Listener, prefix []byte) {
	looked, gone, tls := false, false, false
	l := c.Choose.For(peer.Original, func() (string, bool) {
		if !looked {
			var err error
			prefix, peer.SNI, err = hello(ctx, conn, cmp.Or(c.Peek, peekWait))
			looked, gone = true, ctx.Err() != nil || err != nil && !errors.Is(err, os.ErrDeadlineExceeded)
			tls = len(prefix) > 0 && opening.IsTLS(prefix)
		}
		return peer.SNI, tls
	})
	if gone {
		return nil, nil
	}
	return l, prefix
}

// peekWait is how long a client may take to say which server it wants, where the listener has no bound of its own.
const peekWait = 15 * time.Second

// byName reads as far as the server name that the client asks for, and chooses the tunnel by it; nil if there is none.
func (c *connection) byName(ctx context.Context, l *config.Listener) ([]byte, *config.TCP) {
	b, name, err := hello(ctx, c.conn, cmp.Or(l.Peek, peekWait))
	if err != nil || ctx.Err() != nil {
		return nil, nil
	}
	c.peer.SNI = name
	t := l.ByName(name)
	if t == nil {
		c.p.engine.LogTunnel(l, c.peer, "", "", time.Now(), 0, 0, reason.NoRoute)
	}
	return b, t
}

// hello reads a client's first bytes as far as they say which server it asks for, "" if none. What was read is given with an error too.
func hello(ctx context.Context, conn net.Conn, within time.Duration) (b []byte, name string, err error) {
	defer context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(past) })()
	_ = conn.SetReadDeadline(time.Now().Add(within))
	for {
		b = slices.Grow(b, 2<<10)
		n, err := conn.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		name, more := opening.ServerName(b)
		if errors.Is(err, io.EOF) && len(b) > 0 {
			more = false // whoever gets it sees where it ends
		} else if err != nil {
			_ = conn.SetReadDeadline(time.Time{})
			return b, "", err
		}
		if !more {
			_ = conn.SetReadDeadline(time.Time{})
			return b, name, nil
		}
	}
}

// enter counts a connection in; false if the listener has as many as it may.
func (p *Proxy) enter(c *connection, l *config.Listener) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if l.MaxConnections > 0 && p.perListener[c.listener] >= l.MaxConnections || c.share != nil && c.share.streams >= p.mostOfOne {
		return false
	}
	if c.share != nil {
		c.share.streams++
	}
	p.conns[c] = struct{}{}
	p.perListener[c.listener]++
	if p.stopping {
		c.beginDrain()
	}
	return true
}

func (p *Proxy) leave(c *connection) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
	if c.share != nil {
		c.share.streams--
		p.leftLocked(c.share)
	}
	if p.perListener[c.listener]--; p.perListener[c.listener] == 0 {
		delete(p.perListener, c.listener)
	}
}

func (p *Proxy) allowed(l *config.Listener, peer *config.Peer) bool {
	ok, _ := p.engine.Allowed(l.Authorize, peer, nil)
	return ok
}

// recheck asks the policies again for every open connection, and cuts those that may not be there any more, and only those.
func (p *Proxy) recheck(s *config.Snapshot) {
	p.mu.Lock()
	denied := map[*connection]reason.Code{}
	for c := range p.conns {
		switch l := s.Listeners[c.listener]; {
		case l == nil:
		case bare(l, c.peer) || c.gone(l) || len(l.Authorize) > 0 && !p.allowed(l, c.peer):
			denied[c] = reason.RBACDenied
		case c.stranger(l):
			denied[c] = reason.LocalIdentity
		}
	}
	carriers := p.recheckCarriersLocked(s)
	p.mu.Unlock()
	for c, why := range denied {
		c.deny(why)
	}
	for _, k := range carriers {
		reset(k.connection.conn)
	}
}

// stranger says whether the connection is of a process that may not be here, where the listener is for some processes alone. Who can't be told is a
// stranger.
func (c *connection) stranger(l *config.Listener) bool {
	if l.Local == nil {
		return false
	}
	if c.suits.Load() == l.Local {
		return false
	}
	if c.owner.Load() == nil {
		owner, err := listen.OwnerOf(c.conn, c.peer.Original)
		if err != nil {
			c.p.c.Log.Debug("connection refused", "listener", l.Name, "error", err)
			return true
		}
		c.owner.Store(&owner)
	}
	if err := l.Local.Has(*c.owner.Load()); err != nil {
		c.p.c.Log.Debug("connection refused", "listener", l.Name, "error", err)
		return true
	}
	c.suits.Store(l.Local)
	return false
}

// bare says whether a connection came in plain text to a listener that takes TLS only.
func bare(l *config.Listener, peer *config.Peer) bool {
	return l.TLS != nil && !l.PlainToo && peer.TLS == nil
}

// gone says whether the caller is to be let in no more, by its certificate.
func (c *connection) gone(l *config.Listener) bool {
	if l.TLS == nil || l.TLS.Gone == nil || c.peer.TLS == nil {
		return false
	}
	since, _ := c.looked.Load().(string)
	gone, now := l.TLS.Gone(c.peer.TLS.PeerCertificates, since)
	c.looked.Store(now)
	return gone && !guard.Off("C88")
}

// deny resets the connection, for that reason.
func (c *connection) deny(why reason.Code) { c.refuse(c.listenerDirection(), why) }

func (c *connection) refuse(d config.Direction, why reason.Code) {
	c.denied.Store(&why)
	c.p.engine.Refused(d, c.peer, why)
	reset(c.conn)
	c.cut()
}

func (c *connection) listenerDirection() config.Direction {
	if l := c.p.listener(c.listener); l != nil {
		return l.Direction
	}
	return config.Inbound
}

// reset closes a connection with RST where it can.
func reset(conn net.Conn) {
	if t, ok := conn.(interface{ NetConn() net.Conn }); ok {
		if inner, ok := t.NetConn().(interface{ SetLinger(int) error }); ok {
			_ = inner.SetLinger(0) // it closes all the same
		}
		_ = t.NetConn().Close() // beneath TLS: no close_notify that would look like an orderly end
		return
	}
	if s, ok := conn.(interface{ SetLinger(int) error }); ok {
		_ = s.SetLinger(0)
	}
	_ = conn.Close()
}

// drainListener lets the connections of a listener that is gone come to their end.
func (p *Proxy) drainListener(name string) {
	p.mu.Lock()
	for c := range p.conns {
		if c.listener == name {
			c.beginDrain()
		}
	}
	p.leaveLocked(func(listener string) bool { return listener == name })
	p.mu.Unlock()
	p.engine.Drain()
}

// cutListener ends the connections of a listener that is gone.
func (p *Proxy) cutListener(name string) {
	p.mu.Lock()
	var all []*connection
	for c := range p.conns {
		if c.listener == name {
			all = append(all, c)
		}
	}
	p.mu.Unlock()
	for _, c := range all {
		c.refuse(config.Outbound, reason.NoDestination)
	}
}

// beginDrain asks the connection to end after what is in flight; a tunnel has no such point and goes on.
func (c *connection) beginDrain() { c.leaving.CompareAndSwap(0, time.Now().UnixNano()) }

// drain is how far the connection is on its way out.
func (c *connection) drain() exchange.Drain {
	switch since := c.leaving.Load(); {
	case since == 0:
		return exchange.Serving
	case time.Now().UnixNano()-since < int64(c.p.linger()):
		return exchange.Leaving
	}
	return exchange.Closing
}

// linger is how long an idle connection waits for its client.
func (p *Proxy) linger() time.Duration {
	if p.retired() && !p.hurried.Load() {
		return p.c.Retirement / 10
	}
	return p.c.Linger
}

func (p *Proxy) retired() bool {
	select {
	case <-p.c.Retire:
		return true
	default:
		return false
	}
}

func (p *Proxy) closeAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns { // not what carries others: that ends by itself, with a word
		_ = c.conn.Close()
	}
}
