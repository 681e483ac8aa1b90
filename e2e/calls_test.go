// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

var callRows = []Row{
	{Name: "allowed http", Run: allowedHTTP},
	{Name: "allowed http2", Run: func(t *testing.T, w *World) { newPair(t, w, "http2") }},
	{Name: "allowed grpc unary", Run: func(t *testing.T, w *World) { newPair(t, w, "grpc") }},
	{Name: "allowed grpc bidirectional", Run: allowedBoth},
	{Name: "grpc-web", Run: grpcWeb},
	{Name: "allowed tcp", Run: func(t *testing.T, w *World) { newPair(t, w, "tcp") }},
	{Name: "denied http", Run: func(t *testing.T, w *World) { denied(t, w, "http") }},
	{Name: "denied http2", Run: func(t *testing.T, w *World) { denied(t, w, "http2") }},
	{Name: "denied grpc", Run: func(t *testing.T, w *World) { denied(t, w, "grpc") }},
	{Name: "denied tcp", Run: func(t *testing.T, w *World) { denied(t, w, "tcp") }},
}

// allowedHTTP also looks at what the application sees: the trace context is passed on, and who calls can't be made up.
func allowedHTTP(t *testing.T, w *World) {
	p := newPair(t, w, "http")
	const trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	resp, body, err := rawHTTP(p.addr, "GET / HTTP/1.1\r\nHost: api\r\nTraceparent: "+trace+"\r\nConnection: close\r\n\r\n")
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK || string(body) != "api" {
		t.Fatalf("%s %q, want 200 \"api\"", resp.Status, body)
	}
	got := p.backend.header().Get("Traceparent")
	if len(got) != len(trace) || got[:35] != trace[:35] {
		t.Errorf("the application sees traceparent %q, want the trace of %q", got, trace)
	}
	api, _ := p.leaf("api")
	web, cert := p.leaf("web")
	want := fmt.Sprintf("By=%s;Hash=%x;URI=%s", api.ServiceURI, sha256.Sum256(cert.Certificate[0]), web.ServiceURI)
	if got := p.backend.header().Get("X-Forwarded-Client-Cert"); got != want {
		t.Errorf("the application sees its caller as %q, want %q", got, want)
	}
}

func denied(t *testing.T, w *World, protocol string) {
	p := newPair(t, w, protocol)
	p.intend("deny", "other", "api")
	addr := p.caller("other")
	until(t, callWithin, func() error { return isDenied(protocol, addr) })
	if err := call(protocol, p.addr); err != nil {
		t.Errorf("the allowed caller: %v", err)
	}
}

// isDenied wants one call to be refused, in the way of its protocol.
func isDenied(protocol, addr string) error {
	switch protocol {
	case "tcp":
		return refused(addr)
	case "grpc":
		if err := unary(addr, "hello"); status.Code(err) != codes.PermissionDenied {
			return fmt.Errorf("got %w, want PermissionDenied", err)
		}
		return nil
	case "http2":
		return wantStatus(h2c(), "http://"+addr+"/", http.StatusForbidden)
	}
	c, end := h1()
	defer end()
	return wantStatus(c, "http://"+addr+"/", http.StatusForbidden)
}

func dialGRPC(addr string) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDisableRetry())
}

// unary makes one unary call, and wants its message and its trailer back.
func unary(addr, text string) error {
	conn, err := dialGRPC(addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), callWithin)
	defer cancel()
	out := &wrapperspb.StringValue{}
	trailer := metadata.MD{}
	err = conn.Invoke(metadata.AppendToOutgoingContext(ctx, "echo", text), "/weft.e2e.Echo/Unary", wrapperspb.String(text), out, grpc.Trailer(&trailer))
	if err != nil {
		return err
	}
	if got := trailer.Get("echo"); out.GetValue() != text || len(got) != 1 || got[0] != text {
		return fmt.Errorf("answered %q with trailer %q, want both %q", out.GetValue(), got, text)
	}
	return nil
}

// grpcWeb makes a call as a browser does, over HTTP/1.1, in both forms.
func grpcWeb(t *testing.T, w *World) {
	p := newPair(t, w, "grpc")
	const message = "\x00\x00\x00\x00\x07\n\x05hello" // a StringValue
	for _, form := range []string{"application/grpc-web+proto", "application/grpc-web-text+proto"} {
		text := strings.Contains(form, "-text")
		in := message
		if text {
			in = base64.StdEncoding.EncodeToString([]byte(in))
		}
		req, err := http.NewRequest(http.MethodPost, "http://"+p.addr+"/weft.e2e.Echo/Unary", strings.NewReader(in))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", form)
		req.Header.Set("Accept", form)
		req.Header.Set("Echo", "hello")
		c, end := h1()
		defer end()
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		var got []byte
		if text {
			for group := make([]byte, 4); err == nil; { // padding may stand anywhere
				if _, err = io.ReadFull(resp.Body, group); err == nil {
					var b []byte
					b, err = base64.StdEncoding.DecodeString(string(group))
					got = append(got, b...)
				}
			}
		} else {
			got, err = io.ReadAll(resp.Body)
		}
		_ = resp.Body.Close()
		if err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		answer, trailers, _ := strings.Cut(string(got), "\x80")
		if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != form || answer != message ||
			!strings.Contains(trailers, "grpc-status:") || !strings.Contains(trailers, "echo:") {
			t.Errorf("%s: %s %q, %q", form, resp.Status, resp.Header.Get("Content-Type"), got)
		}
	}
}

func allowedBoth(t *testing.T, w *World) {
	p := newPair(t, w, "grpc")
	conn, err := dialGRPC(p.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	s, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/weft.e2e.Echo/Both")
	if err != nil {
		t.Fatal(err)
	}
	for n := range 100 { // each answer is waited for before the next message is sent
		text := fmt.Sprintf("message %d", n)
		if err := s.SendMsg(wrapperspb.String(text)); err != nil {
			t.Fatal(err)
		}
		out := &wrapperspb.StringValue{}
		if err := s.RecvMsg(out); err != nil || out.GetValue() != text {
			t.Fatalf("got %q, %v; want %q", out.GetValue(), err, text)
		}
	}
	if err := s.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if err := s.RecvMsg(&wrapperspb.StringValue{}); !errors.Is(err, io.EOF) {
		t.Fatalf("after the caller's end: %v, want the end of the stream", err)
	}
}
