// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weftmesh/weft/connect/proxy/config"
	"github.com/weftmesh/weft/connect/proxy/mux"
	"github.com/weftmesh/weft/connect/proxy/reason"
	"github.com/weftmesh/weft/internal/listen"
)

// carrying is another sidecar: it takes connections that carry others, and plain HTTP/1.1 too.
type carrying struct {
	addr     string
	accepted atomic.Int64 // connections
	streams  chan net.Conn
	over     chan struct{}
	closes   atomic.Bool // connections are closed as soon as they are there
	refuses  atomic.Bool // streams are
	end      func()
	mu       sync.Mutex // guards sessions
	sessions []*mux.Session
}

// carried is the side of net/http's server that takes streams.
type carried struct {
	net.Listener
	s *carrying
}

func (c carried) Accept() (net.Conn, error) {
	select {
	case st := <-c.s.streams:
		return st, nil
	case <-c.s.over:
		return nil, net.ErrClosed
	}
}

func (c carried) Close() error {
	c.s.end()
	return c.Listener.Close()
}

func newCarrying(t *testing.T, cert tls.Certificate, verdict error, h http.Handler, alpn ...string) *carrying {
	t.Helper()
	door, err := listen.New(listen.Config{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	conf := &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAnyClientCert, NextProtos: alpn,
		VerifyPeerCertificate: func([][]byte, [][]*x509.Certificate) error { return verdict },
	}
	l, err := door.Stream(t.Context(), listen.Spec{Name: "u", Network: "tcp", Address: "127.0.0.1:0", TLS: func() *tls.Config { return conf }})
	if err != nil {
		t.Fatal(err)
	}
	s := &carrying{addr: l.Addr().String(), streams: make(chan net.Conn, 1000), over: make(chan struct{})}
	s.end = sync.OnceFunc(func() { close(s.over) })
	serveOn(t, carried{l, s}, h)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			s.accepted.Add(1)
			if conn.(*tls.Conn).ConnectionState().NegotiatedProtocol != mux.ALPN {
				s.streams <- conn
				continue
			}
			if s.closes.Load() {
				_ = conn.Close()
				continue
			}
			session := mux.New(conn, mux.Config{Accept: func(st *mux.Stream) {
				if s.refuses.Load() {
					st.Refuse()
					return
				}
				s.streams <- st
			}})
			s.mu.Lock()
			s.sessions = append(s.sessions, session)
			s.mu.Unlock()
			wg.Go(func() { _ = session.Run(ctx) })
		}
	})
	t.Cleanup(func() {
		cancel()
		_ = l.Close()
		wg.Wait()
	})
	return s
}

// each calls f with every session.
func (s *carrying) each(f func(*mux.Session)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, session := range s.sessions {
		f(session)
	}
}

// eventually waits for something that comes by itself.
func eventually(t *testing.T, done func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !done(); <-time.After(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it didn't come")
		}
	}
}

// mutual has the cluster speak mutual TLS.
func mutual(cert tls.Certificate, id string) func(*config.Snapshot) {
	return func(s *config.Snapshot) {
		c := *s.Clusters["api"]
		c.ConnectTimeout = 20 * time.Second // handshakes are slow where the race detector looks at many
		c.TLS = &config.ClientTLS{Identity: id, Config: &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, Certificates: []tls.Certificate{cert}}}
		s.Clusters["api"] = &c
	}
}

func wants(t *testing.T, c *http.Client, url, want string) {
	t.Helper()
	resp, err := c.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	if got := body(t, resp); resp.StatusCode != 200 || want != "" && got != want {
		t.Fatalf("%s: %q", resp.Status, got)
	}
}

// Many clients at once share one connection; a sidecar that knows nothing of that gets one for each.
func TestConnectionsAreCarried(t *testing.T) {
	for name, c := range map[string]struct {
		alpn []string
		most int64
		far  int // of the sidecar's view: how many connections there are for HTTP
	}{
		"weft's":   {[]string{mux.ALPN, "http/1.1"}, 1, 20},
		"another":  {[]string{"http/1.1"}, 20, 20},
		"no names": {nil, 20, 20},
	} {
		t.Run(name, func(t *testing.T) {
			cert := selfSigned(t)
			var under sync.WaitGroup
			under.Add(20)
			s := newCarrying(t, cert, nil, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/together" {
					under.Done()
					under.Wait() // until all are here
				}
				_, _ = io.WriteString(w, r.Proto)
			}), c.alpn...)
			r := newRig(t, mutual(cert, "i"), s.addr)
			var wg sync.WaitGroup
			for range 20 {
				wg.Go(func() {
					cl := client(t, 1)
					wants(t, cl, r.url("/together"), "HTTP/1.1")
					wants(t, cl, r.url("/again"), "HTTP/1.1")
				})
			}
			wg.Wait()
			if n := s.accepted.Load(); n > c.most || n < 1 {
				t.Errorf("%d connections", n)
			}
			if n := r.e.current().clusters["api"].state.connections.Load(); n < 1 || n > 20 {
				t.Errorf("%d connections count", n)
			}
		})
	}
}

