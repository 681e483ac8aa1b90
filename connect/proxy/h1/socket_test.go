// SPDX-License-Identifier: Apache-2.0

package h1

import (
	"bufio"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"github.com/weftmesh/weft/connect/proxy/stream"
	"github.com/weftmesh/weft/internal/records"
)

// wrapped is a connection around a socket that adds nothing to reading and writing, and counts both.
type wrapped struct {
	net.Conn
	reads, writes *atomic.Int64
}

func (w wrapped) Socket() net.Conn { return w.Conn }

func (w wrapped) Read(p []byte) (int, error) {
	w.reads.Add(1)
	return w.Conn.Read(p)
}

func (w wrapped) Write(p []byte) (int, error) {
	w.writes.Add(1)
	return w.Conn.Write(p)
}

// A waiting connection reads a request with the call that it waits in, also where its socket is wrapped: a byte first and then the rest
// would be a system call more for each request.
func TestWrappedSocketIsReadAtOnce(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var w wrapped
	w.reads, w.writes = &atomic.Int64{}, &atomic.Int64{}
	served := make(chan error, 1)
	go func() {
		conn, err := l.Accept()
		if err == nil {
			w.Conn = conn
			err = Serve(t.Context(), w, ServerConfig{}, func(x stream.ServerExchange) {
				h := &stream.ResponseHead{Status: 204}
				if err := x.WriteHead(h, true); err != nil {
					t.Error(err)
				}
			})
		}
		served <- err
	}()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for range 3 {
		if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, make([]byte, len("HTTP/1.1 204 No Content\r\n\r\n"))); err != nil {
			t.Fatal(err)
		}
	}
	_ = c.Close()
	if err := <-served; err != nil {
		t.Error(err)
	}
	if n := w.reads.Load() + w.writes.Load(); n != 0 {
		t.Errorf("the wrapper was gone through %d times", n)
	}
}

// A head and the body that comes with it are one write, of several TLS records.
func TestHeadAndBodyAreOneWriteOverTLS(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	known := httptest.NewTLSServer(nil)
	known.Close()
	w := wrapped{a, &atomic.Int64{}, &atomic.Int64{}}
	server := tls.Server(records.Under(w), &tls.Config{Certificates: known.TLS.Certificates, MinVersion: tls.VersionTLS13, DynamicRecordSizingDisabled: true, SessionTicketsDisabled: true})
	client := tls.Client(b, &tls.Config{InsecureSkipVerify: true})
	shaken := make(chan error)
	go func() { shaken <- client.Handshake() }()
	if err := errors.Join(server.Handshake(), <-shaken); err != nil {
		t.Fatal(err)
	}
	const size = 40 << 10
	before := w.writes.Load()
	served := make(chan error)
	go func() {
		served <- Serve(t.Context(), server, ServerConfig{}, func(x stream.ServerExchange) {
			if err := errors.Join(x.WriteHead(&stream.ResponseHead{Status: 200}, false), x.WriteBody(make([]byte, size))); err != nil {
				t.Error(err)
			}
			if n := w.writes.Load() - before; n != 1 {
				t.Errorf("%d writes of a head and a body", n)
			}
			_ = x.Finish(nil)
		})
	}()
	if _, err := io.WriteString(client, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(client), nil)
	if err != nil {
		t.Fatal(err)
	}
	if body, err := io.ReadAll(resp.Body); err != nil || len(body) != size {
		t.Errorf("%d bytes, %v", len(body), err)
	}
	_ = client.Close()
	<-served
}
