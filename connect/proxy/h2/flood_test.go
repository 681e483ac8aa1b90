// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/weftmesh/weft/connect/proxy/stream"
)

// rawPeer talks frames to a Server that runs on the other end of a connection.
type rawPeer struct {
	t    *testing.T
	nc   net.Conn
	fr   *http2.Framer
	hb   bytes.Buffer
	enc  *hpack.Encoder
	srv  *Server
	done chan error
}

// goesOn is when a server isn't waited for any more: a flood takes it seconds of a processor under the race detector, which others use too.
const goesOn = 40 * time.Second

func newRawPeer(t *testing.T, cfg ServerConfig, h stream.Handler) *rawPeer {
	a, b := pair(t)
	s, err := NewServer(b, cfg, h)
	if err != nil {
		t.Fatal(err)
	}
	p := &rawPeer{t: t, nc: a, fr: http2.NewFramer(a, a), srv: s, done: make(chan error, 1)}
	p.enc = hpack.NewEncoder(&p.hb)
	go func() { p.done <- s.Run(context.Background()) }()
	_ = a.SetDeadline(time.Now().Add(goesOn))
	_, _ = io.WriteString(a, preface)
	_ = p.fr.WriteSettings()
	return p
}

func (p *rawPeer) block(kv ...string) []byte {
	p.hb.Reset()
	if len(kv) == 0 || !strings.HasPrefix(kv[0], ":") {
		kv = append([]string{":method", "GET", ":scheme", "http", ":authority", "a", ":path", "/"}, kv...)
	}
	for i := 0; i+1 < len(kv); i += 2 {
		_ = p.enc.WriteField(hpack.HeaderField{Name: kv[i], Value: kv[i+1]})
	}
	return bytes.Clone(p.hb.Bytes())
}

func (p *rawPeer) headers(id uint32, end bool, kv ...string) error {
	return p.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: p.block(kv...), EndHeaders: true, EndStream: end})
}

// goAway reads until GOAWAY and gives its code; the flood may make writes and reads fail first, then Run's error says it.
func (p *rawPeer) end() stream.Code {
	go func() { _, _ = io.Copy(io.Discard, p.nc) }()
	select {
	case err := <-p.done:
		var ce *ConnError
		if !errors.As(err, &ce) {
			p.t.Fatalf("Run: %v", err)
		}
		return ce.Code
	case <-time.After(goesOn):
		p.t.Fatal("the server goes on")
	}
	return 0
}

func quiet(x stream.ServerExchange) {
	_ = x.WriteHead(&stream.ResponseHead{Status: 200}, true)
}

func TestC61_RapidReset(t *testing.T)      { endsInCalm(t, "C61") }
func TestC62_MadeToReset(t *testing.T)     { endsInCalm(t, "C62") }
func TestC63_Continuation(t *testing.T)    { endsInCalm(t, "C63") }
func TestC64_ControlFrames(t *testing.T)   { endsInCalm(t, "C64") }
func TestC65_HeadsForNothing(t *testing.T) { endsInCalm(t, "C65") }

