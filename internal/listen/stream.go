// SPDX-License-Identifier: Apache-2.0

package listen

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weftmesh/weft/internal/guard"
	"github.com/weftmesh/weft/internal/records"
)

const (
	rejectTime  = time.Second // for an answer to a connection over the cap
	rejectsMax  = 64          // answers under way; further ones are left out
	backoffMax  = time.Second // between failing accepts (no file descriptors left)
	backoffBase = 5 * time.Millisecond
)

// Listener is a net.Listener with the limits of its Spec.
type Listener struct {
	door   *Door
	spec   Spec
	limits Limits
	counts *counts
	inner  net.Listener
	open   prometheus.Gauge

	ctx     context.Context // ends with Close
	cancel  context.CancelFunc
	ready   chan net.Conn // handshake done; only with TLS
	rejects chan struct{} // one token per answer under way
	work    sync.WaitGroup
	closing sync.Mutex
	shut    bool
}

// start takes over the opened socket; with TLS it starts to accept.
func (l *Listener) start(inner net.Listener) {
	l.inner = inner
	l.open = l.door.metrics.open.WithLabelValues(l.spec.Name)
	l.ctx, l.cancel = context.WithCancel(context.Background())
	l.rejects = make(chan struct{}, rejectsMax)
	if l.spec.TLS != nil {
		l.ready = make(chan net.Conn)
		l.work.Go(l.acceptTLS)
	}
}

// Addr returns the address that was opened, with the port that was picked.
func (l *Listener) Addr() net.Addr { return l.inner.Addr() }

// Accept returns the next connection that is within the limits and, with TLS,
// has done its handshake. It blocks; after Close its error wraps net.ErrClosed.
// It rides out passing errors, such as a lack of file descriptors.
func (l *Listener) Accept() (net.Conn, error) {
	if l.spec.TLS == nil {
		c, err := l.next()
		if err != nil {
			return nil, err
		}
		l.door.metrics.accepted.WithLabelValues(l.spec.Name).Inc()
		return c, nil
	}
	select {
	case c := <-l.ready:
		l.door.metrics.accepted.WithLabelValues(l.spec.Name).Inc()
		return c, nil
	case <-l.ctx.Done():
		return nil, &net.OpError{Op: "accept", Net: l.spec.Network, Addr: l.Addr(), Err: net.ErrClosed}
	}
}

// Close stops accepting, cuts connections whose handshake isn't done, and waits
// for the listener's goroutines. Accepted connections live on. A second call
// does nothing.
func (l *Listener) Close() error {
	l.closing.Lock()
	defer l.closing.Unlock()
	l.cancel()
	err := l.shutLocked()
	l.work.Wait()
	return err
}

// Shut closes the socket and gives the listener's name back, and nothing else: handshakes under way go on, and Accept gives
// their connections. A peer whose handshake is done on its side may have sent a request already, which Close would lose.
// Finish or Close must follow.
func (l *Listener) Shut() error {
	l.closing.Lock()
	defer l.closing.Unlock()
	return l.shutLocked()
}

func (l *Listener) shutLocked() error {
	if l.shut {
		return nil
	}
	l.shut = true
	err := l.inner.Close()
	l.door.release(l.spec.Name)
	return err
}

// Finish is Close, once the handshakes under way have ended, but at most so long after. Accept must be called until it fails.
func (l *Listener) Finish(within time.Duration) error {
	err := l.Shut()
	late := time.AfterFunc(within, l.cancel)
	defer late.Stop()
	l.work.Wait()
	return errors.Join(err, l.Close())
}

// next accepts until a connection is within its address's cap.
func (l *Listener) next() (*Conn, error) {
	wait := backoffBase
	for {
		raw, err := l.inner.Accept()
		switch {
		case err == nil:
			wait = backoffBase
		case l.ctx.Err() != nil || errors.Is(err, net.ErrClosed):
			return nil, err
		default:
			l.door.log.Warn("accept failed", slog.String("listener", l.spec.Name), slog.Any("error", err))
			if !l.pause(wait) {
				return nil, net.ErrClosed
			}
			wait = min(2*wait, backoffMax)
			continue
		}
		if c := l.admit(raw); c != nil {
			return c, nil
		}
	}
}

func (l *Listener) pause(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-l.ctx.Done():
		return false
	}
}

// admit counts raw for its address, or refuses it and returns nil.
func (l *Listener) admit(raw net.Conn) *Conn {
	h, local := addressOf(raw.RemoteAddr())
	limit := l.limits.MaxUnauthenticatedPerAddr
	if local {
		limit = l.limits.MaxUnauthenticatedLoopback
	}
	if guard.Off("C77") {
		limit = 1 << 30
	}
	if l.counts.enter(h, limit) {
		l.open.Inc()
		if l.spec.TLS != nil {
			raw = records.Under(raw)
		}
		return &Conn{Wrapped: records.Wrapped{Conn: raw}, l: l, holder: h}
	}
	l.refuse(reasonAddress)
	l.reject(raw)
	return nil
}

