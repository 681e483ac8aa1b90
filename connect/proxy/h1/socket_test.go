// SPDX-License-Identifier: Apache-2.0

package h1

import (
	"io"
	"net"
	"sync/atomic"
	"testing"

	"github.com/weftmesh/weft/connect/proxy/stream"
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
