// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	xh2 "golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/weftmesh/weft/connect/proxy/config"
)

// h2request sends one request over HTTP/2 in raw frames and gives its status, or "reset" or "closed".
func h2request(t *testing.T, r *rig, body string, fields ...string) string {
	t.Helper()
	conn, err := net.Dial("tcp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience()))
	_, _ = io.WriteString(conn, xh2.ClientPreface)
	f := xh2.NewFramer(conn, conn)
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for i := 0; i < len(fields); i += 2 {
		_ = enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	_ = f.WriteSettings()
	_ = f.WriteHeaders(xh2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: body == ""})
	if body != "" {
		_ = f.WriteData(1, true, []byte(body))
	}
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			return "closed"
		}
		switch frame := frame.(type) {
		case *xh2.MetaHeadersFrame:
			return frame.PseudoValue("status")
		case *xh2.RSTStreamFrame:
			return "reset"
		}
	}
}

func TestC15_Paths(t *testing.T)         { http2ToHTTP1(t, "C15") }
func TestC56_FieldsOfHTTP2(t *testing.T) { http2ToHTTP1(t, "C56") }
func TestC57_PseudoFields(t *testing.T)  { http2ToHTTP1(t, "C57") }

// A path over HTTP/2 is as one over HTTP/1.1.
func TestC1_C4_C9_C13_PathsOverHTTP2(t *testing.T) {
	for _, id := range []string{"C1", "C4", "C9", "C13"} {
		http2ToHTTP1(t, id)
	}
}

