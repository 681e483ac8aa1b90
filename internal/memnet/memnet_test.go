// SPDX-License-Identifier: Apache-2.0

package memnet

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

func TestNamesAreTakenAndFreed(t *testing.T) {
	n := New()
	l, err := n.Listen("a")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.Listen("a"); !errors.Is(err, syscall.EADDRINUSE) {
		t.Fatal(err)
	}
	l.Close()
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Fatal(err)
	}
	if _, err := n.DialContext(t.Context(), "a"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Fatal(err)
	}
	if _, err := n.Listen("a"); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Listen(""); err == nil {
		t.Fatal("the empty name was taken")
	}
}

func TestFullBacklogBlocksTheDialUntilItsContextEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New()
		l, err := n.Listen("a")
		if err != nil {
			t.Fatal(err)
		}
		var conns []net.Conn
		for range backlog {
			c, err := n.DialContext(t.Context(), "a")
			if err != nil {
				t.Fatal(err)
			}
			conns = append(conns, c)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := n.DialContext(ctx, "a"); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		l.Close()
		for _, c := range conns {
			if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Fatal(err)
			}
		}
	})
}

func TestHTTP1AndHTTP2(t *testing.T) {
	for _, proto := range []string{"HTTP/1.1", "HTTP/2.0"} {
		t.Run(proto, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := New()
				l, err := n.Listen("web:80")
				if err != nil {
					t.Fatal(err)
				}
				srv := &http.Server{Protocols: new(http.Protocols), ReadHeaderTimeout: time.Second}
				srv.Protocols.SetHTTP1(true)
				srv.Protocols.SetUnencryptedHTTP2(true)
				srv.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					time.Sleep(time.Minute) // virtual: a blocking query
					body, err := io.ReadAll(r.Body)
					if err != nil {
						t.Error(err)
					}
					io.WriteString(w, r.Proto)
					w.Write(body)
				})
				done := make(chan error)
				go func() { done <- srv.Serve(l) }()
				tr := &http.Transport{
					DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) { return n.DialContext(ctx, addr) },
					Protocols:   new(http.Protocols),
				}
				tr.Protocols.SetHTTP1(proto == "HTTP/1.1")
				tr.Protocols.SetUnencryptedHTTP2(proto == "HTTP/2.0")
				body := strings.Repeat("x", 200_000)
				resp, err := (&http.Client{Transport: tr}).Post("http://web:80/", "text/plain", strings.NewReader(body))
				if err != nil {
					t.Fatal(err)
				}
				got, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if err != nil || string(got) != proto+body {
					t.Fatalf("%d bytes, %v", len(got), err)
				}
				tr.CloseIdleConnections()
				if err := srv.Shutdown(t.Context()); err != nil {
					t.Fatal(err)
				}
				if err := <-done; !errors.Is(err, http.ErrServerClosed) {
					t.Fatal(err)
				}
			})
		})
	}
}

func TestGRPCStreamsAndEndsWithTheBubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New()
		l, err := n.Listen("grpc")
		if err != nil {
			t.Fatal(err)
		}
		hs := health.NewServer()
		srv := grpc.NewServer()
		healthpb.RegisterHealthServer(srv, hs)
		go srv.Serve(l) //nolint:errcheck // ends by Stop
		cc, err := grpc.NewClient("passthrough:///grpc", grpc.WithContextDialer(n.DialContext),
			grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		stream, err := healthpb.NewHealthClient(cc).Watch(t.Context(), &healthpb.HealthCheckRequest{Service: "s"})
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []healthpb.HealthCheckResponse_ServingStatus{healthpb.HealthCheckResponse_SERVICE_UNKNOWN, healthpb.HealthCheckResponse_SERVING} {
			got, err := stream.Recv()
			if err != nil || got.Status != want {
				t.Fatal(got, err)
			}
			hs.SetServingStatus("s", healthpb.HealthCheckResponse_SERVING)
		}
		cc.Close()
		srv.Stop()
	})
}

func TestPacketsArriveOrAreLostButNeverBlock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New()
		a, err := n.ListenPacket("a:1")
		if err != nil {
			t.Fatal(err)
		}
		b, err := n.ListenPacket("b:1")
		if err != nil {
			t.Fatal(err)
		}
		for i := range packetQueue + 10 {
			if _, err := a.WriteTo([]byte{byte(i), byte(i >> 8)}, b.LocalAddr()); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := a.WriteTo([]byte("x"), Addr("nobody")); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 100)
		for i := range packetQueue {
			k, from, err := b.ReadFrom(buf)
			if err != nil || k != 2 || from.String() != "a:1" || int(buf[0])|int(buf[1])<<8 != i {
				t.Fatal(i, k, from, err)
			}
		}
		b.SetDeadline(time.Now().Add(time.Second))
		if _, _, err := b.ReadFrom(buf); err == nil {
			t.Fatal("a packet above the queue's length arrived")
		}
		b.SetDeadline(time.Time{})
		time.AfterFunc(time.Second, func() { b.Close() })
		if _, _, err := b.ReadFrom(buf); !errors.Is(err, net.ErrClosed) {
			t.Fatal(err)
		}
		if _, err := a.WriteTo(make([]byte, maxPacket+1), Addr("b:1")); !errors.Is(err, syscall.EMSGSIZE) {
			t.Fatal(err)
		}
		a.Close()
	})
}
