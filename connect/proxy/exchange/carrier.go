// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync/atomic"
	"time"

	"github.com/weftmesh/weft/connect/proxy/mux"
	"github.com/weftmesh/weft/connect/proxy/reason"
)

// carriers are the connections to a host that carry others (connect/proxy/mux), where a sidecar of weft's is there. It is guarded by pool.mu.
type carriers struct {
	all    []*carrier
	making *making
	alone  bool // the host was found to carry none: each connection is one of its own

	// What exchanges move, on the average.
	carries bool // it was found to carry some
	size    int64
	bulk    bool
}

// Who moves much at a time is better off with connections of their own: what a carried one saves is system calls for each exchange, and what it
// costs is two more copies of each byte, and that the connections of one host are encrypted one after the other. What has to be converted is when it was
// used: one of its own costs a handshake, so only what has just moved much is.
const (
	muchMoved   = 64 << 10
	littleMoved = 16 << 10
	averageOver = 64 // exchanges
)

// suitsLocked notes that an exchange has moved n bytes, and says whether its connection is of the kind that suits the host.
func (c *carriers) suitsLocked(s *single, n int64) bool {
	c.size += (n - c.size) / averageOver
	if c.size > muchMoved {
		c.bulk = true
	} else if c.size < littleMoved {
		c.bulk = false
	}
	if _, carried := s.client.Conn().(*mux.Stream); carried {
		return !c.bulk || n < muchMoved
	}
	return c.bulk || !c.carries
}

// mostCarriers is how many there are for one host, beside those that leave: each carries hundreds, and has some more of them taken back each second. What is more goes by connections
// of its own, whose number is the requests': a host that takes connections and refuses all that they would carry doesn't get one for each.
const mostCarriers = 64

// carrier is one of them.
type carrier struct {
	session  *mux.Session
	identity string
	born     time.Time
}

// making is a connection in the making, for which all wait who want one: only the handshake shows whether it carries others.
type making struct {
	done     chan struct{}
	identity string
	waiting  atomic.Int32             // who wants it; nobody comes to it when host.carriers.making is another
	conn     atomic.Pointer[tls.Conn] // it carries none: whoever takes it has it
	carrier  *carrier                 // else; set before done is closed
	code     reason.Code              // set before done is closed, with err
	err      error
}

// carried gives a connection to ep that may be carried by another. Where the one that was made for that takes none, as the other side refuses the
// certificate or is about to stop, it is one of its own, and what is wrong shows there.
func (v *clusterView) carried(ctx context.Context, ep *endpoint) (net.Conn, reason.Code, error) {
	for gone := 0; gone < 2; {
		st, m, alone := ep.stream(v)
		switch {
		case st != nil:
			return st, reason.None, nil
		case alone != raw:
			return v.own(ctx, ep, alone)
		case m == nil:
			m = v.make(ep)
		}
		select {
		case <-m.done:
		case <-ctx.Done():
			m.waiting.Add(-1)
			m.unwanted()
			return nil, reason.UpstreamConnectFailure, context.Cause(ctx)
		}
		if m.err != nil {
			return nil, m.code, m.err
		}
		if conn := m.conn.Swap(nil); conn != nil {
			return conn, reason.None, nil
		}
		if m.carrier == nil {
			continue // somebody else has it, and it is known that each is alone
		}
		switch st, err := m.carrier.session.Open(); {
		case err == nil:
			return st, reason.None, nil
		case !errors.Is(err, mux.ErrFull):
			gone++
		}
	}
	return v.own(ctx, ep, http1Own)
}

// own gives a connection of its own, unless another sidecar is there now, which carries it.
func (v *clusterView) own(ctx context.Context, ep *endpoint, w wire) (net.Conn, reason.Code, error) {
	conn, code, err := v.secure(ctx, ep, w)
	switch {
	case err != nil:
		return nil, code, err
	case conn.ConnectionState().NegotiatedProtocol != mux.ALPN:
		return conn, reason.None, nil
	}
	if st, err := v.carry(ep, conn, nil).session.Open(); err == nil {
		return st, reason.None, nil
	}
	return v.own(ctx, ep, http1Own)
}