// A gRPC method's name without the slash before it would be matched by no rule about the method, and an origin may serve it.
func TestC14_NoSlash(t *testing.T) {
	http2ToHTTP1(t, "C14")
	o := newOrigin(t)
	r := sidecar(t, o.addr, config.HTTP2, pathPolicy(false, "/svc/Method"))
	call := func(path string) string {
		return h2request(t, r, "", ":method", "POST", ":scheme", "http", ":authority", "api", ":path", path, "content-type", "application/grpc")
	}
	for path, want := range map[string]string{"svc/Method": "reset", "/svc/Method": "200, refused", "/svc/Other": "200"} {
		got := call(path)
		if log := o.take(); got == "200" && len(log) == 0 {
			got += ", refused" // gRPC's refusals are in a field
		}
		if got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
}

// http2ToHTTP1 is about requests that come over HTTP/2 and go on over HTTP/1.1: refused, and nothing at the origin.
func http2ToHTTP1(t *testing.T, id string) {
	t.Helper()
	o := newOrigin(t)
	r := sidecar(t, o.addr, config.HTTP1, pathPolicy(false, "/admin/secret"))
	request := func(method, path string, more ...string) []string {
		return append([]string{":method", method, ":scheme", "http", ":authority", "api", ":path", path}, more...)
	}
	get := func(more ...string) []string { return request("GET", "/", more...) }
	for _, c := range []struct {
		id, body string
		fields   []string
		want     string // of the answer: a status, or "reset" or "closed"
	}{
		{"control", "", get("x", "y"), "200"},
		{"control body", "hello", request("POST", "/", "content-length", "5"), "200"},
		{"C1", "", request("GET", "//admin//secret"), "403"},
		{"C4", "", request("GET", "/x/%2e%2e/admin/secret"), "403"},
		{"C9 NUL", "", request("GET", "/\x00"), "reset"},
		{"C9 raw byte", "", request("GET", "/\xff"), "400"},
		{"C9 space", "", request("GET", "/ HTTP/1.1\r\nx: y"), "reset"},
		{"C9 fragment", "", request("GET", "/admin/secret#"), "400"},
		{"C13 asterisk", "", request("GET", "*"), "reset"},
		{"C14 no slash", "", request("POST", "svc/Method", "content-type", "application/grpc"), "reset"},
		{"C15 no path", "", []string{":method", "GET", ":scheme", "http", ":authority", "api"}, "reset"},
		{"C15 empty path", "", request("GET", ""), "reset"},
		{"C15 two paths", "", []string{":method", "GET", ":scheme", "http", ":authority", "api", ":path", "/", ":path", "/admin/secret"}, "reset"},
		{"C15 CONNECT", "", []string{":method", "CONNECT", ":authority", "api:80"}, "403"},
		{"C15 CONNECT with a protocol", "", []string{":method", "CONNECT", ":protocol", "x", ":scheme", "http", ":authority", "api", ":path", "/"}, "403"},
		{"C28 another Host", "", get("host", "secret.com"), "reset"},
		{"C28 Host alone", "", []string{":method", "GET", ":scheme", "http", ":path", "/", "host", "api"}, "200"},
		{"C28 neither", "", []string{":method", "GET", ":scheme", "http", ":path", "/"}, "reset"},
		{"C56 CR", "", get("x", "a\rb"), "reset"},
		{"C56 LF", "", get("x", "a\nTransfer-Encoding: chunked"), "reset"},
		{"C56 CRLF in a name", "", get("x\r\nhost", "a"), "reset"},
		{"C56 NUL", "", get("x", "a\x00"), "reset"},
		{"C56 space in a name", "", get("x y", "a"), "reset"},
		{"C56 colon in a name", "", get("transfer-encoding:", "chunked"), "reset"},
		{"C56 capitals", "", get("X", "a"), "reset"},
		{"C56 white space around", "", get("x", " a"), "reset"},
		{"C56 transfer-encoding", "0\r\n\r\n", request("POST", "/", "transfer-encoding", "chunked"), "reset"},
		{"C56 connection", "", get("connection", "x-forwarded-client-cert"), "reset"},
		{"C56 keep-alive", "", get("keep-alive", "1"), "reset"},
		{"C56 upgrade", "", get("upgrade", "websocket"), "reset"},
		{"C56 te", "", get("te", "gzip"), "reset"},
		{"C56 te trailers", "", get("te", "trailers"), "200"},
		{"C56 length and no body", "", request("POST", "/", "content-length", "5"), "reset"},
		{"C56 length too short", "hello", request("POST", "/", "content-length", "3"), "reset"},
		{"C56 two lengths", "hello", request("POST", "/", "content-length", "5", "content-length", "0"), "reset"},
		{"C56 length in words", "hello", request("POST", "/", "content-length", "five"), "reset"},
		{"C57 late", "", get("x", "y", ":path", "/admin/secret"), "reset"},
		{"C57 unknown", "", append([]string{":x", "y"}, get()...), "reset"},
		{"C57 response's", "", append([]string{":status", "200"}, get()...), "reset"},
		{"C57 two methods", "", append([]string{":method", "POST"}, get()...), "reset"},
		{"C57 two schemes", "", append([]string{":scheme", "https"}, get()...), "reset"},
		{"C57 empty method", "", request("", "/"), "reset"},
		{"C57 method", "", request("GET / HTTP/1.1\r\nx:", "/"), "reset"},
		{"C57 scheme in capitals", "", []string{":method", "GET", ":scheme", "HTTP", ":authority", "api", ":path", "/"}, "200"},
		{"C57 scheme", "", []string{":method", "GET", ":scheme", "http://secret.com/", ":authority", "api", ":path", "/"}, "reset"},
	} {
		if n, _, _ := strings.Cut(c.id, " "); n != id && n != "control" {
			continue
		}
		t.Run(c.id, func(t *testing.T) {
			if got := h2request(t, r, c.body, c.fields...); got != c.want {
				t.Errorf("answered %s, want %s", got, c.want)
			}
			for _, s := range o.take() {
				// A length that turns out wrong is found when the head has gone on: the origin knows that the body is broken off.
				if c.want != "200" && !strings.HasSuffix(s.body, " !") {
					t.Errorf("the origin saw %s", s)
				}
			}
		})
	}
}

// script is an origin that says what it is told to, whatever it is asked.
type script struct {
	mu    sync.Mutex
	says  string
	conns int
}

func newScript(t *testing.T) (*script, string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &script{}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.conns++
			s.mu.Unlock()
			wg.Go(func() { s.serve(conn) })
		}
	})
	t.Cleanup(func() { _ = l.Close() })
	return s, l.Addr().String()
}

func (s *script) serve(conn net.Conn) {
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	for in := bufio.NewReader(conn); ; {
		req, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		s.mu.Lock()
		says := s.says
		s.mu.Unlock()
		if req.URL.Path == "/good" && req.Method == "GET" { // what was left of a body before it would be a part of the method
			says = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood"
		} else if !strings.Contains(says, "{early}") {
			_, _ = io.Copy(io.Discard, req.Body)
		}
		if _, err := io.WriteString(conn, strings.Replace(says, "{early}", "", 1)); err != nil {
			return
		}
	}
}

func TestC51_BodiesWhereNoneIs(t *testing.T) { originSaysTooMuch(t, "C51"); smuggles(t, "C51") }
func TestC52_MoreAnswers(t *testing.T)       { originSaysTooMuch(t, "C52") }
func TestC58_EarlyAnswers(t *testing.T)      { originSaysTooMuch(t, "C58") }

// Of two readings of an answer's length none is taken.
func TestC42_C45_C50_Answers(t *testing.T) {
	for _, id := range []string{"C42", "C45", "C50"} {
		originSaysTooMuch(t, id)
	}
}

