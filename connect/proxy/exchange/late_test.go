// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	xh2 "golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/weftmesh/weft/connect/proxy/config"
)

// late is an engine in virtual time whose service answers over HTTP/1.1, and counts its connections.
type late struct {
	t      *testing.T
	e      *Engine
	ctx    context.Context
	l      *config.Listener
	hangs  atomic.Bool // connections aren't made
	handle func(net.Conn)
	at     func(address string) func(net.Conn) // instead of handle; nil: there is one service
	conns  atomic.Int64
	served atomic.Int64 // requests, as wholes
	began  atomic.Int64
	ends   []func()
}

// inVirtualTime runs f in virtual time. Nothing that is used again comes in from outside, and nothing goes out: it has timers and channels.
func inVirtualTime(t *testing.T, f func(t *testing.T)) {
	forget := func() {
		for range 3 { // a pool lets go of what it has in the second collection
			runtime.GC()
		}
	}
	forget()
	synctest.Test(t, f)
	forget()
}

func newLate(t *testing.T, change ...func(*config.Snapshot)) *late {
	t.Helper()
	r := &late{t: t, l: &config.Listener{Name: "l", HTTP: &config.HTTP{RouteName: "routes", Websocket: true}}}
	r.handle = r.serve
	s := &config.Snapshot{
		Listeners: map[string]*config.Listener{"l": r.l},
		Routes: map[string]*config.RouteTable{"routes": {Name: "routes", Hosts: []*config.VirtualHost{{Domains: []string{"*"}, Routes: []*config.Route{
			{Match: config.Match{Prefix: "/"}, Forward: &config.Forward{Clusters: []config.WeightedCluster{{Cluster: "api", Weight: 1}}}},
		}}}}},
		Clusters: map[string]*config.Cluster{"api": {Name: "api", Codec: config.HTTP1, ConnectTimeout: time.Second, Endpoints: []*config.Endpoint{{Network: "tcp", Address: "192.0.2.1:80", Healthy: true}}}},
	}
	for _, f := range change {
		f(s)
	}
	var err error
	r.e, err = New(Config{Snapshot: func() *config.Snapshot { return s }, Dial: func(ctx context.Context, _, address string) (net.Conn, error) {
		if r.hangs.Load() {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		here, there := net.Pipe()
		r.conns.Add(1)
		handle := r.handle
		if r.at != nil {
			handle = r.at(address)
		}
		go handle(there) // ends with the connection
		return here, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	r.ctx = ctx
	ran := make(chan error, 1)
	go func() { ran <- r.e.Run(ctx) }()
	r.ends = append(r.ends, func() {
		cancel()
		if err := <-ran; err != nil {
			t.Error(err)
		}
	})
	return r
}

func (r *late) serve(conn net.Conn) {
	defer conn.Close()
	in := bufio.NewReader(conn)
	for {
		req, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		r.began.Add(1)
		if _, err := io.Copy(io.Discard, req.Body); err != nil {
			return
		}
		r.served.Add(1)
		if _, err := io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"); err != nil {
			return
		}
	}
}

// client opens a connection to the engine.
func (r *late) client() net.Conn {
	here, there := net.Pipe()
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = r.e.ServeHTTP(r.ctx, there, r.l, nil, "", nil)
	}()
	r.ends = append(r.ends, func() {
		_ = here.Close()
		<-served
	})
	return here
}

func (r *late) end() {
	for i := range r.ends {
		r.ends[len(r.ends)-1-i]()
	}
}

// victim gives a call of a client that means well, over HTTP/1.1.
func (r *late) victim() (call func()) {
	conn := r.client()
	in := bufio.NewReader(conn)
	return func() {
		r.t.Helper()
		if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: api\r\n\r\n"); err != nil {
			r.t.Fatal(err)
		}
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			r.t.Fatal(err)
		}
		if b, err := io.ReadAll(resp.Body); string(b) != "ok" || err != nil {
			r.t.Errorf("%s, %q, %v", resp.Status, b, err)
		}
	}
}

// frames is a client that speaks HTTP/2 in frames, and reads nothing of what is answered.
type frames struct {
	*xh2.Framer
	t     *testing.T
	block bytes.Buffer
	enc   *hpack.Encoder
}

func (r *late) frames() *frames {
	conn := r.client()
	c := &frames{Framer: xh2.NewFramer(conn, nil), t: r.t}
	c.AllowIllegalWrites = true
	c.enc = hpack.NewEncoder(&c.block)
	go func() { _, _ = io.Copy(io.Discard, conn) }() // ends with the connection
	c.do(func() error { _, err := io.WriteString(conn, xh2.ClientPreface); return err })
	c.do(func() error { return c.WriteSettings() })
	return c
}

// do does it, and waits until nothing moves any more.
func (c *frames) do(f func() error) {
	c.t.Helper()
	if err := f(); err != nil {
		c.t.Fatal(err)
	}
	synctest.Wait()
}

