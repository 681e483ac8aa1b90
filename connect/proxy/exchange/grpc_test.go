// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/weftmesh/weft/connect/proxy/config"
	"github.com/weftmesh/weft/connect/proxy/h2"
	"github.com/weftmesh/weft/connect/proxy/reason"
	"github.com/weftmesh/weft/connect/proxy/stream"
)

type message = wrapperspb.StringValue

// grpcUpstream has a unary method, which fails or waits where it is told to, and a stream that echoes.
func grpcUpstream(t *testing.T) (string, *grpc.Server) {
	t.Helper()
	unary := func(_ any, ctx context.Context, dec func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		in := new(message)
		if err := dec(in); err != nil {
			return nil, err
		}
		_ = grpc.SetTrailer(ctx, metadata.Pairs("x-trailer", "t"))
		switch in.Value {
		case "fail":
			return nil, status.Error(codes.FailedPrecondition, "as asked")
		case "wait":
			<-ctx.Done()
			return nil, ctx.Err()
		}
		return in, nil
	}
	echo := func(_ any, s grpc.ServerStream) error {
		for {
			m := new(message)
			if err := s.RecvMsg(m); err != nil {
				if errors.Is(err, io.EOF) {
					return nil
				}
				return err
			}
			if m.Value == "stop" {
				return status.Error(codes.Aborted, "stopped")
			}
			if err := s.SendMsg(m); err != nil {
				return err
			}
		}
	}
	s := grpc.NewServer()
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: "t.Echo", HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{MethodName: "Unary", Handler: unary}},
		Streams: []grpc.StreamDesc{{StreamName: "Bidi", ServerStreams: true, ClientStreams: true, Handler: echo}},
	}, nil)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.Serve(l) })
	t.Cleanup(func() { s.Stop(); wg.Wait() })
	return l.Addr().String(), s
}

func dialGRPC(t *testing.T, addr string) *grpc.ClientConn {
	t.Helper()
	c, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

var bidi = &grpc.StreamDesc{StreamName: "Bidi", ServerStreams: true, ClientStreams: true}

func TestGRPC(t *testing.T) {
	addr, _ := grpcUpstream(t)
	r := newRig(t, nil, addr)
	c := dialGRPC(t, r.addr)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			out, trailer := new(message), metadata.MD{}
			if err := c.Invoke(ctx, "/t.Echo/Unary", wrapperspb.String("hi"), out, grpc.Trailer(&trailer)); err != nil || out.Value != "hi" || len(trailer["x-trailer"]) != 1 {
				t.Error(err, out, trailer)
			}
		})
	}
	wg.Wait()
	if err := c.Invoke(ctx, "/t.Echo/Unary", wrapperspb.String("fail"), new(message)); status.Code(err) != codes.FailedPrecondition {
		t.Error(err)
	}
	short, end := context.WithTimeout(ctx, 50*time.Millisecond)
	defer end()
	if err := c.Invoke(short, "/t.Echo/Unary", wrapperspb.String("wait"), new(message)); status.Code(err) != codes.DeadlineExceeded {
		t.Error(err)
	}
	s, err := c.NewStream(ctx, bidi, "/t.Echo/Bidi")
	if err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		in, out := wrapperspb.String(strings.Repeat("x", i*977)), new(message)
		if err := s.SendMsg(in); err != nil {
			t.Fatal(err)
		}
		if err := s.RecvMsg(out); err != nil || out.Value != in.Value {
			t.Fatal(i, err)
		}
	}
	if err := s.SendMsg(wrapperspb.String("stop")); err != nil {
		t.Fatal(err)
	}
	if err := s.RecvMsg(new(message)); status.Code(err) != codes.Aborted {
		t.Error(err)
	}
	r.put(func(s *config.Snapshot) {
		route := *routeOf(s)
		f := *route.Forward
		f.Timeout = 30 * time.Millisecond
		route.Forward = &f
		s.Routes["routes"] = &config.RouteTable{Hosts: []*config.VirtualHost{{Domains: []string{"*"}, Routes: []*config.Route{&route}}}}
	})
	if err := c.Invoke(ctx, "/t.Echo/Unary", wrapperspb.String("wait"), new(message)); status.Code(err) != codes.DeadlineExceeded {
		t.Error(err)
	}
}

func TestGRPCServersStopWithoutAFailedCall(t *testing.T) {
	first, stopping := grpcUpstream(t)
	second, _ := grpcUpstream(t)
	r := newRig(t, nil, first, second)
	c := dialGRPC(t, r.addr)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range 100 {
				if err := c.Invoke(ctx, "/t.Echo/Unary", wrapperspb.String("hi"), new(message)); err != nil {
					t.Error(i, err)
					return
				}
			}
		})
	}
	stopping.GracefulStop()
	wg.Wait()
}

// A server that stops leaves connections that nobody has accepted, or closes them before it has said a word: no call is lost with these.
func TestGRPCConnectionsThatNobodyTook(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	stopping := &closesFirst{Listener: l}
	stopping.left.Store(math.MaxInt32)
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = stopping.Accept() })
	t.Cleanup(func() { _ = l.Close(); wg.Wait() })
	second, _ := grpcUpstream(t)
	r := newRig(t, nil, l.Addr().String(), second)
	c := dialGRPC(t, r.addr)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for i := range 50 {
		if err := c.Invoke(ctx, "/t.Echo/Unary", wrapperspb.String("hi"), new(message)); err != nil {
			t.Error(i, err)
		}
	}
	if stopping.left.Load() == math.MaxInt32 {
		t.Error("no connection was closed")
	}
}