// stream opens one on a connection that there is; else it gives the connection in the making, or says how each is to be made.
func (h *host) stream(v *clusterView) (st *mux.Stream, m *making, alone wire) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.carriers.bulk || !v.state.valid(h, v.identity) { // a request that began before the certificate was renewed goes on alone
		return nil, nil, http1Own
	}
	n := 0
	for _, c := range h.carriers.all {
		if c.identity != v.identity {
			continue
		}
		if !v.fresh(c.born, time.Time{}) {
			c.session.Leave()
		}
		if !c.session.Leaving() {
			n++
		}
		if st, err := c.session.Open(); err == nil {
			return st, nil, raw
		}
	}
	if m := h.carriers.making; m != nil && m.identity == v.identity {
		m.waiting.Add(1)
		return nil, m, raw
	}
	switch {
	case h.carriers.alone:
		return nil, nil, http1
	case n >= mostCarriers:
		return nil, nil, http1Own
	}
	return nil, nil, raw
}

// make has a connection made that may carry others.
func (v *clusterView) make(ep *endpoint) *making {
	h, m := ep.host, &making{done: make(chan struct{}), identity: v.identity}
	h.mu.Lock()
	if other := h.carriers.making; other != nil && other.identity == v.identity {
		other.waiting.Add(1)
		h.mu.Unlock()
		return other
	}
	m.waiting.Add(1)
	h.carriers.making = m
	h.mu.Unlock()
	v.state.engine.spawn(func(ctx context.Context) {
		within, cancel := context.WithTimeout(ctx, v.connectTimeout())
		conn, code, err := v.secure(within, ep, http1)
		cancel()
		switch {
		case err != nil:
			m.code, m.err = code, err
		case conn.ConnectionState().NegotiatedProtocol == mux.ALPN:
			v.carry(ep, conn, m)
			return
		default:
			m.conn.Store(conn)
		}
		h.made(m, nil)
		m.unwanted()
	}, func() {
		m.code, m.err = reason.Draining, errStopped
		h.made(m, nil)
	})
	return m
}

// unwanted closes a connection that carries no others, where all who wanted it have gone.
func (m *making) unwanted() {
	if m.waiting.Load() > 0 {
		return
	}
	if conn := m.conn.Swap(nil); conn != nil {
		_ = conn.Close() // nothing was sent on it
	}
}

// made notes what became of a connection in the making (nil: nobody waits for it, and it became c).
func (h *host) made(m *making, c *carrier) {
	h.mu.Lock()
	if c != nil {
		h.carriers.all = append(h.carriers.all, c)
	}
	if c != nil || m.err == nil { // else nothing was learned
		h.carriers.carries = c != nil
	}
	h.carriers.alone = c == nil && m.err == nil
	if m != nil && h.carriers.making == m {
		h.carriers.making = nil
	}
	h.mu.Unlock()
	if m != nil {
		m.carrier = c
		close(m.done)
	}
}

// carry has a connection carry others until it ends.
func (v *clusterView) carry(ep *endpoint, conn *tls.Conn, m *making) *carrier {
	h := ep.host
	c := &carrier{identity: v.identity, born: time.Now()}
	c.session = mux.New(conn, mux.Config{Silence: v.connectTimeout(), Held: v.state.held, Left: func() { h.leave(c) }})
	run := func(ctx context.Context) {
		err := c.session.Run(ctx)
		h.mu.Lock()
		for i, o := range h.carriers.all {
			if o == c {
				h.carriers.all = append(h.carriers.all[:i:i], h.carriers.all[i+1:]...)
				break
			}
		}
		h.mu.Unlock()
		log, broken := v.state.engine.config.Log, new(mux.ProtocolError)
		switch {
		case errors.As(err, &broken):
			log.Warn("a connection to another sidecar was closed", "cluster", v.config.Name, "endpoint", ep.config.Address, "error", err)
		case err != nil && ctx.Err() == nil:
			log.Debug("upstream connection ended", "cluster", v.config.Name, "endpoint", ep.config.Address, "error", err)
		}
	}
	h.made(m, c)
	v.state.engine.spawn(run, c.session.Close)
	if !v.state.valid(h, v.identity) {
		c.session.Leave()
	}
	return c
}

// isLeft says whether a connection is carried by one that takes no more.
func (s *single) isLeft() bool {
	st, ok := s.client.Conn().(*mux.Stream)
	return ok && st.Session().Leaving()
}

// leave lets go of the idle connections that a carrier carries which takes no more.
func (h *host) leave(c *carrier) {
	h.end(func(s *single) bool {
		st, ok := s.client.Conn().(*mux.Stream)
		return !ok || st.Session() != c.session
	})
}
