// SPDX-License-Identifier: Apache-2.0

//go:build linux

package lounge

import (
	"context"
	"crypto/tls"
	"net"
	"testing"
	"time"

	"github.com/weftmesh/weft/internal/run"
)

// opened is a lounge that takes guests in.
func opened(t *testing.T) *Lounge {
	t.Helper()
	l := New()
	g := run.New(context.Background())
	g.Go("lounge", l.Run)
	t.Cleanup(func() {
		if err := g.Stop(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// pair is a connection over loopback.
func pair(t *testing.T) (here, there net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if there, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if here, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = here.Close()
		_ = there.Close()
	})
	return here, there
}

// guest is one whose ends of rests can be waited for.
func guest(conns ...net.Conn) (*Guest, chan struct{}) {
	g, resumed := &Guest{}, make(chan struct{}, 10)
	copy(g.Conns[:], conns)
	g.Resume = func() { resumed <- struct{}{} }
	return g, resumed
}

// rest has a guest rest, as soon as the lounge is open.
func rest(t *testing.T, l *Lounge, g *Guest) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !l.Rest(g); {
		if time.Now().After(end) {
			t.Fatal("it isn't taken in")
		}
	}
}

func TestARestEnds(t *testing.T) {
	for name, end := range map[string]func(*Lounge, *Guest, net.Conn){
		"when something comes":      func(_ *Lounge, _ *Guest, peer net.Conn) { _, _ = peer.Write([]byte("x")) },
		"when the peer ends":        func(_ *Lounge, _ *Guest, peer net.Conn) { _ = peer.Close() },
		"when the peer half closes": func(_ *Lounge, _ *Guest, peer net.Conn) { _ = peer.(*net.TCPConn).CloseWrite() },
		"when the peer resets": func(_ *Lounge, _ *Guest, peer net.Conn) {
			_ = peer.(*net.TCPConn).SetLinger(0)
			_ = peer.Close()
		},
		"by Wake": func(l *Lounge, g *Guest, _ net.Conn) { l.Wake(g) },
	} {
		t.Run(name, func(t *testing.T) {
			l := opened(t)
			here, there := pair(t)
			other, _ := pair(t)
			g, resumed := guest(tls.Server(other, &tls.Config{}), here)
			for _, end := range []func(*Lounge, *Guest, net.Conn){func(l *Lounge, g *Guest, _ net.Conn) { l.Wake(g) }, end} { // again and again
				rest(t, l, g)
				if len(resumed) > 0 {
					t.Fatal("it is resumed, and nothing has come")
				}
				end(l, g, there)
				<-resumed
				if l.Wake(g); len(resumed) > 0 {
					t.Error("it is resumed twice")
				}
			}
		})
	}
}

// What had come before the rest ends it as well.
func TestNothingIsMissed(t *testing.T) {
	l := opened(t)
	here, there := pair(t)
	g, resumed := guest(here)
	if _, err := there.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	rest(t, l, g)
	<-resumed
}

func TestARestHasAnEnd(t *testing.T) {
	l := opened(t)
	for _, after := range []time.Duration{-time.Second, 20 * time.Millisecond} {
		here, _ := pair(t)
		long, stays := guest(here)
		long.Until = time.Now().Add(time.Hour)
		rest(t, l, long)
		other, _ := pair(t)
		g, resumed := guest(other)
		g.Until = time.Now().Add(after)
		rest(t, l, g)
		<-resumed
		if len(stays) > 0 {
			t.Error("one that has an hour was resumed")
		}
	}
}

// A connection that this side closes tells nobody; Sweep finds it, and its guest alone.
func TestSweep(t *testing.T) {
	l := opened(t)
	a, _ := pair(t)
	b, _ := pair(t)
	c, _ := pair(t)
	d, _ := pair(t)
	g, resumed := guest(a, b)
	other, stays := guest(c, d)
	rest(t, l, g)
	rest(t, l, other)
	_ = b.Close()
	l.Sweep()
	<-resumed
	if len(stays) > 0 {
		t.Error("another was resumed")
	}
	if l.Rest(g) {
		t.Error("a closed connection rests")
	}
}

// The end of the lounge resumes all, and it takes nobody any more.
func TestTheLoungeEnds(t *testing.T) {
	l := New()
	g := run.New(context.Background())
	g.Go("lounge", l.Run)
	here, _ := pair(t)
	one, resumed := guest(here)
	rest(t, l, one)
	if err := g.Stop(); err != nil {
		t.Error(err)
	}
	if len(resumed) != 1 {
		t.Error("it still rests")
	}
	if l.Rest(one) {
		t.Error("it rests in a lounge that has ended")
	}
}

// Who is no socket can't rest.
func TestOnlySockets(t *testing.T) {
	l := opened(t)
	here, there := net.Pipe()
	defer here.Close()
	defer there.Close()
	socket, _ := pair(t)
	ready, resumed := guest(socket)
	rest(t, l, ready)
	if g, _ := guest(socket, here); Can(here) || l.Rest(g) {
		t.Error("a pipe rests")
	}
	l.Wake(ready)
	<-resumed
}