func (l *Listener) refuse(reason string) {
	l.door.metrics.refused.WithLabelValues(l.spec.Name, reason).Inc()
}

// reject closes a connection over the cap, after an answer where there is one.
func (l *Listener) reject(raw net.Conn) {
	if l.spec.Reject == nil || l.spec.TLS != nil {
		raw.Close() //nolint:errcheck // nothing can be done about it
		return
	}
	select {
	case l.rejects <- struct{}{}:
	default:
		raw.Close() //nolint:errcheck // as above
		return
	}
	l.work.Go(func() {
		defer func() { <-l.rejects }()
		defer raw.Close()                                        //nolint:errcheck // as above
		defer context.AfterFunc(l.ctx, func() { raw.Close() })() //nolint:errcheck // as above
		if raw.SetDeadline(time.Now().Add(rejectTime)) == nil {
			l.spec.Reject(raw)
		}
	})
}

func (l *Listener) acceptTLS() {
	for {
		c, err := l.next()
		if err != nil {
			return
		}
		l.work.Go(func() { l.serve(c) })
	}
}

// handshake hands c to Accept once its peer is known, or closes it.
func (l *Listener) handshake(c *Conn) {
	cfg := l.spec.TLS()
	if cfg == nil {
		l.refuse(reasonNoTLS)
		c.Close() //nolint:errcheck // nothing can be done about it
		return
	}
	ctx, cancel := l.ctx, context.CancelFunc(func() {})
	if l.limits.HandshakeTimeout > 0 && !guard.Off("C126") && !guard.Off("C70") {
		ctx, cancel = context.WithTimeout(ctx, l.limits.HandshakeTimeout)
	}
	defer cancel()
	t := tls.Server(c, cfg)
	c.shaking = &shaking{turns: l.door.turns, ctx: ctx, of: c.holder}
	err := t.HandshakeContext(ctx)
	c.shaking.pause()
	c.shaking = nil
	if err != nil {
		l.handshakeFailed(c, err)
		return
	}
	state := t.ConnectionState()
	l.door.metrics.groups.WithLabelValues(l.spec.Name, state.CurveID.String()).Inc()
	if id := l.identity(state); id != "" {
		if err := Authenticate(t, id); err != nil {
			l.door.log.Debug("connection refused", slog.String("listener", l.spec.Name), slog.Any("error", err))
			t.Close() //nolint:errcheck // nothing can be done about it
			return
		}
	}
	select {
	case l.ready <- t:
	case <-l.ctx.Done():
		l.refuse(reasonClosing)
		t.Close() //nolint:errcheck // as above
	}
}

func (l *Listener) handshakeFailed(c *Conn, err error) {
	reason := reasonHandshake
	switch {
	case l.ctx.Err() != nil:
		reason = reasonClosing
	case errors.Is(err, errQueue):
		reason = reasonQueue
	case errors.Is(err, context.DeadlineExceeded):
		reason = reasonTimeout
	}
	l.refuse(reason)
	l.door.log.Debug("TLS handshake failed", slog.String("listener", l.spec.Name),
		slog.String("remote", c.RemoteAddr().String()), slog.Any("error", err))
	var plain tls.RecordHeaderError
	if errors.As(err, &plain) && looksLikeHTTP(plain.RecordHeader) {
		if c.SetWriteDeadline(time.Now().Add(rejectTime)) == nil {
			io.WriteString(c, plainHTTPAnswer) //nolint:errcheck // a courtesy
		}
	} else if reason == reasonHandshake {
		c.letAlertArrive()
	}
	c.Close() //nolint:errcheck // nothing can be done about it
}

// letAlertArrive gives the peer a moment to read why it was refused. A peer whose certificate is refused has sent its first
// request already (TLS 1.3); closing with that unread would be a reset, which takes the alert with it.
func (c *Conn) letAlertArrive() {
	if c.SetDeadline(time.Now().Add(alertTime)) != nil || c.CloseWrite() != nil {
		return
	}
	io.Copy(io.Discard, io.LimitReader(c.Conn, alertBytes)) //nolint:errcheck // whatever ends it, the connection is closed next
}

// How long, and for how much of what the peer has sent, a refused connection is kept so that the alert arrives.
const (
	alertTime  = 200 * time.Millisecond
	alertBytes = 64 << 10
)

func (l *Listener) identity(s tls.ConnectionState) string {
	if l.spec.Identity != nil {
		return l.spec.Identity(s)
	}
	if len(s.VerifiedChains) == 0 {
		return ""
	}
	leaf := s.PeerCertificates[0]
	if len(leaf.URIs) > 0 {
		return leaf.URIs[0].String()
	}
	return leaf.Subject.String()
}
