// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"cmp"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weftmesh/weft/connect/proxy/config"
	"github.com/weftmesh/weft/connect/proxy/exchange"
	"github.com/weftmesh/weft/connect/proxy/opening"
	"github.com/weftmesh/weft/connect/proxy/reason"
)

// connection is one accepted connection.
type connection struct {
	p        *Proxy
	conn     net.Conn
	listener string
	peer     *config.Peer
	leaving  atomic.Int64 // since when, in Unix nanoseconds; 0: it stays
	denied   atomic.Bool
	looked   atomic.Value // string: what the last look at its certificate gave
	cut      context.CancelFunc
}

// serve serves one connection until it ends. One that comes when its listener is gone (it was accepted, or its handshake was
// under way) is served as the listener was last, and leaves.
func (p *Proxy) serve(ctx context.Context, conn net.Conn, name string, last *config.Listener) {
	defer conn.Close()
	l := p.listener(name)
	gone := l == nil
	if gone {
		l = last
	}
	peer, alpn, err := peerOf(conn)
	if err != nil {
		p.c.Log.Debug("connection refused", "listener", name, "error", err)
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c := &connection{p: p, conn: conn, listener: name, peer: peer, cut: cancel}
	if !p.enter(c, l) {
		return
	}
	defer p.leave(c)
	if gone {
		c.beginDrain()
	}
	if bare(l, peer) || c.gone(l) || !p.allowed(l, peer) {
		c.deny()
		p.engine.LogTunnel(l, peer, "", "", time.Now(), 0, 0, reason.RBACDenied)
		return
	}
	p.engine.Audit(l.Authorize, peer)
	if l.Detect {
		c.detect(ctx, l)
		return
	}
	if l.HTTP != nil {
		if err := p.engine.ServeHTTP(ctx, conn, l, peer, alpn, c.drain); err != nil && ctx.Err() == nil {
			p.c.Log.Debug("connection ended", "listener", name, "error", err)
		}
		return
	}
	prefix, t := []byte(nil), l.TCP
	if l.Named != nil {
		if prefix, t = c.byName(ctx, l); t == nil {
			reset(conn)
			return
		}
	}
	c.tunnel(ctx, l, t, prefix)
}

// peekWait is how long a client may take to say which server it wants, where the listener has no bound of its own.
const peekWait = 15 * time.Second

// byName reads as far as the server name that the client asks for, and chooses the tunnel by it; nil if there is none.
func (c *connection) byName(ctx context.Context, l *config.Listener) ([]byte, *config.TCP) {
	defer context.AfterFunc(ctx, func() { _ = c.conn.SetReadDeadline(past) })()
	_ = c.conn.SetReadDeadline(time.Now().Add(cmp.Or(l.Peek, peekWait)))
	var b []byte
	for {
		b = slices.Grow(b, 2<<10)
		n, err := c.conn.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		name, more := opening.ServerName(b)
		if errors.Is(err, io.EOF) && len(b) > 0 {
			more = false // whoever gets it sees where it ends
		} else if err != nil {
			return nil, nil
		}
		if more {
			continue
		}
		_ = c.conn.SetReadDeadline(time.Time{})
		if ctx.Err() != nil {
			return nil, nil
		}
		c.peer.SNI = name
		t := l.ByName(name)
		if t == nil {
			c.p.engine.LogTunnel(l, c.peer, "", "", time.Now(), 0, 0, reason.NoRoute)
		}
		return b, t
	}
}

// enter counts a connection in; false if the listener has as many as it may.
func (p *Proxy) enter(c *connection, l *config.Listener) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if l.MaxConnections > 0 {
		n := 0
		for other := range p.conns {
			if other.listener == l.Name {
				n++
			}
		}
		if n >= l.MaxConnections {
			return false
		}
	}
	p.conns[c] = struct{}{}
	if p.stopping {
		c.beginDrain()
	}
	return true
}

func (p *Proxy) leave(c *connection) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
}

func (p *Proxy) allowed(l *config.Listener, peer *config.Peer) bool {
	ok, _ := p.engine.Allowed(l.Authorize, peer, nil)
	return ok
}

// recheck asks the policies again for every open connection, and cuts those that may not be there any more, and only those.
func (p *Proxy) recheck(s *config.Snapshot) {
	p.mu.Lock()
	var denied []*connection
	for c := range p.conns {
		if l := s.Listeners[c.listener]; l != nil && (bare(l, c.peer) || c.gone(l) || len(l.Authorize) > 0 && !p.allowed(l, c.peer)) {
			denied = append(denied, c)
		}
	}
	p.mu.Unlock()
	for _, c := range denied {
		c.deny()
	}
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
	return gone
}

