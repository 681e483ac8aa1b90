// SPDX-License-Identifier: Apache-2.0

//go:build linux

package proxy

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/weftmesh/weft/connect/proxy/config"
	"github.com/weftmesh/weft/internal/listen"
)

// nobody is a user who isn't root.
const nobody = 65534

// TestLocalIdentity: an upstream that is for one user's processes is reset for a process of another, which would call with the service's identity;
// without the bound both get through. A change of the bound cuts who is there.
func TestLocalIdentity(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can be somebody else")
	}
	for _, tc := range []struct {
		local   *listen.Processes
		allowed []int
	}{
		{nil, []int{0, nobody}},
		{&listen.Processes{UIDs: []uint32{0}}, []int{0}},
		{&listen.Processes{UIDs: []uint32{nobody}}, []int{nobody}},
		{&listen.Processes{}, nil},
	} {
		b := newBench(t, func(l *config.Listener) {
			l.Direction, l.TCP, l.Local = config.Outbound, &config.TCP{Cluster: "api"}, tc.local
		})
		b.upstream("api", func(c net.Conn) { fmt.Fprintln(c, "served") })
		for _, uid := range []int{0, nobody} {
			want := false
			for _, a := range tc.allowed {
				want = want || a == uid
			}
			if got := b.callAs(uid); (got == "served") != want {
				t.Errorf("%+v, uid %d: %q", tc.local, uid, got)
			}
		}
	}
}

// callAs has a process of a user call the proxy, and gives what it was answered.
func (b *bench) callAs(uid int) string {
	b.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.t.Fatal(err)
	}
	defer l.Close()
	var out strings.Builder
	c := exec.Command("/bin/bash", "-c", fmt.Sprintf("exec 3<>/dev/tcp/127.0.0.1/%d; head -c 6 <&3", l.Addr().(*net.TCPAddr).Port))
	c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}
	c.Dir, c.Stdout = "/", &out
	if err := c.Start(); err != nil {
		b.t.Fatal(err)
	}
	conn, err := l.Accept()
	if err != nil {
		b.t.Fatal(err)
	}
	var work sync.WaitGroup
	work.Go(func() { b.p.serve(context.Background(), b.g, conn, "l", b.s.Listeners["l"]) })
	_ = c.Wait() // a reset is an error of its own
	work.Wait()
	return strings.TrimSpace(out.String())
}

func TestLocalIdentityIsAskedForAgain(t *testing.T) {
	b := newBench(t, func(l *config.Listener) { l.Direction, l.TCP = config.Outbound, &config.TCP{Cluster: "api"} })
	b.upstream("api", says("hi"))
	client := b.dial()
	if _, err := client.Read(make([]byte, 2)); err != nil {
		t.Fatal(err)
	}
	other := *b.s.Listeners["l"]
	other.Local = &listen.Processes{UIDs: []uint32{uint32(os.Getuid())}}
	set := func(l config.Listener) {
		b.s = &config.Snapshot{Listeners: map[string]*config.Listener{"l": &l}, Clusters: b.s.Clusters, Routes: b.s.Routes}
		b.p.apply(b.s)
	}
	set(other) // it is one of them
	if _, err := client.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	other.Local = &listen.Processes{UIDs: []uint32{uint32(os.Getuid()) + 1}}
	set(other)
	if n, err := client.Read(make([]byte, 1)); err == nil {
		t.Errorf("it goes on: %d", n)
	}
}