// endsInCalm: who sends without an end what is cheap to send and not to serve is told so, and cut off. TestBackPressure is of one who may go on.
func endsInCalm(t *testing.T, id string) {
	t.Helper()
	floods := map[string]func(p *rawPeer, i int) error{
		"C64 ping":          func(p *rawPeer, _ int) error { return p.fr.WritePing(false, [8]byte{}) },
		"C64 settings":      func(p *rawPeer, _ int) error { return p.fr.WriteSettings() },
		"C64 priority":      func(p *rawPeer, _ int) error { return p.fr.WritePriority(1, http2.PriorityParam{StreamDep: 3}) },
		"C64 window update": func(p *rawPeer, _ int) error { return p.fr.WriteWindowUpdate(0, 1) },
		"C64 empty data":    func(p *rawPeer, _ int) error { return p.fr.WriteData(1, false, nil) },
		"C61 rapid reset": func(p *rawPeer, i int) error {
			id := uint32(3 + 2*i)
			if err := p.headers(id, true); err != nil {
				return err
			}
			return p.fr.WriteRSTStream(id, http2.ErrCodeCancel)
		},
		"C62 made to reset": func(p *rawPeer, i int) error {
			id := uint32(3 + 2*i)
			if err := p.headers(id, false); err != nil {
				return err
			}
			return p.fr.WriteRawFrame(http2.FrameWindowUpdate, 0, id, make([]byte, 4))
		},
		"C63 continuation": func(p *rawPeer, i int) error {
			if i == 0 {
				return p.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, BlockFragment: p.block()})
			}
			return p.fr.WriteContinuation(3, false, nil)
		},
		"C63 continuation with bytes": func(p *rawPeer, i int) error {
			if i == 0 {
				return p.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, BlockFragment: p.block()})
			}
			return p.fr.WriteContinuation(3, false, p.block("x-a", strings.Repeat("z", 8000)))
		},
		// One byte stands for 3000 each, in heads that are over their limit.
		"C65 large": func(p *rawPeer, i int) error {
			block := append(p.block("x-bomb", strings.Repeat("a", 3000)), bytes.Repeat([]byte{0x80 | 62}, 12_000)...)
			return p.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: uint32(3 + 2*i), BlockFragment: block, EndHeaders: true, EndStream: true})
		},
		// Heads of a stream that was refused are decoded, for HPACK's sake, and never looked at.
		"C65 of a stream that is gone": func(p *rawPeer, i int) error {
			if i == 0 {
				if err := p.headers(3, true, "connection", "close"); err != nil {
					return err
				}
			}
			return p.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, BlockFragment: bytes.Repeat([]byte{0x80 | 2}, 15_000), EndHeaders: true, EndStream: true})
		},
	}
	for name, send := range floods {
		if !strings.HasPrefix(name, id) {
			continue
		}
		t.Run(name, func(t *testing.T) {
			cfg := ServerConfig{}
			if id == "C65" { // of which each frame is much work, and more under the race detector
				cfg.Floods.Resets = 100
			}
			p := newRawPeer(t, cfg, func(x stream.ServerExchange) {
				if id == "C61" || id == "C62" {
					<-x.Context().Done()
					return
				}
				_, _ = x.ReadBody(make([]byte, 1))
			})
			go func() {
				_ = p.headers(1, false)
				p.fr.AllowIllegalWrites = true
				for i := range 20_000 {
					if send(p, i) != nil {
						return
					}
				}
				_ = p.nc.(*net.TCPConn).CloseWrite() // nobody cut it off so far; what is on its way is read yet
			}()
			if code := p.end(); code != stream.CodeEnhanceCalm {
				t.Fatalf("code %#x", code)
			}
		})
	}
}

func TestC68_HeadOverItsLimitGets431(t *testing.T) {
	p := newRawPeer(t, ServerConfig{Limits: stream.Limits{HeadBytes: 4096}}, quiet)
	_ = p.headers(1, true, "x-big", strings.Repeat("a", 5000))
	var crumbs []string
	for range 300 {
		crumbs = append(crumbs, "cookie", "a")
	}
	_ = p.headers(3, true, crumbs...)
	_ = p.headers(5, true)
	want := map[uint32]string{1: "431", 3: "431", 5: "200"}
	p.fr.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	for len(want) > 0 {
		f, err := p.fr.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		if h, ok := f.(*http2.MetaHeadersFrame); ok {
			if h.PseudoValue("status") != want[h.StreamID] {
				t.Fatalf("stream %d: %s", h.StreamID, h.PseudoValue("status"))
			}
			delete(want, h.StreamID)
		}
	}
}

func TestMalformedRequestsAreReset(t *testing.T) {
	full := []string{":method", "POST", ":scheme", "https", ":authority", "a.b", ":path", "/x"}
	with := func(kv ...string) []string { return append(append([]string{}, full...), kv...) }
	for name, kv := range map[string][]string{
		"CR in a value":         with("a", "b\rc"),
		"LF in a value":         with("a", "b\nx: y"),
		"NUL in a value":        with("a", "b\x00"),
		"space at the end":      with("a", "b "),
		"colon in a name":       with("a:b", "c"),
		"space in a name":       with("a b", "c"),
		"capitals":              with("Ab", "c"),
		"empty name":            with("", "c"),
		"transfer-encoding":     with("transfer-encoding", "chunked"),
		"connection":            with("connection", "x-a"),
		"upgrade":               with("upgrade", "websocket"),
		"two lengths":           with("content-length", "1", "content-length", "2"),
		"plus in a length":      with("content-length", "+1"),
		"length without a body": with("content-length", "1"),
		"two hosts":             with("host", "other"),
		"late pseudo":           with("a", "b", ":path", "/"),
		"unknown pseudo":        {":method", "GET", ":scheme", "http", ":authority", "a", ":path", "/", ":x", "y"},
		"status in a request":   {":method", "GET", ":scheme", "http", ":authority", "a", ":path", "/", ":status", "200"},
		"ftp":                   {":method", "GET", ":scheme", "ftp", ":authority", "a", ":path", "/"},
		"path without slash":    {":method", "GET", ":scheme", "http", ":authority", "a", ":path", "x"},
		"space in the path":     {":method", "GET", ":scheme", "http", ":authority", "a", ":path", "/ HTTP/1.1"},
		"no authority":          {":method", "GET", ":scheme", "http", ":path", "/"},
		"user in the authority": {":method", "GET", ":scheme", "http", ":authority", "u@a", ":path", "/"},
		"method with a space":   {":method", "GET /", ":scheme", "http", ":authority", "a", ":path", "/"},
		"CONNECT with a path":   {":method", "CONNECT", ":authority", "a:1", ":path", "/"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newRawPeer(t, ServerConfig{}, func(stream.ServerExchange) { t.Error("the handler was called") })
			_ = p.headers(1, true, kv...)
			for {
				f, err := p.fr.ReadFrame()
				if err != nil {
					t.Fatal(err)
				}
				if r, ok := f.(*http2.RSTStreamFrame); ok {
					if r.ErrCode != http2.ErrCodeProtocol {
						t.Fatal(r.ErrCode)
					}
					return
				}
			}
		})
	}
}