// originSaysTooMuch: whatever an origin says beyond its one answer, no other client ever gets it: the connection isn't used again.
func originSaysTooMuch(t *testing.T, id string) {
	t.Helper()
	s, addr := newScript(t)
	r := sidecar(t, addr, config.HTTP1)
	const other = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nother"
	for _, c := range []struct{ id, method, says, want string }{
		{"control", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "200"},
		{"C51 HEAD with a body", "HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nother" + other, "200"},
		{"C51 204 with a body", "GET", "HTTP/1.1 204 No Content\r\n\r\n" + other, "204"},
		{"C51 204 with a length", "GET", "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nother", "5"},
		{"C51 304 with a body", "GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\nother", "304"},
		{"C52 flood of 1xx", "GET", strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 100) + other, "5"},
		{"C52 101 without an upgrade", "GET", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n" + other, "5"},
		{"C52 second response", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok" + other, "200"},
		{"C42 both lengths", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + other, "5"},
		{"C45 two lengths", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 5\r\n\r\nother", "5"},
		{"C50 LF", "GET", "HTTP/1.1 200 OK\nContent-Length: 2\n\nok", "5"},
		{"C50 splitting", "GET", "HTTP/1.1 200 OK\r\nX: a\r\r\n\r\n" + other, "5"},
		{"C58 early answer", "POST", "{early}HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\nno", "413"},
	} {
		if n, _, _ := strings.Cut(c.id, " "); n != id && n != "control" {
			continue
		}
		t.Run(c.id, func(t *testing.T) {
			s.mu.Lock()
			s.says = c.says
			s.mu.Unlock()
			in := c.method + " / HTTP/1.1\r\nHost: api\r\nConnection: close\r\n"
			if c.method == "POST" {
				in += "Content-Length: 1000000\r\n\r\n" + strings.Repeat("x", 1000) // and no more
			} else {
				in += "\r\n"
			}
			got := rawly(t, r, in)
			final := ""
			for _, g := range got {
				if g[0] != '1' {
					final += g + ";"
				}
			}
			if !strings.HasPrefix(final, c.want) || strings.Count(final, ";") != 1 {
				t.Errorf("answered %v, want one answer %s", got, c.want)
			}
			// The next ones get their own.
			for range 3 {
				resp, err := client(t, 1).Get(r.url("/good"))
				if err != nil {
					t.Fatal(err)
				}
				if b := body(t, resp); resp.StatusCode != 200 || b != "good" {
					t.Errorf("the next client got %s %q", resp.Status, b)
				}
			}
		})
	}
}

// Bytes sent ahead of an upgrade are never read as requests.
func TestC53_EarlyData(t *testing.T) {
	smuggles(t, "C53")
	s, addr := newScript(t)
	r := sidecar(t, addr, config.HTTP1)
	s.says = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
	if got := fmt.Sprint(rawly(t, r, websocket+"GET /good HTTP/1.1\r\nHost: api\r\n\r\n")); got != "[200]" {
		t.Errorf("an upgrade that isn't granted, and a request behind it: %s; want one answer, and the end", got)
	}
}

func TestC54_UpgradeToHTTP2(t *testing.T) { smuggles(t, "C54") }

const websocket = "GET / HTTP/1.1\r\nHost: api\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n\r\n"

// A tunnel is nobody else's connection: CONNECT opens none, and a connection that changed its protocol carries no other request.
func TestC55_TunnelsAreNoSharedConnections(t *testing.T) {
	s, addr := newScript(t)
	r := sidecar(t, addr, config.HTTP1)
	s.mu.Lock()
	s.says = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
	s.mu.Unlock()
	if got := fmt.Sprint(rawly(t, r, "CONNECT api:80 HTTP/1.1\r\nHost: api:80\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: api\r\n\r\n")); got != "[403]" {
		t.Errorf("CONNECT: %s", got)
	}
	if got := h2request(t, r, "", ":method", "CONNECT", ":authority", "api:80"); got != "403" {
		t.Errorf("CONNECT over HTTP/2: %s", got)
	}
	s.mu.Lock()
	before := s.conns
	s.says = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nfrom the origin"
	s.mu.Unlock()
	if before != 0 {
		t.Errorf("CONNECT made %d connections to the origin", before)
	}
	conn, err := net.Dial("tcp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	_, _ = io.WriteString(conn, websocket)
	in := bufio.NewReader(conn)
	if resp, err := http.ReadResponse(in, nil); err != nil || resp.StatusCode != 101 {
		t.Fatal(resp, err)
	}
	got := make([]byte, len("from the origin"))
	if _, err := io.ReadFull(in, got); err != nil || string(got) != "from the origin" {
		t.Fatalf("%q %v", got, err)
	}
	for range 3 {
		if got := fmt.Sprint(rawly(t, r, "GET /good HTTP/1.1\r\nHost: api\r\nConnection: close\r\n\r\n")); got != "[200]" {
			t.Errorf("another client: %s", got)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conns < before+1 {
		t.Error("the tunnel has no connection of its own")
	}
}
