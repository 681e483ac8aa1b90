// SPDX-License-Identifier: Apache-2.0

package h1

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/weftmesh/weft/connect/proxy/header"
	"github.com/weftmesh/weft/connect/proxy/normalize"
	"github.com/weftmesh/weft/connect/proxy/stream"
	"github.com/weftmesh/weft/internal/stormtest"
)

// script is a connection that gives fixed bytes, in pieces of step, and keeps what is written.
type script struct {
	in   []byte
	step int
	out  bytes.Buffer
}

func (s *script) Read(p []byte) (int, error) {
	if len(s.in) == 0 {
		return 0, io.EOF
	}
	if s.step > 0 && len(p) > s.step {
		p = p[:s.step]
	}
	n := copy(p, s.in)
	s.in = s.in[n:]
	return n, nil
}
func (s *script) Write(p []byte) (int, error)      { return s.out.Write(p) }
func (s *script) Close() error                     { return nil }
func (s *script) CloseWrite() error                { return nil }
func (s *script) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (s *script) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (s *script) SetDeadline(time.Time) error      { return nil }
func (s *script) SetReadDeadline(time.Time) error  { return nil }
func (s *script) SetWriteDeadline(time.Time) error { return nil }

// message is a request as one reader understood it.
type message struct {
	method, host, target, body string
}

var requestSeeds = []string{
	"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
	"GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: b:80\r\nConnection: close, x\r\nX: y\r\n\r\n",
	"POST /a?b=%20 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhelloGET / HTTP/1.0\r\n\r\n",
	"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nt: v\r\n\r\nHEAD / HTTP/1.1\r\nHost: a\r\n\r\n",
	"OPTIONS * HTTP/1.1\r\nHost: [::1]:1\r\n\r\nGET http://a.b/c HTTP/1.1\r\nHost: a.b\r\nTE: trailers, deflate\r\n\r\n",
	"PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nx",
	"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: x\r\n\r\n",
	"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
	"GET / HTTP/1.1\nHost: a\n\n",
	"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n",
}

// FuzzServe feeds a served connection and sends what it accepts on through a client connection. net/http must read the
// same requests, as many of them, out of what the client wrote.
func FuzzServe(f *testing.F) {
	for _, s := range requestSeeds {
		f.Add([]byte(s), uint8(0))
		f.Add([]byte(s), uint8(1))
	}
	stormtest.Fuzz(f, func(t *testing.T, in []byte, step uint8) {
		back := &script{}
		var seen []message
		conn := &script{in: in, step: int(step)}
		_ = Serve(context.Background(), conn, ServerConfig{}, func(x stream.ServerExchange) {
			q := x.Request()
			body, err := io.ReadAll(bodyReader{x})
			if err != nil {
				return // nothing of it is sent on
			}
			// As on the data path: what the normaliser refuses is not sent on, and what it accepts is sent in its form.
			if q.Path, _, err = (normalize.Options{EscapedSlash: normalize.Keep}).Path(q.Path); err != nil {
				return
			}
			m := message{q.Method, q.Authority, q.Path, string(body)}
			if !forward(t, back, q, body, x.Trailers()) {
				return
			}
			seen = append(seen, m)
			_ = x.WriteHead(&stream.ResponseHead{Status: 200, HasLength: true}, true)
		})
		compare(t, seen, back.out.Bytes())
		readResponses(t, conn.out.Bytes())
	})
}

func forward(t *testing.T, back *script, q *stream.RequestHead, body []byte, trailers *header.List) bool {
	x := NewClient(back, ClientConfig{}).Exchange()
	if err := x.WriteHead(q, q.Length == 0); err != nil {
		t.Fatalf("accepted, but not to be written: %+v: %v", q, err)
	}
	if q.Length == 0 {
		return true
	}
	if err := errors.Join(x.WriteBody(body), x.Finish(trailers)); err != nil {
		t.Fatal(err)
	}
	return true
}

func compare(t *testing.T, want []message, wire []byte) {
	t.Helper()
	r := bufio.NewReader(bytes.NewReader(wire))
	for i, w := range want {
		q, err := http.ReadRequest(r)
		if err != nil {
			if w.host == "" && w.method != "" {
				return // an HTTP/1.0 request without Host may be read differently; it names no host to agree on
			}
			t.Fatalf("request %d of %d, %+v: %v in %q", i, len(want), w, err, wire)
		}
		body, err := io.ReadAll(q.Body)
		if err != nil {
			t.Fatalf("request %d, body: %v in %q", i, err, wire)
		}
		target := w.target
		if w.method == "CONNECT" {
			target = w.host
		}
		got := message{q.Method, q.Host, q.RequestURI, string(body)}
		if w.target = target; got != w {
			t.Fatalf("request %d: wrote %+v, net/http reads %+v in %q", i, w, got, wire)
		}
	}
	if rest, _ := io.ReadAll(r); len(rest) != 0 {
		t.Fatalf("net/http sees more than %d requests: %q", len(want), rest)
	}
}

