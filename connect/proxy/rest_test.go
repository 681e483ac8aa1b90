// SPDX-License-Identifier: Apache-2.0

//go:build linux

package proxy

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"

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

// exchanged does something on a new connection, after which nothing moves on it; it gives the connection, which the test may go on with.
type exchanged struct {
	name  string
	do    func(t *testing.T, b *bench) net.Conn
	again func(t *testing.T, c net.Conn) // after a rest; nil: nothing more can be done
}

func h1Kinds() []exchanged {
	again := func(t *testing.T, c net.Conn) { ask(t, c, "/again") }
	send := func(text, want string) func(*testing.T, *bench) net.Conn {
		return func(t *testing.T, b *bench) net.Conn {
			c := b.dial()
			for _, piece := range strings.SplitAfter(text, "|") { // one after the other
				if _, err := io.WriteString(c, strings.TrimSuffix(piece, "|")); err != nil {
					t.Fatal(err)
				}
				<-time.After(time.Millisecond)
			}
			resp, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil {
				t.Fatal(err)
			}
			if body, err := io.ReadAll(resp.Body); err != nil || string(body) != want {
				t.Errorf("answered %q, %v", body, err)
			}
			return c
		}
	}
	return []exchanged{
		{"a request", send("GET /1 HTTP/1.1\r\nHost: api\r\n\r\n", "/1"), again},
		{"a body", send("POST /2 HTTP/1.1\r\nHost: api\r\nContent-Length: 4\r\n\r\nbody", "/2"), again},
		{"a body that comes slowly", send("POST /2 HTTP/1.1\r\nHost: api\r\nContent-Length: 4\r\n\r\n|bo|dy", "/2"), again},
		{"chunks", send("POST /3 HTTP/1.1\r\nHost: api\r\nTransfer-Encoding: chunked\r\n\r\n|4\r\nbody\r\n|0\r\n\r\n", "/3"), again},
		{"an answer that is slow", send("GET /slow HTTP/1.1\r\nHost: api\r\n\r\n", "/slow"), again}, // the client is watched for hanging up
		{"an answer that is cut", func(t *testing.T, b *bench) net.Conn {
			c := b.dial()
			if _, err := io.WriteString(c, "GET /cut HTTP/1.1\r\nHost: api\r\n\r\n"); err != nil {
				t.Fatal(err)
			}
			resp, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil || resp.StatusCode != http.StatusBadGateway && resp.StatusCode != http.StatusServiceUnavailable {
				t.Fatalf("%v, %v", resp, err)
			}
			_, _ = io.Copy(io.Discard, resp.Body) // all that is wanted is its end
			return c
		}, again},
	}
}

// Connections rest after every sort of exchange, and go on after the rest.
func TestConnectionsRestAfterAllSortsOfExchanges(t *testing.T) {
	kinds := h1Kinds()
	for _, over := range []string{"h2c", "h2 over TLS"} {
		for _, what := range []string{"a request", "a body", "a request that is given up"} {
			kinds = append(kinds, exchanged{name: over + ": " + what, do: func(t *testing.T, b *bench) net.Conn { return multi(t, b, over == "h2c", what) }})
		}
	}
	kinds = append(kinds, exchanged{"HTTP/1 over TLS", func(t *testing.T, b *bench) net.Conn {
		conf := &tls.Config{Certificates: []tls.Certificate{shown(t)}, MinVersion: tls.VersionTLS13}
		c := tls.Client(b.dialTLS(conf), &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13})
		ask(t, c, "/tls")
		return c
	}, func(t *testing.T, c net.Conn) { ask(t, c, "/again") }})
	for _, k := range kinds {
		for _, detect := range []bool{false, true} {
			t.Run(k.name+map[bool]string{true: ", detected"}[detect], func(t *testing.T) {
				b := newUndeclared(t)
				b.s.Listeners["l"].Detect = detect
				b.upstream("api", fickle)
				b.s.Clusters["api"].Codec = config.HTTP1
				c := k.do(t, b)
				b.resting()
				if k.again != nil {
					k.again(t, c)
					b.resting()
				}
				_ = c.Close()
				b.gone()
			})
		}
	}
}

// fickle is served, but slow for one path, and gone for another.
func fickle(c net.Conn) {
	r := bufio.NewReader(c)
	for {
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		_, _ = io.Copy(io.Discard, req.Body) // it ends with the connection
		switch req.URL.Path {
		case "/cut":
			_ = c.Close()
			return
		case "/slow":
			<-time.After(50 * time.Millisecond)
		}
		fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(req.URL.Path), req.URL.Path)
	}
}

// multi does something over HTTP/2, rests twice in between, and goes on.
func multi(t *testing.T, b *bench, plain bool, what string) net.Conn {
	t.Helper()
	var c net.Conn
	if plain {
		c = b.dial()
	} else {
		cert := shown(t)
		conf := &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"}}
		c = tls.Client(b.dialTLS(conf), &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"}})
	}
	cc, err := (&http2.Transport{AllowHTTP: true}).NewClientConn(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cc.Close() })
	for turn := range 3 {
		ctx, cancel := context.WithCancel(t.Context())
		path, body := "/h2", io.Reader(nil)
		switch what {
		case "a body":
			body = strings.NewReader(strings.Repeat("x", 100<<10))
		case "a request that is given up":
			path = "/slow"
			time.AfterFunc(10*time.Millisecond, cancel)
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://api"+path, body)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := cc.RoundTrip(req)
		if err == nil {
			var got []byte
			got, err = io.ReadAll(resp.Body)
			if string(got) != path {
				t.Errorf("turn %d: answered %q", turn, got)
			}
		}
		if err != nil && what != "a request that is given up" {
			t.Fatal(turn, err)
		}
		cancel()
		b.resting()
	}
	return c
}

// A resting HTTP/2 connection is told that it is over when its listener goes, and ends.
func TestARestingHTTP2ConnectionDrains(t *testing.T) {
	b := httpBench(t)
	b.s.Clusters["api"].Codec = config.HTTP1
	c := multi(t, b, true, "a request")
	b.p.drainListener("l")
	b.gone()
	_ = c.Close()
}

// After a websocket's end nothing of it is left; while it is open and silent it stays.
func TestNothingIsLeftOfAWebsocket(t *testing.T) {
	b := newUndeclared(t)
	b.s.Listeners["l"].Detect = false
	b.upstream("api", func(c net.Conn) {
		if _, err := http.ReadRequest(bufio.NewReader(c)); err != nil {
			return
		}
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		_, _ = io.Copy(c, c)
	})
	c := b.dial()
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: api\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-Websocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(c)
	if resp, err := http.ReadResponse(r, nil); err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("%v, %v", resp, err)
	}
	for range 2 {
		<-time.After(3 * b.p.restAfter)
		if _, err := io.WriteString(c, "hello"); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 5)
		if _, err := io.ReadFull(r, got); err != nil || string(got) != "hello" {
			t.Fatalf("%q, %v", got, err)
		}
	}
	_ = c.Close()
	b.gone()
}