// deny resets the connection.
func (c *connection) deny() {
	c.denied.Store(true)
	c.p.engine.Denied(c.listenerDirection(), c.peer)
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
	defer p.mu.Unlock()
	for c := range p.conns {
		if c.listener == name {
			c.beginDrain()
		}
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
	for c := range p.conns {
		_ = c.conn.Close()
	}
}

// tunnel carries bytes to and from a cluster. The prefix has been read from the client already.
func (c *connection) tunnel(ctx context.Context, l *config.Listener, t *config.TCP, prefix []byte) {
	if up := c.way(ctx, l, t); up != nil {
		c.carry(ctx, l, t, up, prefix, nil)
	}
}

// way connects to the service. Where that fails, the client's connection is reset, and nil is given.
func (c *connection) way(ctx context.Context, l *config.Listener, t *config.TCP) *way {
	cluster := t.Cluster
	if len(t.Weighted) > 0 {
		cluster = pick(t.Weighted, rand.Uint64())
	}
	began := time.Now()
	up, why, err := c.p.engine.Connect(ctx, cluster, c.peer)
	if err != nil {
		c.p.c.Log.Warn("no upstream connection", "listener", l.Name, "cluster", cluster, "reason", string(why), "error", err)
		c.p.engine.LogTunnel(l, c.peer, cluster, "", began, 0, 0, why)
		reset(c.conn)
		return nil
	}
	return &way{up, cluster, began}
}

// carry carries bytes both ways to the end, first those that have been read already, and gives the way back.
func (c *connection) carry(ctx context.Context, l *config.Listener, t *config.TCP, up *way, toUp, toDown []byte) {
	defer up.Done()
	in, out, clean := splice(ctx, c.conn, up.Upstream, t.IdleTimeout, toUp, toDown)
	if !clean {
		reset(up.Conn)
		reset(c.conn)
	}
	why := reason.None
	if c.denied.Load() {
		why = reason.RBACDenied
	}
	up.Count(in, out)
	c.p.engine.LogTunnel(l, c.peer, up.cluster, up.Endpoint.Address, up.began, in, out, why)
}

// pick chooses by weight, with a random number.
func pick(all []config.WeightedCluster, random uint64) string {
	var sum uint64
	for _, w := range all {
		sum += uint64(w.Weight)
	}
	if sum == 0 {
		return ""
	}
	n := random % sum
	for _, w := range all {
		if n < uint64(w.Weight) {
			return w.Cluster
		}
		n -= uint64(w.Weight)
	}
	return all[len(all)-1].Cluster
}

// splice copies both ways until both have ended, one fails, ctx ends, or nothing moves for idle (0: no bound). Clean says
// that both sides had ended in order. What has been read already goes first.
func splice(ctx context.Context, down net.Conn, up *exchange.Upstream, idle time.Duration, toUp, toDown []byte) (in, out int64, clean bool) {
	defer context.AfterFunc(ctx, func() { _ = down.SetDeadline(past); _ = up.Conn.SetDeadline(past) })()
	watch := newIdle(idle, down, up.Conn)
	defer watch.stop()
	var wg sync.WaitGroup
	var inErr, outErr error
	wg.Go(func() { in, inErr = after(toUp, up.Conn, down, watch) })
	out, outErr = after(toDown, down, up.Conn, watch)
	wg.Wait()
	return in, out, inErr == nil && outErr == nil
}

// after is oneWay after some bytes that have been read already.
func after(first []byte, dst, src net.Conn, watch *idleWatch) (int64, error) {
	if len(first) > 0 {
		if _, err := dst.Write(first); err != nil {
			_ = dst.SetDeadline(past)
			_ = src.SetDeadline(past)
			return 0, err
		}
	}
	n, err := oneWay(dst, src, watch)
	return n + int64(len(first)), err
}

var past = time.Unix(1, 0)

const (
	// bufferSize is how much is moved at once while much comes. 16 KiB is a TLS record.
	bufferSize = 32 << 10
	// waitSize is the room in which a connection waits for something to come.
	waitSize = 2 << 10
	// calmReads are so many reads of little in a row that the larger room isn't needed any more.
	calmReads = 16
)

var buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}

// moving is the room of one direction: little while little comes.
type moving struct {
	small *[waitSize]byte
	big   *[bufferSize]byte
	calm  int
}

func (m *moving) get() []byte {
	switch {
	case m.big != nil:
		return m.big[:]
	case m.small == nil:
		m.small = new([waitSize]byte)
	}
	return m.small[:]
}

// settle goes by how much the last read gave.
func (m *moving) settle(n int) {
	switch {
	case m.big == nil && n == waitSize:
		m.big, m.calm = buffers.Get().(*[bufferSize]byte), 0
	case m.big != nil && n > waitSize:
		m.calm = 0
	case m.big != nil:
		if m.calm++; m.calm >= calmReads {
			m.drop()
		}
	}
}

func (m *moving) drop() {
	if m.big != nil {
		buffers.Put(m.big)
		m.big = nil
	}
}

// oneWay copies until the source's end and hands that on as a half close; after a failure the other way is ended too.
func oneWay(dst, src net.Conn, watch *idleWatch) (n int64, err error) {
	defer func() {
		if err != nil {
			_ = dst.SetDeadline(past)
			_ = src.SetDeadline(past)
			return
		}
		if w, ok := dst.(interface{ CloseWrite() error }); ok {
			_ = w.CloseWrite() // the other side may be gone already
		}
	}()
	var room moving
	defer room.drop()
	for {
		p := room.get()
		r, rerr := src.Read(p)
		if r > 0 {
			watch.touch()
			w, werr := dst.Write(p[:r])
			n += int64(w)
			if werr != nil {
				return n, werr
			}
		}
		room.settle(r)
		if errors.Is(rerr, io.EOF) {
			return n, nil
		}
		if rerr != nil {
			return n, rerr
		}
	}
}

// idleWatch ends both connections when nothing moved for a time.
type idleWatch struct {
	d     time.Duration
	timer *time.Timer
	moved atomic.Bool
}

func newIdle(d time.Duration, conns ...net.Conn) *idleWatch {
	w := &idleWatch{d: d}
	if d == 0 {
		return w
	}
	w.timer = time.AfterFunc(d, func() {
		if w.moved.Swap(false) {
			w.timer.Reset(d)
			return
		}
		for _, c := range conns {
			_ = c.SetDeadline(past)
		}
	})
	return w
}

func (w *idleWatch) touch() {
	if w.d != 0 {
		w.moved.Store(true)
	}
}

func (w *idleWatch) stop() {
	if w.timer != nil {
		w.timer.Stop()
	}
}
