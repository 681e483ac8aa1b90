// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weftmesh/weft/connect/proxy/config"
	"github.com/weftmesh/weft/connect/proxy/opening"
)

// How long a client may be silent before the service is connected to, which might be the one that speaks first. Nothing
// else waits: whoever speaks first after that is heard at once.
const (
	unlearntWait = 50 * time.Millisecond
	httpWait     = time.Second // where clients have spoken HTTP so far
)

// differ is how many connections in a row must differ from what was learnt before something else is.
const differ = 3

// learner knows what the connections of a listener speak. Its methods may be called by any goroutine.
type learner struct {
	direction config.Direction

	mu      sync.Mutex // guards what follows
	verdict opening.Protocol
	other   int // connections in a row that differed
	seen    [opening.Protocols]uint64
}

// saw notes a connection. A server that spoke first changes the verdict at once: it is what must not be waited for.
func (l *learner) saw(p opening.Protocol) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seen[p]++
	switch {
	case p == l.verdict:
		l.other = 0
		return
	case p == opening.Unknown:
		return
	}
	l.other++
	if l.verdict == opening.Unknown || p == opening.ServerFirst || l.other >= differ {
		l.verdict, l.other = p, 0
	}
}

// wait is how long a client's first bytes are waited for.
func (l *learner) wait() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.verdict == opening.Unknown:
		return unlearntWait
	case l.verdict.HTTP():
		return httpWait
	}
	return 0
}

func (l *learner) learnt() opening.Protocol {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.verdict
}

// learner is what is known of a listener; it stays when the listener changes.
func (p *Proxy) learner(l *config.Listener) *learner {
	p.mu.Lock()
	defer p.mu.Unlock()
	known := p.learners[l.Name]
	if known == nil {
		known = &learner{direction: l.Direction}
		p.learners[l.Name] = known
	}
	return known
}

// firstRead is one read's room: a request's head as a rule.
const firstRead = 4 << 10

// detect serves a connection whose protocol nobody declared. One read of the client says what it is, unless the server speaks
// first. The way to the service is made without the client's bytes only when they don't come in time; if they are HTTP
// after all, it is given up.
func (c *connection) detect(ctx context.Context, l *config.Listener) (rests bool) {
	stop := context.AfterFunc(ctx, func() { _ = c.conn.SetReadDeadline(past) })
	defer stop()
	known := c.p.learner(l)
	buf := make([]byte, firstRead)
	n, err := 0, os.ErrDeadlineExceeded
	if wait := known.wait(); wait > 0 {
		_ = c.conn.SetReadDeadline(time.Now().Add(wait))
		n, err = c.conn.Read(buf)
	}
	if n == 0 && errors.Is(err, os.ErrDeadlineExceeded) {
		return ctx.Err() == nil && c.race(ctx, l, known, buf)
	}
	_ = c.conn.SetReadDeadline(time.Time{})
	if n == 0 { // it has ended; what the service says to that is its affair
		return c.carryTo(ctx, l, l.TCP, nil)
	}
	return c.opened(ctx, l, known, buf[:n], nil)
}

// opened goes on with what the client has said. Up is the way to the service where there is one already.
func (c *connection) opened(ctx context.Context, l *config.Listener, known *learner, first []byte, up *way) (rests bool) {
	spoken := opening.Of(first)
	known.saw(spoken)
	switch {
	case !spoken.HTTP() && up == nil:
		return c.carryTo(ctx, l, l.TCP, first)
	case !spoken.HTTP():
		return c.carry(ctx, l, l.TCP, up, first, nil)
	case up != nil:
		up.Done()
	}
	return c.openHTTP(ctx, l, "", first)
}

// race connects to the service, and hears who speaks first.
func (c *connection) race(ctx context.Context, l *config.Listener, known *learner, buf []byte) (rests bool) {
	up := c.way(ctx, l, l.TCP)
	if up == nil {
		return false
	}
	defer context.AfterFunc(ctx, func() { _ = up.Conn.SetReadDeadline(past) })()
	if !await(ctx, c.conn, time.Time{}) {
		up.Done()
		return false
	}
	server := make([]byte, firstRead)
	var m int
	var serverErr error
	var wg sync.WaitGroup
	wg.Go(func() {
		m, serverErr = up.Conn.Read(server)
		_ = c.conn.SetReadDeadline(past)
	})
	n, err := c.conn.Read(buf)
	_ = up.Conn.SetReadDeadline(past)
	wg.Wait()
	silent := m == 0 && errors.Is(serverErr, os.ErrDeadlineExceeded)
	if !await(ctx, c.conn, time.Time{}) || !await(ctx, up.Conn, time.Time{}) {
		up.Done()
		return false
	}
	switch {
	case m == 0 && silent && n > 0:
		return c.opened(ctx, l, known, buf[:n], up)
	case m > 0 && (n == 0 || errors.Is(err, os.ErrDeadlineExceeded)):
		known.saw(opening.ServerFirst)
	case n > 0:
		known.saw(opening.Of(buf[:n]))
	}
	return c.carry(ctx, l, l.TCP, up, buf[:n], server[:m])
}

// await sets a connection's deadline for reading; false if ctx, whose end sets one too, has ended.
func await(ctx context.Context, conn net.Conn, t time.Time) bool {
	_ = conn.SetReadDeadline(t)
	return ctx.Err() == nil
}

// detection exports what was learnt.
type detection struct {
	p           *Proxy
	verdict     *prometheus.Desc
	connections *prometheus.Desc
}

func newDetection(p *Proxy, labels prometheus.Labels) *detection {
	return &detection{
		p: p,
		verdict: prometheus.NewDesc("weft_proxy_detected_protocol",
			"1 for what a listener without a declared protocol was found to speak.", []string{"listener", "direction", "protocol"}, labels),
		connections: prometheus.NewDesc("weft_proxy_detected_connections_total",
			"Connections of a listener without a declared protocol, by what they spoke.", []string{"listener", "direction", "protocol"}, labels),
	}
}

func (d *detection) Describe(ch chan<- *prometheus.Desc) {
	ch <- d.verdict
	ch <- d.connections
}

func (d *detection) Collect(ch chan<- prometheus.Metric) {
	d.p.mu.Lock()
	defer d.p.mu.Unlock()
	for name, l := range d.p.learners {
		l.mu.Lock()
		ch <- prometheus.MustNewConstMetric(d.verdict, prometheus.GaugeValue, 1, name, l.direction.String(), l.verdict.String())
		for p, n := range l.seen {
			if n > 0 {
				ch <- prometheus.MustNewConstMetric(d.connections, prometheus.CounterValue, float64(n), name, l.direction.String(), opening.Protocol(p).String())
			}
		}
		l.mu.Unlock()
	}
}