// A connection that ends, or leaves, is replaced; what is repeated is only what may be.
func TestACarrierEnds(t *testing.T) {
	cert := selfSigned(t)
	var seen atomic.Int64
	hold := make(chan struct{})
	s := newCarrying(t, cert, nil, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen.Add(1)
		if r.URL.Path == "/hold" {
			<-hold
		}
		_, _ = io.WriteString(w, "ok")
	}), mux.ALPN, "http/1.1")
	r := newRig(t, mutual(cert, "i"), s.addr)
	cl := client(t, 1)
	wants(t, cl, r.url("/"), "ok")

	// It leaves: what is under way is answered, what comes goes elsewhere.
	held := make(chan error, 1)
	go func() {
		resp, err := client(t, 1).Get(r.url("/hold"))
		if err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode != 200 {
				err = errors.New(resp.Status)
			}
		}
		held <- err
	}()
	eventually(t, func() bool { return seen.Load() == 2 })
	s.each(func(session *mux.Session) { session.Leave() })
	eventually(t, func() bool {
		wants(t, cl, r.url("/"), "ok")
		return s.accepted.Load() == 2
	})
	close(hold)
	if err := <-held; err != nil {
		t.Errorf("what was under way: %v", err)
	}
	h := r.e.current().clusters["api"].endpoints[0].host
	eventually(t, func() bool { // what was answered isn't kept on it, so it ends
		h.mu.Lock()
		defer h.mu.Unlock()
		return len(h.carriers.all) == 1
	})

	// It breaks while idle: nobody notices.
	s.each(func(session *mux.Session) { session.Close() })
	resp, err := cl.Post(r.url("/"), "text/plain", strings.NewReader("once"))
	if err != nil {
		t.Fatal(err)
	}
	if got := body(t, resp); resp.StatusCode != 200 && resp.Header.Get(reason.Header) != string(reason.UpstreamReset) {
		t.Errorf("%s: %q", resp.Status, got) // it may have been sent before the end was heard of
	}
	wants(t, cl, r.url("/"), "ok")
}

// A request that was under way when the connection broke is sent again only if it may be.
func TestACarrierBreaksUnderRequests(t *testing.T) {
	cert := selfSigned(t)
	var s *carrying
	var tries [2]atomic.Int64
	s = newCarrying(t, cert, nil, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := &tries[0]
		if r.Method == "POST" {
			n = &tries[1]
		}
		if n.Add(1) == 1 {
			s.each(func(session *mux.Session) { session.Close() })
		}
		_, _ = io.WriteString(w, "ok")
	}), mux.ALPN)
	r := newRig(t, mutual(cert, "i"), s.addr)
	wants(t, client(t, 1), r.url("/"), "ok")
	if n := tries[0].Load(); n != 2 {
		t.Errorf("GET was sent %d times", n)
	}
	resp, err := client(t, 1).Post(r.url("/"), "text/plain", strings.NewReader("once"))
	if err != nil {
		t.Fatal(err)
	}
	if _ = body(t, resp); resp.StatusCode != 503 || tries[1].Load() != 1 {
		t.Errorf("POST was sent %d times: %s", tries[1].Load(), resp.Status)
	}
}

// As TestARefusedCertificateLosesNoRequest.
func TestARefusedCertificateOfACarrier(t *testing.T) {
	cert := selfSigned(t)
	ok := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	no := newCarrying(t, cert, errors.New("a root that isn't known here"), ok, mux.ALPN)
	post := func(r *rig) *http.Response {
		t.Helper()
		resp, err := client(t, 1).Post(r.url("/"), "text/plain", io.MultiReader(strings.NewReader("once")))
		if err != nil {
			t.Fatal(err)
		}
		_ = body(t, resp)
		return resp
	}
	r := newRig(t, mutual(cert, "i"), no.addr, newCarrying(t, cert, nil, ok, mux.ALPN).addr)
	for i := range 20 {
		if resp := post(r); resp.StatusCode != 200 {
			t.Errorf("request %d: %s %s", i, resp.Status, resp.Header.Get(reason.Header))
		}
	}
	// What the server says before it closes may be lost with a reset by what was sent meanwhile.
	switch resp := post(newRig(t, mutual(cert, "i"), no.addr)); reason.Code(resp.Header.Get(reason.Header)) {
	case reason.UpstreamTLSFailure, reason.UpstreamReset:
		if resp.StatusCode != 503 {
			t.Errorf("no other endpoint: %s", resp.Status)
		}
	default:
		t.Errorf("no other endpoint: %s %s", resp.Status, resp.Header.Get(reason.Header))
	}
}

// A sidecar that ends each connection at once isn't called without end.
func TestACarrierThatNeverLasts(t *testing.T) {
	cert := selfSigned(t)
	s := newCarrying(t, cert, nil, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), mux.ALPN)
	s.closes.Store(true)
	r := newRig(t, mutual(cert, "i"), s.addr)
	resp, err := client(t, 1).Get(r.url("/"))
	if err != nil {
		t.Fatal(err)
	}
	if _ = body(t, resp); resp.StatusCode != 503 {
		t.Errorf("%s", resp.Status)
	}
	if n := s.accepted.Load(); n > 3*(1+freeTries) {
		t.Errorf("%d connections for one request", n)
	}
	s.closes.Store(false)
	wants(t, client(t, 1), r.url("/"), "")
}

