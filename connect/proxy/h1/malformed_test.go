// SPDX-License-Identifier: Apache-2.0

package h1

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weftmesh/weft/connect/proxy/stream"
)

// what is the requests that a handler saw, as method, authority, path and body.
func serveBytes(t *testing.T, config ServerConfig, in string) (seen []string, out string) {
	t.Helper()
	conn, done := serving(t, config, func(x stream.ServerExchange) {
		q := x.Request()
		line := q.Method + " " + q.Authority + " " + q.Path
		body, err := io.ReadAll(bodyReader{x})
		if err != nil {
			line += " !"
		}
		seen = append(seen, line+" "+string(body))
		h := &stream.ResponseHead{Status: 200}
		if err != nil {
			h.Status = 400
		}
		_ = x.WriteHead(h, true)
	})
	go func() {
		_, _ = io.WriteString(conn, in)
		_ = closeWrite(conn)
	}()
	answer, _ := io.ReadAll(conn)
	<-done
	return seen, string(answer)
}

// bodyReader makes an io.Reader of a body.
type bodyReader struct{ b stream.Body }

func (r bodyReader) Read(p []byte) (int, error) { return r.b.ReadBody(p) }

func TestMalformedRequests(t *testing.T) {
	const host = "Host: a.test\r\n"
	big := strings.Repeat("a", 70<<10)
	for _, tc := range []struct {
		name    string
		bad     string
		status  string
		control string // differs from bad in one thing, and is served
	}{
		{"bare LF", "GET / HTTP/1.1\nHost: a.test\n\n", "400", "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"},
		{"bare LF in one line", "GET / HTTP/1.1\r\nHost: a.test\nX: y\r\n\r\n", "400", "GET / HTTP/1.1\r\nHost: a.test\r\nX: y\r\n\r\n"},
		{"bare CR", "GET / HTTP/1.1\r\n" + host + "X: a\rb\r\n\r\n", "400", "GET / HTTP/1.1\r\n" + host + "X: a b\r\n\r\n"},
		{"line folding", "GET / HTTP/1.1\r\n" + host + "X: a\r\n b\r\n\r\n", "400", "GET / HTTP/1.1\r\n" + host + "X: a\r\nb: c\r\n\r\n"},
		{"white space before the first field", "GET / HTTP/1.1\r\n " + host + "\r\n", "400", "GET / HTTP/1.1\r\n" + host + "\r\n"},
		{"space before the colon", "GET / HTTP/1.1\r\n" + host + "X : a\r\n\r\n", "400", "GET / HTTP/1.1\r\n" + host + "X:  a\r\n\r\n"},
		{"a name that is no token", "GET / HTTP/1.1\r\n" + host + "X(y): a\r\n\r\n", "400", "GET / HTTP/1.1\r\n" + host + "X_y: a\r\n\r\n"},
		{"no name", "GET / HTTP/1.1\r\n" + host + ": a\r\n\r\n", "400", "GET / HTTP/1.1\r\n" + host + "x: a\r\n\r\n"},
		{"no colon", "GET / HTTP/1.1\r\n" + host + "X\r\n\r\n", "400", "GET / HTTP/1.1\r\n" + host + "X:\r\n\r\n"},
		{"NUL in a value", "GET / HTTP/1.1\r\n" + host + "X: a\x00\r\n\r\n", "400", "GET / HTTP/1.1\r\n" + host + "X: a\x80\r\n\r\n"},
		{"NUL in a name", "GET / HTTP/1.1\r\n" + host + "X\x00: a\r\n\r\n", "400", "GET / HTTP/1.1\r\n" + host + "X0: a\r\n\r\n"},
		{"DEL in a value", "GET / HTTP/1.1\r\n" + host + "X: \x7f\r\n\r\n", "400", "GET / HTTP/1.1\r\n" + host + "X: \t~\r\n\r\n"},
		{"two spaces in the first line", "GET  / HTTP/1.1\r\n" + host + "\r\n", "400", "GET / HTTP/1.1\r\n" + host + "\r\n"},
		{"a space in the target", "GET /a b HTTP/1.1\r\n" + host + "\r\n", "400", "GET /a%20b HTTP/1.1\r\n" + host + "\r\n"},
		{"a tab in the first line", "GET\t/ HTTP/1.1\r\n" + host + "\r\n", "400", "GET / HTTP/1.1\r\n" + host + "\r\n"},
		{"a fragment", "GET /a#b HTTP/1.1\r\n" + host + "\r\n", "400", "GET /a%23b HTTP/1.1\r\n" + host + "\r\n"},
		{"a raw byte in the target", "GET /\xff HTTP/1.1\r\n" + host + "\r\n", "400", "GET /%ff HTTP/1.1\r\n" + host + "\r\n"},
		{"no version", "GET /\r\n" + host + "\r\n", "400", "GET / HTTP/1.0\r\n" + host + "\r\n"},
		{"version 2.0", "GET / HTTP/2.0\r\n" + host + "\r\n", "505", "GET / HTTP/1.1\r\n" + host + "\r\n"},
		{"version in lower case", "GET / http/1.1\r\n" + host + "\r\n", "400", "GET / HTTP/1.1\r\n" + host + "\r\n"},
		{"no Host", "GET / HTTP/1.1\r\n\r\n", "400", "GET / HTTP/1.0\r\n\r\n"},
		{"two Hosts", "GET / HTTP/1.1\r\n" + host + host + "\r\n", "400", "GET / HTTP/1.1\r\n" + host + "\r\n"},
		{"an empty Host", "GET / HTTP/1.1\r\nHost:\r\n\r\n", "400", "GET / HTTP/1.1\r\nHost:a\r\n\r\n"},
		{"user information in Host", "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", "400", "GET / HTTP/1.1\r\nHost: ua\r\n\r\n"},
		{"a list in Host", "GET / HTTP/1.1\r\nHost: a,b\r\n\r\n", "400", "GET / HTTP/1.1\r\nHost: a.b\r\n\r\n"},
		{"absolute target and another Host", "GET http://b.test/ HTTP/1.1\r\n" + host + "\r\n", "400", "GET http://A.test/ HTTP/1.1\r\n" + host + "\r\n"},
		{"absolute target of another scheme", "GET ftp://a.test/ HTTP/1.1\r\n" + host + "\r\n", "400", "GET https://a.test/ HTTP/1.1\r\n" + host + "\r\n"},
		{"user information in the target", "GET http://u@a.test/ HTTP/1.1\r\n" + host + "\r\n", "400", "GET http://a.test/ HTTP/1.1\r\n" + host + "\r\n"},
		{"* with GET", "GET * HTTP/1.1\r\n" + host + "\r\n", "400", "OPTIONS * HTTP/1.1\r\n" + host + "\r\n"},
		{"no slash", "GET a HTTP/1.1\r\n" + host + "\r\n", "400", "GET /a HTTP/1.1\r\n" + host + "\r\n"},
		{"length and chunked", "POST / HTTP/1.1\r\n" + host + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"},
		{"chunked and length 0", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n0\r\n\r\n", "400", "POST / HTTP/1.1\r\n" + host + "Content-Length: 0\r\n\r\n"},
		{"two lengths", "POST / HTTP/1.1\r\n" + host + "Content-Length: 1\r\nContent-Length: 2\r\n\r\nab", "400", "POST / HTTP/1.1\r\n" + host + "Content-Length: 2\r\n\r\nab"},
		{"the same length twice", "POST / HTTP/1.1\r\n" + host + "Content-Length: 2\r\nContent-Length: 2\r\n\r\nab", "400", "POST / HTTP/1.1\r\n" + host + "Content-Length: 002\r\n\r\nab"},
		{"a list of lengths", "POST / HTTP/1.1\r\n" + host + "Content-Length: 2, 2\r\n\r\nab", "400", "POST / HTTP/1.1\r\n" + host + "Content-Length: 2 \r\n\r\nab"},
		{"a signed length", "POST / HTTP/1.1\r\n" + host + "Content-Length: +2\r\n\r\nab", "400", "POST / HTTP/1.1\r\n" + host + "Content-Length: 2\r\n\r\nab"},
		{"a negative length", "POST / HTTP/1.1\r\n" + host + "Content-Length: -1\r\n\r\nab", "400", "POST / HTTP/1.1\r\n" + host + "Content-Length: 2\r\n\r\nab"},
		{"a hexadecimal length", "POST / HTTP/1.1\r\n" + host + "Content-Length: 0x2\r\n\r\nab", "400", "POST / HTTP/1.1\r\n" + host + "Content-Length: 02\r\n\r\nab"},
		{"a length of 2^64", "POST / HTTP/1.1\r\n" + host + "Content-Length: 18446744073709551618\r\n\r\nab", "400", "POST / HTTP/1.1\r\n" + host + "Content-Length: 2\r\n\r\nab"},
		{"an empty length", "POST / HTTP/1.1\r\n" + host + "Content-Length:\r\n\r\n", "400", "POST / HTTP/1.1\r\n" + host + "Content-Length: 0\r\n\r\n"},
		{"chunked in HTTP/1.0", "POST / HTTP/1.0\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"},
		{"a body with TRACE", "TRACE / HTTP/1.1\r\n" + host + "Content-Length: 1\r\n\r\na", "400", "DELETE / HTTP/1.1\r\n" + host + "Content-Length: 1\r\n\r\na"},
		{"another expectation", "POST / HTTP/1.1\r\n" + host + "Expect: 200-ok\r\n\r\n", "417", "POST / HTTP/1.1\r\n" + host + "Expect: 100-Continue\r\n\r\n"},
		{"a target over the limit", "GET /" + big + " HTTP/1.1\r\n" + host + "\r\n", "414", "GET /" + big[:60<<10] + " HTTP/1.1\r\n" + host + "\r\n"},
		{"a field over the limit", "GET / HTTP/1.1\r\n" + host + "X: " + big + "\r\n\r\n", "431", "GET / HTTP/1.1\r\n" + host + "X: " + big[:60<<10] + "\r\n\r\n"},
		{"fields over the limit", "GET / HTTP/1.1\r\n" + host + strings.Repeat("x: y\r\n", 200) + "\r\n", "431", "GET / HTTP/1.1\r\n" + host + strings.Repeat("x: y\r\n", 199) + "\r\n"},
		{"too many Connection options", "GET / HTTP/1.1\r\n" + host + "Connection: " + strings.Repeat("a,", 33) + "\r\n\r\n", "400", "GET / HTTP/1.1\r\n" + host + "Connection: " + strings.Repeat("a,", 32) + "\r\n\r\n"},
		{"two empty lines first", "\r\n\r\nGET / HTTP/1.1\r\n" + host + "\r\n", "400", "\r\nGET / HTTP/1.1\r\n" + host + "\r\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			const next = "GET /smuggled HTTP/1.1\r\nHost: a.test\r\n\r\n"
			seen, out := serveBytes(t, ServerConfig{}, tc.bad+next)
			if len(seen) != 0 || !strings.HasPrefix(out, "HTTP/1.1 "+tc.status+" ") || !strings.Contains(out, "\r\nConnection: close\r\n") {
				t.Errorf("served %q, answered %q; want nothing served and %s with close", seen, out, tc.status)
			}
			seen, out = serveBytes(t, ServerConfig{}, tc.control)
			if len(seen) != 1 || !strings.HasPrefix(out, "HTTP/1.1 200 ") {
				t.Errorf("control: served %q, answered %q", seen, out)
			}
		})
	}
}

func TestTransferEncodings(t *testing.T) {
	for value, status := range map[string]string{
		"chunked": "200", "CHUNKED": "200", "\tchunked ": "200",
		"xchunked": "501", "gzip": "501", "gzip, chunked": "501", "identity": "501", "chunked;q=1": "501", "\"chunked\"": "501",
		"chunked, identity": "400", "chunked,chunked": "400", "chunked,": "501", ",chunked": "501", "": "400",
		"chunked\r\nTransfer-Encoding: chunked": "400", "chunked\r\nTransfer-Encoding: identity": "400",
		"\x0bchunked": "400", "chunked\x00": "400", "chun\rked": "400", "\r\n chunked": "400", "chu nked": "501",
	} {
		in := "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: " + value + "\r\n\r\n1\r\na\r\n0\r\n\r\n"
		seen, out := serveBytes(t, ServerConfig{}, in)
		if !strings.HasPrefix(out, "HTTP/1.1 "+status+" ") || (len(seen) == 1) != (status == "200") {
			t.Errorf("%q: served %q, answered %q, want %s", value, seen, out, status)
		}
	}
}

func TestMalformedChunks(t *testing.T) {
	for in, ok := range map[string]bool{
		"5\r\nhello\r\n0\r\n\r\n":                                        true,
		"00005\r\nhello\r\n000\r\n\r\n":                                  true,
		"5;a=b;c=\"d\"\r\nhello\r\n0;x\r\n\r\n":                          true,
		"5\r\nhello\r\n0\r\ngrpc-status: 0\r\n\r\n":                      true,
		"5\nhello\r\n0\r\n\r\n":                                          false,
		"5\r\nhello\n0\r\n\r\n":                                          false,
		"5 \r\nhello\r\n0\r\n\r\n":                                       false,
		" 5\r\nhello\r\n0\r\n\r\n":                                       false,
		"0x5\r\nhello\r\n0\r\n\r\n":                                      false,
		"+5\r\nhello\r\n0\r\n\r\n":                                       false,
		"-5\r\nhello\r\n0\r\n\r\n":                                       false,
		"\r\nhello\r\n0\r\n\r\n":                                         false,
		"g\r\nhello\r\n0\r\n\r\n":                                        false,
		"4\r\nhello\r\n0\r\n\r\n":                                        false,
		"10000000000000005\r\nhello\r\n0\r\n\r\n":                        false,
		"ffffffffffffffff\r\nhello\r\n0\r\n\r\n":                         false,
		"5;a\rb\r\nhello\r\n0\r\n\r\n":                                   false,
		"5;a\x00\r\nhello\r\n0\r\n\r\n":                                  false,
		"5;" + strings.Repeat("a", 5000) + "\r\nhello\r\n0\r\n\r\n":      false,
		"5\r\nhello\r\n0\r\n":                                            false,
		"5\r\nhell":                                                      false,
		"5\r\nhello\r\n0\r\nHost: b\r\n\r\n":                             false,
		"5\r\nhello\r\n0\r\nContent-Length: 3\r\n\r\n":                   false,
		"5\r\nhello\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n":          false,
		"5\r\nhello\r\n0\r\nAuthorization: x\r\n\r\n":                    false,
		"5\r\nhello\r\n0\r\nX-Forwarded-Client-Cert: By=x\r\n\r\n":       false,
		"5\r\nhello\r\n0\r\na b: c\r\n\r\n":                              false,
		"5\r\nhello\r\n0\r\na: b\n\r\n":                                  false,
		"5\r\nhello\r\n0\r\n" + strings.Repeat("a: b\r\n", 201) + "\r\n": false,
	} {
		head := "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
		next := "GET /next HTTP/1.1\r\nHost: a\r\n\r\n"
		if strings.HasSuffix(in, "hell") || strings.HasSuffix(in, "0\r\n") {
			next = "" // a truncated body: what followed would belong to it
		}
		seen, _ := serveBytes(t, ServerConfig{}, head+in+next)
		if ok {
			if len(seen) != 2 || seen[0] != "POST a / hello" || seen[1] != "GET a /next " {
				t.Errorf("%q: served %q", in, seen)
			}
			continue
		}
		if len(seen) != 1 || !strings.Contains(seen[0], "!") {
			t.Errorf("%q: served %q, want one request with a body that fails", in, seen)
		}
	}
}

func TestMalformedResponses(t *testing.T) {
	for in, ok := range map[string]bool{
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi":                                  true,
		"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nhi":                                     true,
		"HTTP/1.0 200 OK\r\n\r\nhi":                                                       true,
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n":       true,
		"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi":  true,
		"\r\nHTTP/1.1 200 OK\r\n\r\nhi":                                                   false,
		"HTTP/1.1 200 OK\nContent-Length: 2\r\n\r\nhi":                                    false,
		"HTTP/2.0 200 OK\r\n\r\nhi":                                                       false,
		"HTTP/1.1 20 OK\r\n\r\nhi":                                                        false,
		"HTTP/1.1 099 OK\r\n\r\nhi":                                                       false,
		"HTTP/1.1  200 OK\r\n\r\nhi":                                                      false,
		"HTTP/1.1 200 O\x00K\r\n\r\nhi":                                                   false,
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nhi":             false,
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n":      false,
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nhi":                            false,
		"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n":                  false,
		"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nhi":                          false,
		"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n":                  false,
		strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 17) + "HTTP/1.1 200 OK\r\n\r\nhi": false,
		"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 2\r\n\r\nhi":                    false,
		"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nhi":                                  false,
	} {
		client, server := tcpPair(t)
		go func() {
			_, _ = http.ReadRequest(bufio.NewReader(server))
			_, _ = io.WriteString(server, in)
			_ = closeWrite(server)
		}()
		x := NewClient(client, ClientConfig{}).Exchange()
		if err := x.WriteHead(get("/"), true); err != nil {
			t.Fatal(err)
		}
		var h stream.ResponseHead
		err := x.ReadHead(&h)
		for err == nil && h.Status < 200 {
			err = x.ReadHead(&h)
		}
		var body []byte
		if err == nil {
			body, err = io.ReadAll(bodyReader{x})
		}
		if (err == nil) != ok || ok && string(body) != "hi" {
			t.Errorf("%q: %q, %v", in, body, err)
		}
		if !ok && x.Close() {
			t.Errorf("%q: the connection counts as reusable", in)
		}
	}
}

