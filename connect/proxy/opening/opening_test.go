// SPDX-License-Identifier: Apache-2.0

package opening

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/weftmesh/weft/internal/stormtest"
)

// hello is what a client of Go's sends first.
func hello(t testing.TB, c *tls.Config) []byte {
	t.Helper()
	ours, theirs := net.Pipe()
	defer ours.Close()
	go func() {
		defer theirs.Close()
		_ = tls.Client(theirs, c).Handshake() // it ends when ours is closed
	}()
	var b []byte
	buf := make([]byte, 64<<10)
	for {
		n, err := ours.Read(buf)
		b = append(b, buf[:n]...)
		if err != nil {
			t.Fatal(err)
		}
		if len(b) >= 5 && len(b) >= 5+int(b[3])<<8+int(b[4]) {
			return b
		}
	}
}

// split makes records of n bytes of one record.
func split(record []byte, n int) []byte {
	var out []byte
	for body := record[5:]; len(body) > 0; {
		m := min(n, len(body))
		out = append(out, 22, 3, 1, byte(m>>8), byte(m))
		out = append(out, body[:m]...)
		body = body[m:]
	}
	return out
}

func TestServerName(t *testing.T) {
	insecure := func(name string) *tls.Config { return &tls.Config{ServerName: name, InsecureSkipVerify: true} }
	named := hello(t, insecure("API.example.com"))
	long := insecure("api.example.com")
	for range 100 {
		long.NextProtos = append(long.NextProtos, strings.Repeat("x", 100))
	}
	for _, c := range []struct {
		name string
		in   []byte
		want string
		more bool
	}{
		{"a name", named, "api.example.com", false},
		{"no name", hello(t, insecure("")), "", false},
		{"an address is no name", hello(t, insecure("10.0.0.1")), "", false},
		{"of 10 KB", hello(t, long), "api.example.com", false},
		{"in records of a byte", split(named, 1), "api.example.com", false},
		{"in records of a hundred bytes", split(named, 100), "api.example.com", false},
		{"what follows isn't looked at", append(bytes.Clone(named), "more"...), "api.example.com", false},
		{"nothing yet", nil, "", true},
		{"half", named[:len(named)/2], "", true},
		{"one byte too few", named[:len(named)-1], "", true},
		{"plain text", []byte("GET / HTTP/1.1\r\n\r\n"), "", false},
		{"SSH", []byte("SSH-2.0-x\r\n"), "", false},
		{"another handshake message", []byte{22, 3, 1, 0, 4, 2, 0, 0, 0}, "", false},
		{"an empty record", []byte{22, 3, 1, 0, 0}, "", false},
		{"a record that is too long", []byte{22, 3, 1, 0xff, 0xff}, "", false},
		{"a message that is too long", []byte{22, 3, 1, 0, 4, 1, 0xff, 0xff, 0xff}, "", false},
		{"never whole", append([]byte{22, 3, 1, 0x40, 0, 1, 0, 0x3f, 0xfb}, make([]byte, MaxHello)...), "", false},
	} {
		if got, more := ServerName(c.in); got != c.want || more != c.more {
			t.Errorf("%s: %q, more %v; want %q, %v", c.name, got, more, c.want, c.more)
		}
	}
}

