// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"context"
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

// slowRead holds up what comes, as a network does.
type slowRead struct {
	net.Conn
	by time.Duration
}

func (c slowRead) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	<-time.After(c.by) // virtual
	return n, err
}

// stillRead reads nothing before a time.
type stillRead struct {
	net.Conn
	until time.Time
}

func (c stillRead) Read(p []byte) (int, error) {
	<-time.After(time.Until(c.until)) // virtual
	return c.Conn.Read(p)
}

// post sends a POST on a pooled connection and says what came of it: where it couldn't be written, why is to be read.
func post(c *h1.Client) (status int, err error) {
	x := c.AliveExchange()
	defer x.Close()
	h := &stream.RequestHead{Method: "POST", Scheme: "http", Authority: "api", Path: "/", Length: 4}
	if err := errors.Join(x.WriteHead(h, false), x.WriteBody([]byte("once")), x.Finish(nil)); errors.Is(err, stream.ErrNotSent) {
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

// A connection that is carried is closed by the accepting side because it drains, or was idle for too long, at any time beside a POST: that is
// answered, or may be sent again.
func TestNoPOSTIsLostWithAnIdleCarriedConnection(t *testing.T) {
	const apart = 10 * time.Millisecond // the two sides
	for name, drains := range map[string]bool{"drains": true, "idle for too long": false} {
		t.Run(name, func(t *testing.T) {
			answered, unsent := 0, 0
			for at := range 30 {
				synctest.Test(t, func(t *testing.T) {
					var served atomic.Int64
					var closing atomic.Bool
					began := time.Now()
					a, b := memnet.Pipe("a", "b")
					near := mux.New(slowRead{a, apart}, mux.Config{})
					far := mux.New(slowRead{b, apart}, mux.Config{Accept: func(st *mux.Stream) {
						c := h1.ServerConfig{Draining: func() bool { return false }, Closing: closing.Load, IdleTimeout: time.Second}
						go func() {
							_ = h1.Serve(t.Context(), st, c, func(x stream.ServerExchange) {
								served.Add(1)
								var b [100]byte
								for err := error(nil); err == nil; {
									_, err = x.ReadBody(b[:])
								}
								_ = x.WriteHead(&stream.ResponseHead{Status: 200}, true)
							})
						}()
						if drains {
							time.AfterFunc(time.Second, func() {
								closing.Store(true)
								h1.Wake(st)
							})
						}
					}})
					ctx, cancel := context.WithCancel(t.Context())
					over := make(chan struct{}, 2)
					for _, s := range []*mux.Session{near, far} {
						go func() { _ = s.Run(ctx); over <- struct{}{} }()
					}
					st, err := near.Open()
					if err != nil {
						t.Fatal(err)
					}
					c := h1.NewClient(st, h1.ClientConfig{Reused: true})
					if status, err := post(c); status != 200 {
						t.Fatal(status, err)
					}
					<-time.After(time.Until(began.Add(time.Second - 5*apart + time.Duration(at)*apart/3))) // virtual
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
					cancel()
					<-over
					<-over
				})
			}
			if answered == 0 || unsent == 0 {
				t.Errorf("%d were answered, and %d may be sent again: they don't cross", answered, unsent)
			}
		})
	}
}

// An opener that stands still when the accepting side leaves, and goes on while that closes the connection, opens one more on it: what is sent on
// that is answered, or may be sent again.
func TestNoPOSTIsLostWithACarrierThatIsClosed(t *testing.T) {
	const apart, leaving = 10 * time.Millisecond, 5 * time.Second
	for name, leaves := range map[string]bool{"left": true, "idle for too long": false} {
		t.Run(name, func(t *testing.T) {
			answered, unsent := 0, 0
			for at := range 30 {
				synctest.Test(t, func(t *testing.T) {
					var served atomic.Int64
					a, b := memnet.Pipe("a", "b")
					near := mux.New(stillRead{a, time.Now().Add(leaving + 6*apart)}, mux.Config{})
					far := mux.New(slowRead{b, apart}, mux.Config{Idle: leaving, Accept: func(st *mux.Stream) {
						c := h1.ServerConfig{Draining: func() bool { return true }, Closing: func() bool { return false }}
						go func() {
							defer st.Close()
							_ = h1.Serve(t.Context(), st, c, func(x stream.ServerExchange) {
								served.Add(1)
								_ = x.WriteHead(&stream.ResponseHead{Status: 200}, true)
							})
						}()
					}})
					over := make(chan struct{}, 2)
					for _, s := range []*mux.Session{near, far} {
						go func() { _ = s.Run(t.Context()); over <- struct{}{} }()
					}
					if leaves {
						far.Leave()
					}
					<-time.After(leaving - 5*apart + time.Duration(at)*apart/3) // virtual
					st, err := near.Open()
					if err != nil {
						t.Fatal(err)
					}
					c := h1.NewClient(st, h1.ClientConfig{Reused: true})
					switch status, err := post(c); {
					case status == 200 && served.Load() == 1:
						answered++
					case errors.Is(err, stream.ErrNotSent) && served.Load() == 0:
						unsent++
					default:
						t.Errorf("%d steps: %d, %v; taken %d times", at, status, err, served.Load())
					}
					_ = c.Close()
					<-over
					<-over
				})
			}
			if answered == 0 || unsent == 0 {
				t.Errorf("%d were answered, and %d may be sent again: they don't cross", answered, unsent)
			}
		})
	}
}
