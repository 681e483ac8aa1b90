// SPDX-License-Identifier: Apache-2.0

package listen

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/emptypb"
)

// nobody is a user who isn't root.
const nobody = 65534

// callAs has a process of another user connect to a port on loopback, say a line, and wait for the end of the connection.
func callAs(t *testing.T, uid uint32, port int) *exec.Cmd {
	t.Helper()
	c := exec.Command("/bin/bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/"+strconv.Itoa(port)+"; echo hi >&3; cat <&3")
	c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	c.Dir = "/"
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	return c
}

func accept(t *testing.T, l net.Listener) net.Conn {
	t.Helper()
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 3)); err != nil {
		t.Fatal(err)
	}
	return c
}

// Who calls by loopback is told by the kernel, for IPv4 and IPv6.
func TestOwner(t *testing.T) {
	for _, addr := range []string{"127.0.0.1:0", "[::1]:0", "[::]:0"} {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			t.Logf("%s: %v", addr, err) // no IPv6 here
			continue
		}
		_, port, _ := net.SplitHostPort(l.Addr().String())
		for _, to := range []string{"127.0.0.1", "::1"} {
			c, err := net.Dial("tcp", net.JoinHostPort(to, port))
			if err != nil {
				continue // that isn't what it listens on
			}
			if _, err := c.Write([]byte("hi\n")); err != nil {
				t.Fatal(err)
			}
			s := accept(t, l)
			if o, err := OwnerOf(s, netip.AddrPort{}); err != nil || o.UID != uint32(os.Getuid()) {
				t.Errorf("%s at %s: %d, %v", to, addr, o.UID, err)
			}
			// What is closed is nobody's, and above all not root's.
			c.Close()
			if _, err := io.ReadAll(s); err != nil {
				t.Fatal(err)
			}
			if o, err := OwnerOf(s, netip.AddrPort{}); !errors.Is(err, ErrNotLocal) {
				t.Errorf("a closed one: %d, %v", o.UID, err)
			}
			s.Close()
		}
		l.Close()
	}
	if o, err := ownerOf(netip.MustParseAddrPort("192.0.2.1:80"), netip.MustParseAddrPort("127.0.0.1:81")); !errors.Is(err, ErrNotLocal) {
		t.Errorf("another host: %d, %v", o.UID, err)
	}
}

func TestOwnerOfOthers(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can be somebody else")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, uid := range []uint32{nobody, 0} {
		p := callAs(t, uid, l.Addr().(*net.TCPAddr).Port)
		s := accept(t, l)
		if got, err := OwnerOf(s, netip.AddrPort{}); err != nil || got.UID != uid {
			t.Errorf("uid %d: %d, %v", uid, got.UID, err)
		}
		s.Close()
		if err := p.Wait(); err != nil {
			t.Error(err)
		}
	}
}

func TestOwnerOfUnixSockets(t *testing.T) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if o, err := OwnerOf(s, netip.AddrPort{}); err != nil || o.UID != uint32(os.Getuid()) {
		t.Error(o, err)
	}
}

// A request's handler learns whose process asks, over TCP and Unix sockets; a context of no request doesn't tell.
func TestCallerOfRequests(t *testing.T) {
	door, err := New(Config{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Caller(t.Context()); err == nil {
		t.Error("nobody asks, and it is told who")
	}
	for _, spec := range []Spec{{Name: "t", Network: "tcp", Address: "127.0.0.1:0"}, {Name: "u", Network: "unix", Address: filepath.Join(t.TempDir(), "s")}} {
		l, err := door.Stream(t.Context(), spec)
		if err != nil {
			t.Fatal(err)
		}
		told := make(chan error, 1)
		check := func(ctx context.Context) {
			o, err := Caller(ctx)
			if err == nil && o.UID != uint32(os.Getuid()) {
				err = fmt.Errorf("uid %d", o.UID)
			}
			told <- err
		}
		rpc := grpc.NewServer(grpc.Creds(GRPCCredentials()), grpc.UnknownServiceHandler(func(_ any, s grpc.ServerStream) error {
			check(s.Context())
			return nil
		}))
		web := door.HTTPServer(spec, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { check(r.Context()) }))
		go func() { _ = web.Serve(l) }() // ends with Close
		client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, l.Addr().Network(), l.Addr().String())
		}}}
		resp, err := client.Get("http://x/")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if err := <-told; err != nil {
			t.Errorf("HTTP over %s: %v", spec.Network, err)
		}
		client.CloseIdleConnections()
		web.Close()

		spec.Name, spec.Address = spec.Name+"2", strings.TrimSuffix(spec.Address, "s")+map[string]string{"unix": "r"}[spec.Network]
		if l, err = door.Stream(t.Context(), spec); err != nil {
			t.Fatal(err)
		}
		go func() { _ = rpc.Serve(l) }() // ends with Stop
		conn, err := grpc.NewClient("passthrough:///x", grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithContextDialer(
			func(ctx context.Context, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, l.Addr().Network(), l.Addr().String())
			}))
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.Invoke(t.Context(), "/a/b", &emptypb.Empty{}, &emptypb.Empty{}) // it is answered by nothing
		if err := <-told; err != nil {
			t.Errorf("gRPC over %s: %v", spec.Network, err)
		}
		conn.Close()
		rpc.Stop()
	}
}