func TestOf(t *testing.T) {
	for in, want := range map[string]Protocol{
		"":                                       Unknown,
		"GET / HTTP/1.1\r\nHost: a\r\n\r\n":      HTTP1,
		"M-SEARCH * HTTP/1.1\r\n":                HTTP1,
		"POST http://a/ HTTP/1.0\r\n\r\nGET / x": HTTP1,
		"GET / HTTP/1.1\r\nUpgrade: WebSocket\r\nConnection: upgrade\r\n\r\n": HTTP1,
		"GET / HTTP/1.1\r\nupgrade: tcp\r\n\r\n":                              Opaque,
		"GET / HTTP/1.1\r\n\r\nUpgrade: tcp\r\n":                              HTTP1, // that is a body
		"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n":                             Opaque,
		"GET / HTTP/1.1":                            Opaque, // one read decides
		"GET /\r\n":                                 Opaque,
		"get / HTTP/1.1\r\n":                        Opaque,
		"GET / HTTP/1.1\n\n":                        Opaque,
		"GET / RTSP/1.0\r\n":                        Opaque,
		"OPTIONS sip:a SIP/2.0\r\n":                 Opaque,
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n":          HTTP2,
		"PRI * HTTP/2.0\r":                          Opaque,
		"\x16\x03\x01\x02\x00\x01\x00\x01\xfc":      TLS,
		"\x16\x03":                                  Opaque,
		"SSH-2.0-OpenSSH\r\n":                       Opaque,
		"EHLO a\r\n":                                Opaque,
		"*1\r\n$4\r\nPING\r\n":                      Opaque, // Redis
		"\x00\x00\x00\x08\x04\xd2\x16\x2f":          Opaque, // PostgreSQL's request for TLS
		strings.Repeat("A", 33) + " / HTTP/1.1\r\n": Opaque,
	} {
		if got := Of([]byte(in)); got != want {
			t.Errorf("%q is %v, want %v", in, got, want)
		}
	}
}

// reading is a connection that gives bytes, and takes what is written.
type reading struct {
	net.Conn
	io.Reader
}

func (r reading) Read(p []byte) (int, error)       { return r.Reader.Read(p) }
func (reading) Write(p []byte) (int, error)        { return len(p), nil }
func (reading) Close() error                       { return nil }
func (reading) SetDeadline(time.Time) error        { return nil }
func (reading) SetWriteDeadline(t time.Time) error { return nil }

var errSeen = errors.New("seen")

// FuzzServerName holds the parser against crypto/tls: of what a server takes, both see the same name, and no byte more or less
// changes what was decided.
func FuzzServerName(f *testing.F) {
	for _, name := range []string{"", "api.example.com", "XN--a.example"} {
		h := hello(f, &tls.Config{ServerName: name, InsecureSkipVerify: true})
		f.Add(h)
		f.Add(split(h, 50))
	}
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	stormtest.Fuzz(f, func(t *testing.T, in []byte) {
		name, more := ServerName(in)
		if longer, still := ServerName(append(bytes.Clone(in), 22, 3, 1, 0)); !more && (longer != name || still) {
			t.Fatalf("%x: %q, and %q (more %v) with bytes after it", in, name, longer, still)
		}
		if more && len(in) >= MaxHello {
			t.Fatal("more than the most is waited for")
		}
		theirs, seen := "", false
		_ = tls.Server(reading{Reader: bytes.NewReader(in)}, &tls.Config{GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			theirs, seen = h.ServerName, true
			return nil, errSeen
		}}).HandshakeContext(context.Background()) // it ends with errSeen at the latest
		if seen && len(in) < MaxHello && hostName([]byte(theirs)) != name {
			t.Fatalf("%x: %q, crypto/tls sees %q", in, name, theirs)
		}
	})
}

// FuzzOf: whatever is called HTTP has a whole request line, and what follows it doesn't make it anything else but Opaque.
func FuzzOf(f *testing.F) {
	f.Add([]byte("GET / HTTP/1.1\r\nUpgrade: x\r\n\r\n"))
	f.Add([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))
	stormtest.Fuzz(f, func(t *testing.T, in []byte) {
		got := Of(in)
		if got == HTTP1 {
			line, _, ok := bytes.Cut(in, []byte("\r\n"))
			if !ok || !bytes.Contains(line, []byte(" HTTP/1.")) {
				t.Fatalf("%q is taken for HTTP/1", in)
			}
		}
		if after := Of(append(bytes.Clone(in), "\r\n\r\n"...)); got != Opaque && got != Unknown && after != got {
			t.Fatalf("%q is %v, and %v with more after it", in, got, after)
		}
	})
}
