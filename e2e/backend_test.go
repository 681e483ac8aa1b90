// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// idHeader carries a request's id.
const idHeader = "X-Request-Number"

// Backend is an application in the tests' process that writes down which requests reached it.
type Backend struct {
	Port int
	name string
	stop func()

	mu       sync.Mutex // guards all below
	seen     map[string]int
	answered map[string]bool
	last     http.Header
	flaky    atomic.Int64 // calls of Flaky
}

func newBackend(name string) *Backend {
	return &Backend{name: name, seen: map[string]int{}, answered: map[string]bool{}}
}

// listen binds the backend's port.
func (b *Backend) listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b.Port = l.Addr().(*net.TCPAddr).Port
	return l
}

func (b *Backend) note(id string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.seen[id]++
}

func (b *Backend) count() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := 0
	for _, c := range b.seen {
		n += c
	}
	return n
}

func (b *Backend) header() http.Header {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.last
}

// httpBackend answers HTTP/1 and HTTP/2 without TLS:
//
//	/echo      the body, after all of it was read; the id is noted
//	/slow      the same after 300 ms
//	/stream    the body, as it comes
//	/page      100 bytes
//	/trailers  the request's trailers as the response's
//	/ws        upgrades and echoes bytes
//	/hang      nothing, until the caller is gone
func httpBackend(t *testing.T, name string) *Backend {
	t.Helper()
	b := newBackend(name)
	l := b.listen(t)
	mux := http.NewServeMux()
	mux.HandleFunc("/{$}", func(w http.ResponseWriter, r *http.Request) {
		b.mu.Lock()
		b.last = r.Header.Clone()
		b.mu.Unlock()
		_, _ = io.WriteString(w, name)
	})
	mux.HandleFunc("/echo", b.echo)
	mux.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-time.After(300 * time.Millisecond):
			b.echo(w, r)
		case <-r.Context().Done():
		}
	})
	mux.HandleFunc("/stream", stream)
	mux.HandleFunc("/page", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, strings.Repeat("page ", 20)) })
	mux.HandleFunc("/trailers", trailers)
	mux.HandleFunc("/ws", websocket)
	mux.HandleFunc("/hang", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	server := &http.Server{Handler: mux, Protocols: &http.Protocols{}}
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetUnencryptedHTTP2(true)
	go func() { _ = server.Serve(l) }() // ends with Close
	b.stop = func() { _ = server.Close() }
	t.Cleanup(b.stop)
	return b
}

func (b *Backend) echo(w http.ResponseWriter, r *http.Request) {
	id := r.Header.Get(idHeader)
	b.note(id)
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the caller is gone
	}
	w.Header().Set(idHeader, id)
	if _, err := w.Write(body); err == nil {
		b.mu.Lock()
		b.answered[id] = true
		b.mu.Unlock()
	}
}

func stream(w http.ResponseWriter, r *http.Request) {
	rc := http.NewResponseController(w)
	_ = rc.EnableFullDuplex() // HTTP/2 always is
	w.WriteHeader(http.StatusOK)
	_ = rc.Flush()
	buf := make([]byte, 64<<10)
	for {
		n, err := r.Body.Read(buf)
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil {
				return
			}
			_ = rc.Flush()
		}
		if err != nil {
			return
		}
	}
}

func trailers(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	_, _ = w.Write(body)
	for k, v := range r.Trailer {
		w.Header()[http.TrailerPrefix+k] = v
	}
}

func websocket(w http.ResponseWriter, r *http.Request) {
	if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		http.Error(w, "want an upgrade to websocket", http.StatusBadRequest)
		return
	}
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	_, _ = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n")
	if rw.Flush() == nil {
		_, _ = io.Copy(conn, rw)
	}
}

// echoes says first to each connection of l, and then what it hears, until the test ends.
func (b *Backend) echoes(t *testing.T, l net.Listener, first string) {
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_, _ = io.WriteString(conn, first) // the client may be gone
				_, _ = io.Copy(conn, conn)         // ends with the connection
			}()
		}
	}()
	b.stop = func() { _ = l.Close() }
	t.Cleanup(b.stop)
}

// tcpBackend echoes bytes; at the end of what it is sent it adds how much that was, and closes.
func tcpBackend(t *testing.T) *Backend {
	t.Helper()
	b := newBackend("tcp")
	l := b.listen(t)
	var conns sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	go func() { // ends when the listener is closed
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conns.Go(func() {
				defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
				defer conn.Close()
				n, err := io.Copy(conn, bufio.NewReader(conn))
				if err == nil {
					fmt.Fprintf(conn, "total %d", n)
				}
			})
		}
	}()
	b.stop = func() {
		_ = l.Close()
		cancel()
		conns.Wait()
	}
	t.Cleanup(b.stop)
	return b
}

// The gRPC service: Unary answers with what it gets, Both does so for each message of a stream. Both give back the trailer
// "echo" as the caller's header "echo" says.
var echoService = grpc.ServiceDesc{
	ServiceName: "weft.e2e.Echo", HandlerType: (*any)(nil),
	Methods: []grpc.MethodDesc{{MethodName: "Unary", Handler: func(_ any, ctx context.Context, dec func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		in := &wrapperspb.StringValue{}
		if err := dec(in); err != nil {
			return nil, err
		}
		md, _ := metadata.FromIncomingContext(ctx)
		return in, grpc.SetTrailer(ctx, metadata.MD{"echo": md.Get("echo")})
	}},
		// Flaky fails as unavailable twice, then answers, and so on.
		{MethodName: "Flaky", Handler: func(srv any, _ context.Context, dec func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			in := &wrapperspb.StringValue{}
			if err := dec(in); err != nil {
				return nil, err
			}
			if b, ok := srv.(*Backend); ok && b.flaky.Add(1)%3 != 0 {
				return nil, status.Error(codes.Unavailable, "not now")
			}
			return in, nil
		}}},
	Streams: []grpc.StreamDesc{{StreamName: "Both", ServerStreams: true, ClientStreams: true, Handler: func(_ any, s grpc.ServerStream) error {
		for {
			in := &wrapperspb.StringValue{}
			if err := s.RecvMsg(in); errors.Is(err, io.EOF) {
				return nil
			} else if err != nil {
				return err
			}
			if err := s.SendMsg(in); err != nil {
				return err
			}
		}
	}}},
}

func grpcBackend(t *testing.T) *Backend {
	t.Helper()
	b := newBackend("grpc")
	l := b.listen(t)
	server := grpc.NewServer()
	server.RegisterService(&echoService, b)
	go func() { _ = server.Serve(l) }() // ends with Stop
	b.stop = server.Stop
	t.Cleanup(b.stop)
	return b
}
