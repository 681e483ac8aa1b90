// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"errors"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weftmesh/weft/connect/proxy/h1"
	"github.com/weftmesh/weft/connect/proxy/mux"
	"github.com/weftmesh/weft/connect/proxy/stream"
	"github.com/weftmesh/weft/internal/memnet"
)

// apart are the two ends of a connection over which everything takes so long.
func apart(by time.Duration) (near, far net.Conn) {
	a, b := memnet.Pipe("a", "on the way")
	c, d := memnet.Pipe("on the way", "d")
	carry := func(from, to *memnet.Conn) {
		var p [64 << 10]byte
		for {
			n, err := from.Read(p[:])
			<-time.After(by) // virtual
			if n > 0 {
				if _, err := to.Write(p[:n]); err != nil { // it is closed there: a reset comes back
					<-time.After(by) // virtual
					_ = from.SetLinger(0)
					_ = from.Close()
					return
				}
			}
			if err != nil {
				_ = to.CloseWrite()
				return
			}
		}
	}
	go carry(b, c)
	go carry(c, b)
	return a, d
}

// post sends a POST on a pooled connection and says what came of it.
func post(c *h1.Client) (status int, err error) {
	x := c.AliveExchange()
	defer x.Close()
	h := &stream.RequestHead{Method: "POST", Scheme: "http", Authority: "api", Path: "/", Length: 4}
	if err := errors.Join(x.WriteHead(h, false), x.WriteBody([]byte("once")), x.Finish(nil)); err != nil {
		return 0, err
	}
	var r stream.ResponseHead
	if err := x.ReadHead(&r); err != nil {
		return 0, err
	}
	var b [100]byte
	for err = nil; err == nil; {
		_, err = x.ReadBody(b[:])
	}
	if !errors.Is(err, io.EOF) {
		return 0, err
	}
	return r.Status, nil
}

// A connection between two sidecars, carried or one of its own, is closed by the accepting side because it drains, or was idle for too long, at any time
// beside a POST: that is answered, or may be sent again.
func TestNoPOSTIsLostWithAnIdleConnection(t *testing.T) {
	const way = 10 * time.Millisecond // from one side to the other
	for name, c := range map[string]struct{ carried, drains bool }{
		"carried, drains": {true, true}, "carried, idle for too long": {true, false}, "its own, drains": {false, true}, "its own, idle for too long": {false, false},
	} {
		t.Run(name, func(t *testing.T) {
			answered, unsent := 0, 0
			for at := range 30 {
				synctest.Test(t, func(t *testing.T) {
					var served atomic.Int64
					var closing atomic.Bool
					defer func() { <-time.After(time.Minute) }() // virtual: all is over
					began := time.Now()
					conn, other := apart(way)
					serve := func(conn net.Conn) {
						config := h1.ServerConfig{Draining: func() bool { return false }, Closing: closing.Load, IdleTimeout: time.Second, Declines: true}
						go func() {
							_ = h1.Serve(t.Context(), conn, config, func(x stream.ServerExchange) {
								served.Add(1)
								var b [100]byte
								for err := error(nil); err == nil; {
									_, err = x.ReadBody(b[:])
								}
								_ = x.WriteHead(&stream.ResponseHead{Status: 200}, true)
							})
						}()
						if c.drains {
							time.AfterFunc(time.Second, func() {
								closing.Store(true)
								h1.Wake(conn)
							})
						}
					}
					if c.carried {
						near := mux.New(conn, mux.Config{})
						far := mux.New(other, mux.Config{Accept: func(st *mux.Stream) { serve(st) }})
						over := make(chan struct{}, 2)
						for _, s := range []*mux.Session{near, far} {
							go func() { _ = s.Run(t.Context()); over <- struct{}{} }()
						}
						defer func() {
							near.Close()
							<-over
							<-over
						}()
						var err error
						if conn, err = near.Open(); err != nil {
							t.Fatal(err)
						}
					} else {
						serve(other)
					}
					c := h1.NewClient(conn, h1.ClientConfig{Reused: true})
					if status, err := post(c); status != 200 {
						t.Fatal(status, err)
					}
					<-time.After(time.Until(began.Add(time.Second - 5*way + time.Duration(at)*way/3))) // virtual
					had := served.Load()
					switch status, err := post(c); {
					case status == 200:
						answered++
					case errors.Is(err, stream.ErrNotSent) && served.Load() == had:
						unsent++
					default:
						t.Errorf("%d steps: %d, %v; taken %d times", at, status, err, served.Load()-had)
					}
					_ = c.Close()
				})
			}
			if answered == 0 || unsent == 0 {
				t.Errorf("%d were answered, and %d may be sent again: they don't cross", answered, unsent)
			}
		})
	}
}
