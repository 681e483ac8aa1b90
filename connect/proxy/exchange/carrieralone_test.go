// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/weftmesh/weft/connect/proxy/config"
	"github.com/weftmesh/weft/connect/proxy/h1"
	"github.com/weftmesh/weft/connect/proxy/mux"
)

// Where a sidecar that carried connections is replaced by one that doesn't, as when a version is taken back, connections of their own are used again.
func TestAHostThatCarriesNoMore(t *testing.T) {
	h := new(host)
	near, far := net.Pipe()
	defer func() { _, _ = near.Close(), far.Close() }()
	own := &single{client: h1.NewClient(near, h1.ClientConfig{})}
	suits := func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return h.carriers.suitsLocked(own, 10)
	}
	h.made(nil, new(carrier))
	if suits() {
		t.Error("a connection of its own is kept where others are carried")
	}
	h.made(&making{done: make(chan struct{}), err: errors.New("no answer")}, nil)
	if suits() {
		t.Error("that one couldn't be made says something of the host")
	}
	h.made(&making{done: make(chan struct{})}, nil)
	if !suits() {
		t.Error("a connection of its own isn't used again, though the host carries none")
	}
}

// A connection that was made for one who has gone meanwhile is closed, where it carries no others.
func TestNobodyWaitsForAConnection(t *testing.T) {
	cert := selfSigned(t)
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}, NextProtos: []string{"http/1.1"}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	ended := make(chan error, 1)
	go func() {
		conn, err := l.Accept()
		if err == nil {
			_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
			_, err = conn.Read(make([]byte, 1))
			_ = conn.Close()
		}
		ended <- err
	}()
	shows, goesOn := make(chan struct{}), make(chan struct{})
	r := newRig(t, func(s *config.Snapshot) {
		mutual(cert, "i")(s)
		s.Clusters["api"].TLS.Config.VerifyPeerCertificate = func([][]byte, [][]*x509.Certificate) error {
			close(shows)
			<-goesOn
			return nil
		}
	}, l.Addr().String())
	ctx, cancel := context.WithCancel(t.Context())
	v := r.e.current().clusters["api"]
	gone := make(chan error)
	go func() {
		_, _, err := v.carried(ctx, v.endpoints[0])
		gone <- err
	}()
	<-shows
	cancel()
	if err := <-gone; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	close(goesOn)
	if err := <-ended; errors.As(err, new(net.Error)) {
		t.Errorf("the connection is still there: %v", err)
	}
}

// Clients that take back what they asked for have further connections carry theirs, and none is cut.
func TestClientsThatLeaveHaveFurtherCarriers(t *testing.T) {
	const clients, each = 100, 10
	var leaves sync.Map // by request: what has its client go away
	cert := selfSigned(t)
	s := newCarrying(t, cert, nil, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if leave, ok := leaves.Load(r.URL.Path); ok {
			leave.(context.CancelFunc)()
			<-r.Context().Done()
			panic(http.ErrAbortHandler)
		}
	}), mux.ALPN)
	r := newRig(t, mutual(cert, "i"), s.addr)
	wants(t, client(t, 1), r.url("/"), "")
	hang := client(t, 1)
	begin := time.Now()
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() {
			for j := range each {
				path := fmt.Sprintf("/%d/%d", i, j)
				ctx, cancel := context.WithCancel(t.Context())
				leaves.Store(path, cancel)
				req, _ := http.NewRequestWithContext(ctx, http.MethodGet, r.url(path), nil)
				if resp, err := hang.Do(req); err == nil {
					t.Error(resp.Status)
					_ = resp.Body.Close()
				}
				cancel()
			}
		})
	}
	wg.Wait()
	few := clients*each < 448+90*time.Since(begin).Seconds() // what one may have taken back: on a slow machine that is enough for all
	eventually(t, func() bool { return r.e.current().clusters["api"].state.connections.Load() <= 1 })
	n := s.accepted.Load()
	s.each(func(session *mux.Session) {
		if session.Leaving() {
			t.Error("one of the connections was cut")
		}
	})
	if n < 2 && !few || n > 6 {
		t.Errorf("%d connections", n)
	}
	wants(t, client(t, 1), r.url("/"), "")
}
