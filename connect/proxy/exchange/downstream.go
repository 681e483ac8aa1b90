// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weftmesh/weft/connect/proxy/config"
	"github.com/weftmesh/weft/connect/proxy/h1"
	"github.com/weftmesh/weft/connect/proxy/h2"
	"github.com/weftmesh/weft/connect/proxy/reason"
	"github.com/weftmesh/weft/connect/proxy/stream"
)

// downstream is a connection that is served.
type downstream struct {
	engine *Engine
	conn   net.Conn
	name   string        // of its listener
	first  *listenerView // as it was when the connection came
	peer   *config.Peer
	source string // who calls, for metrics and logs
	edge   *Edge  // of an inbound connection, else nil
	manner Manner
	rest   *h1.Rest // what the last turn of Serve ended with, if it did
	idle   atomic.Bool
	born   time.Time
	served atomic.Int64 // requests
	server atomic.Pointer[h2.Server]

	forwarded     sync.Once
	forwardedText string

	// An HTTP/1 connection has one context in each turn; it is hooked once and finds the exchange of the moment.
	hooked  bool
	mu      sync.Mutex // guards now and turn
	now     *exchange
	turn    uint64 // counts rests: the end of an earlier turn's context means nothing
	multied bool
	makers  *makers // of an HTTP/2 connection
}

// Drain is how far a connection is on its way out.
type Drain uint8

// A connection leaves before it closes, so that a client which is about to use an idle connection gets its answer and learns
// from that, or from GOAWAY, that it was the last; what crosses a close is lost.
const (
	Serving Drain = iota
	Leaving       // HTTP/1: the next response is the last; HTTP/2: no more streams
	Closing       // connections without a request are closed too
)

const (
	defaultIdle       = time.Hour
	defaultStreamIdle = 5 * time.Minute
	preface           = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
)

// ServeHTTP serves a downstream connection until it ends, and has closed it then: Open, Serve and Close in one, without rests.
func (e *Engine) ServeHTTP(ctx context.Context, conn net.Conn, l *config.Listener, peer *config.Peer, alpn string, drains func() Drain) error {
	d, err := e.Open(conn, l, peer, Manner{ALPN: alpn, Drains: drains})
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Serve(ctx)
}

// Manner is how a downstream connection is served.
type Manner struct {
	ALPN    string // what was agreed by TLS
	Opening []byte // what has been read already
	// Drains says how far the connection is on its way out; nil: always Serving. While it isn't, the connection ends in order. It is
	// asked with each answer, and by Engine.Drain, which is called after it began to say something else than Serving.
	Drains func() Drain
	// RestAfter, where it is positive, is how long a connection is idle until Serve gives it back to rest. Wake is called when one that
	// rests, or is about to, is to be served at once.
	RestAfter time.Duration
	Wake      func()
	// Heads bounds heads that have begun, of connections that are carried; nil: it doesn't.
	Heads *h1.Heads
}

// Downstream is a connection that is served. It is Serve's caller's, who has to Close it.
type Downstream struct{ d *downstream }

// Open begins to serve a downstream connection. TLS has been done. The listener's configuration is looked up by its name for every
// request, so that a change of routes or policies holds for open connections too; a listener that is gone is served as it was. Where
// it gives an error, the connection is closed.
func (e *Engine) Open(conn net.Conn, l *config.Listener, peer *config.Peer, m Manner) (*Downstream, error) {
	if l == nil || l.HTTP == nil {
		_ = conn.Close() // nobody serves it
		return nil, fmt.Errorf("exchange: the listener has no HTTP configuration")
	}
	if peer == nil {
		peer = &noPeer
	}
	if m.Drains == nil {
		m.Drains = func() Drain { return Serving }
	}
	d := &downstream{engine: e, conn: conn, name: l.Name, peer: peer, manner: m, source: e.config.Service, born: time.Now()}
	v := e.current()
	if d.first = v.listeners[l.Name]; d.first == nil || d.first.config.HTTP == nil {
		d.first = e.listener(&view{snapshot: v.snapshot, tables: map[*config.RouteTable]*routes{}}, l, noView)
	}
	if l.Direction == config.Inbound {
		d.source = sourceName(peer)
		d.edge = e.config.Metrics.Inbound(d.source)
		d.edge.Connection(Connected)
	}
	e.enter(d)
	return &Downstream{d}, nil
}

