// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"context"
	"errors"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/weftmesh/weft/connect/proxy/stream"
)

// forward is the smallest proxy: every exchange goes to the client that pick gives.
func forward(pick func() *Client) stream.Handler {
	return func(x stream.ServerExchange) {
		y, err := pick().Open(x.Context())
		if err != nil {
			x.Reset(stream.CodeRefused)
			return
		}
		defer y.Close()
		unhook := context.AfterFunc(x.Context(), func() { y.Reset(stream.CodeCancel) })
		defer unhook()
		req := x.Request()
		if y.WriteHead(req, req.Length == 0) != nil {
			x.Reset(stream.CodeRefused)
			return
		}
		var wg sync.WaitGroup
		wg.Go(func() { pump(x, y) })
		defer wg.Wait()
		if err := back(x, y); err != nil {
			code := stream.CodeInternal
			var re *stream.ResetError
			if errors.As(err, &re) {
				code = re.Code
			}
			x.Reset(code)
			y.Reset(stream.CodeCancel)
		}
	}
}

func pump(x stream.ServerExchange, y stream.ClientExchange) {
	if x.Request().Length == 0 {
		_ = y.Flush()
		return
	}
	b := make([]byte, 16<<10)
	for {
		n, err := x.ReadBody(b)
		if err == io.EOF {
			_ = y.Finish(x.Trailers())
			return
		}
		if err != nil {
			y.Reset(stream.CodeCancel)
			return
		}
		if y.WriteBody(b[:n]) != nil {
			return
		}
		if x.Buffered() == 0 {
			_ = y.Flush()
		}
	}
}

func back(x stream.ServerExchange, y stream.ClientExchange) error {
	var h stream.ResponseHead
	for {
		if err := y.ReadHead(&h); err != nil {
			return err
		}
		if h.Status >= 200 || h.Status == 101 {
			break
		}
		if err := x.WriteInformational(&h); err != nil {
			return err
		}
	}
	end := h.Length == 0 && !h.HasLength // END_STREAM on the head: gRPC's trailers-only must leave so too
	if err := x.WriteHead(&h, end); err != nil {
		return err
	}
	b := make([]byte, 16<<10)
	for {
		if y.Buffered() == 0 {
			if err := x.Flush(); err != nil {
				return err
			}
		}
		n, err := y.ReadBody(b)
		if err == io.EOF {
			return x.Finish(y.Trailers())
		}
		if err != nil {
			return err
		}
		if err := x.WriteBody(b[:n]); err != nil {
			return err
		}
	}
}

type echoService struct{}

type bytesValue = wrapperspb.BytesValue

func (echoService) unary(ctx context.Context, in *bytesValue) (*bytesValue, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	switch string(in.Value) {
	case "fail":
		return nil, status.Error(codes.FailedPrecondition, "as asked: äöü")
	case "wait":
		<-ctx.Done()
		return nil, ctx.Err()
	case "deadline":
		d, ok := ctx.Deadline()
		return &bytesValue{Value: []byte(strconv.FormatBool(ok && time.Until(d) < time.Minute))}, nil
	}
	_ = grpc.SetHeader(ctx, metadata.Pairs("x-got", strings.Join(md.Get("x-sent"), ","), "bin-bin", "\x00\x01"))
	_ = grpc.SetTrailer(ctx, metadata.Pairs("x-trailer", "t"))
	return in, nil
}

var echoDesc = grpc.ServiceDesc{
	ServiceName: "weft.test.Echo",
	HandlerType: (*any)(nil),
	Methods: []grpc.MethodDesc{{MethodName: "Unary", Handler: func(srv any, ctx context.Context, dec func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		in := new(bytesValue)
		if err := dec(in); err != nil {
			return nil, err
		}
		return srv.(echoService).unary(ctx, in)
	}}},
	Streams: []grpc.StreamDesc{{StreamName: "Bidi", ServerStreams: true, ClientStreams: true, Handler: func(_ any, s grpc.ServerStream) error {
		for {
			in := new(bytesValue)
			if err := s.RecvMsg(in); err != nil {
				if err == io.EOF {
					return nil
				}
				return err
			}
			if err := s.SendMsg(in); err != nil {
				return err
			}
		}
	}}},
}

func grpcThroughProxy(t *testing.T) *grpc.ClientConn {
	ln := tcpListen(t)
	srv := grpc.NewServer()
	srv.RegisterService(&echoDesc, echoService{})
	go func() { _ = srv.Serve(ln) }()
	t.Cleanup(srv.Stop)
	up := clientTo(t, ln.Addr().String(), ClientConfig{})
	addr := serveOn(t, ServerConfig{}, forward(func() *Client { return up }))
	cc, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, a string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", a)
		}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cc.Close() })
	return cc
}

func TestGRPC(t *testing.T) {
	cc := grpcThroughProxy(t)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	call := func(ctx context.Context, in string, opts ...grpc.CallOption) (string, error) {
		out := new(bytesValue)
		err := cc.Invoke(ctx, "/weft.test.Echo/Unary", &bytesValue{Value: []byte(in)}, out, opts...)
		return string(out.Value), err
	}
	t.Run("unary with metadata", func(t *testing.T) {
		var h, tr metadata.MD
		got, err := call(metadata.AppendToOutgoingContext(ctx, "x-sent", "1"), "hi", grpc.Header(&h), grpc.Trailer(&tr))
		if err != nil || got != "hi" || h.Get("x-got")[0] != "1" || h.Get("bin-bin")[0] != "\x00\x01" || tr.Get("x-trailer")[0] != "t" {
			t.Fatal(got, err, h, tr)
		}
	})
	t.Run("status in trailers only", func(t *testing.T) {
		_, err := call(ctx, "fail")
		if s := status.Convert(err); s.Code() != codes.FailedPrecondition || s.Message() != "as asked: äöü" {
			t.Fatal(err)
		}
	})
	t.Run("unknown method", func(t *testing.T) {
		err := cc.Invoke(ctx, "/weft.test.Echo/Nope", &bytesValue{}, new(bytesValue))
		if status.Code(err) != codes.Unimplemented {
			t.Fatal(err)
		}
	})
	t.Run("deadline", func(t *testing.T) {
		if got, err := call(ctx, "deadline"); err != nil || got != "true" {
			t.Fatal(got, err)
		}
		short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		defer cancel()
		if _, err := call(short, "wait"); status.Code(err) != codes.DeadlineExceeded {
			t.Fatal(err)
		}
	})
	t.Run("big messages at once", func(t *testing.T) {
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				in := strings.Repeat(strconv.Itoa(i), 1<<20)
				if got, err := call(ctx, in); err != nil || got != in {
					t.Errorf("%d: %v, %d bytes", i, err, len(got))
				}
			})
		}
		wg.Wait()
	})
	t.Run("bidi", func(t *testing.T) { grpcBidi(ctx, t, cc) })
}

func grpcBidi(ctx context.Context, t *testing.T, cc *grpc.ClientConn) {
	s, err := cc.NewStream(ctx, &echoDesc.Streams[0], "/weft.test.Echo/Bidi")
	if err != nil {
		t.Fatal(err)
	}
	for i := range 200 {
		in := strings.Repeat("x", i*97)
		if err := s.SendMsg(&bytesValue{Value: []byte(in)}); err != nil {
			t.Fatal(err)
		}
		out := new(bytesValue)
		if err := s.RecvMsg(out); err != nil || string(out.Value) != in {
			t.Fatalf("message %d: %v", i, err)
		}
	}
	if err := s.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if err := s.RecvMsg(new(bytesValue)); err != io.EOF {
		t.Fatal(err)
	}
}