// Heads over their limits are refused, and the same within them served.
func TestC68_HeadsOverTheirLimits(t *testing.T) {
	const host = "Host: a.test\r\n"
	for _, c := range []struct {
		in   string
		want string
	}{
		{"GET / HTTP/1.1\r\n" + host + "X: " + strings.Repeat("a", 1<<20) + "\r\n\r\n", "431"},
		{"GET / HTTP/1.1\r\n" + host + strings.Repeat("X: a\r\n", 10_000) + "\r\n", "431"},
		{"GET / HTTP/1.1\r\n" + host + strings.Repeat("X:a\r\n", 1000) + "\r\n", "431"},
		{"GET / HTTP/1.1\r\n" + host + "Cookie: " + strings.Repeat("a=b; ", 100_000) + "\r\n\r\n", "431"},
		{"GET /?" + strings.Repeat("a&", 500_000) + " HTTP/1.1\r\n" + host + "\r\n", "414"},
		{"GET /?" + strings.Repeat("a&", 10_000) + " HTTP/1.1\r\n" + host + strings.Repeat("X: a\r\n", 100) + "\r\n", "200"},
	} {
		if _, out := serveBytes(t, ServerConfig{}, c.in); !strings.HasPrefix(out, "HTTP/1.1 "+c.want+" ") {
			t.Errorf("%.60q: %.60q, want %s", c.in, out, c.want)
		}
	}
}