// Rest is what Serve gives for a connection that rests. It holds nothing but its socket, and what its protocol has to remember.
type Rest struct {
	Until time.Time // zero for no end
}

func (*Rest) Error() string { return "the connection rests" }

// Serve serves the connection until it ends, which gives nil where that was in order, or rests, which gives a *Rest: then it is to be
// called again when something has come, and at the rest's end at the latest. The end of ctx ends the connection at once.
func (d *Downstream) Serve(ctx context.Context) error {
	err := d.d.run(ctx)
	d.d.rest = nil
	var multi *h2.Rest
	switch {
	case errors.As(err, &d.d.rest):
		return &Rest{Until: d.d.rest.Until}
	case errors.As(err, &multi):
		return &Rest{Until: multi.Until}
	}
	return err
}

// Close closes the connection, and counts it as over. It is called once, when nobody is in Serve.
func (d *Downstream) Close() {
	_ = d.d.conn.Close() // as a rule it is
	d.d.engine.leave(d.d)
	if d.d.edge != nil {
		d.d.edge.Closed()
	}
}

func (d *downstream) leaving() bool { return d.manner.Drains() != Serving || d.over(0) }
func (d *downstream) closing() bool { return d.manner.Drains() == Closing || d.over(overLinger) }

// overLinger is how long an idle connection that has become too old waits for its client to learn of it.
const overLinger = time.Second

// over says whether the connection has had its time, and so long beside it, or its requests.
func (d *downstream) over(beside time.Duration) bool {
	c := d.listener(d.engine.current()).config.HTTP
	return c.MaxAge > 0 && time.Since(d.born) >= c.MaxAge+beside || c.MaxRequests > 0 && d.served.Load() >= int64(c.MaxRequests)
}

// drain is called now and then while the connection leaves.
func (d *downstream) drain() {
	if s := d.server.Load(); s != nil {
		s.Drain()
		if d.manner.Wake != nil {
			d.manner.Wake() // it drains when it is served
		}
	} else if d.closing() && d.idle.Load() {
		h1.Wake(d.conn)
		if d.manner.Wake != nil {
			d.manner.Wake()
		}
	}
}

func (d *downstream) run(ctx context.Context) error {
	c, alpn := d.first.config.HTTP, d.manner.ALPN
	if d.rest != nil {
		d.mu.Lock()
		d.hooked = false
		d.turn++
		d.mu.Unlock()
		return d.serveHTTP1(ctx, c, nil)
	}
	if s := d.server.Load(); s != nil {
		return s.Run(ctx)
	}
	codec, prefix := c.Codec, d.manner.Opening
	d.manner.Opening = nil
	switch {
	case codec == config.Auto && len(prefix) > 0:
		codec = config.HTTP1
		if n := min(len(prefix), len(preface)); string(prefix[:n]) == preface[:n] {
			codec = config.HTTP2
		}
	case codec == config.Auto:
		switch alpn {
		case "h2":
			codec = config.HTTP2
		case "http/1.1", "http/1.0":
			codec = config.HTTP1
		default:
			var err error
			if prefix, err = d.sniff(ctx, c); err != nil || len(prefix) == 0 {
				return err
			}
			codec = config.HTTP1
			if strings.HasPrefix(preface, string(prefix)) {
				codec = config.HTTP2
			}
		}
	}
	if codec == config.HTTP1 {
		return d.serveHTTP1(ctx, c, prefix)
	}
	d.multied, d.makers = true, newMakers()
	s, err := h2.NewServer(d.conn, h2.ServerConfig{
		Prefix: prefix, Limits: limitsOf(c), IdleTimeout: cmp.Or(c.IdleTimeout, defaultIdle), RestAfter: d.manner.RestAfter,
		Do: d.engine.workers.do, Yield: d.engine.Yield, Refusals: d.engine.Refusals(d.first.config.Direction),
	}, d.serve)
	if err != nil {
		return err
	}
	d.server.Store(s)
	return s.Run(ctx)
}

func (d *downstream) serveHTTP1(ctx context.Context, c *config.HTTP, prefix []byte) error {
	scheme := "http"
	if d.peer.TLS != nil {
		scheme = "https"
	}
	return h1.Serve(ctx, d.conn, h1.ServerConfig{
		Limits: limitsOf(c), Scheme: scheme, IdleTimeout: cmp.Or(c.IdleTimeout, defaultIdle), HeadTimeout: c.HeaderTimeout,
		Draining: d.leaving, Closing: d.closing, OnState: func(s h1.ConnState) { d.idle.Store(s == h1.StateIdle) }, BadRequest: d.refuse, Prefix: prefix,
		RestAfter: d.manner.RestAfter, Rest: d.rest, Heads: d.manner.Heads, Refusals: d.engine.Refusals(d.first.config.Direction),
	}, d.serve)
}