// begin sends the head of a request whose body follows.
func (c *frames) begin(id uint32, fields ...string) {
	c.t.Helper()
	c.block.Reset()
	method := "POST"
	if len(fields) > 0 { // of a websocket
		method = "CONNECT"
	}
	all := append([]string{":method", method, ":scheme", "http", ":authority", "api", ":path", "/"}, fields...)
	for i := 0; i+1 < len(all); i += 2 {
		if err := c.enc.WriteField(hpack.HeaderField{Name: all[i], Value: all[i+1]}); err != nil {
			c.t.Fatal(err)
		}
	}
	c.do(func() error {
		return c.WriteHeaders(xh2.HeadersFrameParam{StreamID: id, BlockFragment: c.block.Bytes(), EndHeaders: true})
	})
}

func (r *late) want(conns, served int64) {
	r.t.Helper()
	synctest.Wait()
	if c, s := r.conns.Load(), r.served.Load(); c != conns || s != served {
		r.t.Errorf("%d connections and %d answers, want %d and %d", c, s, conns, served)
	}
}

// A client whose requests are taken back, or reset for its own fault, before they are there as wholes costs others no connection: each of theirs
// would wait for a handshake.
func TestC62_WhatIsTakenBackLeavesTheLastConnection(t *testing.T) {
	for name, back := range map[string]func(c *frames, id uint32) error{
		"taken back": func(c *frames, id uint32) error { return c.WriteRSTStream(id, xh2.ErrCodeCancel) },
		"provoked": func(c *frames, id uint32) error {
			return c.WriteRawFrame(xh2.FrameWindowUpdate, 0, id, make([]byte, 4))
		},
		"after some of it":  func(c *frames, id uint32) error { return c.WriteData(id, false, []byte("some")) },
		"gone in its midst": nil,
	} {
		t.Run(name, func(t *testing.T) {
			inVirtualTime(t, func(t *testing.T) {
				r := newLate(t)
				defer r.end()
				call := r.victim()
				call()
				r.want(1, 1)
				for i := range 10 {
					c := r.frames()
					for id := uint32(1); id < 10; id += 2 {
						c.begin(id)
						if back != nil {
							c.do(func() error { return back(c, id) })
						}
					}
					r.ends[len(r.ends)-1]() // it goes
					r.ends = r.ends[:len(r.ends)-1]
					call()
					r.want(1, int64(2+i))
				}
			})
		})
	}
}

// A request whose rest comes soon after its head takes the connection that is there, and waits for nothing else.
func TestARequestInPiecesTakesTheLastConnection(t *testing.T) {
	for name, size := range map[string]int{"small": 10, "all that is read at once": 16 << 10, "larger": 30 << 10} {
		t.Run(name, func(t *testing.T) {
			inVirtualTime(t, func(t *testing.T) {
				r := newLate(t)
				defer r.end()
				r.victim()()
				c, body := r.frames(), make([]byte, size)
				began := time.Now()
				for i := range 3 {
					id := uint32(2*i + 1)
					c.begin(id)
					for rest := body; ; rest = rest[16<<10:] {
						if len(rest) <= 16<<10 {
							c.do(func() error { return c.WriteData(id, true, rest) })
							break
						}
						c.do(func() error { return c.WriteData(id, false, rest[:16<<10]) })
					}
					r.want(1, int64(2+i))
				}
				if took := time.Since(began); took != 0 {
					t.Errorf("it took %v", took)
				}
			})
		})
	}
}

// One whose rest is long in coming begins on a connection of its own after a moment, and the one that was idle is there for others. It is one more
// then, so that the next such request waits for nothing.
func TestALateBodyHasAConnectionOfItsOwn(t *testing.T) {
	inVirtualTime(t, func(t *testing.T) {
		r := newLate(t)
		defer r.end()
		call := r.victim()
		call()
		c := r.frames()
		c.begin(1)
		if r.began.Load() != 1 {
			t.Error("it began on the last idle connection")
		}
		time.Sleep(makeEvery)
		synctest.Wait()
		if r.began.Load() != 2 {
			t.Error("it hasn't begun")
		}
		call()
		r.want(2, 2)
		c.do(func() error { return c.WriteData(1, true, []byte("at last")) })
		r.want(2, 3)
		c.begin(3)
		if r.began.Load() != 4 {
			t.Error("the next one waits, though two are idle")
		}
		c.do(func() error { return c.WriteData(3, true, nil) })
		r.want(2, 4)
	})
}

// A websocket's connection is never used again, so that it is one of its own in any case.
func TestC62_AWebsocketLeavesTheLastConnection(t *testing.T) {
	inVirtualTime(t, func(t *testing.T) {
		r := newLate(t)
		defer r.end()
		call := r.victim()
		call()
		c := r.frames()
		c.begin(1, strings.Fields(":protocol websocket sec-websocket-version 13")...)
		r.want(2, 2) // it is answered as if it were none
		call()
		r.want(2, 3)
	})
}

