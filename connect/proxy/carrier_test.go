// SPDX-License-Identifier: Apache-2.0

//go:build linux

package proxy

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/weftmesh/weft/connect/proxy/config"
	"github.com/weftmesh/weft/connect/proxy/mux"
	"github.com/weftmesh/weft/connect/proxy/stream"
)

// caller is another sidecar that calls the one of a bench.
type caller struct {
	*bench
	cert    tls.Certificate
	session *mux.Session
	over    chan struct{}
	err     error
}

// carriedBench serves HTTP by mutual TLS to a server that answers with the path, for a caller on a connection that carries others.
func carriedBench(t *testing.T, change func(*config.Listener)) *caller {
	t.Helper()
	b := newUndeclared(t)
	c := &caller{bench: b, cert: shown(t), over: make(chan struct{})}
	l := b.s.Listeners["l"]
	l.Detect = false
	l.Direction, l.TLS = config.Inbound, &config.ServerTLS{Require: true, Config: &tls.Config{
		Certificates: []tls.Certificate{c.cert}, ClientAuth: tls.RequireAnyClientCert, MinVersion: tls.VersionTLS13, NextProtos: []string{mux.ALPN, "http/1.1"},
	}}
	if change != nil {
		change(l)
	}
	b.upstream("api", served(new(atomic.Int64)))
	c.call()
	return c
}

// call makes a new connection.
func (c *caller) call() {
	c.t.Helper()
	conn := tls.Client(c.dialTLS(c.s.Listeners["l"].TLS.Config), &tls.Config{
		Certificates: []tls.Certificate{c.cert}, InsecureSkipVerify: true, MinVersion: tls.VersionTLS13, NextProtos: []string{mux.ALPN},
	})
	if err := conn.Handshake(); err != nil {
		c.t.Fatal(err)
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		c.t.Fatal(err)
	}
	session, over := mux.New(conn, mux.Config{}), make(chan struct{})
	c.session, c.over = session, over
	go func() {
		defer close(over)
		c.err = session.Run(context.Background())
	}()
	c.t.Cleanup(func() {
		session.Close()
		<-over
	})
}

func (c *caller) open() net.Conn {
	c.t.Helper()
	st, err := c.session.Open()
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = st.Close() })
	return st
}

func (c *caller) counts() (conns, carriers int) {
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	return len(c.p.conns), len(c.p.carriers)
}

func TestCarriedConnectionsRestAndDrain(t *testing.T) {
	c := carriedBench(t, nil)
	var all []net.Conn
	for i := range 20 {
		st := c.open()
		ask(t, st, "/"+strconv.Itoa(i))
		all = append(all, st)
	}
	if conns, carriers := c.counts(); conns != 20 || carriers != 1 {
		t.Errorf("%d connections on %d", conns, carriers)
	}
	c.resting()
	for i, st := range all {
		ask(t, st, "/again"+strconv.Itoa(i))
	}
	c.resting()
	_ = all[0].Close()
	for end := time.Now().Add(5 * time.Second); ; <-time.After(time.Millisecond) {
		if conns, _ := c.counts(); conns == 19 {
			break
		}
		if time.Now().After(end) {
			t.Fatal("a connection that is closed is kept")
		}
	}
	c.p.drainListener("l")
	for _, st := range all[1:] { // after a moment, in which they may be used a last time: what is sent then may be sent again
		if _, err := st.Read(make([]byte, 1)); !errors.Is(err, stream.ErrNotSent) {
			t.Errorf("it ends with %v", err)
		}
		_ = st.Close()
	}
	<-c.over
	if c.err != nil {
		t.Error(c.err)
	}
	if _, err := c.session.Open(); !errors.Is(err, mux.ErrGone) {
		t.Errorf("opened: %v", err)
	}
	c.gone()
}

// What isn't allowed any more is cut, and nothing new is let in by a connection that was made before.
func TestCarriedConnectionsAreDenied(t *testing.T) {
	c := carriedBench(t, nil)
	st := c.open()
	ask(t, st, "/1")
	l := *c.s.Listeners["l"]
	l.Authorize = []*config.Policies{{Allow: true}} // which lets nobody in
	c.s = &config.Snapshot{Listeners: map[string]*config.Listener{"l": &l}, Clusters: c.s.Clusters, Routes: c.s.Routes}
	c.p.apply(c.s)
	for _, st := range []net.Conn{st, c.open()} {
		_, _ = io.WriteString(st, "GET / HTTP/1.1\r\nHost: up\r\n\r\n")
		if _, err := st.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("it ends with %v", err)
		}
	}
}

// Whose certificate is revoked, or isn't trusted any more, is cut off, whatever it opens.
func TestC88_ACarrierEndsWithItsCertificate(t *testing.T) {
	var revoked atomic.Bool
	c := carriedBench(t, func(l *config.Listener) {
		l.TLS.Gone = func([]*x509.Certificate, string) (bool, string) { return revoked.Load(), "x" }
	})
	st := c.open()
	ask(t, st, "/1")
	c.p.apply(c.s)
	ask(t, st, "/2") // the control
	revoked.Store(true)
	c.p.apply(c.s)
	<-c.over
	if _, err := st.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("it ends with %v", err)
	}
	c.gone()
}