// A slow reader holds the sender back: what is buffered stays within the window.
func TestBackPressure(t *testing.T) {
	held, release := make(chan stream.ServerExchange), make(chan struct{})
	addr := serveOn(t, ServerConfig{Limits: stream.Limits{StreamWindow: 100_000}}, func(x stream.ServerExchange) {
		held <- x
		<-release
		echo(x)
	})
	c := clientTo(t, addr, ClientConfig{})
	body := bytes.Repeat([]byte("abcdefgh"), 1<<17)
	got := make(chan error, 1)
	go func() {
		_, b, _, err := roundTrip(c, reqHead("POST", "/", -1), body, nil)
		if err == nil && !bytes.Equal(b, body) {
			err = errors.New("another body")
		}
		got <- err
	}()
	x := <-held
	for deadline := time.Now().Add(5 * time.Second); x.Buffered() < 100_000 && time.Now().Before(deadline); {
		_ = roundTripPing(c)
	}
	if n := x.Buffered(); n != 100_000 {
		t.Fatalf("%d bytes buffered", n)
	}
	close(release)
	if err := <-got; err != nil {
		t.Fatal(err)
	}
}

func roundTripPing(c *Client) int { return c.Available() }

// Who makes work for nothing rests within one read as well, so that thousands of frames that come at once don't keep others waiting.
func TestAFloodInOneReadRests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &conn{}
		c.resets = newBucket(1000, 100, freeWaste)
		began := time.Now()
		for range 900 {
			c.mu.Lock()
			if err := c.wasteLocked(); err != nil {
				t.Fatal(err)
			}
			c.mu.Unlock()
			if c.owes {
				c.rest()
			}
		}
		if took := time.Since(began); took < 50*time.Millisecond {
			t.Errorf("900 wasted streams took %v", took)
		}
	})
}

// A preface, a head, and SETTINGS that don't come to their end are waited for, but not for long.
func TestC69_WhatDoesNotEnd(t *testing.T) {
	for name, send := range map[string]func(f *http2.Framer, nc net.Conn){
		"nothing":        func(*http2.Framer, net.Conn) {},
		"half a preface": func(_ *http2.Framer, nc net.Conn) { _, _ = io.WriteString(nc, preface[:10]) },
		"no SETTINGS":    func(_ *http2.Framer, nc net.Conn) { _, _ = io.WriteString(nc, preface) },
		"half a head": func(f *http2.Framer, nc net.Conn) {
			_, _ = io.WriteString(nc, preface)
			_ = f.WriteSettings()
			_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0x80 | 2}})
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := net.Pipe()
				defer a.Close()
				s, err := NewServer(b, ServerConfig{}, quiet)
				if err != nil {
					t.Fatal(err)
				}
				began, done := time.Now(), make(chan time.Duration, 1)
				go func() {
					_ = s.Run(t.Context())
					done <- time.Since(began)
				}()
				go func() { _, _ = io.Copy(io.Discard, a) }() // ends with the connection
				send(http2.NewFramer(a, nil), a)
				select {
				case took := <-done:
					if took > 15*time.Second {
						t.Errorf("it was waited for %v", took)
					}
				case <-time.After(time.Minute):
					t.Error("it is waited for after a minute")
					_ = a.Close()
					<-done
				}
			})
		})
	}
}
