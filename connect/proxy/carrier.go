// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"errors"
	"net"
	"time"

	"github.com/weftmesh/weft/connect/proxy/config"
	"github.com/weftmesh/weft/connect/proxy/h1"
	"github.com/weftmesh/weft/connect/proxy/lounge"
	"github.com/weftmesh/weft/connect/proxy/mux"
	"github.com/weftmesh/weft/connect/proxy/reason"
	"github.com/weftmesh/weft/internal/run"
)

// carrier is a connection of another sidecar that carries others (connect/proxy/mux). Each of these is served as one of its own, by the
// certificate that was shown for all.
type carrier struct {
	connection *connection // for what is asked of it; it is none of Proxy.conns
	session    *mux.Session
	share      *share
}

// share is what one identity has on connections that carry others.
type share struct {
	uri      string
	held     *mux.Held
	heads    h1.Heads
	carriers int // guarded by Proxy.mu, as streams
	streams  int
}

// shareLocked gives an identity's, for one more connection.
func (p *Proxy) shareLocked(uri string) *share {
	s := p.shares[uri]
	if s == nil {
		s = &share{uri: uri, held: p.held.Share()}
		p.shares[uri] = s
	}
	s.carriers++
	return s
}

// leftLocked is called when it has one connection less, or a stream.
func (p *Proxy) leftLocked(s *share) {
	if s.carriers == 0 && s.streams == 0 && p.shares[s.uri] == s {
		delete(p.shares, s.uri)
	}
}

// carry serves what a connection carries until that ends. l is the listener as it is, last as it was when the connection came.
func (p *Proxy) carry(ctx context.Context, served *run.Group, c *connection, l, last *config.Listener) {
	if bare(l, c.peer) || c.gone(l) { // the first look, for what is found later to be compared with
		c.deny(reason.RBACDenied)
		return
	}
	k := &carrier{connection: c}
	p.mu.Lock()
	k.share = p.shareLocked(c.peer.URI)
	k.session = mux.New(c.conn, mux.Config{Held: k.share.held, Yield: p.engine.Yield, Refusals: p.engine.Refusals(last.Direction), Accept: func(st *mux.Stream) {
		served.Go("connection", func(ctx context.Context) error {
			p.serveStream(ctx, served, st, k, last)
			return nil
		})
	}})
	p.carriers[k] = struct{}{}
	stopping := p.stopping
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		delete(p.carriers, k)
		k.share.carriers--
		p.leftLocked(k.share)
		p.mu.Unlock()
	}()
	if stopping || p.listener(c.listener) == nil {
		k.session.Leave()
	}
	broken := new(mux.ProtocolError)
	switch err := k.session.Run(ctx); {
	case errors.As(err, &broken):
		p.c.Log.Warn("a connection of another sidecar was closed", "listener", c.listener, "from", c.peer.Remote.String(), "peer", c.peer.URI, "error", err)
	case err != nil && ctx.Err() == nil:
		p.c.Log.Debug("connection ended", "listener", c.listener, "error", err)
	}
}

// serveStream serves one of the connections that k carries.
func (p *Proxy) serveStream(ctx context.Context, served *run.Group, st *mux.Stream, k *carrier, last *config.Listener) {
	l := p.listener(k.connection.listener)
	gone := l == nil
	if gone {
		l = last
	}
	if l.HTTP == nil || k.expired(time.Now()) { // a new connection is of another kind, or shows another certificate
		k.session.Leave()
		st.Refuse()
		return
	}
	peer := *k.connection.peer
	c := p.newConnection(served, st, k.connection.listener, &peer)
	c.share = k.share
	if since := k.connection.looked.Load(); since != nil {
		c.looked.Store(since) // what was trusted when the certificate was shown, not now
	}
	p.begins(ctx, c, l, gone, "http/1.1", nil)
}

// expired says whether the certificate that was shown has ended: what is open may go on, as with any connection.
func (k *carrier) expired(now time.Time) bool {
	t := k.connection.peer.TLS
	return t == nil || len(t.PeerCertificates) == 0 || now.After(t.PeerCertificates[0].NotAfter)
}

// leaveLocked has the carriers of a listener, or of all, take no more.
func (p *Proxy) leaveLocked(of func(listener string) bool) {
	for k := range p.carriers {
		if of(k.connection.listener) {
			k.session.Leave()
		}
	}
}

// recheckCarriersLocked gives those whose caller is let in no more.
func (p *Proxy) recheckCarriersLocked(s *config.Snapshot) (denied []*carrier) {
	for k := range p.carriers {
		c := k.connection
		if l := s.Listeners[c.listener]; l != nil && (bare(l, c.peer) || c.gone(l)) {
			denied = append(denied, k)
		}
	}
	return denied
}

// rests takes a connection on which nothing moves out of its turn; false if it can't.
func (c *connection) rests() bool {
	if st, ok := c.conn.(*mux.Stream); ok {
		return st.Rest(c.guest.Until, c.guest.Resume)
	}
	return c.p.lounge.Rest(&c.guest)
}

// wake ends its rest.
func (c *connection) wake() {
	if st, ok := c.conn.(*mux.Stream); ok {
		st.Wake()
		return
	}
	c.p.lounge.Wake(&c.guest)
}

// canRest says whether rests could be true.
func canRest(conn net.Conn) bool {
	_, ok := conn.(*mux.Stream)
	return ok || lounge.Can(conn)
}