func limitsOf(c *config.HTTP) stream.Limits {
	return stream.Limits{HeadBytes: c.MaxHeadBytes, Streams: c.MaxStreams}
}

// sniff reads until the bytes can't be HTTP/2's preface any more, or are all of it. It gives none where the client closed
// before it had sent any, or stayed silent for too long.
func (d *downstream) sniff(ctx context.Context, c *config.HTTP) ([]byte, error) {
	stop := context.AfterFunc(ctx, func() { _ = d.conn.Close() })
	defer stop()
	var room [len(preface)]byte
	n := 0
	_ = d.conn.SetReadDeadline(time.Now().Add(cmp.Or(c.IdleTimeout, defaultIdle)))
	d.idle.Store(true)
	if d.closing() {
		return nil, nil
	}
	for n < len(preface) && string(room[:n]) == preface[:n] {
		m, err := d.conn.Read(room[n:])
		d.idle.Store(false)
		n += m
		if err != nil && n == 0 {
			if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, net.ErrClosed) || errors.Is(err, io.EOF) {
				return nil, context.Cause(ctx)
			}
			return nil, err
		}
		if err != nil {
			break // the codec says what is wrong
		}
		_ = d.conn.SetReadDeadline(time.Now().Add(cmp.Or(max(0, c.HeaderTimeout), 10*time.Second)))
	}
	_ = d.conn.SetReadDeadline(time.Time{})
	return append([]byte(nil), room[:n]...), nil
}

// listener is the listener's view for a request.
func (d *downstream) listener(v *view) *listenerView {
	if lv := v.listeners[d.name]; lv != nil && lv.config.HTTP != nil {
		return lv
	}
	return d.first
}

// refuse answers what the HTTP/1 codec didn't take.
func (d *downstream) refuse(err error) (*stream.ResponseHead, []byte) {
	code, status := reason.BadRequest, 400
	var pe *h1.ProtocolError
	if errors.As(err, &pe) {
		status = pe.Status
	}
	if errors.Is(err, stream.ErrTooLarge) {
		code = reason.HeaderTooLarge
	}
	h := &stream.ResponseHead{Status: status}
	h.Fields.Add("Content-Type", plainText)
	h.Fields.Add(reason.Header, string(code))
	edge := d.edge
	if edge == nil {
		edge = d.engine.config.Metrics.Outbound("")
	}
	edge.ByProxy(code)
	edge.request(plainHTTP, status, -1, 0)
	if lv := d.listener(d.engine.current()); lv.log != nil {
		d.engine.config.Logs.log(lv.log, &record{
			began: time.Now(), direction: lv.config.Direction, source: d.source, protocol: "HTTP/1.1", status: status, reason: code,
			remote: d.peer.Remote, local: d.peer.Local,
		})
	}
	return h, []byte(err.Error() + "\n")
}

// certificate is x-forwarded-client-cert's element for the peer, "" without one: the parts, and their order, are Envoy's.
func (d *downstream) certificate() string {
	d.forwarded.Do(func() {
		if d.peer.TLS == nil || len(d.peer.TLS.PeerCertificates) == 0 {
			return
		}
		c, cert := d.first.config, d.peer.TLS.PeerCertificates[0]
		var b strings.Builder
		if c.TLS != nil && c.TLS.Own != nil {
			b.WriteString("By=" + c.TLS.Own() + ";")
		}
		sum := sha256.Sum256(cert.Raw)
		b.WriteString("Hash=" + hex.EncodeToString(sum[:]))
		if c.HTTP.ClientDetails.Subject {
			b.WriteString(`;Subject="` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(cert.Subject.String()) + `"`)
		}
		if c.HTTP.ClientDetails.URI {
			for _, u := range cert.URIs {
				b.WriteString(";URI=" + u.String())
			}
		}
		if c.HTTP.ClientDetails.DNS {
			for _, n := range cert.DNSNames {
				b.WriteString(";DNS=" + n)
			}
		}
		d.forwardedText = b.String()
	})
	return d.forwardedText
}