// A sidecar that takes connections and refuses all that they would carry doesn't get more and more of them.
func TestACarrierThatRefusesAll(t *testing.T) {
	cert := selfSigned(t)
	s := newCarrying(t, cert, nil, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), mux.ALPN, "http/1.1")
	s.refuses.Store(true)
	r := newRig(t, mutual(cert, "i"), s.addr)
	cl := client(t, 1)
	for range 2 * mostCarriers {
		resp, err := cl.Get(r.url("/"))
		if err != nil {
			t.Fatal(err)
		}
		_ = body(t, resp)
	}
	h := r.e.current().clusters["api"].endpoints[0].host
	h.mu.Lock()
	n := len(h.carriers.all)
	h.mu.Unlock()
	if n > mostCarriers {
		t.Errorf("%d connections are kept", n)
	}
	// One that refused more than a second ago is asked again, so that a slow machine may be asked for more requests until all have refused of late: then it
	// goes by a connection of its own.
	eventually(t, func() bool {
		resp, err := cl.Get(r.url("/"))
		if err != nil {
			t.Fatal(err)
		}
		return body(t, resp) == "" && resp.StatusCode == 200
	})
}

// A new certificate is shown by a new connection, and the one before ends when nothing is on it.
func TestACarrierEndsWithItsIdentity(t *testing.T) {
	cert := selfSigned(t)
	s := newCarrying(t, cert, nil, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, s0) }), mux.ALPN)
	r := newRig(t, mutual(cert, "i"), s.addr)
	cl := client(t, 1)
	wants(t, cl, r.url("/"), s0)
	r.put(mutual(cert, "another"))
	wants(t, cl, r.url("/"), s0)
	if n := s.accepted.Load(); n != 2 {
		t.Errorf("%d connections", n)
	}
	v := r.e.current().clusters["api"]
	eventually(t, func() bool {
		h := v.endpoints[0].host
		h.mu.Lock()
		defer h.mu.Unlock()
		return len(h.carriers.all) == 1 && h.carriers.all[0].identity == "another"
	})
}

const s0 = "ok"

// The limit on connections counts those that are carried.
func TestLimitOnCarriedConnections(t *testing.T) {
	cert := selfSigned(t)
	hold := make(chan struct{})
	var under atomic.Int64
	s := newCarrying(t, cert, nil, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		under.Add(1)
		<-hold
	}), mux.ALPN)
	r := newRig(t, func(s *config.Snapshot) {
		mutual(cert, "i")(s)
		s.Clusters["api"].Limits.Connections, s.Clusters["api"].Limits.Pending = 2, 1
	}, s.addr)
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() { wants(t, client(t, 1), r.url("/"), "") })
	}
	eventually(t, func() bool { return under.Load() == 2 })
	wg.Go(func() { wants(t, client(t, 1), r.url("/"), "") })
	state := r.e.current().clusters["api"].state
	eventually(t, func() bool { return state.pending.Load() == 1 })
	resp, err := client(t, 1).Get(r.url("/"))
	if err != nil {
		t.Fatal(err)
	}
	if _ = body(t, resp); resp.StatusCode != 503 || resp.Header.Get(reason.Header) != string(reason.UpstreamOverflow) {
		t.Errorf("past the limit: %s %s", resp.Status, resp.Header.Get(reason.Header))
	}
	close(hold)
	wg.Wait()
}

// Where much is moved at a time connections become ones of their own, and carried ones again when it is little.
func TestMuchMovesOnConnectionsOfItsOwn(t *testing.T) {
	cert := selfSigned(t)
	s := newCarrying(t, cert, nil, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := 10
		if r.URL.Path == "/much" {
			n = 1 << 20
		}
		_, _ = w.Write(make([]byte, n))
	}), mux.ALPN, "http/1.1")
	r := newRig(t, mutual(cert, "i"), s.addr)
	cl := client(t, 1)
	pool := func() (carried, own int) {
		h := r.e.current().clusters["api"].endpoints[0].host
		h.mu.Lock()
		defer h.mu.Unlock()
		for _, s := range h.idle {
			if _, ok := s.client.Conn().(*mux.Stream); ok {
				carried++
			} else {
				own++
			}
		}
		return carried, own
	}
	wants(t, cl, r.url("/little"), "")
	wants(t, cl, r.url("/much"), "")
	eventually(t, func() bool { carried, own := pool(); return carried == 1 && own == 0 }) // one doesn't make it so
	for range 10 {
		wants(t, cl, r.url("/much"), "")
	}
	eventually(t, func() bool { carried, own := pool(); return carried == 0 && own == 1 })
	for range 5 * averageOver {
		wants(t, cl, r.url("/little"), "")
	}
	eventually(t, func() bool { carried, own := pool(); return carried == 1 && own == 0 })
	if n := s.accepted.Load(); n != 2 {
		t.Errorf("%d connections", n)
	}
}