// A head that doesn't come to its end is waited for, but not for long, however often a byte of it comes.
func TestC69_HeadsThatDoNotEnd(t *testing.T) {
	for name, c := range map[string]struct{ at, each, end string }{
		"nothing more": {"GET / HTTP/1.1\r\nHost: a\r\n", "", ""}, "byte by byte": {"GET / HTTP/1.1\r\nHost: a\r\nX: ", "a", ""},
		"the control": {"GET / HTTP/1.1\r\nHost: a\r\n", "", "\r\n"},
	} {
		synctest.Test(t, func(t *testing.T) {
			a, b := net.Pipe()
			defer a.Close()
			done, began := make(chan time.Duration, 1), time.Now()
			go func() {
				_ = Serve(t.Context(), b, ServerConfig{IdleTimeout: time.Hour}, func(x stream.ServerExchange) { _ = x.WriteHead(&stream.ResponseHead{Status: 200}, true) })
				done <- time.Since(began)
			}()
			answer := make(chan string, 1)
			go func() {
				var got [12]byte
				_, _ = io.ReadFull(a, got[:])
				answer <- string(got[:])
				_, _ = io.Copy(io.Discard, a) // ends with the connection
			}()
			_, _ = io.WriteString(a, c.at+c.end)
			for range 30 {
				time.Sleep(time.Second) // virtual
				if _, err := io.WriteString(a, c.each); err != nil {
					break
				}
			}
			want := "HTTP/1.1 408"
			if c.end != "" {
				want = "HTTP/1.1 200"
			}
			select {
			case got := <-answer:
				if got != want {
					t.Errorf("%s: %q", name, got)
				}
			default:
				t.Errorf("%s: it is waited for after half a minute", name)
			}
			_ = a.Close()
			<-done
		})
	}
}
