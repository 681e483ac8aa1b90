// SPDX-License-Identifier: Apache-2.0

//go:build linux

package proxy

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weftmesh/weft/connect/proxy/config"
)

// resting waits until all connections of a bench rest: no turn is on.
func (b *bench) resting() {
	b.t.Helper()
	for end := time.Now().Add(15 * time.Second); ; {
		b.p.mu.Lock()
		on := 0
		for c := range b.p.conns {
			c.mu.Lock()
			if c.end != nil {
				on++
			}
			c.mu.Unlock()
		}
		n := len(b.p.conns)
		b.p.mu.Unlock()
		if n > 0 && on == 0 {
			return
		}
		if time.Now().After(end) {
			b.t.Fatalf("%d of %d connections don't rest", on, n)
		}
		<-time.After(time.Millisecond)
	}
}

// gone waits until no connection is left.
func (b *bench) gone() {
	b.t.Helper()
	for end := time.Now().Add(15 * time.Second); ; {
		b.p.mu.Lock()
		n := len(b.p.conns)
		b.p.mu.Unlock()
		if n == 0 {
			return
		}
		if time.Now().After(end) {
			b.t.Fatalf("%d connections are left", n)
		}
		<-time.After(time.Millisecond)
	}
}

// httpBench serves HTTP to a server that answers with the path.
func httpBench(t *testing.T) *bench {
	b := newUndeclared(t)
	b.s.Listeners["l"].Detect = false
	b.upstream("api", served(new(atomic.Int64)))
	return b
}

// An HTTP connection rests when it is idle, and is served as before when a request comes, also one in two pieces.
func TestHTTPRests(t *testing.T) {
	b := httpBench(t)
	c := b.dial()
	ask(t, c, "/1")
	b.resting()
	ask(t, c, "/2")
	ask(t, c, "/3")
	b.resting()
	for _, piece := range []string{"G", "ET /4 HTTP/1.1\r\nHost: up\r\n\r\nGET /5 HTTP/1.1\r\nHost: up\r\n\r\n"} {
		if _, err := io.WriteString(c, piece); err != nil {
			t.Fatal(err)
		}
	}
	r := bufio.NewReader(c)
	for _, want := range []string{"/4", "/5"} {
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		if body, err := io.ReadAll(resp.Body); err != nil || string(body) != want {
			t.Fatalf("%q, %v", body, err)
		}
	}
	b.resting()
	_ = c.Close()
	b.gone()
}

// A connection that rests is closed when its listener goes, once its client had the time to learn of it.
func TestARestingConnectionDrains(t *testing.T) {
	b := httpBench(t)
	c := b.dial()
	ask(t, c, "/1")
	b.resting()
	b.p.drainListener("l")
	if _, err := c.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("it ends with %v", err)
	}
	b.gone()
}

// A connection that rests is cut when it isn't allowed any more.
func TestARestingConnectionIsDenied(t *testing.T) {
	for name, mk := range map[string]func() (*bench, net.Conn){
		"HTTP": func() (*bench, net.Conn) {
			b := httpBench(t)
			c := b.dial()
			ask(t, c, "/1")
			return b, c
		},
		"TCP": func() (*bench, net.Conn) {
			b := newBench(t, func(l *config.Listener) { l.TCP = &config.TCP{Cluster: "up"} })
			b.upstream("up", says("hi"))
			c := b.dial()
			echo(t, c, "", "hi")
			return b, c
		},
	} {
		t.Run(name, func(t *testing.T) {
			b, c := mk()
			b.resting()
			denied := *b.s.Listeners["l"]
			denied.TLS, denied.Direction = &config.ServerTLS{Config: &tls.Config{}}, config.Inbound // which takes nobody in plain text
			s := *b.s
			s.Listeners = map[string]*config.Listener{"l": &denied}
			b.p.apply(&s)
			if _, err := c.Read(make([]byte, 1)); err == nil || err == io.EOF {
				t.Errorf("it ends with %v, want a reset", err)
			}
			b.gone()
		})
	}
}

// echo sends, and waits for an answer.
func echo(t *testing.T, c net.Conn, text, want string) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != want {
		t.Fatalf("%q, %v", got, err)
	}
}

// A tunnel rests, over TLS too, and goes on from either side, as often as it likes.
func TestATunnelRests(t *testing.T) {
	cert := shown(t)
	server := &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAnyClientCert, MinVersion: tls.VersionTLS13}
	client := &tls.Config{Certificates: []tls.Certificate{cert}, InsecureSkipVerify: true, MinVersion: tls.VersionTLS13}
	b := newBench(t, func(l *config.Listener) {
		l.Direction, l.TLS = config.Inbound, &config.ServerTLS{Config: server, Require: true}
		l.TCP = &config.TCP{Cluster: "up"}
	})
	speak := make(chan string)
	b.upstream("up", func(c net.Conn) {
		go func() {
			for text := range speak {
				_, _ = io.WriteString(c, text) // as long as it is there
			}
		}()
		_, _ = io.Copy(c, c)
	})
	defer close(speak)
	c := tls.Client(b.dialTLS(server), client)
	echo(t, c, "hello", "hello")
	for range 2 {
		b.resting()
		echo(t, c, "again", "again")
		b.resting()
		speak <- "server"
		echo(t, c, "", "server")
		long := strings.Repeat("x", 100<<10)
		echo(t, c, long, long)
	}
	b.resting()
	_ = c.CloseWrite()
	if _, err := c.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the other side's end comes as %v", err)
	}
	_ = c.Close()
	b.gone()
}

// A resting tunnel ends when nothing has moved for as long as is allowed.
func TestARestingTunnelEndsByTime(t *testing.T) {
	b := newBench(t, func(l *config.Listener) { l.TCP = &config.TCP{Cluster: "up", IdleTimeout: 100 * time.Millisecond} })
	b.upstream("up", says("hi"))
	c := b.dial()
	echo(t, c, "", "hi")
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("something came")
	}
	b.gone()
}

// A tunnel that is about to rest, rests or goes on again, whichever it is at the moment, carries everything.
func TestNothingIsLostAroundARest(t *testing.T) {
	b := newBench(t, func(l *config.Listener) { l.TCP = &config.TCP{Cluster: "up"} })
	b.p.restAfter = time.Millisecond
	b.upstream("up", says("hi"))
	var wg sync.WaitGroup
	for w := range 4 {
		c := b.dial()
		echo(t, c, "", "hi")
		wg.Go(func() {
			for i := range 300 {
				<-time.After(time.Duration((i*7+w*3)%40) * 100 * time.Microsecond)
				text, got := strconv.Itoa(i), make([]byte, 8)
				if _, err := io.WriteString(c, text); err != nil {
					t.Error(err)
					return
				}
				if _, err := io.ReadFull(c, got[:len(text)]); err != nil || string(got[:len(text)]) != text {
					t.Errorf("%q came back as %q, %v", text, got, err)
					return
				}
			}
		})
	}
	wg.Wait()
}