// closesFirst closes so many connections as a server does that is stopping: their clients have begun, and it hasn't said a word.
type closesFirst struct {
	net.Listener
	left atomic.Int32
}

func (l *closesFirst) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil || l.left.Add(-1) < 0 {
			return conn, err
		}
		_, _ = io.ReadAtLeast(conn, make([]byte, 4096), 24) // HTTP/2's preface
		_ = conn.Close()
	}
}

// Where its successor has the same address, the call goes there.
func TestHTTP2ConnectionThatNobodyTookAtTheOnlyAddress(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	stopped := &closesFirst{Listener: l}
	stopped.left.Store(2)
	serveOn(t, stopped, echo)
	r := newRig(t, nil, l.Addr().String())
	resp, err := client(t, 2).Post(r.url("/"), "text/plain", strings.NewReader("hi"))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != 200 || stopped.left.Load() >= 0 {
		t.Errorf("%d %.200q %v, %d left to close", resp.StatusCode, body, err, stopped.left.Load())
	}
}

// tlsUpstream gives an address and the roots to trust.
func tlsUpstream(t *testing.T) (string, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"api.test"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, _ := x509.ParseCertificate(der)
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	s := httptest.NewUnstartedServer(echo)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.Listener.Addr().String(), pool
}

func TestTLSUpstreamsAndIdentityChange(t *testing.T) {
	versions(t, func(t *testing.T, down int, up config.Codec) {
		addr, roots := tlsUpstream(t)
		with := func(id string, roots *x509.CertPool) func(*config.Snapshot) {
			return func(s *config.Snapshot) {
				c := *s.Clusters["api"]
				c.Codec = up
				c.TLS = &config.ClientTLS{Identity: id, Config: &tls.Config{ServerName: "api.test", RootCAs: roots}}
				s.Clusters["api"] = &c
			}
		}
		r := newRig(t, with("one", roots), addr)
		c := client(t, down)
		opened := &r.metrics.Outbound("api").opened
		for range 3 {
			if resp, _ := get(t, c, r.url("/")); resp.StatusCode != 200 {
				t.Fatal(resp.Status)
			}
		}
		// How many there are for one identity isn't certain: the client may have its answer, and ask again, before the connection
		// is back in its pool.
		before := opened[Connected].Load()
		r.put(with("two", roots))
		if resp, _ := get(t, c, r.url("/")); resp.StatusCode != 200 {
			t.Fatal(resp.Status)
		}
		if n := opened[Connected].Load(); before < 1 || n != before+1 {
			t.Errorf("%d connections before the identity changed, %d after one more request", before, n)
		}
		r.put(with("three", x509.NewCertPool()))
		resp, _ := get(t, c, r.url("/"))
		wantReason(t, resp, 503, reason.UpstreamTLSFailure)
	})
}

func TestConnectTriesAnother(t *testing.T) {
	r := newRig(t, nil, dead(t), upstream(t, echo))
	for range 6 {
		up, code, err := r.e.Connect(t.Context(), "api", nil)
		if err != nil {
			t.Fatal(code, err)
		}
		up.Count(1, 2)
		up.Done()
		up.Done()
	}
	edge := r.metrics.Outbound("api")
	if edge.open.Load() != 0 || edge.opened[Connected].Load() != 6 || edge.bytes[1].Load() != 12 {
		t.Error(edge.open.Load(), edge.opened[Connected].Load(), edge.bytes[1].Load())
	}
	if _, code, err := r.e.Connect(t.Context(), "none", nil); code != reason.NoCluster || err == nil {
		t.Error(code, err)
	}
}

// TestWebsocketFromHTTP1ToHTTP2 has an extended CONNECT on the upstream's side.
func TestWebsocketFromHTTP1ToHTTP2(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() { _ = l.Close(); wg.Wait() })
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	wg.Go(func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		_ = h2.Serve(ctx, conn, h2.ServerConfig{}, func(x stream.ServerExchange) {
			if x.Request().Upgrade != "websocket" {
				t.Error(x.Request())
			}
			_ = x.WriteHead(&stream.ResponseHead{Status: 101, Upgrade: "websocket"}, false)
			_ = x.Flush()
			b := make([]byte, 100)
			for {
				n, err := x.ReadBody(b)
				if err != nil {
					_ = x.Finish(nil)
					return
				}
				_ = x.WriteBody(b[:n])
				_ = x.Flush()
			}
		})
	})
	r := newRig(t, codec(config.HTTP2), l.Addr().String())
	req, _ := http.NewRequestWithContext(t.Context(), "GET", r.url("/ws"), nil)
	req.Header = http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Key": {"dGhlIHNhbXBsZSBub25jZQ=="}, "Sec-Websocket-Version": {"13"}}
	c := client(t, 1)
	c.Timeout = 0
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != 101 || resp.Header.Get("Sec-Websocket-Accept") != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" {
		t.Fatal(resp.Status, resp.Header)
	}
	rw := resp.Body.(io.ReadWriteCloser)
	defer rw.Close()
	for range 3 {
		_, _ = rw.Write([]byte("ping"))
		b := make([]byte, 4)
		if _, err := io.ReadFull(rw, b); err != nil || string(b) != "ping" {
			t.Fatal(string(b), err)
		}
	}
}