// readResponses checks that what the server wrote is whole responses.
func readResponses(t *testing.T, wire []byte) {
	t.Helper()
	for _, line := range strings.SplitAfter(string(wire), "\n") {
		if strings.HasSuffix(line, "\n") && !strings.HasSuffix(line, "\r\n") && strings.HasPrefix(line, "HTTP/") {
			t.Fatalf("a status line ends in a bare LF: %q", wire)
		}
	}
}

// FuzzReadResponse reads a response, and writes it on as a server does: net/http must read the same from that.
func FuzzReadResponse(f *testing.F) {
	for _, s := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
		"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 404\r\nConnection: x\r\nX: y\r\n\r\nrest",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nt: v\r\n\r\n",
		"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", "HTTP/1.1 204 No Content\r\n\r\n",
	} {
		f.Add([]byte(s), uint8(0), false)
		f.Add([]byte(s), uint8(1), true)
	}
	stormtest.Fuzz(f, func(t *testing.T, in []byte, step uint8, head bool) {
		q := get("/")
		if head {
			q.Method = "HEAD"
		}
		x := NewClient(&script{in: in, step: int(step)}, ClientConfig{}).Exchange()
		if err := x.WriteHead(q, true); err != nil {
			t.Fatal(err)
		}
		var h stream.ResponseHead
		err := x.ReadHead(&h)
		for err == nil && h.Status < 200 {
			err = x.ReadHead(&h)
		}
		if err != nil {
			return
		}
		body, err := io.ReadAll(bodyReader{x})
		if err != nil {
			return
		}
		conn := &script{in: []byte(q.Method + " / HTTP/1.1\r\nHost: a\r\n\r\n")}
		_ = Serve(context.Background(), conn, ServerConfig{}, func(s stream.ServerExchange) {
			if err := s.WriteHead(&h, false); err != nil {
				t.Fatalf("read, but not to be written: %+v: %v", h, err)
			}
			_ = s.WriteBody(body)
			_ = s.Finish(x.Trailers())
		})
		r := bufio.NewReader(&conn.out)
		res, err := http.ReadResponse(r, &http.Request{Method: q.Method})
		if err != nil {
			t.Fatalf("net/http: %v", err)
		}
		got, err := io.ReadAll(res.Body)
		if err != nil || res.StatusCode != h.Status || !bytes.Equal(got, body) {
			t.Fatalf("read %d %q, net/http reads %d %q, %v", h.Status, body, res.StatusCode, got, err)
		}
		if r.Buffered() > 0 {
			t.Fatal("net/http leaves bytes behind the response")
		}
	})
}

// FuzzChunked reads a chunked body in steps of any size: the step makes no difference, and what is accepted is what
// net/http reads.
func FuzzChunked(f *testing.F) {
	for _, s := range []string{"5\r\nhello\r\n0\r\n\r\n", "1;x\r\na\r\n2\r\nbc\r\n0\r\nt: v\r\n\r\n", "0\r\n\r\n", "fffffffff\r\n", "1\nx\r\n0\r\n\r\n"} {
		f.Add([]byte(s), uint8(1), uint16(7))
	}
	room := make([]byte, 1<<16)
	stormtest.Fuzz(f, func(t *testing.T, in []byte, step uint8, size uint16) {
		limits := stream.Limits{}.WithDefaults()
		read := func(step, size int) (string, error) {
			rd := &reader{}
			rd.init(&script{in: in, step: step})
			b := &body{rd: rd, limits: &limits}
			b.start(bodyChunked, 0)
			var out []byte
			buf := room[:max(size, 1)]
			for {
				n, err := b.read(buf)
				out = append(out, buf[:n]...)
				if errors.Is(err, io.EOF) {
					return string(out), nil
				}
				if err != nil {
					return string(out), err
				}
			}
		}
		whole, err := read(0, 32<<10)
		pieces, err2 := read(int(step), int(size))
		if (err == nil) != (err2 == nil) || err == nil && whole != pieces {
			t.Fatalf("whole: %q, %v; in pieces: %q, %v", whole, err, pieces, err2)
		}
		if err != nil {
			return
		}
		q, err := http.ReadRequest(bufio.NewReader(io.MultiReader(
			strings.NewReader("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"), bytes.NewReader(in))))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(q.Body); err != nil || string(got) != whole {
			t.Fatalf("accepted %q; net/http reads %q, %v", whole, got, err)
		}
	})
}