// What was trusted when the certificate was shown is what a later stream is compared with, not what is trusted when it is opened.
func TestAStreamIsAsOldAsItsCertificate(t *testing.T) {
	var mu sync.Mutex
	roots, sinces := "first", []string{}
	c := carriedBench(t, func(l *config.Listener) {
		l.TLS.Gone = func(_ []*x509.Certificate, since string) (bool, string) {
			mu.Lock()
			defer mu.Unlock()
			sinces = append(sinces, since)
			return false, roots
		}
	})
	ask(t, c.open(), "/1")
	mu.Lock()
	roots, sinces = "second", nil
	mu.Unlock()
	ask(t, c.open(), "/2")
	mu.Lock()
	defer mu.Unlock()
	if len(sinces) != 1 || sinces[0] != "first" {
		t.Errorf("compared with %q", sinces)
	}
}

// Nothing is opened by a certificate that has ended; what is open goes on.
func TestNoStreamsByAnEndedCertificate(t *testing.T) {
	c := carriedBench(t, nil)
	st := c.open()
	ask(t, st, "/1")
	c.p.mu.Lock()
	for k := range c.p.carriers {
		ended := *k.connection.peer.TLS.PeerCertificates[0]
		ended.NotAfter = time.Now().Add(-time.Second)
		k.connection.peer.TLS.PeerCertificates = []*x509.Certificate{&ended}
	}
	c.p.mu.Unlock()
	late := c.open()
	_, _ = io.WriteString(late, "GET / HTTP/1.1\r\nHost: up\r\n\r\n")
	if _, err := late.Read(make([]byte, 1)); !errors.Is(err, stream.ErrNotSent) { // so that a POST is sent again, too
		t.Errorf("it ends with %v", err)
	}
	ask(t, st, "/2")
	for end := time.Now().Add(5 * time.Second); !c.session.Leaving(); <-time.After(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the caller isn't told to come anew")
		}
	}
}

// The bound on a listener's connections counts those that are carried.
func TestBoundOnCarriedConnections(t *testing.T) {
	c := carriedBench(t, func(l *config.Listener) { l.MaxConnections = 2 })
	ask(t, c.open(), "/1")
	ask(t, c.open(), "/2")
	third := c.open()
	_, _ = io.WriteString(third, "GET / HTTP/1.1\r\nHost: up\r\n\r\n")
	if _, err := bufio.NewReader(third).ReadByte(); !errors.Is(err, stream.ErrNotSent) {
		t.Errorf("the third: %v", err)
	}
}

// So does the bound on one identity's, however many connections carry them.
func TestBoundOnOneCallersCarriedConnections(t *testing.T) {
	c := carriedBench(t, nil)
	c.p.mu.Lock()
	c.p.mostOfOne = 2
	c.p.mu.Unlock()
	ask(t, c.open(), "/1")
	c.call()
	second := c.open()
	ask(t, second, "/2")
	third := c.open()
	_, _ = io.WriteString(third, "GET / HTTP/1.1\r\nHost: up\r\n\r\n")
	if _, err := bufio.NewReader(third).ReadByte(); !errors.Is(err, stream.ErrNotSent) {
		t.Errorf("the third: %v", err)
	}
	_ = second.Close()
	for end := time.Now().Add(5 * time.Second); ; <-time.After(time.Millisecond) {
		if conns, _ := c.counts(); conns == 1 {
			break
		}
		if time.Now().After(end) {
			t.Fatal("a connection that is closed is kept")
		}
	}
	c.call() // the connection on which one was refused takes no more for a moment
	ask(t, c.open(), "/4")
}

// Heads that begin and don't end are waited for as far as there is room, over all connections of one identity: what is more is refused, so that who means
// well sends it elsewhere, and what is whole is served.
func TestHeadsThatDontEndOnCarriedConnections(t *testing.T) {
	if testing.Short() {
		t.Skip("some 40 MB")
	}
	c := carriedBench(t, func(l *config.Listener) { l.HTTP.HeaderTimeout = -1 })
	half := "GET / HTTP/1.1\r\nHost: up\r\nX: " + strings.Repeat("a", 40<<10)
	var refused atomic.Int64
	var wg sync.WaitGroup
	const begun = 200
	var all []net.Conn
	for range begun {
		st, err := c.session.Open()
		for errors.Is(err, mux.ErrFull) { // one was refused of late
			c.call()
			st, err = c.session.Open()
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(st, half); err != nil && !errors.Is(err, stream.ErrNotSent) {
			t.Fatal(err)
		}
		wg.Go(func() {
			if _, err := st.Read(make([]byte, 1)); errors.Is(err, stream.ErrNotSent) {
				refused.Add(1)
			}
		})
		all = append(all, st)
	}
	c.call()
	ask(t, c.open(), "/whole")
	for end := time.Now().Add(10 * time.Second); refused.Load() < begun/10 && time.Now().Before(end); <-time.After(time.Millisecond) {
	}
	for _, st := range all {
		_ = st.Close()
	}
	wg.Wait()
	if n := refused.Load(); n < begun/10 || n > begun/2 {
		t.Errorf("%d of %d were refused", n, begun)
	}
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	if len(c.p.shares) != 1 {
		t.Errorf("%d identities", len(c.p.shares))
	}
}
