// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	xh2 "golang.org/x/net/http2"

	"github.com/weftmesh/weft/connect/proxy/config"
	"github.com/weftmesh/weft/connect/proxy/reason"
)

// crashing is a server of HTTP/2 in virtual time that closes connections before its SETTINGS as long as it is down.
type crashing struct {
	down     atomic.Bool
	closed   atomic.Int64
	answered atomic.Int64
}

func (s *crashing) serve(conn net.Conn) {
	defer conn.Close()
	if s.down.Load() {
		s.closed.Add(1)
		return
	}
	(&xh2.Server{}).ServeConn(conn, &xh2.ServeConnOpts{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		s.answered.Add(1)
		_, _ = io.WriteString(w, "ok")
	})})
}

func newCrashing(t *testing.T, most time.Duration, addresses ...string) (*late, map[string]*crashing) {
	all := map[string]*crashing{}
	r := newLate(t, func(s *config.Snapshot) {
		s.Routes["routes"].Hosts[0].Routes[0].Forward.MaxDuration = most
		c := s.Clusters["api"]
		c.Codec, c.Endpoints = config.HTTP2, nil
		for _, a := range addresses {
			all[a] = &crashing{}
			c.Endpoints = append(c.Endpoints, &config.Endpoint{Network: "tcp", Address: a, Healthy: true})
		}
	})
	r.at = func(address string) func(net.Conn) { return all[address].serve }
	return r, all
}

// posted gives the answer to a request that can't be sent twice.
func posted(t *testing.T, conn net.Conn) *http.Response {
	t.Helper()
	if _, err := io.WriteString(conn, "POST / HTTP/1.1\r\nHost: api\r\nContent-Length: 2\r\n\r\nhi"); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		t.Fatal(err)
	}
	return resp
}

// However many requests come for a server that closes every connection before its SETTINGS, it is dialled now and then. They fail as before, and soon;
// and when the server is back, it isn't kept waiting.
func TestARefusingServerIsDialledNowAndThen(t *testing.T) {
	inVirtualTime(t, func(t *testing.T) {
		const addr, requests, apart = "192.0.2.1:80", 500, 4 * time.Millisecond
		r, all := newCrashing(t, 0, addr)
		defer r.end()
		s := all[addr]
		s.down.Store(true)
		var wg sync.WaitGroup
		for range requests {
			conn := r.client()
			wg.Go(func() {
				began := time.Now()
				resp := posted(t, conn)
				if resp.StatusCode != 503 || resp.Header.Get(reason.Header) != string(reason.UpstreamConnectFailure) {
					t.Errorf("%s %s", resp.Status, resp.Header.Get(reason.Header))
				}
				if took := time.Since(began); took > 500*time.Millisecond {
					t.Errorf("it failed after %s", took)
				}
			})
			time.Sleep(apart)
		}
		wg.Wait()
		const most = 5 + requests*apart/(firstBackOff<<doublings/2) + 3 // at first more often, and what the last requests wait for
		if n := s.closed.Load(); n < 10 || n > int64(most) {
			t.Errorf("it was dialled %d times for %d requests", n, requests)
		}
		s.down.Store(false)
		conn := r.client()
		if resp := posted(t, conn); resp.StatusCode != 200 {
			t.Errorf("when it is back: %s", resp.Status)
		}
		began := time.Now()
		if resp := posted(t, conn); resp.StatusCode != 200 || time.Since(began) != 0 {
			t.Errorf("the next: %s after %s", resp.Status, time.Since(began))
		}
		s.down.Store(true)
		s.closed.Store(0)
		r.e.current().clusters["api"].endpoints[0].multi[0].client.Drain() // nothing moves there
		synctest.Wait()
		began = time.Now()
		if resp := posted(t, conn); resp.StatusCode != 503 || s.closed.Load() != 3 || time.Since(began) > 3*firstBackOff {
			t.Errorf("when it is down again: %s after %s, dialled %d times", resp.Status, time.Since(began), s.closed.Load())
		}
	})
}

// A request waits for a server that refuses only where there is no other, and no longer than it may itself.
func TestNobodyWaitsForARefusingServerWithoutNeed(t *testing.T) {
	t.Run("another", func(t *testing.T) {
		inVirtualTime(t, func(t *testing.T) {
			const bad, good = "192.0.2.1:80", "192.0.2.2:80"
			r, all := newCrashing(t, 0, bad, good)
			defer r.end()
			all[bad].down.Store(true)
			conn, began := r.client(), time.Now()
			for range 200 {
				if resp := posted(t, conn); resp.StatusCode != 200 {
					t.Error(resp.Status)
				}
			}
			if took := time.Since(began); took != 0 || all[good].answered.Load() != 200 {
				t.Errorf("200 requests took %s, %d were answered", took, all[good].answered.Load())
			}
			if n := all[bad].closed.Load(); n != 1 {
				t.Errorf("it was dialled %d times", n)
			}
		})
	})
	t.Run("a timeout", func(t *testing.T) {
		inVirtualTime(t, func(t *testing.T) {
			const addr, timeout = "192.0.2.1:80", firstBackOff / 4
			r, all := newCrashing(t, timeout, addr)
			defer r.end()
			all[addr].down.Store(true)
			began := time.Now()
			resp := posted(t, r.client())
			if took := time.Since(began); took != timeout || resp.Header.Get(reason.Header) != string(reason.UpstreamTimeout) {
				t.Errorf("%s %s after %s", resp.Status, resp.Header.Get(reason.Header), took)
			}
		})
	})
}

// Where a server takes one connection and refuses further ones, whoever finds it full waits for a stream, and not for another connection.
func TestAStreamIsWaitedForWhereNoConnectionIsToBeHad(t *testing.T) {
	inVirtualTime(t, func(t *testing.T) {
		const addr, long = "192.0.2.1:80", 5 * time.Millisecond
		r, _ := newCrashing(t, 0, addr)
		defer r.end()
		var taken atomic.Int64
		r.at = func(string) func(net.Conn) {
			return func(conn net.Conn) {
				defer conn.Close()
				if taken.Add(1) > 1 {
					return
				}
				(&xh2.Server{MaxConcurrentStreams: 1}).ServeConn(conn, &xh2.ServeConnOpts{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
					time.Sleep(long)
				})})
			}
		}
		posted(t, r.client())
		for range 20 {
			var two sync.WaitGroup
			for range 2 {
				conn := r.client()
				two.Go(func() {
					began := time.Now()
					if resp := posted(t, conn); resp.StatusCode != 200 {
						t.Errorf("%s: %s", resp.Status, resp.Header.Get(reason.Header))
					}
					if took := time.Since(began); took > 5*long {
						t.Errorf("a request took %s", took)
					}
				})
			}
			two.Wait()
		}
		if n := taken.Load(); n > 12 { // one of them is made when the wait for it is over
			t.Errorf("the server was dialled %d times", n)
		}
	})
}