// A client that goes while its connection is made says nothing about the endpoint: it could have all endpoints taken out. One that doesn't answer in time is.
func TestWhoGoesMeanwhileSaysNothingOfTheEndpoint(t *testing.T) {
	for name, c := range map[string]struct {
		goes    bool
		timeout time.Duration // of the route
		ejected int32
	}{
		"taken back":             {true, 0, 0},
		"no connection in time":  {false, 0, 1},
		"the route's time is up": {false, 100 * time.Millisecond, 1},
	} {
		t.Run(name, func(t *testing.T) {
			inVirtualTime(t, func(t *testing.T) {
				r := newLate(t, func(s *config.Snapshot) {
					s.Clusters["api"].Outlier = &config.Outlier{Consecutive5xx: 1, Enforcing: 100, BaseEjection: time.Minute, MaxPercent: 100}
					s.Routes["routes"].Hosts[0].Routes[0].Forward.MaxDuration = c.timeout
				})
				defer r.end()
				r.hangs.Store(true)
				f := r.frames()
				f.begin(1)
				f.do(func() error { return f.WriteData(1, true, nil) })
				time.Sleep(10 * time.Millisecond)
				if c.goes {
					f.do(func() error { return f.WriteRSTStream(1, xh2.ErrCodeCancel) })
				}
				time.Sleep(1100 * time.Millisecond)
				synctest.Wait()
				if n := r.e.view.Load().clusters["api"].endpoints[0].ejections.Load(); (n > 0) != (c.ejected > 0) {
					t.Errorf("ejected %d times", n)
				}
				failed := r.e.config.Metrics.Outbound("api").opened[ConnectFailed].Load()
				if c.goes && failed != 0 {
					t.Errorf("%d connections are counted as failed", failed)
				}
			})
		})
	}
}

// A server may refuse a request when it has seen its head, and close the connection when more follows than it reads away. The next request, which it
// would never see, goes to another connection, unless so little was refused that any server reads it away, or the length was stated, so that the server
// could say what it would do.
func TestBehindALargeRefusalComesNoRequest(t *testing.T) {
	for name, c := range map[string]struct {
		size   int
		stated bool
		conns  int64
	}{"large": {300 << 10, false, 2}, "small": {200 << 10, false, 1}, "of a stated length": {300 << 10, true, 1}} {
		t.Run(name, func(t *testing.T) {
			inVirtualTime(t, func(t *testing.T) {
				r := newLate(t)
				defer r.end()
				r.handle = func(conn net.Conn) { refusing(r, conn, c.conns == 2) }
				ask := func(head string, body []byte, status int) {
					t.Helper()
					conn := r.client() // the one before may have to end
					in := bufio.NewReader(conn)
					sent := make(chan error, 1)
					go func() {
						_, err := conn.Write(append([]byte("POST / HTTP/1.1\r\nHost: api\r\n"+head+"\r\n\r\n"), body...))
						sent <- err
					}()
					resp, err := http.ReadResponse(in, nil)
					if err != nil {
						t.Fatal(err)
					}
					_, _ = io.Copy(io.Discard, resp.Body) // its length is told
					if err := <-sent; err != nil || resp.StatusCode != status {
						t.Errorf("%s, %v", resp.Status, err)
					}
					synctest.Wait() // until the connection was given back
				}
				if body := bytes.Repeat([]byte("x"), c.size); c.stated {
					ask(fmt.Sprintf("Content-Length: %d", c.size), body, 403)
				} else {
					ask("Transfer-Encoding: chunked", fmt.Appendf(nil, "%x\r\n%s\r\n0\r\n\r\n", c.size, body), 403)
				}
				ask("Content-Length: 2", []byte("hi"), 200)
				if n := r.conns.Load(); n != c.conns {
					t.Errorf("%d connections, want %d", n, c.conns)
				}
			})
		})
	}
}

// refusing refuses the first request of all when it has seen its head, and reads it away; it has no ear for what follows that, where it closes.
func refusing(r *late, conn net.Conn, closes bool) {
	defer conn.Close()
	in := bufio.NewReader(conn)
	for {
		req, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		first := r.began.Add(1) == 1
		answer := "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
		if first {
			answer = "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno"
		} else if _, err := io.Copy(io.Discard, req.Body); err != nil {
			return
		}
		if _, err := io.WriteString(conn, answer); err != nil {
			return
		}
		if !first {
			continue
		}
		if _, err := io.Copy(io.Discard, req.Body); err != nil {
			return
		}
		if closes {
			_, _ = in.ReadByte() // of the next request, if one comes
			return
		}
	}
}
