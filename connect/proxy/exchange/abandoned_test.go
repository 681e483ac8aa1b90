// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	xh2 "golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/weftmesh/weft/connect/proxy/config"
)

// rawClient speaks HTTP/2 in frames.
type rawClient struct {
	*xh2.Framer
	t     *testing.T
	block bytes.Buffer
	enc   *hpack.Encoder
}

func newRawClient(t *testing.T, r *rig, settings ...xh2.Setting) *rawClient {
	t.Helper()
	conn, err := net.Dial("tcp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	c := &rawClient{Framer: xh2.NewFramer(conn, conn), t: t}
	c.enc = hpack.NewEncoder(&c.block)
	if _, err := io.WriteString(conn, xh2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	if err := c.WriteSettings(settings...); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *rawClient) get(id uint32, path string) {
	c.t.Helper()
	c.block.Reset()
	for _, f := range []hpack.HeaderField{{Name: ":method", Value: "GET"}, {Name: ":scheme", Value: "http"}, {Name: ":authority", Value: "api"}, {Name: ":path", Value: path}} {
		if err := c.enc.WriteField(f); err != nil {
			c.t.Fatal(err)
		}
	}
	if err := c.WriteHeaders(xh2.HeadersFrameParam{StreamID: id, BlockFragment: c.block.Bytes(), EndHeaders: true, EndStream: true}); err != nil {
		c.t.Fatal(err)
	}
}

// until reads up to a frame.
func (c *rawClient) until(what string, is func(xh2.Frame) bool) {
	c.t.Helper()
	for {
		f, err := c.ReadFrame()
		if err != nil {
			c.t.Fatalf("waiting for %s: %v", what, err)
		}
		if is(f) {
			return
		}
	}
}

// counted is an upstream of HTTP/1.1 that counts its connections.
func counted(t *testing.T, h http.HandlerFunc) (addr string, conns *atomic.Int64) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	conns = new(atomic.Int64)
	serveOn(t, counting{l, conns}, h)
	return l.Addr().String(), conns
}

type counting struct {
	net.Listener
	n *atomic.Int64
}

func (c counting) Accept() (net.Conn, error) {
	conn, err := c.Listener.Accept()
	if err == nil {
		c.n.Add(1)
	}
	return conn, err
}

// A client that doesn't take the body of an answer holds no connection to the service.
func TestC66_AnAnswerThatNobodyTakesHoldsNoConnection(t *testing.T) {
	addr, conns := counted(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "a body") })
	r := newRig(t, codec(config.HTTP1), addr)
	c := newRawClient(t, r, xh2.Setting{ID: xh2.SettingInitialWindowSize, Val: 0})
	for id := uint32(1); id < 20; id += 2 {
		c.get(id, "/")
		c.until("a head", func(f xh2.Frame) bool { h, ok := f.(*xh2.HeadersFrame); return ok && h.StreamID == id })
	}
	if n := conns.Load(); n != 1 {
		t.Errorf("ten answers that wait hold %d connections", n)
	}
	for id := uint32(1); id < 20; id += 2 { // each still has its own body
		if err := c.WriteWindowUpdate(id, 100); err != nil {
			t.Fatal(err)
		}
		c.until("a body", func(f xh2.Frame) bool {
			d, ok := f.(*xh2.DataFrame)
			if ok && (d.StreamID != id || string(d.Data()) != "a body") {
				t.Errorf("stream %d: %q", d.StreamID, d.Data())
			}
			return ok
		})
	}
}

// A request that is taken back while its short answer is on the way costs no connection: the answer is read away.
func TestC61_AnAbandonedRequestLeavesItsConnection(t *testing.T) {
	begun, answer := make(chan struct{}), make(chan struct{})
	addr, conns := counted(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			begun <- struct{}{}
			<-answer
		}
		_, _ = io.WriteString(w, r.URL.Path)
	})
	r := newRig(t, codec(config.HTTP1), addr)
	r.e.spare = 20 * time.Second
	c := newRawClient(t, r)
	for i := range 3 {
		id := uint32(4*i + 1)
		c.get(id, "/slow")
		<-begun
		if err := c.WriteRSTStream(id, xh2.ErrCodeCancel); err != nil {
			t.Fatal(err)
		}
		if err := c.WritePing(false, [8]byte{1}); err != nil {
			t.Fatal(err)
		}
		c.until("the answer to PING", func(f xh2.Frame) bool { p, ok := f.(*xh2.PingFrame); return ok && p.IsAck() })
		answer <- struct{}{}
		h := r.e.view.Load().clusters["api"].endpoints[0].host
		for end := time.Now().Add(10 * time.Second); !h.hasIdle(1); <-time.After(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("the connection isn't given back")
			}
		}
		c.get(id+2, "/next")
		c.until("the next answer", func(f xh2.Frame) bool {
			d, ok := f.(*xh2.DataFrame)
			if ok && string(d.Data()) != "/next" {
				t.Errorf("the next answer is %q", d.Data())
			}
			return ok
		})
	}
	if n := conns.Load(); n != 1 {
		t.Errorf("three requests that were taken back cost %d connections", n)
	}
}
